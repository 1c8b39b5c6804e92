"""The ``--name=value`` flags in front of an instruction's arguments.

Quotes and escapes of a flag are gone once it is read, as in BuildKit; its variables are not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ch_image.dockerfile.ast import Span, Word
from ch_image.dockerfile.lines import Reader, cut
from ch_image.dockerfile.suggest import did_you_mean
from ch_image.errors import printable
from ch_image.typed import NamedTuple

# What a flag takes: one value, any number of values, or true and false.
ONE, MANY, SWITCH = "one", "many", "switch"


class Flag(NamedTuple):
    """One flag as given; ``value`` is None for a bare ``--name``."""

    name: str
    value: Word | None
    span: Span


class Flags:
    """The flags of one instruction, checked against those it knows."""

    def __init__(self, reader: Reader, flags: Sequence[Flag], kinds: Mapping[str, str]) -> None:
        self.reader = reader
        self.given: dict[str, list[Flag]] = {}
        for flag in flags:
            kind = kinds.get(flag.name)
            shown = "--" + printable(flag.name, 60)
            if kind is None:
                hint = did_you_mean(flag.name, kinds, "--") or "it takes no flags"
                raise reader.fault(flag.span, f"unknown flag {shown}", hint=hint)
            if kind != MANY and flag.name in self.given:
                raise reader.fault(flag.span, f"{shown} is given twice")
            if kind != SWITCH and flag.value is None:
                raise reader.fault(flag.span, f"{shown} needs a value", hint=f"write {shown}=VALUE")
            self.given.setdefault(flag.name, []).append(flag)

    def one(self, name: str) -> Word | None:
        """The value of a flag; None when it is not given or empty."""
        flags = self.given.get(name)
        value = flags[0].value if flags else None
        return value if value and value.text else None

    def many(self, name: str) -> tuple[Word, ...]:
        """All the values of a flag that may be repeated."""
        return tuple(flag.value for flag in self.given.get(name, ()) if flag.value)

    def switch(self, name: str) -> bool | None:
        """Whether a switch is on; None when it is not given."""
        flags = self.given.get(name)
        if not flags:
            return None
        value = flags[0].value
        if value is None or value.text.lower() == "true":
            return True
        if value.text.lower() == "false":
            return False
        message = f'--{name} is either true or false, not "{printable(value.text, 60)}"'
        raise self.reader.fault(value.span if value.text else flags[0].span, message)

    def choice(self, name: str, choices: Sequence[str], default: str) -> str:
        """The value of a flag that takes one of a few words."""
        flags = self.given.get(name)
        value = flags[0].value if flags else None
        if flags and value and value.text not in choices:
            message = f'--{name} cannot be "{printable(value.text, 60)}"'
            place = value.span if value.text else flags[0].span
            raise self.reader.fault(place, message, hint=did_you_mean(value.text, choices))
        return value.text if value else default


def read_flag(word: Word, escape: str) -> Flag:
    """``--name=value`` as written, taken apart."""
    plain = unquoted(word, escape)
    equals = plain.text.find("=")
    if equals < 0:
        return Flag(plain.text[2:], None, word.span)
    return Flag(plain.text[2:equals], cut(plain, equals + 1, len(plain.text)), word.span)


def unquoted(word: Word, escape: str) -> Word:
    """``word`` without its quotes and escapes; both work in both kinds of quotes."""
    text = word.text
    if "'" not in text and '"' not in text and escape not in text:
        return word
    kept: list[tuple[str, int]] = []
    quote, i = "", 0
    while i < len(text):
        char = text[i]
        if char == escape:
            i += 1
            if i < len(text):
                kept.append((text[i], i))
        elif quote:
            if char == quote:
                quote = ""
            else:
                kept.append((char, i))
        elif char in "'\"":
            quote = char
        else:
            kept.append((char, i))
        i += 1
    return traced(word, kept)


def traced(word: Word, kept: Sequence[tuple[str, int]]) -> Word:
    """A word of characters that stand at these offsets of ``word``."""
    if not kept:
        return Word("", word.at(len(word.text), 0))
    first = word.at(kept[0][1])
    line, column = first.line, first.column
    breaks = []
    for offset, (_, source) in enumerate(kept):
        place = word.at(source)
        if (place.line, place.column) != (line, column):
            breaks.append((offset, place.line, place.column))
        line, column = place.line, place.column + 1
    length = breaks[0][0] if breaks else len(kept)
    return Word("".join(char for char, _ in kept), first._replace(length=length), tuple(breaks))
