"""The build cache of others, in a registry or a directory: its steps, and layers one by one.

A cache is one OCI manifest. Its layers are those that steps have made; its config, of a type of
ours, says which step made which on top of which:

    {"format": 1,
     "chains": [[PARENT, DIFF_ID, LAYER], ...],   PARENT: an earlier place in it, or null
     "steps": [[KEY, SLOT, TEXT, STAGE, INPUTS, SECONDS, CHAIN], ...],
     "contents": [[CHAIN, WHAT, DIGEST], ...]}

LAYER is a place among the manifest's layers, null for layers that are not here: those of a base
image, and with mode=min those of stages that the image only copies from, whose DIFF_ID is made of
the step's key. CONTENTS are digests of what a COPY --from took, so that it can be looked up where
those layers are not: WHAT is a digest of what it says.
What comes from elsewhere is believed only as far as digests go: a step counts where the layers
below it are, by diff ID, those that it was made on, and a layer whose blob and content have the
digests that the manifest and the list give. That a key means this layer is the word of whoever may
write the cache; so a cache is as trusted as the reference that names it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from ch_image.build.options import BuildResult
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
from ch_image.typed import Any, NamedTuple

CONFIG = "application/vnd.ch-image.build-cache.v1+json"
_FORMAT = 1

Location = tuple[Place, str]  # and the tag or digest of the cache there


class Remote(NamedTuple):
    """A step that somebody else has carried out; blobs and diff IDs of its chain, bottom first."""

    place: Place
    diff_ids: tuple[DiffId, ...]
    blobs: tuple[Descriptor, ...]
    seconds: float
    kept: bool  # whether the cache has its layer


_Ids = tuple[DiffId | None, ...]
_Steps = list[tuple[str, Remote]]
_Contents = dict[tuple[_Ids, str], str]


class RemoteCaches:
    """The caches that a build may take steps from; read when the first step is missed."""

    def __init__(
        self, open_all: Callable[[], Sequence[Location]], storage: Storage, report: Reporter
    ) -> None:
        self._open, self._storage, self._report = open_all, storage, report
        self._steps: dict[str, list[Remote]] | None = None
        self._contents: _Contents = {}
        self._diff_ids: dict[LayerId, DiffId | None] = {}
        self.only_kept = False  # pass over steps whose layers a cache does not have

    def find(self, key: str, chain: Chain, promised: Mapping[LayerId, DiffId]) -> Remote | None:
        """The step with that key that was made on what ``chain`` is.

        ``promised`` tells what stands for layers of the chain that are not in storage.
        """
        if self._steps is None:
            self._steps = self._read_all()
        if key not in self._steps:
            return None
        below = self._ids(chain, promised)
        for found in self._steps[key]:
            if found.diff_ids[:-1] == below and (found.kept or not self.only_kept):
                return found
        return None

    def content(self, chain: Chain, promised: Mapping[LayerId, DiffId], what: str) -> str | None:
        """The digest of what is meant by ``what`` in ``chain``, where a cache has it."""
        return self._contents.get((self._ids(chain, promised), what))

    def fetch(self, remote: Remote) -> Chain:
        """The layers up to the step's, brought into storage. Raises RegistryError, ImageError."""
        from ch_image.transfer.fill import fill

        return fill(self._storage, [remote.place], remote.blobs, remote.diff_ids, self._report)

    def drop(self, place: Place) -> None:
        """Forget what is at ``place``: it cannot be relied on."""
        for found in (self._steps or {}).values():
            found[:] = [remote for remote in found if remote.place is not place]

    def _ids(self, chain: Chain, promised: Mapping[LayerId, DiffId]) -> _Ids:
        return tuple(promised.get(layer) or self._diff_id(layer) for layer in chain)

    def _diff_id(self, layer: LayerId) -> DiffId | None:
        if self._diff_ids.get(layer) is None:
            self._diff_ids[layer] = self._storage.layers.get(layer).diff_id
        return self._diff_ids[layer]

    def _read_all(self) -> dict[str, list[Remote]]:
        out: dict[str, list[Remote]] = {}
        for place, reference in self._open():
            where = printable(f"{place.client.registry}/{place.repository}", 200)
            try:
                steps, contents = _read(place, reference)
            except ChError as error:  # a cache that is not there yet, for one
                self._report(Warned(f"--cache-from {where}: {error}"))
                continue
            self._report(Detail(f"--cache-from {where}: {len(steps)} steps"))
            self._contents |= contents
            for key, remote in steps:
                out.setdefault(key, []).append(remote)
        return out


def _read(place: Place, reference: str) -> tuple[_Steps, _Contents]:
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
) -> tuple[_Steps, _Contents]:
    if value["format"] != _FORMAT:
        raise ValueError(value["format"])
    chains: list[tuple[tuple[DiffId, ...], tuple[Descriptor, ...], bool]] = []
    for parent, diff_id, number in value["chains"]:
        checked = parse_digest(diff_id)
        blob = Descriptor(OCI_LAYER, checked, 0) if number is None else layers[int(number)]
        ids, blobs, _ = ((), (), True) if parent is None else chains[int(parent)]
        chains.append(((*ids, DiffId(checked)), (*blobs, blob), number is not None))
    steps = []
    for key, _slot, _text, _stage, _inputs, seconds, at in value["steps"]:
        ids, blobs, kept = chains[int(at)]
        steps.append((str(key), Remote(place, ids, blobs, float(seconds), kept)))
    contents: _Contents = {}
    for at, what, digest in value.get("contents", []):
        contents[chains[int(at)][0], str(what)] = str(digest)
    return steps, contents


class Export(NamedTuple):
    """A cache as others may read it; its blobs are in storage."""

    manifest: Manifest
    descriptor: Descriptor


def export(result: BuildResult, storage: Storage, *, everything: bool) -> Export:
    """The cache of a build's steps, with the layers of those that its image holds, or of all.

    The process has entered its user namespace, and holds the storage's lock. Raises StorageError,
    ImageError.
    """
    table = _Table(result, storage, everything)
    steps = [
        [r.key, r.parent, r.text, r.stage, dict(r.inputs), round(r.seconds, 3), table.place(chain)]
        for r, chain in result.trail
    ]
    contents = [[table.place(s.chain), s.what, s.digest] for s in result.contents if s.chain]
    value = {"format": _FORMAT, "chains": table.rows, "steps": steps, "contents": contents}
    config = _dump(value)
    if len(config) > MAX_DOCUMENT:
        raise ImageError(
            f"the build cache's list is larger than {MAX_DOCUMENT >> 20} MiB",
            hint="build fewer stages at once, with --target",
        )
    value = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": Descriptor(CONFIG, storage.blobs.put(config), len(config)).to_json(),
        "layers": [blob.to_json() for _, blob in table.layers.values()],
    }
    raw = _dump(value)
    manifest = parse_manifest(raw)
    assert isinstance(manifest, Manifest)
    return Export(manifest, Descriptor(OCI_MANIFEST, storage.blobs.put(raw), len(raw)))


class _Table:
    """Chains as rows, each once; and the layers that go into the cache."""

    def __init__(self, result: BuildResult, storage: Storage, everything: bool) -> None:
        self._storage, self._promised = storage, result.promised
        final = result.image.layers if result.image else ()
        self._ours: set[LayerId] = set()
        self._keys: dict[LayerId, str] = {}  # of steps whose layers stay here
        for record, chain in result.trail:
            if everything or final[: len(chain)] == chain:
                self._ours.add(chain[-1])
            else:
                self._keys[chain[-1]] = record.key
        self._places: dict[Chain, int] = {}
        self.rows: list[list[object]] = []
        self.layers: dict[Digest, tuple[int, Descriptor]] = {}

    def place(self, chain: Chain) -> int:
        """The row of a chain; those below it come before it."""
        for length in range(1, len(chain) + 1):
            below = chain[:length]
            if below not in self._places:
                diff_id, number = self._layer(below)
                self._places[below] = len(self.rows)
                self.rows.append([self._places.get(below[:-1]), diff_id, number])
        return self._places[chain]

    def _layer(self, chain: Chain) -> tuple[str, int | None]:
        layer = chain[-1]
        if layer in self._promised:
            return self._promised[layer], None
        if layer in self._keys and layer not in self._ours:
            return f"sha256:{self._keys[layer]}", None
        diff_id, blob = _packed(chain, self._storage)
        if layer not in self._ours:
            return diff_id, None
        return diff_id, self.layers.setdefault(blob.digest, (len(self.layers), blob))[0]


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
