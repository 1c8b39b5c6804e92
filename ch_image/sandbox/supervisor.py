"""Answers the calls that one mapped ID cannot make (seccomp_unotify(2)).

The supervisor runs in the container, as root of the same mounts, and without the filter. It never
acts outside: paths of a process are resolved from that process's own root and directories, which
are the container's. A process that changes its arguments meanwhile deceives only itself.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from ch_image.sandbox import attributes, procfs, records, view
from ch_image.sandbox.caller import AT_FDCWD, Call
from ch_image.sandbox.creation import CONTINUE, CREATING, DONE, Reply, create, link
from ch_image.sandbox.identity import UNSET, Identities, Ids, apply_set
from ch_image.sandbox.ledger import Ledger
from ch_image.sandbox.mounting import Mounting
from ch_image.sandbox.privileges import bind, limit
from ch_image.sandbox.procfs import of_fd
from ch_image.sandbox.readers import Readers
from ch_image.sandbox.seccomp import MARKED, names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Answer = Callable[["Supervisor", Call], Reply]

# SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (Linux 6.6) is not set: supervisor and caller would go on where
# the other was, and may wait there for milliseconds behind others while a processor is idle.
_RECV, _SEND = 0xC0502100, 0xC0182101
_SOL_SOCKET = 1
_AT_EMPTY_PATH = 0x1000
_AT_SYMLINK_NOFOLLOW = 0x100
_NOTIFICATION = struct.Struct("<QIIiIQ6Q")
_BLANK = bytes(_NOTIFICATION.size)
_RESPONSE = struct.Struct("<QqiI")


class Supervisor:
    """Serves the listeners of one container.

    ``owners`` are those of symlinks, FIFOs and sockets in the layers below; ``furnished`` the paths
    of the container's own mounts. Its working directory becomes /proc.
    """

    def __init__(
        self,
        first: Ids,
        owners: list[tuple[str, int, int]] | None = None,
        furnished: frozenset[str] = frozenset(),
    ) -> None:
        procfs.enter()
        self.identities = Identities(first)
        self.ledger = Ledger()
        self.ledger.know(owners or [])
        self.count = 0  # notifications answered
        self._request = bytearray(_NOTIFICATION.size)
        self._mounting = Mounting(furnished)
        self._readers = Readers()
        self._answers = answers()
        self._first = _who(first)

    def serve(self, listener: int) -> bool:
        """Answer one waiting call; False when none is left to come."""
        request = self._request
        request[:] = _BLANK
        try:
            fcntl.ioctl(listener, _RECV, request)
        except OSError as error:
            return error.errno in (errno.ENOENT, errno.EINTR)  # the caller died meanwhile
        notification = _NOTIFICATION.unpack(request)
        id_, pid, _, nr, arch = notification[:5]
        key = arch, nr
        self.count += 1
        flags = 0
        if key in self._first and self.identities.alone:
            value = self._first[key]
        else:
            name, narrow, answer = self._answers[key]
            call = Call(listener, id_, pid, name, narrow, notification[6:], self._mounting.plain)
            try:
                value, flags = answer(self, call)
            except OSError as error:
                value = -(error.errno or errno.EIO)
        if flags >= 0:
            error_ = value if value < 0 else 0
            reply = _RESPONSE.pack(id_, max(value, 0), error_, flags)
            try:
                fcntl.ioctl(listener, _SEND, reply)
            except OSError:  # ENOENT: it was killed while we worked
                pass
        return True

    def _create(self, call: Call) -> Reply:
        return create(call, self.identities.of(call.pid), self.ledger)

    def _limit(self, call: Call) -> Reply:
        self._readers.asks_for_limit(call.pid)
        if call.name == "prlimit64" and not call.args[2]:  # the usual case
            return CONTINUE
        return limit(call, self.identities.of(call.pid))

    def _keep(self, call: Call) -> Reply:
        """PR_SET_KEEPCAPS."""
        ids = self.identities.of(call.pid)
        self.identities.change(call.pid, ids.with_keep(bool(call.args[1])))
        return CONTINUE

    def _ring(self, call: Call) -> Reply:
        """Files made through a ring would be root's; programs do without (Docker refuses it)."""
        return CONTINUE if self.identities.of(call.pid).is_root else (-errno.EPERM, 0)

    # -- who a process is --

    def _get(self, call: Call) -> Reply:
        ids = self.identities.of(call.pid)
        name = call.name
        if name in ("getuid", "geteuid"):
            return ids.uids[name == "geteuid"], 0
        if name in ("getgid", "getegid"):
            return ids.gids[name == "getegid"], 0
        layout = "<H" if call.narrow else "<I"
        if name == "getgroups":
            room = call.args[0] & 0xFFFFFFFF
            if room == 0:
                return len(ids.groups), 0
            if room < len(ids.groups):
                return -errno.EINVAL, 0
            data = b"".join(struct.pack(layout, g) for g in ids.groups)
            if data:
                call.poke(call.args[1], data)
            return len(ids.groups), 0
        four = ids.uids if name == "getresuid" else ids.gids
        for address, value in zip(call.args[:3], four[:3], strict=True):
            call.poke(address, struct.pack(layout, value))
        return DONE

    def _set(self, call: Call) -> Reply:
        ids = self.identities.of(call.pid)
        if call.name == "setgroups":
            return self._setgroups(call, ids)
        new = apply_set(call.name, ids, call.ids(0, 3))
        if call.name in ("setfsuid", "setfsgid"):
            old = (ids.uids if call.name == "setfsuid" else ids.gids)[3]
            if isinstance(new, Ids):
                self.identities.change(call.pid, new)
            return old, 0
        if isinstance(new, int):
            return -new, 0
        if new.key() != ids.key() and not self.identities.change(call.pid, new):
            return -errno.EAGAIN, 0
        return DONE

    def _setgroups(self, call: Call, ids: Ids) -> Reply:
        if not ids.privileged:
            return -errno.EPERM, 0
        count = call.args[0] & 0xFFFFFFFF
        if count > 65536:
            return -errno.EINVAL, 0
        width = 2 if call.narrow else 4
        data = call.peek(call.args[1], count * width)
        if len(data) < count * width:
            return -errno.EFAULT, 0
        groups = struct.unpack(f"<{count}{'H' if call.narrow else 'I'}", data)
        self.identities.change(call.pid, ids.with_groups(tuple(sorted(groups))))
        return DONE

    def _peer(self, call: Call) -> Reply:
        """SO_PEERCRED (unix(7)): who the other end of a socket believes to be."""
        _, level, _, value, length = call.args[:5]
        if level != _SOL_SOCKET or self.identities.only_root():
            return CONTINUE
        try:
            pid, uid, _ = call.peer()
            ids = self.identities.of(pid)
            if uid or pid <= 0:  # from outside the container
                return CONTINUE
        except OSError:  # the kernel will say so itself
            return CONTINUE
        (room,) = struct.unpack("<I", call.peek(length, 4))
        data = struct.pack("<iII", pid, ids.uids[1], ids.gids[1])[:room]
        call.poke(value, data)
        call.poke(length, struct.pack("<I", len(data)))
        return DONE

    def _exec(self, call: Call) -> Reply:
        """A set-user-ID program gives its owner's identity, as the kernel would."""
        ids = self.identities.of(call.pid)
        at = call.name == "execveat"
        path = call.glimpse(call.args[1] if at else call.args[0])
        self._readers.exec(call, path, call.args[2 if at else 1], other=not ids.is_all_root)
        if not path or ids.is_root and not ids.keep:
            return CONTINUE
        fd = call.locate(call.args[0] if at else AT_FDCWD, path, True)
        try:
            status = os.stat(of_fd(fd))
            uid, gid, _ = records.owner_of(of_fd(fd))
        finally:
            os.close(fd)
        uids, gids = ids.uids, ids.gids
        if status.st_mode & 0o4000:
            uids = (uids[0], uid, uid, uid)
        if status.st_mode & 0o2010 == 0o2010:
            gids = (gids[0], gid, gid, gid)
        new = ids.after_exec(uids, gids)
        if new.key() != ids.key():
            self.identities.change(call.pid, new)
        return CONTINUE

    # -- whose a file is --

    def _chown(self, call: Call) -> Reply:
        args = call.args
        if self._changes_nothing(call):
            return CONTINUE
        if call.name == "fchown":
            where, first = call.descriptor(args[0]), 1
        elif call.name == "fchownat":
            flags, first = args[4], 2
            path = call.string(args[1])
            if not path and flags & _AT_EMPTY_PATH:
                where = call.descriptor(args[0])
            else:
                where = call.locate(args[0], path, not flags & _AT_SYMLINK_NOFOLLOW)
        else:
            first = 1
            where = call.locate(AT_FDCWD, call.string(args[0]), call.name == "chown")
        try:
            uid, gid = call.ids(first, 2)
            return self._give(where, uid, gid, self.identities.of(call.pid))
        finally:
            os.close(where)

    def _changes_nothing(self, call: Call) -> bool:
        """Whether it gives root a file that no record says is another's: the usual case."""
        args, first = call.args, 2 if call.name == "fchownat" else 1
        if any(i not in (0, UNSET) for i in call.ids(first, 2)):
            return False
        if not self.identities.of(call.pid).privileged:
            return False
        try:
            if call.name == "fchown":
                return not self._may_have_owner(call, args[0], b"", True)
            if call.name == "fchownat":
                path, follow = call.glimpse(args[1]), not args[4] & _AT_SYMLINK_NOFOLLOW
                return not self._may_have_owner(call, args[0], path, follow)
            path, follow = call.glimpse(args[0]), call.name == "chown"
            return not self._may_have_owner(call, AT_FDCWD, path, follow)
        except OSError:
            return False

    def _give(self, fd: int, uid: int, gid: int, ids: Ids) -> Reply:
        """What chown(2) does: the owner by a record, its side effects by the kernel."""
        status = os.fstat(fd)
        old_uid, old_gid, kind = self.ledger.owner(fd, status)
        new_uid = old_uid if uid == UNSET else uid
        new_gid = old_gid if gid == UNSET else gid
        if not ids.privileged:
            mine = old_uid == ids.uids[3]
            groups = (*ids.groups, ids.gids[3], old_gid)
            if not mine or new_uid != old_uid or new_gid not in groups:
                return -errno.EPERM, 0
        if (uid, gid) == (UNSET, UNSET) or (old_uid, old_gid, new_uid, new_gid) == (0, 0, 0, 0):
            return CONTINUE
        # The real call clears set-ID bits and capabilities as it should, and copies up.
        os.chown(of_fd(fd), 0, 0)
        self.ledger.give(fd, os.fstat(fd), new_uid, new_gid, kind)
        return DONE

    def _stat(self, call: Call) -> Reply:
        """What was recorded for a file is what ls -l, tar and stat(1) see."""
        name, args = call.name, call.args
        self._readers.started(call.pid)
        if name in ("stat", "lstat"):
            base, address, buffer, follow = AT_FDCWD, args[0], args[1], name == "stat"
        elif name == "fstat":
            base, address, buffer, follow = args[0], 0, args[1], True
        else:
            base, address, buffer = args[0], args[1], args[4 if name == "statx" else 2]
            follow = not args[2 if name == "statx" else 3] & _AT_SYMLINK_NOFOLLOW
        try:
            path = call.glimpse(address) if address else b""
            if not path and base & 0xFFFFFFFF == AT_FDCWD:
                return CONTINUE
            if not self._may_have_owner(call, base, path, follow):
                return CONTINUE
            fd = call.locate(base, path, follow) if path else call.descriptor(base)
            try:
                owner = self.ledger.owner(fd, os.fstat(fd))
                if owner == (0, 0, ""):
                    return CONTINUE
                if name == "statx":
                    data = view.statx(fd, args[2], args[3], owner)
                else:
                    data = view.stat(fd, owner)
            finally:
                os.close(fd)
            call.poke(buffer, data)
        except OSError:  # the kernel will say so itself
            return CONTINUE
        return DONE

    def _may_have_owner(self, call: Call, base: int, path: bytes, follow: bool) -> bool:
        """Whether a closer look is needed; for most files one look at an attribute tells."""
        if not call.plain:
            return True
        where = call.place(base, path) if path else b"%d/fd/%d" % (call.pid, base & 0xFFFFFFFF)
        follow = follow or not path
        try:
            if self.ledger and self.ledger.has(os.stat(where, follow_symlinks=follow)):
                return True
            os.getxattr(where, records.ATTRIBUTE, follow_symlinks=follow)
        except OSError:
            return False
        return True


def _who(ids: Ids) -> dict[tuple[int, int], int]:
    """What the calls that ask for one ID return to who has these."""
    says = {"getuid": ids.uids[0], "geteuid": ids.uids[1]}
    says |= {"getgid": ids.gids[0], "getegid": ids.gids[1]}
    plain = {key: name.removesuffix("16") for key, name in names().items()}
    return {key: says[name] for key, name in plain.items() if name in says}


_ANSWERS: dict[tuple[int, int], tuple[str, bool, Answer]] = {}


def answers() -> dict[tuple[int, int], tuple[str, bool, Answer]]:
    """Who answers which call, by (audit architecture, number); its name, and if IDs are of 16 bits.

    Made once: a container server hands it on by fork.
    """
    if not _ANSWERS:
        table = _table()
        for key, name in names().items():
            plain = name.removesuffix("16")
            _ANSWERS[key] = plain, plain != name, table[plain]
    return _ANSWERS


def _table() -> dict[str, Answer]:
    """The same by the call's name, without the "16" of calls with 16-bit IDs."""
    one = Supervisor
    table: dict[str, Answer] = dict.fromkeys((*MARKED, "statx"), one._stat)
    table |= dict.fromkeys(CREATING, one._create)
    table |= dict.fromkeys(("chown", "lchown", "fchown", "fchownat"), one._chown)
    table |= dict.fromkeys(("execve", "execveat"), one._exec)
    table |= dict.fromkeys(("link", "linkat"), lambda self, call: link(call, self.ledger))
    table |= dict.fromkeys(
        ("setxattr", "lsetxattr", "fsetxattr"), lambda _, call: attributes.change(call)
    )
    table |= dict.fromkeys(Mounting.CALLS, lambda self, call: self._mounting.answer(call))
    table |= dict.fromkeys(
        ("listxattr", "llistxattr", "flistxattr"), lambda _, call: attributes.names(call)
    )
    table |= {"bind": lambda _, call: bind(call), "setrlimit": one._limit, "prlimit64": one._limit}
    table |= {"getsockopt": one._peer, "io_uring_setup": one._ring, "prctl": one._keep}
    for name in names().values():
        plain = name.removesuffix("16")
        table.setdefault(plain, one._get if plain.startswith("get") else one._set)
    return table
