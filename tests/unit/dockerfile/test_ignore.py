"""Which paths a .dockerignore leaves out, compared with what BuildKit's walk does.

The one row that BuildKit answers differently is marked.
"""

from __future__ import annotations

import pytest

from ch_image.dockerfile import ignore
from ch_image.errors import BuildError, DockerfileError

# An underscore stands for a blank.
TREE = (
    *("a", "a.c", "a/b", "a/b/c", "a/b.c", "a/.d", ".git", ".git/config", "b", "b/a", "b/a/b"),
    *("b/a.c", "docs", "docs/README.md", "docs/img", "docs/img/x.png", "README.md", "src"),
    *("src/a.c", "src/a.o", "src/lib", "src/lib/b.o", "src/lib/c.d", "build", "build/out"),
    *("node-modules", "pkg", "pkg/node-modules", "pkg/node-modules/x", "file.txt", "file1.txt"),
    *("file10.txt", "x[y]", "star*", "q?", "back\\slash", "#hash", "!bang", "two_words"),
    "pkg/two_words",
)
# What is left out, or what is left in where that is shorter.
CASES = [
    ("a", "out: a a/b a/b/c a/b.c a/.d"),
    ("/a", "out: a a/b a/b/c a/b.c a/.d"),
    ("a/", "out: a a/b a/b/c a/b.c a/.d"),
    ("./a", "out: a a/b a/b/c a/b.c a/.d"),
    ("a/.", "out: a a/b a/b/c a/b.c a/.d"),
    ("a/../a", "out: a a/b a/b/c a/b.c a/.d"),
    ("//a", "out: a a/b a/b/c a/b.c a/.d"),
    ("../a", "out:"),
    ("/", "out:"),
    (".", "out:"),
    ("*", "in:"),
    ("**", "in:"),
    ("**/", "in:"),
    ("**/*", "in:"),
    ("*/", "in:"),
    ("*.c", "out: a.c"),
    ("**.c", "out: a.c a/b.c b/a.c src/a.c"),
    ("**/*.c", "out: a.c a/b.c b/a.c src/a.c"),
    ("*/*.c", "out: a/b.c b/a.c src/a.c"),
    ("a/*", "out: a/b a/b/c a/b.c a/.d"),
    ("a/**", "out: a/b a/b/c a/b.c a/.d"),
    ("a/**/c", "out: a/b/c"),
    ("**/a", "out: a a/b a/b/c a/b.c a/.d b/a b/a/b"),
    ("**/b", "out: a/b a/b/c b b/a b/a/b b/a.c"),
    ("**/node-modules", "out: node-modules pkg/node-modules pkg/node-modules/x"),
    ("**/b/**", "out: a/b/c b/a b/a/b b/a.c"),
    ("a*", "out: a a.c a/b a/b/c a/b.c a/.d"),
    ("?", "out: a a/b a/b/c a/b.c a/.d b b/a b/a/b b/a.c"),
    ("??", "out: q?"),
    ("file?.txt", "out: file1.txt"),
    ("file*.txt", "out: file.txt file1.txt file10.txt"),
    ("file[0-9].txt", "out: file1.txt"),
    ("file[^0-9]*", "out: file.txt"),
    ("file[0-9]*", "out: file1.txt file10.txt"),
    ("[ab]", "out: a a/b a/b/c a/b.c a/.d b b/a b/a/b b/a.c"),
    ("[a-b].c", "out: a.c"),
    ("[^ab]", "out:"),
    ("[a-zA-Z]*", "in: .git .git/config #hash !bang"),
    (".*", "out: .git .git/config"),
    (".git", "out: .git .git/config"),
    ("*/.*", "out: a/.d"),
    ("**/.*", "out: a/.d .git .git/config"),
    ("docs/*.md", "out: docs/README.md"),
    ("docs/**/*.png", "out: docs/img/x.png"),
    ("src/**/*.o", "out: src/a.o src/lib/b.o"),
    ("**/lib", "out: src/lib src/lib/b.o src/lib/c.d"),
    ("**/lib/*.o", "out: src/lib/b.o"),
    ("x[[]y]", "out: x[y]"),
    ("x\\[y\\]", "out: x[y]"),
    ("star\\*", "out: star*"),
    ("q\\?", "out: q?"),
    ("back\\\\slash", "out: back\\slash"),
    # patternmatcher takes this for the bell of regular expressions
    ("\\a", "out: a a/b a/b/c a/b.c a/.d"),
    (" a ", "out: a a/b a/b/c a/b.c a/.d"),
    ("\ta\t", "out: a a/b a/b/c a/b.c a/.d"),
    ("two words", "out: two_words"),
    ("#hash", "out:"),
    ("\\#hash", "out: #hash"),
    (" #hash", "out: #hash"),
    ("!bang", "out:"),
    ("\\!bang", "out: !bang"),
    ("a b", "out:"),
    ("*\n!a", "in: a a/b a/b/c a/b.c a/.d"),
    ("*\n!a/b", "in: a/b a/b/c"),
    ("*\n!a/b\na/b/c", "in: a/b"),
    ("a\n!a/b", "out: a a/b.c a/.d"),
    ("a\n!a", "out:"),
    ("!a\na", "out: a a/b a/b/c a/b.c a/.d"),
    ("a/b\n!a", "out: a/b a/b/c"),
    ("*\n!docs\ndocs/*.md", "in: docs docs/img docs/img/x.png"),
    ("*\n!**/*.md", "in: docs/README.md README.md"),
    ("**\n!README.md", "in: README.md"),
    ("**/*.md\n!README.md", "out: docs/README.md"),
    ("*.md\n!README*.md\nREADME.md", "out: README.md"),
    ("docs\n!docs/**/*.png", "out: docs docs/README.md docs/img"),
    ("docs/*\n!docs/img", "out: docs/README.md"),
    ("docs/**\n!docs/img/x.png", "out: docs/README.md docs/img"),
    ("*\n!src\nsrc/**/*.o", "in: src src/a.c src/lib src/lib/c.d"),
    ("node-modules\n!pkg", "out: node-modules"),
    ("**/node-modules\n!pkg/node-modules/x", "out: node-modules pkg/node-modules"),
    ("*\n!*.txt\nfile?.txt", "in: file.txt file10.txt"),
    ("*\n! a", "in: a a/b a/b/c a/b.c a/.d"),
    ("a\n! /a/b", "out: a a/b.c a/.d"),
    ("# comment\na", "out: a a/b a/b/c a/b.c a/.d"),
    ("\na\n", "out: a a/b a/b/c a/b.c a/.d"),
    ("a\r\nb\r", "out: a a/b a/b/c a/b.c a/.d b b/a b/a/b b/a.c"),
    ("*\n!file[0-9].txt", "in: file1.txt"),
    ("src/***/a.c", "out:"),
    ("a***b", "out: a/b a/b/c"),
    ("a/**b", "out: a/b a/b/c"),
    ("**a", "out: a a/b a/b/c a/b.c a/.d b/a b/a/b"),
    ("**/a/b", "out: a/b a/b/c b/a/b"),
    ("/**/b", "out: a/b a/b/c b b/a b/a/b b/a.c"),
    ("*/b/c", "out: a/b/c"),
    ("*/*/*", "out: a/b/c b/a/b docs/img/x.png src/lib/b.o src/lib/c.d pkg/node-modules/x"),
    ("a?b", "out:"),
    ("a/?", "out: a/b a/b/c"),
    ("a//b", "out: a/b a/b/c"),
]
FAULTS = [
    ("[a", "the closing ] of a [class] is missing"),
    ("a[", "the closing ] of a [class] is missing"),
    ("[]", "a ] cannot stand there in a [class]"),
    ("[^]", "a ] cannot stand there in a [class]"),
    ("[b-a]", "the range b-a goes backwards"),
    ("[a-]", "a ] cannot stand there in a [class]"),
    ("[-a]", "a - cannot stand there in a [class]"),
    ("a\\", "a backslash at the end of a pattern has nothing to escape"),
    ("!", "there is no pattern behind the exclamation mark"),
    ("! ", "there is no pattern behind the exclamation mark"),
    ("**/[", "the closing ] of a [class] is missing"),
]


@pytest.mark.parametrize(("text", "expected"), CASES, ids=[case[0] for case in CASES])
@pytest.mark.parametrize("stars", [3, -1], ids=["fast", "patient"])
def test_the_rules_leave_out(
    text: str, expected: str, stars: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ignore, "_STARS", stars)  # from how many stars on a pattern is patient
    rules = ignore.parse(text.encode())
    out = [path for path in TREE if rules.excluded(path.replace("_", " "))]
    if expected.startswith("in:"):
        assert [path for path in TREE if path not in out] == expected[3:].split()
    else:
        assert out == expected[4:].split()


@pytest.mark.parametrize("text", [case[0] for case in CASES])
def test_a_directory_is_pruned_only_if_nothing_in_it_returns(text: str) -> None:
    rules = ignore.parse(text)
    for path in (path.replace("_", " ") for path in TREE):
        names = path.split("/")
        for i in range(1, len(names)):
            above = "/".join(names[:i])
            if rules.excluded(above) and not rules.may_return(above):
                assert rules.excluded(path), f"{path} returns, but {above} was pruned"


@pytest.mark.parametrize(("text", "message"), FAULTS, ids=[case[0] for case in FAULTS])
def test_a_bad_pattern_is_refused(text: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        ignore.parse(f"good\n\n  {text}\r\n".encode(), "X.dockerignore")
    assert str(caught.value).split(": ", 1)[1].split("\n")[0] == message
    assert caught.value.where == ("X.dockerignore", 3, 3)
    if not text.startswith("!"):
        with pytest.raises(BuildError) as refused:
            ignore.from_patterns(["good", text])
        assert message in str(refused.value)


def test_the_order_of_questions_does_not_matter() -> None:
    text = "*\n!src\nsrc/**/*.o\n!src/lib\n**/c.d\n"
    once = [ignore.parse(text).excluded(path) for path in TREE]
    rules = ignore.parse(text)
    assert [rules.excluded(path) for path in reversed(TREE)][::-1] == once
    assert [rules.excluded(path) for path in TREE] == once


def test_the_root_is_never_left_out() -> None:
    for text in ("*", "**", ".", "/"):
        assert not ignore.parse(text).excluded("")
        assert not ignore.parse(text).excluded(".")


def test_no_rules_leave_out_nothing() -> None:
    for text in (b"", b"\n\n", b"# *\n", b"\xef\xbb\xbf# *\n"):
        rules = ignore.parse(text)
        assert not rules.has_exceptions
        assert not rules.excluded("a/b")
        assert rules.explain("a/b") is None


def test_a_byte_order_mark_is_no_part_of_a_pattern() -> None:
    assert ignore.parse(b"\xef\xbb\xbfa\n").excluded("a")


def test_names_need_not_be_text() -> None:
    rules = ignore.parse(b"caf\xe9/*\n\xff?\n")
    name = b"caf\xe9/x\ny".decode("utf-8", "surrogateescape")
    assert rules.excluded(name)
    assert not rules.excluded("caf\u00e9/x")
    assert rules.excluded(b"\xff\xfe".decode("utf-8", "surrogateescape"))


def test_the_rule_that_decides_is_told() -> None:
    rules = ignore.parse("# what\n*.c\n!a.c\n  src/  \n!src/keep\n", "F.dockerignore")
    assert rules.explain("b.c") == ("F.dockerignore", 2, "*.c")
    assert rules.explain("src/x/y") == ("F.dockerignore", 4, "src/")
    assert rules.explain("a.c") is None
    assert rules.explain("src/keep/x") is None


def test_patterns_of_a_flag_are_taken_as_they_are() -> None:
    rules = ignore.from_patterns(["*.o", "!keep.o", " ", "/abs", "#x"])
    assert rules.has_exceptions
    paths = ["a.o", "keep.o", "sub/a.o", "abs", "#x"]
    assert [rules.excluded(path) for path in paths] == [True, False, False, False, True]


@pytest.mark.timeout(60)  # below a second, unless each file is matched anew with each pattern
def test_many_files_are_judged_quickly() -> None:
    text = "\n".join(["**/*.o", "build*", "!build/keep", "**/node-modules", "docs/**/*.png"] * 20)
    rules = ignore.parse(text)
    out = sum(rules.excluded(f"src/{i % 100}/file{i}.c") for i in range(50_000))
    assert out == 0


@pytest.mark.timeout(60)  # a matcher that backtracks takes years
def test_a_hostile_pattern_does_not_take_long() -> None:
    rules = ignore.parse("*a" * 12 + "b\n" + "**/a" * 6 + "/b\n")
    assert not rules.excluded("a" * 40)
    assert not rules.excluded("a/" * 40 + "c")
    assert rules.excluded("a" * 40 + "b")
    assert rules.excluded("a/" * 40 + "b")
