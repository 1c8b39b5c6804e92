"""Trees by copying, for file systems and kernels where overlayfs cannot be mounted.

The first draft of a chain costs a copy of all layers. After a commit the tree is kept for the
next step, which then costs a walk of it and a copy of what changed. Layers are the same as those
that overlayfs makes. Where no file is written into, a tree is made of hard links to the files of
the layers, which costs what its names cost, whatever its size.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from ch_image.fs import whiteouts
from ch_image.fs.copy import copy_directory_attributes, copy_node, ordinary_xattr
from ch_image.fs.directories import Directories
from ch_image.fs.remove import remove_at
from ch_image.storage.faults import faults
from ch_image.storage.layers import Chain, LayerId, Layers
from ch_image.storage.scratch import Scratch, make_dir, remove
from ch_image.storage.snapshots.base import Draft, state_of
from ch_image.storage.snapshots.difference import (
    Index,
    copy_linked,
    settle,
    walk,
    write_difference,
)
from ch_image.storage.snapshots.mountapi import bind_read_only, unmount
from ch_image.typed import NamedTuple

_KEPT = 4  # trees of other stages that wait for their next step
# What file systems and kernels say that make no (further) link of a file; it is copied then.
_NO_LINK = (errno.EMLINK, errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES)
_Take = Callable[[Directories, Directories, bytes], None]  # source, target, path of no directory


class _Tree(NamedTuple):
    root: str
    seen: Index


class CopySnapshotter:
    """See ``Snapshotter``."""

    name = "copy"

    def __init__(self, layers: Layers, scratch: Scratch) -> None:
        self._layers = layers
        self._scratch = scratch
        self._mutex = threading.Lock()
        self._kept: dict[Chain, _Tree] = {}  # oldest first
        self._drafts: dict[str, Index | None] = {}  # root -> what it was at the start

    def prepare(self, chain: Chain, *, for_names: bool = False) -> Draft:
        """A copy of what ``chain`` gives: the tree of the last commit, or a new one."""
        if for_names:
            root = self._linked(chain)
            with self._mutex:
                self._drafts[root] = None
            return Draft(root, chain, "")
        tree = self._obtain(chain)
        try:
            with faults("prepare a tree"):
                settle(tree.seen, self._scratch)
        except BaseException:
            remove(tree.root)
            raise
        with self._mutex:
            self._drafts[tree.root] = tree.seen
        return Draft(tree.root, chain, "")

    def commit(self, draft: Draft, owners: Mapping[str, tuple[int, int]]) -> LayerId:
        """Copy what changed into a layer; the tree waits for the next step under another name."""
        with self._mutex:
            before = self._drafts[draft.root]
        if before is None:
            raise AssertionError("a draft for names only is never committed")
        staged = self._layers.stage()
        try:
            with faults("commit a layer"):
                after = walk(draft.root)
                write_difference(draft.root, before, after, f"{staged}/t")
            layer = self._layers.publish(staged, owners=owners)
        except BaseException:
            remove(staged)
            raise
        kept = self._scratch.name()
        with self._mutex:
            del self._drafts[draft.root]
        try:
            os.rename(draft.root, kept)
        except OSError:  # the layer is there; only the next step has more to do
            remove(draft.root)
        else:
            self._keep((*draft.chain, layer), _Tree(kept, after))
        return layer

    def discard(self, draft: Draft) -> None:
        """Remove the tree."""
        with self._mutex:
            known = draft.root in self._drafts
            self._drafts.pop(draft.root, None)
        if known:
            remove(draft.root)

    @contextmanager
    def view(self, chain: Chain) -> Iterator[str]:
        """A tree mounted for reading; where no mount can be had, a tree that is thrown away."""
        with self._mutex:
            tree = self._kept.pop(chain, None)
        root = tree.root if tree else self._linked(chain)
        try:
            with self._scratch.lend() as stage:
                mounted = _mounted(root, stage)
                if not mounted and not tree:  # the reader could write into the files of the layers
                    remove(root)
                    root = self._obtain(chain).root
                try:
                    yield f"{stage}/r" if mounted else root
                finally:
                    if mounted:
                        with faults("unmount a tree"):
                            unmount(f"{stage}/r")
                        if tree:
                            self._keep(chain, tree)
                            root = ""
        finally:
            if root:
                remove(root)

    def _linked(self, chain: Chain) -> str:
        """A tree of the files of the layers themselves: they must not be written into."""
        root = self._scratch.name()
        try:
            with faults("prepare a tree"):
                make_dir(root, 0o755)
                for layer in chain:
                    self._layers.get(layer)  # is it there?
                    _apply(self._layers.tree(layer), root, _link)
        except BaseException:
            remove(root)
            raise
        return root

    def _obtain(self, chain: Chain) -> _Tree:
        """A tree that holds ``chain`` and is now the caller's."""
        with self._mutex:
            length = max((len(c) for c in self._kept if chain[: len(c)] == c), default=0)
            tree = self._kept.pop(chain[:length], None)
        if tree and length == len(chain):
            return tree
        root = tree.root if tree else self._scratch.name()
        try:
            with faults("prepare a tree"):
                if not tree:
                    make_dir(root, 0o755)
                for layer in chain[length:]:
                    self._layers.get(layer)  # is it there?
                    _apply(self._layers.tree(layer), root, _copier())
                return _Tree(root, walk(root))
        except BaseException:
            remove(root)
            raise

    def _keep(self, chain: Chain, tree: _Tree) -> None:
        with self._mutex:
            surplus = [self._kept.pop(chain)] if chain in self._kept else []
            self._kept[chain] = tree
            while len(self._kept) > _KEPT:
                surplus.append(self._kept.pop(next(iter(self._kept))))
        for old in surplus:
            remove(old.root)


def _mounted(root: str, stage: str) -> bool:
    try:
        make_dir(f"{stage}/r")
        bind_read_only(root, f"{stage}/r")
    except OSError:
        return False
    return True


def _copier() -> _Take:
    links: dict[int, bytes] = {}

    def take(source: Directories, target: Directories, path: bytes) -> None:
        copy_linked(source, target, path, links)

    return take


def _link(source: Directories, target: Directories, path: bytes) -> None:
    """The same node in the target; a copy if that cannot be, or has what only overlayfs reads."""
    parent, _, name = path.rpartition(b"/")
    there, here = source.get(parent), target.get(parent)
    try:
        found = os.listxattr(b"/proc/self/fd/%d/%b" % (there, name), follow_symlinks=False)
        if all(map(ordinary_xattr, found)):
            os.link(name, name, src_dir_fd=there, dst_dir_fd=here, follow_symlinks=False)
            return
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
    copy_node(there, name, here, name)


def _apply(layer: str, root: str, take: _Take) -> None:
    """Change the tree at ``root`` as the layer says. Raises OSError."""
    with Directories(layer) as source, Directories(root) as target:
        todo, finished = [b""], []
        while todo:
            path = todo.pop()
            finished.append(path)
            prefix = path + b"/" if path else b""
            names = [os.fsencode(name) for name in os.listdir(source.get(path))]
            for name in _hide(source, target, path, names):
                full = prefix + name
                if _is_directory(source, full):
                    _make_directory(source, target, full)
                    todo.append(full)
                else:
                    _drop(target, full)
                    take(source, target, full)
        for path in reversed(finished):
            _same_attributes(source.get(path), target.get(path))


def _hide(source: Directories, target: Directories, path: bytes, names: list[bytes]) -> list[bytes]:
    """Remove what the layer's directory ``path`` hides; the names that remain to be copied."""
    remain = []
    for name in names:
        state = os.stat(name, dir_fd=source.get(path), follow_symlinks=False)
        hidden = whiteouts.hidden_name(name, state)
        if hidden is not None:
            _drop(target, path + b"/" + hidden if path else hidden)
        elif name != whiteouts.OPAQUE_NAME:
            remain.append(name)
    return remain


def _is_directory(tree: Directories, path: bytes) -> bool:
    parent, _, name = path.rpartition(b"/")
    state = state_of(tree.get(parent), name)
    return state is not None and stat.S_ISDIR(state.st_mode)


def _make_directory(source: Directories, target: Directories, path: bytes) -> None:
    if not _is_directory(target, path) or whiteouts.is_opaque(source.get(path)):
        _drop(target, path)
        parent, _, name = path.rpartition(b"/")
        os.mkdir(name, 0o700, dir_fd=target.get(parent))


def _drop(target: Directories, path: bytes) -> None:
    parent, _, name = path.rpartition(b"/")
    if _is_directory(target, path):
        target.forget()  # descriptors of what was below would stand for other directories
    remove_at(target.get(parent), name)


def _same_attributes(source: int, target: int) -> None:
    with suppress(OSError):  # a file system without attributes has none to take away
        surplus = set(os.listxattr(target)) - set(os.listxattr(source))
        for name in filter(ordinary_xattr, surplus):
            os.removexattr(target, name)
    copy_directory_attributes(source, target)
