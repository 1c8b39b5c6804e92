"""The cgroup (v2) of a container, where its user may make one.

A user may where an administrator or systemd has delegated a cgroup: its directory and cgroup.procs
are theirs then (cgroups(7), "Delegation"). ``linux.cgroupsPath`` says where, seen from the
hierarchy's root; a path that is not absolute, or none, means beside the caller's own cgroup, or
below it if the one above is not the user's. Who may not gets no cgroup, and a warning if settings
were wanted.
"""

from __future__ import annotations

import os

from ch_image.errors import ChError, printable
from ch_image.oci import limits
from ch_image.sandbox import syscalls as kernel
from ch_image.typed import Any, NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ch_image.oci.config import Linux

    Warn = Callable[[str], None]


class Group(NamedTuple):
    """A container's cgroup: its directory, and those that were made for it, outermost first."""

    path: str = ""
    made: tuple[str, ...] = ()


def make(linux: Linux, ident: str, warn: Warn) -> Group:
    """The cgroup that config.json asks for, with its settings; none if it cannot be had."""
    wanted = _wanted(linux.resources or {})
    if not wanted and not linux.cgroups_path:
        return Group()
    place = _place(linux.cgroups_path, ident)
    made = _directories(place)
    if not place or not os.access(f"{place}/cgroup.procs", os.W_OK):
        remove(made)
        if wanted:
            names = printable(", ".join(wanted), 200)
            warn(f"linux.resources: no cgroup is delegated to this user; left out: {names}")
        return Group()
    _enable({name.partition(".")[0] for name in wanted}, os.path.dirname(place))
    for name, content in wanted.items():
        try:
            kernel.write_file(f"{place}/{name}", content)
        except OSError as error:
            absent = isinstance(error, FileNotFoundError)
            reason = "the cgroup has no such controller" if absent else error.strerror
            warn(f"linux.resources: {printable(name, 60)} is left out: {reason}")
    return Group(place, made)


def join(path: str, pid: int, warn: Warn) -> None:
    """Put a process into a cgroup; what it forks from then on is in it, too."""
    try:
        kernel.write_file(f"{path}/cgroup.procs", str(pid))
    except OSError as error:
        warn(f"cgroup {printable(path, 300)}: {error.strerror}; the process is not in it")


def remove(made: tuple[str, ...]) -> None:
    """Take away what was made, as far as nobody is in it."""
    for path in reversed(made):
        try:
            os.rmdir(path)
        except OSError:
            return


def _wanted(resources: dict[str, Any]) -> dict[str, str]:
    """The settings that a cgroup has; zero and the like mean that nothing is asked for."""
    kept = {}
    for part, value in resources.items():
        if part == "unified" or part in {known for known, _ in limits.NAMES}:
            kept[part] = value if not isinstance(value, dict) else {
                name: one for name, one in value.items()
                if one and (part == "unified" or (part, name) in limits.NAMES)
            }  # fmt: skip
    try:
        return limits.settings({part: value for part, value in kept.items() if value != {}})
    except ChError as error:
        raise ChError(f"linux.resources.{error}") from None


def _place(path: str, ident: str) -> str:
    """Where the cgroup shall be; empty when there is no cgroup v2."""
    own = limits.group_of("self")
    if not own:
        return ""
    if path.startswith("/"):
        root = limits.hierarchy()
        place = os.path.normpath(f"{root}/{path}")
        return place if place.startswith(f"{root}/") else ""
    above = os.path.dirname(own)
    base = above if _is_ours(above) else own
    # systemd's way of writing it is SLICE:PREFIX:NAME
    name = "-".join(filter(None, path.split(":")[1:])) if ":" in path else path
    place = os.path.normpath(f"{base}/{name or f'ch-run-oci-{ident}'}")
    return place if place.startswith(f"{base}/") else ""


def _is_ours(path: str) -> bool:
    return all(os.access(one, os.W_OK) for one in (path, f"{path}/cgroup.procs"))


def _directories(place: str) -> tuple[str, ...]:
    """Make the directory and those above it; which were made, as far as that went."""
    lacking = []
    while place and not os.path.isdir(place):
        lacking.append(place)
        place = os.path.dirname(place)
    made: list[str] = []
    for path in reversed(lacking):
        try:
            os.mkdir(path, 0o755)
        except OSError:
            break
        made.append(path)
    return tuple(made)


def _enable(controllers: set[str], parent: str) -> None:
    """Let the cgroups below ``parent`` have controllers, as far as those above have them."""
    root = limits.hierarchy()
    levels = [root]
    for name in filter(None, parent.removeprefix(root).split("/")):
        levels.append(f"{levels[-1]}/{name}")
    for level in levels:
        for controller in sorted(controllers):
            try:
                kernel.write_file(f"{level}/cgroup.subtree_control", f"+{controller}")
            except OSError:  # not ours, or processes are in it; what is missing will be told
                continue
