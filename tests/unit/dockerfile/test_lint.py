"""What the linter says, where, and what a file or a comment keeps it from saying."""

from __future__ import annotations

import dockerfiles
import pytest

from ch_image.dockerfile import ignore
from ch_image.dockerfile.lint import lint
from ch_image.dockerfile.lint_rules import EXPLANATIONS, read_options
from ch_image.dockerfile.parser import parse
from ch_image.errors import DockerfileError

CASES = dockerfiles.blocks("lint.txt")


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_linter_finds(case: dockerfiles.Block) -> None:
    rules = ignore.parse("*.o\nsrc\nbuild\n") if "Ignored" in case.name else None
    dockerfile = parse(case.text)
    found = []
    for finding in lint(dockerfile, ignore=rules):
        line, column, length = finding.span
        found.append(f"{line}:{column}+{length} {finding.rule}: {finding.message}")
        assert finding.explanation == EXPLANATIONS[finding.rule]
        assert 1 <= column <= len(dockerfile.lines[line - 1]) + 1
    assert "\n".join(found) == case.expected


def test_every_rule_has_a_case() -> None:
    text = "\n".join(case.expected for case in CASES)
    assert [rule for rule in EXPLANATIONS if f" {rule}: " not in text] == []


def test_explanations_hold_no_links() -> None:
    assert not any("http" in text or "www" in text for text in EXPLANATIONS.values())


def test_variables_of_a_known_base_image_count() -> None:
    dockerfile = parse("FROM known\nENV A=$LANG B=$NOBODY\nFROM unknown\nENV A=$LANG B=$NOBODY\n")
    asked = []

    def base_env(image: str) -> list[str] | None:
        asked.append(image)
        return ["PATH", "LANG"] if image == "known" else None

    found = lint(dockerfile, base_env=base_env)
    assert [(finding.rule, finding.span) for finding in found] == [("UndefinedVar", (2, 15, 7))]
    assert asked == ["known", "unknown"]


def test_everything_may_be_left_out_of_the_context() -> None:
    dockerfile = parse("FROM a\nCOPY . /a\nCOPY ./ /b\nCOPY b $c x* /c/\n")
    for text, expected in [("*", [2, 3, 4, 4]), ("**", [2, 3, 4, 4]), ("*\n!b", []), ("b", [4])]:
        found = lint(dockerfile, ignore=ignore.parse(text))
        assert [finding.span.line for finding in found] == expected, text


def test_the_linter_changes_nothing() -> None:
    dockerfile = parse("FROM a\nENV A=$A\nCMD b\n")
    before = repr(dockerfile)
    assert lint(dockerfile) == lint(dockerfile)
    assert repr(dockerfile) == before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("skip=A,B;error=true", ({"A", "B"}, set(), True)),
        ("error=false;experimental=all", (set(), {"all"}, False)),
        ("skip=all ignored rest", ({"all"}, set(), False)),
    ],
)
def test_a_check_directive_asks_for(text: str, expected: tuple[object, ...]) -> None:
    assert read_options(parse(f"# check={text}\nFROM a\n")) == expected


@pytest.mark.parametrize(
    ("text", "marked", "hint"),
    [
        ("skpi=A", "skpi=A", "skip="),
        ("skip", "skip", "skip="),
        ("skip=A;error=perhaps", "error=perhaps", "true or false"),
        ("fatal=true", "fatal=true", "known here"),
    ],
)
def test_a_faulty_check_directive_is_refused(text: str, marked: str, hint: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        lint(parse(f"# syntax=x\n# check = {text}\nFROM a\n"))
    error = caught.value
    column = error.where[2]
    assert error.where[1] == 2
    assert error.text[column - 1 : column - 1 + error.width] == marked
    assert hint in error.hint
