"""What every container of ours gets, whatever image it runs."""

from __future__ import annotations

import os

from ch_image.sandbox.mounts import Bind, Dev, File, Operation, Proc

HOSTNAME = "ch-image"
_LONGEST = 1 << 20  # bytes of a host's file that are read
_Signature = tuple[int, int, int, int, int]
_READ: dict[str, tuple[_Signature, str]] = {}  # the same for each RUN, unless somebody changes it


def read_text(path: str) -> str:
    """A small host file as text (surrogates for what is not UTF-8), empty when unreadable."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        st = os.fstat(fd)
        seen = st.st_dev, st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns
        known = _READ.get(path)
        if known is None or known[0] != seen:
            known = _READ[path] = seen, os.fsdecode(os.read(fd, _LONGEST))
        return known[1]
    finally:
        os.close(fd)


def operations(
    *, hosts: list[tuple[str, str]], network: bool, hostname: str = HOSTNAME
) -> list[Operation]:
    """Mounts of a build's RUN: nothing of the host but devices, time, names and /sys.

    ``hosts`` are (name, address) pairs to add to /etc/hosts. Without network there is no
    resolver either.
    """
    names = read_text("/etc/hosts") if network else "127.0.0.1 localhost\n::1 localhost\n"
    if names and not names.endswith("\n"):
        names += "\n"
    names += f"127.0.1.1 {hostname}\n"
    names += "".join(f"{address} {name}\n" for name, address in hosts)
    resolver = read_text("/etc/resolv.conf") if network else ""
    return [
        Proc(),
        Dev(),
        Bind("/sys", "/sys", readonly=True),
        File("/etc/hosts", names),
        File("/etc/resolv.conf", resolver),
    ]
