"""The files that a miss is told by: each for itself, or by directories where they are many."""

from __future__ import annotations

from pathlib import Path

import pytest

from ch_image.build.context import Context
from ch_image.build.digest import digest
from ch_image.build.key import explain, name_files
from ch_image.build.named import named_files
from ch_image.build.select import select


def plant(root: Path, files: int) -> None:
    for n in range(files):
        path = root / f"d{n % 3}" / f"f{n}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(n))
    (root / "top").write_text("top")


def named(root: Path, index: str) -> dict[str, str]:
    context = Context(str(root), None, index)
    selection = select(context, ["."])
    digest(context, selection)
    context.save()
    return name_files(named_files(context, selection))


CHANGES = {
    "content": (
        lambda root: (root / "d1/f1").write_text("other"),
        ("d1/f1 content", "d1/ content"),
    ),
    "mode": (lambda root: (root / "d1/f1").chmod(0o700), ("d1/f1 mode", "d1/ content")),
    "at the top": (lambda root: (root / "top").write_text("new"), ("top content", "./ content")),
    "nothing": (lambda root: None, ("", "")),
}


@pytest.mark.parametrize("remembered", [False, True], ids=["no index", "index"])
@pytest.mark.parametrize("files", [30, 300])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_change_is_told_by_the_file_or_where_it_lies(
    tmp_path: Path, change: tuple[object, tuple[str, str]], files: int, remembered: bool
) -> None:
    root = tmp_path / "context"
    plant(root, files)
    index = str(tmp_path / "index") if remembered else ""
    before = named(root, index)
    assert before
    change[0](root)  # type: ignore[operator]
    word = change[1][files > 256]
    assert explain(before, named(root, index)) == ([f"{word} changed"] if word else [])
