"""A pseudoterminal of the container's own devpts, its master side handed to whoever asked."""

from __future__ import annotations

import _socket
import array
import errno
import fcntl
import os
import struct
import termios

from ch_image.errors import ChError, printable
from ch_image.sandbox import syscalls as kernel

_TIOCSPTLCK, _TIOCGPTPEER = 0x40045431, 0x5441


def connect(path: str) -> _socket.socket:
    """The console socket that the caller listens on. Raises ChError."""
    console = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    directory = os.open(os.path.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        console.connect(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
    except OSError as error:
        console.close()
        raise ChError(f"console socket {printable(path, 300)}: {error.strerror}") from None
    finally:
        os.close(directory)
    return console


def take(console: _socket.socket, size: tuple[int, int] | None, uid: int) -> None:
    """Inside the container's root: a new terminal becomes this process's, and its 0, 1 and 2.

    The process must lead its session. Raises OSError.
    """
    flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
    master = os.open("/dev/ptmx", flags)
    fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
    # By the master's descriptor: the path /dev/pts/N might be something else by now.
    slave = fcntl.ioctl(master, _TIOCGPTPEER, flags)
    if size and size != (0, 0):
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", *size, 0, 0))
    try:
        os.fchown(slave, uid, -1)
    except OSError:  # not mapped; it is ours all the same
        pass
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for number in range(3):
        os.dup2(slave, number)
    os.close(slave)
    rights = array.array("i", [master])
    console.sendmsg([b"/dev/ptmx"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
    os.close(master)
    console.close()


def as_console() -> None:
    """Let /dev/console be the terminal too, where there is room for it."""
    try:
        try:
            os.close(os.open("/dev/console", os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            pass
        kernel.mount(os.ttyname(0), "/dev/console", None, kernel.MS_BIND)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT):
            raise
