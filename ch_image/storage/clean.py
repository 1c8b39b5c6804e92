"""What to throw away, and how that is done without losing what anybody needs.

Images keep their layers and blobs; the build cache keeps its layers until it is told to give up
steps by age or by size. A step is given up before the steps that it stands on, for it could not
be found without them. All of this holds the exclusive lock.
"""

from __future__ import annotations

import time

from ch_image.errors import ChError, StorageError
from ch_image.storage.usage import disk_usage
from ch_image.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ch_image.model.digest import Digest
    from ch_image.storage.cache import CacheRecord
    from ch_image.storage.layers import LayerId
    from ch_image.storage.store import Storage


class Freed(NamedTuple):
    """What a clean-up took away; bytes as the disk counts them."""

    records: int
    layers: int
    blobs: int
    blob_bytes: int
    layer_bytes: int = 0
    shared_files: int = 0  # that were found to be equal, and are one file now
    shared_bytes: int = 0


def clean(storage: Storage, unused_for: float | None, keep_bytes: int | None) -> Freed:
    """See ``Storage.gc``."""
    images = storage.images.read_all()
    storage.images.purge()
    needed = {layer for image in images for layer in image.layers}
    records = storage.cache.all()
    given_up = _too_old(records, unused_for)
    stay = [record for record in records if record.key not in given_up]
    if keep_bytes is not None:
        given_up |= _too_much(storage, stay, needed, keep_bytes)
        stay = [record for record in stay if record.key not in given_up]
    for key in given_up:
        storage.cache.remove(key)
    keep = needed | {record.layer for record in stay if record.layer}
    keep |= _still_useful(storage, keep)
    gone = [layer for layer in storage.layers.all() if layer not in keep]
    layer_bytes = disk_usage(storage.layers.tree(layer) for layer in gone)
    dropped = storage.cache.gc(keep)
    for layer in gone:
        storage.layers.remove(layer)
    blobs = _unneeded_blobs(storage, keep)
    freed = sum(storage.blobs.remove(digest) for digest in blobs)
    return Freed(len(given_up) + len(dropped), len(gone), len(blobs), freed, layer_bytes)


def parent_of(record: CacheRecord) -> str:
    """The key of the step that this one stands on; of the first step of a stage, no record's."""
    return record.parent.partition("-")[0]


def last_use(records: Sequence[CacheRecord]) -> dict[str, float]:
    """When each step or one that stands on it was last used, by key (Unix time)."""
    known = {record.key: record for record in records}
    used = {record.key: record.used for record in records}
    for record in sorted(records, key=lambda one: one.used, reverse=True):
        at, seen = parent_of(record), {record.key}
        while at in known and at not in seen and used[at] < record.used:
            used[at] = record.used
            seen.add(at)
            at = parent_of(known[at])
    return used


def _too_old(records: Sequence[CacheRecord], unused_for: float | None) -> set[str]:
    if unused_for is None:
        return set()
    oldest = time.time() - unused_for
    return {key for key, used in last_use(records).items() if used < oldest}


def _too_much(
    storage: Storage, records: Sequence[CacheRecord], needed: set[LayerId], keep_bytes: int
) -> set[str]:
    """The steps to give up, least recently used first, so that what only the cache needs takes no
    more than ``keep_bytes``.
    """
    used = last_use(records)
    users: dict[LayerId, int] = {}
    for record in records:
        if record.layer and record.layer not in needed:
            users[record.layer] = users.get(record.layer, 0) + 1
    sizes = {layer: disk_usage([storage.layers.tree(layer)]) for layer in users}
    total = sum(sizes.values())
    out: set[str] = set()
    # Of steps that were used at the same time the youngest goes first: it stands on the others.
    for record in sorted(records, key=lambda one: (used[one.key], -one.created)):
        if total <= keep_bytes:
            break
        if record.layer is None or record.layer in needed:
            continue
        out.add(record.key)
        users[record.layer] -= 1
        if not users[record.layer]:
            total -= sizes[record.layer]
    return out


def _still_useful(storage: Storage, keep: set[LayerId]) -> set[LayerId]:
    """Merged layers all of whose parts stay."""
    useful = set()
    for layer in storage.layers.all():
        try:
            merged = storage.layers.get(layer).merged if layer not in keep else ()
        except StorageError:  # damaged and needed by nobody
            continue
        if merged and keep.issuperset(merged):
            useful.add(layer)
    return useful


def _unneeded_blobs(storage: Storage, keep: set[LayerId]) -> list[Digest]:
    from ch_image.model.oci import MAX_DOCUMENT, Manifest, parse_manifest

    needed: set[str] = set()
    for layer in keep:
        try:
            blob = storage.layers.get(layer).blob
        except ChError:  # damaged: its blob may be fetched again
            continue
        needed |= {blob.digest} if blob else set()
    for image in storage.images.read_all():
        if image.manifest is None:
            continue
        needed.add(image.manifest.digest)
        try:
            manifest = parse_manifest(storage.blobs.read(image.manifest.digest, MAX_DOCUMENT))
        except ChError:  # the image works without it; a push makes a new one
            continue
        if isinstance(manifest, Manifest):
            needed |= {manifest.config.digest, *(d.digest for d in manifest.layers)}
    return [digest for digest in storage.blobs.all() if digest not in needed]
