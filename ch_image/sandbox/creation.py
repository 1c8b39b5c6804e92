"""Files made by a process with another identity, or in a directory that hands its group on.

The supervisor makes them in the caller's place, for only then is it certain which file is new;
the owner is recorded before the caller can see it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from ch_image.sandbox import records
from ch_image.sandbox.caller import AT_FDCWD, Call, split
from ch_image.sandbox.identity import Ids
from ch_image.sandbox.ledger import Ledger

_ADDFD = 0x40182103
_ADDFD_SEND = 2
_O_CREAT, _O_EXCL, _O_CLOEXEC, _O_PATH = 0o100, 0o200, 0o2000000, 0o10000000
_O_TMPFILE = 0o20000000  # without O_DIRECTORY, that goes with it
_S_IFMT, _S_IFCHR, _S_IFBLK = 0o170000, 0o020000, 0o060000
_AT_SYMLINK_FOLLOW, _AT_EMPTY_PATH = 0x400, 0x1000

Reply = tuple[int, int]
How = tuple[int, int, int]  # flags, mode, and what openat2 calls resolve
CONTINUE: Reply = (0, 1)
DONE: Reply = (0, 0)
SENT: Reply = (0, -1)  # the answer went out with a descriptor already
# The position of (directory, path) among the arguments; None: the working directory.
_WHERE: dict[str, tuple[int | None, int]] = {
    "open": (None, 0), "creat": (None, 0), "mkdir": (None, 0), "mknod": (None, 0),
    "symlink": (None, 1), "openat": (0, 1), "mkdirat": (0, 1), "mknodat": (0, 1),
    "symlinkat": (1, 2), "openat2": (0, 1),
}  # fmt: skip
CREATING = frozenset(_WHERE)
_OPENING = ("open", "creat", "openat", "openat2")


def create(call: Call, ids: Ids, ledger: Ledger) -> Reply:
    """Answer a call of ``CREATING``."""
    at, path = _WHERE[call.name]
    base = AT_FDCWD if at is None else call.args[at]
    how = _how(call) if call.name in _OPENING else (0, 0, 0)
    if how[0] & _O_TMPFILE:
        return _unnamed(call, ids, ledger, base, how)
    if call.name == "openat2" and not how[0] & _O_CREAT:
        return CONTINUE
    device = 0
    if call.name in ("mknod", "mknodat"):
        device = call.args[path + 1] & _S_IFMT
        if device in (_S_IFCHR, _S_IFBLK):
            return _device(call, ids, ledger, base, path)
    if ids.is_root and not _hands_on(call, ledger, base, call.args[path]):
        return CONTINUE
    above, name = call.parent(base, call.args[path], how[2])
    try:
        if call.name.startswith("symlink"):
            os.symlink(call.string(call.args[0]), name, dir_fd=above)
        elif call.name in _OPENING:
            return _open_new(call, ids, ledger, above, name, how)
        else:
            mode = call.args[path + 1]
            os.umask(call.umask())
            if call.name.startswith("mkdir"):
                os.mkdir(name, mode & 0o7777, dir_fd=above)
            else:
                os.mknod(name, mode & 0xFFFF, 0, dir_fd=above)
        ledger.made(above, name, ids.uids[3], ids.gids[3])
        return DONE
    finally:
        os.umask(0)
        os.close(above)


def _hands_on(call: Call, ledger: Ledger, base: int, address: int) -> bool:
    """Whether what root makes there gets a group other than root's from its directory."""
    try:
        above, _ = split(call.glimpse(address))
        if call.plain:
            return bool(ledger.inherited_group(call.place(base, above or b".")))
        where = call.locate(base, above or b".", True)
        try:
            return bool(ledger.inherited_group(where))
        finally:
            os.close(where)
    except OSError:  # the kernel will say so itself
        return False


def _how(call: Call) -> How:
    if call.name == "creat":
        return os.O_WRONLY | _O_CREAT | os.O_TRUNC, call.args[1], 0
    if call.name == "openat2":
        size = struct.calcsize("<QQQ")
        if call.args[3] < size:
            return 0, 0, 0
        flags, mode, resolve = struct.unpack("<QQQ", call.peek(call.args[2], size))
        return flags, mode, resolve
    at = _WHERE[call.name][1]
    return call.args[at + 1] & 0xFFFFFFFF, call.args[at + 2], 0


def _open_new(call: Call, ids: Ids, ledger: Ledger, above: int, name: bytes, how: How) -> Reply:
    flags, mode, _ = how
    if flags & _O_PATH or name in (b".", b".."):
        return CONTINUE
    mask = call.umask()
    os.umask(mask)
    flags |= _O_EXCL | _O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(name, flags, mode & 0o7777, dir_fd=above)
    except FileExistsError:  # nothing is made; the kernel does what was asked
        return CONTINUE
    try:
        ledger.opened(above, fd, mode & ~mask, ids.uids[3], ids.gids[3])
        return _send(call, fd, how[0])
    finally:
        os.close(fd)


def _unnamed(call: Call, ids: Ids, ledger: Ledger, base: int, how: How) -> Reply:
    """O_TMPFILE: a file without a name, which it may get by linkat."""
    flags, mode, resolve = how
    path = call.string(call.args[_WHERE[call.name][1]])
    directory = call.locate(base, path, True, resolve)
    try:
        inherited = ledger.inherited_group(directory)
        if ids.is_root and not inherited:
            return CONTINUE
        os.umask(call.umask())
        fd = os.open(b"self/fd/%d" % directory, flags | _O_CLOEXEC, mode & 0o7777)
    finally:
        os.umask(0)
        os.close(directory)
    try:
        gid = ids.gids[3] if inherited is None else inherited
        ledger.give(fd, os.fstat(fd), ids.uids[3], gid)
        return _send(call, fd, flags)
    finally:
        os.close(fd)


def _send(call: Call, fd: int, flags: int) -> Reply:
    """Answer with a descriptor."""
    packed = struct.pack("<QIIII", call.id, _ADDFD_SEND, fd, 0, flags & _O_CLOEXEC)
    fcntl.ioctl(call.listener, _ADDFD, packed)
    return SENT


def _device(call: Call, ids: Ids, ledger: Ledger, base: int, path: int) -> Reply:
    """A device is an empty file with a record of what it stands for."""
    if not ids.privileged:
        return -errno.EPERM, 0
    mode, device = call.args[path + 1] & 0xFFFF, call.args[path + 2] & 0xFFFFFFFF
    kind = "char" if mode & _S_IFMT == _S_IFCHR else "block"
    above, name = call.parent(base, call.args[path])
    try:
        inherited = ledger.inherited_group(above)
        gid = ids.gids[3] if inherited is None else inherited
        os.umask(call.umask())
        flags = os.O_WRONLY | _O_CREAT | _O_EXCL | os.O_NOFOLLOW | _O_CLOEXEC
        fd = os.open(name, flags, mode & 0o7777, dir_fd=above)
        try:
            os.setxattr(fd, records.ATTRIBUTE, records.encode(ids.uids[3], gid, mode, kind, device))
        except OSError:
            os.unlink(name, dir_fd=above)
            return -errno.EPERM, 0
        finally:
            os.close(fd)
        return DONE
    finally:
        os.umask(0)
        os.close(above)


def link(call: Call, ledger: Ledger) -> Reply:
    """link and linkat run natively; a symlink or FIFO with an owner gets one more name."""
    if not ledger:
        return CONTINUE
    args = call.args
    if call.name == "link":
        source, base, path, follow = AT_FDCWD, AT_FDCWD, 1, False
        old = args[0]
    else:
        source, base, path, follow = args[0], args[2], 3, bool(args[4] & _AT_SYMLINK_FOLLOW)
        old = args[1]
    try:
        text = call.string(old)
        fd = call.locate(source, text, follow) if text else call.descriptor(source)
        try:
            above, name = call.parent(base, args[path])
            if not ledger.linked(fd, above, name):
                os.close(above)
        finally:
            os.close(fd)
    except OSError:  # the kernel will say so itself
        pass
    return CONTINUE
