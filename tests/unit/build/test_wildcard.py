"""Go's filepath.Match, component by component."""

from __future__ import annotations

import pytest

from ch_image.build.wildcard import compile_component, has_wildcards
from ch_image.errors import BuildError

MATCHES = [
    ("abc", "abc", True),
    ("*", "abc", True),
    ("*", "", True),
    ("*", ".dot", True),
    ("*c", "abc", True),
    ("a*", "a", True),
    ("a*", "ba", False),
    ("a*b?c*x", "abxbbxdbxebxczzx", True),
    ("a*b?c*x", "abxbbxdbxebxczzy", False),
    ("?", "ä", True),
    ("?", "", False),
    ("ab[c]", "abc", True),
    ("ab[b-d]", "abc", True),
    ("ab[e-g]", "abc", False),
    ("ab[^c]", "abc", False),
    ("ab[^b-d]", "abc", False),
    ("ab[^e-g]", "abc", True),
    ("a\\*b", "a*b", True),
    ("a\\*b", "ab", False),
    ("a[^a]b", "a☺b", True),
    ("a[^a][^a]b", "a☺b", False),
    ("[a-ζ]*", "α", True),
    ("*[a-ζ]", "A", False),
    ("[\\]a]", "]", True),
    ("[\\-]", "-", True),
    ("[x\\-]", "x", True),
    ("[x\\-]", "-", True),
    ("[x\\-]", "z", False),
    ("[\\-x]", "-", True),
    ("[!a]", "!", True),
    ("[!a]", "b", False),
    ("[d-a]", "b", False),
    ("[^d-a]", "b", True),
    ("[ab&&c]", "&", True),
    ("[a^]", "^", True),
    ("a+(b)|.$", "a+(b)|.$", True),
    ("a.c", "abc", False),
    ("*x", "xxx", True),
    ("*", "two\nlines", True),
    ("a?c", "a\nc", True),
    ("**", "abc", True),
    ("a{b,c}", "a{b,c}", True),
]


@pytest.mark.parametrize(("pattern", "name", "expected"), MATCHES)
def test_a_pattern_matches_as_in_go(pattern: str, name: str, expected: bool) -> None:
    assert bool(compile_component(pattern).fullmatch(name)) is expected


@pytest.mark.parametrize(
    "pattern",
    ["[]a]", "[-]", "[x-]", "[-x]", "[a-b-c]", "[", "[^", "[^bc", "a[", "[a", "[\\", "a\\"]
    + ["[]", "[^]"],
)
def test_a_bad_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(BuildError, match="is wrong"):
        compile_component(pattern)


def test_a_backslash_protects_from_being_a_wildcard() -> None:
    assert [has_wildcards(text) for text in ["a", "a*", "a?", "a[", "a\\*", "a\\\\*"]] == [
        False, True, True, True, False, True,
    ]  # fmt: skip
