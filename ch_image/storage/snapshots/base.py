"""What a snapshotter is: it turns a chain of layers into a tree, and a tree into a layer.

Both kinds write the same layer store, so an image built with one is used with the other.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import AbstractContextManager

from ch_image.fs import whiteouts
from ch_image.fs.directories import Directories
from ch_image.storage.faults import faults
from ch_image.storage.layers import Chain, LayerId, Layers
from ch_image.typed import Protocol


class Draft:
    """A writable tree that starts as what ``chain`` gives; ``root`` is where it lies.

    ``upper``, unless it is empty, holds what was added to it. A directory that was made in the
    draft lies there alone: to fill it there gives the same layer for half the work of the kernel,
    if nothing in it has been looked up by ``root`` before or is afterwards.
    """

    __slots__ = ("chain", "root", "stage", "upper")

    def __init__(self, root: str, chain: Chain, stage: str, upper: str = "") -> None:
        self.root = root
        self.chain = chain
        self.stage = stage  # the snapshotter's own
        self.upper = upper

    def __repr__(self) -> str:
        return f"Draft({self.root!r}, {len(self.chain)} layers)"


class Snapshotter(Protocol):
    """Makes trees out of layers, never touching a layer that exists.

    Runs in a process that has entered its user namespace. Methods may be called from several
    threads; a draft belongs to one of them. All raise StorageError.
    """

    name: str

    def prepare(self, chain: Chain, *, for_names: bool = False) -> Draft:
        """A writable tree that holds what ``chain`` (bottom first) gives; () is empty.

        ``for_names``: entries will be added, replaced or removed, but nobody will write into a
        file that is there or change its attributes, nor commit the draft.
        """

    def commit(self, draft: Draft, owners: Mapping[str, tuple[int, int]]) -> LayerId:
        """Freeze what changed in ``draft`` as a layer; afterwards its root is gone, or empty.

        ``owners``: paths without leading "/" -> owner, for what can carry no xattr.
        """

    def discard(self, draft: Draft) -> None:
        """Throw the draft away. Never fails; no harm after ``commit``."""

    def view(self, chain: Chain) -> AbstractContextManager[str]:
        """The root of a tree to read; who writes there gets an error or harms only the view."""


def merged_owners(layers: Layers, chain: Chain) -> dict[str, tuple[int, int]]:
    """The recorded owners of all that is to be seen of ``chain``.

    An owner goes with the entry it was given to: a layer above that hides or replaces the entry
    ends it. Raises StorageError.
    """
    found: dict[str, tuple[int, int]] = {}
    for layer in chain:
        found = _with_layer(layers, found, layer)
    return found


def _with_layer(
    layers: Layers, below: dict[str, tuple[int, int]], layer: LayerId
) -> dict[str, tuple[int, int]]:
    record = layers.get(layer)
    if not below:
        return dict(record.owners)
    with faults("read a layer"), Directories(layers.tree(layer)) as tree:
        found = {p: o for p, o in below.items() if not _covered(tree, os.fsencode(p))}
    found.update(record.owners)
    return found


class OwnersOfChains:
    """`merged_owners` for chains that grow by a layer at a time; each layer is looked at once.

    May be used from several threads.
    """

    _KEPT = 16  # chains

    def __init__(self, layers: Layers) -> None:
        self._layers = layers
        self._known: dict[Chain, dict[str, tuple[int, int]]] = {}

    def of(self, chain: Chain) -> dict[str, tuple[int, int]]:
        """The recorded owners of all that is to be seen of ``chain``. Raises StorageError."""
        known = dict(self._known)
        start = next((n for n in range(len(chain), 0, -1) if chain[:n] in known), 0)
        found = known[chain[:start]] if start else {}
        for layer in chain[start:]:
            found = _with_layer(self._layers, found, layer)
        known.pop(chain, None)
        known[chain] = found
        self._known = dict(list(known.items())[-self._KEPT :])  # replaced at once: no lock
        return found


def _covered(tree: Directories, path: bytes) -> bool:
    """Whether a layer hides or replaces the lower entry ``path``."""
    at = b""
    for name in path.split(b"/"):
        here = tree.get(at)
        if at and whiteouts.is_opaque(here):
            return True
        marker = state_of(here, whiteouts.PREFIX + name)
        if marker and stat.S_ISREG(marker.st_mode):
            return True
        at = at + b"/" + name if at else name
        state = state_of(here, name)
        if state is None:
            return False
        if not stat.S_ISDIR(state.st_mode):
            return True
    return True  # a directory has taken the place of what had the owner


def state_of(dir_fd: int, name: bytes) -> os.stat_result | None:
    """lstat of a name in an open directory; None when there is none."""
    try:
        return os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
