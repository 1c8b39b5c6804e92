"""COPY of so many small files that a second process helps: the same tree, the same errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import world

from ch_image.build.context import Context
from ch_image.build.copy import CopyResult, copy
from ch_image.build.copyspec import CopySpec
from ch_image.build.source import ImageSource
from ch_image.errors import BuildError
from ch_image.fs import owners
from ch_image.fs.owners import Recorded

pytestmark = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="with one processor nobody helps"
)
DIRECTORIES, FILES = 40, 90


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3,600 files; in each directory also a link, a FIFO and an attribute."""
    root = tmp_path_factory.mktemp("many") / "context"
    for n in range(DIRECTORIES):
        directory = root / f"d{n % 4}" / f"e{n}"
        directory.mkdir(parents=True)
        for m in range(FILES):
            path = directory / f"f{m} \udcff"
            path.write_text(f"{n} {m}" * (m % 3))
            path.chmod((0o644, 0o755, 0o4711, 0o600)[m % 4])
            os.utime(path, ns=(m, n * 1_000_000_007 + m))
        os.setxattr(directory / "f1 \udcff", "user.colour", b"blue")
        (directory / "link").symlink_to(f"f{n}")
        os.mkfifo(directory / "fifo")
    return root


@pytest.fixture(autouse=True)
def nobody_is_left() -> Iterator[None]:
    """The second process has been waited for."""
    before = world.children()
    yield
    assert world.children() <= before


def listing(root: Path) -> list[tuple[object, ...]]:
    """All of a tree that a COPY carries over."""
    out = []
    for path in sorted(root.rglob("*")):
        state = path.lstat()
        content: object = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        marks = os.listxattr(path, follow_symlinks=False)
        what = (str(path.relative_to(root)), state.st_mode, state.st_size, content, marks)
        out.append((*what, 0 if path.is_dir() else state.st_mtime_ns))
    return out


def carry_out(many: Path, image: Path, **options: str) -> CopyResult:
    image.mkdir()
    return copy(CopySpec((".",), "/srv", **options), Context(str(many)), str(image))


def test_two_processes_make_what_one_makes(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helped = carry_out(many, tmp_path / "two")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    alone = carry_out(many, tmp_path / "one")
    assert listing(tmp_path / "two/srv") == listing(tmp_path / "one/srv") == listing(many)
    assert helped == alone
    assert helped.files == DIRECTORIES * (FILES + 2)


def test_owner_and_mode_are_given_by_both(many: Path, tmp_path: Path) -> None:
    done = carry_out(many, tmp_path / "image", chown="5:6", chmod="u=rwX,go=")
    files = [p for p in (tmp_path / "image/srv").rglob("f*") if p.is_file()]
    assert len(files) == DIRECTORIES * FILES
    for path in files:
        with path.open() as file:
            assert owners.read(file.fileno()) == Recorded(
                5, 6, 0o700 if path.stat().st_mode & 0o100 else 0o600, "file"
            )
    assert set(done.owners.values()) == {(5, 6)}
    assert len(done.owners) == 2 * DIRECTORIES


def test_owners_of_an_image_come_along(many: Path, tmp_path: Path) -> None:
    links = {f"d{n % 4}/e{n}/link": (n, 7) for n in range(DIRECTORIES)}
    (tmp_path / "image").mkdir()
    done = copy(CopySpec((".",), "/"), ImageSource(str(many), links), str(tmp_path / "image"))
    assert done.owners == {path: owner for path, owner in links.items() if owner != (0, 0)}


def test_what_cannot_be_read_is_told_by_whoever_meets_it(many: Path, tmp_path: Path) -> None:
    doors = sorted(many.rglob("f7 *"))
    for path in doors:
        path.chmod(0)
    try:
        with pytest.raises(BuildError, match=r"cannot read d\d/e\d+/f7 .* denied") as caught:
            carry_out(many, tmp_path / "image")
        assert "make it readable" in caught.value.hint
    finally:
        for path in doors:
            path.chmod(0o600)


def test_a_process_that_does_not_live_is_an_error(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(BuildError, match="the process that copies files ended early"):
        carry_out(many, tmp_path / "image")
