"""What a layer's archive means for the tree it is unpacked into."""

from __future__ import annotations

import io
import os
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tars
from tars import Member, archive, member

from ch_image.errors import ImageError
from ch_image.fs import owners, whiteouts
from ch_image.fs.remove import remove_tree
from ch_image.layers.extract import Extracted, extract, extract_archive

Members = list[Member | str]


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "tree"
    path.mkdir()
    yield path
    remove_tree(str(path))


def unpack(tree: Path, members: Members, lower: list[Path] | None = None) -> Extracted:
    tree.mkdir(exist_ok=True)
    return extract(io.BytesIO(archive(members)), str(tree), lower=[str(p) for p in lower or ()])


def opaque(path: Path) -> bool:
    fd = os.open(path, os.O_RDONLY)
    try:
        return whiteouts.is_opaque(fd)
    finally:
        os.close(fd)


def test_owners_modes_times_links_and_attributes_are_kept(tree: Path) -> None:
    nanoseconds = {"mtime": "1600000000.123456789", "SCHILY.xattr.user.note": "hi"}
    done = unpack(tree, [
        member(".", "dir", mode=0o555, uid=3),
        member("etc", "dir", uid=33, gid=44, pax_headers=nanoseconds),
        member("etc/f", data=b"text", uid=33, mode=0o640, pax_headers=nanoseconds),
        member("etc/hard", "hard", linkname="./etc/f"),
        member("etc/l", "link", linkname="f", uid=5, gid=6, pax_headers=nanoseconds),
        member("etc/l2", "hard", linkname="etc/l"),
        member("etc/before1970", mtime=-5),
        member("etc/year6000", mtime=127_000_000_000),
    ])  # fmt: skip
    assert done.owners == {"etc/l": (5, 6), "etc/l2": (5, 6)}
    assert (done.files, done.bytes, done.used_lower, done.flattened) == (8, 4, False, False)
    assert tars.like(tars.look(tree), {
        "etc": "drwxr-xr-x 33:44", "etc/f": "-rw-r----- 33:0 b'text'",
        "etc/hard": "-rw-r----- 33:0 b'text'",
        "etc/l": "lrwxrwxrwx -> f", "etc/l2": "lrwxrwxrwx -> f",
    })  # fmt: skip
    for name in ("etc", "etc/f", "etc/l"):
        assert os.lstat(tree / name).st_mtime_ns == 1600000000_123456789
    assert os.getxattr(tree / "etc/f", "user.note") == b"hi"
    assert os.stat(tree / "etc/f").st_ino == os.stat(tree / "etc/hard").st_ino
    assert os.stat(tree / "etc/before1970").st_mtime == -5
    assert os.stat(tree / "etc/year6000").st_mtime < 1 << 34
    assert stat.S_IMODE(tree.stat().st_mode) == 0o555
    assert owners.read(str(tree)) == owners.Recorded(3, 0, 0o555, "dir")


def test_the_last_of_equal_names_wins_and_leaves_nothing_of_the_others(tree: Path) -> None:
    done = unpack(tree, [
        member("a", data=b"1", uid=9), member("a", data=b"2"),
        member("b", "link", linkname="x", uid=9), member("b", "link", linkname="y"),
        "c/d/e", member("c", data=b"now a file"),
        "f", "f/", "f/g",
        member("h", "dir", uid=7), member("h", "dir", mode=0o700),
        member("i", data=b"kept"), member("j", "hard", linkname="i"), member("i", data=b"new"),
        "k/l", member("k", "link", linkname="c"), "k2/",
    ])  # fmt: skip
    assert done.owners == {}
    assert tars.look(tree) == {
        "a": "-rw-r--r-- b'2'", "b": "lrwxrwxrwx -> y", "c": "-rw-r--r-- b'now a file'",
        "f": "drwxr-xr-x", "f/g": "-rw-r--r-- b''", "h": "drwx------",
        "i": "-rw-r--r-- b'new'", "j": "-rw-r--r-- b'kept'", "k": "lrwxrwxrwx -> c",
        "k2": "drwxr-xr-x",
    }  # fmt: skip


# What is said of "a", in two orders, and whether its directory is opaque in the end.
SAME_LAYER: dict[str, tuple[Members, str, bool]] = {
    "a file stays": ([".wh.a", "a"], "-rw-r--r-- b''", False),
    "a directory stays, and hides": ([".wh.a", "a/", "a/x"], "drwxr-xr-x", True),
    "one taken for granted as well": ([".wh.a", "a/x"], "drwxr-xr-x", True),
    "opaque is no deletion": (["a/.wh..wh..opq", "a/", "a/x"], "drwxr-xr-x", True),
}


@pytest.mark.parametrize("turned", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("members", "look", "hides"), SAME_LAYER.values(), ids=SAME_LAYER.keys())
def test_whiteouts_hide_nothing_of_their_own_layer(
    tree: Path, members: Members, look: str, hides: bool, turned: bool
) -> None:
    unpack(tree, [*members[1:], members[0]] if turned else members)
    assert tars.look(tree)["a"] == look
    if hides:
        assert opaque(tree / "a")
        assert (tree / "a/x").exists()


def test_a_whiteout_inside_what_is_gone_adds_nothing(tree: Path) -> None:
    unpack(tree, [".wh.a", "a/.wh.b", ".wh.c", ".wh.c"])
    assert tars.names(tree) == ["a", "c"]
    assert whiteouts.is_whiteout(os.lstat(tree / "a"))


def test_an_opaque_root_hides_each_name_below(tree: Path, tmp_path: Path) -> None:
    low = tmp_path / "low"
    unpack(low, ["a", "b/x", "c/"])
    done = unpack(tree, [".wh..wh..opq", "b/y", "d"], [low])
    assert done.used_lower
    assert sorted(tars.look(tree)) == ["a", "b", "b/y", "c", "d"]
    assert whiteouts.is_whiteout(os.lstat(tree / "a"))
    assert opaque(tree / "b")


def test_a_hard_link_to_what_only_lower_layers_have_becomes_a_copy(
    tree: Path, tmp_path: Path
) -> None:
    low, high = tmp_path / "low", tmp_path / "high"
    unpack(low, [member("usr/f", data=b"low", uid=8, mode=0o4755), "usr/gone", "usr/d/old",
                 member("bin", "link", linkname="usr")])  # fmt: skip
    unpack(high, ["usr/.wh.gone", "usr/d/.wh..wh..opq", "usr/d/new"])
    done = unpack(tree, [member("copy", "hard", linkname="bin/f")], [high, low])
    assert done.used_lower
    assert tars.look(tree) == {"copy": "-rwsr-xr-x 8:0 b'low'"}
    for name in ("usr/gone", "usr/d/old", "usr/d", "absent", "bin/../../x"):
        with pytest.raises(ImageError):
            unpack(tmp_path / "other", [member("x", "hard", linkname=name)], [high, low])
    with pytest.raises(ImageError):
        unpack(tmp_path / "other", ["usr/.wh..wh..opq", member("x", "hard", linkname="usr/f")],
               [high, low])  # fmt: skip


def test_directories_taken_for_granted_look_as_they_do_below(tree: Path, tmp_path: Path) -> None:
    low = tmp_path / "low"
    unpack(low, [member(".", "dir", mode=0o555), member("tmp", "dir", mode=0o1777),
                 member("home/app", "dir", uid=1000), member("lib", "link", linkname="usr/lib"),
                 "etc/"])  # fmt: skip
    done = unpack(tree, ["tmp/x", "home/app/x", "lib/x", "etc/x"], [low])
    assert done.used_lower
    assert tars.like(tars.look(tree), {
        "tmp": "drwxrwxrwt", "home": "drwxr-xr-x", "home/app": "drwxr-xr-x 1000:0",
        "usr/lib/x": "-rw-r--r-- b''", "etc": "drwxr-xr-x",
    })  # fmt: skip
    assert stat.S_IMODE(tree.stat().st_mode) == 0o555


def test_ordinary_layers_do_not_depend_on_what_is_below(tree: Path, tmp_path: Path) -> None:
    low = tmp_path / "low"
    unpack(low, ["etc/", "usr/bin/"])
    done = unpack(tree, ["etc/x", "usr/bin/y", ".wh.z"], [low])
    assert not done.used_lower


def test_an_archive_is_added_into_a_tree_that_has_something(tree: Path) -> None:
    unpack(tree, [member("srv", "dir", mode=0o700, uid=5), member("srv/old", "dir", uid=5),
                  "srv/old/kept", member("srv/f", data=b"old", uid=5),
                  member("www", "link", linkname="/srv")])  # fmt: skip
    data = archive([member(".", "dir", mode=0o777), member("old", "dir", mode=0o711), ".wh.f",
                    member("f", data=b"new"), member("dev0", "char"),
                    member("l", "link", linkname="f")])  # fmt: skip
    done = extract_archive(io.BytesIO(data), str(tree), inside="/www", owner=(7, 8))
    assert done.owners == {"srv/l": (7, 8)}
    assert tars.look(tree) == {
        "srv": "drwx------ 5:0", "srv/old": "drwx--x--x 7:8", "srv/old/kept": "-rw-r--r-- b''",
        "srv/f": "-rw-r--r-- 7:8 b'new'", "srv/.wh.f": "-rw-r--r-- 7:8 b''",
        "srv/dev0": "-rw-r--r-- 7:8 char 0,0 b''", "srv/l": "lrwxrwxrwx -> f",
        "www": "lrwxrwxrwx -> /srv",
    }  # fmt: skip
    extract_archive(io.BytesIO(data), str(tree), inside="srv", own_root=True)
    assert tars.look(tree)["srv"] == "drwxrwxrwx"


def test_the_stream_is_read_to_its_end(tree: Path) -> None:
    stream = io.BytesIO(archive(["a"]) + b"after the end")
    extract(stream, str(tree))
    assert stream.read() == b""


def test_no_descriptor_is_left_open(tree: Path) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    unpack(tree, [f"d{n}/e/f" for n in range(300)])
    with pytest.raises(ImageError):
        unpack(tree, ["x/../.."])
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_file_capabilities_are_kept(tmp_path: Path, in_userns: Callable[..., None]) -> None:
    version_2 = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)
    header = {"SCHILY.xattr.security.capability": version_2.decode("latin-1")}
    data = archive([member("ping", data=b"x", mode=0o755, pax_headers=header)])

    def work() -> None:
        (tmp_path / "t").mkdir()
        done = extract(io.BytesIO(data), str(tmp_path / "t"))
        assert done.lost == ()
        assert os.getxattr(tmp_path / "t/ping", "security.capability")[4:] == version_2[4:]

    in_userns(work)


def test_where_there_are_no_user_attributes_owners_are_flattened(
    tmp_path: Path, in_userns: Callable[..., None]
) -> None:
    data = archive([
        member("f", uid=5), member("d", "dir", gid=6), member("n", "char", uid=1),
        member("l", "link", linkname="x", uid=2), "d/.wh..wh..opq", ".wh.g",
    ])  # fmt: skip

    def work() -> None:
        from ch_image.sandbox import syscalls

        where = tmp_path / "ramfs"
        where.mkdir()
        syscalls.mount("none", str(where), "ramfs", 0, "mode=755")
        done = extract(io.BytesIO(data), str(where))
        assert done.flattened
        assert done.owners == {"l": (2, 0)}
        assert opaque(where / "d")

    in_userns(work)
