"""Archives that we make: the same bytes each time, and what others read out of them."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import tars
import world
from tars import archive, member

from ch_image.errors import ImageError
from ch_image.fs import owners, whiteouts
from ch_image.fs.remove import remove_tree
from ch_image.layers.create import write_layer, write_tree
from ch_image.layers.extract import Extracted, extract

LONG = "long/" + "d" * 90 + "/" + "f" * 90
HUGE = "/".join("n" * 200 for _ in range(3))
NOT_UTF8 = "caf\udce9"  # a name in Latin-1


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "tree"
    path.mkdir()
    yield path
    remove_tree(str(path))


MEMBERS = [
    member("bin", "link", linkname="usr/bin", uid=4, gid=5),
    member("dev/null", "char", devmajor=1, devminor=3, mode=0o666),
    member("dev/big", "block", devmajor=259, devminor=300_000, gid=6),
    member("etc", "dir", uid=33, gid=2_000_000_000, mode=0o2750),
    member("etc/f", data=b"text" * 5000, uid=2**32 - 2, mode=0o4755,
           pax_headers={"SCHILY.xattr.user.k": "v=1\nw"}),
    member("etc/hard", "hard", linkname="etc/f"),
    member("etc/hardlink-of-link", "hard", linkname="bin"),
    member("etc/old", mtime=-100),
    member("etc/pipe", "fifo", uid=1, mode=0o600),
    member("etc/" + "t" * 101, "link", linkname="x" * 150),
    member(LONG, data=b"1"),
    member(HUGE, data=b"2"),
    member(NOT_UTF8, data=b"3"),
    member("żółć \n", data=b"4"),
    member("empty", "dir", mode=0o1777),
]  # fmt: skip


def fill(tree: Path, members: list[tars.Member] | None = None) -> Extracted:
    tree.mkdir(exist_ok=True)
    return extract(io.BytesIO(archive(members or MEMBERS)), str(tree))


def layer(tree: Path, done: Extracted, **options: object) -> bytes:
    out = io.BytesIO()
    write_layer(str(tree), done.owners, out, **options)  # type: ignore[arg-type]
    return out.getvalue()


def test_the_same_tree_gives_the_same_bytes(tree: Path, tmp_path: Path) -> None:
    done = fill(tree)
    first = layer(tree, done)
    again = fill(tmp_path / "again", MEMBERS[4:6] + MEMBERS[:4] + MEMBERS[6:])
    os.umask(0o077)
    assert layer(tree, done) == first
    assert (
        hashlib.sha256(layer(tmp_path / "again", again)).digest() == hashlib.sha256(first).digest()
    )
    assert len(first) % 10240 == 0
    out = io.BytesIO()
    write_tree(str(tree), done.owners, out)
    assert out.getvalue() == first
    remove_tree(str(tmp_path / "again"))


def test_what_is_unpacked_packed_and_unpacked_again_is_the_same(tree: Path, tmp_path: Path) -> None:
    done = fill(tree)
    data = layer(tree, done)
    again = extract(io.BytesIO(data), str(_new(tmp_path / "again")))
    assert tars.look(tmp_path / "again", times=True) == tars.look(tree, times=True)
    assert again.owners == done.owners
    assert again.owners["bin"] == (4, 5)
    assert os.getxattr(tmp_path / "again/etc/f", "user.k") == b"v=1\nw"
    assert layer(tmp_path / "again", again) == data
    remove_tree(str(tmp_path / "again"))


def _new(path: Path) -> Path:
    path.mkdir()
    return path


def test_pythons_tarfile_reads_what_was_meant(tree: Path) -> None:
    data = layer(tree, fill(tree))
    with tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape") as tar:
        found = {one.name: one for one in tar}
    assert list(found) == sorted(found, key=lambda n: n.encode("utf-8", "surrogateescape"))
    for wanted in MEMBERS:
        one = found[wanted.name]
        if wanted.islnk():
            assert one.islnk()
            continue
        assert (one.type, one.uid, one.gid) == (wanted.type, wanted.uid, wanted.gid), wanted.name
        assert (one.linkname, one.mtime) == (wanted.linkname, wanted.mtime)
        assert one.mode == (0o777 if one.issym() else wanted.mode)
        assert (one.devmajor, one.devminor) == (wanted.devmajor, wanted.devminor)
        if one.isfile():
            assert one.size == wanted.size
    assert found["etc/f"].pax_headers["SCHILY.xattr.user.k"] == "v=1\nw"
    assert (found["etc/hard"].uid, found["etc/hard"].mode) == (2**32 - 2, 0o4755)


def test_gnu_tar_lists_the_recorded_owners(tree: Path) -> None:
    data = layer(tree, fill(tree))
    listing = subprocess.run(
        [world.program("tar"), "--numeric-owner", "--quoting-style=literal", "-tvf", "-"],
        input=data, capture_output=True, check=True,
        env={"LC_ALL": "C", "TZ": "UTC", "PATH": "/bin"},
    )  # fmt: skip
    assert listing.stderr == b""
    text = re.sub(rb" +", b" ", listing.stdout)
    for line in (
        b"lrwxrwxrwx 4/5 0 2020-09-13 12:26 bin -> usr/bin",
        b"crw-rw-rw- 0/0 1,3 2020-09-13 12:26 dev/null",
        b"brw-r--r-- 0/6 259,300000 2020-09-13 12:26 dev/big",
        b"drwxr-s--- 33/2000000000 0 2020-09-13 12:26 etc/",
        b"-rwsr-xr-x 4294967294/0 20000 2020-09-13 12:26 etc/f",
        b"hrwsr-xr-x 4294967294/0 0 2020-09-13 12:26 etc/hard link to etc/f",
        b"-rw-r--r-- 0/0 0 1969-12-31 23:58 etc/old",
        b"prw------- 1/0 0 2020-09-13 12:26 etc/pipe",
        b"-rw-r--r-- 0/0 1 2020-09-13 12:26 caf\xe9",
        b"-rw-r--r-- 0/0 1 2020-09-13 12:26 " + HUGE.encode(),
        b"-rw-r--r-- 0/0 1 2020-09-13 12:26 " + LONG.encode(),
    ):
        assert line in text, line


def test_whiteouts_and_opaque_directories_come_out_as_they_went_in(tree: Path) -> None:
    members = [member(".wh.gone"), member("d", "dir"), member("d/.wh..wh..opq"), member("d/x"),
               member("e", "dir"), member("e/.wh.a"), member("e/.wh.b"), member("e/c")]  # fmt: skip
    done = fill(tree, members)
    with tarfile.open(fileobj=io.BytesIO(layer(tree, done))) as tar:
        assert [(m.name, m.type, m.size) for m in tar] == [(m.name, m.type, 0) for m in members]


def test_marker_files_mean_the_same_where_overlayfs_has_no_say(tree: Path) -> None:
    (tree / "d").mkdir()
    for name in ("d/.wh..wh..opq", "d/.wh.gone"):
        (tree / name).touch()
    with tarfile.open(fileobj=io.BytesIO(layer(tree, fill(tree, [member("a")])))) as tar:
        assert tar.getnames() == ["a", "d", "d/.wh..wh..opq", "d/.wh.gone"]


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh..."])
def test_names_that_no_layer_can_have_are_refused(tree: Path, name: str) -> None:
    (tree / name).touch()
    with pytest.raises(ImageError, match="cannot have a file of this name"):
        layer(tree, fill(tree, [member("a")]))


def test_all_whiteouts_may_be_one_inode(tree: Path) -> None:
    fd = os.open(tree, os.O_RDONLY)
    whiteouts.make_whiteout(fd, b"a")
    os.close(fd)
    os.link(tree / "a", tree / "b", follow_symlinks=False)
    out = io.BytesIO()
    write_layer(str(tree), {}, out)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        assert [(m.name, m.isreg()) for m in tar] == [(".wh.a", True), (".wh.b", True)]


def test_times_are_clamped_and_whole(tree: Path) -> None:
    (tree / "old").touch()
    (tree / "new").touch()
    os.utime(tree / "old", ns=(0, 1_000_000_000_999_999_999))
    os.utime(tree / "new", ns=(0, 3_000_000_000_500_000_000))
    out = io.BytesIO()
    write_layer(str(tree), {}, out, clamp_mtime=2_000_000_000)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        assert {m.name: m.mtime for m in tar} == {"old": 1_000_000_000, "new": 2_000_000_000}


def test_the_root_is_a_member_only_where_it_is_out_of_the_ordinary(
    tree: Path, tmp_path: Path
) -> None:
    low = tmp_path / "low"
    fill(low, [member(".", "dir", mode=0o700, uid=3)])
    done = fill(tree, [member(".", "dir", mode=0o700, uid=3)])
    assert tarfile.open(fileobj=io.BytesIO(layer(tree, done, lower=[str(low)]))).getnames() == []
    with tarfile.open(fileobj=io.BytesIO(layer(tree, done))) as tar:
        assert [(m.name, m.mode, m.uid) for m in tar] == [(".", 0o700, 3)]
    tree.chmod(0o755)
    owners.clear(str(tree))
    assert tarfile.open(fileobj=io.BytesIO(layer(tree, done))).getnames() == []
    assert tarfile.open(fileobj=io.BytesIO(layer(tree, done, lower=[str(low)]))).getnames() == ["."]


def test_sockets_and_our_own_attributes_are_left_out(tree: Path) -> None:
    (tree / "f").touch()
    for name in ("user.overlay.origin", "user.containers.x", "user.kept"):
        os.setxattr(tree / "f", name, b"v")
    with socket.socket(socket.AF_UNIX) as sock:
        fd = os.open(tree, os.O_RDONLY)
        sock.bind(f"/proc/self/fd/{fd}/s")
        os.close(fd)
    out = io.BytesIO()
    write_layer(str(tree), {}, out)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        assert {m.name: m.pax_headers for m in tar} == {"f": {"SCHILY.xattr.user.kept": "v"}}


def test_a_tree_deeper_than_open_files_allow_is_written(tree: Path) -> None:
    path, members = "d", []
    for _ in range(1500):
        members.append(member(path, "dir"))
        path += "/d"
    data = layer(tree, fill(tree, members))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert max(len(name) for name in tar.getnames()) == 1500 * 2 - 1


def test_umoci_unpacks_what_we_write(tree: Path, tmp_path: Path) -> None:
    umoci = shutil.which("umoci") or world.lacking("umoci is not installed")
    members = [m for m in MEMBERS if m.uid < 2**31 and m.gid < 2**31]
    members = [m for m in members if not (m.islnk() or m.ischr() or m.isblk() or m.isfifo())]
    done = fill(tree, members)
    world.write_layout(tmp_path / "layout", [layer(tree, done)])
    subprocess.run(
        [umoci, "unpack", "--rootless", "--image", f"{tmp_path}/layout:latest",
         f"{tmp_path}/bundle"],
        check=True, capture_output=True,
    )  # fmt: skip
    ours = tars.look(tree, times=True)
    theirs = tars.look(tmp_path / "bundle/rootfs", times=True)
    for found in (ours, theirs):
        for path, text in found.items():
            found[path] = re.sub(r"^(\S+) \d+:\d+", r"\1", text)
    theirs = {p: t for p, t in theirs.items() if p in ours}
    implied = {p for p in ours if p not in {m.name for m in members}}
    assert {p: t for p, t in theirs.items() if p not in implied} == {
        p: t for p, t in ours.items() if p not in implied
    }
    remove_tree(str(tmp_path / "bundle"))
