"""OCI layouts and ``docker save`` archives, whose layers and digests stay what they are.

A name is a path, with ``:TAG`` or ``:NAME:TAG`` after it where an image of several is meant.
Docker's manifests become OCI's, for layouts hold nothing else; layers, config and so the image ID
stay. Archives are read where they lie, and are reproducible.
"""

from __future__ import annotations

import json
import os

from ch_image.errors import ChError, ImageError, printable
from ch_image.formats.archive import admit_file, output
from ch_image.formats.base import Place, naming
from ch_image.formats.exchange import name_after
from ch_image.formats.unfinished import beside, check_parent
from ch_image.model.oci import (
    DOCKER_CONFIG,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    parse_json,
    parse_manifest,
)
from ch_image.model.ref import ImageRef, parse_ref
from ch_image.report import Warned
from ch_image.storage.images import Image
from ch_image.storage.store import Storage
from ch_image.transfer import docker_archive, lay_out, tarfiles
from ch_image.transfer.layout import Layout, load_from
from ch_image.transfer.pack import OCI_TYPES, Packed, pack


class Oci:
    """The format ``oci``: a directory."""

    def bring(self, name: str, place: Place) -> Image:
        """See ``Layered``."""
        path, tag = split(name)
        return _loaded(Layout(path), path, tag, place)

    def admit(self, name: str, place: Place) -> None:
        """Raises ImageError."""
        path, _ = _split_new(name)
        if not place.clobber and os.path.lexists(f"{path}/index.json"):
            raise ImageError(f"it exists already: {printable(path)}", hint="leave out --no-clobber")
        if not os.path.lexists(path):
            check_parent(path)

    def give(self, image: Image, name: str, place: Place) -> None:
        """Put the image into the layout, which may hold others; a new one appears when whole."""
        path, tag = _split_new(name)
        self.admit(name, place)
        packed, names = _packed(image, place), _names(image, path, tag, place)
        if os.path.lexists(path):
            lay_out.write_directory(packed, names, place.storage.blobs, path)
            return
        with beside(path) as temporary:
            with naming(path):
                lay_out.write_directory(packed, names, place.storage.blobs, temporary)
            os.rename(temporary, path)


class OciArchive:
    """The format ``oci-archive``: a layout in a tar archive."""

    def bring(self, name: str, place: Place) -> Image:
        """See ``Layered``."""
        path, tag = split(name)
        with tarfiles.opened(path, place.storage) as files:
            return _loaded(tarfiles.LayoutArchive(files), path, tag, place)

    def admit(self, name: str, place: Place) -> None:
        """Raises ImageError."""
        _admit_archive(name, place)

    def give(self, image: Image, name: str, place: Place) -> None:
        """Write an archive of one image."""
        path, tag = _split_new(name)
        write_archive(image, path, _names(image, path, tag, place), place, docker=False)


class DockerArchive:
    """The format ``docker-archive``: what ``docker save`` writes and ``docker load`` reads."""

    def bring(self, name: str, place: Place) -> Image:
        """See ``Layered``."""
        path, tag = split(name)
        with tarfiles.opened(path, place.storage) as files:
            return docker_archive.load(files, tag, place.storage, place.report)

    def admit(self, name: str, place: Place) -> None:
        """Raises ImageError."""
        _admit_archive(name, place)

    def give(self, image: Image, name: str, place: Place) -> None:
        """Write an archive of one image."""
        path, tag = _split_new(name)
        write_archive(image, path, _names(image, path, tag, place), place, docker=True)


def split(name: str) -> tuple[str, str]:
    """Path and name in it; what is there as it stands is a path with nothing after it."""
    path, colon, tag = name.partition(":")
    return (name, "") if not colon or os.path.lexists(name) else (path, tag)


def _split_new(name: str) -> tuple[str, str]:
    path, _, tag = name.partition(":")
    return path if path == "-" else os.path.realpath(path), tag


def _admit_archive(name: str, place: Place) -> None:
    path, _ = _split_new(name)
    if path != "-":
        admit_file(path, place.clobber)


def _loaded(layout: Layout, path: str, tag: str, place: Place) -> Image:
    image = load_from(layout, tag, place.storage, place.platform, place.report, keep_blobs=True)
    return image._replace(ref=_known_as(layout, path, tag, place))


def _known_as(layout: Layout, path: str, tag: str, place: Place) -> ImageRef:
    """The name that the layout has for the image, or one after its path."""
    for name in layout.names():
        if not tag or name == tag or name.endswith(f":{tag}"):
            try:
                ref = parse_ref(name)
            except ChError:
                break
            if "/" in name or ":" in name:
                return ref
            return name_after(path, place)._replace(tag=name)  # a tag and nothing more
    return name_after(path, place)


def _names(image: Image, path: str, tag: str, place: Place) -> list[ImageRef]:
    """What the image is called in what is written."""
    ref = image.ref if not image.ref.digest else name_after(path, place)
    if tag:
        full = tag if ":" in tag or "/" in tag else f"{name_of(ref)}:{tag}"
        ref = place.ref(full)
    return [ref]


def name_of(ref: ImageRef) -> str:
    """A name without its tag."""
    head, slash, last = ref.name.partition("@")[0].rpartition("/")
    return head + slash + last.partition(":")[0]


def write_archive(
    image: Image, path: str, names: list[ImageRef], place: Place, *, docker: bool
) -> None:
    """An archive of ``image`` at ``path``, called ``names`` in it. Raises ChError, OSError."""
    packed = _packed(image, place)
    with output(path, place.clobber) as out:
        lay_out.write_archive(packed, names, place.storage.blobs, out, docker=docker)


def _packed(image: Image, place: Place) -> Packed:
    """The image with an OCI manifest, and all its blobs in storage."""
    storage = place.storage
    packed = pack(image, storage, place.wishes, place.report)
    if any(not storage.blobs.has(b.digest, b.size) for b in packed.manifest.layers):
        place.report(Warned("the image's compressed layers are not here; they are made anew"))
        packed = pack(image._replace(manifest=None), storage, place.wishes, place.report)
    if packed.manifest.media_type == DOCKER_MANIFEST:
        return _as_oci(packed, storage)
    return packed


def _as_oci(packed: Packed, storage: Storage) -> Packed:
    value = parse_json(packed.manifest.raw, "manifest")
    value["mediaType"] = OCI_MANIFEST
    if value["config"].get("mediaType") == DOCKER_CONFIG:
        value["config"]["mediaType"] = OCI_CONFIG
    for layer in value["layers"]:
        kind = layer.get("mediaType", "")
        layer["mediaType"] = OCI_TYPES.get(kind, kind)
    raw = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    descriptor = Descriptor(OCI_MANIFEST, storage.blobs.put(raw), len(raw))
    manifest = parse_manifest(raw)
    assert isinstance(manifest, Manifest)
    return Packed(packed.image._replace(manifest=descriptor), manifest)
