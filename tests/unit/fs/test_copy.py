"""Copies have everything that the original has."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import tars

from ch_image.fs import copy, owners, whiteouts
from ch_image.fs.remove import remove_tree


@pytest.fixture
def here(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)
    for name in ("a", "b"):
        remove_tree(str(tmp_path / name))


def fill(top: Path) -> None:
    (top / "d/locked").mkdir(parents=True)
    (top / "d/locked/f").write_text("text")
    (top / "d/hard").hardlink_to(top / "d/locked/f")
    (top / "d/link").symlink_to("/etc/passwd")
    os.link(top / "d/link", top / "link2", follow_symlinks=False)
    os.mkfifo(top / "fifo", 0o622)
    owners.write(str(top / "d/hard"), owners.Recorded(5, 6, 0o4755, "file"))
    os.setxattr(top / "d", "user.note", b"kept")
    os.setxattr(top / "d", "user.overlay.opaque", b"y")
    fd = os.open(top, os.O_RDONLY)
    whiteouts.make_whiteout(fd, b"gone")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"/proc/self/fd/{fd}/sock")
    os.close(fd)
    (top / "d/hard").chmod(0o4711)
    for number, path in enumerate([*top.rglob("*"), top]):
        os.utime(path, ns=(7, 10**18 + number), follow_symlinks=False)
    (top / "d/locked").chmod(0o500)


def test_a_tree_is_copied_whole(tmp_path: Path, here: int) -> None:
    os.umask(0o077)
    fill(tmp_path / "a")
    copy.copy_tree(here, "a", here, "b")
    theirs = tars.look(tmp_path / "b", times=True)
    ours = tars.look(tmp_path / "a", times=True)
    assert ours.pop("gone")[:2] == theirs.pop("gone")[:2] == "c-"  # its times mean nothing
    assert theirs == ours
    assert theirs["d/hard"].startswith("-rws--x--x 5:6 b'text'")
    assert (tmp_path / "b").stat().st_mtime_ns == (tmp_path / "a").stat().st_mtime_ns
    assert os.listxattr(tmp_path / "b/d") == ["user.note"]
    for one, other in (("d/hard", "d/locked/f"), ("d/link", "link2")):
        assert os.lstat(tmp_path / "b" / one).st_ino == os.lstat(tmp_path / "b" / other).st_ino


def test_what_exists_is_not_overwritten(tmp_path: Path, here: int) -> None:
    for name, make in {"f": "touch", "d": "mkdir"}.items():
        getattr(tmp_path / name, make)()
        with pytest.raises(FileExistsError):
            copy.copy_tree(here, name, here, name)


def test_one_node_of_a_directory_is_the_directory(tmp_path: Path, here: int) -> None:
    fill(tmp_path / "a")
    state = copy.copy_node(here, "a", here, "b")
    assert stat.S_ISDIR(state.st_mode)
    assert os.listdir(tmp_path / "b") == []


def test_deep_trees_are_copied(tmp_path: Path, here: int) -> None:
    fd = os.dup(here)
    os.mkdir("a", dir_fd=here)
    below = os.open("a", os.O_RDONLY, dir_fd=fd)
    for _ in range(1200):
        os.close(fd)
        fd = below
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
    os.close(fd)
    os.close(below)
    copy.copy_tree(here, "a", here, "b")
    levels, fd = 0, os.open("b", os.O_RDONLY, dir_fd=here)
    while os.listdir(fd):
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        levels, fd = levels + 1, below
    os.close(fd)
    assert levels == 1200


@pytest.mark.parametrize("clone", [True, False])
def test_holes_stay_holes(tmp_path: Path, clone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not clone:  # as on a filesystem without copy_file_range

        def refuse(*_: object) -> int:
            raise OSError(18, "Invalid cross-device link")

        monkeypatch.setattr(os, "copy_file_range", refuse)
    size = 64 << 20
    with open(tmp_path / "s", "wb") as file:
        for at in (0, 10 << 20, size - 3):
            file.seek(at)
            file.write(b"abc")
    with open(tmp_path / "s", "rb") as source, open(tmp_path / "t", "wb") as target:
        assert copy.copy_file_data(source.fileno(), target.fileno(), size) == size
    assert (tmp_path / "t").read_bytes() == (tmp_path / "s").read_bytes()
    assert (tmp_path / "t").stat().st_blocks * 512 < 1 << 20


def test_a_source_that_has_shrunk_is_told(tmp_path: Path) -> None:
    for name, blocks in (("dense", b"x" * 10_000), ("empty", b"")):
        (tmp_path / name).write_bytes(blocks)
        with open(tmp_path / name, "rb") as source, open(tmp_path / "t", "wb") as target:
            done = copy.copy_file_data(source.fileno(), target.fileno(), 50_000)
        assert done == len(blocks)
        assert (tmp_path / "t").read_bytes() == blocks
