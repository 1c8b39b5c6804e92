"""A build that finds everything in the cache loads only what looks things up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import world

DOCKERFILE = (
    "FROM scratch AS one\nARG A=1\nENV B=$A\nWORKDIR /w\nLABEL x=y\n"
    'FROM scratch\nCOPY --from=one /w /w\nCOPY file /\nCMD ["/file"]\n'
)
# What parses, hashes much, fetches, copies, runs, draws.
NEEDLESS = [
    "lark", "requests", "rich", "yaml", "subprocess", "tarfile", "urllib.parse", "ipaddress",
    "ch_image.dockerfile.parser", "ch_image.build.carry", "ch_image.build.add",
    "ch_image.build.remote", "ch_image.build.gitref", "ch_image.build.run",
    "ch_image.build.run_mounts", "ch_image.build.copy", "ch_image.build.remote_cache",
    "ch_image.sandbox.launcher", "ch_image.storage.snapshots.overlay", "ch_image.storage.clean",
    "ch_image.registry.client", "ch_image.transfer.pull", "ch_image.cli.live",
]  # fmt: skip
SCRIPT = """
import sys
sys.path.insert(0, {checkout!r})
sys.path[len(sys.path):] = {more!r}
sys.argv = ["ch-image", "build", "-t", "noop", {context!r}]
from ch_image.cli.main import main
code = main()
loaded = sorted(sys.modules)
import json
print("\\n" + json.dumps([code, loaded]))
"""


def modules(context: Path, tool: world.Tool) -> tuple[set[str], str]:
    """What a build loads, and what it says."""
    script = SCRIPT.format(
        checkout=str(world.CHECKOUT),
        more=[path for path in sys.path if "site-packages" in path],
        context=str(context),
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script],
        capture_output=True,
        text=True,
        env=tool.environment(),
    )
    code, loaded = json.loads(done.stdout.splitlines()[-1])
    assert code == 0, done.stderr
    return set(loaded), done.stderr


@pytest.mark.userns
def test_a_build_of_hits_loads_little_and_leaves_its_image_alone(
    ch_image: world.Tool, tmp_path: Path
) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(DOCKERFILE)
    (context / "file").write_text("x")
    modules(context, ch_image)
    before = ch_image("list", "--format=json").ok().out
    loaded, said = modules(context, ch_image)
    assert [line for line in said.splitlines() if line.strip()[:2] in ("1.", "2.", "3.")] == []
    assert sorted(loaded & set(NEEDLESS)) == []
    assert ch_image("list", "--format=json").ok().out == before
