"""Bundles and containers for tests: an image in storage, and what is left of them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

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


def make_images(tool: world.Tool, layout: world.BaseImage, directory: Path) -> None:
    """``base``, a busybox, and ``app``, which says all that a config can."""
    tool("import", layout.tree, "base").ok()
    (directory / "Dockerfile").write_text(DOCKERFILE)
    tool("build", "-t", "app", directory).ok()


def config(bundle: Path) -> dict[str, Any]:
    """A bundle's config.json."""
    value: dict[str, Any] = json.loads((bundle / "config.json").read_text())
    return value


def mounted(tool: world.Tool) -> list[dict[str, Any]]:
    """What ``oci list`` says of bundles."""
    value: list[dict[str, Any]] = json.loads(tool("oci", "list", "--format", "json").ok().out)
    return value


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
