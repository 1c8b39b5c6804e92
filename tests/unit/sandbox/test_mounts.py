"""Mounts on kernels that can do less than this one."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import world

from ch_image.sandbox import mounts
from ch_image.sandbox import syscalls as kernel

pytestmark = pytest.mark.userns


def test_a_file_in_memory_where_only_what_is_mounted_can_be_bound(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    native = kernel.mount

    def before_6_15(source: str, target: str, kind: str | None, flags: int) -> None:
        """The kernel refuses to bind from a mount that /proc/self/mountinfo does not list."""
        fd = os.open(source, os.O_PATH)
        info = Path(f"/proc/self/fdinfo/{fd}").read_text()
        number = info.partition("mnt_id:")[2].split()[0]
        listed = [line.split()[0] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        os.close(fd)
        if number not in listed:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), target)
        native(source, target, kind, flags)

    def work() -> tuple[str, int, list[str]]:
        native(str(tmp_path), str(tmp_path), None, kernel.MS_BIND)
        kernel.mount = before_6_15  # type: ignore[assignment]
        root = mounts.Root(str(tmp_path))
        for name in ("one", "two"):
            mounts.File(f"/etc/{name}", f"content of {name}\n", 0o640).apply(root)
        return (
            (tmp_path / "etc/two").read_text(),
            (tmp_path / "etc/one").stat().st_mode & 0o777,
            sorted(os.listdir(tmp_path)),
        )

    assert world.in_namespace(work) == ("content of two\n", 0o640, ["etc"])
