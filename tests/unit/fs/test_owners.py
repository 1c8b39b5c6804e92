"""The record of an owner: its format, and what is no record."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ch_image.fs import owners
from ch_image.fs.owners import Recorded

FORMAT = {
    b"33:33:0755:file": Recorded(33, 33, 0o755, "file"),
    b"0:0:4755:dir": Recorded(0, 0, 0o4755, "dir"),
    b"0:0:0666:char-1-3": Recorded(0, 0, 0o666, "char", 1, 3),
    b"4294967294:6:0660:block-259-1048575": Recorded(2**32 - 2, 6, 0o660, "block", 259, 1048575),
    b"1:2:0000:symlink": Recorded(1, 2, 0, "symlink"),
}


@pytest.mark.parametrize(("value", "recorded"), FORMAT.items())
def test_records_are_written_as_other_tools_do(value: bytes, recorded: Recorded) -> None:
    assert owners.encode(recorded) == value
    assert owners.decode(value) == recorded


def test_the_short_form_of_older_tools_is_read() -> None:
    assert owners.decode(b"1:2:0100644") == Recorded(1, 2, 0o644, "file")


NO_RECORD = [
    b"", b"root:root:0755", b"1:2", b"1:2:0999:file", b"-1:0:0755:file", b"1:2:0755:file:x",
    b"4294967295:0:0755:file", b"0:0:0644:char", b"0:0:0644:char-1", b"0:0:0644:char--1-3",
    b"0:0:0644:char-1-99999999999", b"0:0:0644:door", b"0:0:0644:file-1-2", b"1:2:0755:\xff",
    b" 1:2:0755:file", b"1_0:2:0755:file", "١:2:0755:file".encode(),
]  # fmt: skip


@pytest.mark.parametrize("value", NO_RECORD)
def test_anything_else_is_no_record(tmp_path: Path, value: bytes) -> None:
    assert owners.decode(value) is None
    (tmp_path / "f").touch()
    os.setxattr(tmp_path / "f", owners.XATTR, value)
    assert owners.read(str(tmp_path / "f")) is None


def test_records_stay_with_the_file_and_not_with_a_link_to_it(tmp_path: Path) -> None:
    path, link = str(tmp_path / "f"), str(tmp_path / "l")
    Path(path).touch()
    os.symlink("f", link)
    assert owners.read(path) is None
    owners.write(path, Recorded(5, 6, 0o644, "file"))
    assert owners.read(link) is None
    assert owners.read(link, follow=True) == Recorded(5, 6, 0o644, "file")
    with pytest.raises(OSError):
        owners.write(link, Recorded(7, 7, 0o777, "symlink"))
    with open(path, "rb") as file:
        assert owners.read(file.fileno()) == Recorded(5, 6, 0o644, "file")
        owners.clear(file.fileno())
        owners.clear(file.fileno())
    owners.clear(link)
    assert owners.read(path) is None
