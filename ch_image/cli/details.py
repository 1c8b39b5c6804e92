"""What there is to say of one image: a row of ``list -l``, or all of it with ``list REF``."""

from __future__ import annotations

import os
import stat

from ch_image.cli.console import size
from ch_image.cli.session import Session, emit
from ch_image.errors import ChError, StorageError, printable
from ch_image.model.digest import Digest, digest_of
from ch_image.model.oci import (
    MAX_DOCUMENT,
    Descriptor,
    Index,
    Manifest,
    canonical_json,
    config_json,
    parse_manifest,
)
from ch_image.model.platforms import host_platform
from ch_image.model.ref import ImageRef, short_digest
from ch_image.storage.images import Image, Summary
from ch_image.storage.layers import LayerId
from ch_image.storage.store import Storage
from ch_image.typed import Any

_COLUMN = 22  # where values start in the long description


def image_id(storage: Storage, image: Image) -> Digest:
    """What docker calls the image ID: the digest of its config, as it was pulled where it was.

    The ID of an image whose layers have no digests yet stands for its layers in storage, and
    changes when it is pushed.
    """
    if image.manifest is not None:
        try:
            parsed = parse_manifest(storage.blobs.read(image.manifest.digest, MAX_DOCUMENT))
            if isinstance(parsed, Manifest):
                return parsed.config.digest
        except ChError:  # the image works without its manifest
            pass
    value = config_json(image.config)
    if len(image.config.diff_ids) != len(image.layers):
        value["layers"] = list(image.layers)
    return digest_of(canonical_json(value))


class Sizes:
    """Bytes of layers, each looked at once however many images share it."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._known: dict[LayerId, int] = {}

    def of(self, image: Image) -> int:
        """The apparent size of all files of all layers, in bytes."""
        return sum(self._layer(layer) for layer in image.layers)

    def _layer(self, layer: LayerId) -> int:
        if layer not in self._known:
            self._known[layer] = tree_size(self._storage.layers.tree(layer))
        return self._known[layer]


def tree_size(path: str) -> int:
    """Bytes of the regular files below ``path``; what cannot be read counts nothing."""
    total = 0
    todo = [path]
    while todo:
        try:
            with os.scandir(todo.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
                        continue
                    state = entry.stat(follow_symlinks=False)
                    total += state.st_size if stat.S_ISREG(state.st_mode) else 0
        except OSError:
            continue
    return total


def row(storage: Storage, summary: Summary, sizes: Sizes) -> dict[str, Any]:
    """One image as ``list --format json`` shows it; times in seconds, sizes in bytes."""
    out: dict[str, Any] = {"name": summary.name, "canonical": summary.canonical}
    try:
        if summary.damaged:
            raise StorageError("its record is damaged")
        image = storage.images.get(summary.ref)
        out |= {
            "platform": str(image.config.platform),
            "created": image.created,
            "size": sizes.of(image),
            "id": image_id(storage, image),
            "layers": len(image.layers),
        }
    except ChError as error:
        out["damaged"] = str(error)
    return out


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Rows as aligned columns under a heading."""
    lines = [("NAME", "PLATFORM", "CHANGED", "SIZE", "ID")]
    for one in rows:
        name = printable(one["name"], 300)
        if "damaged" in one:
            lines.append((name, "damaged", "", "", ""))
        else:
            when, amount = local_time(one["created"]), size(one["size"])
            lines.append(
                (name, printable(one["platform"], 60), when, amount, short_digest(one["id"]))
            )
    widths = [max(len(line[n]) for line in lines) for n in range(5)]
    return ["  ".join(f"{c:<{w}}" for c, w in zip(line, widths, strict=True)).rstrip()
            for line in lines]  # fmt: skip


def local_time(seconds: float) -> str:
    """A moment (Unix time) as people read it, in the caller's time zone."""
    import time

    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def details(session: Session, name: str) -> int:
    """Print what is known of ``name`` here and in its registry."""
    ref = session.ref(name)
    image = session.storage.images.find(ref)
    lines = [("details of image", str(ref)), *_local(session, image), *_remote(session, ref)]
    emit(f"{label + ':':<{_COLUMN}} {printable(value)}".rstrip() for label, value in lines)
    return 0


def remote_tags(session: Session, name: str) -> int:
    """Print the tags that the registry has for the repository of ``name``. Raises RegistryError."""
    from ch_image.cli.network import registries

    place = registries(session).home(session.ref(name))
    found = sorted(place.client.tags(place.repository))  # some registries have them in no order
    if session.parsed.text("format") == "json":
        import json

        emit([json.dumps(found, indent=2)])
    else:
        emit(printable(tag, 200) for tag in found)
    return 0


def _local(session: Session, image: Image | None) -> list[tuple[str, str]]:
    if image is None:
        return [("in local storage", "no")]
    known = f"yes ({image.config.platform}), modified: {local_time(image.created)}"
    return [
        ("in local storage", known),
        ("image ID", short_digest(image_id(session.storage, image))),
        ("size", size(Sizes(session.storage).of(image))),
        ("layers", str(len(image.layers))),
    ]


def _remote(session: Session, ref: ImageRef) -> list[tuple[str, str]]:
    """What the registry says; that it says nothing is no fault of a listing."""
    from ch_image.cli.network import registries
    from ch_image.registry.client import Fetched
    from ch_image.transfer.resolve import candidates

    lines = [("full remote ref", ref.canonical)]
    try:
        place = registries(session).home(ref)
        found = place.client.get_manifest(place.repository, ref.reference)
        parsed = parse_manifest(found.raw, found.media_type)

        def fetch(entry: Descriptor) -> Fetched:
            return place.client.get_manifest(place.repository, entry.digest)

        offered = candidates(parsed, fetch) if isinstance(parsed, Index) else []
    except ChError as error:
        return [*lines, ("available remotely", f"no: {error}")]
    lines += [
        ("available remotely", "yes"),
        ("remote arch-aware", "yes" if isinstance(parsed, Index) else "no"),
        ("host architecture", str(host_platform())),
    ]
    archs = [(str(c.platform or "unknown"), c.entry.digest) for c in offered]
    for number, (platform, digest) in enumerate(archs):
        label = "archs available" if number == 0 else ""
        lines.append((label, f"{platform:<16} {short_digest(digest)[:11]}"))
    return lines
