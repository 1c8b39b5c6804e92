"""What registries say in words: refusals, warnings, and where a list goes on. Asks nothing."""

from __future__ import annotations

import re

from ch_image.errors import ImageError, RegistryError, printable
from ch_image.model.oci import parse_json
from ch_image.registry.response import Response

MAX_ERROR = 1 << 20  # bytes of an error's body
MAX_WARNINGS = 4096  # bytes of all warnings of an answer, by the specification
_WARNING = re.compile(r'299 \S+ "((?:[^"\\]|\\.)*)"')


def error_text(response: Response) -> str:
    """What a registry says about a refusal, on one line; empty when it says nothing readable."""
    try:
        raw = b"".join(response.chunks(MAX_ERROR))
        errors = parse_json(raw, "error").get("errors")
    except (RegistryError, ImageError):
        return ""
    said: list[str] = []
    for item in errors[:5] if isinstance(errors, list) else []:
        if isinstance(item, dict):
            texts = [item.get("code"), item.get("message")]
            said.append(" ".join(text for text in texts if isinstance(text, str) and text))
    return printable("; ".join(said), 300)


def next_link(header: str) -> str:
    """The target of ``rel="next"`` in a Link header (RFC 8288), or the empty string."""
    for match in re.finditer(r"<([^<>]*)>([^<]*)", header):
        if re.search(r';\s*rel="?next"?', match.group(2)):
            return match.group(1)
    return ""


def warnings(header: str) -> list[str]:
    """The texts of a Warning header (distribution specification, "Warnings"; RFC 7234, 5.5)."""
    return [re.sub(r"\\(.)", r"\1", text) for text in _WARNING.findall(header[:MAX_WARNINGS])]
