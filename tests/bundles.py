"""OCI bundles of busybox, and ch-run-oci as an engine calls it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import world

NAMESPACES = ("pid", "ipc", "uts", "mount", "user")
MOUNTS = [
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
    {
        "destination": "/dev/pts",
        "type": "devpts",
        "source": "devpts",
        "options": ["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    },
]


def config(*args: str, **more: Any) -> dict[str, Any]:
    """A config.json that runs `args`; `more` replaces parts of it, or of process, or of linux."""
    out: dict[str, Any] = {
        "ociVersion": "1.0.2",
        "process": {
            "args": list(args),
            "cwd": "/",
            "env": ["PATH=/bin"],
            "user": {"uid": 0, "gid": 0},
            "capabilities": {
                name: ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID"]
                for name in ("bounding", "effective", "permitted")
            },
        },
        "root": {"path": "rootfs"},
        "hostname": "boxed",
        "mounts": [*MOUNTS],
        "linux": {"namespaces": [{"type": kind} for kind in NAMESPACES]},
    }
    for name, value in more.items():
        if name in ("process", "linux"):
            out[name] |= value
        else:
            out[name] = value
    return out


class Runtime:
    """`ch-run-oci` over a state directory and one bundle that can be written anew."""

    def __init__(self, directory: Path, tree: Path) -> None:
        self.bundle = directory / "bundle"
        self.bundle.mkdir(parents=True)
        subprocess.run(["cp", "-a", str(tree), str(self.bundle / "rootfs")], check=True)
        self.states = directory / "states"
        self.tool = world.Tool(directory / "storage", directory)
        self.output = directory / "output"

    def write(self, *args: str, **more: Any) -> None:
        """Put a config.json into the bundle."""
        (self.bundle / "config.json").write_text(json.dumps(config(*args, **more)))

    def __call__(self, *args: object, **options: Any) -> world.Done:
        """`ch-run-oci ARGS`, to its end."""
        return self.tool.run("ch-run-oci", "--root", self.states, *args, **options)

    def create(self, ident: str, *options: object, **env: str) -> world.Done:
        """`create`: what the container writes goes to `output`, for it outlives the command."""
        words = ("--root", self.states, "create", "--bundle", self.bundle, *options, ident)
        with self.output.open("wb") as output, Path(f"{self.output}.err").open("w+") as errors:
            code = subprocess.call(
                self.tool.argv("ch-run-oci", *words),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env=self.tool.environment(**env),
            )
            errors.seek(0)
            return world.Done(code, "", errors.read())

    def run(self, ident: str = "c", **options: Any) -> world.Done:
        """`run`."""
        return self("run", "--bundle", self.bundle, ident, **options)

    def status(self, ident: str = "c") -> str:
        """What `state` says."""
        found: str = json.loads(self("state", ident).ok().out)["status"]
        return found

    def stops(self, ident: str = "c") -> None:
        """Wait until the container has ended."""
        deadline = time.monotonic() + 60
        while self.status(ident) != "stopped":
            assert time.monotonic() < deadline, "the container goes on and on"
            time.sleep(0.02)

    def leftovers(self) -> list[str]:
        """What is left in the state directory, and processes whose command line names it.

        One that was killed a moment ago may still be on its way out.
        """
        end = time.monotonic() + 5
        while (found := self._left()) and time.monotonic() < end:
            time.sleep(0.02)
        return found

    def _left(self) -> list[str]:
        names = sorted(p.name for p in self.states.iterdir()) if self.states.exists() else []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    line = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                if str(self.states).encode() in line:
                    names.append(line.replace(b"\0", b" ").decode(errors="replace"))
        return names


def lasting(directory: Path, tree: Path) -> Iterator[Runtime]:
    """For a fixture: one bundle for many tests of containers that are called c; none is left."""
    made = Runtime(directory, tree)
    yield made
    made("delete", "--force", "c").ok()
    assert made.leftovers() == []
