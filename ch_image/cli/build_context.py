"""What a build reads: the Dockerfile and the context, from wherever the command line says."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack

from ch_image.cli.session import Session, working_directory
from ch_image.errors import BuildError, UsageError, printable

MAX_DOCKERFILE = 4 << 20  # bytes


def find_input(session: Session, stack: ExitStack) -> tuple[str, bytes, str | None]:
    """Path and text of the Dockerfile, and the directory that is the context, if there is one.

    What has to be unpacked for it goes when ``stack`` ends. Raises BuildError, UsageError.
    """
    word, cwd = session.words[0], working_directory()
    given = session.parsed.text("file")
    if "://" in word or "@" in word or word.startswith("github.com/"):
        found = _fetched(session, stack, word, given)
        if found is not None:
            return found
    if word != "-":
        context = _directory(word, cwd)
        return *read_dockerfile(given, context, cwd), context
    if given == "-":
        raise UsageError("-f - and context - both stand for standard input")
    head = _read_input()
    if _is_archive(head):
        session.enter()
        context = _unpacked(session, stack, head)
        return *read_dockerfile(given, context, context), context
    if given:
        raise UsageError("standard input is no tar archive, so -f cannot choose a Dockerfile")
    return "-", head, None


def _fetched(
    session: Session, stack: ExitStack, word: str, given: str
) -> tuple[str, bytes, str | None] | None:
    """What a URL gives; None for the name of a directory here."""
    from ch_image.cli.build_remote import fetch_context, is_url

    if word.startswith("github.com/") and not os.path.isdir(word):
        word = f"https://{word}"
        if ".git" not in word:
            path, mark, ref = word.partition("#")
            word = f"{path}.git{mark}{ref}"
    if not is_url(word):
        return None
    found = fetch_context(session, stack, word)
    if found.directory:
        return *read_dockerfile(given, found.directory, ""), found.directory
    if given:
        raise UsageError("the context is no archive but one file, so -f cannot choose another")
    with open(found.file, "rb") as file:
        return "-", _bounded(file.read(MAX_DOCKERFILE + 1)), None


def _directory(word: str, cwd: str) -> str:
    path = os.path.normpath(os.path.join(cwd, word))
    if not os.path.isdir(path):
        what = "is not a directory" if os.path.lexists(path) else "does not exist"
        raise BuildError(
            f"the context {what}: {printable(word, 300)}",
            hint="the last word is the directory that COPY takes files from, often .",
        )
    return path


def read_dockerfile(given: str, context: str, base: str) -> tuple[str, bytes]:
    """Path and text of the Dockerfile: ``given`` below ``base``, else the context's own.

    The context's own, and without ``base`` also ``given``, is resolved inside the context, as
    COPY's sources are. Raises BuildError.
    """
    if given == "-":
        return "-", _read_input()
    name = given or "Dockerfile"
    inside = not (given and base)
    path = f"{context}/{name}" if inside else os.path.normpath(os.path.join(base, given))
    try:
        if not inside:
            with open(path, "rb") as file:
                text = file.read(MAX_DOCKERFILE + 1)
        else:
            from ch_image.fs.tree import Tree

            with Tree(context) as tree:
                try:
                    text = tree.read_bytes(name, MAX_DOCKERFILE + 1)
                except FileNotFoundError:
                    if given or not tree.exists("dockerfile"):
                        raise
                    path = f"{context}/dockerfile"  # as Docker does
                    text = tree.read_bytes("dockerfile", MAX_DOCKERFILE + 1)
    except OSError as error:
        reason = error.strerror or str(error)
        raise BuildError(
            f"cannot read the Dockerfile {printable(path)}: {reason}",
            hint="name it with -f" if not given else "",
        ) from None
    return path, _bounded(text)


def _read_input() -> bytes:
    if sys.stdin is None:
        raise UsageError("standard input is closed")
    return _bounded_or_archive(sys.stdin.buffer.read(MAX_DOCKERFILE + 1))


def _bounded_or_archive(text: bytes) -> bytes:
    return text if _is_archive(text) else _bounded(text)


def _bounded(text: bytes) -> bytes:
    if len(text) > MAX_DOCKERFILE:
        raise BuildError(f"the Dockerfile is larger than {MAX_DOCKERFILE >> 20} MiB")
    return text


def _is_archive(head: bytes) -> bool:
    """Whether standard input is a tar archive, plain or compressed, and no text."""
    from ch_image.layers.compress import compression_of

    return bool(compression_of(head[:16])) or head[257:262] == b"ustar"


def _unpacked(session: Session, stack: ExitStack, head: bytes) -> str:
    """The archive on standard input, of which ``head`` was read already, as a directory."""
    from ch_image.formats.archive import Joined, unpack

    scratch = stack.enter_context(session.storage.scratch())
    directory = f"{scratch}/context"
    os.mkdir(directory, 0o755)
    unpack(Joined(head, sys.stdin.buffer), directory)
    return directory
