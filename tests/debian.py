"""A real Debian bookworm to build from, and what Debian's and buildah's own tools make of it.

Root, where there is one, leaves both in the directory that CH_TEST_PEER names (see
tests/integration/as-root). Without, an ordinary user bootstraps Debian with `examples/debian`,
once, into ~/.cache.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import world

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ch-image-tests"


def peer(name: str) -> Path | None:
    """A file that root has left for us, if there is one."""
    directory = os.environ.get("CH_TEST_PEER")
    path = Path(directory, name) if directory else None
    return path if path and path.exists() else None


def base_layout() -> Path:
    """The OCI layout (tag latest) of debian:bookworm, of root's making or of ours."""
    root_made = peer("debian.tar")
    layout = CACHE / ("debian-by-root" if root_made else "debian")
    with world.only_one(CACHE / "lock"):
        stamp = f"{root_made.stat().st_mtime_ns}" if root_made else "ours"
        if not (layout / stamp).exists():
            subprocess.run(["rm", "-rf", str(layout)], check=True)
            tar = root_made or bootstrap(CACHE / "debian.tar")
            config = {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}
            world.write_layout(layout, [tar.read_bytes()], config | {"Cmd": ["bash"]})
            (layout / stamp).touch()
    return layout


def bootstrap(tar: Path) -> Path:
    """Debian as a tar file, made by an ordinary user: `examples/debian`, then ch-convert."""
    world.program("debootstrap")
    work = tar.parent / "bootstrap"
    work.mkdir(parents=True, exist_ok=True)
    tool = world.Tool(work / "storage", work)
    example = world.CHECKOUT / "examples/debian"
    done = subprocess.run(
        [str(example / "stage-one"), str(work / "tree")],
        capture_output=True,
        text=True,
        env=world.clean_environment(work),
    )
    if done.returncode:
        world.lacking(f"debootstrap: {done.stderr.strip()[-300:]}")
    tool("build", "-t", "debian", "-f", example / "Dockerfile", work / "tree").ok()
    tool.run("ch-convert", "debian", tar).ok()
    subprocess.run(["chmod", "-R", "u+rwX", str(work)], check=False, capture_output=True)
    subprocess.run(["rm", "-rf", str(work)], check=True)
    return tar
