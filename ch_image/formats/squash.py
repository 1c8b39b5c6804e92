"""SquashFS files, through ``mksquashfs`` and ``unsquashfs`` (squashfs-tools 4.5 or newer).

An ordinary user's files cannot have other owners, and devices cannot be made; so writing hands
the program an archive that has them, and reading asks it for its pseudo-file definitions, which
name mode, owner and device numbers of each node.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ch_image.errors import ImageError, printable
from ch_image.formats.archive import admit_file, output
from ch_image.formats.base import Content, Place
from ch_image.formats.outfit import recall
from ch_image.fs import owners
from ch_image.fs.tree import Tree
from ch_image.layers.create import write_tree
from ch_image.storage.scratch import remove
from ch_image.typed import NamedTuple

_SAID = 1000  # characters of what a program says about a failure
_MAX_HEAD = 1 << 30  # bytes of definitions
_HEAD = 96  # bytes of a superblock
_END = b"#\n# START OF DATA"
# Changing owners is answered "done" there: who they are is read from the definitions.
_BOOT = (
    "import sys, os, json; sys.path[:] = json.loads(sys.argv[1])\n"
    "from ch_image.sandbox import seccomp, syscalls\n"
    "syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)\n"
    "syscalls.seccomp_filter(seccomp.program(notify=False))\n"
    "os.execvp(sys.argv[2], sys.argv[2:])\n"
)
_LINE = re.compile(rb"((?:[^\\ \n]|\\.)+) ([A-Z]) ([^\n]*)\n", re.DOTALL)
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_DEVICES = {b"C": "char", b"B": "block"}


class Node(NamedTuple):
    """One pseudo-file definition."""

    path: str  # without leading slash; the root is empty
    kind: bytes
    mode: int
    uid: int
    gid: int
    numbers: tuple[int, int]  # of a device


class Squash:
    """The format ``squash``."""

    @contextmanager
    def open(self, name: str, place: Place) -> Iterator[Content]:
        """Unpack the file at the path ``name`` into scratch. Raises ImageError, OSError."""
        staged = place.storage.layers.stage()
        try:
            check_whole(name)  # an unreadable file is told in the system's words
            nodes = definitions(name)
            _unpack(name, f"{staged}/t", [n for n in nodes if n.kind in _DEVICES], place.xattrs)
            rest = _record(f"{staged}/t", nodes)
            yield Content(recall(f"{staged}/t"), f"{staged}/t", rest, staged)
        finally:
            remove(staged)  # nothing is left there once a layer was made of it

    def admit(self, name: str, place: Place) -> None:
        """Raises ImageError."""
        admit_file(name, place.clobber)

    def write(self, content: Content, name: str, place: Place) -> None:
        """Write the file at the path ``name``. Raises ImageError, OSError."""
        with output(name, place.clobber) as out:
            words = ["mksquashfs", "-", out.name, "-tar", "-noappend", "-no-progress", "-quiet"]
            words += _root(content.tree, place.wishes.epoch)
            if not place.xattrs:
                words.append("-no-xattrs")
            epoch = place.wishes.epoch
            if epoch is not None:
                words += ["-mkfs-time", str(epoch)]
            program = _start(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
            assert program.stdin is not None
            try:
                with program.stdin as pipe:
                    write_tree(content.tree, content.owners, pipe, clamp_mtime=epoch)
            except BrokenPipeError:
                pass  # why it ended it says itself
            except BaseException:
                program.kill()
                raise
            finally:
                said = _end(program)
            if program.returncode:
                if os.strerror(errno.ENOSPC) in said:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                raise ImageError(f"mksquashfs failed: {said}", hint="squashfs-tools 4.5 is needed")


def check_whole(name: str, fd: int = -1) -> None:
    """Raises ImageError for what is no SquashFS file or ends before its time, OSError.

    ``fd`` is the file ``name`` where it is open, and is closed.
    """
    with open(name if fd < 0 else fd, "rb") as file:
        file.seek(0)
        head = file.read(_HEAD)
        there = os.fstat(file.fileno()).st_size
    if len(head) < _HEAD or head[:4] != b"hsqs":
        raise ImageError(f"not a SquashFS file: {printable(name)}")
    wanted = int.from_bytes(head[40:48], "little")  # bytes_used of the superblock
    if there < wanted:
        raise ImageError(
            f"the SquashFS file is cut short, at {there} of {wanted} bytes: {printable(name)}",
            hint="copy or make it again",
        )


def _root(tree: str, epoch: int | None) -> list[str]:
    """Options for the root directory, which an archive need not have."""
    state, record = os.stat(tree), owners.read(tree)
    uid, gid = (record.uid, record.gid) if record else (0, 0)
    when = int(state.st_mtime) if epoch is None else min(int(state.st_mtime), epoch)
    mode = f"{stat.S_IMODE(state.st_mode):o}"
    return ["-root-mode", mode, "-root-uid", str(uid), "-root-gid", str(gid),
            "-root-time", str(max(0, when))]  # fmt: skip


def _start(words: list[str], **more: object) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
            words, stderr=subprocess.PIPE, env=_environment(), **more
        )
    except FileNotFoundError:
        raise ImageError(
            f"{words[0]} is not installed", hint="install squashfs-tools, or use another format"
        ) from None


def _environment() -> dict[str, str]:
    return {"PATH": os.defpath + ":/usr/sbin:/sbin", "LC_ALL": "C"}


def _end(program: subprocess.Popen[bytes]) -> str:
    """Wait for a program's end; what it said on standard error."""
    assert program.stderr is not None
    with program.stderr as pipe:
        said = pipe.read().decode("utf-8", "replace")
    program.wait()
    return printable(said.strip(), _SAID)


def definitions(name: str) -> list[Node]:
    """The pseudo-file definitions of a SquashFS file. Raises ImageError."""
    words = ["unsquashfs", "-no-progress", "-pf", "/dev/stdout", name]
    program = _start(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert program.stdout is not None
    head = bytearray()
    with program.stdout as pipe:
        while (end := head.find(_END, max(0, len(head) - (1 << 20) - len(_END)))) < 0:
            data = pipe.read1(1 << 20)  # type: ignore[attr-defined]
            if not data or len(head) > _MAX_HEAD:
                break
            head += data
    program.kill()  # the data that follow are not wanted
    said = _end(program)
    if end < 0:
        raise ImageError(
            f"unsquashfs cannot read {printable(name)}: {said}",
            hint="it is damaged, or squashfs-tools is older than 4.5",
        )
    return [node for node in map(_node, _LINE.finditer(head, 0, end)) if node is not None]


def _node(match: re.Match[bytes]) -> Node | None:
    """One definition; a further name of a file (``L``) has none of its own."""
    name, kind, rest = match.groups()
    path = os.fsdecode(_ESCAPED.sub(rb"\1", name)).strip("/")
    words = rest.split()
    if kind == b"L":
        return None
    try:
        _, mode, uid, gid = int(words[0]), int(words[1], 8), int(words[2]), int(words[3])
        numbers = (int(words[4]), int(words[5])) if kind in _DEVICES else (0, 0)
    except (ValueError, IndexError):
        raise ImageError(
            f"unsquashfs describes a file in an unknown way: {printable(path)}"
        ) from None
    return Node(path, kind, mode & 0o7777, uid, gid, numbers)


def _unpack(name: str, tree: str, devices: list[Node], xattrs: bool) -> None:
    import json

    words = ["unsquashfs", "-no-progress", "-quiet", "-force", "-dest", tree]
    words.append("-xattrs" if xattrs else "-no-xattrs")
    if devices:
        words += ["-no-wildcards", "-exclude-list", *(node.path for node in devices), ";"]
    words.append(name)
    path = json.dumps([part for part in sys.path if part])
    boot = [sys.executable, "-S", "-c", _BOOT, path]
    program = _start([*boot, *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    said = _end(program)
    if program.returncode:
        raise ImageError(f"unsquashfs cannot unpack {printable(name)}: {said}")


def _record(root: str, nodes: list[Node]) -> dict[str, tuple[int, int]]:
    """Record owners and devices in the tree; the owners that no node can carry."""
    rest: dict[str, tuple[int, int]] = {}
    with Tree(root) as tree:
        for node in nodes:
            if node.kind in _DEVICES:
                _make_device(tree, node)
            elif (node.uid, node.gid) == (0, 0):
                continue
            elif node.kind in (b"R", b"F", b"D"):
                fd = tree.open(node.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    kind = "dir" if node.kind == b"D" else "file"
                    owners.write(fd, owners.Recorded(node.uid, node.gid, node.mode, kind))
                finally:
                    os.close(fd)
            else:
                rest[node.path] = (node.uid, node.gid)
    return rest


def _make_device(tree: Tree, node: Node) -> None:
    parent, name = tree.open_parent(node.path)
    try:
        before = os.fstat(parent)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=parent)
        try:
            major, minor = node.numbers
            kind = _DEVICES[node.kind]
            record = owners.Recorded(node.uid, node.gid, node.mode, kind, major, minor)
            owners.write(fd, record)
            os.fchmod(fd, node.mode)
        finally:
            os.close(fd)
        os.utime(".", ns=(before.st_atime_ns, before.st_mtime_ns), dir_fd=parent)
    finally:
        os.close(parent)
