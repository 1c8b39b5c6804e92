"""What is accepted and what it means; what is refused, where the caret stands, and what helps."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import dockerfiles
import pytest

from ch_image.dockerfile.ast import Copy, Onbuild, Run, Word
from ch_image.dockerfile.ast_json import ast_from_json, ast_to_json
from ch_image.dockerfile.parser import parse, parse_instruction
from ch_image.errors import DockerfileError

ACCEPTED = dockerfiles.blocks("parse.txt")
REFUSED = dockerfiles.blocks("reject.txt")


@pytest.mark.parametrize("case", ACCEPTED, ids=[case.name for case in ACCEPTED])
def test_a_dockerfile_is_read_as(case: dockerfiles.Block) -> None:
    found = parse(case.text)
    assert "\n".join(map(dockerfiles.shown, found.instructions)) == case.expected
    assert ast_from_json(ast_to_json(found)) == found


@pytest.mark.parametrize("case", REFUSED, ids=[case.name for case in REFUSED])
def test_a_dockerfile_is_refused_with_the_place_and_a_hint(case: dockerfiles.Block) -> None:
    with pytest.raises(DockerfileError) as caught:
        parse(case.text, "X")
    error = caught.value
    file, line, column = error.where
    marked = error.text[column - 1 : column - 1 + error.width]
    message = str(error).split(": ", 1)[1].split("\n")[0]
    found = "\n".join([f"{line}:{column}+{error.width}", marked, message, error.hint])
    assert found.strip("\n") == case.expected
    assert str(error).startswith(f"X:{line}: ")
    assert file == "X"


@pytest.mark.parametrize("case", ACCEPTED, ids=[case.name for case in ACCEPTED])
def test_every_character_of_a_word_knows_its_place(case: dockerfiles.Block) -> None:
    found = parse(case.text)
    checked = 0
    for word in words(found.instructions):
        for offset, char in enumerate(word.text):
            place = word.at(offset)
            source = found.lines[place.line - 1][place.column - 1]
            assert source == char or source == "\\", (word, offset)
            checked += 1
    assert checked or "scratch" not in case.text


def words(value: tuple[object, ...]) -> Iterator[Word]:
    for item in value:
        if isinstance(item, Word):
            yield item
        elif isinstance(item, tuple):
            yield from words(item)


def test_directives_are_kept() -> None:
    found = parse("# syntax = docker/dockerfile:1 # x\n#check=skip=all\n# escape=`\nFROM a\n")
    assert found.directives == ("`", "docker/dockerfile:1 # x", "skip=all")


def test_comments_belong_to_the_instruction_below() -> None:
    text = "# escape=`\n# one\nFROM a\n# two\n#\n#three\n\n  # four\nRUN b `\n# inside\n c\nRUN d\n"
    assert parse(text).comments == (("one",), ("three", "four"), ())


def test_blank_lines_inside_an_instruction_are_told() -> None:
    found = parse("FROM a\nRUN b \\\n\n c \\\n  \n\n d\n\nRUN e\n")
    assert [span[:2] for span in found.empty_continuations] == [(3, 1), (5, 1), (6, 1)]


def test_the_text_of_an_instruction_is_its_joined_line() -> None:
    found = parse("FROM a\n  RUN b \\\n # c\n  d <<E\nx\nE\nonbuild COPY e f\n")
    assert [node.text for node in found.instructions] == [
        "FROM a",
        "RUN b   d <<E",
        "onbuild COPY e f",
    ]
    trigger = found.instructions[2]
    assert isinstance(trigger, Onbuild)
    assert trigger.instruction.text == "COPY e f"
    assert trigger.instruction.span == (7, 9, 8)


def test_the_lines_of_a_document_are_counted_in_the_file() -> None:
    node = parse("# x\nFROM a\nRUN b \\\n <<E <<F\none\nE\ntwo\nF\n").instructions[1]
    assert isinstance(node, Run)
    assert [(doc.name, doc.line, doc.span) for doc in node.heredocs] == [
        ("E", 5, (4, 2, 3)),
        ("F", 7, (4, 6, 3)),
    ]


def test_the_data_of_a_document_has_no_leading_tabs_where_the_dash_says_so() -> None:
    node = parse("FROM a\nCOPY <<-E <<F /x/\n\t\ta\n\n\tb\tc\n\tE\n\td\nF\n").instructions[1]
    assert isinstance(node, Copy)
    assert [doc.data for doc in node.heredocs] == ["a\n\nb\tc\n", "\td\n"]


def test_bytes_that_are_no_text_survive() -> None:
    found = parse(b"FROM a\nCOPY caf\xe9 [\xff] /x\nENV A=\xc3\xa9\n")
    node = found.instructions[1]
    assert isinstance(node, Copy)
    names = [word.text.encode("utf-8", "surrogateescape") for word in node.sources]
    assert names == [b"caf\xe9", b"[\xff]"]
    assert ast_from_json(ast_to_json(found)) == found


def test_a_recorded_trigger_is_parsed_by_itself() -> None:
    found = parse_instruction("RUN <<E cat\nx\nE", "ONBUILD trigger")
    assert dockerfiles.shown(found.instructions[0]) == (
        "Run words=['<<E cat'] shell_form=True heredocs=[<<E 'x\\n']"
    )
    for text in ("", "RUN a\nRUN b", "RUN <<E"):
        with pytest.raises(DockerfileError) as caught:
            parse_instruction(text, "ONBUILD trigger")
        assert caught.value.where[:2] == ("ONBUILD trigger", 1)


def test_every_recorded_trigger_means_what_was_written() -> None:
    for case in ACCEPTED:
        for node in parse(case.text).instructions:
            if isinstance(node, Onbuild):
                again = parse_instruction(node.expression, "x").instructions[0]
                assert dockerfiles.shown(again) == dockerfiles.shown(node.instruction)


@pytest.mark.parametrize(
    "text", ["", "[]", "[1,2]", "{}", "not json", '[0,["a"]]', ast_to_json(parse("FROM a"))[:-9]]
)
def test_a_kept_parse_that_is_damaged_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        ast_from_json(text)


def test_a_kept_parse_of_another_shape_is_refused() -> None:
    text = ast_to_json(parse("FROM a"))
    shape, rest = text[1:].split(",", 1)
    with pytest.raises(ValueError, match="shape"):
        ast_from_json(f"[{int(shape) ^ 1},{rest}")


def test_parsing_runs_and_expands_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    parse("FROM warm\n")  # the grammar is read now, and not while nothing may be opened
    monkeypatch.setenv("SECRET", "expanded")
    monkeypatch.chdir(tmp_path)

    def refuse(*args: object, **_options: object) -> None:
        raise AssertionError(f"parsing must not do this: {args}")

    for owner, name in [
        (os, "system"),
        (os, "open"),
        (os, "fork"),
        (os, "environ"),
        (subprocess, "Popen"),
        (builtins, "open"),
        (builtins, "eval"),
    ]:
        monkeypatch.setattr(owner, name, refuse)
    text = (
        "FROM a\nENV A=$SECRET B=`id` C=$(id)\nRUN touch witness; $(touch witness)\n"
        "COPY <<E $SECRET\n$SECRET\nE\nRUN --mount=type=secret,id=$SECRET x\n"
    )
    found = parse(text)
    monkeypatch.undo()
    assert "expanded" not in repr(found)
    assert list(tmp_path.iterdir()) == []


def calls(work: Callable[[], object]) -> int:
    """How many Python functions `work` calls: its cost, however busy the machine is."""
    count = 0

    def profile(_frame: FrameType, event: str, _arg: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_the_cost_of_a_parse_grows_with_its_lines_and_no_faster() -> None:
    parse("FROM warm\n")
    some, many = dockerfiles.long(250), dockerfiles.long(1000)
    assert len(parse(many).instructions) == 1001
    assert calls(lambda: parse(many)) < 4.2 * calls(lambda: parse(some))


def test_a_kept_parse_needs_no_grammar() -> None:
    code = (
        "import sys; from ch_image.dockerfile.ast_json import ast_from_json;"
        "ast_from_json(sys.stdin.read()); assert 'lark' not in sys.modules"
    )
    text = ast_to_json(parse("FROM a\n"))
    subprocess.run([sys.executable, "-c", code], input=text, text=True, check=True)


@pytest.mark.timeout(60)  # each takes well below a second, unless it backtracks
def test_long_input_does_not_take_long() -> None:
    texts = [
        "FROM a\nENV " + "A" * 200_000,
        "FROM a\nENV A=" + "\\" * 100_001,
        'FROM a\nENV A="' + "x=" * 100_000,
        "FROM a\nRUN " + '["' * 50_000,
        'FROM a\nRUN ["' + 'a", "' * 50_000,
        "FROM a\nLABEL " + "a'b'" * 50_000 + " =",
        "FROM a\nRUN --mount=" + '"a",' * 50_000,
        "FROM a\nCOPY " + "--link=" * 50_000 + " a b",
        "FROM a\nRUN x \\\n" + "\\\n" * 50_000,
        "FROM a\nRUN " + "<<" * 50_000,
        "FROM a\nWORKDIR " + "${a:-" * 200 + "}" * 200,
        "\\\n" * 100_000,
    ]
    for text in texts:
        assert len(refusal(text)) < 2000, text[:60]


def refusal(text: str) -> str:
    try:
        parse(text)
    except DockerfileError as error:
        return str(error.args[0])
    return ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ENV A=" + "${a:-" * 100_000, "nested too deep"),
        ("ENV A=" + "${a:-" * 101 + "}" * 101, "nested too deep"),
        ("ENV A=" + "${a:-" * 100 + "}" * 100, ""),
        ("RUN " + "[" * 100_000, ""),
        ("RUN " + "[" * 100_000 + "]" * 100_000, ""),
    ],
    ids=["open", "101", "100", "brackets", "closed brackets"],
)
def test_absurd_nesting_is_no_crash(text: str, message: str) -> None:
    assert message in refusal("FROM a\n" + text)
