"""Command lines of every shape, through the one parser that all programs use."""

from __future__ import annotations

import pytest

from ch_image.cli import options
from ch_image.cli.options import parse
from ch_image.errors import UsageError

TABLE = (
    options.flag("-l --long", "long"),
    options.flag("-u --undo", "undo"),
    options.count("-v --verbose", "more"),
    options.value("-f --file", "FILE", "a file"),
    options.values("-t --tag", "TAG", "tags"),
    options.maybe("--force", "MODE", "fakeroot", "force", choices=("seccomp", "fakeroot")),
    options.maybe("-W --write-fake", "SIZE", "12%", "fake"),
    options.flag("--cache", "on", dest="cache", const="enabled"),
    options.flag("--no-cache", "off", dest="cache", const="disabled"),
    options.value("--colour", "C", "colour", choices=("red", "green")),
)

GOOD: dict[str, tuple[list[str], dict[str, object], list[str]]] = {
    "nothing": ([], {}, []),
    "a long flag": (["--long"], {"long": ""}, []),
    "bundled flags": (["-lu"], {"long": "", "undo": ""}, []),
    "a flag counted": (["-vv", "-v"], {"verbose": 3}, []),
    "a value in the next word": (["--file", "x"], {"file": "x"}, []),
    "a value after =": (["--file=a=b"], {"file": "a=b"}, []),
    "an empty value": (["--file="], {"file": ""}, []),
    "a value after a short name": (["-fx"], {"file": "x"}, []),
    "a value after a short name and =": (["-f=x"], {"file": "x"}, []),
    "a value at the end of a bundle": (["-lf", "x"], {"long": "", "file": "x"}, []),
    "a lone dash as a value": (["-f", "-"], {"file": "-"}, []),
    "a lone dash as an operand": (["-"], {}, ["-"]),
    "a value that looks like an option": (["-f", "-x"], {"file": "-x"}, []),
    "the last of several values": (["-f", "a", "-f", "b"], {"file": "b"}, []),
    "all of several values": (["-t", "a", "--tag=b"], {"tag": ("a", "b")}, []),
    "an optional value left out": (["--force", "x"], {"force": "fakeroot"}, ["x"]),
    "an optional value": (["--force=seccomp", "x"], {"force": "seccomp"}, ["x"]),
    "a short optional value": (["-W=3m", "x"], {"write-fake": "3m"}, ["x"]),
    "a number right after it": (["-W3m", "x"], {"write-fake": "3m"}, ["x"]),
    "a short optional value left out": (["-lW", "x"], {"write-fake": "12%", "long": ""}, ["x"]),
    "options between operands": (["a", "-l", "b"], {"long": ""}, ["a", "b"]),
    "options ended": (["-l", "--", "-u", "--"], {"long": ""}, ["-u", "--"]),
    "flags that exclude each other, once": (["--no-cache"], {"cache": "disabled"}, []),
    "the same flag twice": (["--no-cache", "--no-cache"], {"cache": "disabled"}, []),
}


@pytest.mark.parametrize(("words", "wanted", "left"), GOOD.values(), ids=GOOD.keys())
def test_a_good_command_line_means(
    words: list[str], wanted: dict[str, object], left: list[str]
) -> None:
    parsed, rest = parse(words, TABLE)
    for option in TABLE:
        meant = wanted.get(option.dest)
        if meant is None:
            assert not parsed.has(option.dest)
        elif isinstance(meant, int):
            assert parsed.count(option.dest) == meant
        elif isinstance(meant, tuple):
            assert parsed.texts(option.dest) == meant
        else:
            assert parsed.text(option.dest) == meant
    assert parsed.words == left
    assert rest == []


BAD = {
    "an unknown long option": (["--lnog"], "unknown option --lnog", "--long"),
    "an unknown short option": (["-x"], "unknown option -x", ""),
    "an unknown one in a bundle": (["-lx"], "unknown option -x", ""),
    "a long option with one dash": (["-long"], "unknown option -long", "--long"),
    "a value for a flag": (["--long=1"], "--long takes no value", ""),
    "no value at the end": (["--file"], "--file needs a value", ""),
    "no value before --": (["-f", "--"], "-f needs a value", ""),
    "a value that is no choice": (["--colour", "gren"], "--colour cannot be 'gren'", "green"),
    "an optional value that is no choice": (["--force=x"], "--force cannot be 'x'", "seccomp"),
    "flags that exclude each other": (
        ["--cache", "--no-cache"],
        "--cache and --no-cache exclude each other",
        "",
    ),
    "control characters": (["--\x1b[31m"], "unknown option --\\x1b[31m", ""),
}


@pytest.mark.parametrize(("words", "message", "hint"), BAD.values(), ids=BAD.keys())
def test_a_bad_command_line_is_refused_in_the_users_words(
    words: list[str], message: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        parse(words, TABLE)
    assert message in str(caught.value)
    assert hint in caught.value.hint


def test_the_first_operand_can_end_the_options() -> None:
    parsed, rest = parse(["-l", "list", "-u"], TABLE, until_operand=True)
    assert parsed.has("long")
    assert not parsed.has("undo")
    assert rest == ["list", "-u"]


def test_what_stands_after_the_sub_command_replaces_what_stood_before() -> None:
    before, _ = parse(["-vv", "--no-cache", "-t", "a", "-l"], TABLE)
    after, _ = parse(["-v", "--cache", "-t", "b"], TABLE)
    parsed = after.over(before)
    assert parsed.count("verbose") == 1, "counts must not add"
    assert parsed.text("cache") == "enabled"
    assert parsed.texts("tag") == ("b",)
    assert parsed.has("long"), "what only stood before stays"


def test_two_halves_of_one_line_add_up() -> None:
    before, _ = parse(["-v", "-t", "a", "-f", "x"], TABLE)
    after, _ = parse(["-v", "-t", "b"], TABLE)
    parsed = after.onto(before)
    assert parsed.count("verbose") == 2
    assert parsed.texts("tag") == ("a", "b")
    assert parsed.text("file") == "x"


def test_an_option_that_no_table_declares_is_a_fault_of_ours() -> None:
    with pytest.raises(KeyError):
        parse([], TABLE)[0].has("nosuch")


OPERANDS = {
    ("", 0): "",
    ("", 1): "cannot use 'w0'",
    ("REF", 0): "needs REF",
    ("REF", 1): "",
    ("REF [DEST]", 2): "",
    ("REF [DEST]", 3): "cannot use 'w2'",
    ("GLOB...", 0): "needs GLOB",
    ("GLOB...", 5): "",
    ("[WORD...]", 0): "",
    ("[WORD...]", 3): "",
}


@pytest.mark.parametrize("case", OPERANDS.items(), ids=str)
def test_operands_are_counted(case: tuple[tuple[str, int], str]) -> None:
    (spec, number), message = case
    command = options.Command("cmd", spec, "about", (), lambda _: 0)
    words = [f"w{n}" for n in range(number)]
    if not message:
        command.check_operands(words)
        return
    with pytest.raises(UsageError, match=message):
        command.check_operands(words)


def test_help_names_every_option_within_79_columns() -> None:
    command = options.Command("cmd", "REF", "What it does. " * 20, TABLE, lambda _: 0)
    text = options.help_text("prog cmd", command, common=TABLE)
    assert max(map(len, text.splitlines())) <= 79
    for option in TABLE:
        for name in option.names:
            assert name in text
    assert "usage: prog cmd [OPTION...] REF" in text


def test_a_name_of_the_command_is_not_the_one_that_all_commands_share() -> None:
    own, shared = (
        options.value("-s --signal", "SIGNAL", ""),
        options.value("-s --storage", "DIR", ""),
    )
    kill = options.Command("kill", "ID", "", (own,), lambda _: 0)
    _, parsed = kill.parse(["-s", "KILL", "--storage", "/d", "one"], (shared,))
    assert (parsed.text("signal"), parsed.text("storage")) == ("KILL", "/d")
    assert options.help_text("kill", kill, common=(shared,)).count("-s,") == 1
