"""A directory that replaces another: whoever looks meanwhile sees one of them, whole."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from ch_image.formats import directory


def make(path: Path, mark: str) -> Path:
    path.mkdir(parents=True)
    (path / "mark").write_text(mark)
    return path


def test_there_is_never_nothing(tmp_path: Path) -> None:
    target = make(tmp_path / "target", "0")
    missed: list[BaseException] = []
    end = threading.Event()

    def look() -> None:
        while not end.is_set():
            try:
                target.stat()
            except FileNotFoundError as error:
                missed.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for n in range(300):
            directory._put_in_place(str(make(tmp_path / f"part{n}/tree", str(n))), str(target))
    finally:
        end.set()
        thread.join()
    assert not missed
    assert (target / "mark").read_text() == "299"


@pytest.mark.parametrize("number", [22, 38], ids=["EINVAL", "ENOSYS"])
def test_a_file_system_that_cannot_exchange_does_without(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(one: str, other: str) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(directory, "exchange", refuse)
    target = make(tmp_path / "target", "old")
    directory._put_in_place(str(make(tmp_path / "part/tree", "new")), str(target))
    assert (target / "mark").read_text() == "new"
    assert (tmp_path / "part/old/mark").read_text() == "old"
