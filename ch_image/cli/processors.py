"""How many processors this process may keep busy: affinity, and the quota of its cgroup."""

from __future__ import annotations

import math
import os

_MOUNT = "/sys/fs/cgroup"


def processors(own: str = "/proc/self/cgroup", mount: str = _MOUNT) -> int:
    """At least 1. What cannot be read does not limit; cgroup v2 and v1 (cgroups(7))."""
    allowed = len(os.sched_getaffinity(0))
    shares = [_share(directory) for directory in _groups(own, mount)]
    return max(1, min([allowed, *(math.ceil(share) for share in shares if share)]))


def _groups(own: str, mount: str) -> list[str]:
    """The directories of the cgroup with the CPU controller, and of those above it."""
    out = []
    for line in _read(own).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = f"{mount}/{controllers}" if controllers else mount
        parts = [part for part in path.split("/") if part and part != ".."]
        # In a container the path may not be there; the group is then mounted at the top.
        out += ["/".join([top, *parts[:n]]) for n in range(len(parts) + 1)]
    return out


def _share(directory: str) -> float:
    """Processors that a group may use on the whole; 0: no limit."""
    quota, _, period = _read(f"{directory}/cpu.max").partition(" ")
    if not quota:
        quota = _read(f"{directory}/cpu.cfs_quota_us")
        period = _read(f"{directory}/cpu.cfs_period_us")
    try:
        share = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # "max", or no such file
        return 0.0
    return max(0.0, share)


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(4096).strip()
    except OSError:
        return ""
