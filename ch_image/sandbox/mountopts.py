"""Mount options as mount(8) and config.json write them, and mounts made with them.

A user namespace may add restrictions to a mount that came from outside, never take one away
(mount_namespaces(7)): what is asked for in vain there (``rw`` of a read-only mount) stays as it is.
"""

from __future__ import annotations

import errno
import os

from ch_image.errors import SandboxError
from ch_image.sandbox import syscalls as kernel
from ch_image.sandbox.mounts import fd_path

_ATIME = kernel.MOUNT_ATTR_ATIME
# name: (flag of mount(2), MOUNT_ATTR to set, MOUNT_ATTR to clear); the negative clears the flag
_FLAGS = {
    "ro": (kernel.MS_RDONLY, kernel.MOUNT_ATTR_RDONLY),
    "nosuid": (kernel.MS_NOSUID, kernel.MOUNT_ATTR_NOSUID),
    "nodev": (kernel.MS_NODEV, kernel.MOUNT_ATTR_NODEV),
    "noexec": (kernel.MS_NOEXEC, kernel.MOUNT_ATTR_NOEXEC),
    "nodiratime": (kernel.MS_NODIRATIME, kernel.MOUNT_ATTR_NODIRATIME),
    "nosymfollow": (kernel.MS_NOSYMFOLLOW, kernel.MOUNT_ATTR_NOSYMFOLLOW),
    "noatime": (kernel.MS_NOATIME, kernel.MOUNT_ATTR_NOATIME),
    "relatime": (kernel.MS_RELATIME, 0),
    "strictatime": (kernel.MS_STRICTATIME, kernel.MOUNT_ATTR_STRICTATIME),
    "sync": (kernel.MS_SYNCHRONOUS, 0),
    "dirsync": (kernel.MS_DIRSYNC, 0),
    "lazytime": (kernel.MS_LAZYTIME, 0),
    "silent": (kernel.MS_SILENT, 0),
    "iversion": (1 << 23, 0),
    "mand": (64, 0),
}
_NEGATIVES = {
    "rw": "ro", "suid": "nosuid", "dev": "nodev", "exec": "noexec", "diratime": "nodiratime",
    "symfollow": "nosymfollow", "atime": "noatime", "norelatime": "relatime",
    "nostrictatime": "strictatime", "async": "sync", "nolazytime": "lazytime", "loud": "silent",
    "noiversion": "iversion", "nomand": "mand",
}  # fmt: skip
_TIMES = ("noatime", "relatime", "strictatime")
_PROPAGATION = {
    "shared": kernel.MS_SHARED,
    "slave": kernel.MS_SLAVE,
    "private": kernel.MS_PRIVATE,
    "unbindable": kernel.MS_UNBINDABLE,
}
_REFUSED = ("idmap", "ridmap")


class Options:
    """Options, sorted by what they are for. ``data`` is the file system's own part."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self.bind = self.recursive = self.remount = self.copy_up = False
        self.flags = 0  # of mount(2)
        self.set = self.clear = 0  # MOUNT_ATTR_* of the mount itself
        self.set_all = self.clear_all = 0  # of it and all below it
        self.propagation: list[int] = []
        self.data: list[str] = []
        for word in words:
            self._take(word)

    def _take(self, word: str) -> None:
        if word in ("bind", "rbind"):
            self.bind, self.recursive = True, self.recursive or word == "rbind"
        elif word == "remount":
            self.remount = True
        elif word == "tmpcopyup":
            self.copy_up = True
        elif word in ("", "defaults", "nofail"):
            pass
        elif word in _REFUSED:
            raise SandboxError(f"mount option {word}: mapped mounts need root's privilege")
        elif word in _PROPAGATION or word[:1] == "r" and word[1:] in _PROPAGATION:
            deep = kernel.MS_REC if word not in _PROPAGATION else 0
            self.propagation.append(_PROPAGATION[word.removeprefix("r") if deep else word] | deep)
        elif word in _FLAGS or word in _NEGATIVES:
            self._flag(word)
        elif word[:1] == "r" and (word[1:] in _FLAGS or word[1:] in _NEGATIVES):
            set_, clear = _attributes(word[1:])
            self.set_all = self.set_all & ~clear | set_
            self.clear_all = self.clear_all & ~set_ | clear
        else:
            self.data.append(word)

    def _flag(self, word: str) -> None:
        if word in _FLAGS:
            if word in _TIMES:
                for other in _TIMES:
                    self.flags &= ~_FLAGS[other][0]
            self.flags |= _FLAGS[word][0]
        else:
            self.flags &= ~_FLAGS[_NEGATIVES[word]][0]
        set_, clear = _attributes(word)
        self.set = self.set & ~clear | set_
        self.clear = self.clear & ~set_ | clear


def _attributes(word: str) -> tuple[int, int]:
    """(MOUNT_ATTR_* to set, to clear) for an option."""
    time = word in _TIMES or _NEGATIVES.get(word) in _TIMES
    if word in _FLAGS:
        return _FLAGS[word][1], _ATIME if time else 0
    return 0, _ATIME if time else _FLAGS[_NEGATIVES[word]][1]


def known() -> list[str]:
    """The names of all options that mean something here."""
    plain = [*_FLAGS, *_NEGATIVES]
    attributes = [word for word in plain if any(_attributes(word))]
    names = {*plain, *(f"r{word}" for word in attributes), *_PROPAGATION}
    names |= {f"r{word}" for word in _PROPAGATION}
    return sorted(names | {"bind", "rbind", "remount", "defaults", "tmpcopyup"})


def change(fd: int, options: Options) -> None:
    """Give the mount at ``fd`` (O_PATH) the attributes and the propagation that were asked for."""
    for set_, clear, deep in (
        (options.set, options.clear, 0),
        (options.set_all, options.clear_all, kernel.AT_RECURSIVE),
    ):
        if set_ or clear:
            _set_attributes(fd, set_, clear, deep)
    for flags in options.propagation:
        kernel.mount(None, fd_path(fd), None, flags)


def _set_attributes(fd: int, set_: int, clear: int, deep: int) -> None:
    flags = kernel.AT_EMPTY_PATH | deep
    try:
        kernel.mount_setattr(fd, "", flags, set_, clear)
    except PermissionError:  # something is locked: only what adds restrictions then
        if plain := set_ & ~_ATIME:
            kernel.mount_setattr(fd, "", flags, plain)
    except OSError as error:
        if error.errno != errno.ENOSYS or deep:
            raise
        have = os.fstatvfs(fd).f_flag & 0x40F  # ro, nosuid, nodev, noexec, noatime: locked
        legacy = have | set_ & 0xF
        kernel.mount(None, fd_path(fd), None, kernel.MS_REMOUNT | kernel.MS_BIND | legacy)
