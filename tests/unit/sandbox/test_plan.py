"""A container plan survives being words."""

from __future__ import annotations

import pytest

from ch_image.sandbox.frames import pack, unpack
from ch_image.sandbox.mounts import Bind, Dev, File, Proc, Tmpfs
from ch_image.sandbox.plan import Identity, Plan, parse

NASTY = ["", "two words", "new\nline", "--", "--root", "\udcff\udc80", "ünï", "$(x)", "nul\0byte"]


def full_plan() -> Plan:
    plan = Plan("/some/root", ["/bin/sh", "-c", "--root /", *NASTY])
    plan.operations = [
        Proc(), Dev(), Bind("/a", "/b"), Bind("/sys", "/sys", readonly=True),
        Tmpfs("/t", "mode=1777,size=5"), File("/etc/hosts", "127.0.0.1 x\n", 0o640),
    ]  # fmt: skip
    plan.namespaces = ["pid", "net"]
    plan.env = {"A": "", "B": "x=y\n", "--": "--"}
    plan.cwd, plan.hostname, plan.umask = "/w d", "box", 0o027
    plan.emulate, plan.new_privileges = True, False
    plan.identity = Identity(33, 5, (5, 7))
    return plan


def test_words_and_parse_are_inverse() -> None:
    words = full_plan().words()
    again = parse(words)
    assert again.words() == words
    assert again.env == {"A": "", "B": "x=y\n", "--": "--"}
    assert again.argv[-len(NASTY) :] == NASTY


def test_a_frame_carries_any_words() -> None:
    words = full_plan().words()
    assert unpack(pack(words)[4:]) == words


@pytest.mark.parametrize("word", ["--bnid", "x", ""])
def test_a_foreign_word_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="no part of a container plan"):
        parse([word])
