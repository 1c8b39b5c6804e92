"""Several images under one name: their manifests by digest, then the index that lists them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from ch_image.errors import ImageError
from ch_image.model.digest import Digest, digest_of
from ch_image.model.oci import OCI_INDEX, Descriptor, platform_json
from ch_image.model.platforms import Platform
from ch_image.model.ref import ImageRef, short_digest
from ch_image.registry.registries import Registries
from ch_image.registry.upload import Uploader
from ch_image.report import Info, Reporter, silent
from ch_image.storage.images import Image
from ch_image.storage.indexes import Entry
from ch_image.storage.store import Storage
from ch_image.transfer.pack import Wishes, pack
from ch_image.transfer.push import push
from ch_image.typed import Any


def push_index(
    entries: Sequence[Entry],
    find: Callable[[str], Image],
    destination: ImageRef,
    storage: Storage,
    registries: Registries,
    wishes: Wishes = Wishes(),  # noqa: B008
    report: Reporter = silent,
) -> Digest:
    """Make ``destination`` name an index of the images; its digest.

    ``find`` gives an image by its name. As ``push``: who reads the tag meanwhile sees the old or
    the new, whole. Raises RegistryError, ImageError, StorageError.
    """
    if not entries:
        raise ImageError(f"the index {destination} is empty", hint="ch-image manifest add")
    if destination.digest:
        raise ImageError(f"an index is pushed to a tag, not to {destination}")
    described = []
    for entry in entries:
        packed = pack(find(entry.image), storage, wishes, report)
        manifest = packed.image.manifest
        assert manifest is not None
        by_digest = destination._replace(tag="", digest=manifest.digest)
        push(packed.image, by_digest, storage, registries, wishes, report)
        described.append(describe(entry, packed.image.config.platform, manifest))
    raw = index_json(described)
    place = registries.home(destination)
    Uploader(place.client, place.repository).manifest(destination.tag, raw, OCI_INDEX)
    digest = digest_of(raw)
    report(Info(f"pushed {destination}: {short_digest(digest)}, an index of {len(entries)} images"))
    return digest


def describe(entry: Entry, real: Platform, manifest: Descriptor) -> Descriptor:
    """An image's line of the index."""
    platform = Platform(
        entry.os or real.os,
        entry.architecture or real.architecture,
        entry.variant if entry.variant or entry.architecture else real.variant,
    )
    return manifest._replace(platform=platform, annotations=entry.annotations)


def index_json(entries: Sequence[Descriptor]) -> bytes:
    """The index's bytes."""
    value: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
    for entry in entries:
        row = entry.to_json()
        if entry.platform:
            row["platform"] = platform_json(entry.platform)
        value["manifests"].append(row)
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
