"""Whatever an archive says, nothing outside its tree is touched, and limits hold."""

from __future__ import annotations

import io
import os
import resource
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tars
from tars import Member, archive, member, padded, raw_header

from ch_image.errors import ImageError
from ch_image.fs import owners, whiteouts
from ch_image.fs.remove import remove_tree
from ch_image.layers.extract import Extracted, extract, extract_archive


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A tree among things that are not to be touched: `place`/tree."""
    (tmp_path / "secret").write_text("ours")
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("ours")
    (tmp_path / "tree").mkdir()
    yield tmp_path
    remove_tree(str(tmp_path / "tree"))


def world(place: Path) -> dict[str, str]:
    """Everything but the tree, with times."""
    seen = tars.look(place, times=True)
    return {p: s for p, s in seen.items() if p != "tree" and not p.startswith("tree/")}


def unpack(place: Path, data: bytes, **options: object) -> Extracted:
    return extract(io.BytesIO(data), str(place / "tree"), **options)  # type: ignore[arg-type]


# Each is refused, or carried out inside: the tree's names afterwards.
ESCAPES: dict[str, tuple[list[Member | str], list[str] | None]] = {
    "dot-dot": (["../secret"], None),
    "dot-dot in the middle": (["a/../../secret"], None),
    "dot-dot that stays inside": (["a/../b"], ["b"]),
    "only dot-dot": ([member("..", "dir")], None),
    "absolute": (["//etc/x"], ["etc", "etc/x"]),
    "through a link up": ([member("door", "link", linkname=".."), "door/secret"],
                          ["door", "secret"]),
    "through an absolute link": ([member("door", "link", linkname="/"), "door/x"], ["door", "x"]),
    "through a link to a missing place": (
        [member("door", "link", linkname="../../outside/file"), "door/x"],
        ["door", "outside", "outside/file", "outside/file/x"],
    ),
    "through two links": (
        [member("a", "link", linkname="b/.."), member("b", "link", linkname="/../.."), "a/x"],
        ["a", "b", "x"],
    ),
    "over a link": ([member("secret", "link", linkname="../secret"), "./secret"], ["secret"]),
    "a directory over a link": (
        [member("d", "link", linkname="../outside"), "d/", "d/file"],
        ["d", "d/file"],
    ),
    "a link in a circle": ([member("l", "link", linkname="l/l"), "l/x"], None),
    "a hard link to the outside": ([member("h", "hard", linkname="../secret")], None),
    "a hard link to an absolute name": ([member("h", "hard", linkname="/etc/passwd")], None),
    "a hard link through a link": (
        [member("up", "link", linkname=".."), member("h", "hard", linkname="up/secret")], None),
    "a hard link to a directory": (["d/", member("h", "hard", linkname="d")], None),
    "a hard link to the root": ([member("h", "hard", linkname="/")], None),
    "a hard link to a link, then written through": (
        [member("l", "link", linkname="../secret"), member("h", "hard", linkname="l"),
         member("h", data=b"evil")],
        ["h", "l"],
    ),
    "a hard link to itself": (["a", member("a", "hard", linkname="a")], ["a"]),
    "a hard link over the directory of its target": (
        ["d/x", member("d", "hard", linkname="d/x")], None),
    "a hard link to a whiteout": ([".wh.x", member("h", "hard", linkname="x")], None),
    "a whiteout outside": (["../.wh.secret"], None),
    "a whiteout through a link": ([member("up", "link", linkname=".."), "up/.wh.secret"],
                                  ["secret", "up"]),
    "a whiteout of dot": (["d/.wh.."], None),
    "a whiteout of dot-dot": (["d/.wh..."], None),
    "a whiteout of nothing": (["d/.wh."], None),
    "a file inside a whiteout": ([".wh.d/x"], None),
    "a file inside a file": (["f", "f/x"], None),
    "a file for a root": (["."], None),
    "a link for a root": ([member(".", "link", linkname="/etc")], None),
    "a link without a target": ([member("l", "link")], None),
    "a name that is too long": (["x" * 256], None),
    "a path that is too long": (["/".join("x" * 200 for _ in range(200))], None),
    "a path that is too deep": (["d/" * 5000 + "x"], None),
    "an owner that cannot be": ([member("x", uid=2**32 - 1)], None),
}  # fmt: skip


@pytest.mark.parametrize(("members", "left"), ESCAPES.values(), ids=ESCAPES.keys())
def test_a_layer_cannot_touch_anything_outside_its_tree(
    place: Path, members: list[Member | str], left: list[str] | None
) -> None:
    before = world(place)
    if left is None:
        with pytest.raises(ImageError):
            unpack(place, archive(members))
    else:
        unpack(place, archive(members))
        assert tars.names(place / "tree") == left
    assert world(place) == before


@pytest.mark.parametrize(("members", "left"), ESCAPES.values(), ids=ESCAPES.keys())
def test_nor_can_an_archive_that_is_added(
    place: Path, members: list[Member | str], left: list[str] | None
) -> None:
    before = world(place)
    (place / "tree/opt").symlink_to("/../outside")
    try:
        extract_archive(io.BytesIO(archive(members)), str(place / "tree"), inside="/opt/../opt/in")
    except ImageError:
        pass
    else:
        assert (place / "tree/outside/in").is_dir()
    assert world(place) == before


def pax(**records: bytes) -> bytes:
    """An extended header with the records, as it stands in an archive."""
    body = b""
    for key, value in records.items():
        line = b" " + key.replace("__", ".").encode() + b"=" + value + b"\n"
        size = next(n for n in range(len(line), len(line) + 9) if n == len(line) + len(str(n)))
        body += str(size).encode() + line
    return raw_header(b"pax", b"x", b"%o" % len(body)) + padded(body)


END = bytes(1024)
FILE = raw_header(b"f", size=b"3") + padded(b"abc")
DAMAGED = {
    "no archive": b"\x7fELF" + bytes(range(256)) * 4,
    "text": b"<html>\n" * 200,
    "cut off in a header": FILE[:1024] + FILE[:300],
    "cut off in data": raw_header(b"f", size=b"7777") + bytes(512),
    "a size of eight exabytes": raw_header(b"f", size=b"\x80" + b"\x7f" * 11),
    "a size below zero": raw_header(b"f", size=b"\xff" * 12) + END,
    "a size that is no number": raw_header(b"f", size=b"9z") + END,
    "a size of minus eight": raw_header(b"f", size=b"-10") + END,
    "a checksum that is wrong": FILE[:148] + b"0000000\0" + FILE[156:],
    "an unknown kind": raw_header(b"f", b"Q") + END,
    "a long name of a gigabyte": raw_header(b"n", b"L", b"7777777777") + bytes(4096),
    "a PAX header of a gigabyte": raw_header(b"n", b"x", b"7777777777") + bytes(4096),
    "a global header of a gigabyte": raw_header(b"n", b"g", b"7777777777") + bytes(4096),
    "PAX of nonsense": raw_header(b"n", b"x", b"20") + padded(b"no length at all") + FILE,
    "PAX with a length that lies": raw_header(b"n", b"x", b"12") + padded(b"99 a=b\nxxx") + FILE,
    "PAX with a length below zero": raw_header(b"n", b"x", b"10") + padded(b"-7 a=b\n") + FILE,
    "PAX for nothing": pax(path=b"x") + END,
    "a name with a zero byte": pax(path=b"a\0b") + FILE + END,
    "a size in PAX below zero": pax(size=b"-1") + FILE + END,
    "a size in PAX beyond all": pax(size=b"9" * 30) + FILE + END,
    "a time that is none": pax(mtime=b"inf") + FILE + END,
    "a map of a sparse file backwards": pax(GNU__sparse__size=b"100", GNU__sparse__map=b"50,1,3,2")
    + FILE,
    "a map with too much data": pax(GNU__sparse__size=b"9", GNU__sparse__map=b"0,9") + FILE,
    "a map beyond the end": pax(GNU__sparse__size=b"2", GNU__sparse__map=b"0,3") + FILE,
    "a map of an odd length": pax(GNU__sparse__size=b"9", GNU__sparse__map=b"0,3,4") + FILE,
    "a sparse file of eight exabytes": pax(
        GNU__sparse__size=b"9223372036854775807", GNU__sparse__map=b"0,3") + FILE,
    "a map in the data without end": pax(
        GNU__sparse__major=b"1", GNU__sparse__minor=b"0", GNU__sparse__realsize=b"9")
    + raw_header(b"f", size=b"2000") + b"9999999\n" + b"1\n" * 508,
    "a device of a negative number": raw_header(b"f", b"3", a329=b"\xff" * 8) + END,
}  # fmt: skip


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_archives_are_refused(place: Path, data: bytes) -> None:
    before = world(place)
    with pytest.raises(ImageError) as caught:
        unpack(place, data)
    assert "\n" not in str(caught.value)
    assert world(place) == before


def test_every_cut_of_an_archive_is_refused_or_a_beginning_of_it(place: Path) -> None:
    whole = archive(["a", member("b", data=b"x" * 700), "d/", member("é" * 60, data=b"y")])
    for cut in range(0, len(whole) - 9000, 100):
        tree = place / "tree" / str(cut)
        tree.mkdir()
        try:
            extract(io.BytesIO(whole[:cut]), str(tree))
        except ImageError:
            continue
        assert cut % 512 == 0 or cut > len(whole) - 10240


def test_a_tree_of_two_and_a_half_thousand_levels_is_unpacked(place: Path) -> None:
    path = "d"
    members: list[Member | str] = []
    for _ in range(2500):
        members.append(member(path, "dir", mode=0o500))
        path += "/d"
    members.append(member(path, data=b"deep"))
    unpack(place, archive(members))
    fd = os.open(place / "tree", os.O_DIRECTORY)
    for _ in range(2500):
        below = os.open("d", os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o500
    assert os.fstat(fd).st_mtime == tars.WHEN
    assert os.stat("d", dir_fd=fd).st_size == 4
    os.close(fd)


class Endless(io.RawIOBase):
    """A stream of `head` and then zeros, `size` bytes in all."""

    def __init__(self, head: bytes, size: int) -> None:
        self.head, self.left = head, size

    def read(self, size: int = -1) -> bytes:
        data, self.head = self.head[:size], self.head[size:]
        data += bytes(min(size, self.left) - len(data))
        self.left -= len(data)
        return data


def test_gigabytes_of_zeros_take_no_space(place: Path) -> None:
    size = 2 << 30
    stream = Endless(raw_header(b"zeros", size=b"%o" % size), size + 2048)
    done = extract(stream, str(place / "tree"))
    state = (place / "tree/zeros").stat()
    assert state.st_size == size
    assert state.st_blocks * 512 < 1 << 20
    assert done.bytes < 1 << 20


def test_sparse_maps_make_holes(place: Path) -> None:
    head = pax(GNU__sparse__size=b"1099511627776", GNU__sparse__map=b"1099511627773,3")
    done = unpack(place, head + FILE + END)
    state = (place / "tree/f").stat()
    assert (state.st_size, done.bytes) == (1 << 40, 3)
    assert state.st_blocks * 512 < 1 << 20


def test_what_is_kept_to_the_end_is_bounded(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ch_image.layers import places

    monkeypatch.setattr(places, "_MAX_REMEMBERED", 50_000)
    with pytest.raises(ImageError, match="more directories"):
        unpack(place, archive(f"d{n}/" for n in range(300)))
    with pytest.raises(ImageError, match="more directories"):
        unpack(place, archive(member(f"l{n}", "link", linkname="x", uid=7) for n in range(300)))


def test_device_nodes_become_records_and_never_whiteouts(place: Path) -> None:
    done = unpack(place, archive([
        member("null", "char", devmajor=1, devminor=3, mode=0o666),
        member("zero", "char", devmajor=0, devminor=0),
        member("sda", "block", devmajor=8, devminor=0, mode=0o660, gid=6),
        member("pipe", "fifo", uid=5, mode=0o622),
    ]))  # fmt: skip
    assert tars.look(place / "tree") == {
        "null": "-rw-rw-rw- 0:0 char 1,3 b''",
        "zero": "-rw-r--r-- 0:0 char 0,0 b''",
        "sda": "-rw-rw---- 0:6 block 8,0 b''",
        "pipe": "prw--w--w-",
    }
    assert done.owners == {"pipe": (5, 0)}


def test_an_archive_cannot_set_what_steers_us(place: Path) -> None:
    spoof = {
        f"SCHILY.xattr.{name}": value
        for name, value in {
            "user.overlay.opaque": "y", "trusted.overlay.opaque": "y", "user.overlay.redirect": "/",
            owners.XATTR: "7:7:0644:char-1-3", "user.mime_type": "text/plain",
            "security.selinux": "system_u:object_r:etc_t:s0",
        }.items()
    }  # fmt: skip
    done = unpack(place, archive([
        member("d", "dir", pax_headers=spoof), member("f", pax_headers=spoof)
    ]))  # fmt: skip
    for name in ("d", "f"):
        kept = [n for n in os.listxattr(place / "tree" / name) if n != "security.selinux"]
        assert kept == ["user.mime_type"]
        assert owners.read(str(place / "tree" / name)) is None
    assert done.lost == ()


def test_set_id_bits_and_odd_modes_hold_whatever_the_umask(place: Path) -> None:
    os.umask(0o077)
    unpack(place, archive([
        member("su", mode=0o4755, data=b"x"), member("sg", mode=0o2711), member("none", mode=0),
        member("locked", "dir", mode=0), member("locked/in", mode=0o444),
        member("tmp", "dir", mode=0o1777), "implied/file",
    ]))  # fmt: skip
    (place / "tree/locked").chmod(0o500)  # to look inside
    found = tars.look(place / "tree")
    assert tars.like(found, {
        "su": "-rwsr-xr-x b'x'", "sg": "-rwx--s--x b''", "none": "----------",
        "locked/in": "-r--r--r-- b''", "tmp": "drwxrwxrwt", "implied": "drwxr-xr-x",
    })  # fmt: skip
    assert stat.S_IMODE((place / "tree").stat().st_mode) == 0o755
    assert (place / "tree/implied").stat().st_mtime == 0


def test_names_of_any_bytes_and_of_control_characters_are_kept_or_shown_escaped(
    place: Path,
) -> None:
    data = FILE.replace(b"f\0\0", b"\xff\x1b\n", 1)
    fixed = raw_header(b"\xff\x1b\n", size=b"3") + padded(b"abc")
    assert len(data) == len(fixed)
    unpack(place, fixed + END)
    assert os.listdir(bytes(place / "tree")) == [b"\xff\x1b\n"]
    with pytest.raises(ImageError) as caught:
        unpack(place, raw_header(b"../\x1b[31m\n") + END)
    assert "\x1b" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_whiteout_is_made_only_by_a_whiteout(place: Path) -> None:
    unpack(place, archive(["d/.wh.gone", "e/.wh..wh..opq", ".wh..wh.plnk/1.2", "e/kept"]))
    gone = os.lstat(place / "tree/d/gone")
    assert whiteouts.is_whiteout(gone)
    fd = os.open(place / "tree/e", os.O_RDONLY)
    assert whiteouts.is_opaque(fd)
    os.close(fd)
    assert tars.names(place / "tree") == ["d", "d/gone", "e", "e/kept"]


def test_memory_stays_bounded_with_many_big_headers(place: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    big = pax(comment=b"x" * 1_000_000)
    one = raw_header(b"f") + b""
    stream = io.BytesIO(b"".join([big, one] * 40) + END)
    extract(stream, str(place / "tree"))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < (200 << 10 if sys.platform == "linux" else 200 << 20)
