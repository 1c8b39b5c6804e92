"""Paths of an image lead inside its tree, wherever links and dots point."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from ch_image.fs.remove import remove_tree
from ch_image.fs.tree import Tree


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "secret").write_text("ours")
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text("root")
    (root / "usr/lib").mkdir(parents=True)
    for name, target in {
        "lib": "usr/lib", "abs": "/etc/passwd", "up": "../../../secret", "loop": "loop",
        "etc/rel": "../usr/./lib/../../etc/passwd", "dangling": "/var/new/x", "usr/top": "/",
        "far": "/..//../etc", "host": "/proc/self/root/etc/hostname", "empty-dir": "usr/lib/",
    }.items():  # fmt: skip
        (root / name).symlink_to(target)
    os.mkfifo(root / "fifo")
    yield root
    remove_tree(str(root))  # it may be too deep for pytest's own cleaning


RESOLVED = {
    "": "", "/": "", ".": "", "..": "", "../..": "", "/etc/passwd": "etc/passwd",
    "//etc/./passwd": "etc/passwd", "lib": "usr/lib", "lib/": "usr/lib", "abs": "etc/passwd",
    "up": "secret", "etc/rel": "etc/passwd", "usr/top/usr/top/etc": "etc", "far/passwd":
    "etc/passwd", "lib/../../etc": "etc", "../../../secret": "secret", "absent": "absent",
    "empty-dir/x": "usr/lib/x", "etc/../etc/../lib/..": "usr",
}  # fmt: skip


@pytest.mark.parametrize(("path", "real"), RESOLVED.items())
def test_paths_resolve_inside(root: Path, path: str, real: str) -> None:
    with Tree(str(root)) as tree:
        assert tree.resolve(path) == real


FAULTS = {
    "absent/x": errno.ENOENT, "etc/passwd/x": errno.ENOTDIR, "etc/passwd/": errno.ENOTDIR,
    "loop": errno.ELOOP, "loop/x": errno.ELOOP, "up": errno.ENOENT, "host": errno.ENOENT,
    "../secret": errno.ENOENT, "fifo": errno.EINVAL, "n" * 256: errno.ENAMETOOLONG,
}  # fmt: skip


@pytest.mark.parametrize(("path", "number"), FAULTS.items())
def test_what_cannot_be_opened_is_named_as_given(root: Path, path: str, number: int) -> None:
    with Tree(str(root)) as tree:
        with pytest.raises(OSError) as caught:
            tree.open(path, os.O_RDONLY)
        assert (caught.value.errno, caught.value.filename) == (number, path)
        assert tree.exists(path) is (number == errno.EINVAL)


def test_files_are_read_within_a_limit(root: Path) -> None:
    with Tree(str(root)) as tree:
        assert tree.read_bytes("abs", 4) == b"root"
        assert tree.read_bytes(b"/etc/passwd", 100) == b"root"
        for path, number in (("abs", errno.EFBIG), ("etc", errno.EISDIR), ("fifo", errno.EINVAL)):
            with pytest.raises(OSError) as caught:
                tree.read_bytes(path, 3)
            assert caught.value.errno == number


def test_links_are_looked_at_or_followed(root: Path) -> None:
    with Tree(str(root)) as tree:
        assert stat.S_ISLNK(tree.lstat("abs").st_mode)
        assert tree.stat("abs").st_size == 4
        assert tree.readlink("abs") == "/etc/passwd"
        assert stat.S_ISDIR(tree.lstat("/").st_mode)
        assert tree.exists("lib")
        assert not tree.exists("dangling")
        with pytest.raises(OSError) as caught:
            tree.open("abs", os.O_RDONLY | os.O_NOFOLLOW)
        assert caught.value.errno == errno.ELOOP


def test_directories_are_made_with_their_modes_and_told(root: Path) -> None:
    made: list[tuple[str, int]] = []
    os.umask(0o077)
    with Tree(str(root)) as tree:
        tree.mkdirs(
            "lib/../lib/a/b/", 0o751, lambda fd, path: made.append((path, os.fstat(fd).st_mode))
        )
        tree.mkdirs("dangling/y")
        tree.mkdirs("/")
        tree.mkdirs("up")
        with pytest.raises(NotADirectoryError):
            tree.mkdirs("abs")
    assert made == [("usr/lib/a", stat.S_IFDIR | 0o751), ("usr/lib/a/b", stat.S_IFDIR | 0o751)]
    assert (root / "var/new/x/y").is_dir()
    assert stat.S_IMODE((root / "var").stat().st_mode) == 0o755
    assert (root / "secret").is_dir()
    assert (root.parent / "secret").read_text() == "ours"


def test_files_are_made_with_exactly_their_mode(root: Path) -> None:
    os.umask(0o077)
    with Tree(str(root)) as tree:
        os.close(tree.open("lib/new", os.O_WRONLY | os.O_CREAT, 0o4666))
        assert stat.S_IMODE(tree.lstat("usr/lib/new").st_mode) == 0o4666
        with pytest.raises(FileNotFoundError):
            tree.open("dangling", os.O_WRONLY | os.O_CREAT, 0o644)
        os.close(tree.open("up", os.O_WRONLY | os.O_CREAT, 0o644))
        with pytest.raises(FileExistsError):
            tree.open("abs", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    assert (root / "secret").read_text() == ""
    assert (root.parent / "secret").read_text() == "ours"


def test_the_parent_of_a_path_is_lent_as_a_descriptor(root: Path) -> None:
    with Tree(str(root)) as tree:
        for path, create, where, name in (
            ("lib/x", False, "usr/lib", "x"), ("abs", False, "", "abs"), ("/", False, "", "."),
            ("opt/new/file", True, "opt/new", "file"),
        ):  # fmt: skip
            fd, last = tree.open_parent(path, create=create)
            assert os.path.samestat(os.fstat(fd), os.stat(root / where))
            assert last == name
            os.close(fd)


def test_names_of_any_bytes_are_reached(root: Path) -> None:
    name = b"caf\xe9\n"
    with Tree(str(root)) as tree:
        tree.mkdirs(name)
        assert tree.resolve(name) == "caf\udce9\n"
        assert tree.exists("caf\udce9\n")
        assert name in os.listdir(bytes(root))


def test_trees_deeper_than_a_path_may_be_long_are_walked(root: Path) -> None:
    path = "/".join(["deep"] * 1500)
    with Tree(str(root)) as tree:
        tree.mkdirs(path)
        assert tree.resolve(path + "/../../x").count("/") == 1498
        assert tree.exists(path)


def test_no_descriptor_is_left_open(root: Path) -> None:
    before = os.listdir("/proc/self/fd")
    with Tree(str(root)) as tree:
        for path in (*RESOLVED, *FAULTS):
            for use in (tree.resolve, tree.lstat, tree.stat, tree.readlink, tree.mkdirs):
                try:
                    use(path)
                except OSError:
                    continue
    assert os.listdir("/proc/self/fd") == before
