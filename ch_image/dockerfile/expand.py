"""Variables, quotes and escapes in the words of a Dockerfile, read as BuildKit's shell lexer does.

The reference is ``frontend/dockerfile/shell/lex.go`` of BuildKit. One difference is meant: a
default inside a word that is split (``EXPOSE 80${X:-80}``) does not lose what stands before it.
Where a value comes from, and which instruction is expanded how, is the builder's affair.
"""

from __future__ import annotations

from collections.abc import Callable

from ch_image.dockerfile.ast import Dockerfile, Heredoc, Span, Word
from ch_image.dockerfile.patterns import (
    PatternError,
    pattern_regex,
    replace_all,
    without_prefix,
    without_suffix,
)
from ch_image.errors import printable
from ch_image.regex import regex
from ch_image.typed import NamedTuple

Lookup = Callable[[str], str | None]

# What unicode.IsSpace of Go takes for a blank; str.isspace() adds four control characters.
BLANKS = "\t\n\v\f\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_BLANK = regex(f"[{BLANKS}]")

_SPECIAL = regex("""[$'"\\\\`<]""")
_MAX_DEPTH = 100
_PARAMETERS = "@*#?-$!0"


class ExpandError(ValueError):
    """A word that cannot be expanded; ``offset`` and ``length`` mark the fault in its text."""

    def __init__(self, message: str, offset: int, length: int = 1) -> None:
        super().__init__(message)
        self.offset, self.length = offset, length


class Piece(NamedTuple):
    """One of the words a text splits into, and where in the text it begins."""

    text: str
    offset: int


class Expansion(NamedTuple):
    """A text expanded as one word, the same split at blanks, and the names nobody had set.

    ``unset`` holds (name, offset in the text), a name as often as it was asked for.
    """

    text: str
    pieces: list[Piece]
    unset: list[tuple[str, int]]


def expand(
    text: str,
    lookup: Lookup,
    escape: str = "\\",
    *,
    keep_quotes: bool = False,
    keep_escapes: bool = False,
    ignore_quotes: bool = False,
    keep_unset: bool = False,
) -> Expansion:
    """Expand ``text``: variables replaced, quotes and escapes removed unless they are kept.

    ``ignore_quotes`` makes quotes ordinary characters, ``keep_unset`` leaves references to unset
    variables as they stand (an unset variable is empty otherwise). Raises `ExpandError`.
    """
    scan = _Scan(text, lookup, escape, keep_quotes, ignore_quotes, keep_unset)
    result, pieces = scan.until("", keep_escapes)
    return Expansion(result, pieces, scan.unset)


def expand_words(text: str, lookup: Lookup, escape: str = "\\") -> list[str]:
    """Expand ``text``, then split it at the blanks that are not quoted. Raises `ExpandError`."""
    return [piece.text for piece in expand(text, lookup, escape).pieces]


class Expander:
    """Expands the words of one Dockerfile; faults point at their place in it.

    ``unset`` collects the names that nobody had set, each with its place.
    """

    def __init__(self, dockerfile: Dockerfile, lookup: Lookup) -> None:
        self.dockerfile, self.lookup = dockerfile, lookup
        self.unset: list[tuple[str, Span]] = []

    def word(self, word: Word) -> str:
        """The one string that ``word`` stands for. Raises DockerfileError."""
        if not _SPECIAL.search(word.text):
            return word.text
        return self._expand(word).text

    def words(self, word: Word) -> list[str]:
        """What ``word`` splits into once expanded, as EXPOSE wants. Raises DockerfileError."""
        return [piece.text for piece in self._expand(word).pieces]

    def document(self, heredoc: Heredoc) -> str:
        """The text of a COPY heredoc: variables replaced unless its delimiter was quoted.

        Quotes are ordinary characters here, and the escape is always a backslash.
        """
        data = heredoc.data
        if not heredoc.expand or not _SPECIAL.search(data):
            return data
        try:
            result = expand(data, self.lookup, ignore_quotes=True)
        except ExpandError as error:
            line = heredoc.line + data.count("\n", 0, error.offset)
            tabs = 0
            if heredoc.chomp and line <= len(self.dockerfile.lines):
                written = self.dockerfile.lines[line - 1]
                tabs = len(written) - len(written.lstrip("\t"))
            column = error.offset - (data.rfind("\n", 0, error.offset) + 1) + tabs + 1
            place = Span(line, column, error.length)
            raise self.dockerfile.fault(place, str(error), hint=_HINT) from None
        self.unset += [(name, heredoc.span) for name, _ in result.unset]
        return result.text

    def _expand(self, word: Word) -> Expansion:
        try:
            result = expand(word.text, self.lookup, self.dockerfile.directives.escape)
        except ExpandError as error:
            place = word.at(error.offset, error.length)
            raise self.dockerfile.fault(place, str(error), hint=_HINT) from None
        self.unset += [(name, word.at(offset, len(name) + 1)) for name, offset in result.unset]
        return result


_HINT = "write \\$ for a dollar sign, and put a quote into the other kind of quotes"


class _Scan:
    """One pass over a text; nested for the words inside ``${...}``."""

    def __init__(
        self,
        text: str,
        lookup: Lookup,
        escape: str,
        keep_quotes: bool,
        ignore_quotes: bool,
        keep_unset: bool,
    ) -> None:
        self.text = text.removeprefix("\ufeff")
        self.skipped = len(text) - len(self.text)
        self.pos, self.end = 0, len(self.text)
        self.lookup, self.escape = lookup, escape
        self.keep_quotes, self.ignore_quotes = keep_quotes, ignore_quotes
        self.keep_unset = keep_unset
        self.keep_escapes = False
        self.depth = 0
        self.unset: list[tuple[str, int]] = []

    def fault(self, message: str, start: int) -> ExpandError:
        return ExpandError(message, start + self.skipped, max(1, self.pos - start))

    def until(self, stop: str, keep_escapes: bool, begin: int = 0) -> tuple[str, list[Piece]]:
        """Read up to ``stop`` (empty: the end): the text as one word, and split at blanks.

        ``begin`` is where that began which ``stop`` closes.
        """
        before, self.keep_escapes = self.keep_escapes, keep_escapes
        out: list[str] = []
        pieces: list[Piece] = []
        word: list[str] = []
        word_start = 0
        while self.pos < self.end:
            start, char = self.pos, self.text[self.pos]
            if char == stop:
                break
            splits = True
            if char == "$":
                got = self.dollar()
            elif char == "<":
                got, splits = self.angle(), False
            elif char in "'\"" and not self.ignore_quotes:
                got, splits = (self.single() if char == "'" else self.double()), False
            elif char == self.escape:
                got, splits = self.escaped(), False
            else:
                got, self.pos = char, start + 1
            out.append(got)
            for part in got if splits else (got,):
                if splits and _BLANK.match(part):
                    if word:
                        pieces.append(Piece("".join(word), word_start + self.skipped))
                        word = []
                elif part:
                    word_start = word_start if word else start
                    word.append(part)
        if stop:
            if self.pos >= self.end:
                raise self.fault(f"the closing {stop} is missing", begin)
            self.pos += 1
        if word:
            pieces.append(Piece("".join(word), word_start + self.skipped))
        self.keep_escapes = before
        return "".join(out), pieces

    def escaped(self) -> str:
        """The character behind an escape; nothing at the very end."""
        start = self.pos
        self.pos = min(start + 2, self.end)
        return self.text[start if self.keep_escapes else start + 1 : self.pos]

    def angle(self) -> str:
        """``<``, or ``<<`` with the blanks behind it: a heredoc's name is one word with it."""
        start = self.pos
        self.pos += 1
        if self.text.startswith("<", self.pos):
            self.pos += 1
            while self.pos < self.end and self.text[self.pos] in "\t\r ":
                self.pos += 1
        return self.text[start : self.pos]

    def single(self) -> str:
        start = self.pos
        close = self.text.find("'", start + 1)
        if close < 0:
            self.pos = start + 1
            raise self.fault("the closing single quote is missing", start)
        self.pos = close + 1
        return self.text[start : close + 1] if self.keep_quotes else self.text[start + 1 : close]

    def double(self) -> str:
        start = self.pos
        self.pos += 1
        out = ['"'] if self.keep_quotes else []
        while self.pos < self.end:
            char = self.text[self.pos]
            if char == "$":
                out.append(self.dollar())
                continue
            self.pos += 1
            if char == '"':
                if self.keep_quotes:
                    out.append(char)
                return "".join(out)
            if char == self.escape:
                if self.keep_escapes:
                    out.append(char)
                if self.pos >= self.end:
                    break
                if self.text[self.pos] in ('"', "$", self.escape):
                    char = self.text[self.pos]
                    self.pos += 1
            out.append(char)
        self.pos = start + 1
        raise self.fault("the closing double quote is missing", start)

    def name(self) -> str:
        """A variable's name at this place: digits, one special parameter, or a word."""
        start = self.pos
        if start >= self.end:
            return ""
        first = self.text[start]
        if _is_digit(first):
            while self.pos < self.end and _is_digit(self.text[self.pos]):
                self.pos += 1
        elif first in _PARAMETERS:
            self.pos += 1
        else:
            while self.pos < self.end and _is_name(self.text[self.pos]):
                self.pos += 1
        return self.text[start : self.pos]

    def value(self, name: str, start: int) -> str | None:
        value = self.lookup(name)
        if value is None:
            self.unset.append((name, start + self.skipped))
        return value

    def dollar(self) -> str:
        """``$name`` or ``${name...}`` at this place, replaced."""
        start = self.pos
        self.pos += 1
        if not self.text.startswith("{", self.pos):
            name = self.name()
            if not name:
                return "$"
            value = self.value(name, start)
            return ("$" + name if self.keep_unset else "") if value is None else value
        self.pos += 1
        if self.pos >= self.end:
            raise self.fault("the closing } is missing", start)
        if self.text[self.pos] in "{}:":
            self.pos += 1
            raise self.fault("there is no variable name in this substitution", start)
        name = self.name()
        if self.pos >= self.end:
            raise self.fault("the closing } is missing", start)
        sign = self.text[self.pos]
        self.pos += 1
        if sign == "}":
            value = self.value(name, start)
            return (f"${{{name}}}" if self.keep_unset else "") if value is None else value
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise self.fault("substitutions are nested too deep", start)
        result = self.replaced(name, start) if sign == "/" else self.modified(name, sign, start)
        self.depth -= 1
        return result

    def modified(self, name: str, sign: str, start: int) -> str:
        """``${name<sign>word}`` for all signs but the slash."""
        colon = sign == ":"
        if colon:
            sign = self.text[self.pos : self.pos + 1]
            self.pos += 1
        shown = (":" if colon else "") + sign
        if sign not in ("-", "+", "?", "#", "%") or (colon and sign in "#%"):
            raise self.unsupported(shown, start)
        word, _ = self.until("}", sign in "#%", start)
        value = self.value(name, start)
        if value is None and self.keep_unset:
            return f"${{{name}{shown}{word}}}"
        empty = value is None or (colon and value == "")
        if sign == "-":
            return word if empty else value or ""
        if sign == "+":
            return "" if empty else word
        if sign == "?":
            if empty:
                why = "is not allowed to be " + ("unset" if value is None else "empty")
                raise self.fault(f"{name}: {printable(word) or why}", start)
            return value or ""
        greedy = word.startswith(sign)
        pattern = word[1:] if greedy else word
        cut = without_suffix if sign == "%" else without_prefix
        try:
            return cut(pattern, value or "", greedy)
        except PatternError as error:
            raise self.fault(str(error), start) from None

    def unsupported(self, sign: str, start: int) -> ExpandError:
        if self.pos > self.end:
            self.pos = self.end
            return self.fault("the closing } is missing", start)
        return self.fault(
            f'"{printable(sign)}" is not a substitution that a Dockerfile knows', start
        )

    def replaced(self, name: str, start: int) -> str:
        """``${name/pattern/replacement}`` and, with ``//``, every match of the pattern."""
        every = self.text.startswith("/", self.pos)
        self.pos += every
        pattern, _ = self.until("/", True, start)
        replacement, _ = self.until("}", True, start)
        value = self.value(name, start)
        if value is None and self.keep_unset:
            return f"${{{name}/{pattern}/{replacement}}}"
        try:
            regex = pattern_regex(pattern)
        except PatternError as error:
            raise self.fault(str(error), start) from None
        if every:
            return replace_all(regex, value or "", replacement)
        found = regex.search(value or "")
        if found is None:
            return value or ""
        return (value or "")[: found.start()] + replacement + (value or "")[found.end() :]


def _is_digit(char: str) -> bool:
    return char.isdecimal()


def _is_name(char: str) -> bool:
    return char == "_" or char.isalpha() or char.isdecimal()
