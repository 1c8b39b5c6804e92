"""diff: what one image has, lacks and has otherwise than another, path by path.

Owners and device numbers are those that the images claim, wherever they are recorded.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack

from ch_image.cli import options
from ch_image.cli.session import Session, emit
from ch_image.errors import printable
from ch_image.fs import owners
from ch_image.storage.snapshots.base import merged_owners
from ch_image.typed import NamedTuple

_CHUNK = 1 << 20  # bytes compared at a time
_OURS = frozenset({owners.XATTR})
_TYPES = {
    stat.S_IFREG: "-", stat.S_IFDIR: "d", stat.S_IFLNK: "l",
    stat.S_IFCHR: "c", stat.S_IFBLK: "b", stat.S_IFIFO: "p", stat.S_IFSOCK: "s",
}  # fmt: skip
_RECORDED = {"char": "c", "block": "b"}


class _Entry(NamedTuple):
    kind: str  # as ls(1) shows it
    mode: int
    owner: tuple[int, int]
    about: str  # a link's target, a device's numbers
    size: int  # of files
    identity: tuple[int, int]  # inode and mtime: equal where the file is the very same


class _Side:
    """One of the two images, mounted at ``root``."""

    def __init__(self, root: str, owned: dict[str, tuple[int, int]]) -> None:
        self.root, self._owned = root, owned

    def names(self, path: str) -> list[str]:
        """What is in a directory."""
        return os.listdir(f"{self.root}/{path}")

    def entry(self, path: str) -> _Entry | None:
        """What is at ``path``, None when nothing is."""
        place = f"{self.root}/{path}"
        try:
            found = os.lstat(place)
        except (FileNotFoundError, NotADirectoryError):
            return None
        kind = _TYPES.get(stat.S_IFMT(found.st_mode), "?")
        owner, about = self._owned.get(path, (0, 0)), ""
        if kind in "-d" and (recorded := owners.read(place)) is not None:
            owner = recorded.uid, recorded.gid
            if recorded.kind in _RECORDED:
                kind, about = _RECORDED[recorded.kind], f"{recorded.major}:{recorded.minor}"
        if kind == "l":
            about = os.readlink(place)
        size = found.st_size if kind == "-" else 0
        identity = (found.st_ino, found.st_mtime_ns)
        return _Entry(kind, stat.S_IMODE(found.st_mode), owner, about, size, identity)


class _Comparison:
    def __init__(self, old: _Side, new: _Side) -> None:
        self._old, self._new = old, new

    def lines(self) -> Iterator[tuple[str, str, list[str]]]:
        """(sign, path, what) for all that differs, in the order of paths."""
        todo = [""]
        while todo:
            path = todo.pop()
            old, new = self._old.entry(path), self._new.entry(path)
            if path:
                if old is None or new is None:
                    here = old or new
                    assert here is not None
                    yield ("-" if old else "+"), path, [_described(here)]
                elif changes := self._changes(path, old, new):
                    yield "~", path, changes
            names: set[str] = set()
            for side, entry in ((self._old, old), (self._new, new)):
                if entry is not None and entry.kind == "d":
                    names.update(side.names(path))
            todo += [f"{path}/{n}" if path else n for n in sorted(names, reverse=True)]

    def _changes(self, path: str, old: _Entry, new: _Entry) -> list[str]:
        if old.kind != new.kind:
            return [f"{_described(old)} -> {_described(new)}"]
        out = []
        if old.mode != new.mode and old.kind != "l":
            out.append(f"mode {old.mode:04o} -> {new.mode:04o}")
        if old.owner != new.owner:
            out.append("owner {}:{} -> {}:{}".format(*old.owner, *new.owner))
        if old.about != new.about:
            out.append(f"{printable(old.about, 200)} -> {printable(new.about, 200)}")
        if old.size != new.size:
            out.append(f"size {old.size} -> {new.size}")
        elif old.kind == "-" and old.identity != new.identity and not self._same(path):
            out.append("content")
        if old.kind in "-d" and self._attributes(path):
            out.append("attributes")
        return out

    def _same(self, path: str) -> bool:
        """Whether two regular files hold the same bytes."""
        with ExitStack() as stack:
            one, other = (
                stack.enter_context(open(os.open(f"{side.root}/{path}", _READ), "rb"))
                for side in (self._old, self._new)
            )
            while True:
                chunk = one.read(_CHUNK)
                if chunk != other.read(_CHUNK):
                    return False
                if not chunk:
                    return True

    def _attributes(self, path: str) -> bool:
        """Whether extended attributes differ."""
        return _attributes(f"{self._old.root}/{path}") != _attributes(f"{self._new.root}/{path}")


_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def _attributes(path: str) -> dict[str, bytes]:
    names = os.listxattr(path, follow_symlinks=False)
    return {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in names
        if name not in _OURS and not name.startswith(("user.overlay.", "system."))
    }


def _described(entry: _Entry) -> str:
    mode = stat.filemode(entry.mode)[1:]
    size = f" {entry.size}" if entry.kind == "-" else ""
    about = f" {printable(entry.about, 200)}" if entry.about else ""
    return f"{entry.kind}{mode} {entry.owner[0]}:{entry.owner[1]}{size}{about}"


def _diff(session: Session) -> int:
    images = [session.storage.images.get(session.ref(word)) for word in session.words]
    session.enter(needed=True)
    with session.locked(), ExitStack() as stack:
        snapshotter = session.snapshotter()
        sides = [
            _Side(
                stack.enter_context(snapshotter.view(image.layers)),
                merged_owners(session.storage.layers, image.layers),
            )
            for image in images
        ]
        lines = list(_Comparison(*sides).lines())
    if session.parsed.text("format") == "json":
        import json

        names = {"+": "added", "-": "removed", "~": "changed"}
        found = [{"path": f"/{p}", "change": names[s], "details": w} for s, p, w in lines]
        emit([json.dumps(found, indent=2)])
    else:
        emit(f"{s} /{printable(p, 4096)}  ({', '.join(what)})" for s, p, what in lines)
    return 0


DIFF = options.Command(
    "diff",
    "A B",
    "Says what B has that A has not (+), lacks (-), and has otherwise (~), with types, modes,"
    " owners and sizes. Modification times don't count.",
    (options.value("--format", "FORMAT", "text or json", choices=("text", "json")),),
    _diff,
)
