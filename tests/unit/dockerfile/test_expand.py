"""Variables, quotes and escapes in a word: every form, and every way to get one wrong.

The tables have been compared with BuildKit's shell lexer; one difference is meant and marked.
"""

from __future__ import annotations

import pytest

from ch_image.dockerfile.ast import Copy, Env, Expose
from ch_image.dockerfile.expand import Expander, ExpandError, expand, expand_words
from ch_image.dockerfile.parser import parse
from ch_image.errors import DockerfileError

ENV = {
    "name": "value",
    "empty": "",
    "two": "a b",
    "path": "/usr/local/lib/libz.so.1",
    "stars": "a*b?c",
    "digits": "10",
    "x": "abcabc",
    "utf": "grün",
    "dollar": "$name",
    "quote": "it's",
    "_u": "under",
    "lines": "one\ntwo",
}
WORDS: list[tuple[str, str]] = [
    ("plain", "plain"),
    ("$name", "value"),
    ("${name}", "value"),
    ("a${name}b", "avalueb"),
    ("a$name.b", "avalue.b"),
    ("a$name_b", "a"),
    ("$name$name", "valuevalue"),
    ("${name}name", "valuename"),
    ("$_u", "under"),
    ("$digits$empty$digits", "1010"),
    ("$unset", ""),
    ("a${unset}b", "ab"),
    ("$", "$"),
    ("a$", "a$"),
    ("$ a", "$ a"),
    ("$.", "$."),
    ("$/x", "$/x"),
    ("$$", ""),
    ("$$name", "name"),
    ("$1", ""),
    ("$10", ""),
    ("$1a", "a"),
    ("${1}", ""),
    ("$@ $* $# $? $- $!", "     "),
    ("$0", ""),
    ("$é", ""),
    ("${utf}", "grün"),
    ("\\$name", "$name"),
    ("\\\\$name", "\\value"),
    ("\\\\\\$name", "\\$name"),
    ("a\\bc", "abc"),
    ("a\\ b", "a b"),
    ("trailing\\", "trailing"),
    ('\\"', '"'),
    ("\\'", "'"),
    ("'$name'", "$name"),
    ("'a\\'", "a\\"),
    ("'a\\$name'", "a\\$name"),
    ("'a\"b'", 'a"b'),
    ('"$name"', "value"),
    ('"${name}"', "value"),
    ("\"a'b'c\"", "a'b'c"),
    ('"a\\"b"', 'a"b'),
    ('"a\\$name"', "a$name"),
    ('"a\\\\b"', "a\\b"),
    ('"a\\nb"', "a\\nb"),
    ('"a\\\'b"', "a\\'b"),
    ('"a b"  c', "a b  c"),
    ("''", ""),
    ('""', ""),
    ("\"'\"'\"'", "'\""),
    ("'one'\"two\"three", "onetwothree"),
    ('"$unset"', ""),
    ('"a\tb"', "a\tb"),
    ('"$quote"', "it's"),
    ("$quote", "it's"),
    ("$dollar", "$name"),
    ('"$dollar"', "$name"),
    ("$two", "a b"),
    ('"$two"', "a b"),
    ("${name:-other}", "value"),
    ("${name-other}", "value"),
    ("${unset:-other}", "other"),
    ("${unset-other}", "other"),
    ("${empty:-other}", "other"),
    ("${empty-other}", ""),
    ("${unset:-$name}", "value"),
    ("${unset:-${name}}", "value"),
    ("${unset:-${unset:-deep}}", "deep"),
    ('${unset:-"a b"}', "a b"),
    ("${unset:-'a}b'}", "a}b"),
    ('${unset:-"a}b"}', "a}b"),
    ("${unset:-a\\}b}", "a}b"),
    ("${unset:-a b}", "a b"),
    ("${unset:-}", ""),
    ("${unset:-\\$name}", "$name"),
    ("${unset:-a\\\\b}", "a\\b"),
    ("${unset:-a:b}", "a:b"),
    ("${unset:-:-}", ":-"),
    ("${name:+other}", "other"),
    ("${name+other}", "other"),
    ("${unset:+other}", ""),
    ("${unset+other}", ""),
    ("${empty:+other}", ""),
    ("${empty+other}", "other"),
    ("${name:+$name$name}", "valuevalue"),
    ("${name:+}", ""),
    ("${name:?}", "value"),
    ("${name?never said}", "value"),
    ("${empty?fine}", ""),
    ("${path#*/}", "usr/local/lib/libz.so.1"),
    ("${path##*/}", "libz.so.1"),
    ("${path%.*}", "/usr/local/lib/libz.so"),
    ("${path%%.*}", "/usr/local/lib/libz"),
    ("${path%/*}", "/usr/local/lib"),
    ("${path%%/*}", ""),
    ("${path#/usr}", "/local/lib/libz.so.1"),
    ("${path#/opt}", "/usr/local/lib/libz.so.1"),
    ("${path#/usr/*/}", "lib/libz.so.1"),
    ("${path##/usr/*/}", "libz.so.1"),
    ("${path#?}", "usr/local/lib/libz.so.1"),
    ("${path%?}", "/usr/local/lib/libz.so."),
    ("${path%%?}", "/usr/local/lib/libz.so."),
    ("${path#}", "/usr/local/lib/libz.so.1"),
    ("${path%}", "/usr/local/lib/libz.so.1"),
    ("${path##}", "/usr/local/lib/libz.so.1"),
    ("${path#$name}", "/usr/local/lib/libz.so.1"),
    ("${path#'/usr'}", "/local/lib/libz.so.1"),
    ("${path%.so*}", "/usr/local/lib/libz"),
    ("${path%%.so*}", "/usr/local/lib/libz"),
    ("${stars#a\\*}", "b?c"),
    ("${stars%\\?c}", "a*b"),
    ("${stars#a*b}", "?c"),
    ("${stars##*}", ""),
    ("${stars%*}", "a*b?c"),
    ("${stars%%*}", ""),
    ("${empty#a}", ""),
    ("${unset#a}", ""),
    ("${unset%%a}", ""),
    ("${utf#gr?}", "n"),
    ("${utf%?n}", "gr"),
    ("${x/b/X}", "aXcabc"),
    ("${x//b/X}", "aXcaXc"),
    ("${x/b/}", "acabc"),
    ("${x//b/}", "acac"),
    ("${x/z/X}", "abcabc"),
    ("${x//?c/-}", "a-a-"),
    ("${x/a*/-}", "-"),
    ("${x//a*/-}", "-"),
    ("${x//*/-}", "-"),
    ("${x/ab/$name}", "valuecabc"),
    ("${x//c/${digits}}", "ab10ab10"),
    ("${path//\\//:}", ":usr:local:lib:libz.so.1"),
    ("${path/\\/usr/}", "/local/lib/libz.so.1"),
    ("${path//\\/l*\\//-}", "/usr-libz.so.1"),
    ("${x//b/\\/}", "a\\/ca\\/c"),
    ("${x//b/\\}}", "a\\}ca\\}c"),
    ("${x/b/'q r'}", "aq rcabc"),
    ('${x/"b"/Y}', "aYcabc"),
    ("${unset/a/b}", ""),
    ("${unset//a/b}", ""),
    ("${empty//a/b}", ""),
    ("${empty/*/b}", "b"),
    ("${stars//\\*/+}", "a+b?c"),
    ("${stars//\\?/+}", "a*b+c"),
    ("${x//b/a.c}", "aa.ccaa.cc"),
    ("${x/./-}", "abcabc"),
    ("${x/[a]/-}", "abcabc"),
    ("${x/(a)/-}", "abcabc"),
    ("${x/a|b/-}", "abcabc"),
    ("${lines/one?two/joined}", "one\ntwo"),
    ("${lines%o}", "one\ntw"),
    ("<name", "<name"),
    ("<<EOF", "<<EOF"),
    ("<< EOF", "<< EOF"),
    ("a < b", "a < b"),
    ("a <<$name", "a <<value"),
    ("#not a comment", "#not a comment"),
    ("a#b", "a#b"),
    ("~name", "~name"),
    ("{$name}", "{value}"),
    ("${name}}", "value}"),
    ("$(name)", "$(name)"),
    ("`name`", "`name`"),
    ("$name:$name", "value:value"),
    ("a=$name", "a=value"),
    ("[$name]", "[value]"),
    ("$name,$unset,$name", "value,,value"),
    ("ä$name", "ävalue"),
]
BACKTICK: list[tuple[str, str]] = [
    ("a\\b", "a\\b"),
    ("a`b", "ab"),
    ("a`$name", "a$name"),
    ("`$name", "$name"),
    ("\\$name", "\\value"),
    ('"a`"b"', 'a"b'),
    ('"a\\"', "a\\"),
    ("```", "`"),
    ("$name`", "value"),
    ("'`'", "`"),
    ("${unset:-a`}b}", "a}b"),
    ("${x//b/`}}", "a`}ca`}c"),
    ("c:\\dir\\$name", "c:\\dir\\value"),
]
SPLIT: list[tuple[str, list[str]]] = [
    ("a b", ["a", "b"]),
    (" a  b ", ["a", "b"]),
    ("a\tb", ["a", "b"]),
    ('"a b" c', ["a b", "c"]),
    ("a\\ b c", ["a b", "c"]),
    ("'' a", ["a"]),
    ('"" ""', []),
    ("$two", ["a", "b"]),
    ('"$two"', ["a b"]),
    ("$two$two", ["a", "ba", "b"]),
    ("${unset:-a b}", ["a", "b"]),
    ('"${unset:-a b}"', ["a b"]),
    ("$unset", []),
    ("$unset a", ["a"]),
    ("a$two", ["aa", "b"]),
    ("$two'c'", ["a", "bc"]),
    ("'a'$two", ["aa", "b"]),
    ("80 443/tcp", ["80", "443/tcp"]),
    ("8000-8010", ["8000-8010"]),
    ("$digits/tcp", ["10/tcp"]),
    ("${unset:-80}/tcp", ["80/tcp"]),
    ("a${unset:-b}c", ["abc"]),  # BuildKit loses the a
    ("é", ["é"]),
]
FAULTS: list[tuple[str, tuple[str, int, int]]] = [
    ("${name", ("the closing } is missing", 0, 6)),
    ("${", ("the closing } is missing", 0, 2)),
    ("${}", ("there is no variable name in this substitution", 0, 3)),
    ("${:-a}", ("there is no variable name in this substitution", 0, 3)),
    ("${{name}}", ("there is no variable name in this substitution", 0, 3)),
    ("${name!}", ('"!" is not a substitution that a Dockerfile knows', 0, 7)),
    ("${name:}", ('":}" is not a substitution that a Dockerfile knows', 0, 8)),
    ("${name:=other}", ('":=" is not a substitution that a Dockerfile knows', 0, 8)),
    ("${name=other}", ('"=" is not a substitution that a Dockerfile knows', 0, 7)),
    ("${name@Q}", ('"@" is not a substitution that a Dockerfile knows', 0, 7)),
    ("${name:1}", ('":1" is not a substitution that a Dockerfile knows', 0, 8)),
    ("${name,}", ('"," is not a substitution that a Dockerfile knows', 0, 7)),
    ("${name^}", ('"^" is not a substitution that a Dockerfile knows', 0, 7)),
    ("${name:#a}", ('":#" is not a substitution that a Dockerfile knows', 0, 8)),
    ("${name:%a}", ('":%" is not a substitution that a Dockerfile knows', 0, 8)),
    ("${name:", ("the closing } is missing", 0, 7)),
    ("${name:-", ("the closing } is missing", 0, 8)),
    ("${name:-other", ("the closing } is missing", 0, 13)),
    ("${name/a", ("the closing / is missing", 0, 8)),
    ("${name/a/b", ("the closing } is missing", 0, 10)),
    ("${name//a", ("the closing / is missing", 0, 9)),
    ("${name#a", ("the closing } is missing", 0, 8)),
    ("${name#\\x}", ('invalid escape "\\x" in the pattern of a substitution', 0, 10)),
    ("${name/\\x/y}", ('invalid escape "\\x" in the pattern of a substitution', 0, 12)),
    ("${name%a\\}", ("the closing } is missing", 0, 10)),
    ("${unset?}", ("unset: is not allowed to be unset", 0, 9)),
    ("${unset:?}", ("unset: is not allowed to be unset", 0, 10)),
    ("${unset:?gone $name}", ("unset: gone value", 0, 20)),
    ("${empty:?}", ("empty: is not allowed to be empty", 0, 10)),
    ("${empty:?it is empty}", ("empty: it is empty", 0, 21)),
    ("'open", ("the closing single quote is missing", 0, 1)),
    ('"open', ("the closing double quote is missing", 0, 1)),
    ("a'b", ("the closing single quote is missing", 1, 1)),
    ('a"b$name', ("the closing double quote is missing", 1, 1)),
    ('"${name', ("the closing } is missing", 1, 6)),
    ('"${name:-"}', ("the closing double quote is missing", 9, 1)),
    ('${name:-"}', ("the closing double quote is missing", 8, 1)),
    ("${name:-'}", ("the closing single quote is missing", 8, 1)),
]


@pytest.mark.parametrize(("text", "expected"), WORDS, ids=[case[0] for case in WORDS])
def test_a_word_stands_for(text: str, expected: str) -> None:
    assert expand(text, ENV.get).text == expected


@pytest.mark.parametrize(("text", "expected"), BACKTICK, ids=[case[0] for case in BACKTICK])
def test_a_word_with_the_backtick_as_escape_stands_for(text: str, expected: str) -> None:
    assert expand(text, ENV.get, "`").text == expected


@pytest.mark.parametrize(("text", "expected"), SPLIT, ids=[case[0] for case in SPLIT])
def test_a_text_splits_into(text: str, expected: list[str]) -> None:
    assert expand_words(text, ENV.get) == expected


@pytest.mark.parametrize(("text", "expected"), FAULTS, ids=[case[0] for case in FAULTS])
def test_a_faulty_word_says_where(text: str, expected: tuple[str, int, int]) -> None:
    with pytest.raises(ExpandError) as caught:
        expand(text, ENV.get)
    assert (str(caught.value), caught.value.offset, caught.value.length) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\"a $name\" 'b' \\c", "\"a value\" 'b' c"),
        ("${unset} $unset ${unset:-a}", "${unset} $unset ${unset:-a}"),
        ("${unset#a}${unset/b/c}", "${unset#a}${unset/b/c}"),
        ("$name", "value"),
    ],
)
def test_quotes_and_unset_names_can_be_kept_for_display(text: str, expected: str) -> None:
    assert expand(text, ENV.get, keep_quotes=True, keep_unset=True).text == expected


def test_unset_names_are_told_with_their_places() -> None:
    result = expand("$name $no ${not:-$neither} \"$no\" '$quoted'", ENV.get)
    assert result.unset == [("no", 6), ("neither", 17), ("not", 10), ("no", 28)]


def test_words_know_their_line_after_a_continuation() -> None:
    dockerfile = parse("FROM a\nENV A=1 \\\n  # why\n  B=x$no \\\n C=${also\\\n_no}\n")
    node = dockerfile.instructions[1]
    assert isinstance(node, Env)
    expander = Expander(dockerfile, ENV.get)
    assert [expander.word(pair.value) for pair in node.pairs] == ["1", "x", ""]
    assert [(name, span[:2]) for name, span in expander.unset] == [
        ("no", (4, 6)),
        ("also_no", (5, 4)),
    ]


def test_an_expander_points_at_what_must_be_set() -> None:
    dockerfile = parse("FROM a\nEXPOSE 80 \\\n  ${port:?no-port}\n")
    node = dockerfile.instructions[1]
    assert isinstance(node, Expose)
    expander = Expander(dockerfile, ENV.get)
    assert expander.words(node.ports[0]) == ["80"]
    with pytest.raises(DockerfileError) as caught:
        expander.words(node.ports[1])
    assert "port: no-port" in str(caught.value)
    assert caught.value.where == ("Dockerfile", 3, 3)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("<<E", 'it\'s value "value" $name \\ a\n'),
        ("<<'E'", 'it\'s $name "${name}" \\$name \\\\ \\a\n'),
    ],
)
def test_a_document_is_expanded_unless_its_name_is_quoted(written: str, expected: str) -> None:
    body = 'it\'s $name "${name}" \\$name \\\\ \\a\n'
    dockerfile = parse(f"# escape=`\nFROM a\nCOPY {written} /x\n{body}E\n")
    node = dockerfile.instructions[1]
    assert isinstance(node, Copy)
    assert Expander(dockerfile, ENV.get).document(node.heredocs[0]) == expected


def test_a_document_says_which_of_its_lines_is_wrong() -> None:
    dockerfile = parse("FROM a\nCOPY <<-E /x\n\tone\n\t\ttwo ${must:?be set}\n\tE\n")
    node = dockerfile.instructions[1]
    assert isinstance(node, Copy)
    with pytest.raises(DockerfileError) as caught:
        Expander(dockerfile, ENV.get).document(node.heredocs[0])
    assert caught.value.where == ("Dockerfile", 4, 7)
