"""From the text of a Dockerfile to its syntax tree.

Each logical line is one sentence of ``grammar/dockerfile.lark``; `instructions` turns what the
grammar found into a node. Parsing runs nothing, expands nothing and reads no file but the grammar.
This is the only module that knows Lark.
"""

from __future__ import annotations

import functools

from ch_image.dockerfile.ast import Arg, Dockerfile, From, Instruction, Word
from ch_image.dockerfile.expand import BLANKS
from ch_image.dockerfile.given import Part
from ch_image.dockerfile.instructions import build
from ch_image.dockerfile.lines import Logical, Reader
from ch_image.dockerfile.suggest import did_you_mean, nearest
from ch_image.errors import DockerfileError, printable
from ch_image.resources import resource
from ch_image.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from lark import Lark, Token, Tree
    from lark.exceptions import UnexpectedInput

INSTRUCTIONS = (
    *("ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL"),
    *("MAINTAINER", "ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"),
    *("RSYNC", "NSYNC"),
)
_JSON_STRING = r'"(?:[^"\\\x00-\x1f]|\\(?:["\\\/bfnrt]|u[0-9a-fA-F]{4}))*"'
# The blanks as escapes, since a terminal of the grammar is one line.
_BLANKS = BLANKS.encode("unicode_escape").decode("ascii").replace(r"\x0b", r"\v")


def parse(text: str | bytes, file: str = "Dockerfile") -> Dockerfile:
    """Parse a whole Dockerfile. Raises DockerfileError with the place of the first fault.

    Bytes are read as UTF-8; a byte that is none is kept (as a lone surrogate), so that file
    names of any encoding survive.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    reader = Reader(text, file)
    instructions: list[Instruction] = []
    comments: list[tuple[str, ...]] = []
    staged = False
    for logical in reader.read():
        node = _instruction(reader, logical)
        staged = staged or isinstance(node, From)
        if not staged and not isinstance(node, Arg):
            hint = "begin with FROM IMAGE, or with ARG and then FROM"
            raise reader.fault(node.span, "there is no FROM before this instruction", hint=hint)
        instructions.append(node)
        comments.append(logical.comments)
    if not staged:
        what = "FROM" if instructions else "instruction"
        raise DockerfileError(
            f"there is no {what} in this file",
            where=(file, max(1, len(reader.lines)), 1),
            text=reader.lines[-1] if reader.lines else "",
            hint="begin with FROM IMAGE",
        )
    return Dockerfile(
        file,
        reader.directives,
        tuple(instructions),
        reader.lines,
        tuple(comments),
        tuple(reader.empty_continuations),
    )


def parse_instruction(text: str, file: str) -> Dockerfile:
    """Parse one instruction by itself, such as a trigger that an image's config has recorded.

    Returns it as a Dockerfile of one instruction. Raises DockerfileError.
    """
    # A trigger may look like a parser directive by accident, but holds an instruction only.
    reader = Reader(text, file)
    nodes = [_instruction(reader, logical) for logical in reader.read()]
    if len(nodes) != 1:
        raise DockerfileError(
            "one instruction is expected here",
            where=(file, 1, 1),
            text=reader.lines[0] if reader.lines else "",
        )
    return Dockerfile(file, reader.directives, tuple(nodes), reader.lines, ((),))


def _instruction(reader: Reader, logical: Logical) -> Instruction:
    from lark.exceptions import UnexpectedInput

    word, grammar = logical.word, _grammar(reader.escape)
    try:
        tree = grammar.parse(word.text)
    except UnexpectedInput as error:
        raise _explained(reader, word, error) from None
    return build(reader, word, _part(tree))


def _part(tree: Tree[Token]) -> Part:
    """Lark's tree in our own words: its name, and tokens as (kind, start, stop)."""
    parts: list[Part] = []
    tokens: list[tuple[str, int, int]] = []
    for child in tree.children:
        if not isinstance(child, str):
            parts.append(_part(child))
        else:
            start = child.start_pos or 0
            tokens.append((child.type, start, start + len(child)))
    return Part(str(tree.data), tuple(tokens), tuple(parts))


@functools.cache
def _grammar(escape: str) -> Lark:
    from lark import Lark

    with open(resource("grammar", "dockerfile.lark"), encoding="utf-8") as stream:
        text = stream.read()
    text = text.replace("[B", "[" + _BLANKS).replace("[^B", "[^" + _BLANKS)
    text = text.replace("STRING", _JSON_STRING).replace("ESC", escape.replace("\\", r"\\"))
    return Lark(text, parser="lalr", lexer="contextual", maybe_placeholders=False)


def _explained(reader: Reader, word: Word, error: UnexpectedInput) -> DockerfileError:
    """What is wrong with the line ``word``, where Lark could not go on."""
    # At the end of the line Lark gives the place of the last token.
    token = getattr(error, "token", None)
    ended = token is not None and token.type == "$END"
    offset = len(word.text) if ended else error.pos_in_stream or 0
    wrong = (word.text[offset:].split() or [""])[0]
    place = word.at(offset, max(1, len(wrong)))
    shown = printable(wrong, 60)
    keyword = word.text.split()[0].upper() if word.text else ""
    if not keyword:
        return reader.fault(place, "there is no instruction in this line")
    if offset == 0:
        hint = did_you_mean(wrong, INSTRUCTIONS) if len(wrong) < 20 else ""
        hint = hint if hint.startswith("did") else "an instruction begins a line, as in RUN make"
        return reader.fault(place, f"unknown instruction {shown}", hint=hint)
    if keyword == "ONBUILD":
        return _explained_trigger(reader, word, offset)
    if keyword == "FROM":
        return _explained_from(reader, word, offset)
    if keyword == "HEALTHCHECK":
        if "NONE" in word.text[:offset].upper().split():
            return reader.fault(place, "HEALTHCHECK NONE takes no arguments")
        hint = "write HEALTHCHECK CMD COMMAND or HEALTHCHECK NONE"
        if not wrong:
            return reader.fault(place, "HEALTHCHECK needs CMD or NONE", hint=hint)
        before = word.text[:offset].split()[-1]
        if before.startswith("--") and "=" not in before:
            flag = printable(before, 60)
            return reader.fault(place, f"{flag} needs a value", hint=f"write {flag}={shown}")
        near = did_you_mean(wrong, ("CMD", "NONE"))
        hint = near if near.startswith("did") else hint
        return reader.fault(place, f"HEALTHCHECK takes CMD or NONE, not {shown}", hint=hint)
    return reader.fault(place, f"{keyword} cannot take {shown} here")


def _explained_trigger(reader: Reader, word: Word, offset: int) -> DockerfileError:
    wrong = (word.text[offset:].split() or [""])[0]
    place = word.at(offset, max(1, len(wrong)))
    if not wrong:
        hint = "write ONBUILD INSTRUCTION, as in ONBUILD COPY . /src"
        return reader.fault(place, "ONBUILD needs an instruction", hint=hint)
    before = word.text[:offset].split()
    if wrong.upper() in ("ONBUILD", "FROM"):
        return reader.fault(place, f"{wrong.upper()} cannot be a trigger of ONBUILD")
    if wrong.upper() not in INSTRUCTIONS and len(before) == 1:
        hint = did_you_mean(wrong, INSTRUCTIONS)
        return reader.fault(place, f"unknown instruction {printable(wrong, 60)}", hint=hint)
    return reader.fault(place, f"{before[-1].upper()} cannot take {printable(wrong, 60)} here")


def _explained_from(reader: Reader, word: Word, offset: int) -> DockerfileError:
    wrong = (word.text[offset:].split() or [""])[0]
    place = word.at(offset, max(1, len(wrong)))
    usage = "write FROM IMAGE or FROM IMAGE AS NAME"
    before = word.text[:offset].split()
    arguments = [part for part in before[1:] if not part.startswith("--")]
    if not arguments:
        return reader.fault(place, "FROM needs an image", hint=usage)
    if not wrong:
        hint = "write a name for the stage behind AS, or leave AS away"
        return reader.fault(place, "the name behind AS is missing", hint=hint)
    if len(arguments) == 1:
        message = f"FROM takes AS and a name behind its image, not {printable(wrong, 60)}"
        if len(word.text.split()) > len(before) + 1:
            usage = "did you mean AS?" if nearest(wrong, ["AS"]) else usage
        if wrong.startswith("--"):
            usage = "flags stand in front of the image"
        return reader.fault(place, message, hint=usage)
    return reader.fault(place, "there is more than a name behind AS", hint=usage)
