"""Packed images as an OCI layout: a directory, or a tar archive that ``docker load`` reads too.

Bytes are those that a registry would get. An archive is reproducible: sorted, without owners and
times.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress

from ch_image.errors import ImageError, printable
from ch_image.model.digest import hex_of
from ch_image.model.oci import MAX_DOCUMENT, OCI_INDEX, Descriptor, parse_json, platform_json
from ch_image.model.ref import ImageRef
from ch_image.storage.blobs import Blobs
from ch_image.transfer.pack import Packed
from ch_image.typed import Any, BinaryIO

_MARK = b'{"imageLayoutVersion":"1.0.0"}'
_NAME = "org.opencontainers.image.ref.name"
_CONTAINERD = "io.containerd.image.name"
_CHUNK = 1 << 20


def write_directory(packed: Packed, names: Sequence[ImageRef], blobs: Blobs, path: str) -> None:
    """Into the layout at ``path``, which is made; other images in it stay.

    Raises ImageError where something else is there, StorageError, OSError.
    """
    index: list[Any] = []
    if os.path.isdir(path) and os.listdir(path):
        if not os.path.isfile(f"{path}/oci-layout"):
            raise ImageError(
                f"not an OCI layout, and not empty: {printable(path)}",
                hint="remove it first, or choose another directory",
            )
        with suppress(FileNotFoundError), open(f"{path}/index.json", "rb") as file:
            index = list(parse_json(file.read(MAX_DOCUMENT + 1), "index.json").get("manifests", ()))
    os.makedirs(f"{path}/blobs/sha256", exist_ok=True)
    with _whole(f"{path}/oci-layout") as out:  # first: who is interrupted may do it again
        out.write(_MARK)
    for blob in _blobs(packed):
        target = f"{path}/blobs/sha256/{hex_of(blob.digest)}"
        if not os.path.exists(target):
            with _whole(target) as out, closing(_Checked(blobs, blob)) as source:
                while chunk := source.read(_CHUNK):
                    out.write(chunk)
    entries = _entries(packed, names)
    taken = {entry["annotations"][_NAME] for entry in entries if "annotations" in entry}
    for entry in index:
        annotations = entry.get("annotations") if isinstance(entry, dict) else None
        if not isinstance(annotations, dict) or annotations.get(_NAME) not in taken:
            entries.append(entry)
    with _whole(f"{path}/index.json") as out:
        out.write(_index(entries))


def write_archive(
    packed: Packed, names: Sequence[ImageRef], blobs: Blobs, out: BinaryIO, *, docker: bool
) -> None:
    """As a tar archive to ``out``; ``docker``: with what ``docker load`` looks for.

    Raises StorageError, ImageError, OSError.
    """
    import tarfile

    with tarfile.open(fileobj=out, mode="w|", format=tarfile.USTAR_FORMAT) as archive:

        def add(name: str, data: bytes) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))

        for name in ("blobs", "blobs/sha256"):  # who unpacks as a user wants them by name
            member = tarfile.TarInfo(name)
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(member)
        for blob in _blobs(packed):
            member = tarfile.TarInfo(_place(blob))
            member.size = blob.size
            with closing(_Checked(blobs, blob)) as source:
                archive.addfile(member, source)  # type: ignore[arg-type]  # it has read()
                source.read(1)
        add("index.json", _index(_entries(packed, names)))
        if docker:
            add("manifest.json", _docker(packed, names))
        add("oci-layout", _MARK)


class _Checked:
    """A blob to read; at its end, or where it is too short, ImageError if it is damaged."""

    def __init__(self, blobs: Blobs, blob: Descriptor) -> None:
        self._file, self._blob, self._hash = blobs.open(blob.digest), blob, hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._hash.update(data)
        if len(data) < size and self._hash.hexdigest() != hex_of(self._blob.digest):
            raise ImageError(f"{self._blob.digest} is damaged in storage")
        return data

    def close(self) -> None:
        self._file.close()


class _whole:
    """A file that gets its name when the block has ended well."""

    def __init__(self, path: str) -> None:
        self._path, self._new = path, f"{path}.{os.urandom(6).hex()}.part"

    def __enter__(self) -> BinaryIO:
        self._file = open(self._new, "xb")  # noqa: SIM115  (closed at the end of the block)
        return self._file

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._file.close()
        if kind is None:
            os.rename(self._new, self._path)
        else:
            os.unlink(self._new)


def _blobs(packed: Packed) -> Iterator[Descriptor]:
    """All blobs of the image, each once, in the order of their names."""
    assert packed.image.manifest is not None
    manifest = packed.manifest
    every = (packed.image.manifest, manifest.config, *manifest.layers)
    yield from {blob.digest: blob for blob in sorted(every, key=lambda b: b.digest)}.values()


def _place(blob: Descriptor) -> str:
    return f"blobs/sha256/{hex_of(blob.digest)}"


def _known(name: ImageRef) -> str:
    """The full name as Docker and Podman have it: their hub is called docker.io."""
    hub = "registry-1.docker.io/"
    full = name.canonical
    return f"docker.io/{full[len(hub) :]}" if full.startswith(hub) else full


def _entries(packed: Packed, names: Sequence[ImageRef]) -> list[dict[str, Any]]:
    """The image's entries of the index: one for each name, or one without."""
    top = packed.image.manifest
    assert top is not None
    entry = top._replace(annotations={}).to_json()
    entry["platform"] = platform_json(packed.image.config.platform)
    if not names:
        return [entry]
    return [
        {**entry, "annotations": {_CONTAINERD: _known(name), _NAME: name.tag or "latest"}}
        for name in names
    ]


def _index(entries: Sequence[object]) -> bytes:
    value = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    return json.dumps(value, separators=(",", ":")).encode()


def _docker(packed: Packed, names: Sequence[ImageRef]) -> bytes:
    tags = []
    for name in names:
        short = name.name.partition("@")[0]
        tags.append(short if ":" in short.rpartition("/")[2] else f"{short}:{name.tag}")
    value = {
        "Config": _place(packed.manifest.config),
        "RepoTags": tags,
        "Layers": [_place(layer) for layer in packed.manifest.layers],
    }
    return json.dumps([value], separators=(",", ":")).encode()
