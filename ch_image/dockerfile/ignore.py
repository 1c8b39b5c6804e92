"""``.dockerignore`` and the patterns of ``--exclude``: which paths are left out.

A path is judged as BuildKit judges it while it walks a tree (moby/patternmatcher's
MatchesUsingParentResults): the rules are tried in order, a rule that holds for a directory holds
for all that is in it, and a ``!`` rule brings back what an earlier one left out. A ``**`` stands
for any number of directories, ``*`` and ``?`` stop at a slash.

One difference is meant: in a class and behind a backslash, each character means what Go's
filepath.Match says, where patternmatcher lets parts of its regular expressions shine through.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ch_image.dockerfile.ast import Span, fault_at
from ch_image.dockerfile.expand import BLANKS
from ch_image.errors import BuildError, printable

_ENDS = re.compile(f"\\A[{BLANKS}]+|[{BLANKS}]+\\Z")
_CLASS_SIGNS = "\\]^-[&~|"


class Line(NamedTuple):
    """A rule as it was written, and where."""

    file: str
    number: int
    text: str


class _Rule(NamedTuple):
    exception: bool
    regex: re.Pattern[str]
    parts: tuple[str, ...]  # the pattern's components
    line: Line


class Ignore:
    """A list of rules. It remembers directories, so ask about a directory's files in one go."""

    def __init__(self, rules: Sequence[_Rule]) -> None:
        self._rules = tuple(rules)
        self.has_exceptions = any(rule.exception for rule in rules)
        plain = [f"(?:{rule.regex.pattern})" for rule in rules if not rule.exception]
        # One look for all: most paths match no rule, and then no exception matters.
        self._any = re.compile("|".join(plain)).fullmatch if plain else None
        self._below: dict[str, int] = {}

    def excluded(self, path: str) -> bool:
        """Whether ``path`` (relative, clean, with slashes) is left out; the root never is."""
        if self._any is None or path in ("", "."):
            return False
        above = self._inherited(path)
        if above == 0 and not self._any(path):
            return False
        return self._judge(path, above)[0] is not None

    def explain(self, path: str) -> Line | None:
        """The rule that leaves out ``path``; None when it is not left out."""
        rule = self._judge(path, self._inherited(path))[0]
        return None if rule is None else rule.line

    def may_return(self, path: str) -> bool:
        """Whether an exception may bring back something below ``path``, a directory left out.

        False means that the directory need not be read at all.
        """
        names = path.split("/")
        return any(rule.exception and _leads_below(rule.parts, names) for rule in self._rules)

    def _inherited(self, path: str) -> int:
        """One bit for each rule that holds for the directory of ``path``."""
        directory = path.rpartition("/")[0]
        if not directory:
            return 0
        bits = self._below.get(directory)
        if bits is None:
            above = self._inherited(directory)
            if above == 0 and (self._any is None or not self._any(directory)):
                bits = 0
            else:
                bits = self._judge(directory, above)[1]
            self._below[directory] = bits
        return bits

    def _judge(self, path: str, above: int) -> tuple[_Rule | None, int]:
        """The rule that leaves out ``path``, if one does, and the rules that hold for it."""
        by: _Rule | None = None
        bits, bit = 0, 1
        for rule in self._rules:
            if above & bit or (
                rule.exception == (by is not None) and rule.regex.fullmatch(path) is not None
            ):
                bits |= bit
                by = None if rule.exception else rule
            bit <<= 1
        return by, bits


def parse(data: str | bytes, file: str = ".dockerignore") -> Ignore:
    """The rules of an ignore file. Raises DockerfileError that points at a bad line."""
    text = data.decode("utf-8", "surrogateescape") if isinstance(data, bytes) else data
    lines = text.removeprefix("\ufeff").split("\n")
    rules = []
    for number, line in enumerate(lines, 1):
        pattern = _ENDS.sub("", line)
        if not pattern or line.startswith("#"):
            continue
        exception = pattern.startswith("!")
        pattern = _ENDS.sub("", pattern[exception:])
        if pattern:
            pattern = _clean(pattern)
            if pattern.startswith("/") and len(pattern) > 1:
                pattern = pattern[1:]
        try:
            rule = _rule("!" * exception + pattern, Line(file, number, _ENDS.sub("", line)))
        except ValueError as error:
            shown = line.rstrip("\r")
            start = len(shown) - len(shown.lstrip())
            place = Span(number, start + 1, len(shown.strip()))
            raise fault_at(file, [part.rstrip("\r") for part in lines], place, str(error)) from None
        rules.append(rule)
    return Ignore(rules)


def from_patterns(patterns: Iterable[str]) -> Ignore:
    """The rules that an instruction's flags name. Raises BuildError for a bad pattern."""
    rules = []
    for number, written in enumerate(patterns, 1):
        pattern = _ENDS.sub("", written)
        if not pattern:
            continue
        try:
            rules.append(_rule(pattern, Line("", number, written)))
        except ValueError as error:
            raise BuildError(f'"{printable(written)}": {error}') from None
    return Ignore(rules)


def _clean(path: str) -> str:
    """``path`` as filepath.Clean of Go makes it."""
    cleaned = posixpath.normpath(path)
    return cleaned[1:] if cleaned.startswith("//") else cleaned


def _rule(pattern: str, line: Line) -> _Rule:
    pattern = _clean(_ENDS.sub("", pattern))
    exception = pattern.startswith("!")
    pattern = pattern[exception:]
    if not pattern:
        raise ValueError("there is no pattern behind the exclamation mark")
    return _Rule(exception, re.compile(_regex(pattern)), tuple(pattern.split("/")), line)


def _regex(pattern: str) -> str:
    """A pattern as a regular expression for a whole path. Raises ValueError with the reason."""
    out: list[str] = []
    literal = True  # nothing so far but characters that stand for themselves
    i, end = 0, len(pattern)
    while i < end:
        char = pattern[i]
        i += 1
        if char == "*" and pattern.startswith("*", i):
            i += 1
            first = i == 2
            if pattern.startswith("/", i):
                i += 1
            if i >= end:
                out.append(".*" if not (literal or first) else "(?s:.*)")
            else:
                out.append(_leading_stars(pattern, i) if first else "(?:.*/)?")
            literal = False
        elif char == "*":
            out.append("[^/]*")
            literal = False
        elif char == "?":
            out.append("[^/]")
            literal = False
        elif char == "[":
            text, i = _class(pattern, i)
            out.append(text)
            literal = False
        elif char == "\\":
            if i >= end:
                raise ValueError("a backslash at the end of a pattern has nothing to escape")
            out.append(re.escape(pattern[i]))
            i += 1
            literal = False
        else:
            out.append(re.escape(char))
    return "".join(out)


def _leading_stars(pattern: str, rest: int) -> str:
    """``**`` at the beginning: before a plain name it is any text at all, line ends included."""
    plain = not any(sign in pattern[rest:] for sign in "*?[]\\")
    if pattern[rest - 1] == "/":
        return "(?:(?s:.*)/)?" if plain else "(?:.*/)?"
    return "(?s:.*)" if plain else "(?:.*/)?"


def _class(pattern: str, start: int) -> tuple[str, int]:
    """``[...]`` from behind its bracket: a class of a regular expression, and where it ends."""
    i, items = start, ["["]
    if pattern.startswith("^", i):
        items.append("^")
        i += 1
    count = 0
    while not (count and pattern.startswith("]", i)):
        low, i = _class_character(pattern, i)
        high = low
        if pattern.startswith("-", i):
            high, i = _class_character(pattern, i + 1)
        if low > high:
            raise ValueError(f"the range {low}-{high} goes backwards")
        items.append(_signed(low) if low == high else f"{_signed(low)}-{_signed(high)}")
        count += 1
    return "".join(items) + "]", i + 1


def _class_character(pattern: str, i: int) -> tuple[str, int]:
    if i < len(pattern) and pattern[i] == "\\":
        i += 1
    elif i < len(pattern) and pattern[i] in "-]":
        raise ValueError(f"a {pattern[i]} cannot stand there in a [class]")
    if i >= len(pattern):
        raise ValueError("the closing ] of a [class] is missing")
    return pattern[i], i + 1


def _signed(char: str) -> str:
    return "\\" + char if char in _CLASS_SIGNS else char


def _leads_below(parts: Sequence[str], names: Sequence[str]) -> bool:
    """Whether a pattern of these components may match something below the directory ``names``."""
    for index, part in enumerate(parts):
        # A class may match a slash, and then the components say nothing.
        if "**" in part or "[" in part or index == len(names):
            return True
        if not re.compile(_regex(part)).fullmatch(names[index]):
            return False
    return False
