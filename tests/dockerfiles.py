"""Corpora of Dockerfile cases: how they are kept in files, and how a syntax tree is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from ch_image.dockerfile.ast import Default, Heredoc, Instruction, MountOption, Pair, Span, Word

DATA = Path(__file__).parent / "data" / "dockerfile"


class Block(NamedTuple):
    """One case of a corpus file: its name, its input, and what must come of it."""

    name: str
    text: str
    expected: str


def blocks(file: str) -> list[Block]:
    """The cases of a file: ``--- NAME``, the input, ``===``, what is expected.

    In the input a pilcrow at the end of a line stands for a carriage return, a middle dot for a
    blank that an editor would strip, and an arrow for a tab.
    """
    found = []
    for part in (DATA / file).read_text(encoding="utf-8").split("\n--- ")[1:]:
        name, _, rest = part.partition("\n")
        text, _, expected = rest.partition("\n===\n")
        text = text.replace("\u00b6", "\r").replace("\u00b7", " ").replace("\u2192", "\t")
        found.append(Block(name, text + "\n", expected.strip("\n")))
    return found


def long(instructions: int) -> str:
    """A Dockerfile of FROM and so many more instructions of four common kinds."""
    lines = ["FROM a"]
    for i in range(instructions // 4):
        lines += [
            f"RUN --mount=type=cache,target=/c{i} apt-get install -y p{i} \\",
            "    # a comment",
            f"    && make -C /src/{i} install",
            f'COPY --from=b --chown=1:{i} ["a {i}", "b", "/dst/"]',
            f'ENV A{i}=$B{i} C="d e" F=${{G:-h}}',
            f"WORKDIR /w/{i}",
        ]
    return "\n".join(lines)


def shown(node: Instruction | Any) -> str:
    """A node on one line: its name, and each field that is not at its default."""
    defaults = node._field_defaults
    fields = [
        f"{name}={_value(value)}"
        for name, value in zip(node._fields, node, strict=True)
        if name not in ("span", "text") and value != defaults.get(name, ...)
    ]
    return " ".join([type(node).__name__, *fields])


def _value(value: Any) -> str:
    match value:
        case Word():
            return repr(value.text)
        case Pair() | Default():
            return _value(value[0]) + ("" if value[1] is None else f": {_value(value[1])}")
        case MountOption():
            return value.key + ("" if value.value is None else f": {_value(value.value)}")
        case Heredoc():
            marks = "-" * value.chomp + "'" * (not value.expand)
            return f"{value.descriptor or ''}<<{marks}{value.name} {value.content!r}"
        case Span():
            return f"{value.line}:{value.column}+{value.length}"
        case tuple() if hasattr(value, "_fields"):
            if "text" in value._fields:
                return f"({shown(value)})"
            return "{" + ", ".join(_value(v) for v in value if not isinstance(v, Span)) + "}"
        case tuple():
            return "[" + ", ".join(_value(item) for item in value) + "]"
    return repr(value)
