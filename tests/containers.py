"""Containers of one Python script each, without a build around them.

The root is a small tree with the host's /usr in it, read-only, so that scripts have Python with
ctypes; what lies beside the root must stay untouched.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import world

from ch_image.sandbox import records
from ch_image.sandbox.launcher import Launcher, Result
from ch_image.sandbox.mounts import Bind, Dev, Proc
from ch_image.sandbox.plan import Identity, Plan

PYTHON = "/usr/bin/python3"
PRELUDE = """
import ctypes, os, signal, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
"""


def make_root(path: Path) -> Path:
    """A root directory at `path`; scripts run in its /work."""
    if not Path(PYTHON).exists():
        world.lacking("Debian's python3 is not installed")
    for name in ("usr", "proc", "dev", "sys", "work", "etc"):
        (path / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        (path / name).symlink_to(f"usr/{name}")
    return path


def plan_of(root: Path, script: str) -> Plan:
    """The container of a script."""
    plan = Plan(str(root), [PYTHON, "-Ic", PRELUDE + script])
    plan.operations = [Bind(path, path, readonly=True) for path in ("/usr", "/sys")]
    plan.operations += [Proc(), Dev()]
    plan.cwd = "/work"
    plan.env = {"PATH": "/usr/bin"}
    plan.identity = Identity(0, 0, (0,))
    return plan


def run(root: Path, script: str, seconds: float = 60) -> Result:
    """The script's result, in a container of its own; it must end in time."""

    def work() -> dict[str, Any]:
        launcher = Launcher()
        null = os.open("/dev/null", os.O_RDWR)
        signal.alarm(int(seconds))  # a hang ends the test
        started = launcher.launch(plan_of(root, script), null, 2, 2)
        result = started.wait()
        launcher.close()
        return vars(result)

    out = Result()
    vars(out).update(world.in_namespace(work))
    return out


def owner(path: Path) -> tuple[int, int]:
    """The owner that is recorded on a file of a tree."""
    return records.owner_of(str(path))[:2]
