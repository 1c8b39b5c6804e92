"""ch-convert: images from one format to another."""

from __future__ import annotations

import os
import sys

from ch_image import __version__
from ch_image.cli import options
from ch_image.cli.faults import Frame, run_program
from ch_image.cli.log import Log
from ch_image.cli.session import COMMON, Session, carry_out
from ch_image.errors import UsageError, printable

_SHARED = ("help", "storage", "xattrs", "no-lock", "debug", "quiet", "verbose", "version")
_DAEMONS = frozenset({"docker", "podman"})
OPTIONS = (
    options.value("-i --in-fmt", "FMT", "format of IN, instead of guessing it from the name"),
    options.value("-o --out-fmt", "FMT", "format of OUT"),
    options.flag("-n --dry-run", "only say what the formats are"),
    options.value("--platform", "OS/ARCH", "which image to take of an index"),
    options.value("-a --arch", "ARCH", "likewise, by architecture"),
    options.flag("--no-clobber", "leave what exists alone"),
    options.flag("--exact", "keep modes that are unsafe in a directory: set-ID, no owner rights"),
    options.value("--tmp", "DIR", "accepted; what is temporary lies in storage or beside OUT"),
    *(option for option in COMMON if option.dest in _SHARED),
)
# Transports in the names of skopeo, Podman and Apptainer -> the format.
_TRANSPORTS = {
    "docker": "docker", "docker-daemon": "docker", "docker-archive": "docker-archive",
    "containers-storage": "podman", "oci": "oci", "oci-archive": "oci-archive", "dir": "dir",
}  # fmt: skip
_SAME = {
    "ch-image": "a directory is written ./NAME; ch-image tag gives an image another name",
    "": "-i and -o name formats that were guessed wrong; what stays as it is, cp copies",
}
_STREAMS = ("tar", "oci-archive", "docker-archive")
ABOUT = (
    "Converts an image from one format to another: ch-image (a name in storage), dir, tar, squash,"
    " oci (a layout), oci-archive, docker-archive (of docker save), docker, podman (through these"
    " programs). What IN is, is seen by a look at it; OUT's format follows from its ending: .tar,"
    " .tar.gz and the like, .sqfs, .oci, .oci.tar, .docker.tar; other names that begin with / or ./"
    " are dir; - is a tar from or to a pipe. OUT appears when it is complete, or not at all. Layers"
    " and digests stay where both formats have them."
)


def main() -> int:
    """The program ``ch-convert``; its exit code."""
    return run_program(lambda frame: convert(sys.argv[1:], dict(os.environ), frame))


def convert(argv: list[str], env: dict[str, str], frame: Frame) -> int:
    """Carry out a command line. Raises what goes wrong."""
    command = options.Command("ch-convert", "IN OUT", ABOUT, OPTIONS, _convert)
    parsed, _ = options.parse(argv, OPTIONS)
    frame.debug = parsed.has("debug")
    if parsed.has("help"):
        print(options.help_text("ch-convert", command))
        return 0
    if parsed.has("version"):
        print(__version__)
        return 0
    frame.log = Log(env, quiet=parsed.count("quiet"))
    command.check_operands(parsed.words)
    return carry_out(command.run, Session(parsed, env, frame.log))


def _foreign(name: str, option: str) -> str:
    """A hint where the format was written before the name, as other tools have it.

    ``docker:24`` alone is the name of an image.
    """
    transport, colon, rest = name.partition(":")
    kind = _TRANSPORTS.get(transport, "")
    if not colon or not kind or (transport in ("docker", "oci", "dir") and rest[:1] not in "./"):
        return ""
    return (
        f"formats are named by options: {option} {kind} {printable(rest.removeprefix('//'), 100)}"
    )


def _convert(session: Session) -> int:
    from ch_image.cli.importing import place
    from ch_image.formats.base import check, infer
    from ch_image.formats.exchange import convert as exchange
    from ch_image.formats.layouts import split
    from ch_image.formats.recognise import recognise
    from ch_image.report import Info

    parsed = session.parsed
    source, target = session.words
    guessed = infer(source)
    if (
        guessed != "ch-image" and source != "-"
    ):  # a file or directory; a look tells more than its name
        seen = recognise(split(source)[0])
        if (guessed, seen) != ("docker-archive", "oci-archive"):  # docker's own is both since 25
            guessed = seen or guessed
    kinds = parsed.text("in-fmt") or guessed, parsed.text("out-fmt") or infer(target)
    session.report(Info(f"input:   {kinds[0]:<15} {source}"))
    session.report(Info(f"output:  {kinds[1]:<15} {target}"))
    if kinds[0] == kinds[1]:
        raise UsageError(
            f"both {printable(source, 200)} and {printable(target, 200)} are of format {kinds[0]}",
            hint=_foreign(source, "-i") or _foreign(target, "-o") or _SAME.get(kinds[0], _SAME[""]),
        )
    for name, kind, option in zip(session.words, kinds, ("-i", "-o"), strict=True):
        check(kind)
        if kind == "ch-image" and (hint := _foreign(name, option)):
            raise UsageError(f"not the name of an image: {printable(name, 200)}", hint=hint)
    if (source == "-" and kinds[0] != "tar") or (target == "-" and kinds[1] not in _STREAMS):
        raise UsageError(
            f"only {', '.join(_STREAMS)} can be written to standard output, and tar read from input"
        )
    if kinds[0] == "dir" and kinds[1] not in ("ch-image", *_DAEMONS) and target != "-":
        inside = os.path.realpath(split(target)[0])
        if inside.startswith(f"{os.path.realpath(source)}/"):
            raise UsageError(f"OUT lies in IN, and would be in itself: {printable(target, 200)}")
    tmp = parsed.text("tmp")
    if tmp and not (tmp.startswith("/") and os.path.isdir(tmp)):
        raise UsageError(f"--tmp is not an absolute path of a directory: {printable(tmp, 200)}")
    if parsed.has("dry-run"):
        return 0
    session.enter(programs=not _DAEMONS.isdisjoint(kinds))
    with session.locked():
        here = place(session, clobber=not parsed.has("no-clobber"), exact=parsed.has("exact"))
        session.report(Info("copying ..."))
        exchange((kinds[0], source), (kinds[1], target), here)
    session.report(Info("done"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
