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
from ch_image.typed import BinaryIO

_NAMES = ("org.opencontainers.image.ref.name", "io.containerd.image.name")
_CHUNK = 1 << 20


def load(
    path: str, name: str, storage: Storage, platform: Platform | None, report: Reporter = silent
) -> Image:
    """The image ``name`` (a tag, a digest, or empty) of the layout at ``path``, unpacked.

    The image gets no name in storage. The caller holds the storage's lock. Raises ImageError,
    StorageError.
    """
    return load_from(Layout(path), name, storage, platform, report)


def load_from(
    client: Layout,
    name: str,
    storage: Storage,
    platform: Platform | None,
    report: Reporter = silent,
    *,
    keep_blobs: bool = False,
) -> Image:
    """As ``load``. ``keep_blobs``: storage gets all blobs, for the image is to be given on."""
    place = Place(client, "")
    resolved = resolve(place, client.get_manifest("", name), platform, storage.blobs)
    manifest = resolved.manifest
    raw = client.get_document("", manifest.config, "the image's config")
    storage.blobs.put(raw)
    config = parse_config(raw)
    if len(manifest.layers) != len(config.diff_ids):
        raise ImageError(
            f"the image in {printable(client.registry)} is damaged: it has "
            f"{len(manifest.layers)} layers, its config names {len(config.diff_ids)}"
        )
    chain = fill(storage, [place], manifest.layers, config.diff_ids, report)
    for blob in manifest.layers if keep_blobs else ():
        if not storage.blobs.has(blob.digest, blob.size):  # its layer was here without it
            with storage.blobs.writer(blob.digest, blob.size) as writer:
                for chunk in client.read_blob("", blob):
                    writer.write(chunk)
                writer.commit()
    ref = parse_ref(f"localhost/oci-layout@{resolved.descriptor.digest}")
    return Image(ref, config, chain, resolved.descriptor, time.time())


class Layout(RegistryClient):
    """Answers for a directory what a registry answers; repositories mean nothing in it."""

    def __init__(self, path: str) -> None:
        self.registry = path
        self._path = path
        try:
            self.open("oci-layout")[0].close()
        except OSError:
            raise ImageError(
                f"not an OCI layout: {printable(path)}",
                hint="such a thing holds the files oci-layout and index.json",
            ) from None

    def open(self, name: str) -> tuple[BinaryIO, int]:
        """A file of the layout, and its size in bytes. Raises OSError."""
        file = open(f"{self._path}/{name}", "rb")  # noqa: SIM115  (the caller closes it)
        return file, os.fstat(file.fileno()).st_size

    def names(self) -> list[str]:
        """What the images are called, the fullest name of each that has one. Raises ImageError."""
        index = parse_manifest(self._read("index.json"), OCI_INDEX)
        entries = index.entries if isinstance(index, Index) else ()
        every = [[e.annotations.get(key, "") for key in reversed(_NAMES)] for e in entries]
        return [found for names in every if (found := next(filter(None, names), ""))]

    def get_manifest(self, repository: str, reference: str) -> Fetched:
        """A manifest or index by digest or tag; without either the only one, or ``latest``."""
        if ":" in reference:
            digest = parse_digest(reference)
            return Fetched(self._document(digest), "", digest)
        raw = self._read("index.json")
        index = parse_manifest(raw, OCI_INDEX)
        if not isinstance(index, Index):
            raise ImageError(f"{printable(self._path)}/index.json is no index")
        entries = index.entries
        if reference or len(entries) != 1:
            entries = tuple(e for e in index.entries if _is_named(e, reference or "latest"))
        if entries:
            found = entries[0]
            return Fetched(self._document(found.digest), found.media_type, found.digest)
        # Several without names: one image, made for several platforms.
        if not reference and not self.names():
            return Fetched(raw, OCI_INDEX, digest_of(raw))
        names = sorted({n for e in index.entries for k in _NAMES if (n := e.annotations.get(k))})
        raise ImageError(
            f'no image "{printable(reference, 100)}" in the OCI layout {printable(self._path)}',
            hint=f"it holds {printable(', '.join(names), 300)}" if names else "",
        )

    def read_blob(self, repository: str, blob: Descriptor, offset: int = 0) -> Iterator[bytes]:
        """The bytes of a blob from ``offset`` on. Raises ImageError."""
        try:
            file, size = self.open(self._blob(blob.digest))
            with file:
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

    def _read(self, name: str) -> bytes:
        try:
            with self.open(name)[0] as file:
                raw = file.read(MAX_DOCUMENT + 1)
        except OSError as error:
            raise self._fault(name, error) from None
        if len(raw) > MAX_DOCUMENT:
            raise ImageError(f"{name} of {printable(self._path)} is larger than 4 MiB")
        return raw

    def _blob(self, digest: Digest) -> str:
        algorithm, _, value = parse_digest(digest).partition(":")
        return f"blobs/{algorithm}/{value}"

    def _fault(self, what: str, error: OSError) -> ImageError:
        return ImageError(f"OCI layout {printable(self._path)}: {what}: {error.strerror}")


def _is_named(entry: Descriptor, name: str) -> bool:
    known = [entry.annotations.get(key, "") for key in _NAMES]
    return any(one == name or one.endswith(f":{name}") for one in known)
