"""Changing what a container may use, as far as its user can.

Limits of processes (prlimit(2)) and the OOM score are every user's. Memory, processor time and
numbers of processes are a cgroup's (cgroup v2); they can be changed where the container is in one
of its own that was delegated to the user, and otherwise it is said that they cannot.
"""

from __future__ import annotations

import os

from ch_image.errors import ChError, printable
from ch_image.sandbox import syscalls as kernel
from ch_image.typed import Any

_PERIOD = 100_000  # microseconds, the kernel's default


def set_limit(pids: list[int], number: int, soft: int, hard: int) -> None:
    """Set a resource limit of processes. Raises ChError when the kernel refuses."""
    new = soft.to_bytes(8, "little") + hard.to_bytes(8, "little")
    for pid in pids:
        try:
            kernel.prlimit(pid, number, new, None)
        except ProcessLookupError:
            continue
        except OSError as error:
            raise ChError(
                f"cannot set the limit: {error.strerror}",
                hint="a limit that was lowered (its hard value) is not raised again but by root",
            ) from None


def set_oom_score(pids: list[int], adjustment: int) -> None:
    """Set how likely the kernel ends processes when memory runs out. Raises ChError."""
    for pid in pids:
        try:
            kernel.write_file(f"/proc/{pid}/oom_score_adj", str(adjustment))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ChError(
                f"cannot set the OOM score to {adjustment}: {error.strerror}",
                hint="an ordinary user can raise it only",
            ) from None


def settings(resources: dict[str, Any]) -> dict[str, str]:
    """What the ``resources`` of config.json are in files of a cgroup: name -> content.

    Raises ChError for what has no place there.
    """
    out: dict[str, str] = {}
    for part, value in resources.items():
        if not isinstance(value, dict):
            raise ChError(f"{printable(part, 60)}: is not an object")
        if part == "unified":
            out |= {_file_name(name): str(text) for name, text in value.items()}
        elif part in _PARTS:
            for name in value:
                if (part, name) not in NAMES:
                    raise _cannot(f"{part}.{name}")
            out |= _PARTS[part](value)
        else:
            raise _cannot(part)
    return out


def _cannot(name: str) -> ChError:
    return ChError(f"{printable(name, 100)} cannot be changed: it has no place in cgroup v2")


def _file_name(name: str) -> str:
    if "/" in name or "." not in name or name.startswith("cgroup."):
        raise ChError(f"unified: '{printable(name, 60)}' is no setting")
    return name


def _amount(value: Any, where: str) -> str:
    """A number, or "max" for one below zero. Raises ChError."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ChError(f"{where}: is not a number")
    return str(value) if value >= 0 else "max"


def _memory(value: dict[str, Any]) -> dict[str, str]:
    out = {}
    for name, file in (("limit", "memory.max"), ("reservation", "memory.low")):
        if name in value:
            out[file] = _amount(value[name], f"memory.{name}")
    if "swap" in value:  # there memory and swap together, here swap alone
        swap, limit = (_amount(value.get(name, -1), f"memory.{name}") for name in ("swap", "limit"))
        known = swap != "max" and limit != "max"
        out["memory.swap.max"] = str(max(0, int(swap) - int(limit))) if known else swap
    return out


def _cpu(value: dict[str, Any]) -> dict[str, str]:
    out = {}
    if "shares" in value:  # 2..262144 there, 1..10000 here
        shares = int(_amount(value["shares"], "cpu.shares").replace("max", "0"))
        out["cpu.weight"] = str(max(1, min(10_000, 1 + (shares - 2) * 9999 // 262_142)))
    if "quota" in value or "period" in value:
        quota = _amount(value.get("quota", -1), "cpu.quota")
        out["cpu.max"] = f"{quota} {_amount(value.get('period', _PERIOD), 'cpu.period')}"
    for name, file in (("cpus", "cpuset.cpus"), ("mems", "cpuset.mems")):
        if name in value:
            out[file] = str(value[name])
    return out


def _pids(value: dict[str, Any]) -> dict[str, str]:
    limit = value.get("limit", 0)  # zero is no limit there
    return {"pids.max": _amount(limit, "pids.limit") if limit else "max"}


_PARTS = {"memory": _memory, "cpu": _cpu, "pids": _pids}
NAMES = {
    ("memory", "limit"), ("memory", "reservation"), ("memory", "swap"), ("cpu", "shares"),
    ("cpu", "quota"), ("cpu", "period"), ("cpu", "cpus"), ("cpu", "mems"), ("pids", "limit"),
}  # fmt: skip


def hierarchy() -> str:
    """Where cgroup v2 is mounted; empty when it is not. Beside v1, it is one directory deeper."""
    with open("/proc/self/mountinfo") as file:
        for line in file:
            fields, _, rest = line.partition(" - ")
            if rest.startswith("cgroup2 ") and fields.split()[3] == "/":
                return fields.split()[4]
    return ""


def group_of(pid: int | str, root: str | None = None) -> str:
    """The directory of a process's cgroup; empty when it has none that can be seen."""
    root = hierarchy() if root is None else root
    try:
        with open(f"/proc/{pid}/cgroup") as file:
            found = [line.rstrip("\n")[3:] for line in file if line.startswith("0::")]
    except OSError:
        found = []
    return f"{root}{found[0]}".rstrip("/") if root and found else ""


def own_cgroup(pids: list[int], root: str | None = None) -> str:
    """The directory of the cgroup that holds these processes and no others, if we may change it.

    Raises ChError when there is none.
    """
    hint = "have the container started in a cgroup that is delegated to you, such as a systemd unit"
    path = group_of(pids[0], root)
    try:
        with open(f"{path}/cgroup.procs") as file:
            members = {int(line) for line in file}
    except OSError:
        path, members = "", set()
    if not path or not os.access(f"{path}/cgroup.procs", os.W_OK) or not members <= set(pids):
        raise ChError("the container has no cgroup of its own", hint=hint)
    return path


def apply(directory: str, wanted: dict[str, str]) -> None:
    """Write settings to a cgroup. Raises ChError that names the one that is refused."""
    for name, content in wanted.items():
        try:
            kernel.write_file(f"{directory}/{name}", content)
        except OSError as error:
            raise ChError(f"cannot set {name} to {content}: {error.strerror}") from None
