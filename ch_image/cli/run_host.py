"""What a container of ch-run gets from the host: directories, files, names, and what is bound.

Targets are resolved in the image before anything is mounted, so that no link of the image leads
onto the host.
"""

from __future__ import annotations

import os

from ch_image.errors import ChError, printable
from ch_image.sandbox.mounts import Bind, File, Operation, Root, Tmpfs, fd_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ch_image.cli.options import Parsed

# Of the host, where there is such a thing: names of machines, and what Crays need.
_OPTIONAL = ("/etc/hosts", "/etc/machine-id", "/etc/resolv.conf")
_CRAY = (("/var/lib/hugetlbfs", "/var/opt/cray/hugetlbfs"), ("/var/opt/cray/alps/spool",) * 2)


class Who:
    """Who the command is: ``user`` is the caller's name, ``is_caller`` whether ``uid`` is theirs.

    Found out before we are root of a namespace. No NamedTuple, which costs an import of typing.
    """

    def __init__(self, uid: int, gid: int, user: str, is_caller: bool) -> None:
        self.uid, self.gid, self.user, self.is_caller = uid, gid, user, is_caller


def binds(texts: tuple[str, ...]) -> list[Bind]:
    """``SRC[:DST[:ro|rw]]`` as mounts; the destination is the source's path unless given.

    Raises ChError.
    """
    out = []
    for text in texts:
        source, colon, target = text.partition(":")
        target, readonly = _without_mode(target)
        shown = printable(text, 300)
        if not source:
            raise ChError(f"--bind: no source provided: '{shown}'")
        if colon and not target:
            raise ChError(f"--bind: no destination provided: {shown}")
        if target and target[0] != "/":
            raise ChError(f"--bind: destination must be absolute: {shown}")
        if not os.path.exists(source):
            raise ChError(f"can't bind: source not found: {printable(source, 300)}")
        source = os.path.abspath(source)
        out.append(Bind(source, target or source, readonly=readonly))
        if os.path.normpath(out[-1].target).strip("/") == "":
            raise ChError(f"--bind: destination can't be /: {shown}")
    return out


def _without_mode(target: str) -> tuple[str, bool]:
    """A destination without docker's ``:ro`` or ``:rw``, and whether it is read-only."""
    path, colon, mode = target.rpartition(":")
    if colon and mode in ("ro", "rw"):
        return path, mode == "ro"
    return target, False


def home_inside(parsed: Parsed, root: str, user: str) -> str:
    """HOME in a container whose root is ``root``."""
    if parsed.has("home"):
        return f"/home/{user}"
    return "/root" if os.path.isdir(f"{root}/root") else "/"


def furniture(
    parsed: Parsed,
    host: Mapping[str, str],
    who: Who,
    say: Callable[[str], None],
) -> list[Bind | File | Tmpfs]:
    """What every container gets from the host; files first, so that no directory covers them."""
    out: list[Bind | File | Tmpfs] = []
    out += [Bind(path, path) for path in _OPTIONAL if os.path.exists(path)]
    if not parsed.has("no-passwd"):
        out.append(File("/etc/passwd", passwd(who, say)))
        out.append(File("/etc/group", group(who.gid, say)))
    out += [Bind(path, path) for path in ("/dev", "/proc", "/sys")]
    out += [Bind(source, target) for source, target in _CRAY if os.path.exists(source)]
    if parsed.has("private-tmp"):
        out.append(Tmpfs("/tmp", "mode=1777"))
    else:
        out.append(Bind(host.get("TMPDIR") or "/tmp", "/tmp"))
    if parsed.has("home"):
        home = host.get("HOME", "")
        if not os.path.isdir(home):
            raise ChError("--home: HOME names no directory")
        out.append(Bind(home, f"/home/{who.user}"))
    return out


def settled(root: str, operations: list[Bind | File | Tmpfs]) -> list[Operation]:
    """``operations`` with their targets resolved, and made, in the image alone.

    So no link of the image can lead a mount point, or its making, into a directory of the host
    that is mounted before it. Raises ChError for a target that would have to be made there.
    """
    bare = Root(root)
    prefix = len(os.path.realpath(root).rstrip("/"))
    mounted: list[tuple[str, str]] = []
    out: list[Operation] = []
    for operation in operations:
        source = operation.source if isinstance(operation, Bind) else ""
        is_directory = os.path.isdir(source) if source else isinstance(operation, Tmpfs)
        try:
            fd = bare.target(operation.target, is_directory)
        except OSError as error:
            if source in _OPTIONAL:
                continue
            target = printable(operation.target, 300)
            raise ChError(f"can't bind: destination {target}: {error.strerror}") from None
        operation.target = os.readlink(fd_path(fd))[prefix:] or "/"
        fits = os.path.isdir(fd_path(fd)) == is_directory
        os.close(fd)
        if not fits:
            raise _misfit(operation.target, source, is_directory)
        if operation.target == "/":
            raise ChError("can't bind: the destination leads to the image's root")
        _refuse_foreign(operation.target, mounted)
        if is_directory:
            mounted.append((operation.target, source))
        out.append(operation)
    os.close(bare.fd)
    return out


def _misfit(target: str, source: str, is_directory: bool) -> ChError:
    here, there = ("a directory", "not") if is_directory else ("a file", "a directory")
    what = f"{printable(source, 300)} is {here}" if source else f"{here} is to be mounted"
    return ChError(f"can't bind: {what}, {printable(target, 300)} in the image is {there}")


def _refuse_foreign(target: str, mounted: list[tuple[str, str]]) -> None:
    for above, source in reversed(mounted):
        if target.startswith(f"{above.rstrip('/')}/"):
            if source and not os.path.lexists(source + target[len(above.rstrip("/")) :]):
                raise ChError(
                    f"can't bind: destination not found: {printable(target, 300)}",
                    hint=f"{above} is the host's {source}; nothing is made in there",
                )
            return


def passwd(who: Who, say: Callable[[str], None] = lambda _: None) -> str:
    """/etc/passwd with root, nobody, and the user as the host knows it."""
    uid, gid = who.uid, who.gid
    lines = ["root:x:0:0:root:/root:/bin/sh", "nobody:x:65534:65534:nobody:/:/bin/false"]
    if uid not in (0, 65534):
        name, about = who.user if who.is_caller else "charlie", ""
        import pwd

        try:
            known = pwd.getpwuid(uid)
            name, about = known.pw_name, known.pw_gecos
        except KeyError:
            say(f"UID {uid} not found; using dummy info")
        lines.append(f"{name}:x:{uid}:{gid}:{about.replace(':', ' ')}:/home/{name}:/bin/sh")
    return "".join(line.replace("\n", " ") + "\n" for line in lines)


def group(gid: int, say: Callable[[str], None] = lambda _: None) -> str:
    """/etc/group with root, nogroup, and the group as the host knows it."""
    lines = ["root:x:0:", "nogroup:x:65534:"]
    if gid not in (0, 65534):
        import grp

        try:
            name = grp.getgrgid(gid).gr_name
        except KeyError:
            say(f"GID {gid} not found; using dummy info")
            name = "charliegroup"
        lines.append(f"{name}:x:{gid}:")
    return "".join(line + "\n" for line in lines)
