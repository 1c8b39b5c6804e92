"""Image references: ``[HOST[:PORT]/]PATH[:TAG][@sha256:DIGEST]``.

The grammar is that of distribution/reference. A first component is a host when it has a dot or a
colon or is ``localhost``; otherwise the default registry is meant, and a single name on Docker
Hub lies under ``library/``.
"""

from __future__ import annotations

from ch_image.errors import ImageError, printable
from ch_image.model.digest import Digest, hex_of, parse_digest
from ch_image.regex import regex
from ch_image.typed import NamedTuple

DOCKER_HUB = "registry-1.docker.io"
_HUB_NAMES = ("docker.io", "index.docker.io", DOCKER_HUB)

_HOST = regex(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*"
    r"|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?"
)
_COMPONENT = regex(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


class DefaultRegistry(NamedTuple):
    """Where names without a host lead (``CH_REGY_DEFAULT_HOST`` and its kin)."""

    host: str = DOCKER_HUB
    prefix: str = "library"  # put before single names; empty: none


class ImageRef(NamedTuple):
    """A name of an image, complete: nothing is implied any more."""

    registry: str  # HOST[:PORT]
    repository: str
    tag: str  # "latest" unless given; empty when only a digest names the image
    digest: Digest | None
    name: str  # the short form, as a user would write it

    def __str__(self) -> str:
        return self.name

    @property
    def canonical(self) -> str:
        """Everything spelt out; what makes two references the same."""
        text = f"{self.registry}/{self.repository}"
        if self.tag:
            text += f":{self.tag}"
        return f"{text}@{self.digest}" if self.digest else text

    @property
    def reference(self) -> str:
        """What a registry is asked for: the digest when there is one, else the tag."""
        return self.digest or self.tag

    @property
    def file_name(self) -> str:
        """An injective file name of at most 200 bytes that is no path and never hidden."""
        text = "".join(c if c in _SAFE else f"%{ord(c):02X}" for c in self.canonical)
        if len(text) <= 200:
            return text
        import hashlib

        return text[:150] + "%" + hashlib.sha256(text.encode()).hexdigest()[:40]


def parse_ref(text: str, default: DefaultRegistry = DefaultRegistry()) -> ImageRef:  # noqa: B008
    """Parse a reference as users write it. Raises ImageError naming the faulty part."""
    shown = printable(text, 200)

    def refuse(why: str, hint: str = "") -> ImageError:
        return ImageError(f"not an image reference: {shown!r}: {why}", hint=hint)

    if not text:
        raise refuse("it is empty")
    if len(text) > 600:
        raise refuse("it is too long")
    rest, at, digest_text = text.partition("@")
    digest: Digest | None = None
    if at:
        try:
            digest = parse_digest(digest_text)
        except ImageError:
            raise refuse("the part after @ is not sha256: and 64 hexadecimal digits") from None
    first, slash, remainder = rest.partition("/")
    host = ""
    if slash and ("." in first or ":" in first or first == "localhost"):
        host, rest = first, remainder
        if not _HOST.fullmatch(host):
            raise refuse(f"{printable(host)!r} is not a host name")
    path, colon, tag = rest.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise refuse(f"{printable(tag)!r} is not a tag")
    if len(path) > 255:
        raise refuse("the name is longer than 255 characters")
    for component in path.split("/"):
        if not _COMPONENT.fullmatch(component):
            why = f"{printable(component)!r} is not a name" if component else "a name is empty"
            hint = "names are lower case" if component.lower() != component else ""
            raise refuse(why, hint)
    if not tag and digest is None:
        tag = "latest"
    if host in _HUB_NAMES:
        registry, prefix = DOCKER_HUB, "library"
    elif host:
        registry, prefix = host, ""
    else:
        registry, prefix = default.host, default.prefix
    repository = path if not prefix or "/" in path else f"{prefix}/{path}"
    name = path if not host or host in _HUB_NAMES else f"{host}/{path}"
    name += f":{tag}" if colon else ""
    name += f"@{digest}" if digest else ""
    return ImageRef(registry, repository, tag, digest, name)


def short_digest(digest: str) -> str:
    """The first 12 hexadecimal digits, as people quote them."""
    return hex_of(digest)[:12]
