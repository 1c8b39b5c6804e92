"""A bench for whole Dockerfiles: contexts from a mapping, builds, and what came of them."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import listing
import world

Files = Mapping[str, "str | bytes"]


class Bench(NamedTuple):
    """One storage directory with the busybox base image; ``work`` is free for contexts."""

    tool: world.Tool
    base: str
    work: Path

    def context(self, dockerfile: str, files: Files | None = None, name: str = "context") -> Path:
        """A new directory of ``files`` and the Dockerfile; ``@BASE@`` is the base's name."""
        path = self.work / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        for file, content in {"Dockerfile": dockerfile, **(files or {})}.items():
            target = path / file
            target.parent.mkdir(parents=True, exist_ok=True)
            data = content.encode() if isinstance(content, str) else content
            target.write_bytes(data.replace(b"@BASE@", self.base.encode()))
        return path

    def build(
        self, dockerfile: str, files: Files | None = None, *options: object, **more: Any
    ) -> world.Done:
        """Build it as the image ``x`` with these options; ``more`` is for `world.Tool.run`."""
        return self.tool("build", "-t", "x", *options, self.context(dockerfile, files), **more)

    def tree(self, name: str = "x") -> dict[str, listing.Entry]:
        """What the image holds, by path, without what an export adds."""
        target = self.work / f"out{os.urandom(4).hex()}.tar"
        context = self.context(f"FROM {name}\n", name="empty")
        self.tool("build", "-q", "-o", f"type=tar,dest={target}", context).ok()
        data = target.read_bytes()
        target.unlink()
        return listing.listing(io.BytesIO(data))

    def config(self, name: str = "x") -> dict[str, Any]:
        """The image's config as OCI has it."""
        value: dict[str, Any] = json.loads(self.tool("inspect", name).ok().out)
        return value
