"""Extended attributes: what one mapped ID cannot set, and the one that holds an owner unseen."""

from __future__ import annotations

import errno
import os

from ch_image.sandbox import records
from ch_image.sandbox.caller import AT_FDCWD, Call
from ch_image.sandbox.creation import CONTINUE, DONE, Reply
from ch_image.sandbox.procfs import of_fd


def change(call: Call) -> Reply:
    """An ACL that names others than root: those entries are left out (see the docs)."""
    path, name_at, value_at, size = call.args[:4]
    name = call.string(name_at)
    if not name.startswith(b"system.posix_acl_"):
        return CONTINUE
    value = call.peek(value_at, min(size, 1 << 16))
    reduced = records.acl_of_root(value)
    if reduced == value:
        return CONTINUE
    if call.name == "fsetxattr":
        fd = call.descriptor(path)
    else:
        fd = call.locate(AT_FDCWD, call.string(path), call.name == "setxattr")
    try:
        os.setxattr(of_fd(fd), name, reduced)
    finally:
        os.close(fd)
    return DONE


def names(call: Call) -> Reply:
    """Names of attributes, without ours: who copies attributes must not copy an owner."""
    where, address, room = call.args[:3]
    if call.name == "flistxattr":
        fd = call.descriptor(where)
    else:
        fd = call.locate(AT_FDCWD, call.string(where), call.name == "listxattr")
    try:
        found = os.listxattr(of_fd(fd))
    finally:
        os.close(fd)
    if records.ATTRIBUTE not in found:
        return CONTINUE
    found.remove(records.ATTRIBUTE)
    data = b"".join(os.fsencode(name) + b"\0" for name in found)
    if room and room < len(data):
        return -errno.ERANGE, 0
    if room and data:
        call.poke(address, data)
    return len(data), 0
