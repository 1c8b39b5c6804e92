"""inspect, history: what an image's configuration says."""

from __future__ import annotations

import json

from ch_image.cli import options
from ch_image.cli.details import Sizes, image_id, local_time
from ch_image.cli.session import Session, emit
from ch_image.errors import ChError, printable
from ch_image.model.oci import MAX_DOCUMENT, Manifest, config_json, parse_manifest
from ch_image.model.ref import ImageRef
from ch_image.storage.images import Image
from ch_image.typed import Any


def _inspect(session: Session) -> int:
    ref = session.ref(session.words[0])
    image = session.storage.images.find(ref)
    if image is None or session.parsed.has("remote"):
        from ch_image.cli.remote import inspect

        return inspect(session, ref)
    if session.parsed.has("digests"):
        emit(_digests(session, image))
    elif session.parsed.text("format") == "docker":
        session.enter()
        emit([_dump([docker_view(session, image)])])
    else:
        emit([_dump(config_json(image.config))])
    return 0


def _dump(value: Any) -> str:
    """JSON in which control characters are escaped, as JSON asks, and nothing else is."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def docker_view(session: Session, image: Image) -> dict[str, Any]:
    """The image in the shape of ``docker image inspect``."""
    from ch_image.formats.layouts import name_of

    config = config_json(image.config)
    ref = image.ref
    digests = [f"{name_of(ref)}@{image.manifest.digest}"] if image.manifest else []
    platform = image.config.platform
    return {
        "Id": image_id(session.storage, image),
        "RepoTags": [full_name(ref)],
        "RepoDigests": digests,
        "Created": image.config.created,
        "Author": image.config.author,
        "Config": config["config"],
        "Architecture": platform.architecture,
        "Variant": platform.variant,
        "Os": platform.os,
        "Size": Sizes(session.storage).of(image),
        "RootFS": {"Type": "layers", "Layers": list(image.config.diff_ids)},
        "Metadata": {"LastTagTime": local_time(image.created)},
    }


def full_name(ref: ImageRef) -> str:
    """The short name with its tag, also where that is ``latest``."""
    name = ref.name.partition("@")[0]
    return name if ":" in name.rpartition("/")[2] else f"{name}:{ref.tag or 'latest'}"


def _digests(session: Session, image: Image) -> list[str]:
    """Each digest with what it is of; a layer that was never archived has none yet."""
    storage = session.storage
    lines = []
    if image.manifest is not None:
        lines.append(f"manifest  {image.manifest.digest}  of the manifest's bytes")
        try:
            parsed = parse_manifest(storage.blobs.read(image.manifest.digest, MAX_DOCUMENT))
            if isinstance(parsed, Manifest):
                lines.append(
                    f"config    {parsed.config.digest}  of the config's bytes: the image ID"
                )
        except ChError as error:
            lines.append(f"config    unknown: {printable(str(error), 200)}")
    for number, layer in enumerate(image.layers, 1):
        record = storage.layers.get(layer)
        plain = record.diff_id or "not computed yet (it is when the layer is pushed or exported)"
        lines.append(f"layer {number:<3} {plain}  of the layer's tar: its diff ID")
        if record.blob:
            size = record.blob.size
            lines.append(f"          {record.blob.digest}  of the compressed layer, {size} bytes")
    return lines


INSPECT = options.Command(
    "inspect",
    "REF",
    "Prints an image's OCI config as JSON; of one that is not in storage, what its registry says.",
    (
        options.value(
            "--format", "FORMAT", "json (the OCI config) or docker", choices=("json", "docker")
        ),
        options.flag("--remote", "ask the registry, also when the image is in storage"),
        options.flag("--digests", "say instead what each digest of the image is over"),
    ),
    _inspect,
)


def _history(session: Session) -> int:
    image = session.storage.images.get(session.ref(session.words[0]))
    if session.parsed.text("format") == "json":
        emit([_dump(config_json(image.config)["history"])])
        return 0
    layers = iter(image.layers)
    for entry in image.config.history:
        layer = "" if entry.empty_layer else next(layers, "")
        created = entry.created[:19].replace("T", " ")
        text = entry.created_by or entry.comment
        print(f"{printable(created, 20):<19}  {layer:<12}  {printable(text, 300)}".rstrip())
    return 0


HISTORY = options.Command(
    "history",
    "REF",
    "Shows an image's history, oldest first: when, which layer it made here, and what was done.",
    (options.value("--format", "FORMAT", "text or json", choices=("text", "json")),),
    _history,
)
