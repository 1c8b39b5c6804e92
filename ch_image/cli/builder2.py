"""ch-builder2tar, ch-builder2squash: Charliecloud's names of 2020 for what ch-convert does."""

from __future__ import annotations

import os
import sys

from ch_image import __version__
from ch_image.cli import options
from ch_image.cli.convert import convert
from ch_image.cli.faults import Frame, run_program
from ch_image.errors import UsageError, printable

_BUILDERS = ("ch-image", "docker", "podman")
_NAMED = {"/": "%", ":": "+"}  # in the name of a file
_NO_OPTIONS = "for options of mksquashfs give it a directory that ch-convert has made"
OPTIONS = (
    options.value("-b --builder", "BUILDER", "who has the image: ch-image (default), docker or"
                  " podman", choices=_BUILDERS),
    options.value("-s --storage", "DIR", "storage directory (CH_IMAGE_STORAGE)"),
    options.flag("--nocompress", "ch-builder2tar: don't compress the archive"),
    options.count("-v --verbose", "say more; repeatable"),
    options.flag("-h --help", "show this text"),
    options.flag("--version", "print the version"),
)  # fmt: skip


def tar() -> int:
    """The program ``ch-builder2tar``; its exit code."""
    return _program("ch-builder2tar", "tar")


def squash() -> int:
    """The program ``ch-builder2squash``; its exit code."""
    return _program("ch-builder2squash", "squash")


def _program(name: str, kind: str) -> int:
    return run_program(lambda frame: _run(name, kind, sys.argv[1:], dict(os.environ), frame))


def _run(name: str, kind: str, argv: list[str], env: dict[str, str], frame: Frame) -> int:
    about = (
        f"Writes IMAGE into the directory OUTDIR and prints the file's name: ch-convert -o {kind}."
    )
    command = options.Command(name, "IMAGE OUTDIR", about, OPTIONS, lambda _: 0)
    try:
        parsed, _ = options.parse(argv, OPTIONS)
    except UsageError as error:
        error.hint = error.hint if kind == "tar" else f"{error.hint}; {_NO_OPTIONS}"
        raise
    if parsed.has("help"):
        print(options.help_text(name, command))
        return 0
    if parsed.has("version"):
        print(__version__)
        return 0
    if kind == "squash" and len(parsed.words) > 2:
        raise UsageError(
            f"no options of mksquashfs are taken: {printable(parsed.words[2], 60)}",
            hint=_NO_OPTIONS,
        )
    command.check_operands(parsed.words)
    image, directory = parsed.words
    if not os.path.isdir(directory):
        raise UsageError(f"OUTDIR is no directory: {printable(directory, 300)}")
    ending = "sqfs" if kind == "squash" else "tar" if parsed.has("nocompress") else "tar.gz"
    file = "".join(_NAMED.get(letter, letter) for letter in image)
    path = os.path.join(os.path.abspath(directory), f"{file}.{ending}")
    words = ["-i", parsed.text("builder", "ch-image"), "-o", kind, *_passed_on(parsed)]
    code = convert([*words, image, path], env, frame)
    print(path)
    return code


def _passed_on(parsed: options.Parsed) -> list[str]:
    storage = ["-s", parsed.text("storage")] if parsed.has("storage") else []
    return [*storage, *(["-v"] * parsed.count("verbose") or ["-q"])]
