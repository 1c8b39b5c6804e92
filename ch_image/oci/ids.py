"""Which IDs a container gets: what config.json asks for, or what its user may have.

Someone who may set IDs (root, also of a user namespace with a range) maps what is asked for. An
ordinary user may map one user and one group, their own (user_namespaces(7)); more with the help of
newuidmap(1), where it is installed and /etc/subuid has a range. Else what can be had is one ID, and
root emulation stands in for the rest.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from ch_image.errors import SandboxError
from ch_image.oci.config import IdMapping, Spec, User
from ch_image.sandbox import power, userns
from ch_image.sandbox import syscalls as kernel
from ch_image.typed import NamedTuple

_SEARCH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


class Plan(NamedTuple):
    """``new``: a user namespace is made, and ``uids`` and ``gids`` are mapped in it."""

    new: bool
    uids: tuple[IdMapping, ...] = ()
    gids: tuple[IdMapping, ...] = ()
    alone: bool = False  # one user ID in all


def plan(spec: Spec) -> Plan:
    """What is asked for, before it is tried."""
    wanted = [one for one in spec.linux.namespaces if one.kind == "user"]
    if wanted and wanted[0].path:
        return Plan(False)
    if not wanted and power.may(power.CAP_SYS_ADMIN):
        return Plan(False, alone=_is_alone())
    return Plan(True, spec.linux.uid_mappings, spec.linux.gid_mappings)


def write_maps(pid: int, asked: Plan, user: User, emulate: bool | None, warn: Callable[[str], None]
               ) -> Plan:  # fmt: skip
    """Map IDs for the user namespace of ``pid``, a child; what was got. Raises SandboxError."""
    if asked.uids and asked.gids:
        if power.may(power.CAP_SETUID) and power.may(power.CAP_SETGID):
            _write(pid, asked)
            return asked._replace(alone=sum(one.size for one in asked.uids) == 1)
        if _is_own(asked):
            _write(pid, asked, deny=True)
            return asked._replace(alone=True)
        if _by_helpers(pid, asked):
            return asked
        warn("the ID mappings of config.json are not allowed to you: one ID is mapped")
    # With emulation everything is root's, and who is whom is a matter of the supervisor's.
    inner = (user.uid, user.gid) if emulate is False else (0, 0)
    got = Plan(
        True,
        (IdMapping(inner[0], os.geteuid(), 1),),
        (IdMapping(inner[1], os.getegid(), 1),),
        alone=True,
    )
    _write(pid, got, deny=True)
    return got


def _is_alone() -> bool:
    with open("/proc/self/uid_map") as file:
        return sum(int(line.split()[2]) for line in file) == 1


def _is_own(asked: Plan) -> bool:
    """Whether the mappings are one each, of the caller's own IDs."""
    pairs = ((asked.uids, os.geteuid()), (asked.gids, os.getegid()))
    return all(len(maps) == 1 and maps[0][1:] == (own, 1) for maps, own in pairs)


def _write(pid: int, got: Plan, *, deny: bool = False) -> None:
    try:
        if deny:
            kernel.write_file(f"/proc/{pid}/setgroups", "deny")
        for name, maps in (("uid_map", got.uids), ("gid_map", got.gids)):
            kernel.write_file(f"/proc/{pid}/{name}", "\n".join(_words(one) for one in maps))
    except OSError as error:
        raise SandboxError(
            f"the IDs of the container cannot be mapped: {error.strerror}",
            hint=userns.reason(error.errno),
        ) from None


def _words(one: IdMapping) -> str:
    return f"{one.inner} {one.outer} {one.size}"


def _by_helpers(pid: int, asked: Plan) -> bool:
    """Map with newuidmap and newgidmap; False where they are missing or refuse."""
    import shutil

    for name, maps in (("newuidmap", asked.uids), ("newgidmap", asked.gids)):
        program = shutil.which(name, path=_SEARCH)
        if not program:
            return False
        words = [word for one in maps for word in _words(one).split()]
        null = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in (0, 1, 2)]
        child = os.posix_spawn(program, [name, str(pid), *words], {}, file_actions=null)
        if os.waitpid(child, 0)[1]:
            return False
    return True
