"""Which programs are asked about more, or less, than others (see seccomp: MARKED and FREE_STACK).

The stat family is what programs call most; asking about each call would make everything slower.
So only programs that read owners to do something with them are marked, and those that run as
another user. Other marks mean fewer questions: dpkg makes files by the thousand while it unpacks,
and gives an owner to each; make asks who it is at each start; gcc looks for its parts along PATH.
A mark is set before exec, as a stack limit, and lives in the layout of the new program's memory;
the limit itself is put back when the program starts.
"""

from __future__ import annotations

import os
import struct

from ch_image.sandbox import memory, procfs
from ch_image.sandbox.caller import AT_FDCWD
from ch_image.sandbox.seccomp import (
    DRIVER_STACK,
    FREE_STACK,
    LARGE,
    PATH_STACK,
    ROOT_PATH_STACK,
    ROOT_STACK,
    marks_processes,
    more_marks,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ch_image.sandbox.caller import Call

PROGRAMS = frozenset(
    b"""bsdtar star pax cpio bsdcpio rsync cp install chown chgrp stat
    perl ed ex vi vim vim.basic vim.tiny nano patch gzip bzip2 xz zstd lz4 lzip compress
    mksquashfs mkfs.erofs getfacl setfacl zip sudo su runuser setpriv sshd ssh ssh-keygen crontab
    logrotate useradd usermod userdel groupadd groupmod groupdel
    groupmems gpasswd passwd chpasswd chgpasswd newusers chage chsh chfn vipw vigr pwconv pwunconv
    grpconv grpunconv pg_createcluster pg_ctlcluster update-passwd pwck grpck
    systemd-sysusers systemd-tmpfiles dpkg-statoverride ansible-playbook ansible puppet chef-client
    chef-solo salt-call""".split()
)
# They learn of owners by paths only, not by descriptors as libraries are opened at each start. (cp
# and install compare with the owner of the open file that they write to.)
BY_PATH = frozenset(b"mv find ls du test [ adduser deluser".split())
# And when root starts them, they remain root, neither look at limits nor make threads.
_STEADY_BY_PATH = frozenset(b"mv find ls du test [".split())
# Marked for what they are told: interpreters for what Ansible sends to be run; dpkg when it gives a
# new configuration file the owner of the old one, not when it unpacks; sed when it edits a file in
# place; tar unless it extracts or lists.
_TOLD = frozenset(b"dpkg sed tar".split())
INTERPRETERS = (b"python", b"ruby")
_SCRIPTS = b"AnsiballZ_"
_CONFIGURES = (b"--configure", b"--install", b"-i")
_UNPACKS = b"--unpack"
# How dpkg-deb calls tar (and without TAR_OPTIONS), to which the same applies as to dpkg --unpack.
_TAR_OF_DPKG = [b"tar", b"-x", b"-f", b"-", b"--warning=no-timestamp"]
_EXTRACTING = (b"--extract", b"--get", b"--list")
_EXTRACTS, _OTHERWISE = frozenset(b"xt"), frozenset(b"cruAd")
# Not marked as other users' either: they look at thousands of files, and at no owner.
HEEDLESS = frozenset(
    b"""mandb initdb make gmake ninja cc1 cc1plus f951 collect2 as ld ld.bfd ld.gold ld.lld
    x86_64-linux-gnu-as x86_64-linux-gnu-ld""".split()
)
_WORDS = 256  # of the arguments, that are looked at,
_LETTERS = 32  # and what each begins with
# When root starts them, they remain root, and ask who they are at each start, or before each
# command. (Not sh, which may be busybox, and that may become su; not gcc, which never asks.)
STEADY = frozenset(b"make gmake bash".split())
# Besides, these start nothing but a compiler's parts, and make no files but temporary ones. Their
# names may have a target before them and a version behind ("x86_64-linux-gnu-gcc-12").
DRIVERS = frozenset(b"gcc g++ cc c++ gfortran".split())
_S_IFMT, _S_IFREG = 0o170000, 0o100000
_ELF = b"\x7fELF\x02"  # of 64 bits
_PT_INTERP = (3).to_bytes(4, "little")
_HEADERS = 64  # that are looked at


class Readers:
    """The marks that are set and not yet put back."""

    def __init__(self) -> None:
        self._works = marks_processes()
        self._more = more_marks()
        self._limits: dict[int, tuple[int, int]] = {}
        self._large: set[int] = set()  # who has a large stack, and may hand it to a child
        self._stray = False  # whether some child may have one whose parent has none any more
        self._usual = 0  # the soft limit of the last of them
        self._programs: dict[tuple[int, int, int], bool] = {}  # see _has_libraries

    def exec(self, call: Call, path: bytes, arguments: int, *, other: bool) -> None:
        """The caller is about to become the program at ``path``; ``other``: not wholly as root.

        ``arguments`` is the address of its argument list.
        """
        if not self._works:
            return
        name = path.rpartition(b"/")[2]
        if other:
            stack = 0 if name in HEEDLESS else procfs.INFINITY
        elif name in STEADY:
            stack = ROOT_STACK if self._more and self._has_libraries(call, path) else 0
        elif name in _TOLD or name.startswith(INTERPRETERS):
            stack = self._told(call, path, name, arguments)
        elif name in BY_PATH and self._more:
            steady = name in _STEADY_BY_PATH and self._has_libraries(call, path)
            stack = ROOT_PATH_STACK if steady else PATH_STACK
        elif is_driver(name) and self._more:
            stack = DRIVER_STACK if self._has_libraries(call, path) else 0
        else:
            stack = procfs.INFINITY if name in PROGRAMS or name in BY_PATH else 0
        if stack or self._large or self._stray or call.pid in self._limits:
            try:
                # A thread that execs gets the number of its process.
                self._mark(procfs.leader_of(call.pid), stack)
            except OSError:  # it died meanwhile
                pass

    def _mark(self, pid: int, stack: int) -> None:
        """Mark ``pid`` by this limit, 0: not at all. What an exec before left, goes."""
        for process in tuple(self._large):
            if not _has_large_stack(process):
                self._large.discard(process)
                self._stray = True
        soft, hard = was = procfs.stack_limit(pid)
        left = self._limits.pop(pid, None)
        if left and soft in (*LARGE, procfs.INFINITY):  # that exec failed, or nobody looked
            soft = left[0]
        elif soft in LARGE and self._usual:  # the parent's
            soft = self._usual
        self._large.discard(pid)
        if stack and soft != procfs.INFINITY and hard == procfs.INFINITY:
            self._limits[pid] = soft, hard
            if stack in LARGE:
                self._large.add(pid)
                self._usual = soft
            soft = stack
        if (soft, hard) != was:
            procfs.set_stack_limit(pid, soft, hard)

    def asks_for_limit(self, pid: int) -> None:
        """``pid`` asks for its stack limit, which may be a mark: its own, or its parent's."""
        if pid in self._limits:
            self.started(pid)
        elif self._usual:
            try:
                soft, hard = procfs.stack_limit(pid)
                if soft in LARGE:
                    procfs.set_stack_limit(pid, self._usual, hard)
            except OSError:  # it died meanwhile
                pass

    def started(self, pid: int) -> None:
        """``pid`` has called its first stat, or a later one."""
        if not self._limits:
            return
        limits = self._limits.pop(pid, None)
        if limits:
            if pid in self._large:
                self._large.discard(pid)
                self._stray = self._stray or procfs.has_children(pid)
            try:
                procfs.set_stack_limit(pid, *limits)
            except OSError:  # it died meanwhile
                pass

    def _told(self, call: Call, path: bytes, name: bytes, arguments: int) -> int:
        """The mark of a program that is marked for what it is told."""
        words = _words(call, arguments, 2 if name.startswith(INTERPRETERS) else _WORDS)
        unpacks = words == _TAR_OF_DPKG if name == b"tar" else name == b"dpkg" and _UNPACKS in words
        if unpacks and self._more and self._has_libraries(call, path):
            return FREE_STACK
        if not reads_owners(name, words):
            return 0
        return PATH_STACK if name == b"dpkg" and self._more else procfs.INFINITY

    def _has_libraries(self, call: Call, path: bytes) -> bool:
        """Whether it is a 64-bit program proper, not a script, and not linked statically."""
        try:
            if call.plain:
                return self._begins_so(call.place(AT_FDCWD, path))
            where = call.locate(AT_FDCWD, path, True)
        except OSError:
            return False
        try:
            return self._begins_so(procfs.of_fd(where))
        finally:
            os.close(where)

    def _begins_so(self, path: str | bytes) -> bool:
        status = os.stat(path)
        if status.st_mode & _S_IFMT != _S_IFREG:  # to open a FIFO is to wait for its other end
            return False
        key = status.st_dev, status.st_ino, status.st_mtime_ns
        if key not in self._programs:
            self._programs[key] = asks_for_interpreter(_beginning(path))
        return self._programs[key]


def asks_for_interpreter(head: bytes) -> bool:
    """Whether a file that begins so is for a dynamic linker of 64 bits (elf(5))."""
    if not head.startswith(_ELF) or len(head) < 64:
        return False
    (first,) = struct.unpack_from("<Q", head, 32)
    size, count = struct.unpack_from("<HH", head, 54)
    places = range(first, first + size * count, size or 1)
    return any(head[at : at + 4] == _PT_INTERP for at in places[:_HEADERS])


def reads_owners(name: bytes, words: list[bytes]) -> bool:
    """Whether a program that has these arguments (from its name on) looks at owners."""
    first = words[1] if len(words) > 1 else b""
    if name == b"dpkg":
        return any(word in _CONFIGURES for word in words)
    if name == b"sed":
        return len(words) == _WORDS or any(
            word.startswith(b"--i") or (word[:1] == b"-" != word[1:2] and b"i" in word)
            for word in words
        )
    if name == b"tar":
        if first.startswith(b"--"):
            return first not in _EXTRACTING
        letters = frozenset(first)
        return bool(letters & _OTHERWISE) or not letters & _EXTRACTS
    return first.rpartition(b"/")[2].startswith(_SCRIPTS)


def _has_large_stack(pid: int) -> bool:
    try:
        return procfs.stack_limit(pid)[0] in LARGE
    except OSError:  # it ended
        return False


def is_driver(name: bytes) -> bool:
    """Whether a program of this name starts the parts of a compiler."""
    return name.rstrip(b"0123456789.-").rpartition(b"-")[2] in DRIVERS


def _words(call: Call, arguments: int, most: int) -> list[bytes]:
    """The first arguments of a 64-bit program; where there are many, what each begins with."""
    words = []
    try:
        data = call.peek(arguments, 8 * most)
        addresses = [address for (address,) in struct.iter_unpack("<Q", data[: len(data) & ~7])]
        if 0 in addresses:
            del addresses[addresses.index(0) :]
        if len(addresses) > 2:
            words = memory.read_strings(call.pid, addresses, _LETTERS)
        # The rest, where there is no memory behind a string.
        words += [call.glimpse(address) for address in addresses[len(words) :]]
    except (OSError, struct.error):  # not a list
        pass
    return words


def _beginning(path: str | bytes) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)
