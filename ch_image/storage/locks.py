"""The lock on the storage directory: many users, or one who throws things away.

An flock dies with the last process that holds it, however it dies; nobody needs to break one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ch_image.errors import StorageError
from ch_image.storage.faults import storage_error

DEFAULT_WAIT = 600.0  # seconds


@contextmanager
def locked(
    path: str,
    *,
    exclusive: bool = False,
    wait: float = DEFAULT_WAIT,
    on_wait: Callable[[str], None] | None = None,
) -> Iterator[None]:
    """Hold the lock of the storage directory at ``path`` for the block.

    Waits up to ``wait`` seconds; ``on_wait`` hears once that and why. Raises StorageError when
    the time is up. Shared locks of one process don't disturb each other.
    """
    try:
        fd = os.open(f"{path}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise storage_error("lock the storage directory", error) from error
        raise storage_error("change the storage directory", error) from error
    try:
        _acquire(fd, path, exclusive, wait, on_wait)
        yield
    finally:
        os.close(fd)


def _acquire(
    fd: int, path: str, exclusive: bool, wait: float, on_wait: Callable[[str], None] | None
) -> None:
    operation = fcntl.LOCK_NB | (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
    who = "other ch-image commands are using" if exclusive else "another ch-image is cleaning"
    end = time.monotonic() + wait
    pause = 0.01
    while True:
        try:
            fcntl.flock(fd, operation)
            return
        except BlockingIOError:
            pass
        except OSError as error:
            raise storage_error("lock the storage directory", error) from error
        left = end - time.monotonic()
        if left <= 0:
            raise StorageError(
                f"{who} the storage directory, and did not end within {wait:g} seconds: {path}",
                hint="try again when they have ended; ch-image oci list shows mounted bundles",
            )
        if on_wait:
            on_wait(f"{who} the storage directory; waiting up to {wait:g} seconds")
            on_wait = None
        time.sleep(min(pause, left))
        pause = min(pause * 1.5, 0.25)
