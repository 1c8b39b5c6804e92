"""Emulated identities: who a process believes it is, though the kernel knows only one ID.

A process's identity is an index into a table, and the index is kept in the process itself: in the
bits of its ``/proc/PID/coredump_filter`` (core(5)). The kernel hands these on over fork, clone and
exec and through any reparenting, so nothing needs to be told about processes coming and going, and
no PID is ever remembered. Their only other meaning is which memory a core dump would hold.
"""

from __future__ import annotations

import os

from ch_image.sandbox import memory, procfs

EPERM, EINVAL = 1, 22
UNSET = 0xFFFFFFFF  # (uid_t) -1
_LIMIT = 512  # nine bits

Four = tuple[int, int, int, int]  # real, effective, saved, file system


class Ids:
    """A full set of IDs; immutable, compared by value.

    ``keep`` is PR_SET_KEEPCAPS; ``kept`` that capabilities were kept by it, until the next exec.
    """

    __slots__ = ("gids", "groups", "keep", "kept", "uids")

    def __init__(
        self,
        uids: Four,
        gids: Four,
        groups: tuple[int, ...],
        keep: bool = False,
        kept: bool = False,
    ) -> None:
        self.uids, self.gids, self.groups, self.keep, self.kept = uids, gids, groups, keep, kept

    def key(self) -> tuple[Four, Four, tuple[int, ...], bool, bool]:
        """What makes two of them equal."""
        return self.uids, self.gids, self.groups, self.keep, self.kept

    def with_groups(self, groups: tuple[int, ...]) -> Ids:
        """setgroups(2)."""
        return Ids(self.uids, self.gids, groups, self.keep, self.kept)

    def with_keep(self, keep: bool) -> Ids:
        """prctl(2), PR_SET_KEEPCAPS."""
        return Ids(self.uids, self.gids, self.groups, keep, self.kept)

    def with_uids(self, uids: Four) -> Ids:
        """Other user IDs; capabilities go with the last 0 among them (capabilities(7))."""
        had = 0 in self.uids[:3] or self.kept
        kept = had and 0 not in uids[:3] and (self.keep or self.kept)
        return Ids(uids, self.gids, self.groups, self.keep, kept)

    def with_gids(self, gids: Four) -> Ids:
        """Other group IDs."""
        return Ids(self.uids, gids, self.groups, self.keep, self.kept)

    def after_exec(self, uids: Four, gids: Four) -> Ids:
        """What execve(2) leaves."""
        return Ids(uids, gids, self.groups)

    @property
    def is_root(self) -> bool:
        """Whether files this process makes belong to 0:0."""
        return self.uids[3] == 0 and self.gids[3] == 0

    @property
    def is_all_root(self) -> bool:
        """Whether it never was anybody else, as far as can be seen."""
        return self.uids == self.gids == (0, 0, 0, 0)

    @property
    def privileged(self) -> bool:
        """Whether it may take any identity (CAP_SETUID and CAP_SETGID, as root has them)."""
        return self.uids[1] == 0 or self.kept


def ids_of(uid: int, gid: int, groups: tuple[int, ...]) -> Ids:
    """The IDs of a process that was started as this user; groups in the kernel's order."""
    return Ids((uid, uid, uid, uid), (gid, gid, gid, gid), tuple(sorted(groups or (gid,))))


class Identities:
    """The table, and which process has which entry."""

    def __init__(self, first: Ids) -> None:
        self._default = _read_filter("self")
        self._by_index = {self._default: first}
        self._index = {first.key(): self._default}
        self._free = [n for n in range(_LIMIT) if n != self._default]
        self._lent: dict[int, tuple[int, int]] = {}  # parent -> (its child after vfork, index)

    def of(self, pid: int) -> Ids:
        """The identity of ``pid``; while nobody changed it, that costs nothing."""
        if len(self._by_index) == 1:
            return self._by_index[self._default]
        if self._lent:
            self._give_back()
        return self._by_index.get(_read_filter(str(pid)), self._by_index[self._default])

    @property
    def alone(self) -> bool:
        """Whether nobody but the first has been seen yet."""
        return len(self._by_index) == 1

    def only_root(self) -> bool:
        """Whether nobody but root has been seen yet."""
        return self.alone and self._by_index[self._default].is_root

    def change(self, pid: int, new: Ids) -> bool:
        """Give ``pid`` an identity; False when it cannot be marked (then it keeps the old)."""
        index = self.index_for(new)
        if index is None:
            return False
        self._lend(pid)
        return _write_filter(pid, index)

    def index_for(self, new: Ids) -> int | None:
        """The mark of an identity, for who marks itself; None when there are too many."""
        index = self._index.get(new.key())
        if index is None and self._free:
            index = self._free.pop()
            self._index[new.key()] = index
            self._by_index[index] = new
        return index

    def _lend(self, pid: int) -> None:
        """The child of a vfork has its parent's memory, and so its mark, until it execs."""
        parent = procfs.parent_of(pid)
        if parent > 1 and parent not in self._lent and memory.same(pid, parent):
            self._lent[parent] = pid, _read_filter(str(parent))

    def _give_back(self) -> None:
        """The parent of a vfork goes on as who it was; it sleeps until the child has gone."""
        for parent, (child, index) in list(self._lent.items()):
            if not memory.same(child, parent):
                del self._lent[parent]
                _write_filter(str(parent), index)


def _read_filter(pid: str) -> int:
    # Relative to /proc, the supervisor's working directory.
    try:
        fd = os.open(f"{pid}/coredump_filter", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # gone, undumpable, or a kernel without core dumps
        return -1
    try:
        return int(os.read(fd, 32) or b"0", 16)
    finally:
        os.close(fd)


def _write_filter(pid: int | str, value: int) -> bool:
    try:
        fd = os.open(f"{pid}/coredump_filter", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(fd, b"%#x" % value)
    finally:
        os.close(fd)
    return True


def _set(four: Four, privileged: bool, wanted: int) -> Four | None:
    """setuid(2)."""
    if privileged:
        return (wanted,) * 4
    if wanted in (four[0], four[2]):
        return (four[0], wanted, four[2], wanted)
    return None


def _set_re(four: Four, privileged: bool, real: int, effective: int) -> Four | None:
    """setreuid(2)."""
    if not privileged and (
        real not in (UNSET, four[0], four[1]) or effective not in (UNSET, *four[:3])
    ):
        return None
    new_real = four[0] if real == UNSET else real
    new_effective = four[1] if effective == UNSET else effective
    saved = four[2]
    if real != UNSET or (effective != UNSET and effective != four[0]):
        saved = new_effective
    return (new_real, new_effective, saved, new_effective)


def _set_res(four: Four, privileged: bool, wanted: list[int]) -> Four | None:
    """setresuid(2)."""
    if not privileged and any(w not in (UNSET, *four[:3]) for w in wanted):
        return None
    r, e, s = (old if new == UNSET else new for old, new in zip(four[:3], wanted, strict=True))
    return (r, e, s, e)


def apply_set(name: str, ids: Ids, args: list[int]) -> Ids | int:
    """The IDs after a set*id call, or the errno it fails with. ``setfs*`` never fail."""
    user = "uid" in name
    four = ids.uids if user else ids.gids
    if name in ("setuid", "setgid"):
        new = _set(four, ids.privileged, args[0])
    elif name in ("setreuid", "setregid"):
        new = _set_re(four, ids.privileged, args[0], args[1])
    elif name in ("setresuid", "setresgid"):
        new = _set_res(four, ids.privileged, args[:3])
    else:  # setfsuid, setfsgid
        allowed = ids.privileged or args[0] in four
        new = (*four[:3], args[0]) if allowed and args[0] != UNSET else four
    if new is None:
        return EPERM
    if UNSET in new:
        return EINVAL
    return ids.with_uids(new) if user else ids.with_gids(new)
