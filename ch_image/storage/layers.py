"""The layer store: immutable trees in overlay format, each with a small record.

A layer appears by one rename and never changes; its record may learn the layer's digest later.
How trees are mounted or made is the snapshotters' business.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from contextlib import suppress

from ch_image.errors import ImageError, StorageError
from ch_image.storage.durable import Durability, Stamp
from ch_image.storage.faults import faults
from ch_image.storage.record import (
    Damaged,
    dump,
    load,
    pack,
    read_record,
    write_file,
    write_new,
)
from ch_image.storage.scratch import Scratch, make_dir, random_name, remove
from ch_image.typed import TYPE_CHECKING, Any, NamedTuple, NewType, TypeAlias

if TYPE_CHECKING:
    from ch_image.model.digest import DiffId
    from ch_image.model.oci import Descriptor

LayerId = NewType("LayerId", str)  # 12 characters of [a-z0-9]
Chain: TypeAlias = tuple[LayerId, ...]  # bottom first

_MAX_FOUND = 64 << 10  # bytes of one list of candidates


class LayerRecord(NamedTuple):
    """What is known of a layer beside its tree."""

    id: LayerId
    diff_id: DiffId | None  # None: not digested yet
    blob: Descriptor | None  # the compressed layer, as pulled or pushed
    owners: Mapping[str, tuple[int, int]]  # path without leading "/" -> owner no xattr can hold
    created: float  # Unix time
    lower: Chain = ()  # the layers below, when the tree holds content that was taken from them
    merged: Chain = ()  # the layers that this one stands for


class Layers:
    """``layers/``. Methods may be called from several threads."""

    def __init__(self, path: str, scratch: Scratch, durability: Durability) -> None:
        self.path = f"{path}/layers"
        self._scratch = scratch
        self._durability = durability

    def tree(self, layer: LayerId) -> str:
        """Where the layer's tree lies. Raises StorageError on what is no layer's name."""
        if not (8 <= len(layer) <= 16 and layer.isascii() and layer.isalnum()):
            raise StorageError(f"not a layer: {layer!r}")
        return f"{self.path}/{layer}/t"

    def has(self, layer: LayerId) -> bool:
        """Whether the layer is there."""
        return os.path.isdir(self.tree(layer))

    def missing(self, chain: Chain) -> list[LayerId]:
        """Those of ``chain`` that are not there."""
        return [layer for layer in chain if not self.has(layer)]

    def get(self, layer: LayerId) -> LayerRecord:
        """The layer's record. Raises StorageError when it is gone or damaged."""
        return self._read(layer)[0]

    def trusted(self, layer: LayerId) -> bool:
        """Whether the layer is there and no power failure can have harmed it."""
        try:
            words, _ = read_record(f"{self.path}/{layer}/record", "layer")
            return self._durability.trusted(_stamp(words)) and self.has(layer)
        except (FileNotFoundError, StorageError):
            return False

    def find(self, diff_id: DiffId, lower: Chain = ()) -> LayerId | None:
        """A whole layer with that diff ID that stands on its own or was unpacked on ``lower``."""
        try:
            with open(self._index(diff_id), encoding="ascii") as file:
                candidates = file.read(_MAX_FOUND).split()
        except (OSError, UnicodeDecodeError):
            return None
        for name in candidates:
            layer = LayerId(name)
            try:
                record, stamp = self._read(layer)
            except StorageError:  # removed by gc, or damaged: no candidate
                continue
            fits = record.diff_id == diff_id and record.lower in ((), lower)
            if fits and self._durability.trusted(stamp) and self.has(layer):
                return layer
        return None

    def stage(self) -> str:
        """A new directory in scratch with an empty ``t`` in it (mode 0755)."""
        path = self._scratch.directory()
        with faults("stage a layer"):
            make_dir(f"{path}/t", 0o755)
        return path

    def publish(
        self,
        staged: str,
        *,
        diff_id: DiffId | None = None,
        blob: Descriptor | None = None,
        owners: Mapping[str, tuple[int, int]] | None = None,
        lower: Chain = (),
        merged: Chain = (),
        layer: LayerId | None = None,
    ) -> LayerId:
        """Make the directory ``staged`` a layer, by one rename; its ``t`` becomes the tree.

        ``layer``: a name that follows from the content; if it is taken, that one is returned and
        ``staged`` is removed. Raises StorageError.
        """
        import time

        self._durability.watch()
        for _ in range(8):
            name = layer or LayerId(random_name())
            record = LayerRecord(name, diff_id, blob, owners or {}, time.time(), lower, merged)
            with faults("store a layer"):
                with suppress(FileNotFoundError):
                    os.unlink(f"{staged}/record")
                write_new(f"{staged}/record", _encode(record, self._durability.stamp()))
                try:
                    os.rename(staged, f"{self.path}/{name}")
                except FileExistsError:
                    pass
                except OSError as error:
                    if error.errno != errno.ENOTEMPTY:
                        raise
                else:
                    if diff_id:
                        self._note(diff_id, name)
                    return name
            if layer:
                remove(staged)
                return layer
        raise StorageError("cannot store a layer: no name is free")

    def update(self, record: LayerRecord) -> None:
        """Replace a layer's record, when its digest or blob becomes known. Raises StorageError."""
        old, stamp = self._read(record.id)
        with faults("update a layer's record"):
            write_file(f"{self.path}/{record.id}/record", _encode(record, stamp), self._scratch)
            if record.diff_id and record.diff_id != old.diff_id:
                self._note(record.diff_id, record.id)

    def all(self) -> list[LayerId]:
        """All layers, also damaged ones. Raises StorageError."""
        with faults("list layers"):
            return [LayerId(n) for n in sorted(os.listdir(self.path)) if not n.startswith(".")]

    def remove(self, layer: LayerId) -> None:
        """Remove a layer. The caller holds the exclusive lock, and no chain names it any more."""
        path = os.path.dirname(self.tree(layer))
        doomed = self._scratch.name()
        with faults("remove a layer"):
            try:
                os.rename(path, doomed)  # at once, so that nobody finds half a layer
            except FileNotFoundError:
                return
        remove(doomed)

    def replace(self, record: LayerRecord, staged: str) -> None:
        """Put the directory ``staged`` in the place of a damaged or missing layer.

        The caller holds the exclusive lock. Raises StorageError.
        """
        self.remove(record.id)
        self.publish(
            staged,
            diff_id=record.diff_id,
            blob=record.blob,
            owners=record.owners,
            lower=record.lower,
            layer=record.id,
        )

    def forget(self, diff_id: DiffId) -> None:
        """Drop the list of layers with that diff ID."""
        with suppress(OSError):
            os.unlink(self._index(diff_id))

    def _read(self, layer: LayerId) -> tuple[LayerRecord, Stamp]:
        self.tree(layer)
        where = f"{self.path}/{layer}/record"
        try:
            words, body = read_record(where, "layer")
        except FileNotFoundError:
            raise StorageError(
                f"layer {layer} is gone from storage", hint="pull or build the image again"
            ) from None
        record = _decode(layer, load(body, where), where)
        if words[:1] != [layer]:
            raise Damaged(f"the record of layer {layer} belongs to another")
        return record, _stamp(words)

    def _index(self, diff_id: DiffId) -> str:
        value = diff_id.partition(":")[2]
        if len(value) != 64 or not value.isalnum():
            raise StorageError(f"not a diff ID: {diff_id!r}")
        return f"{self.path}/.diff/{value}"

    def _note(self, diff_id: DiffId, layer: LayerId) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        fd = os.open(self._index(diff_id), flags, 0o600)
        try:
            os.write(fd, f"{layer}\n".encode())
        finally:
            os.close(fd)


def _stamp(words: list[str]) -> Stamp:
    try:
        return Stamp(words[1], int(words[2]))
    except (IndexError, ValueError):
        raise Damaged("the record of a layer is damaged") from None


def _encode(record: LayerRecord, stamp: Stamp) -> bytes:
    value: dict[str, Any] = {
        "diff_id": record.diff_id,
        "blob": record.blob.to_json() if record.blob else None,
        "owners": {path: list(owner) for path, owner in record.owners.items()},
        "created": record.created,
        "lower": record.lower,
        "merged": record.merged,
    }
    kept = {key: item for key, item in value.items() if item not in (None, (), {})}
    return pack("layer", (record.id, stamp.boot, str(stamp.at)), dump(kept) + b"\n")


def _decode(layer: LayerId, value: dict[str, Any], where: str) -> LayerRecord:
    from ch_image.model.oci import parse_descriptor

    try:
        blob = value.get("blob")
        return LayerRecord(
            layer,
            value.get("diff_id"),
            parse_descriptor(blob, "blob") if blob else None,
            {path: (int(o[0]), int(o[1])) for path, o in value.get("owners", {}).items()},
            float(value["created"]),
            tuple(value.get("lower", ())),
            tuple(value.get("merged", ())),
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ImageError):
        raise Damaged(f"a layer's record is damaged: {where}") from None
