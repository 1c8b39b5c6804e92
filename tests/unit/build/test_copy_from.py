"""COPY --from: owners, devices and modes of an image come along, and nothing steers us."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trees

from ch_image.build.copy import CopyResult, copy
from ch_image.build.copyspec import CopySpec, choose
from ch_image.build.digest import digest
from ch_image.build.source import ImageSource
from ch_image.fs import owners

STAGE = "d/ @1:1\nd/e/ 750 @2:2\nd/a @3:3 = 1\nd/b = 2\nd/l -> a\nd/p |\nd/null"
OF_LINKS = {"d/l": (4, 4), "d/p": (5, 5)}


def carry_out(tmp: Path, text: str, image: str = "", **options: Any) -> tuple[Path, CopyResult]:
    *sources, destination = text.split(" ")
    stage = trees.plant(tmp / "stage", STAGE)
    device = owners.Recorded(6, 6, 0o644, "char", 1, 3)
    owners.write(str(stage / "d/null"), device)
    root = trees.plant(tmp / "image", image)
    source = ImageSource(str(stage), OF_LINKS)
    return root, copy(CopySpec(tuple(sources), destination, **options), source, str(root))


@pytest.mark.parametrize(
    ("text", "options", "expected", "image"),
    [
        (
            "/d /x",
            {},
            "x/; x/a @3:3 = 1; x/b = 2; x/e/ 750 @2:2; x/l @4:4 -> a; x/null @6:6 = char-1-3"
            "; x/p @5:5 |",
            "",
        ),
        (
            "/d /x",
            {"chown": "7:8"},
            "x/ @7:8; x/a @7:8 = 1; x/b @7:8 = 2; x/e/ 750 @7:8; x/l @7:8 -> a"
            "; x/null @7:8 = char-1-3; x/p @7:8 |",
            "",
        ),
        ("/d/a /x", {}, "x @3:3 = 1", ""),
        ("/d/a /x", {"chown": "0:0"}, "x = 1", ""),
        ("/d/a /x", {"chmod": "600"}, "x 600 @3:3 = 1", ""),
        ("/d/l /x", {}, "x @3:3 = 1", ""),  # followed
        ("/d/null /x", {"chmod": "u+x"}, "x 744 @6:6 = char-1-3", ""),
        ("/d/a /x/", {}, "x/ @9:9; x/a @3:3 = 1", "x/ @9:9"),
        ("/d/e /x", {}, "x/ @9:9", "x/ @9:9"),
        ("/d/b /d/a", {}, "d/; d/a = 2", "d/a @9:9 = 0"),
        ("/d/a /d/b /x/", {"parents": True}, "x/; x/d/ @1:1; x/d/a @3:3 = 1; x/d/b = 2", ""),
    ],
)
def test_owners_and_devices(
    text: str, options: dict[str, Any], expected: str, image: str, tmp_path: Path
) -> None:
    root, done = carry_out(tmp_path, text, image, **options)
    assert trees.read(root, done.owners) == expected.split("; ")


def test_merging_takes_the_record_of_the_source(tmp_path: Path) -> None:
    root, _ = carry_out(tmp_path, "/d /x", "x/e/ @9:9\nx/b @9:9 = 0")
    lines = trees.read(root)
    assert "x/e/ 750 @2:2" in lines
    assert "x/b = 2" in lines
    trees.plant(tmp_path / "plain", "d/e/")
    copy(CopySpec(("d",), "/x"), ImageSource(str(tmp_path / "plain"), {}), str(root))
    assert "x/e/" in trees.read(root)


def test_every_mode_can_be_read_and_written(
    tmp_path: Path, in_userns: Callable[[Callable[[], object]], object]
) -> None:
    stage = trees.plant(tmp_path / "stage", "d/a 000 = 1\nd/e/f 4000 = 2")
    (stage / "d/e").chmod(0o000)
    (stage / "d").chmod(0o000)
    root = trees.plant(tmp_path / "image", "")

    def work() -> None:
        source, spec = ImageSource(str(stage), {}), CopySpec(("d",), "/x/", chown="3:4")
        selection = choose(spec, source)
        assert len(digest(source, selection, owners=True)) == 64
        copy(spec, source, str(root), selection=selection)
        copy(CopySpec(("d",), "/y/", chmod="0"), source, str(root))
        assert trees.read(root) == [
            "x/ @3:4", "x/a 000 @3:4 = 1", "x/e/ 000 @3:4", "x/e/f 4000 @3:4 = 2",
            "y/ 000", "y/a 000 = 1", "y/e/ 000", "y/e/f 000 = 2",
        ]  # fmt: skip

    try:
        in_userns(work)
    finally:
        for path in (stage / "d", stage / "d/e", root / "x/e", root / "y", root / "y/e"):
            if path.parent.exists():
                os.chmod(path, 0o755)


def test_capabilities_of_files_come_along(
    tmp_path: Path, in_userns: Callable[[Callable[[], object]], object]
) -> None:
    stage = trees.plant(tmp_path / "stage", "ping 755 = 1")
    root = trees.plant(tmp_path / "image", "")
    capability = bytes.fromhex("0100000200200000000000000000000000000000")

    def work() -> None:
        os.setxattr(stage / "ping", "security.capability", capability)
        copy(CopySpec(("ping",), "/"), ImageSource(str(stage), {}), str(root))
        kept = os.getxattr(root / "ping", "security.capability")
        assert kept[4:20] == capability[4:20]

    in_userns(work)


def test_links_of_an_image_lead_to_the_image_only(tmp_path: Path) -> None:
    outside = trees.plant(tmp_path / "outside", "etc/passwd = secret")
    stage = trees.plant(
        tmp_path / "stage",
        f"out -> {outside}\nup -> ../outside\nsub -> /out\nd/up -> ../../outside",
    )
    root = trees.plant(tmp_path / "image", f"out -> {outside}\nd/up -> ../../outside")
    source = ImageSource(str(stage), {})
    for name in ("out/etc/passwd", "up/etc/passwd", "sub/etc/passwd", "d/up/etc/passwd", "out/*"):
        with pytest.raises(Exception, match="no "):
            copy(CopySpec((name,), "/x"), source, str(root))
    trees.plant(stage, "f = 1")
    for destination in ("/out/", "/d/up/x", "/out/etc/passwd"):
        copy(CopySpec(("f",), destination), ImageSource(str(stage), {}), str(root))
    assert trees.read(outside) == ["etc/", "etc/passwd = secret"]
