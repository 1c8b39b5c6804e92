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

from ch_image.sandbox import records, view
from ch_image.sandbox.caller import AT_FDCWD, Call
from ch_image.sandbox.identity import UNSET, Identities, Ids, apply_set
from ch_image.sandbox.mounts import fd_path
from ch_image.sandbox.seccomp import names

_RECV, _SEND, _ADDFD, _SET_FLAGS = 0xC0502100, 0xC0182101, 0x40182103, 0x40082104  # fmt: skip
_SYNC_WAKE_UP = 1
_CONTINUE = 1
_ADDFD_SEND = 2
_AT_EMPTY_PATH = 0x1000
_AT_SYMLINK_NOFOLLOW = 0x100
_O_CREAT, _O_EXCL, _O_CLOEXEC, _O_PATH = 0o100, 0o200, 0o2000000, 0o10000000
_S_IFMT, _S_IFCHR, _S_IFBLK = 0o170000, 0o020000, 0o060000

CONTINUE = (0, _CONTINUE)
DONE = (0, 0)
Reply = tuple[int, int]  # (-errno or result, flags)
_SENT = (0, -1)  # the answer went out with a descriptor already


class Supervisor:
    """Serves one listener until nobody uses its filter any more."""

    def __init__(self, listener: int, first: Ids) -> None:
        self.listener = listener
        self.identities = Identities(first)
        self.count = 0  # notifications answered
        self.lost: str = ""  # why an owner could not be recorded, the first time
        self._names = names()
        self._request = bytearray(80)
        self._marked: dict[tuple[int, int], tuple[int, int, int]] = {}
        try:
            fcntl.ioctl(listener, _SET_FLAGS, _SYNC_WAKE_UP)
        except OSError:  # before Linux 6.6: slower, no less right
            pass

    def serve_one(self) -> bool:
        """Answer one waiting call; False when there is none left to come."""
        request = self._request
        request[:] = bytes(80)
        try:
            fcntl.ioctl(self.listener, _RECV, request)
        except OSError as error:
            return error.errno in (errno.ENOENT, errno.EINTR)  # the caller died meanwhile
        id_, pid, _, nr, arch = struct.unpack_from("<QIIiI", request)
        args = struct.unpack_from("<6Q", request, 32)
        name = self._names.get((arch, nr), "")
        call = Call(self.listener, id_, pid, name, args)
        self.count += 1
        try:
            value, flags = self._answer(call)
        except OSError as error:
            value, flags = -(error.errno or errno.EIO), 0
        if flags >= 0:
            self._send(id_, value, flags)
        return True

    def _send(self, id_: int, value: int, flags: int) -> None:
        error = value if value < 0 else 0
        reply = struct.pack("<QqiI", id_, max(value, 0), error, flags)
        try:
            fcntl.ioctl(self.listener, _SEND, reply)
        except OSError:  # ENOENT: it was killed while we worked
            pass

    def owners(self) -> list[tuple[str, int, int]]:
        """(path, uid, gid) of what cannot carry an attribute, as it stands at the end."""
        out = []
        for (_, inode), (fd, uid, gid) in self._marked.items():
            path = os.readlink(fd_path(fd))
            try:
                status = os.lstat(path)
            except OSError:  # deleted since
                continue
            if status.st_ino == inode and path.startswith("/"):
                out.append((path, uid, gid))
        return out

    # -- what is answered, and how --

    def _answer(self, call: Call) -> Reply:
        name = call.name
        if name.startswith("get"):
            return self._get(call)
        if name.startswith("set"):
            return self._set(call)
        if name in ("chown", "lchown", "fchown", "fchownat"):
            return self._chown(call)
        if name == "statx":
            return self._statx(call)
        ids = self.identities.of(call.pid)
        if name in ("mknod", "mknodat"):
            return self._mknod(call, ids)
        if name == "prctl":
            self.identities.change(call.pid, ids.with_keep(bool(call.args[1])))
            return CONTINUE
        if ids.is_root and not ids.keep:
            return CONTINUE
        if name in ("execve", "execveat"):
            return self._exec(call, ids)
        return self._create(call, ids)

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
        if new.key() != ids.key():
            self.identities.change(call.pid, new)
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

    def _chown(self, call: Call) -> Reply:
        args = call.args
        if call.name == "fchown":
            where, follow, first = call.descriptor(args[0]), True, 1
        elif call.name == "fchownat":
            flags, first = args[4], 2
            follow = not flags & _AT_SYMLINK_NOFOLLOW
            path = call.string(args[1])
            if not path and flags & _AT_EMPTY_PATH:
                where = call.descriptor(args[0])
            else:
                where = call.locate(args[0], path, follow)
        else:
            follow, first = call.name == "chown", 1
            where = call.locate(AT_FDCWD, call.string(args[0]), follow)
        try:
            uid, gid = call.ids(first, 2)
            return self._record_owner(where, uid, gid, self.identities.of(call.pid))
        finally:
            os.close(where)

    def _record_owner(self, fd: int, uid: int, gid: int, ids: Ids) -> Reply:
        """What chown(2) does: the owner by a record, its side effects by the kernel."""
        here = fd_path(fd)
        status = os.stat(here) if not _is_link(fd) else os.fstat(fd)
        key = (status.st_dev, status.st_ino)
        carries = records.can_carry(status.st_mode)
        if carries:
            old_uid, old_gid, kind = records.owner_of(here)
        else:
            _, old_uid, old_gid = self._marked.get(key, (-1, 0, 0))
            kind = ""
        new_uid = old_uid if uid == UNSET else uid
        new_gid = old_gid if gid == UNSET else gid
        if not ids.privileged:
            mine = old_uid == ids.uids[3]
            groups = (*ids.groups, ids.gids[3], old_gid)
            if not mine or new_uid != old_uid or new_gid not in groups:
                return -errno.EPERM, 0
        # The real call clears set-ID bits and capabilities as it should, and copies up.
        os.chown(here, 0, 0)
        if carries:
            self._store(here, new_uid, new_gid, status.st_mode, kind)
        elif (new_uid, new_gid) != (0, 0):
            self._mark(fd, key, new_uid, new_gid)
        elif key in self._marked:
            os.close(self._marked.pop(key)[0])
        return DONE

    def _store(self, path: str, uid: int, gid: int, mode: int, kind: str) -> None:
        if kind.startswith(("char-", "block-")):
            value = f"{uid}:{gid}:{mode & 0o7777:04o}:{kind}".encode()
        elif (uid, gid) != (0, 0):
            value = records.encode(uid, gid, mode, records.kind_of(mode))
        else:
            try:
                os.removexattr(path, records.ATTRIBUTE)
            except OSError:  # there was none
                pass
            return
        try:
            os.setxattr(path, records.ATTRIBUTE, value)
        except OSError as error:  # /proc, /dev, or a file system without user attributes
            self.lost = self.lost or f"{error.strerror}"

    def _mark(self, fd: int, key: tuple[int, int], uid: int, gid: int) -> None:
        """Remember the owner of a file that carries no attributes; its descriptor follows it."""
        known = self._marked.pop(key, None)
        self._marked[key] = (known[0] if known else os.dup(fd), uid, gid)

    def _statx(self, call: Call) -> Reply:
        """What was recorded for a file is what ls -l and stat(1) show."""
        base, address, flags, mask, buffer = call.args[:5]
        path = call.string(address) if address else b""
        if path:
            fd = call.locate(base, path, not flags & _AT_SYMLINK_NOFOLLOW)
        elif flags & _AT_EMPTY_PATH and base & 0xFFFFFFFF != AT_FDCWD:
            fd = call.descriptor(base)
        else:
            return CONTINUE
        try:
            mode = os.fstat(fd).st_mode
            if records.can_carry(mode):
                uid, gid, kind = records.owner_of(fd_path(fd))
            elif self._marked:
                status = os.fstat(fd)
                found = self._marked.get((status.st_dev, status.st_ino), (0, 0, 0))
                uid, gid, kind = *found[1:], ""
            else:
                return CONTINUE
            if not (uid or gid or kind):
                return CONTINUE
            data = view.statx(fd, flags, mask, uid, gid, kind)
        finally:
            os.close(fd)
        call.poke(buffer, data)
        return DONE

    # -- what is made by others than root, and devices --

    def _mknod(self, call: Call, ids: Ids) -> Reply:
        at = call.name == "mknodat"
        mode, device = call.args[1 + at] & 0xFFFFFFFF, call.args[2 + at] & 0xFFFFFFFF
        kind = mode & _S_IFMT
        is_device = kind in (_S_IFCHR, _S_IFBLK)
        if not is_device and ids.is_root:
            return CONTINUE
        if is_device and not ids.privileged:
            return -errno.EPERM, 0
        above, name = call.parent(call.args[0] if at else AT_FDCWD, call.args[at])
        try:
            os.umask(call.umask())
            if not is_device:
                os.mknod(name, mode & ~0, 0, dir_fd=above)
                return self._made(above, name, ids)
            flags = os.O_WRONLY | _O_CREAT | _O_EXCL | os.O_NOFOLLOW | _O_CLOEXEC
            fd = os.open(name, flags, mode & 0o7777, dir_fd=above)
            try:
                text = records.encode(
                    ids.uids[3], ids.gids[3], mode, "char" if kind == _S_IFCHR else "block", device
                )
                os.setxattr(fd, records.ATTRIBUTE, text)
            except OSError:
                os.unlink(name, dir_fd=above)
                return -errno.EPERM, 0
            finally:
                os.close(fd)
            return DONE
        finally:
            os.umask(0)
            os.close(above)

    def _create(self, call: Call, ids: Ids) -> Reply:
        """open with O_CREAT, mkdir and symlink of a process that is not root."""
        at = call.name.endswith("at")
        args = call.args[1:] if at else call.args
        base = call.args[0] if at else AT_FDCWD
        if call.name.startswith("symlink"):
            # symlinkat(target, dirfd, path): the directory comes second.
            target = call.string(call.args[0])
            base, address = (call.args[1], call.args[2]) if at else (AT_FDCWD, call.args[1])
            above, name = call.parent(base, address)
            try:
                os.symlink(target, name, dir_fd=above)
                return self._made(above, name, ids)
            finally:
                os.close(above)
        above, name = call.parent(base, args[0])
        try:
            os.umask(call.umask())
            if call.name.startswith("mkdir"):
                os.mkdir(name, args[1] & 0o7777, dir_fd=above)
                return self._made(above, name, ids)
            return self._open_new(call, ids, above, name, args)
        finally:
            os.umask(0)
            os.close(above)

    def _open_new(
        self, call: Call, ids: Ids, above: int, name: bytes, args: tuple[int, ...]
    ) -> Reply:
        if call.name == "creat":
            flags, mode = os.O_WRONLY | _O_CREAT | os.O_TRUNC, args[1]
        else:
            flags, mode = args[1] & 0xFFFFFFFF, args[2]
        if flags & _O_PATH or name in (b"", b".", b".."):
            return CONTINUE
        try:
            fd = os.open(
                name, flags | _O_EXCL | _O_CLOEXEC | os.O_NOFOLLOW, mode & 0o7777, dir_fd=above
            )
        except FileExistsError:  # nothing is made; the kernel does what was asked
            return CONTINUE
        try:
            self._made(above, name, ids)
            newfd_flags = flags & _O_CLOEXEC
            packed = struct.pack("<QIIII", call.id, _ADDFD_SEND, fd, 0, newfd_flags)
            fcntl.ioctl(self.listener, _ADDFD, packed)
            return _SENT
        finally:
            os.close(fd)

    def _made(self, above: int, name: bytes, ids: Ids) -> Reply:
        """Record the owner of what was just made; a set-group-ID directory hands its group on."""
        parent = fd_path(above)
        status = os.stat(parent)
        gid = records.owner_of(parent)[1] if status.st_mode & 0o2000 else ids.gids[3]
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | _O_CLOEXEC, dir_fd=above)
        try:
            made = os.fstat(fd)
            if records.can_carry(made.st_mode):
                self._store(fd_path(fd), ids.uids[3], gid, made.st_mode, "")
            else:
                self._mark(fd, (made.st_dev, made.st_ino), ids.uids[3], gid)
        finally:
            os.close(fd)
        return DONE

    def _exec(self, call: Call, ids: Ids) -> Reply:
        """A set-user-ID program gives its owner's identity, as the kernel would."""
        at = call.name == "execveat"
        path = call.string(call.args[1] if at else call.args[0])
        if not path:
            return CONTINUE
        fd = call.locate(call.args[0] if at else AT_FDCWD, path, True)
        try:
            status = os.stat(fd_path(fd))
            uid, gid, _ = records.owner_of(fd_path(fd))
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


def _is_link(fd: int) -> bool:
    return os.fstat(fd).st_mode & _S_IFMT == 0o120000
