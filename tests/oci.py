"""Bundles and containers for tests: an image in storage, and what is left of them."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import world

DOCKERFILE = """\
FROM base
USER app
ENV COLOUR=green
VOLUME /data
WORKDIR /srv/work
EXPOSE 80
STOPSIGNAL SIGUSR1
LABEL org.example.kind=test
ENTRYPOINT ["/bin/sh", "-c"]
CMD ["id -u; pwd; echo $COLOUR $HOME"]
"""


# With the copy snapshotter every bundle is a plain tree: nobody holds it.
COPIED = os.environ.get("CH_IMAGE_SNAPSHOTTER") == "copy"
needs_holder = pytest.mark.skipif(
    COPIED, reason="with the copy snapshotter a bundle has no holder, of whom this test is"
)


def make_images(tool: world.Tool, layout: world.BaseImage, directory: Path) -> None:
    """``base``, a busybox, and ``app``, which says all that a config can."""
    tool("import", layout.tree, "base").ok()
    (directory / "Dockerfile").write_text(DOCKERFILE)
    tool("build", "-t", "app", directory).ok()


def with_base(factory: pytest.TempPathFactory, layout: world.BaseImage) -> world.Tool:
    """Storage of its own, in a new directory, with the image ``base``."""
    top = factory.mktemp("oci")
    (top / "home").mkdir()
    tool = world.Tool(top / "storage", top / "home")
    tool("import", layout.tree, "base").ok()
    return tool


def config(bundle: Path) -> dict[str, Any]:
    """A bundle's config.json."""
    value: dict[str, Any] = json.loads((bundle / "config.json").read_text())
    return value


def mounted(tool: world.Tool) -> list[dict[str, Any]]:
    """What ``oci list`` says of bundles."""
    found: list[dict[str, Any]] = listed(tool)["bundles"]
    return found


def holder(tool: world.Tool, bundle: Path) -> int:
    """The process that holds a bundle's mount; 0 where the bundle is a plain tree."""
    pids: list[int] = [
        one["pid"] for one in mounted(tool) if one["bundle"] == str(bundle.resolve())
    ]
    if COPIED:
        assert pids == []
        return 0
    (pid,) = pids
    return pid


def inside(holder: int, *words: object) -> str:
    """What a command says that sees a bundle as its holder does."""
    enter = ["nsenter", "--preserve-credentials", "-U", "-m", "-t", str(holder)] if holder else []
    command = [*enter, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def containers(tool: world.Tool) -> dict[str, str]:
    """What ``oci list`` says of containers: ID -> status."""
    return {one["id"]: one["status"] for one in listed(tool)["containers"]}


def known(tool: world.Tool) -> list[str]:
    """The IDs of all containers, by the directories of their states."""
    return sorted(path.name for path in tool.home.glob("ch-run-oci/*"))


def forget(tool: world.Tool) -> None:
    """End and delete all containers."""
    for ident in known(tool):
        tool("oci", "delete", "-f", ident).ok()


def listed(tool: world.Tool) -> dict[str, Any]:
    """What ``oci list`` says."""
    value: dict[str, Any] = json.loads(tool("oci", "list", "--format", "json").ok().out)
    return value


def state(tool: world.Tool, ident: str) -> dict[str, Any]:
    """A container's state."""
    value: dict[str, Any] = json.loads(tool("oci", "state", ident).ok().out)
    return value


def command(bundle: Path, *args: str, **process: Any) -> Path:
    """The bundle with another command in its config.json, and other fields of its process."""
    found = config(bundle)
    found["process"] |= {"args": list(args), **process}
    (bundle / "config.json").write_text(json.dumps(found))
    return bundle


def wait_for(what: Callable[[], bool], seconds: float = 20) -> None:
    """Look until something is the case."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for yet counts."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state in "ZX"


def leftovers(tool: world.Tool) -> list[str]:
    """What in storage is of a process at work."""
    return sorted(os.listdir(tool.storage / "tmp"))
