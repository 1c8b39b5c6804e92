"""Go's ``filepath.Match`` for the source paths of COPY and ADD, one path component at a time.

``*`` and ``?`` match dots too, ``[^...]`` negates, a backslash takes the next character as it is,
and no wildcard ever matches a slash, so ``**`` is the same as ``*`` (only ``--parents``,
``--exclude`` and ``.dockerignore`` know a ``**``; they are `ch_image.dockerfile.ignore`'s).
"""

from __future__ import annotations

import re

from ch_image.errors import BuildError, printable


def has_wildcards(text: str) -> bool:
    """Whether ``text`` holds ``*``, ``?`` or ``[`` that no backslash protects."""
    i = 0
    while i < len(text):
        if text[i] == "\\":
            i += 1
        elif text[i] in "*?[":
            return True
        i += 1
    return False


def compile_component(pattern: str) -> re.Pattern[str]:
    """The pattern for one component; match it with ``fullmatch``. Raises BuildError."""
    out = []
    i = 0
    while i < len(pattern):
        char = pattern[i]
        i += 1
        if char == "*":
            out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "[":
            text, i = _set(pattern, i)
            out.append(text)
        elif char == "\\":
            if i == len(pattern):
                raise _bad(pattern, "it ends in a backslash")
            out.append(re.escape(pattern[i]))
            i += 1
        else:
            out.append(re.escape(char))
    return re.compile("".join(out), re.DOTALL)


def _set(pattern: str, i: int) -> tuple[str, int]:
    """The set that begins behind the bracket before ``i``, and where it ends."""
    negated = pattern[i : i + 1] == "^"
    i += negated
    ranges: list[tuple[str, str]] = []
    while True:
        if pattern[i : i + 1] == "]" and ranges:
            break
        low, i = _member(pattern, i)
        high = low
        if pattern[i : i + 1] == "-":
            high, i = _member(pattern, i + 1)
        ranges.append((low, high))
    # A range that runs backwards matches nothing in Go, where Python refuses it.
    members = "".join(f"{re.escape(a)}-{re.escape(b)}" for a, b in ranges if a <= b)
    if negated:
        return f"[^/{members}]", i + 1
    return (f"(?!/)[{members}]" if members else "(?!)"), i + 1


def _member(pattern: str, i: int) -> tuple[str, int]:
    """One character of a set, and the place behind it."""
    char = pattern[i : i + 1]
    if char == "\\":
        i += 1
        char = pattern[i : i + 1]
    elif char in ("-", "]"):
        raise _bad(pattern, f"{char!r} needs a backslash there")
    if not char:
        raise _bad(pattern, "'[' is not closed")
    return char, i + 1


def _bad(pattern: str, why: str) -> BuildError:
    return BuildError(
        f'the pattern "{printable(pattern)}" is wrong: {why}',
        hint="a name that holds a bracket is written with [[] for each one",
    )
