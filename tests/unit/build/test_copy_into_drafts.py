"""COPY into the drafts of both snapshotters gives what it gives in a plain directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trees

from ch_image.build.context import Context
from ch_image.build.copy import copy
from ch_image.build.copyspec import CopySpec
from ch_image.fs.remove import remove_tree
from ch_image.storage.snapshots.base import Snapshotter
from ch_image.storage.snapshots.choose import NAMES
from ch_image.storage.store import open_storage
from tests.unit.build import test_copy
from tests.unit.build.test_copy import Case, case

pytestmark = pytest.mark.userns

# Files of one COPY that lie partly in what is there, partly in what is new.
BETWEEN = [
    case(
        "hard links between an old directory and a new one",
        "c/a = 1\nc/d/b == c/a\nc/e/f = 2\nc/g == c/e/f",
        "c /",
        "a = 1\nd/\nd/b == a\ne/\ne/f == g\ng = 2\nold = 0",
        image="old = 0",
    ),
    case(
        "hard links between merged directories, over files that are there",
        "c/x = 1\nc/b/y == c/x",
        "c /",
        "b/\nb/o = 0\nb/y == x\nx = 1",
        image="b/y = 0\nb/o = 0\nx = 0",
    ),
    case(
        "a deep new tree beside a file that gives way",
        "c/n/m/o = 1\nc/n/p -> o\nc/old = 2",
        "c /k",
        "k/\nk/n/\nk/n/m/\nk/n/m/o = 1\nk/n/p -> o\nk/old = 2",
        image="k/old = 0",
    ),
    case(
        "one source after another into a new directory",
        "a/f = 1\nb/f = 2\nb/g = 3\na/s/t = 4\nb/s/u = 5",
        "a b /x/",
        "x/\nx/f = 2\nx/g = 3\nx/s/\nx/s/t = 4\nx/s/u = 5",
    ),
    case(
        "a file over a file that was just copied",
        "a/f = 1\nf = 3",
        "a f /x/",
        "x/\nx/f = 3",
    ),
]

CASES = (
    test_copy.DESTINATIONS
    + test_copy.MERGING
    + test_copy.LINKS
    + test_copy.WILDCARDS
    + test_copy.OPTIONS
    + [given._replace(options={"parents": True, **given.options}) for given in test_copy.PARENTS]
    + [given._replace(options={"link": True, **given.options}) for given in test_copy.LINK]
    + test_copy.SPECIAL
    + BETWEEN
)


def copied(snapshotter: Snapshotter, given: Case, context: Path) -> list[str]:
    """The whole tree, as the layers give it."""
    draft = snapshotter.prepare(())
    trees.plant(Path(draft.root), given.image)
    chain = (snapshotter.commit(draft, {}),)
    draft = snapshotter.prepare(chain)
    try:
        spec = CopySpec(tuple(given.sources.split()), given.destination, **given.options)
        source = Context(str(context))
        done = copy(spec, source, draft.root, upper=draft.upper, workdir=given.workdir)
        source.close()
        chain = (*chain, snapshotter.commit(draft, done.owners))
    finally:
        snapshotter.discard(draft)
    with snapshotter.view(chain) as root:
        return trees.read(Path(root), done.owners)


@pytest.mark.parametrize("name", NAMES)
def test_layers_of_a_copy(name: str, tmp_path: Path, in_userns: Any) -> None:
    def inside() -> list[str]:
        wrong = []
        try:
            with open_storage(str(tmp_path / "s")) as store, store.lock():
                snapshotter = store.snapshotter(name)
                for number, given in enumerate(CASES):
                    context = trees.plant(tmp_path / f"context{number}", given.context)
                    found = copied(snapshotter, given, context)
                    if found != trees.same(given.expected):
                        wrong.append(f"{given.name}: {found}")
        finally:
            remove_tree(str(tmp_path))
        return wrong

    assert in_userns(inside) == []
