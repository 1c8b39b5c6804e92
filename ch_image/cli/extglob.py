"""Shell patterns with ksh's extensions, as fnmatch(3) understands them with FNM_EXTMATCH.

``*  ?  [abc] [!abc] [a-z] [[:alpha:]]  \\x`` and, over lists ``(PATTERN|PATTERN...)``, ``?(`` at
most once, ``*(`` any number, ``+(`` at least once, ``@(`` once, ``!(`` anything else. Written by
hand because importing ``re`` would cost ch-run a third of its time, and in time that is polynomial
in the lengths, whatever the pattern.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_CLASSES: dict[str, Callable[[str], bool]] = {
    "alnum": str.isalnum,
    "alpha": str.isalpha,
    "blank": lambda c: c in " \t",
    "digit": lambda c: c in "0123456789",
    "lower": str.islower,
    "punct": lambda c: c.isprintable() and not c.isalnum() and c != " ",
    "space": str.isspace,
    "upper": str.isupper,
    "xdigit": lambda c: c in "0123456789abcdefABCDEF",
}


def matches(text: str, pattern: str) -> bool:
    """Whether the whole of ``text`` fits ``pattern``."""
    return len(text) in _ends(text, {0}, pattern)


def _ends(text: str, starts: set[int], pattern: str) -> set[int]:
    """Where a match of ``pattern`` may end that begins at one of ``starts``."""
    at = 0
    while at < len(pattern) and starts:
        char = pattern[at]
        if char in "?*+@!" and pattern[at + 1 : at + 2] == "(":
            close = _closing(pattern, at + 1)
            if close > 0:
                choices = _alternatives(pattern[at + 2 : close])
                starts = _group(text, starts, char, choices)
                at = close + 1
                continue
        if char == "*":
            starts = set(range(min(starts), len(text) + 1))
            at += 1
        else:
            test, at = _single(pattern, at)
            starts = {n + 1 for n in starts if n < len(text) and test(text[n])}
    return starts


def _group(text: str, starts: set[int], kind: str, choices: list[str]) -> set[int]:
    if kind == "!":
        return {
            end
            for start in starts
            for end in range(start, len(text) + 1)
            if not any(end - start in _ends(text[start:end], {0}, one) for one in choices)
        }
    once = _any(text, starts, choices)
    if kind == "@":
        return once
    if kind == "?":
        return starts | once
    found, new = set(once), once
    while new:
        new = _any(text, new, choices) - found
        found |= new
    return found | starts if kind == "*" else found


def _any(text: str, starts: set[int], choices: Iterable[str]) -> set[int]:
    return {end for one in choices for end in _ends(text, starts, one)}


def _single(pattern: str, at: int) -> tuple[Callable[[str], bool], int]:
    """The test that one character has to pass, and where the pattern goes on."""
    char = pattern[at]
    if char == "?":
        return (lambda c: True), at + 1
    if char == "\\" and at + 1 < len(pattern):
        literal = pattern[at + 1]
        return (lambda c: c == literal), at + 2
    if char == "[":
        end = _bracket_end(pattern, at)
        if end > 0:
            return _bracket(pattern[at + 1 : end]), end + 1
    return (lambda c: c == char), at + 1


def _bracket_end(pattern: str, at: int) -> int:
    """Where the bracket expression at ``at`` ends; 0 when it doesn't, and stands for itself."""
    at += 1
    if pattern[at : at + 1] in ("!", "^"):
        at += 1
    if pattern[at : at + 1] == "]":
        at += 1
    while at < len(pattern):
        if pattern[at : at + 2] == "[:":
            end = pattern.find(":]", at + 2)
            if end > 0:
                at = end + 2
                continue
        if pattern[at] == "]":
            return at
        at += 2 if pattern[at] == "\\" else 1
    return 0


def _bracket(inner: str) -> Callable[[str], bool]:
    negated = inner[:1] in ("!", "^")
    at = 1 if negated else 0
    tests: list[Callable[[str], bool]] = []
    while at < len(inner):
        if inner[at : at + 2] == "[:" and (end := inner.find(":]", at)) > 0:
            tests.append(_CLASSES.get(inner[at + 2 : end], lambda c: False))
            at = end + 2
            continue
        if inner[at] == "\\" and at + 1 < len(inner):
            at += 1
        low = inner[at]
        at += 1
        high = low
        if inner[at : at + 1] == "-" and at + 1 < len(inner):
            at += 2 if inner[at + 1] == "\\" and at + 2 < len(inner) else 1
            high = inner[at]
            at += 1
        tests.append(lambda c, low=low, high=high: low <= c <= high)  # type: ignore[misc]
    return lambda c: any(test(c) for test in tests) != negated


def _closing(pattern: str, at: int) -> int:
    """The parenthesis that closes the one at ``at``; 0 when there is none."""
    depth = 0
    while at < len(pattern):
        char = pattern[at]
        if char == "\\":
            at += 1
        elif char == "[":
            at = max(at, _bracket_end(pattern, at))
        elif char == "(":
            depth += 1
        elif char == ")":
            depth -= 1
            if depth == 0:
                return at
        at += 1
    return 0


def _alternatives(inner: str) -> list[str]:
    """The parts of a list, split at the bars that are not in an inner list."""
    parts, start, at, depth = [], 0, 0, 0
    while at < len(inner):
        char = inner[at]
        if char == "\\":
            at += 1
        elif char == "[":
            at = max(at, _bracket_end(inner, at))
        elif char == "(":
            depth += 1
        elif char == ")":
            depth -= 1
        elif char == "|" and depth == 0:
            parts.append(inner[start:at])
            start = at + 1
        at += 1
    return [*parts, inner[start:]]
