"""Removal reaches everything inside a tree and nothing outside it."""

from __future__ import annotations

import os
from pathlib import Path

from ch_image.fs.remove import remove_at, remove_tree


def deep(root: Path, levels: int, mode: int = 0o755) -> None:
    fd = os.open(root, os.O_DIRECTORY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_DIRECTORY, dir_fd=fd)
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=below))
        os.fchmod(fd, mode)
        os.close(fd)
        fd = below
    os.close(fd)


def test_a_missing_tree_is_no_error(tmp_path: Path) -> None:
    remove_tree(str(tmp_path / "absent"))
    remove_tree(str(tmp_path / "absent" / "below"))


def test_files_links_and_fifos_go_as_well(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "fifo", "link"):
        remove_tree(bytes(tmp_path / name))
    assert os.listdir(tmp_path) == []


def test_what_links_lead_to_stays(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("kept")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "link").symlink_to(outside)
    (tree / "file").symlink_to(outside / "file")
    remove_tree(f"{tree}/link")
    remove_tree(f"{tree}/")
    assert not tree.exists()
    assert (outside / "file").read_text() == "kept"


def test_a_tree_of_three_thousand_levels_with_locked_directories_goes(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    deep(tree, 3000, mode=0o500)
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked" / "below").mkdir()
    (tmp_path / "locked" / "below" / "file").touch()
    (tmp_path / "locked" / "below").chmod(0)
    (tmp_path / "locked").chmod(0o100)
    remove_tree(str(tree))
    remove_tree(str(tmp_path / "locked"))
    assert os.listdir(tmp_path) == []


def test_a_directory_of_many_files_and_clashing_names_goes(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for n in range(4200):
        (tree / str(n)).touch()
    for n in range(3):
        (tree / f".removed-{n}").mkdir()
    deep(tree, 200)
    fd = os.open(tmp_path, os.O_DIRECTORY)
    remove_at(fd, "tree")
    os.close(fd)
    assert os.listdir(tmp_path) == []
