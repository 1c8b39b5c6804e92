"""Checks layers' trees against what is known of them, and unpacks damaged ones again.

A layer that was pulled must be what its blob unpacks to; one that was packed here must still give
its diff ID; of one that never left this machine only that can be said that it can be read. A
layer that fails is unpacked again where its blob is whole; else nobody can say what was in it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence

from ch_image.errors import ChError, StorageError, printable
from ch_image.model.oci import MAX_DOCUMENT, Descriptor, Manifest, parse_manifest
from ch_image.storage.layers import Chain, LayerId, LayerRecord
from ch_image.storage.scratch import remove
from ch_image.storage.verify import Finding
from ch_image.transfer.pack import MADE
from ch_image.transfer.unpack import Job, Unpacked, unpack
from ch_image.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ch_image.model.digest import DiffId, Digest
    from ch_image.storage.images import Image
    from ch_image.storage.store import Storage

_DAMAGED = "its tree is not what it was"


class _Told(NamedTuple):
    """What images say of a layer."""

    users: list[str]  # the names of those that need it
    below: set[Chain]  # what it stands on in them
    blob: Descriptor | None
    diff_id: DiffId | None


class Checked(NamedTuple):
    """How the layers were found."""

    bad: set[LayerId]  # stay damaged, or are gone
    compared: int  # with their blob or diff ID
    read: int  # could only be read, for nothing is known of what they should hold


def layers(
    storage: Storage,
    images: Sequence[Image],
    bad_blobs: set[Digest],
    tell: Callable[[Finding], None],
    *,
    fix: bool,
) -> Checked:
    """Check every layer, and each that an image needs. Raises StorageError.

    The process has entered its user namespace, and holds the exclusive lock. In their order from
    the base up, for a layer may be unpacked again only on those below.
    """
    told = dict(_told(storage, images))
    checker = _Checker(storage, told, bad_blobs, fix)
    bad: set[LayerId] = set()
    compared = read = 0
    for layer in _bottom_first(storage, images):
        fault, was_compared = checker.fault(layer)
        compared, read = compared + was_compared, read + (not was_compared)
        if not fault:
            continue
        done = checker.mend(layer)
        users = told[layer].users if layer in told else []
        if not done:
            bad.add(layer)
            done = "" if users else "removed; no image needs it"
            if not users and fix:
                storage.layers.remove(layer)
        where = f" (of {', '.join(users[:3])})" if users else ""
        hint = f"pull or build {users[0]} again; it cannot be trusted" if users else ""
        tell(Finding(f"layer {layer}{where}: {fault}", done, "" if done else hint))
    return Checked(bad, compared, read)


def _bottom_first(storage: Storage, images: Iterable[Image]) -> Iterator[LayerId]:
    chains = (layer for image in images for layer in image.layers)
    yield from dict.fromkeys((*chains, *storage.layers.all()))


def _told(storage: Storage, images: Sequence[Image]) -> Iterator[tuple[LayerId, _Told]]:
    found: dict[LayerId, _Told] = {}
    for image in images:
        blobs = _blobs(storage, image)
        ids = image.config.diff_ids
        for number, layer in enumerate(image.layers):
            known = found.setdefault(
                layer,
                _Told([], set(), blobs[number] if blobs else None, ids[number] if blobs else None),
            )
            known.users.append(printable(str(image.ref), 200))
            known.below.add(image.layers[:number])
    yield from found.items()


def _blobs(storage: Storage, image: Image) -> tuple[Descriptor, ...]:
    """The blobs of an image's layers, as its manifest has them."""
    if image.manifest is None:
        return ()
    try:
        manifest = parse_manifest(storage.blobs.read(image.manifest.digest, MAX_DOCUMENT))
    except ChError:
        return ()
    fits = isinstance(manifest, Manifest) and (
        len(manifest.layers) == len(image.config.diff_ids) == len(image.layers)
    )
    return manifest.layers if fits and isinstance(manifest, Manifest) else ()


class _Hash:
    """Takes an archive and keeps its digest."""

    def __init__(self) -> None:
        self.sum = hashlib.sha256()

    def write(self, data: bytes | bytearray | memoryview) -> int:
        self.sum.update(data)
        return len(data)


class _Checker:
    def __init__(
        self, storage: Storage, told: dict[LayerId, _Told], bad_blobs: set[Digest], fix: bool
    ) -> None:
        self._storage, self._told, self._bad, self._fix = storage, told, bad_blobs, fix

    def fault(self, layer: LayerId) -> tuple[str, bool]:
        """What is wrong with a layer, nothing if all is well; whether it could be compared."""
        if not os.path.lexists(f"{self._storage.layers.path}/{layer}"):
            return "it is gone", True
        try:
            record = self._storage.layers.get(layer)
        except StorageError:
            return "its record is damaged", True
        if not self._storage.layers.has(layer):
            return "its tree is gone", True
        try:
            if record.diff_id and record.blob and MADE in record.blob.annotations:
                same = record.diff_id in self._diff_ids(record)
            elif record.diff_id and record.blob and self._is_good(record.blob):
                same = self._as_unpacked(record)
            else:
                self._archive(layer, record)
                return "", False
        except StorageError as error:  # it cannot be read
            return printable(str(error), 300), True
        except OSError as error:
            return f"it cannot be read: {error.strerror}", True
        return "" if same else _DAMAGED, True

    def mend(self, layer: LayerId) -> str:
        """Unpack a layer again; what was done, nothing if that cannot be."""
        known = self._told.get(layer)
        try:
            record = self._storage.layers.get(layer)
        except StorageError:
            below = next(iter(known.below)) if known else ()
            record = LayerRecord(layer, None, None, {}, 0.0, below)
        blob = record.blob or (known.blob if known else None)
        diff_id = record.diff_id or (known.diff_id if known else None)
        if blob is None or diff_id is None or not self._is_good(blob):
            return ""
        record = record._replace(blob=blob, diff_id=diff_id)
        try:
            staged, done = self._unpacked(record)
        except (ChError, OSError):
            return ""
        if not self._fix:
            remove(staged)
            return "unpacked again from its blob"
        lower = record.lower if done.used_lower else ()
        self._storage.layers.replace(record._replace(owners=done.owners, lower=lower), staged)
        return "unpacked again from its blob"

    def _is_good(self, blob: Descriptor) -> bool:
        return blob.digest not in self._bad and self._storage.blobs.has(blob.digest, blob.size)

    def _diff_ids(self, record: LayerRecord) -> Iterator[str]:
        """What the tree gives on each chain that it is known to stand on."""
        known = self._told.get(record.id)
        belows: set[Chain] = {chain[-1:] for chain in known.below} if known else {()}
        made = record.blob.annotations[MADE] if record.blob else ""
        belows |= {(step.below,) for step in self._storage.cache.all()
                   if step.layer == record.id and step.below}  # fmt: skip
        clamp = made.partition(" ")[2]
        for below in sorted(belows):
            yield self._archive(record.id, record, below, int(clamp) if clamp else None)

    def _as_unpacked(self, record: LayerRecord) -> bool:
        staged, done = self._unpacked(record)
        try:
            fresh = self._digest(f"{staged}/t", record._replace(owners=done.owners))
        finally:
            remove(staged)
        return fresh == self._archive(record.id, record)

    def _unpacked(self, record: LayerRecord) -> tuple[str, Unpacked]:
        assert record.blob is not None
        assert record.diff_id is not None
        storage = self._storage
        staged = storage.layers.stage()
        try:
            with storage.blobs.open(record.blob.digest) as file:
                job = Job(f"{staged}/t", record.diff_id, record.blob.size)
                below = [storage.layers.tree(one) for one in reversed(record.lower)]
                return staged, unpack(job, file.fileno(), below)
        except BaseException:
            remove(staged)
            raise

    def _archive(
        self, layer: LayerId, record: LayerRecord, below: Chain = (), clamp: int | None = None
    ) -> str:
        lower = [self._storage.layers.tree(one) for one in reversed(below)]
        return self._digest(self._storage.layers.tree(layer), record, lower, clamp)

    def _digest(
        self, tree: str, record: LayerRecord, lower: Sequence[str] = (), clamp: int | None = None
    ) -> str:
        from ch_image.layers.create import write_layer

        out = _Hash()
        write_layer(tree, record.owners, out, clamp_mtime=clamp, lower=lower)
        return f"sha256:{out.sum.hexdigest()}"
