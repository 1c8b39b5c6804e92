"""Images from an OCI layout (image-layout.md of image-spec 1.1): a directory instead of a registry.

Its blobs are not trusted more than those of a registry: each is checked by digest on its way in.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from ch_image.errors import ImageError, printable
from ch_image.model.digest import Digest, digest_of, parse_digest
from ch_image.model.oci import (
    MAX_DOCUMENT,
    OCI_INDEX,
    Descriptor,
    Index,
    parse_config,
    parse_manifest,
)
from ch_image.model.platforms import Platform
from ch_image.model.ref import parse_ref
from ch_image.registry.client import Fetched, RegistryClient
from ch_image.registry.registries import Place
from ch_image.report import Reporter, silent
from ch_image.storage.images import Image
from ch_image.storage.store import Storage
from ch_image.transfer.fill import fill
from ch_image.transfer.resolve import resolve

_NAMES = ("org.opencontainers.image.ref.name", "io.containerd.image.name")
_CHUNK = 1 << 20


def load(
    path: str, name: str, storage: Storage, platform: Platform | None, report: Reporter = silent
) -> Image:
    """The image ``name`` (a tag, a digest, or empty) of the layout at ``path``, unpacked.

    The image gets no name in storage. The caller holds the storage's lock. Raises ImageError,
    StorageError.
    """
    client = Layout(path)
    place = Place(client, "")
    resolved = resolve(place, client.get_manifest("", name), platform, storage.blobs)
    manifest = resolved.manifest
    config = parse_config(client.get_document("", manifest.config, "the image's config"))
    if len(manifest.layers) != len(config.diff_ids):
        raise ImageError(
            f"the image in {printable(path)} is damaged: it has {len(manifest.layers)} layers, "
            f"its config names {len(config.diff_ids)}"
        )
    chain = fill(storage, [place], manifest.layers, config.diff_ids, report)
    ref = parse_ref(f"localhost/oci-layout@{resolved.descriptor.digest}")
    return Image(ref, config, chain, resolved.descriptor, time.time())


class Layout(RegistryClient):
    """Answers for a directory what a registry answers; repositories mean nothing in it."""

    def __init__(self, path: str) -> None:
        self.registry = path
        self._path = path
        if not os.path.isfile(f"{path}/oci-layout"):
            raise ImageError(
                f"not an OCI layout: {printable(path)}",
                hint="such a directory holds the files oci-layout and index.json",
            )

    def get_manifest(self, repository: str, reference: str) -> Fetched:
        """A manifest or index by digest or tag; without either the only one, or ``latest``."""
        if ":" in reference:
            digest = parse_digest(reference)
            return Fetched(self._document(digest), "", digest)
        raw = self._read(f"{self._path}/index.json")
        index = parse_manifest(raw, OCI_INDEX)
        if not isinstance(index, Index):
            raise ImageError(f"{printable(self._path)}/index.json is no index")
        entries = index.entries
        if reference or len(entries) != 1:
            entries = tuple(e for e in index.entries if _is_named(e, reference or "latest"))
        if entries:
            found = entries[0]
            return Fetched(self._document(found.digest), found.media_type, found.digest)
        if not reference:  # several without names: one image, made for several platforms
            return Fetched(raw, OCI_INDEX, digest_of(raw))
        names = sorted({n for e in index.entries for k in _NAMES if (n := e.annotations.get(k))})
        raise ImageError(
            f'no image "{printable(reference, 100)}" in the OCI layout {printable(self._path)}',
            hint=f"it holds {printable(', '.join(names), 300)}" if names else "",
        )

    def read_blob(self, repository: str, blob: Descriptor, offset: int = 0) -> Iterator[bytes]:
        """The bytes of a blob from ``offset`` on. Raises ImageError."""
        try:
            with open(self._blob(blob.digest), "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size != blob.size:
                    raise ImageError(f"{blob.digest} has {size} bytes instead of {blob.size}")
                file.seek(offset)
                while chunk := file.read(_CHUNK):
                    yield chunk
        except OSError as error:
            raise self._fault(blob.digest, error) from None

    def _document(self, digest: Digest) -> bytes:
        raw = self._read(self._blob(digest))
        if digest_of(raw) != digest:
            raise ImageError(f"{digest} in {printable(self._path)} is damaged")
        return raw

    def _read(self, path: str) -> bytes:
        try:
            with open(path, "rb") as file:
                raw = file.read(MAX_DOCUMENT + 1)
        except OSError as error:
            raise self._fault(os.path.basename(path), error) from None
        if len(raw) > MAX_DOCUMENT:
            raise ImageError(f"{printable(path)} is larger than {MAX_DOCUMENT >> 20} MiB")
        return raw

    def _blob(self, digest: Digest) -> str:
        algorithm, _, value = parse_digest(digest).partition(":")
        return f"{self._path}/blobs/{algorithm}/{value}"

    def _fault(self, what: str, error: OSError) -> ImageError:
        return ImageError(f"OCI layout {printable(self._path)}: {what}: {error.strerror}")


def _is_named(entry: Descriptor, name: str) -> bool:
    known = [entry.annotations.get(key, "") for key in _NAMES]
    return any(one == name or one.endswith(f":{name}") for one in known)
