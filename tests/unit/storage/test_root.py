"""The storage directory itself: whose it is, what it may hold, and that it is never half made."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ch_image.errors import StorageError
from ch_image.storage.store import open_storage


def modes(path: Path) -> dict[str, int]:
    return {
        str(p.relative_to(path)): stat.S_IMODE(p.lstat().st_mode)
        for p in [path, *path.rglob("*")]
        if p.is_dir()
    }


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_a_new_directory_is_private_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    old = os.umask(umask)
    try:
        open_storage(str(tmp_path / "s")).close()
    finally:
        os.umask(old)

    assert set(modes(tmp_path / "s").values()) == {0o700}
    assert (tmp_path / "s/version").read_text() == "1\n"
    open_storage(str(tmp_path / "s")).close()


def test_a_directory_that_others_can_enter_is_closed_and_loses_its_group_bit(
    tmp_path: Path,
) -> None:
    path = tmp_path / "s"
    path.mkdir()
    path.chmod(0o2755)

    open_storage(str(path)).close()

    assert set(modes(path).values()) == {0o700}


def _file(path: Path) -> None:
    path.write_text("mine")


def _documents(path: Path) -> None:
    path.mkdir()
    (path / "thesis.tex").write_text("x")


def _pictures(path: Path) -> None:
    (path / "images").mkdir(parents=True)
    (path / "images/cat.jpg").write_text("x")


def _newer(path: Path) -> None:
    open_storage(str(path)).close()
    (path / "version").write_text("2\n")


def _garbled(path: Path) -> None:
    open_storage(str(path)).close()
    (path / "version").write_bytes(b"\0\0")


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "a file": (_file, "not a directory"),
    "a directory of something else": (_documents, "not a storage directory"),
    "a directory of pictures named images": (_pictures, "not a storage directory"),
    "a newer format": (_newer, "format 2"),
    "a damaged version": (_garbled, "version file is damaged"),
}


@pytest.mark.parametrize(("make", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_ours_is_refused_untouched(
    tmp_path: Path, make: Callable[[Path], None], why: str
) -> None:
    path = tmp_path / "s"
    make(path)
    before = sorted((str(p), p.lstat().st_mode, p.lstat().st_mtime_ns) for p in path.rglob("*"))

    with pytest.raises(StorageError, match=why):
        open_storage(str(path))

    after = sorted((str(p), p.lstat().st_mode, p.lstat().st_mtime_ns) for p in path.rglob("*"))
    assert after == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root owns everything")
def test_a_directory_of_another_user_is_refused_also_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/usr")

    for path in ("/usr", str(tmp_path / "link")):
        with pytest.raises(StorageError, match="another user"):
            open_storage(path)


def test_a_directory_whose_making_was_cut_short_is_completed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    (path / "layers").mkdir(parents=True)
    (path / "lock").touch()

    open_storage(str(path)).close()

    assert (path / "version").read_text() == "1\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_place_is_one_error_that_names_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StorageError, match="cannot make the storage directory: permission"):
            open_storage(str(tmp_path / "s"))
    finally:
        tmp_path.chmod(0o700)


def test_many_first_commands_at_once_make_one_directory(tmp_path: Path) -> None:
    code = (
        "import sys; from ch_image.storage.store import open_storage\n"
        "s = open_storage(sys.argv[1])\nwith s, s.lock(), s.scratch() as d: open(d + '/x', 'w')"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "s")]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(6)]

    errors = [p.communicate(timeout=60)[1] for p in running]

    assert errors == [b""] * 6
    assert os.listdir(tmp_path / "s/tmp") == []


def test_opening_imports_neither_json_nor_hashlib(tmp_path: Path) -> None:
    code = (
        "import sys; before = set(sys.modules)\n"
        "from ch_image.storage.store import open_storage\n"
        "open_storage(sys.argv[1]).images.list()\n"
        "heavy = {'json', 'hashlib', 'ctypes', 'dataclasses', 'subprocess', 'logging'}\n"
        "print(sorted(heavy & (set(sys.modules) - before)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "s")], capture_output=True, text=True
    )
    assert done.stdout == "[]\n", done.stderr
