"""A context so large that a fork lists a part of it: digests are as if one had read it alone."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import world

from ch_image.build.context import Context
from ch_image.build.digest import digest
from ch_image.build.rows import Packed, directories_of, linked_of
from ch_image.build.select import select
from ch_image.dockerfile import ignore

pytestmark = pytest.mark.userns
DIRECTORIES, FILES = 60, 90


@pytest.fixture
def large(tmp_path: Path) -> Path:
    root = tmp_path / "context"
    for n in range(DIRECTORIES):
        directory = root / f"d{n:02}" / "in"
        directory.mkdir(parents=True)
        for m in range(FILES):
            (directory / f"f{m}").write_text(f"{n} {m}")
    os.link(root / "d01/in/f1", root / "d50/in/linked")
    return root


def digest_of(root: Path, index: Path | None, rules: str = "") -> str:
    given = ignore.from_patterns(rules.split()) if rules else None
    context = Context(str(root), given, str(index) if index else "")
    try:
        return digest(context, select(context, ["."]))
    finally:
        context.save()
        context.close()


CHANGES: dict[str, Callable[[Path], object]] = {
    "nothing": lambda root: None,
    "content in the later half": lambda root: (root / "d55/in/f3").write_text("other"),
    "content in the first half": lambda root: (root / "d02/in/f3").write_text("other"),
    "mode": lambda root: (root / "d55/in/f3").chmod(0o700),
    "a new directory": lambda root: (root / "d59/new").mkdir(),
    "a directory less": lambda root: (
        [p.unlink() for p in (root / "d58/in").iterdir()] and (root / "d58/in").rmdir()
    ),
    "a directory becomes a link": lambda root: (
        (root / "d57/in").rename(root / "moved") and (root / "d57/in").symlink_to("../moved")
    ),
    "a link less": lambda root: (root / "d50/in/linked").unlink(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_change_is_seen_by_whoever_lists_it(
    large: Path, tmp_path: Path, change: Callable[[Path], object]
) -> None:
    time.sleep(0.03)  # what was written just now is not trusted
    forks: list[int] = []
    fork = os.fork

    def work() -> None:
        os.fork = lambda: forks.append(1) or fork()  # type: ignore[func-returns-value,assignment]
        first = digest_of(large, tmp_path / "index")
        assert first == digest_of(large, tmp_path / "index") == digest_of(large, None)
        change(large)
        after = digest_of(large, tmp_path / "index")
        assert after == digest_of(large, None)
        assert (after == first) == (change is CHANGES["nothing"])
        assert len(forks) == 2, "the index was known twice"
        assert not world.child_is_left()

    world.in_namespace(work)


def test_ignored_files_are_ignored_by_both(large: Path, tmp_path: Path) -> None:
    rules = "**/f1 d3* !d33/in/f2"

    def work() -> None:
        alone = digest_of(large, None, rules)
        assert alone != digest_of(large, None)
        digest_of(large, tmp_path / "index")
        assert digest_of(large, tmp_path / "index", rules) == alone
        assert not world.child_is_left()

    world.in_namespace(work)


def test_who_has_threads_does_not_fork(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = digest_of(large, tmp_path / "index")
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("forked beside a thread"))
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        assert digest_of(large, tmp_path / "index") == first
    finally:
        end.set()
        thread.join()


def test_a_fork_that_is_killed_is_done_without(large: Path, tmp_path: Path) -> None:
    def work() -> None:
        first = digest_of(large, tmp_path / "index")
        context = Context(str(large), None, str(tmp_path / "index"))
        context.look_ahead([""])
        assert context._ahead is not None
        os.kill(context._ahead._pid, 9)
        assert digest(context, select(context, ["."])) == first
        context.close()
        assert not world.child_is_left()

    world.in_namespace(work)


def alone_and_guessing(root: Path, index: Path) -> tuple[Context, Context]:
    """One that reads by itself, and one whose fork expects that all is read as before."""
    digest_of(root, index)
    context = Context(str(root), None, str(index))
    context.look_ahead([""], early=True)
    return Context(str(root), None, ""), context


def test_a_guess_that_was_too_large_is_given_up(large: Path, tmp_path: Path) -> None:
    """Of a context that was read as a whole before, only one directory is wanted now."""

    def work() -> None:
        alone, context = alone_and_guessing(large, tmp_path / "index")
        guessed = context._ahead
        assert guessed is not None
        assert guessed.get("d59/in") is not None
        assert digest(context, select(context, ["d59"])) == digest(alone, select(alone, ["d59"]))
        assert context._ahead is None
        context.close()
        assert not world.child_is_left()

    world.in_namespace(work)


def test_rows_of_the_fork_are_rows(large: Path, tmp_path: Path) -> None:
    def work() -> None:
        alone, context = alone_and_guessing(large, tmp_path / "index")
        for path in ("", "d01", "d01/in", "d50/in", "d59/in"):
            rows = context.listing(path)
            assert len(rows) == len(alone.listing(path))
            assert directories_of(rows) == directories_of(alone.listing(path)), path
            assert list(linked_of(rows)) == linked_of(alone.listing(path)), path
            assert list(rows) == alone.listing(path), path
            assert rows[:2] == alone.listing(path)[:2]
            assert rows[-1] == alone.listing(path)[-1]
        assert isinstance(context.listing("d50/in"), Packed)
        assert linked_of(rows) == []
        context.close()

    world.in_namespace(work)
