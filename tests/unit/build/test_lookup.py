"""Users and groups of an image, whatever its files say and wherever its links lead."""

from __future__ import annotations

from pathlib import Path

import pytest
import trees

from ch_image.build.lookup import Identity, identity, owner
from ch_image.errors import BuildError
from ch_image.fs.tree import Tree

PASSWD = """root:x:0:0:root:/root:/bin/bash
# comment:x:1:1
app:x:101:102:App:/home/app:/bin/sh

broken:x:no:1:::
short:x:1
huge:x:99999999999:1::/:
minus:x:-1:1::/:
twice:x:7:8::/first:
twice:x:9:9::/second:
bare:x:20:21
"""
GROUPS = """root:x:0:
staff:x:50:app,other
video:x:44:app
app:x:102:app
odd
"""


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    root = trees.plant(tmp_path / "image", "etc/passwd\netc/group")
    (root / "etc/passwd").write_text(PASSWD)
    (root / "etc/group").write_text(GROUPS)
    return Tree(str(root))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("app", (101, 102)),
        ("app:staff", (101, 50)),
        ("app:7", (101, 7)),
        ("5", (5, 5)),
        ("5:6", (5, 6)),
        ("5:staff", (5, 50)),
        ("101", (101, 101)),
        ("root", (0, 0)),
        ("root:root", (0, 0)),
        ("0:0", (0, 0)),
        (":staff", (0, 50)),
        ("app:", (101, 0)),
        ("5:", (5, 0)),
        ("twice", (7, 8)),
        ("bare", (20, 21)),
        ("4294967294:4294967294", (4294967294, 4294967294)),
    ],
)
def test_chown_means(text: str, expected: tuple[int, int], tree: Tree) -> None:
    assert owner(tree, text) == expected


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("ap", 'no user "ap"', "did you mean app?"),
        ("app:stuff", 'no group "stuff"', "did you mean staff?"),
        ("nobody-knows", "no user", "a number needs no entry"),
        ("broken", "no user", ""),
        ("-1", "-1 is no user ID", "from 0 to"),
        ("4294967295", "is no user ID", ""),
        ("1:4294967295", "is no group ID", ""),
        ("", "names no user", "--chown=USER"),
        (":", "names no user", ""),
        ("a\nb", 'no user "a\\nb"', ""),
    ],
)
def test_who_is_not_known_is_said(text: str, message: str, hint: str, tree: Tree) -> None:
    with pytest.raises(BuildError) as caught:
        owner(tree, text)
    assert message in str(caught.value)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Identity(0, 0, (), "/root", "root")),
        ("root", Identity(0, 0, (), "/root", "root")),
        ("app", Identity(101, 102, (50, 44), "/home/app", "app")),
        ("101", Identity(101, 102, (50, 44), "/home/app", "app")),
        ("app:video", Identity(101, 44, (), "/home/app", "app")),
        ("app:7", Identity(101, 7, (), "/home/app", "app")),
        ("4711", Identity(4711, 0, (), "/", "")),
        ("4711:50", Identity(4711, 50, (), "/", "")),
        (":50", Identity(0, 50, (), "/root", "root")),
    ],
)
def test_user_means(text: str, expected: Identity, tree: Tree) -> None:
    assert identity(tree, text) == expected


def test_an_image_without_files_knows_root_and_numbers(tmp_path: Path) -> None:
    tree = Tree(str(tmp_path))
    assert owner(tree, "root:root") == (0, 0)
    assert identity(tree, "root").home == "/root"
    assert identity(tree, "12").uid == 12
    with pytest.raises(BuildError, match="no user"):
        owner(tree, "app")


def test_links_lead_nowhere_else_and_other_kinds_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "passwd").write_text("out:x:666:666::/:\n")
    root = trees.plant(tmp_path / "image", f"etc/passwd -> {tmp_path}/passwd\netc/group |")
    with pytest.raises(BuildError, match='no user "out"'):
        owner(Tree(str(root)), "out")
    with pytest.raises(BuildError, match="cannot read /etc/group"):
        owner(Tree(str(root)), "1:out")
    (root / "etc/passwd").unlink()
    trees.plant(root, "etc/passwd -> /usr/lib/passwd\nusr/lib/passwd = in:x:5:6::/:")
    assert owner(Tree(str(root)), "in") == (5, 6)
