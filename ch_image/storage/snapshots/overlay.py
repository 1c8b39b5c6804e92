"""Trees by overlayfs: nothing is copied, and a commit is a rename.

The kernel must allow overlay mounts in user namespaces with ``userxattr`` (Linux 5.11). The upper
directory of a draft becomes the layer as it is.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from ch_image.errors import StorageError
from ch_image.fs.copy import copy_directory_attributes
from ch_image.fs.directories import FLAGS
from ch_image.storage.faults import faults, storage_error
from ch_image.storage.layers import Chain, LayerId, Layers
from ch_image.storage.scratch import Scratch, make_dir, remove
from ch_image.storage.snapshots.base import Draft
from ch_image.storage.snapshots.merge import Merger
from ch_image.storage.snapshots.mountapi import Overlay, unmount


class OverlaySnapshotter:
    """See ``Snapshotter``. A draft's stage holds ``t`` (upper); beside it lie work and root."""

    name = "overlay"

    def __init__(self, layers: Layers, scratch: Scratch) -> None:
        self._layers = layers
        self._scratch = scratch
        self._root = os.path.dirname(layers.path)
        self._merger = Merger(layers)
        self._open: set[str] = set()  # stages of drafts that were neither committed nor discarded
        self._places: list[str] = []  # directories to mount on that are free again

    def prepare(self, chain: Chain, *, for_names: bool = False) -> Draft:
        """A writable overlay of ``chain``, which is all the same to it."""
        lowers = self._lowers(chain)
        stage = self._layers.stage()
        try:
            root = self._places.pop()
        except IndexError:
            root = self._scratch.directory()
        draft = Draft(root, chain, stage, f"{stage}/t")
        self._open.add(stage)
        try:
            with faults("prepare a tree"):
                make_dir(f"{stage}w")
                if chain:
                    _like(self._layers.tree(chain[-1]), f"{stage}/t")
                else:  # overlayfs wants at least one lower directory
                    make_dir(f"{stage}e", 0o755)
                    lowers = [self._relative(f"{stage}e")]
            upper, work = self._relative(f"{stage}/t"), self._relative(f"{stage}w")
            self._mount(Overlay(self._root, lowers, upper, work), draft.root, chain)
        except BaseException as error:
            self.discard(draft)
            if isinstance(error, StorageError):
                self._refuse_gaps(chain)
            raise
        return draft

    def commit(self, draft: Draft, owners: Mapping[str, tuple[int, int]]) -> LayerId:
        """Unmount, and rename the upper directory into the layer store."""
        with faults("commit a layer"):
            unmount(draft.root)
        self._open.discard(draft.stage)
        self._places.append(draft.root)
        # The directory of work stays until the process ends: ext4 searches long for a new inode
        # where others were freed in the last seconds, and removing directories takes its time.
        return self._layers.publish(draft.stage, owners=owners)

    def discard(self, draft: Draft) -> None:
        """Unmount and remove what remains."""
        if draft.stage not in self._open:
            return
        self._open.discard(draft.stage)
        with suppress(OSError):
            unmount(draft.root)
        with suppress(OSError):
            # rmdir and not a removal with contents: should the unmount have failed, all that one
            # sees below it is the image.
            os.rmdir(draft.root)
        for path in (draft.stage, f"{draft.stage}w", f"{draft.stage}e"):
            if os.path.lexists(path):
                remove(path)

    @contextmanager
    def view(self, chain: Chain) -> Iterator[str]:
        """A read-only overlay of ``chain``."""
        with self._scratch.lend() as stage:
            root = f"{stage}/r"
            with faults("prepare a tree"):
                make_dir(root)
                for name in ("e", "f"):  # without an upper directory, two lower ones at least
                    make_dir(f"{stage}/{name}", 0o755)
            lowers = self._lowers(chain)
            if len(lowers) < 2:
                lowers += [self._relative(f"{stage}/{n}") for n in ("e", "f")][len(lowers) :]
            self._mount(Overlay(self._root, lowers), root, chain)
            try:
                yield root
            finally:
                with faults("unmount a tree"):
                    unmount(root)

    def _lowers(self, chain: Chain) -> list[str]:
        short = self._merger.shorten(chain)
        # The kernel refuses a tree that comes twice. What its lower place gives, the upper one
        # gives too, and wins: so the lower is left out.
        once = dict.fromkeys(reversed(short))
        return [self._relative(self._layers.tree(layer)) for layer in once]

    def _relative(self, path: str) -> str:
        return path[len(self._root) + 1 :]

    def _refuse_gaps(self, chain: Chain) -> None:
        """Say which layer is gone, where the kernel said no more than "no such file"."""
        if missing := self._layers.missing(chain):
            raise StorageError(
                f"layer {missing[0]} is gone from storage", hint="pull or build the image again"
            )

    def _mount(self, overlay: Overlay, target: str, chain: Chain) -> None:
        try:
            overlay.mount(target)
        except OSError as error:
            self._refuse_gaps(chain)
            failed = storage_error("mount an overlay", error)
            if error.errno in (errno.EPERM, errno.EINVAL, errno.ENODEV):
                failed.hint = "CH_IMAGE_SNAPSHOTTER=copy does without overlay mounts"
            raise failed from error


def _like(source: str, target: str) -> None:
    """Give the upper root what the tree's root has; overlayfs shows the upper one's."""
    src = os.open(source, FLAGS)
    try:
        dst = os.open(target, FLAGS)
        try:
            copy_directory_attributes(src, dst)
        finally:
            os.close(dst)
    finally:
        os.close(src)


def works(layers: Layers, scratch: Scratch) -> bool:
    """Whether overlay trees can be had here: mounted, and with all that images need."""
    with scratch.lend() as stage:
        root = os.path.dirname(layers.path)
        below = stage[len(root) + 1 :]
        try:
            for name in ("l", "u", "w", "r"):
                make_dir(f"{stage}/{name}")
            make_dir(f"{stage}/l/d")
            Overlay(root, [f"{below}/l"], f"{below}/u", f"{below}/w").mount(f"{stage}/r")
        except OSError:
            return False
        try:
            # A whiteout, then an opaque directory: needs a 0:0 device and user attributes.
            os.rmdir(f"{stage}/r/d")
            os.mkdir(f"{stage}/r/d")
            return True
        except OSError:
            return False
        finally:
            unmount(f"{stage}/r")
