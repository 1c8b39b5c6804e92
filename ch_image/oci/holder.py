"""A bundle's root, mounted for as long as its holder lives.

A mount of an ordinary user's is in a namespace of theirs and goes with its last process. So
``mount`` leaves a process, the holder, that keeps a writable overlay of an image's layers:

    BUNDLE/config.json    made from the image's configuration
    BUNDLE/rootfs/        the root; empty to whoever is not in the holder's namespaces
    BUNDLE/.ch-image      a link to the holder's directory in storage, tmp/NAME
    tmp/NAME/lock         its flock says that the holder lives (storage/scratch.py)
    tmp/NAME/holder       who it is: what `Mounted` says, as JSON
    tmp/NAME/...          what is written to the root

There is no other record. Whatever kills the holder, the kernel takes the mount and the lock away,
and the next command that writes to storage removes the directory. While it lives it holds the
storage directory for use, so that nobody collects the layers.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from ch_image.errors import SandboxError, StorageError, UsageError, printable
from ch_image.oci.bundle import ROOTFS
from ch_image.oci.leave import Report, detach, leave
from ch_image.sandbox import syscalls as kernel
from ch_image.sandbox import userns
from ch_image.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ch_image.storage.layers import Chain
    from ch_image.storage.store import Storage

MARKER = ".ch-image"
COPY = "copy"  # the marker's target where the root is a plain tree and needs no holder
_RECORD = "holder"
_MAX_RECORD = 1 << 20  # bytes
_PATIENCE = 30.0  # seconds for a holder to end in order
_SIGTERM, _SIGKILL = 15, 9
_ENDING = (1, 2, _SIGTERM)  # HUP, INT, TERM

Configure = Callable[[str], dict[str, Any]]  # from the root's path to the bundle's config.json


class Mounted(NamedTuple):
    """A mounted bundle: its holder, and by which namespaces one tells that it is still the same."""

    pid: int
    bundle: str
    image: str
    since: float  # Unix time
    namespaces: str  # of users and mounts, as /proc/PID/ns names them
    locks: tuple[int, ...]  # the holder's descriptors of what it keeps locked


@contextmanager
def claimed(bundle: str, *, make: bool = False) -> Iterator[None]:
    """Keep other commands off the bundle's directory; ``make`` it when it is absent.

    What was made is removed when the block fails. Raises OSError.
    """
    made = False
    while True:
        if make:
            made = not os.path.isdir(bundle) or made
            os.makedirs(bundle, 0o755, exist_ok=True)
        fd = os.open(bundle, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        with suppress(OSError):  # some network file systems lock no directories
            fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            if os.path.samestat(os.fstat(fd), os.stat(bundle)):
                break
        except FileNotFoundError:  # unmounted while we waited
            pass
        os.close(fd)
    try:
        yield
    except BaseException:
        if made:
            with suppress(OSError):
                os.rmdir(bundle)
        raise
    finally:
        os.close(fd)


def find(bundle: str) -> Mounted | None:
    """The bundle's living holder."""
    try:
        place = os.readlink(f"{bundle}/{MARKER}")
    except OSError:
        return None
    found = _read(place) if place != COPY else None
    return found if found and found.bundle == os.path.realpath(bundle) else None


def is_ours(bundle: str) -> bool:
    """Whether ``mount`` made the bundle, be its holder alive or not."""
    return os.path.islink(f"{bundle}/{MARKER}")


def all_held(storage_path: str) -> list[Mounted]:
    """The mounted bundles of a storage directory, oldest first."""
    places = [f"{storage_path}/tmp/{name}" for name in os.listdir(f"{storage_path}/tmp")]
    return sorted(filter(None, map(_read, places)), key=lambda held: held.since)


def _read(place: str) -> Mounted | None:
    """Who holds with the directory ``place``; None when that process is dead, or no holder."""
    try:
        fd = os.open(f"{place}/{_RECORD}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            value = json.loads(os.read(fd, _MAX_RECORD))
        finally:
            os.close(fd)
        pid, bundle, image, since, namespaces, locks = value
        is_it = _is_locked(f"{place}/lock") and _namespaces(pid) == namespaces
        return Mounted(pid, bundle, image, since, namespaces, tuple(locks)) if is_it else None
    except (OSError, ValueError, TypeError):
        return None


def _is_locked(path: str) -> bool:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(fd)


def _namespaces(pid: int | str) -> str:
    return ",".join(os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("user", "mnt"))


def mount(bundle: str, image: str, chain: Chain, storage_path: str, configure: Configure) -> None:
    """Fill the directory ``bundle`` and leave its holder; the caller has claimed it.

    Raises what the holder met with, as ChError.
    """
    leave("ch-image holder", _Holder(bundle, image, chain, storage_path, configure).live)


class _Holder:
    """The process that keeps the mount."""

    def __init__(
        self, bundle: str, image: str, chain: Chain, storage_path: str, configure: Configure
    ) -> None:
        self.bundle, self._image, self._chain = bundle, image, chain
        self._storage_path, self._configure = storage_path, configure

    def live(self, report: Report) -> None:
        """Mount, say so, wait to be ended, and tidy up."""
        import _signal  # type: ignore[import-not-found]

        from ch_image.storage.store import open_storage

        # Before anything is made: what comes before it is ready ends it in order, too.
        _signal.pthread_sigmask(_signal.SIG_BLOCK, _ENDING)
        userns.enter()
        with open_storage(self._storage_path) as storage, storage.lock():
            self._keep(storage, report, _signal.sigwait)

    def _keep(self, storage: Storage, report: Report, wait: Callable[[Any], object]) -> None:
        snapshotter = storage.snapshotter("overlay")
        draft = snapshotter.prepare(self._chain)
        half_made = True
        try:
            config = self._configure(draft.root)
            os.mkdir(f"{self.bundle}/{ROOTFS}", 0o755)
            kernel.mount(draft.root, f"{self.bundle}/{ROOTFS}", None, kernel.MS_BIND)
            self._record(storage.tmp)
            write_config(self.bundle, config)
            os.symlink(storage.tmp, f"{self.bundle}/{MARKER}")
            report.ready()
            half_made = False
            detach()
            wait(_ENDING)
        finally:
            with suppress(OSError):
                kernel.umount2(f"{self.bundle}/{ROOTFS}", kernel.MNT_DETACH)
            if half_made:
                clear(self.bundle)
            snapshotter.discard(draft)

    def _record(self, place: str) -> None:
        locks = tuple(_descriptors((f"{place}/lock", f"{self._storage_path}/lock")))
        held = Mounted(
            os.getpid(), os.path.realpath(self.bundle), self._image, time.time(),
            _namespaces("self"), locks,
        )  # fmt: skip
        fd = os.open(f"{place}/{_RECORD}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC,
                     0o600)  # fmt: skip
        try:
            os.write(fd, json.dumps(held).encode())
        finally:
            os.close(fd)


def _descriptors(paths: tuple[str, ...]) -> Iterator[int]:
    """Our descriptors of the files at ``paths``."""
    wanted = {(state.st_dev, state.st_ino) for state in map(os.stat, paths)}
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            state = os.fstat(int(name))
            if (state.st_dev, state.st_ino) in wanted:
                yield int(name)


def write_config(bundle: str, config: dict[str, Any]) -> None:
    """The bundle's config.json."""
    with open(f"{bundle}/config.json", "x", encoding="utf-8") as file:
        file.write(json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def clear(bundle: str) -> None:
    """Remove what ``mount`` made in the bundle."""
    for name in (MARKER, "config.json"):
        with suppress(FileNotFoundError):
            os.unlink(f"{bundle}/{name}")
    with suppress(OSError):
        os.rmdir(f"{bundle}/{ROOTFS}")


def unmount(bundle: str) -> None:
    """End the bundle's holder, if it lives, and wait for that. Raises StorageError."""
    held = find(bundle)
    if held is None:
        return
    import select

    try:
        pidfd = kernel.pidfd_open(held.pid)
    except ProcessLookupError:
        return
    try:
        if find(bundle) != held:
            return
        os.kill(held.pid, _SIGTERM)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(_PATIENCE * 1000):
            os.kill(held.pid, _SIGKILL)
            if not poll.poll(_PATIENCE * 1000):
                raise StorageError(f"process {held.pid}, which holds the mount, does not end")
    finally:
        os.close(pidfd)


def enter(bundle: str) -> tuple[int, ...]:
    """Enter the namespaces in which the bundle's root is mounted; () when it has no holder.

    The working directory is the bundle then. Returns descriptors of the holder's locks: as long
    as any process keeps them, storage stays as it is, even when the holder is killed. The process
    must be in no namespace of ours yet. Raises SandboxError.
    """
    held = find(bundle)
    if held is None:
        return ()
    pidfd = -1
    try:
        pidfd = kernel.pidfd_open(held.pid)
        if find(bundle) != held:
            raise ProcessLookupError
        userns.join(pidfd)
        os.chdir(held.bundle)
        return tuple(kernel.pidfd_getfd(pidfd, lock) for lock in held.locks)
    except OSError as error:
        raise SandboxError(
            f"cannot enter the mount of bundle {printable(bundle, 300)}: {error.strerror}",
            hint="umount the bundle and mount it again",
        ) from None
    finally:
        if pidfd >= 0:
            os.close(pidfd)


def check_free(bundle: str) -> None:
    """Raises UsageError when something is in a claimed directory.

    What a dead holder left is removed.
    """
    shown = printable(bundle, 300)
    if is_ours(bundle):
        if find(bundle) is not None or os.readlink(f"{bundle}/{MARKER}") == COPY:
            raise UsageError(f"a bundle is there already: {shown}", hint="umount it first")
        clear(bundle)
    if os.listdir(bundle):
        raise UsageError(f"the directory is not empty: {shown}", hint="give a new or empty one")
