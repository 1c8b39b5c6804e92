"""What every RUN gets of the host."""

from __future__ import annotations

import os
from pathlib import Path

from ch_image.sandbox.container import read_text


def test_a_host_file_that_changes_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    assert read_text(str(path)) == ""
    path.write_text("one")
    assert [read_text(str(path)) for _ in range(2)] == ["one", "one"]
    state = path.stat()
    path.write_text("two")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert read_text(str(path)) == "two"
    other = tmp_path / "other"
    other.write_bytes(b"\xff")
    other.rename(path)
    assert read_text(str(path)) == "\udcff"
    path.chmod(0)
    path.unlink()
    assert read_text(str(path)) == ""
