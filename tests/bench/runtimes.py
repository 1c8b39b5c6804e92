"""Times ch-run-oci beside crun and runc, where they are installed; interleaved, in milliseconds.

    python tests/bench/runtimes.py [ROUNDS]
    unshare -Urm python tests/bench/runtimes.py [ROUNDS]    # crun and runc need to be uid 0

The bundle is a busybox that runs true. "run" is one command; "steps" are create, start, state and
delete, as an engine calls them, with the container's end waited for in between.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import bundles
import world

OTHERS = {"crun": ["--cgroup-manager=disabled"], "runc": ["--rootless=true"]}


class Runner:
    """One runtime, over a state directory of its own."""

    def __init__(self, argv: list[str], states: Path, bundle: Path) -> None:
        self._argv, self._bundle = [*argv, "--root", str(states)], bundle

    def __call__(self, *words: str) -> str:
        done = subprocess.run([*self._argv, *words], stdin=subprocess.DEVNULL, check=True,
                              stdout=subprocess.PIPE, text=True, cwd=self._bundle)  # fmt: skip
        return done.stdout

    def run(self) -> None:
        """One command."""
        self("run", "c")

    def steps(self) -> None:
        """Four commands."""
        words = [*self._argv, "create", "c"]
        null = subprocess.DEVNULL
        subprocess.run(words, stdin=null, stdout=null, check=True, cwd=self._bundle)
        self("start", "c")
        while json.loads(self("state", "c"))["status"] != "stopped":
            pass
        self("delete", "c")


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        own = bundles.Runtime(top / "own", world.make_base_image(top / "base").tree)
        mounts = [m | {"options": [o for o in m.get("options", ()) if o != "gid=5"]}
                  for m in bundles.MOUNTS]  # fmt: skip
        maps = [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]
        linux = {"uidMappings": maps, "gidMappings": [maps[0] | {"hostID": os.getegid()}]}
        own.write("true", mounts=mounts, linux=linux)
        ours = str(Path(sys.executable).parent / "ch-run-oci")
        runners = {"ch-run-oci": Runner([ours], top / "s", own.bundle)}
        for other, options in OTHERS.items():
            program = shutil.which(other)
            if program and os.geteuid() == 0:
                runners[other] = Runner([program, *options], top / other, own.bundle)
        report(runners, rounds)


def report(runners: dict[str, Runner], rounds: int) -> None:
    """A line for each runtime and work: least and median."""
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for name, runner in runners.items():
            for what in ("run", "steps"):
                begin = time.perf_counter()
                getattr(runner, what)()
                times.setdefault((what, name), []).append(time.perf_counter() - begin)
    for (what, name), found in sorted(times.items()):
        least, middle = min(found) * 1000, statistics.median(found) * 1000
        print(f"{what:6} {name:11} {least:6.1f} {middle:6.1f}")


if __name__ == "__main__":
    main()
