"""Few lower directories for long chains: runs of layers merged into one, by hard links.

Overlayfs takes 500 lower directories, and each costs at every mount and look-up. Beyond
``PLAIN`` layers, each full run of 16 counted from the base is stood for by one merged layer,
each 16 of those by one of the next size, and so on, so that a chain of 1,000 needs about 30. A
merged layer has the format of any layer (it hides what its parts hide), is made once, shares all
files with its parts, and is found by a name that follows from them. Losing it loses nothing.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from contextlib import ExitStack

from ch_image.errors import StorageError
from ch_image.fs import whiteouts
from ch_image.fs.copy import copy_directory_attributes, copy_node
from ch_image.fs.directories import Directories
from ch_image.model.sha256 import sha256
from ch_image.storage.faults import faults
from ch_image.storage.layers import Chain, LayerId, Layers
from ch_image.storage.scratch import remove
from ch_image.storage.snapshots.base import state_of

PLAIN = 48  # a chain of so many layers is mounted as it is
_RUN = 16
_BASE = 64  # so many pulled layers at the bottom are never merged
_FORGET_AFTER = 16  # directories; keeps the number of open descriptors small
_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"
_NO_LINK = (errno.EMLINK, errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP)


class Merger:
    """Finds and makes merged layers; remembers those it has checked."""

    def __init__(self, layers: Layers) -> None:
        self._layers = layers
        self._known: dict[Chain, LayerId] = {}
        self._pulled: dict[LayerId, bool] = {}

    def shorten(self, chain: Chain) -> Chain:
        """A chain that gives the same tree, with few layers. Raises StorageError."""
        if len(chain) <= PLAIN:
            return chain
        # Base layers are large and few: they are left as they are, where that is possible.
        at = 0
        while at < _BASE and self._is_pulled(chain[at]):
            at += 1
        out = list(chain[:at])
        while len(chain) - at >= _RUN:
            size = _RUN
            while size * _RUN <= len(chain) - at:
                size *= _RUN
            out.append(self._merged(chain[at : at + size]))
            at += size
        return (*out, *chain[at:])

    def _is_pulled(self, layer: LayerId) -> bool:
        known = self._pulled.get(layer)
        if known is None:
            known = self._pulled[layer] = self._layers.get(layer).blob is not None
        return known

    def _merged(self, parts: Chain) -> LayerId:
        known = self._known.get(parts)
        if known is not None:
            return known
        for attempt in range(100):
            layer = _name(parts, attempt)
            if not self._layers.has(layer):
                self._make(layer, parts)
            # One that a power failure may have harmed keeps its name until gc, for it may be in
            # use; the next name is taken then.
            if self._layers.trusted(layer) and self._layers.get(layer).merged == parts:
                self._known[parts] = layer
                return layer
        raise StorageError("cannot merge layers: no name is free", hint="ch-image build-cache --gc")

    def _make(self, layer: LayerId, parts: Chain) -> None:
        step = len(parts) // _RUN
        if step > 1:
            below = [self._merged(parts[n : n + step]) for n in range(0, len(parts), step)]
        else:
            below = list(parts)
        staged = self._layers.stage()
        try:
            with faults("merge layers"):
                _merge([self._layers.tree(part) for part in reversed(below)], f"{staged}/t")
            self._layers.publish(staged, merged=parts, layer=layer)
        except BaseException:
            remove(staged)
            raise


def _name(parts: Chain, attempt: int) -> LayerId:
    digest = sha256(f"{attempt},{','.join(parts)}".encode()).digest()
    return LayerId("m" + "".join(_LETTERS[byte & 31] for byte in digest[:11]))


def _merge(trees: Sequence[str], target: str) -> None:
    """Fill the empty directory ``target`` with what ``trees`` (topmost first) give as one layer."""
    with ExitStack() as stack:
        sources = [stack.enter_context(Directories(tree)) for tree in trees]
        out = stack.enter_context(Directories(target))
        _Merge(sources, out).run()


class _Merge:
    def __init__(self, sources: list[Directories], out: Directories) -> None:
        self._sources = sources
        self._out = out
        # path, the sources whose directory is part of it (topmost first), whether it is opaque
        self._todo: list[tuple[bytes, list[int], bool]] = [(b"", list(range(len(sources))), False)]

    def run(self) -> None:
        finished = []
        while self._todo:
            path, parts, opaque = self._todo.pop()
            finished.append((path, parts[0], opaque))
            self._fill(path, parts)
            if len(finished) % _FORGET_AFTER == 0:
                self._forget()
        # Children before parents, for a directory's time changes with what is made in it.
        for count, (path, top, opaque) in enumerate(reversed(finished), 1):
            fd = self._out.get(path)
            if opaque:
                whiteouts.make_opaque(fd)
            copy_directory_attributes(self._sources[top].get(path), fd)
            if count % _FORGET_AFTER == 0:
                self._forget()

    def _forget(self) -> None:
        for directories in (*self._sources, self._out):
            directories.forget()

    def _fill(self, path: bytes, parts: list[int]) -> None:
        done: set[bytes] = set()
        for place, top in enumerate(parts):
            for name in map(os.fsencode, os.listdir(self._sources[top].get(path))):
                if name not in done:
                    done.add(name)
                    self._take(path, name, parts[place:])

    def _take(self, path: bytes, name: bytes, parts: list[int]) -> None:
        """Put ``name`` as the topmost of ``parts`` has it."""
        source = self._sources[parts[0]].get(path)
        state = os.stat(name, dir_fd=source, follow_symlinks=False)
        here = self._out.get(path)
        if not stat.S_ISDIR(state.st_mode):
            _link(source, name, here)
            return
        os.mkdir(name, 0o700, dir_fd=here)
        full = path + b"/" + name if path else name
        found, opaque = [], False
        for part in parts:
            below = state_of(self._sources[part].get(path), name)
            if below is None:
                continue
            if not stat.S_ISDIR(below.st_mode):
                opaque = True  # what it hid or replaced must not come through again
                break
            found.append(part)
            if whiteouts.is_opaque(self._sources[part].get(full)):
                opaque = True
                break
        self._todo.append((full, found, opaque))


def _link(source: int, name: bytes, target: int) -> None:
    try:
        os.link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        copy_node(source, name, target, name)
