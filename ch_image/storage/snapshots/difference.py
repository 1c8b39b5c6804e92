"""What changed in a tree between two walks, and that as a layer.

A node is unchanged when inode, change time, type and mode are. The change time cannot be set by
a program, and every change of content, mode or attribute moves it on; two changes within one
tick of the clock are kept apart by ``settle``.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from ch_image.fs import whiteouts
from ch_image.fs.copy import copy_directory_attributes, copy_node
from ch_image.fs.directories import Directories
from ch_image.storage.scratch import Scratch
from ch_image.typed import NamedTuple, TypeAlias

Index: TypeAlias = dict[bytes, "Seen"]  # paths without leading "/"; b"" is the root
_LONGEST_TICK = 3.0  # seconds; file systems with whole seconds, and some to spare


class Seen(NamedTuple):
    """What one walk noted of a node."""

    inode: int
    changed: int  # nanoseconds
    mode: int


def walk(root: str) -> Index:
    """Note every node of a tree. Raises OSError."""
    out: Index = {}
    with Directories(root) as tree:
        state = os.fstat(tree.root)
        out[b""] = Seen(state.st_ino, state.st_ctime_ns, state.st_mode)
        todo = [b""]
        while todo:
            path = todo.pop()
            prefix = path + b"/" if path else b""
            with os.scandir(tree.get(path)) as entries:
                for entry in entries:
                    state = entry.stat(follow_symlinks=False)
                    full = prefix + os.fsencode(entry.name)
                    out[full] = Seen(state.st_ino, state.st_ctime_ns, state.st_mode)
                    if stat.S_ISDIR(state.st_mode):
                        todo.append(full)
    return out


def settle(index: Index, scratch: Scratch) -> None:
    """Wait until a change made from now on cannot have a change time that ``index`` knows.

    The file system's own clock is asked, by a file that is changed until its time is later.
    """
    newest = max(seen.changed for seen in index.values())
    path = scratch.name()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        end = time.monotonic() + _LONGEST_TICK
        while os.fstat(fd).st_ctime_ns <= newest and time.monotonic() < end:
            time.sleep(0.001)
            os.fchmod(fd, 0o600)
    finally:
        os.close(fd)
        os.unlink(path)


class _Difference(NamedTuple):
    taken: list[bytes]  # paths that the layer holds, parents first
    opaque: set[bytes]  # directories that took the place of something else
    hidden: list[bytes]  # paths that are no more


def _compare(old: Index, new: Index) -> _Difference:
    taken: set[bytes] = set()
    fresh: set[bytes] = set()  # directories that were not there, or another one was
    opaque: set[bytes] = set()
    for path in sorted(new):
        seen, before = new[path], old.get(path)
        parent = path.rpartition(b"/")[0]
        if seen == before and parent not in fresh:
            continue
        taken.add(path)
        is_dir = stat.S_ISDIR(seen.mode)
        if is_dir and path:
            same = before and stat.S_ISDIR(before.mode) and before.inode == seen.inode
            if not same or parent in fresh:
                fresh.add(path)
                if before:
                    opaque.add(path)
        while parent and parent not in taken:
            taken.add(parent)
            parent = parent.rpartition(b"/")[0]
    hidden = []
    for path in old.keys() - new.keys():
        parent = path.rpartition(b"/")[0]
        there = new.get(parent)
        # Whatever was in a directory that is gone or replaced went with it.
        if there and stat.S_ISDIR(there.mode) and parent not in fresh:
            hidden.append(path)
            while parent and parent not in taken:
                taken.add(parent)
                parent = parent.rpartition(b"/")[0]
    return _Difference(sorted(taken | {b""}), opaque, sorted(hidden))


def write_difference(root: str, old: Index, new: Index, target: str) -> None:
    """Fill the empty directory ``target`` with a layer that turns ``old`` into ``new``.

    ``new`` is a walk of the tree at ``root``, which nobody changes now. Raises OSError.
    """
    taken, opaque, hidden = _compare(old, new)
    with Directories(root) as tree, Directories(target) as layer:
        links: dict[int, bytes] = {}
        for path in taken[1:]:
            parent, _, name = path.rpartition(b"/")
            if stat.S_ISDIR(new[path].mode):
                os.mkdir(name, 0o700, dir_fd=layer.get(parent))
                if path in opaque:
                    whiteouts.make_opaque(layer.get(path))
            else:
                copy_linked(tree, layer, path, links)
        for path in hidden:
            parent, _, name = path.rpartition(b"/")
            whiteouts.make_whiteout(layer.get(parent), name)
        for path in reversed(taken):
            if stat.S_ISDIR(new[path].mode):
                copy_directory_attributes(tree.get(path), layer.get(path))


def copy_linked(
    source: Directories, target: Directories, path: bytes, links: dict[int, bytes]
) -> None:
    """Copy the node at ``path``, which is no directory; or link it to a copy of the same inode.

    ``links`` (inode -> path in the target) remembers what has been copied. Raises OSError.
    """
    parent, _, name = path.rpartition(b"/")
    state = os.stat(name, dir_fd=source.get(parent), follow_symlinks=False)
    first = links.setdefault(state.st_ino, path) if state.st_nlink > 1 else path
    if first != path:
        there, _, old = first.rpartition(b"/")
        handle = os.dup(target.get(there))  # the next get may close it
        try:
            os.link(
                old, name, src_dir_fd=handle, dst_dir_fd=target.get(parent), follow_symlinks=False
            )
            return
        except OSError as error:
            # The first copy has been replaced, or has too many links: a copy of its own.
            if not isinstance(error, FileNotFoundError) and error.errno != errno.EMLINK:
                raise
        finally:
            os.close(handle)
    copy_node(source.get(parent), name, target.get(parent), name)
