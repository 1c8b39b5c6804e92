"""Manifests that are about others, in registries that keep no list of them themselves.

The list is then an index under a tag made of the subject's digest (distribution specification 1.1,
"Pushing Manifests with Subject" and "Referrers Tag Schema").
"""

from __future__ import annotations

import json
import re

from ch_image.errors import ImageError, RegistryError
from ch_image.model.digest import digest_of
from ch_image.model.oci import OCI_INDEX, parse_json
from ch_image.registry.client import RegistryClient
from ch_image.registry.upload import Uploader
from ch_image.report import Reporter, Warned
from ch_image.typed import Any

_DIGEST = re.compile(r"([a-z0-9]+(?:[.+_-][a-z0-9]+)*):([A-Za-z0-9=_-]+)")


def tag_of(subject: str) -> str:
    """The tag under which the referrers of a digest are listed; empty when it is no digest."""
    match = _DIGEST.fullmatch(subject)
    return re.sub(r"[^A-Za-z0-9._-]", "-", f"{match[1][:32]}-{match[2][:64]}") if match else ""


def entry(raw: bytes, media_type: str) -> dict[str, Any] | None:
    """What a list of referrers says of a manifest; None when the manifest is about no other."""
    value = parse_json(raw, "manifest")
    subject, config = value.get("subject"), value.get("config")
    if not isinstance(subject, dict) or not tag_of(str(subject.get("digest"))):
        return None
    kind = value.get("artifactType")
    if not kind and isinstance(config, dict):
        kind = config.get("mediaType")
    out = {"mediaType": media_type, "digest": digest_of(raw), "size": len(raw)}
    notes = value.get("annotations")
    return (
        out | ({"artifactType": kind} if kind else {}) | ({"annotations": notes} if notes else {})
    )


def note(
    client: RegistryClient, repository: str, raw: bytes, media_type: str, report: Reporter
) -> None:
    """Put the manifest, which was pushed, into the list of its subject's referrers, if any.

    Raises RegistryError.
    """
    ours = entry(raw, media_type)
    if ours is None:
        return
    tag = tag_of(parse_json(raw, "manifest")["subject"]["digest"])
    index: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
    try:
        index = parse_json(client.get_manifest(repository, tag).raw, "the list of referrers")
    except RegistryError as error:
        if error.status not in (400, 404):
            raise
    except ImageError:
        index = {}
    listed = index.get("manifests")
    if not isinstance(listed, list):
        report(Warned(f"{client.name(repository, tag)} is no list of referrers; it was left alone"))
        return
    if any(isinstance(one, dict) and one.get("digest") == ours["digest"] for one in listed):
        return
    new = index | {"manifests": [*listed, ours]}
    text = json.dumps(new, separators=(",", ":"), ensure_ascii=False).encode()
    Uploader(client, repository).manifest(tag, text, OCI_INDEX)
