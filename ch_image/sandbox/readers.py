"""Which programs are asked about when they look at a file's owner (see seccomp.MARKED).

The stat family is what programs call most; asking about each call would make everything slower.
So only programs that read owners to do something with them are marked, and those that run as
another user. The mark is set before exec, as an unlimited stack, and lives in the layout of the
new program's memory; the limit itself is put back at the program's first stat.
"""

from __future__ import annotations

import struct

from ch_image.sandbox import procfs
from ch_image.sandbox.seccomp import marks_processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ch_image.sandbox.caller import Call

PROGRAMS = frozenset(
    b"""tar bsdtar star pax cpio bsdcpio rsync cp mv install find chown chgrp ls stat test [ du
    sed perl ed ex vi vim vim.basic vim.tiny nano patch gzip bzip2 xz zstd lz4 lzip compress
    mksquashfs mkfs.erofs getfacl setfacl zip sudo su runuser setpriv sshd ssh ssh-keygen crontab
    logrotate adduser addgroup deluser delgroup useradd usermod userdel groupadd groupmod groupdel
    groupmems gpasswd passwd chpasswd chgpasswd newusers chage chsh chfn vipw vigr pwconv pwunconv
    grpconv grpunconv pg_createcluster pg_ctlcluster update-passwd pwck grpck
    systemd-sysusers systemd-tmpfiles dpkg-statoverride ansible-playbook ansible puppet chef-client
    chef-solo salt-call""".split()
)
# Marked for what they are told: interpreters for what Ansible sends to be run, and dpkg when it
# gives a new configuration file the owner of the old one, not when it unpacks.
INTERPRETERS = (b"python", b"ruby")
_SCRIPTS = b"AnsiballZ_"
_CONFIGURES = (b"--configure", b"--install", b"-i")


class Readers:
    """The marks that are set and not yet put back."""

    def __init__(self) -> None:
        self._works = marks_processes()
        self._limits: dict[int, tuple[int, int]] = {}

    def exec(self, call: Call, path: bytes, arguments: int, *, other: bool) -> None:
        """The caller is about to become the program at ``path``; ``other``: as another user.

        ``arguments`` is the address of its argument list.
        """
        name = path.rpartition(b"/")[2]
        if not self._works or not (other or name in PROGRAMS or _is_told(call, name, arguments)):
            return
        pid = call.pid
        try:
            soft, hard = procfs.stack_limit(pid)
            if soft != procfs.INFINITY and hard == procfs.INFINITY:
                procfs.set_stack_limit(pid, procfs.INFINITY, hard)
                self._limits[pid] = soft, hard
        except OSError:  # it died meanwhile
            pass

    def started(self, pid: int) -> None:
        """``pid`` has called its first stat, or a later one."""
        if not self._limits:
            return
        limits = self._limits.pop(pid, None)
        if limits:
            try:
                procfs.set_stack_limit(pid, *limits)
            except OSError:  # it died meanwhile
                pass


def _is_told(call: Call, name: bytes, arguments: int) -> bool:
    try:
        if name.startswith(INTERPRETERS):
            return _word(call, arguments, 1).rpartition(b"/")[2].startswith(_SCRIPTS)
        return name == b"dpkg" and any(
            _word(call, arguments, n) in _CONFIGURES for n in range(1, 8)
        )
    except OSError:  # the list is shorter
        return False


def _word(call: Call, arguments: int, number: int) -> bytes:
    """One of the arguments of a 64-bit program. Raises EFAULT behind the last."""
    (address,) = struct.unpack("<Q", call.peek(arguments + 8 * number, 8).ljust(8, b"\0"))
    return call.glimpse(address)
