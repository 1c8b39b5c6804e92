"""Extended shell patterns, compared with bash's own where bash is there."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from ch_image.cli.extglob import matches

CASES = [
    ("SLURM_JOB", "SLURM*", True),
    ("SLURM", "SLURM*", True),
    ("xSLURM", "SLURM*", False),
    ("abc", "a?c", True),
    ("ac", "a?c", False),
    ("", "*", True),
    ("", "", True),
    ("a", "", False),
    ("abc", "*b*", True),
    ("abc", "[a-c][!x][c]", True),
    ("abc", "[^a]bc", False),
    ("a]c", "a[]]c", True),
    ("a-c", "a[a-]c", True),
    ("a[c", "a[c", True),
    ("a*c", "a\\*c", True),
    ("abc", "a\\*c", False),
    ("a1", "[[:alpha:]][[:digit:]]", True),
    ("1a", "[[:alpha:]][[:digit:]]", False),
    ("a", "[[:upper:]b]", False),
    ("chue_1", "chue_@(1|2)", True),
    ("chue_3", "chue_@(1|2)", False),
    ("chue_1", "!(chue_*)", False),
    ("other", "!(chue_*)", True),
    ("WANTED_1", "!(WANTED_*|ALSO_WANTED_*)", False),
    ("ALSO_WANTED_1", "!(WANTED_*|ALSO_WANTED_*)", False),
    ("NOT_WANTED", "!(WANTED_*|ALSO_WANTED_*)", True),
    ("", "?(a)", True),
    ("a", "?(a)", True),
    ("aa", "?(a)", False),
    ("", "*(a|b)", True),
    ("abba", "*(a|b)", True),
    ("abca", "*(a|b)", False),
    ("", "+(a)", False),
    ("aaa", "+(a)", True),
    ("foobar", "foo!(bar)", False),
    ("foobaz", "foo!(bar)", True),
    ("foo", "foo!(bar)", True),
    ("abab", "+(ab|a)", True),
    ("ab", "@(a@(b|c)|d)", True),
    ("ad", "@(a@(b|c)|d)", False),
    ("a|b", "@(a\\|b)", True),
    ("a)b", "@(a[)]b)", True),
    ("+(a", "+(a", True),
    ("x.c", "*.@(c|h)", True),
    ("", "@()", True),
]


@pytest.mark.parametrize(
    ("text", "pattern", "wanted"), CASES, ids=[f"{t} {p}" for t, p, _ in CASES]
)
def test_a_pattern_matches(text: str, pattern: str, wanted: bool) -> None:
    assert matches(text, pattern) is wanted


def test_bash_says_the_same() -> None:
    bash = shutil.which("bash")
    if not bash:
        pytest.skip("no bash to compare with")
    script = "shopt -s extglob; while (($#)); do [[ $1 == $2 ]] && echo y || echo n; shift 2; done"
    words = [word for text, pattern, _ in CASES for word in (text, pattern)]
    done = subprocess.run([bash, "-c", script, "bash", *words], capture_output=True, text=True)
    theirs = [line == "y" for line in done.stdout.split()]
    different = [c for c, their in zip(CASES, theirs, strict=True) if c[2] != their]
    assert not different


@pytest.mark.timeout(60)  # a matcher that backtracks takes years
def test_a_hostile_pattern_takes_no_time() -> None:
    assert not matches("a" * 300, "*(a*)*(a*)+(*a|a*)b")
