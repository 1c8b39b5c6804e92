"""The reader against what GNU tar and Python's tarfile write, in each of their formats."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
import tars
import world
from tars import archive, member, padded, raw_header

from ch_image.errors import ImageError
from ch_image.layers import tar_pax
from ch_image.layers.extract import extract
from ch_image.layers.tar_read import TarReader

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "GNU": tarfile.GNU_FORMAT, "PAX": tarfile.PAX_FORMAT}


class Dribble(io.BytesIO):
    """A stream that gives a few bytes at a time."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size or 0, 97))


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS.keys())
@pytest.mark.parametrize("stream", [io.BytesIO, Dribble])
def test_pythons_archives_are_read(format: int, stream: type[io.BytesIO], tmp_path: Path) -> None:
    names = ["f", "d/" + "x" * 97, "e" * 99 + "/" + "f" * 99]
    if format != tarfile.USTAR_FORMAT:
        names += ["l" * 250 + "/" + "m" * 250, "ü" * 120]
    members = [member(n, data=n.encode(), uid=1, mode=0o600) for n in names]
    found = list(TarReader(stream(archive(members, format))))
    assert [m.name.decode() for m in found] == names
    assert {(m.kind, m.uid, m.mode, m.mtime) for m in found} == {
        (b"0", 1, 0o600, tars.WHEN * 10**9)
    }
    extract(stream(archive(members, format)), str(tmp_path))
    assert all((tmp_path / n).read_text() == n for n in names)


@pytest.mark.parametrize(
    "how",
    [["gnu"], ["oldgnu"], ["posix", "0.0"], ["posix", "0.1"], ["posix", "1.0"]],
    ids=" ".join,
)
def test_gnu_tars_sparse_files_are_read(how: list[str], tmp_path: Path) -> None:
    source = tmp_path / "s"
    with source.open("wb") as file:
        for n in range(40):  # more pieces than one header holds
            file.seek(n * 131072)
            file.write(b"data %d" % n)
        file.truncate(40 * 131072)
    (tmp_path / "after").write_text("after")
    command = [world.program("tar"), "--format", how[0], "-Sc", "s", "after"]
    command += [f"--sparse-version={how[1]}"] if len(how) > 1 else []
    data = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout
    assert len(data) < 1 << 20
    (tmp_path / "out").mkdir()
    done = extract(io.BytesIO(data), str(tmp_path / "out"))
    assert (tmp_path / "out/s").read_bytes() == source.read_bytes()
    assert (tmp_path / "out/after").read_text() == "after"
    assert done.bytes < 1 << 20
    assert (tmp_path / "out/s").stat().st_blocks * 512 < 1 << 20


def test_a_real_directory_comes_out_of_gnu_tar_the_same(tmp_path: Path) -> None:
    source = Path(os.__file__).parent / "json"
    data = subprocess.run(
        [world.program("tar"), "--format=posix", "--exclude=__pycache__", "-c", "."],
        cwd=source, capture_output=True, check=True,
    ).stdout  # fmt: skip
    (tmp_path / "t").mkdir()
    extract(io.BytesIO(data), str(tmp_path / "t"))
    for path in source.glob("*.py"):
        copy = tmp_path / "t" / path.name
        assert copy.read_bytes() == path.read_bytes()
        assert copy.stat().st_mtime_ns == path.stat().st_mtime_ns


ODD = {
    "a lone end": (bytes(512), []),
    "nothing at all": (b"", []),
    "no end": (raw_header(b"f", size=b"3") + padded(b"abc"), [b"f"]),
    "an old directory": (raw_header(b"d/", b"\0"), [b"d/"]),
    "a global header": (
        raw_header(b"g", b"g", b"12") + padded(b"10 path=x\n") + raw_header(b"f"), [b"f"]),
    "a label": (raw_header(b"label", b"V") + raw_header(b"f"), [b"f"]),
    "a size on a directory": (raw_header(b"d", b"5", b"1000") + raw_header(b"f"), [b"d", b"f"]),
    "a contiguous file": (raw_header(b"f", b"7", b"1") + padded(b"x") + raw_header(b"g"),
                          [b"f", b"g"]),
    "spaces in numbers": (raw_header(b"f", size=b"     3 ") + padded(b"abc") + raw_header(b"g"),
                          [b"f", b"g"]),
    "base-256": (raw_header(b"f", size=b"\x80" + bytes(10) + b"\x03") + padded(b"abc")
                 + raw_header(b"g"), [b"f", b"g"]),
}  # fmt: skip


@pytest.mark.parametrize(("data", "found"), ODD.values(), ids=ODD.keys())
def test_odd_archives_are_read_as_go_reads_them(data: bytes, found: list[bytes]) -> None:
    assert [m.name for m in TarReader(io.BytesIO(data))] == found


def test_attributes_are_read_in_both_spellings() -> None:
    record = (
        tar_pax.record(b"LIBARCHIVE.xattr.user.a%20b", b"aGk")
        + tar_pax.record(b"LIBARCHIVE.xattr.user.c", b"AAAA")
        + tar_pax.record(b"SCHILY.xattr.user.c", b"\0\n=\xff")
        + tar_pax.record(b"SCHILY.xattr.user.empty", b"")
        + tar_pax.record(tar_pax.xattr_key("user.x=y"), b"1")
    )
    assert tar_pax.xattrs(tar_pax.parse(record)) == {
        "user.a b": b"hi", "user.c": b"\0\n=\xff", "user.empty": b"", "user.x=y": b"1",
    }  # fmt: skip


@pytest.mark.parametrize("size", [*range(1, 12), 90, 95, 96, 97, 98, 990, 995, 996, 9990])
def test_a_record_knows_its_own_length(size: int) -> None:
    record = tar_pax.record(b"k", b"v" * size)
    assert int(record.split()[0]) == len(record)
    assert tar_pax.parse(record) == {b"k": b"v" * size}


TIMES = {b"1": 10**9, b"1.5": 1500000000, b"-1.25": -1250000000, b"3.": 3 * 10**9,
         b"1.1234567899": 1123456789}  # fmt: skip


@pytest.mark.parametrize(("text", "time"), TIMES.items())
def test_times_are_read_to_the_nanosecond(text: bytes, time: int) -> None:
    assert tar_pax.time({b"mtime": text}, b"mtime", 0) == time


@pytest.mark.parametrize("text", [b"", b"x", b"1e9", b"+1", b"1.2.3", b"9" * 30, b"1_0"])
def test_other_times_are_refused(text: bytes) -> None:
    with pytest.raises(ImageError):
        tar_pax.time({b"mtime": text}, b"mtime", 0)
