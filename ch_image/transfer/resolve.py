"""From a name and a platform to the one manifest that is meant.

Every manifest and index on the way is checked by digest and kept in storage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ch_image.errors import ImageError
from ch_image.model.digest import Digest
from ch_image.model.oci import (
    DOCKER_LIST,
    MAX_DOCUMENT,
    OCI_INDEX,
    Descriptor,
    Index,
    Manifest,
    parse_manifest,
)
from ch_image.model.platforms import Platform, host_platform
from ch_image.registry.client import Fetched
from ch_image.registry.registries import Place
from ch_image.storage.blobs import Blobs
from ch_image.typed import NamedTuple

MAX_INDEXES = 20  # that one name may lead through
MAX_NESTING = 4
_ATTESTATION = "vnd.docker.reference.type"


class Resolved(NamedTuple):
    """The manifest that is meant, and what describes it."""

    manifest: Manifest
    descriptor: Descriptor
    platform: Platform | None  # as an index says; None: no index names one


class Candidate(NamedTuple):
    """An entry of an index, possibly of a nested one."""

    entry: Descriptor
    platform: Platform | None


def resolve(place: Place, top: Fetched, platform: Platform | None, blobs: Blobs) -> Resolved:
    """The image for ``platform`` under what a name led to.

    ``platform`` None takes this machine's, or the first there is. Raises ImageError naming the
    platforms that there are, RegistryError.
    """

    def fetch(entry: Descriptor) -> Fetched:
        if blobs.has(entry.digest, entry.size):
            return Fetched(blobs.read(entry.digest, MAX_DOCUMENT), "", entry.digest)
        found = place.client.get_manifest(place.repository, entry.digest)
        if len(found.raw) != entry.size:
            raise ImageError(
                f"{entry.digest} has {len(found.raw)} bytes, its index says {entry.size}"
            )
        blobs.put(found.raw)
        return found

    parsed = parse_manifest(top.raw, top.media_type)
    blobs.put(top.raw)
    if isinstance(parsed, Manifest):
        return Resolved(parsed, _descriptor(parsed, top), None)
    chosen = choose(candidates(parsed, fetch), platform)
    raw = fetch(chosen.entry)
    found = parse_manifest(raw.raw, raw.media_type or chosen.entry.media_type)
    if not isinstance(found, Manifest):
        raise ImageError(f"the index leads to {chosen.entry.digest}, which is no image")
    return Resolved(found, _descriptor(found, raw), chosen.platform)


def _descriptor(manifest: Manifest, raw: Fetched) -> Descriptor:
    return Descriptor(manifest.media_type, raw.digest, len(raw.raw))


def is_attestation(entry: Descriptor) -> bool:
    """Whether an entry of an index is about another one (BuildKit's attestations)."""
    unknown = entry.platform is not None and entry.platform.architecture == "unknown"
    return unknown or _ATTESTATION in entry.annotations


def candidates(index: Index, fetch: Callable[[Descriptor], Fetched]) -> list[Candidate]:
    """The images under an index, those of nested indexes too, in their order."""
    found: list[Candidate] = []
    seen: set[Digest] = set()
    todo: list[tuple[Descriptor, int]] = [(entry, 1) for entry in index.entries]
    while todo:
        entry, depth = todo.pop(0)
        if is_attestation(entry):
            continue
        if entry.media_type not in (OCI_INDEX, DOCKER_LIST):
            found.append(Candidate(entry, entry.platform))
            continue
        if entry.digest in seen:
            continue
        seen.add(entry.digest)
        if depth > MAX_NESTING or len(seen) > MAX_INDEXES:
            raise ImageError("the image's indexes are nested too deeply")
        raw = fetch(entry)
        inner = parse_manifest(raw.raw, entry.media_type)
        if isinstance(inner, Index):
            todo[:0] = [(one, depth + 1) for one in inner.entries]
        else:
            found.append(Candidate(entry, entry.platform))
    return found


def choose(offered: Sequence[Candidate], platform: Platform | None) -> Candidate:
    """The entry that serves ``platform`` best. Raises ImageError that lists what there is."""
    wish = platform or host_platform()
    ranked = [
        (rank, number)
        for number, one in enumerate(offered)
        if one.platform and (rank := wish.rank(one.platform)) is not None
    ]
    if ranked:
        return offered[min(ranked)[1]]
    nameless = [one for one in offered if one.platform is None or not one.platform.architecture]
    if nameless and (platform is None or len(offered) == 1):
        return nameless[0]
    if platform is None and offered:
        return offered[0]
    there = sorted({str(one.platform) for one in offered if one.platform})
    raise ImageError(
        f"the image is not made for {wish}",
        hint=f"there is: {', '.join(there)}" if there else "its index is empty",
    )


def is_unchanged(
    digest: Digest, stored: Descriptor, platform: Platform | None, blobs: Blobs
) -> bool:
    """Whether a name that now leads to ``digest`` still means the image ``stored``.

    Answers from storage alone; when that is not enough, no.
    """

    def fetch(entry: Descriptor) -> Fetched:
        return Fetched(blobs.read(entry.digest, MAX_DOCUMENT), "", entry.digest)

    if digest == stored.digest:
        return True
    try:
        top = parse_manifest(blobs.read(digest, MAX_DOCUMENT))
        if isinstance(top, Index):
            return choose(candidates(top, fetch), platform).entry.digest == stored.digest
    except ImageError:  # an index that is not here
        return False
    return False
