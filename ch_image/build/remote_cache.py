"""The build cache of others, in a registry or a directory: its steps, and layers one by one.

A cache is one OCI manifest. Its layers are those that steps have made; its config, of a type of
ours, says which step made which on top of which:

    {"format": 1,
     "chains": [[PARENT, DIFF_ID, LAYER], ...],   PARENT: an earlier place in it, or null
     "steps": [[KEY, SLOT, TEXT, STAGE, INPUTS, SECONDS, CHAIN], ...]}

LAYER is a place among the manifest's layers, null for layers of a base image, which are not here.
What comes from elsewhere is believed only as far as digests go: a step counts where the layers
below it are, by diff ID, those that it was made on, and a layer whose blob and content have the
digests that the manifest and the list give. That a key means this layer is the word of whoever may
write the cache; so a cache is as trusted as the reference that names it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ch_image.build.options import Trail
from ch_image.errors import ChError, ImageError, printable
from ch_image.model.digest import DiffId, Digest, parse_digest
from ch_image.model.oci import (
    MAX_DOCUMENT,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    parse_json,
    parse_manifest,
)
from ch_image.registry.registries import Place
from ch_image.report import Detail, Reporter, Warned
from ch_image.storage.layers import Chain, LayerId
from ch_image.storage.store import Storage

CONFIG = "application/vnd.ch-image.build-cache.v1+json"
_FORMAT = 1

Location = tuple[Place, str]  # and the tag or digest of the cache there


class Remote(NamedTuple):
    """A step that somebody else has carried out; blobs and diff IDs of its chain, bottom first."""

    place: Place
    diff_ids: tuple[DiffId, ...]
    blobs: tuple[Descriptor, ...]
    seconds: float


class RemoteCaches:
    """The caches that a build may take steps from; read when the first step is missed."""

    def __init__(
        self, open_all: Callable[[], Sequence[Location]], storage: Storage, report: Reporter
    ) -> None:
        self._open, self._storage, self._report = open_all, storage, report
        self._steps: dict[str, list[Remote]] | None = None
        self._diff_ids: dict[LayerId, DiffId | None] = {}
        self._lock = threading.Lock()

    def find(self, key: str, chain: Chain) -> Remote | None:
        """The step with that key that was made on what ``chain`` is."""
        if self._steps is None:
            self._steps = self._read_all()
        below = tuple(map(self._diff_id, chain))
        for found in self._steps.get(key, ()):
            if found.diff_ids[:-1] == below:
                return found
        return None

    def fetch(self, remote: Remote) -> LayerId:
        """The step's layer, brought into storage. Raises RegistryError, ImageError."""
        from ch_image.transfer.fill import fill

        with self._lock:  # a layer that two stages want is fetched once
            chain = fill(self._storage, [remote.place], remote.blobs, remote.diff_ids, self._report)
        return chain[-1]

    def _diff_id(self, layer: LayerId) -> DiffId | None:
        if self._diff_ids.get(layer) is None:
            self._diff_ids[layer] = self._storage.layers.get(layer).diff_id
        return self._diff_ids[layer]

    def _read_all(self) -> dict[str, list[Remote]]:
        out: dict[str, list[Remote]] = {}
        for place, reference in self._open():
            where = printable(f"{place.client.registry}/{place.repository}", 200)
            try:
                found = _read(place, reference)
            except ChError as error:  # a cache that is not there yet, for one
                self._report(Warned(f"--cache-from {where}: {error}"))
                continue
            self._report(Detail(f"--cache-from {where}: {len(found)} steps"))
            for key, remote in found:
                out.setdefault(key, []).append(remote)
        return out


def _read(place: Place, reference: str) -> list[tuple[str, Remote]]:
    top = place.client.get_manifest(place.repository, reference)
    manifest = parse_manifest(top.raw, top.media_type)
    if not isinstance(manifest, Manifest) or manifest.config.media_type != CONFIG:
        raise ImageError("not a build cache", hint="write one with build --cache-to")
    raw = place.client.get_document(place.repository, manifest.config, "the build cache's list")
    value = parse_json(raw, "the build cache's list")
    try:
        return _decode(value, manifest.layers, place)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        raise ImageError("the build cache's list is damaged, or of a newer format") from None


def _decode(
    value: dict[str, Any], layers: Sequence[Descriptor], place: Place
) -> list[tuple[str, Remote]]:
    if value["format"] != _FORMAT:
        raise ValueError(value["format"])
    chains: list[tuple[tuple[DiffId, ...], tuple[Descriptor, ...]]] = []
    for parent, diff_id, number in value["chains"]:
        checked = parse_digest(diff_id)
        blob = Descriptor(OCI_LAYER, checked, 0) if number is None else layers[int(number)]
        ids, blobs = ((), ()) if parent is None else chains[int(parent)]
        chains.append(((*ids, DiffId(checked)), (*blobs, blob)))
    out = []
    for key, _slot, _text, _stage, _inputs, seconds, at in value["steps"]:
        out.append((str(key), Remote(place, *chains[int(at)], float(seconds))))
    return out


class Export(NamedTuple):
    """A cache as others may read it; its blobs are in storage."""

    manifest: Manifest
    descriptor: Descriptor


def export(trail: Sequence[Trail], final: Chain, storage: Storage, *, everything: bool) -> Export:
    """The cache of these steps: of those that ``final`` holds, or of all.

    The process has entered its user namespace, and holds the storage's lock. Raises StorageError,
    ImageError.
    """
    wanted = [t for t in trail if everything or final[: len(t.chain)] == t.chain]
    ours = {t.record.layer for t in wanted}
    places: dict[Chain, int] = {}
    chains: list[list[object]] = []
    layers: dict[Digest, tuple[int, Descriptor]] = {}
    for one in wanted:
        for length in range(1, len(one.chain) + 1):
            chain = one.chain[:length]
            if chain in places:
                continue
            diff_id, blob = _packed(chain, storage)
            number = None
            if chain[-1] in ours:
                number = layers.setdefault(blob.digest, (len(layers), blob))[0]
            places[chain] = len(chains)
            chains.append([places.get(chain[:-1]), diff_id, number])
    steps = [
        [r.key, r.parent, r.text, r.stage, dict(r.inputs), round(r.seconds, 3), places[chain]]
        for r, chain in wanted
    ]
    config = _dump({"format": _FORMAT, "chains": chains, "steps": steps})
    if len(config) > MAX_DOCUMENT:
        raise ImageError(
            f"the build cache's list is larger than {MAX_DOCUMENT >> 20} MiB",
            hint="mode=min leaves out the steps that are not in the image",
        )
    value = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": Descriptor(CONFIG, storage.blobs.put(config), len(config)).to_json(),
        "layers": [blob.to_json() for _, blob in layers.values()],
    }
    raw = _dump(value)
    manifest = parse_manifest(raw)
    assert isinstance(manifest, Manifest)
    return Export(manifest, Descriptor(OCI_MANIFEST, storage.blobs.put(raw), len(raw)))


def _packed(chain: Chain, storage: Storage) -> tuple[DiffId, Descriptor]:
    """The topmost layer's diff ID and blob, made now if nobody has asked before."""
    from ch_image.transfer.pack import Wishes, make_blob

    record = storage.layers.get(chain[-1])
    if record.diff_id is None or record.blob is None or not storage.blobs.has(record.blob.digest):
        record = make_blob(record, chain[:-1], storage, Wishes())
        storage.layers.update(record)
    assert record.diff_id is not None
    assert record.blob is not None
    return record.diff_id, record.blob._replace(annotations={})


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def send(made: Export, place: Place, tag: str, storage: Storage) -> int:
    """Store the cache in a registry; how many blobs were sent. Raises RegistryError."""
    from ch_image.registry.upload import Uploader, reader

    uploader = Uploader(place.client, place.repository)
    blobs = {blob.digest: blob for blob in (*made.manifest.layers, made.manifest.config)}
    sent = 0
    for blob in blobs.values():
        done = uploader.blob(blob, reader(storage.blobs.path(blob.digest)))
        sent += done.how == "sent"
    uploader.manifest(tag, made.manifest.raw, made.manifest.media_type)
    return sent
