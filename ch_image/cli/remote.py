"""inspect, of an image that is in a registry only."""

from __future__ import annotations

import json

from ch_image.cli.session import Session, emit
from ch_image.errors import ChError, UsageError
from ch_image.model.oci import (
    Descriptor,
    Index,
    Manifest,
    config_json,
    parse_config,
    parse_manifest,
)
from ch_image.model.ref import ImageRef
from ch_image.registry.client import Fetched
from ch_image.registry.registries import Place


def inspect(session: Session, ref: ImageRef) -> int:
    """Print config or digests, of the platform asked for. Raises RegistryError, NotFound."""
    from ch_image.cli.network import registries

    if session.parsed.text("format") == "docker":
        raise UsageError("--format docker shows images in storage", hint=f"ch-image pull {ref}")
    place = registries(session).home(ref)
    try:
        top = place.client.get_manifest(place.repository, ref.reference)
    except ChError as error:
        try:
            session.storage.images.get(ref)  # says what there is instead
        except ChError as absent:
            absent.hint = f"{absent.hint}; and its registry: {error}"
            raise absent from None
        raise
    manifest, lines = _resolved(session, place, top)
    if session.parsed.has("digests"):
        lines.append(f"config    {manifest.config.digest}  of the config's bytes: the image ID")
        for number, layer in enumerate(manifest.layers, 1):
            lines.append(
                f"layer {number:<3} {layer.digest}  of the compressed layer, {layer.size} bytes"
            )
        emit(lines)
        return 0
    raw = place.client.get_document(place.repository, manifest.config, "the image's config")
    emit([json.dumps(config_json(parse_config(raw)), indent=2, ensure_ascii=False)])
    return 0


def _resolved(session: Session, place: Place, top: Fetched) -> tuple[Manifest, list[str]]:
    """The manifest that is meant, and the digests on the way to it."""
    from ch_image.errors import ImageError
    from ch_image.transfer.resolve import candidates, choose

    def fetch(entry: Descriptor) -> Fetched:
        return place.client.get_manifest(place.repository, entry.digest)

    parsed = parse_manifest(top.raw, top.media_type)
    if isinstance(parsed, Manifest):
        return parsed, [f"manifest  {top.digest}  of the manifest's bytes"]
    assert isinstance(parsed, Index)
    wanted = session.platform() if session.names_platform else None
    chosen = choose(candidates(parsed, fetch), wanted).entry
    found = parse_manifest(fetch(chosen).raw, chosen.media_type)
    if not isinstance(found, Manifest):
        raise ImageError(f"the index leads to {chosen.digest}, which is no image")
    return found, [
        f"index     {top.digest}  of the index's bytes",
        f"manifest  {chosen.digest}  of the manifest's bytes",
    ]
