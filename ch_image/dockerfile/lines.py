"""The lines of a Dockerfile as BuildKit joins them, before anything in them has a meaning.

A logical line is a `Word`: its text is what remains of one or more physical lines once
continuations, comments and blank lines are gone, and each of its characters knows where it stood.
Parser directives and heredoc bodies are read here too, since they decide where lines end.

The reference is ``frontend/dockerfile/parser/parser.go`` and ``directives.go`` of BuildKit.
"""

from __future__ import annotations

from collections.abc import Iterator

from ch_image.dockerfile.ast import Directives, Heredoc, Span, Word, fault_at
from ch_image.dockerfile.expand import BLANKS, ExpandError, expand
from ch_image.errors import DockerfileError
from ch_image.regex import regex
from ch_image.typed import NamedTuple

_LEADING = regex(f"[{BLANKS}]*")
_TRAILING = regex(f"[{BLANKS}]*\\Z")
_DIRECTIVE = regex(f"#[{BLANKS}]*([a-zA-Z][a-zA-Z0-9]*)[\\t\\n\\f\\r ]*=[\\t\\n\\f\\r ]*(.+)")
_HEREDOC = regex(r"([0-9]*)<<(-?)[\t\n\f\r ]*([^<]*)\Z")
_ASCII_BLANKS = "\t\n\f\r "


class Logical(NamedTuple):
    """One logical line, never empty, without blanks at its ends; and the comments above it."""

    word: Word
    comments: tuple[str, ...]


class HeredocName(NamedTuple):
    """What ``3<<-"NAME"`` says before its document is read."""

    name: str
    expand: bool
    chomp: bool
    descriptor: int


def cut(word: Word, start: int, stop: int) -> Word:
    """``word.text[start:stop]`` as a word of its own, with its own places."""
    text = word.text[start:stop]
    line, column, _ = word.at(start, 0)
    if not word.breaks:
        return Word(text, Span(line, column, len(text)))
    breaks = tuple((at - start, y, x) for at, y, x in word.breaks if start < at < stop)
    length = breaks[0][0] if breaks else len(text)
    return Word(text, Span(line, column, length), breaks)


def stripped(word: Word) -> Word:
    """``word`` without the blanks (Go's idea of them) at its ends."""
    start = _leading(word.text)
    found = _TRAILING.search(word.text, start)
    stop = found.start() if found else len(word.text)
    if start == 0 and stop == len(word.text):
        return word
    return cut(word, start, stop)


def heredoc_name(text: str) -> HeredocName | None:
    """``text`` read as the beginning of a heredoc; None when it is none. Raises ExpandError."""
    found = _HEREDOC.match(text)
    if not found or not found.group(3):
        return None
    rest = found.group(3)
    plain = expand(rest, _nothing, keep_unset=True).pieces
    if len(plain) != 1:
        return None
    quoted = expand(rest, _nothing, keep_unset=True, keep_quotes=True).pieces[0].text
    name = plain[0].text
    expands = _quotes(name) == _quotes(quoted)
    return HeredocName(name, expands, found.group(2) == "-", int(found.group(1) or 0))


class Reader:
    """Hands out the logical lines of one file, and the heredocs behind one where asked to.

    Raises DockerfileError for a bad parser directive and an unterminated heredoc.
    """

    def __init__(self, text: str, file: str) -> None:
        text = text.removeprefix("\ufeff")
        self.raw = text.split("\n")
        if not self.raw[-1]:
            self.raw.pop()
        self.file = file
        self.lines = tuple(line.rstrip("\r") for line in self.raw)
        self.next = 0  # index of the first line that is not read yet
        self.empty_continuations: list[Span] = []
        self.directives = Directives()
        self.escape = self.directives.escape

    def fault(self, span: Span, message: str, *, hint: str = "") -> DockerfileError:
        """An error to raise that points at ``span``."""
        return fault_at(self.file, self.lines, span, message, hint=hint)

    def read(self) -> Iterator[Logical]:
        """The logical lines in order; heredocs must be taken before the next one is asked for."""
        self._read_directives()
        comments: list[str] = []
        while self.next < len(self.lines):
            line = self.lines[self.next]
            start = _leading(line)
            if start == len(line):
                self.next += 1
            elif line[start] == "#":
                self.next += 1
                comment = line[start + 1 :].strip()
                comments = [*comments, comment] if comment else []
            else:
                yield Logical(self._joined(start), tuple(comments))
                comments = []

    def heredocs(self, word: Word) -> tuple[Heredoc, ...]:
        """The documents that ``<<`` in ``word`` announces, read from the lines below it."""
        try:
            # The escape is a backslash here whatever the directive says.
            pieces = expand(
                word.text, _nothing, keep_quotes=True, keep_escapes=True, keep_unset=True
            ).pieces
        except ExpandError:
            return ()  # an unclosed quote is the shell's affair, and no heredoc
        documents = []
        for piece in pieces:
            place = word.at(piece.offset, len(piece.text))
            try:
                begin = heredoc_name(piece.text)
            except ExpandError as error:
                raise self.fault(place, f"the heredoc's name cannot be read: {error}") from None
            if begin is not None:
                documents.append(self._document(begin, place))
        return tuple(documents)

    def _read_directives(self) -> None:
        seen: dict[str, str] = {}
        for line in self.lines:
            start = _leading(line)
            found = _DIRECTIVE.match(line, start)
            key = found.group(1).lower() if found else ""
            if not found or key not in ("syntax", "escape", "check"):
                break
            value = found.group(2).rstrip(_ASCII_BLANKS)
            self.next += 1
            if key in seen:
                place = Span(self.next, found.start(1) + 1, len(key))
                raise self.fault(place, f"only one {key} parser directive can be used")
            if key == "escape" and value not in ("\\", "`"):
                place = Span(self.next, found.start(2) + 1, len(value))
                hint = "the escape character is a backslash \\ or a backtick `"
                raise self.fault(place, f'"{value}" cannot be the escape character', hint=hint)
            seen[key] = value
        self.directives = Directives(
            seen.get("escape", "\\"), seen.get("syntax"), seen.get("check")
        )
        self.escape = self.directives.escape

    def _joined(self, start: int) -> Word:
        """The logical line that begins in the current line, behind ``start`` blanks."""
        parts: list[str] = []
        breaks: list[tuple[int, int, int]] = []
        size, column = 0, start + 1
        blank: list[Span] = []
        more = True
        while more and self.next < len(self.lines):
            line = self.lines[self.next]
            self.next += 1
            if breaks or parts:
                column, first = 1, _leading(line)
                if first == len(line):
                    blank.append(Span(self.next, 1, max(1, len(line))))
                    continue
                if line[first] == "#":
                    continue
            text, more = self._continued(line[column - 1 :])
            if size or not breaks:
                breaks.append((size, self.next, column))
            else:
                breaks[-1] = (0, self.next, column)
            parts.append(text)
            size += len(text)
        self.empty_continuations += blank
        _, line_number, column = breaks[0]
        text = "".join(parts)
        inner = tuple(place for place in breaks[1:] if place[0] < size)
        length = inner[0][0] if inner else size
        return stripped(Word(text, Span(line_number, column, length), inner))

    def _continued(self, line: str) -> tuple[str, bool]:
        """``line`` without a continuation at its end, and whether there was one."""
        bare = line.rstrip("\t ")
        if bare.endswith(self.escape) and not bare.endswith(self.escape * 2):
            return bare[:-1], True
        return line, False

    def _document(self, begin: HeredocName, place: Span) -> Heredoc:
        first = self.next
        while self.next < len(self.lines):
            line = self.raw[self.next].rstrip("\r")
            self.next += 1
            if (line.lstrip("\t") if begin.chomp else line) == begin.name:
                content = "".join(text + "\n" for text in self.raw[first : self.next - 1])
                return Heredoc(
                    begin.name,
                    content,
                    begin.expand,
                    begin.chomp,
                    begin.descriptor,
                    place,
                    first + 1,
                )
        hint = f"a line that holds {begin.name} and nothing else ends it"
        near = self._near_end(begin, first)
        if near:
            hint += f"; line {near} holds more than that"
        raise self.fault(place, f"the heredoc {begin.name} does not end", hint=hint)

    def _near_end(self, begin: HeredocName, first: int) -> int:
        """The number of the last line that was probably meant as the end; 0 when there is none."""
        for number in range(len(self.lines), first, -1):
            if self.lines[number - 1].strip() == begin.name:
                return number
        return 0


def _leading(text: str) -> int:
    found = _LEADING.match(text)
    return found.end() if found else 0


def _nothing(_name: str) -> None:
    return None


def _quotes(text: str) -> int:
    return text.count("'") + text.count('"')
