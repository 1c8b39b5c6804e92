"""The end of a build: an image config, and one record for each tag."""

from __future__ import annotations

import time

from ch_image.build.options import BuildOptions
from ch_image.build.state import BuildState, finish
from ch_image.errors import ChError
from ch_image.model.oci import config_json
from ch_image.model.ref import parse_ref
from ch_image.storage.images import Image
from ch_image.storage.layers import Chain
from ch_image.storage.store import Storage


def publish(
    options: BuildOptions, storage: Storage, state: BuildState, chain: Chain, made: float
) -> Image:
    """Give the result its names; the data under them is synced first. Raises StorageError.

    ``made`` is when its newest step was carried out (Unix time; 0: none was): a build that finds
    all in the cache gives the same image again, and leaves a name that has it as it is.
    """
    created = timestamp(options.epoch, made) or state.config.created or timestamp(None, time.time())
    config = finish(state, created=created, labels=options.labels, platform=options.platform)
    # Only layers that were pulled have diff IDs yet; the rest are digested when someone asks.
    config = config._replace(diff_ids=())
    first: Image | None = None
    if not options.tags:  # to be given out only
        ref = parse_ref("localhost/unnamed")
        return Image(ref, config, chain, None, time.time(), options.annotations)
    for ref in options.tags:
        image = Image(ref, config, chain, None, time.time(), options.annotations)
        known = _same(storage, image)
        if known is None:
            storage.images.put(image)
        first = first or known or image
    assert first is not None
    return first


def _same(storage: Storage, image: Image) -> Image | None:
    """What the name stands for already, if that is the same image."""
    try:
        found = storage.images.find(image.ref)
    except ChError:  # damaged or incomplete: it is replaced
        return None
    if found is None or found.layers != image.layers or found.annotations != image.annotations:
        return None
    known = config_json(found.config._replace(diff_ids=()))
    return found if known == config_json(image.config) else None


def timestamp(epoch: int | None, made: float) -> str:
    """``made``, or SOURCE_DATE_EPOCH, as RFC 3339 in UTC, as Docker writes it; empty for 0."""
    if epoch is not None:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))
    if not made:
        return ""
    seconds, rest = divmod(round(made * 1_000_000), 1_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:06d}Z"
