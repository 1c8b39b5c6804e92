"""An ordinary user's build has, path by path, what root's build of the same Dockerfile has.

Root leaves listings of what buildah made (see as-root-referee) in $CH_TEST_PEER/referee, on the
same base image as ours. Type, mode, owner, device numbers, link target, content, extended
attributes and file capabilities are compared; compare.py lists what may differ, and why.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import compare
import conftest
import debian
import listing
import pytest
import world

pytestmark = [pytest.mark.userns, pytest.mark.registry, pytest.mark.slow]

DATA = Path(__file__).parent.parent / "data/referee"
DEFAULT = ("commands", "access")
NAMES = sorted(path.stem for path in DATA.glob("*.Dockerfile"))


@pytest.mark.parametrize("name", NAMES)
def test_an_image_is_the_one_that_root_builds(
    name: str, debian_base: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    made_by_root = debian.peer(f"referee/{name}.json")
    if made_by_root is None:
        if name in DEFAULT and os.environ.get("CH_TEST_PEER"):
            world.lacking(f"root has left no referee/{name}.json in {os.environ['CH_TEST_PEER']}")
        pytest.skip("root has left no listing (tests/integration/as-root-referee)")
    work = tmp_path_factory.mktemp(name)
    tool = world.Tool(work / "storage", work)
    try:
        file = DATA / f"{name}.Dockerfile"
        base = f"BASE={debian_base}"
        tool("build", "-t", name, "--build-arg", base, "-f", file, DATA / "context").ok()
        tool.run("ch-convert", name, work / "image.tar").ok()
        with (work / "image.tar").open("rb") as stream:
            ours = listing.listing(stream)
    finally:
        conftest.remove_tree(work / "storage")
        (work / "image.tar").unlink(missing_ok=True)
    found = compare.differences(json.loads(made_by_root.read_text()), ours)
    assert not found, f"{len(found)} differences:\n" + "\n".join(found[:50])
