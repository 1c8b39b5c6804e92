"""The end of a build: an image config, and one record for each tag."""

from __future__ import annotations

import time

from ch_image.build.options import BuildOptions
from ch_image.build.state import BuildState, finish
from ch_image.storage.images import Image
from ch_image.storage.layers import Chain
from ch_image.storage.store import Storage


def publish(
    options: BuildOptions, storage: Storage, state: BuildState, chain: Chain
) -> Image | None:
    """Give the result its names; the data under them is synced first. Raises StorageError."""
    created = timestamp(options.epoch)
    config = finish(state, created=created, labels=options.labels, platform=options.platform)
    # Only layers that were pulled have diff IDs yet; the rest are digested when someone asks.
    config = config._replace(diff_ids=())
    first: Image | None = None
    for ref in options.tags:
        image = Image(ref, config, chain, None, time.time(), options.annotations)
        storage.images.put(image)
        first = first or image
    return first


def timestamp(epoch: int | None) -> str:
    """Now, or SOURCE_DATE_EPOCH, as RFC 3339 in UTC with nanoseconds as Docker writes them."""
    if epoch is not None:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))
    nanoseconds = time.time_ns()
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:09d}Z"
