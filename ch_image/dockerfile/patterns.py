"""The patterns of ``${name#pattern}`` and its kin, with Go's idea of matching and replacing."""

from __future__ import annotations

import re

_REGEX_SIGNS = "[]{}.+()|^$"


class PatternError(ValueError):
    """A pattern of ``#``, ``%`` or ``/`` with an escape that means nothing."""


def pattern_regex(pattern: str) -> re.Pattern[str]:
    """The pattern of ``${name/pattern/}``. Raises PatternError."""
    return re.compile(_regex(pattern, greedy=True))


def _regex(pattern: str, *, greedy: bool) -> str:
    """A shell pattern of ``*`` and ``?`` as a regular expression.

    What stands between two stars is taken where it first appears and never tried again, which
    changes no result and keeps a pattern of many stars from taking for ever.
    """
    parts = [""]
    chars = iter(range(len(pattern)))
    for i in chars:
        char = pattern[i]
        if char == "*":
            parts.append("")
        elif char == "?":
            parts[-1] += "."
        elif char == "\\":
            after = pattern[i + 1 : i + 2]
            if after and after in "}/":
                continue  # escaped for the sake of ${}, not of the pattern
            if not after or after not in "*?\\":
                raise PatternError(f'invalid escape "\\{after}" in the pattern of a substitution')
            parts[-1] += "\\" + after
            next(chars)
        else:
            parts[-1] += "\\" + char if char in _REGEX_SIGNS else char
    first, *rest = parts
    if not rest:
        return first
    middle = "".join(f"(?>.*?{part})" for part in rest[:-1])
    return first + middle + (".*" if greedy else ".*?") + rest[-1]


def without_prefix(pattern: str, value: str, greedy: bool) -> str:
    """``value`` without the shortest (``greedy``: longest) match at its beginning."""
    found = re.match(_regex(pattern, greedy=greedy), value)
    return value[found.end() :] if found else value


def without_suffix(pattern: str, value: str, greedy: bool) -> str:
    """``value`` without the shortest (``greedy``: longest) match at its end."""
    # The shortest match at the end is found by looking for it from the other side.
    tokens = re.findall(r"\\.|[\s\S]", pattern)
    return without_prefix("".join(reversed(tokens)), value[::-1], greedy)[::-1]


def replace_all(regex: re.Pattern[str], value: str, replacement: str) -> str:
    """All matches replaced as Go does: none is empty right behind another, $0 is the match."""
    out: list[str] = []
    last, previous = 0, -1
    for found in regex.finditer(value):
        if found.start() == found.end() == previous:
            continue
        out += [value[last : found.start()], _template(replacement, found.group())]
        last = previous = found.end()
    return "".join(out) + value[last:]


def _template(replacement: str, match: str) -> str:
    """``replacement`` with $0 and ${0} as the match, $$ as a dollar, other names as nothing."""

    def put(found: re.Match[str]) -> str:
        if found.group() == "$$":
            return "$"
        return match if (found.group(1) or found.group(2)) == "0" else ""

    return re.sub(r"\$\$|\$(\w+)|\$\{(\w+)\}", put, replacement)
