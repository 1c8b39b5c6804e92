"""Times as Go writes them: ``1h30m``, ``1.5s``, ``200ms``."""

from __future__ import annotations

import re

_UNITS = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,  # micro sign
    "\u03bcs": 1_000,  # Greek mu
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_TERM = re.compile("([0-9]*)(?:\\.([0-9]*))?(ns|us|\u00b5s|\u03bcs|ms|s|m|h)")


def nanoseconds(text: str) -> int | None:
    """The time in nanoseconds, as time.ParseDuration of Go reads it; None when it is none."""
    sign = -1 if text.startswith("-") else 1
    rest = text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0
    total, at = 0, 0
    while at < len(rest):
        found = _TERM.match(rest, at)
        if not found or not (found.group(1) or found.group(2)):
            return None
        unit = _UNITS[found.group(3)]
        fraction = found.group(2) or ""
        total += int(found.group(1) or "0") * unit
        total += int(fraction or "0") * unit // 10 ** len(fraction)
        at = found.end()
    return sign * total if rest and total < 1 << 63 else None
