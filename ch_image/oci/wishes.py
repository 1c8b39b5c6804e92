"""What a caller may say beside the bundle when it creates a container or runs another process."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ch_image.typed import Any, NamedTuple


class Wishes(NamedTuple):
    """How a container's process is to be connected and watched.

    ``stdio`` are the descriptors that become the program's 0, 1 and 2 unless it has a terminal of
    its own; they stay the caller's. For a process with a terminal the master side is sent
    (SCM_RIGHTS) over ``console``, a connected Unix socket, or to the listening socket whose path is
    ``console_socket``. ``emulate`` is root emulation (docs/emulation.md); None: where only one ID
    is mapped. It records owners on files unless ``records`` is False; ``owners`` are (path, uid,
    gid) of symlinks, FIFOs and sockets that it is told before.
    """

    console_socket: str = ""
    console: int = -1
    pid_file: str = ""
    stdio: tuple[int, int, int] = (0, 1, 2)
    preserve_fds: int = 0
    keyring: bool = True  # a session keyring of its own
    emulate: bool | None = None
    records: bool = True
    owners: tuple[tuple[str, int, int], ...] = ()
    more: Mapping[str, Any] = {}  # kept in Record.more
    warn: Callable[[str], None] = lambda _text: None


NO_WISHES = Wishes()
