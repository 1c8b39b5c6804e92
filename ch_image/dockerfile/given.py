"""What one instruction was given, cut out of its line: keyword, flags, arguments.

Every word keeps its place. Whether the arguments make sense is for `instructions` to say.
"""

from __future__ import annotations

import re

from ch_image.dockerfile.ast import Heredoc, Span, Word
from ch_image.dockerfile.expand import ExpandError, expand
from ch_image.dockerfile.flags import Flag, Flags, read_flag, traced
from ch_image.dockerfile.lines import Reader, cut
from ch_image.errors import DockerfileError
from ch_image.typed import NamedTuple

_SPECIAL = re.compile("""[$'"\\\\`]""").search
_JSON_ITEM = re.compile(r'"(?:[^"\\]|\\.)*"')
_JSON_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))")
_JSON_SIGNS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_JSON_BLANKS = " \t\r\n"


class Part(NamedTuple):
    """One rule of the grammar as it matched: tokens are (terminal, start, stop) in the line."""

    name: str
    tokens: tuple[tuple[str, int, int], ...]
    parts: tuple[Part, ...]


class Given:
    """One matched instruction in the words of its line."""

    def __init__(self, reader: Reader, line: Word, part: Part) -> None:
        self.reader, self.line, self.parts = reader, line, part.parts[1:]
        self.name, start, stop = part.tokens[0]
        self.keyword = cut(line, start, stop)
        whole = line if start == 0 else cut(line, start, len(line.text))
        self.span, self.text = whole.span, whole.text
        self.kinds = [kind for kind, _, _ in part.tokens[1:]]
        self.args = [cut(line, start, stop) for _, start, stop in part.tokens[1:]]
        self.starts = [start for _, start, _ in part.tokens[1:]]
        self.rest = self.starts[0] if self.args else len(line.text)
        found = part.parts[0].tokens if part.parts and part.parts[0].name == "flags" else ()
        self.flags: list[Flag] = [
            read_flag(cut(line, start, stop), reader.escape)
            for kind, start, stop in found
            if kind == "FLAG"
        ]
        self.exec = bool(self.kinds) and self.kinds[-1] == "EXEC"
        self.taken: tuple[Heredoc, ...] = ()

    def fault(self, span: Span, message: str, *, hint: str = "") -> DockerfileError:
        """An error to raise that points at ``span``."""
        return self.reader.fault(span, message, hint=hint)

    def missing(self, what: str, usage: str) -> DockerfileError:
        """An error that says what is missing, pointing behind the line."""
        place = self.line.at(len(self.line.text))
        return self.fault(place, f"{self.name} needs {what}", hint=f"write {usage}")

    def read_flags(self, **kinds: str) -> Flags:
        """The flags, known by these names; an underscore stands for the dash."""
        known = {name.rstrip("_").replace("_", "-"): kind for name, kind in kinds.items()}
        return Flags(self.reader, self.flags, known)

    def command(self) -> tuple[Word, ...]:
        """The arguments as words: the strings of a JSON array, or the words as they stand."""
        if self.exec:
            return json_words(self.args[-1])
        if self.line.text.startswith("[", self.rest):
            odd = first_odd_item(self.line.text[self.rest :])
            if odd is not None:
                place = self.line.at(self.rest + odd[0], odd[1] - odd[0])
                hint = "put it into double quotes"
                raise self.fault(place, "only strings can stand in the JSON form", hint=hint)
        return tuple(self.args)

    def heredocs(self) -> tuple[Heredoc, ...]:
        """The documents below the line; they are read when they are asked for, once."""
        if not self.exec and "<<" in self.line.text:
            self.taken = self.reader.heredocs(self.line)
        return self.taken

    def drop_first(self) -> None:
        """Leave the first argument out: it is a word of the instruction itself."""
        self.args, self.kinds = self.args[1:], self.kinds[1:]
        self.rest = self.starts[1] if self.args else len(self.line.text)

    def check(self, *words: Word | None) -> None:
        """Refuse words whose quotes or braces are not closed; nothing is expanded."""
        for word in words:
            if word is None or not _SPECIAL(word.text):
                continue
            try:
                expand(word.text, _set, self.reader.escape)
            except ExpandError as error:
                hint = f"write {self.reader.escape} in front of a quote or a dollar sign"
                hint += " that stands for itself"
                place = word.at(error.offset, error.length)
                raise self.fault(place, str(error), hint=hint) from None

    def check_document(self, document: Heredoc) -> None:
        """Refuse a document that cannot be expanded, as `check` does."""
        data = document.data
        if not document.expand or "$" not in data:
            return
        try:
            expand(data, _set, ignore_quotes=True)
        except ExpandError as error:
            line = document.line + data.count("\n", 0, error.offset)
            hint = "write \\$ for a dollar sign, or quote the heredoc's name"
            text = self.reader.lines[line - 1]
            start = len(text) - len(text.lstrip())
            place = Span(line, start + 1, max(1, len(text) - start))
            raise self.fault(place, str(error), hint=hint) from None


def json_words(array: Word) -> tuple[Word, ...]:
    """The strings of a JSON array that the grammar has matched, decoded."""
    words = []
    for found in _JSON_ITEM.finditer(array.text):
        inner = cut(array, found.start() + 1, found.end() - 1)
        words.append(_decoded(inner) if "\\" in inner.text else inner)
    return tuple(words)


def _decoded(word: Word) -> Word:
    kept: list[tuple[str, int]] = []
    text, i = word.text, 0
    while i < len(text):
        found = _JSON_ESCAPE.match(text, i)
        if not found:
            kept.append((text[i], i))
            i += 1
            continue
        code = int(found.group(1), 16) if found.group(1) else 0
        start, i = i, found.end()
        if not code and not found.group(1):
            sign = found.group(2)
            kept.append((_JSON_SIGNS.get(sign, sign), start))
            continue
        if 0xD800 <= code < 0xDC00:
            low = _JSON_ESCAPE.match(text, i)
            second = int(low.group(1), 16) if low and low.group(1) else 0
            if low and 0xDC00 <= second < 0xE000:
                code, i = 0x10000 + ((code - 0xD800) << 10) + second - 0xDC00, low.end()
        kept.append(("\ufffd" if 0xD800 <= code < 0xE000 else chr(code), start))
    return traced(word, kept)


def first_odd_item(text: str) -> tuple[int, int] | None:
    """Where in ``text`` the first item stands that is no string, if it is a valid JSON array."""
    import json

    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        array = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        return None
    if not isinstance(array, list):
        return None
    decoder, at = json.JSONDecoder(), 1
    for item in array:
        while text[at] in _JSON_BLANKS + ",":
            at += 1
        _, end = decoder.raw_decode(text, at)
        if not isinstance(item, str):
            return at, end
        at = end
    return None


def bare(word: Word, escape: str) -> Word:
    """``word`` without an escape at its very end, where there is nothing to escape."""
    run = len(word.text) - len(word.text.rstrip(escape))
    return cut(word, 0, len(word.text) - 1) if run % 2 else word


def _set(_name: str) -> str:
    return "x"
