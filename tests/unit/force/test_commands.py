"""Which words make a RUN need fakeroot, where arguments go, which output is a sign."""

from __future__ import annotations

import re

import pytest

from ch_image.force.commands import add_arguments
from ch_image.force.fakeroot import inject, needs
from ch_image.force.hints import is_sign
from ch_image.force.profiles import InitStep, Profile

STEP = InitStep("check", "command")
PROFILE = Profile("x", "X", "/f", re.compile("x"), None, (STEP,), frozenset({"dnf"}), ("w", "-x"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dnf install x", True),
        ("true&&dnf install x", True),
        ("(dnf x)", True),
        ("/usr/bin/dnf x", True),
        ('sh -c "dnf x"', True),
        ("x=$(dnf x)", True),
        ("dnf-3 x", False),
        ("mydnf x", False),
        ("echo dnf.conf", False),
        ("", False),
    ],
)
def test_a_keyword_counts_as_a_whole_word(text: str, expected: bool) -> None:
    assert needs(PROFILE, ["/bin/sh", "-c", text]) == expected


def test_init_steps_go_before_the_first_only() -> None:
    first = inject(PROFILE, ["dnf"], ready=False)
    assert (first.init, first.argv) == ((STEP,), ("w", "-x", "dnf"))
    assert inject(PROFILE, ["dnf"], ready=True).init == ()


APT = ("apt-get", "-o", "A=b c")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["apt-get", "install"], ("apt-get", "-o", "A=b c", "install")),
        (["sh", "-c", "apt-get install x"], ("sh", "-c", "apt-get -o 'A=b c' install x")),
        (["sh", "-c", "a;apt-get x"], ("sh", "-c", "a;apt-get -o 'A=b c' x")),
        (["sh", "-c", "my-apt-get x"], ("sh", "-c", "my-apt-get x")),
        (["sh", "-c", "apt-get-x y"], ("sh", "-c", "apt-get-x y")),
        (["sh", "-c", "ls /x/apt-get y"], ("sh", "-c", "ls /x/apt-get y")),
    ],
)
def test_arguments_go_behind_the_command(argv: list[str], expected: tuple[str, ...]) -> None:
    assert add_arguments(argv, [APT]) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("chown: changing ownership of '/x': Invalid argument", True),
        ("E: setgroups 65534 failed - setgroups (1: Operation not permitted)", True),
        ("E: seteuid 42 failed - seteuid (22: Invalid argument)", True),
        ("mknod: /dev/x: Operation not permitted", True),
        ("error: unpacking of archive failed on file /usr/bin/x: cpio: chown", True),
        ("dpkg: error: error setting ownership of './usr/bin/x': Invalid argument", True),
        ("tar: x: Cannot change ownership to uid 5, gid 5: Invalid argument", True),
        ("cat: /nowhere: No such file or directory", False),
        ("make: *** [all] Error 2", False),
        ("changing directories", False),
    ],
)
def test_output_that_tells_of_missing_root(line: str, expected: bool) -> None:
    assert is_sign(line) == expected
