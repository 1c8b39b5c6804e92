"""What only the machine's root may do, answered so that programs go on: low ports, higher limits.

An image has neither in it. A service that a RUN starts, or whose settings it checks, needs only
that the call does not fail.
"""

from __future__ import annotations

import errno
import os
import struct

from ch_image.sandbox import procfs
from ch_image.sandbox import syscalls as kernel
from ch_image.sandbox.caller import Call
from ch_image.sandbox.creation import CONTINUE, DONE, Reply
from ch_image.sandbox.identity import Ids

_INTERNET = (2, 10)  # AF_INET, AF_INET6: the port is in the same place
_FIRST_FREE = 1024  # ports below are root's (ip(7), ip_unprivileged_port_start)


def bind(call: Call) -> Reply:
    """A port that the kernel keeps from us becomes any other port."""
    address = call.peek(call.args[1], min(call.args[2] & 0xFFFFFFFF, 128))
    if len(address) < 8 or struct.unpack_from("<H", address)[0] not in _INTERNET:
        return CONTINUE
    if not 0 < struct.unpack_from(">H", address, 2)[0] < _FIRST_FREE:
        return CONTINUE
    fd = call.fetch(call.args[0])
    try:
        kernel.bind(fd, address)
    except PermissionError:
        kernel.bind(fd, address[:2] + b"\0\0" + address[4:])
    finally:
        os.close(fd)
    return DONE


def limit(call: Call, ids: Ids) -> Reply:
    """A hard limit that root may raise and we may not: what can be had is set."""
    if call.name == "setrlimit":
        who, (resource, new, old) = 0, (*call.args[:2], 0)
    else:
        who, resource, new, old = call.args[:4]
    process = procfs.process_of(call.pid)
    if who not in (0, process):
        return CONTINUE
    wanted = call.peek(new, 16)
    before = bytearray(16)
    kernel.prlimit(process, resource & 0xFF, None, before)
    soft, hard = struct.unpack("<QQ", wanted)
    (most,) = struct.unpack_from("<Q", before, 8)
    if hard <= most:
        return CONTINUE
    if not ids.privileged:
        return -errno.EPERM, 0
    kernel.prlimit(process, resource & 0xFF, struct.pack("<QQ", min(soft, most), most), None)
    if old:
        call.poke(old, bytes(before))
    return DONE
