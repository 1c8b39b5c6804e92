"""Content digests, checked once where they enter (OCI image-spec, "Digests")."""

from __future__ import annotations

import re

from ch_image.errors import ImageError, printable
from ch_image.model.sha256 import sha256
from ch_image.typed import NewType

Digest = NewType("Digest", str)  # "sha256:" + 64 lower-case hexadecimal digits
DiffId = NewType("DiffId", str)  # the digest of a layer's uncompressed tar

_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")


def parse_digest(text: object) -> Digest:
    """A digest that is safe in a path or URL. Raises ImageError on anything but sha256."""
    if not isinstance(text, str) or not _SHA256.fullmatch(text):
        raise ImageError(f"not a sha256 digest: {printable(str(text), 100)!r}")
    return Digest(text)


def digest_of(data: bytes) -> Digest:
    """The digest of ``data``."""
    return Digest("sha256:" + sha256(data).hexdigest())


def hex_of(digest: str) -> str:
    """The hexadecimal part of a checked digest."""
    return digest.partition(":")[2]
