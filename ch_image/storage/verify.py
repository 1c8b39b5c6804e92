"""Looks at every blob and record of the storage directory, and repairs what can be repaired.

What can be had again is dropped: a blob by the next pull or push, a step of the build cache by the
next build. A record that says what nothing else knows, an image's, stays as it is and is named.
Layers' trees are checked in `ch_image.transfer.verify`. All of this holds the exclusive lock.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from urllib.parse import unquote

from ch_image.errors import ChError, StorageError, printable
from ch_image.storage.indexes import Indexes
from ch_image.storage.record import Damaged, remove_file
from ch_image.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ch_image.model.digest import Digest
    from ch_image.storage.images import Image
    from ch_image.storage.layers import LayerId
    from ch_image.storage.store import Storage

_HEX = frozenset("0123456789abcdef")


class Finding(NamedTuple):
    """Something that is not as it should be."""

    what: str
    done: str = ""  # the remedy, a participle: "removed"; empty where there is none
    hint: str = ""  # what the user may do


def blobs(storage: Storage, bad: set[Digest], *, fix: bool) -> Iterator[Finding]:
    """Every blob against its digest; the digests of damaged ones are added to ``bad``."""
    place = f"{storage.path}/blobs/sha256"
    for name in sorted(os.listdir(place)):
        if len(name) != 64 or not _HEX.issuperset(name):
            yield Finding(f"blobs: {printable(name, 100)} is no blob", "left alone")
    for digest in storage.blobs.all():
        fault = _fault_of(storage, digest)
        if not fault:
            continue
        bad.add(digest)
        if fix:
            try:
                remove_file(storage.blobs.path(digest))
            except OSError as error:
                yield Finding(f"blob {digest}: {fault}; cannot be removed: {error.strerror}")
                continue
        yield Finding(f"blob {digest}: {fault}", "removed; it is fetched or made when needed")


def _fault_of(storage: Storage, digest: Digest) -> str:
    import hashlib

    checksum = hashlib.sha256()
    try:
        with storage.blobs.open(digest) as file:
            while chunk := file.read(1 << 20):
                checksum.update(chunk)
    except (OSError, ChError) as error:
        return f"cannot be read: {printable(str(error), 200)}"
    return "" if digest.endswith(checksum.hexdigest()) else "damaged"


def images(storage: Storage) -> tuple[list[Image], list[Finding]]:
    """All images whose record is whole, and what is to be said of the others."""
    found, faults = [], []
    for name, image in storage.images.survey():
        if isinstance(image, Damaged):
            faults.append(Finding(f"{image}", hint=image.hint or f"ch-image delete {name}"))
        else:
            found.append(image)
    return found, faults


def deleted(storage: Storage, bad: Collection[LayerId], *, fix: bool) -> Iterator[Finding]:
    """Deleted images that can no longer be brought back are forgotten."""
    for name, image in storage.images.survey(deleted=True):
        if isinstance(image, Damaged):
            why = "its record is damaged"
        elif lacking := [one for one in image.layers if one in bad or not storage.layers.has(one)]:
            why = f"layer {lacking[0]} is damaged or gone"
        else:
            continue
        if fix:
            remove_file(f"{storage.path}/deleted/{name}")
        yield Finding(f"deleted image {printable(name, 200)}: {why}", "forgotten")


def cache(storage: Storage, bad: Collection[LayerId], *, fix: bool) -> Iterator[Finding]:
    """Steps whose record or layer is not what it was are forgotten: the next build does them."""
    for key, record in storage.cache.survey():
        if record is None:
            why = "its record is damaged"
        elif record.layer is None or (
            record.layer not in bad and storage.layers.trusted(record.layer)
        ):
            continue
        elif record.layer in bad:
            why = f"layer {record.layer} is damaged"
        else:
            why = f"layer {record.layer} is gone, or may have lost data in a power failure"
        if fix:
            remove_file(f"{storage.path}/cache/{key}")
        step = f"{printable(record.text, 60)} ({key[:12]})" if record else printable(key, 60)
        yield Finding(f"cached step {step}: {why}", "forgotten; the next build does it again")
    if fix:
        storage.cache.drop_dangling()


def lists(storage: Storage, bad: Collection[LayerId]) -> None:
    """Make the lists that find layers by diff ID anew; they are only a help."""
    place = f"{storage.path}/layers/.diff"
    known: dict[str, list[str]] = {}
    for layer in storage.layers.all():
        with suppress(StorageError):
            diff_id = storage.layers.get(layer).diff_id
            if diff_id and layer not in bad:
                known.setdefault(diff_id.partition(":")[2], []).append(layer)
    for name in os.listdir(place):
        if name not in known:
            with suppress(OSError):
                remove_file(f"{place}/{name}")
    with storage.scratch() as scratch:
        for value, layers in known.items():
            with open(f"{scratch}/list", "w", encoding="ascii") as file:
                file.write("".join(f"{layer}\n" for layer in layers))
            os.rename(f"{scratch}/list", f"{place}/{value}")


def indexes(storage: Storage, has: Callable[[str], bool]) -> Iterator[Finding]:
    """Indexes in the making: their records, and the images that they name, as ``has`` knows."""
    place = f"{storage.path}/images/.indexes"
    for name in sorted(os.listdir(place)) if os.path.isdir(place) else []:
        try:
            entries = Indexes(storage).read(name)
        except StorageError as error:
            yield Finding(f"{error}", hint=error.hint)
            continue
        for entry in entries:
            if not has(entry.image):
                shown = f"index {printable(unquote(name), 200)} names {printable(entry.image, 200)}"
                yield Finding(f"{shown}, which is not in storage", "left alone")
