"""Near words: one slip in a short word, two in a longer one."""

from __future__ import annotations

import pytest

from ch_image.dockerfile.suggest import did_you_mean, nearest

WORDS = ("FROM", "RUN", "COPY", "WORKDIR", "ENTRYPOINT", "ADD")


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("FORM", "FROM"),
        ("RNU", "RUN"),
        ("rum", "RUN"),
        ("CPOY", "COPY"),
        ("COPPY", "COPY"),
        ("WORKIDR", "WORKDIR"),
        ("WRKDR", "WORKDIR"),
        ("ENTRYPONT", "ENTRYPOINT"),
        ("RUNN", "RUN"),
        ("FROM", ""),
        ("R", ""),
        ("", ""),
        ("XYZ", ""),
        ("ENTRY", ""),
        ("A" * 10_000, ""),
    ],
)
def test_the_word_that_was_meant(word: str, expected: str) -> None:
    assert nearest(word, WORDS) == expected


def test_a_hint_names_the_near_word_or_all() -> None:
    assert did_you_mean("chwon", ("chown", "chmod"), "--") == "did you mean --chown?"
    assert did_you_mean("x", ("chown", "chmod"), "--") == "known here: --chown, --chmod"
    assert did_you_mean("x", ()) == ""
