"""Build cache records: which step's key gave which layer, and from which inputs.

Whatever is wrong with a record makes it a miss: a wrong hit is worse than a slow build. How keys
are made is not known here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress

from ch_image.errors import StorageError
from ch_image.storage.faults import faults
from ch_image.storage.layers import LayerId, Layers
from ch_image.storage.record import (
    Damaged,
    dump,
    load,
    pack,
    read_record,
    remove_file,
    write_file,
)
from ch_image.storage.scratch import Scratch
from ch_image.typed import Any, NamedTuple

_TOUCH_AFTER = 60.0  # seconds: "last used" needs no more precision than this


class CacheRecord(NamedTuple):
    """One step that was carried out."""

    key: str  # letters, digits, "-" and "_"
    parent: str  # the key of the step before it
    text: str  # for people
    layer: LayerId | None  # None: a step that changes no tree
    inputs: Mapping[str, str]  # what the key was made of, by name; never a secret
    created: float  # Unix time
    used: float  # Unix time of the last hit
    seconds: float  # how long the step took
    below: LayerId | None = None  # the layer that ``layer`` was made on; None: the empty tree
    stage: str = ""  # the name of the stage it was carried out for


class Cache:
    """``cache/``. Methods may be called from several threads."""

    def __init__(self, path: str, scratch: Scratch, layers: Layers) -> None:
        self._path = f"{path}/cache"
        self._scratch = scratch
        self._layers = layers

    def get(self, key: str) -> CacheRecord | None:
        """The record, whose layer is there and whole; else None: a miss. Notes the use."""
        path = self._file(key)
        record = self._read(path, key)
        if record is None or (record.layer is not None and not self._layers.trusted(record.layer)):
            return None
        if time.time() - record.used > _TOUCH_AFTER:
            with suppress(OSError):  # a read-only disk: the hit counts all the same
                os.utime(path)
        return record

    def put(self, record: CacheRecord) -> None:
        """Store a record, replacing one of the same key. Raises StorageError."""
        value = {
            "parent": record.parent,
            "text": record.text,
            "layer": record.layer,
            "inputs": dict(record.inputs),
            "created": record.created,
            "seconds": record.seconds,
            "below": record.below,
            "stage": record.stage,
        }
        path = self._file(record.key)
        with faults("write the build cache"):
            write_file(path, pack("step", (record.key,), dump(value) + b"\n"), self._scratch)
            if record.parent:
                parent = self._file(record.parent, "/.parents")
                write_file(parent, pack("newest", (record.key,), b""), self._scratch)

    def by_parent(self, parent: str) -> CacheRecord | None:
        """The newest record with that parent, whether or not its layer remains."""
        try:
            words, _ = read_record(self._file(parent, "/.parents"), "newest")
            record = self._read(self._file(words[0]), words[0])
        except (FileNotFoundError, Damaged, IndexError):
            return None
        return record if record and record.parent == parent else None

    def all(self) -> list[CacheRecord]:
        """All readable records. Raises StorageError."""
        found = (self._read(f"{self._path}/{name}", name) for name in self._names())
        return [record for record in found if record]

    def survey(self) -> Iterator[tuple[str, CacheRecord | None]]:
        """Every record by its file name; None for one that cannot be read. Raises StorageError."""
        for name in sorted(self._names()):
            yield name, self._read(f"{self._path}/{name}", name)

    def remove(self, key: str) -> None:
        """Forget one record. Raises StorageError."""
        with faults("remove from the build cache"):
            remove_file(self._file(key))

    def gc(self, keep: Collection[LayerId]) -> list[CacheRecord]:
        """Forget the records whose layer is not in ``keep``, and damaged ones.

        Returns what was forgotten. The caller holds the exclusive lock.
        """
        gone = []
        for name in self._names():
            record = self._read(f"{self._path}/{name}", name)
            if record is None or (record.layer is not None and record.layer not in keep):
                self.remove(name)
                gone += [record] if record else []
        self.drop_dangling()
        return gone

    def reset(self) -> int:
        """Forget all records; how many there were. Raises StorageError."""
        names = self._names()
        with faults("reset the build cache"):
            for name in names:
                remove_file(f"{self._path}/{name}")
        self.drop_dangling()
        return len(names)

    def drop_dangling(self) -> None:
        """Forget which record was the newest of a parent, where that record is gone."""
        with faults("clean the build cache"):
            for name in os.listdir(f"{self._path}/.parents"):
                if self.by_parent(name) is None:
                    remove_file(f"{self._path}/.parents/{name}")

    def _names(self) -> list[str]:
        with faults("list the build cache"):
            return [name for name in os.listdir(self._path) if not name.startswith(".")]

    def _file(self, key: str, below: str = "") -> str:
        if not key or len(key) > 128 or not key.replace("-", "").replace("_", "").isalnum():
            raise StorageError(f"not a cache key: {key!r}")
        return f"{self._path}{below}/{key}"

    def _read(self, path: str, key: str) -> CacheRecord | None:
        try:
            words, body = read_record(path, "step")
            value = load(body, path)
            if words[:1] != [key]:  # a record under another's name
                return None
            return _decode(key, value, os.stat(path).st_mtime)
        except (FileNotFoundError, Damaged, KeyError, TypeError, ValueError):
            return None


def _decode(key: str, value: dict[str, Any], used: float) -> CacheRecord:
    return CacheRecord(
        key,
        str(value["parent"]),
        str(value["text"]),
        value["layer"],
        {str(name): str(item) for name, item in value["inputs"].items()},
        float(value["created"]),
        used,
        float(value["seconds"]),
        value.get("below"),
        str(value.get("stage", "")),
    )
