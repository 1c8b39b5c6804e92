"""``.dockerignore`` and the patterns of ``--exclude``: which paths are left out.

A path is judged as BuildKit judges it while it walks a tree (moby/patternmatcher's
MatchesUsingParentResults): the rules are tried in order, a rule that holds for a directory holds
for all that is in it, and a ``!`` rule brings back what an earlier one left out. A ``**`` stands
for any number of directories, ``*`` and ``?`` stop at a slash.

Two differences are meant, where patternmatcher lets its regular expressions shine through: in a
class and behind a backslash, each character means what Go's filepath.Match says, and a line end
in a name is a character like any other.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Sequence

from ch_image.dockerfile.ast import Span, fault_at
from ch_image.dockerfile.expand import BLANKS
from ch_image.errors import BuildError, printable
from ch_image.typed import NamedTuple, Protocol

_ENDS = re.compile(f"\\A[{BLANKS}]+|[{BLANKS}]+\\Z")
_CLASS_SIGNS = "\\]^-[&~|"


class Line(NamedTuple):
    """A rule as it was written, and where."""

    file: str
    number: int
    text: str


class _Matcher(Protocol):
    """What a pattern is compiled to: a regular expression, or something more patient."""

    def fullmatch(self, text: str, /) -> object | None: ...


class _Rule(NamedTuple):
    exception: bool
    regex: _Matcher
    parts: tuple[str, ...]  # the pattern's components
    line: Line


class Ignore:
    """A list of rules. It remembers directories, so ask about a directory's files in one go."""

    def __init__(self, rules: Sequence[_Rule]) -> None:
        self._rules = tuple(rules)
        self.has_exceptions = any(rule.exception for rule in rules)
        # One look for all: most paths match no rule, and then no exception matters.
        self._any = _any_of([rule.regex for rule in rules if not rule.exception])
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
    return _Rule(exception, _compile(pattern), tuple(pattern.split("/")), line)


def _any_of(matchers: Sequence[_Matcher]) -> Callable[[str], object] | None:
    """Whether one of ``matchers`` matches; None when there are none."""
    fast = [f"(?:{one.pattern})" for one in matchers if isinstance(one, re.Pattern)]
    slow = [one.fullmatch for one in matchers if not isinstance(one, re.Pattern)]
    joined = re.compile("|".join(fast)).fullmatch if fast else None
    if joined is None or not slow:
        return joined if not slow else lambda path: any(one(path) for one in slow)
    return lambda path: joined(path) or any(one(path) for one in slow)


class _Token(NamedTuple):
    """A piece of a pattern: its regular expression, and how often it may be taken."""

    regex: str
    kind: str  # one character, a star within a component, or any number of directories


_ONE, _STAR, _ANYTHING, _DIRECTORIES = "one", "star", "anything", "directories"
_STARS = 3  # more of them, and a regular expression may take for ever


def _compile(pattern: str) -> _Matcher:
    tokens = _tokens(pattern)
    if sum(token.kind != _ONE for token in tokens) > _STARS:
        return _Patient(tokens)
    suffix = {_ONE: "", _STAR: "*", _ANYTHING: "*", _DIRECTORIES: ""}
    return re.compile("".join(token.regex + suffix[token.kind] for token in tokens))


def _tokens(pattern: str) -> list[_Token]:
    """A pattern in pieces. Raises ValueError with the reason why it is none."""
    out: list[_Token] = []
    i, end = 0, len(pattern)
    while i < end:
        char = pattern[i]
        i += 1
        if char == "*" and pattern.startswith("*", i):
            first = i == 1
            i += 1
            slash = pattern.startswith("/", i)
            i += slash
            # In front of a plain name "**name" is any path that ends so; elsewhere ** ends at a
            # slash even where none is written.
            plain = not any(sign in pattern[i:] for sign in "*?[]\\")
            if i >= end or (first and plain and not slash):
                out.append(_Token("(?s:.)", _ANYTHING))
            else:
                out.append(_Token("(?:(?s:.*)/)?", _DIRECTORIES))
        elif char == "*":
            out.append(_Token("[^/]", _STAR))
        elif char == "?":
            out.append(_Token("[^/]", _ONE))
        elif char == "[":
            text, i = _class(pattern, i)
            out.append(_Token(text, _ONE))
        elif char == "\\":
            if i >= end:
                raise ValueError("a backslash at the end of a pattern has nothing to escape")
            out.append(_Token(re.escape(pattern[i]), _ONE))
            i += 1
        else:
            out.append(_Token(re.escape(char), _ONE))
    return out


class _Patient:
    """Matches a pattern of many stars by keeping all its possible places at once."""

    def __init__(self, tokens: Sequence[_Token]) -> None:
        self._tokens = [(token.kind, re.compile(token.regex).match) for token in tokens]

    def fullmatch(self, text: str) -> bool | None:
        """Whether the pattern matches all of ``text``; None when it does not."""
        places, inside, end = self._skipped({0}), set[int](), len(self._tokens)
        for char in text:
            after = set()
            for place in places - {end}:
                kind, match = self._tokens[place]
                if kind == _DIRECTORIES:
                    inside.add(place)
                elif match(char):
                    after.add(place + (kind == _ONE))
            if char == "/":
                after.update(place + 1 for place in inside)
            places = self._skipped(after)
        return True if end in places else None

    def _skipped(self, places: set[int]) -> set[int]:
        """These places and those that are reached without a character."""
        for place in list(places):
            while 0 <= place < len(self._tokens) and self._tokens[place][0] != _ONE:
                place += 1
                places.add(place)
        return places


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
        if not _compile(part).fullmatch(names[index]):
            return False
    return False
