"""Overlay mounts by both of the kernel's interfaces, and in storage directories of any name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ch_image.storage.snapshots.mountapi import Overlay, unmount
from ch_image.storage.store import open_storage

pytestmark = pytest.mark.userns

ODD_NAMES = ["plain", "a,b:c", "back\\slash", "with space\nand line", "ü\udcff", "%s=$HOME"]


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
@pytest.mark.parametrize("way", ["_mount_new", "_mount_old"])
def test_both_interfaces_mount_below_a_directory_of_any_name(
    tmp_path: Path, in_userns: Callable[[Callable[[], Any]], Any], name: str, way: str
) -> None:
    root = tmp_path / name

    def work() -> None:
        for part in ("low", "high", "upper", "work", "at"):
            (root / part).mkdir(parents=True)
        (root / "low/f").write_text("low")
        (root / "high/f").write_text("high")
        overlay = Overlay(str(root), ["high", "low"], "upper", "work")
        fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
        getattr(overlay, way)(f"/proc/self/fd/{fd}/", str(root / "at"))
        os.close(fd)
        assert (root / "at/f").read_text() == "high"
        (root / "at/g").write_text("new")
        unmount(str(root / "at"))
        unmount(str(root / "at"))
        assert (root / "upper/g").read_text() == "new"
        assert os.listdir(root / "at") == []

    in_userns(work)


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_a_storage_directory_may_have_any_name(
    tmp_path: Path, in_userns: Callable[[Callable[[], Any]], Any], name: str
) -> None:
    def work() -> None:
        with open_storage(str(tmp_path / name)) as store, store.lock():
            snapshotter = store.snapshotter("overlay")
            draft = snapshotter.prepare(())
            Path(draft.root, "f").write_text("x")
            chain = (snapshotter.commit(draft, {}),)
            with snapshotter.view(chain) as root:
                assert os.listdir(root) == ["f"]

    in_userns(work)


def test_a_refused_mount_says_what_the_kernel_says(
    tmp_path: Path, in_userns: Callable[[Callable[[], Any]], Any]
) -> None:
    def work() -> None:
        (tmp_path / "at").mkdir()
        with pytest.raises(FileNotFoundError):
            Overlay(str(tmp_path), ["none", "gone"]).mount(str(tmp_path / "at"))
        assert os.listdir(tmp_path / "at") == []

    in_userns(work)
