"""Makes the layers of a manifest be in storage: fetched, unpacked and checked, all at once.

Several threads fetch; a few processes unpack, bottom first, while the blobs still grow. A layer
is published when both its digest and its diff ID have proved right.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from ch_image.errors import ImageError, printable
from ch_image.model.digest import DiffId
from ch_image.model.oci import Descriptor
from ch_image.registry.registries import Place
from ch_image.report import Detail, Reporter, Warned
from ch_image.storage.layers import Chain, LayerId
from ch_image.storage.scratch import remove
from ch_image.storage.store import Storage
from ch_image.transfer.crew import Crew
from ch_image.transfer.download import Download
from ch_image.transfer.unpack import Below, Job, Unpacked, Worker, unpack

MAX_DOWNLOADS = 4
MAX_WORKERS = 4
SMALL = 4 << 20  # compressed bytes in all, below which a process of its own doesn't pay


class _Layer:
    """One layer of the chain to be; ``found`` is its name in storage as soon as it is there."""

    def __init__(self, number: int, blob: Descriptor, diff_id: DiffId) -> None:
        self.number, self.blob, self.diff_id = number, blob, diff_id
        self.found: LayerId | None = None
        self.twin: _Layer | None = None  # a lower layer with the same content


def fill(
    storage: Storage,
    places: Sequence[Place],
    blobs: Sequence[Descriptor],
    diff_ids: Sequence[DiffId],
    report: Reporter,
) -> Chain:
    """The chain of these layers (bottom first). Raises RegistryError, ImageError, StorageError."""
    pairs = zip(blobs, diff_ids, strict=True)
    layers = [_Layer(number, *pair) for number, pair in enumerate(pairs)]
    first: dict[DiffId, _Layer] = {}
    for layer in layers:
        layer.twin = first.get(layer.diff_id)
        first.setdefault(layer.diff_id, layer)
    _look_up(storage, layers)
    filler = _Filler(storage, places, layers, report)
    if filler.missing:
        filler.run()
    if filler.flattened:
        report(Warned("this file system holds no user attributes: all files become root's"))
    if filler.lost:
        names = printable(", ".join(sorted(filler.lost)), 200)
        report(Warned(f"extended attributes that cannot be kept here: {names}"))
    return _chain(layers)


def _look_up(storage: Storage, layers: Sequence[_Layer]) -> None:
    """Note what is in storage already."""
    below: Chain | None = ()
    for layer in layers:
        layer.found = layer.twin.found if layer.twin else None
        if not layer.twin:
            layer.found = storage.layers.find(layer.diff_id, below or ())
        below = (*below, layer.found) if below is not None and layer.found else None


def _chain(layers: Sequence[_Layer]) -> Chain:
    chain: list[LayerId] = []
    for layer in layers:
        found = (layer.twin or layer).found
        assert found is not None
        chain.append(found)
    return tuple(chain)


class _Filler:
    """The work on one image's missing layers."""

    def __init__(
        self,
        storage: Storage,
        places: Sequence[Place],
        layers: Sequence[_Layer],
        report: Reporter,
    ) -> None:
        self._storage, self._places, self._report = storage, places, report
        self._layers = layers
        self.missing = [layer for layer in layers if layer.found is None and layer.twin is None]
        self._downloads: dict[str, Download] = {}
        for layer in self.missing:
            label = f"layer {layer.number + 1}/{len(layers)}"
            known = self._downloads.setdefault(
                layer.blob.digest, Download(layer.blob, label, storage.blobs)
            )
            if known.blob.size != layer.blob.size:
                raise ImageError(f"the manifest gives two sizes for {layer.blob.digest}")
        self._to_fetch = [d for d in self._downloads.values() if not d.done]
        self._to_unpack = list(self.missing)
        self._crew = Crew()
        self.flattened = False
        self.lost: set[str] = set()

    def run(self) -> None:
        """Fetch and unpack. Whatever happens, nothing of ours still runs afterwards."""
        here = len(self._layers) - len(self.missing)
        if here:
            self._report(Detail(f"{here} of {len(self._layers)} layers are in storage already"))
        crew, small = self._crew, sum(layer.blob.size for layer in self.missing) <= SMALL
        workers = 1 if small else min(MAX_WORKERS, os.cpu_count() or 1, len(self.missing))
        try:
            for number in range(min(MAX_DOWNLOADS, len(self._to_fetch))):
                crew.start(self._fetch, f"download {number}")
            for number in range(workers):
                crew.start(self._unpack_here if small else self._unpack_there, f"unpack {number}")
            crew.finish()
        finally:
            crew.stop()

    def _fetch(self) -> None:
        while self._to_fetch:
            try:
                download = self._to_fetch.pop(0)
            except IndexError:
                return
            download.run(self._places, self._report, self._crew.check, self._crew.tell)

    def _unpack_here(self) -> None:
        while self._to_unpack:
            self._unpack(self._to_unpack.pop(0), None)

    def _unpack_there(self) -> None:
        worker = Worker()
        try:
            while self._to_unpack:
                try:
                    layer = self._to_unpack.pop(0)
                except IndexError:
                    return
                self._unpack(layer, worker)
        finally:
            worker.close()

    def _unpack(self, layer: _Layer, worker: Worker | None) -> None:
        """Unpack a layer and publish it."""
        download = self._downloads[layer.blob.digest]
        while True:
            while (opened := download.open()) is None:
                self._crew.wait_for(lambda: download.started)
            fd, tries = opened
            fault: ImageError | None = None
            try:
                staged = self._storage.layers.stage()
                done = self._one_try(layer, worker, staged, fd)
            except ImageError as error:
                fault = error
            finally:
                os.close(fd)
            self._crew.wait_for(lambda: download.done)
            if download.round == tries and fault is None:
                break
            remove(staged)
            if download.round == tries and fault is not None:
                raise ImageError(f"{download.label}: {fault}", hint=fault.hint)
        layer.found = self._storage.layers.publish(
            staged,
            diff_id=layer.diff_id,
            blob=layer.blob,
            owners=done.owners,
            lower=self._chain_below(layer) if done.used_lower else (),
        )
        if done.flattened:
            self.flattened = True
        self.lost.update(done.lost)
        self._report(Detail(f"{download.label}: unpacked"))
        self._crew.tell()

    def _chain_below(self, layer: _Layer) -> Chain:
        below = self._layers[: layer.number]
        self._crew.wait_for(lambda: all((one.twin or one).found for one in below))
        return _chain(below)

    def _one_try(self, layer: _Layer, worker: Worker | None, staged: str, fd: int) -> Unpacked:
        def below() -> list[str]:
            return [self._storage.layers.tree(one) for one in reversed(self._chain_below(layer))]

        job = Job(f"{staged}/t", layer.diff_id, layer.blob.size)
        if worker is None:
            return unpack(job, fd, Below(below), self._crew.check)
        return worker.run(job, fd, below, self._crew.check)
