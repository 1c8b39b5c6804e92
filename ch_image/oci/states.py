"""What is remembered about containers between two commands, and who may change it.

A store is a directory of mode 0700 with one directory per container:

- ``state.json``: the record, replaced by rename(2);
- ``lock``: flock(2) of whoever changes the container;
- ``start``: a socket on which the container's first process waits until it may become the program;
  nobody listens any more once it did, and then the container runs;
- ``emulation``: with root emulation, the socket that takes further listeners (for ``exec``).

A container's directory appears by one rename(2), its lock held. So of two that create the same ID
one wins; and a directory that says "creating" while nobody holds its lock was left by a process
that was killed: whoever meets it takes it away. A process is known by its number and start time
together, so that a later process with the same number is never taken for it.
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import time

from ch_image.errors import ChError, NotFound, StorageError, printable
from ch_image.oci import quickjson
from ch_image.typed import Any, NamedTuple

CREATING, CREATED, RUNNING, STOPPED = "creating", "created", "running", "stopped"
PAUSED = "paused"  # what a running container is called meanwhile; and in Record.more
RECORDED, QUIET = "recorded", "quiet"  # root emulation: by a supervisor, or just "done"
VERSION = "1.3.0"  # of the runtime-spec that is followed
_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+.-")
_PATIENCE = 10.0  # seconds to wait for another command on the same container
_PAUSE = 0.01
_NEW, _GONE = ".new-", ".gone-"  # what no container's name begins with


class Record(NamedTuple):
    """What is known of a container.

    ``pid`` is its first process as its creator saw it, ``born`` that process's start time in clock
    ticks since ``boot``; both 0 until there is one. ``rootfs`` is its tree as seen by its creator.
    """

    id: str
    bundle: str
    rootfs: str = ""
    version: str = VERSION  # ociVersion of its config.json
    phase: str = CREATING  # CREATING or CREATED; the rest is observed, not remembered
    pid: int = 0
    born: int = 0
    boot: str = ""  # the kernel's name for the time since it was started, see boot()
    created: str = ""  # RFC 3339, UTC
    annotations: tuple[tuple[str, str], ...] = ()
    emulation: str = ""  # RECORDED, QUIET or none
    stubs: tuple[tuple[str, int], ...] = ()  # mount points that were made, see oci/stubs.py
    group: str = ""  # the directory of its cgroup
    groups: tuple[str, ...] = ()  # of those that were made for it
    poststart: tuple[Any, ...] = ()  # hooks for later commands, as config.json has them
    poststop: tuple[Any, ...] = ()
    process: dict[str, Any] = {}  # process of config.json, whose settings ``exec`` inherits
    more: dict[str, Any] = {}  # of other programs that build on this

    def state(self, status: str) -> dict[str, Any]:
        """The state as the specification has it."""
        out: dict[str, Any] = {"ociVersion": self.version, "id": self.id, "status": status}
        if status != STOPPED and self.pid:
            out["pid"] = self.pid
        out["bundle"] = self.bundle
        out |= {"rootfs": self.rootfs, "created": self.created}
        out["annotations"] = dict(self.annotations)
        return out


class Held:
    """A container's directory whose lock is ours. Closing it gives the lock back."""

    def __init__(self, path: str, lock: int, record: Record) -> None:
        self.path, self.lock, self.record = path, lock, record

    def save(self, record: Record) -> None:
        """Replace the record."""
        _write(self.path, record)
        self.record = record

    def remove(self) -> None:
        """Take the container's directory away, and what was made in its root for it."""
        from ch_image.oci import stubs

        store = os.path.dirname(self.path)
        gone = f"{store}/{_GONE}{os.urandom(8).hex()}"
        lock = _locked(store)
        try:
            stubs.settle(Store(store), self.record)
            if self.record.groups:
                from ch_image.oci import groups

                groups.remove(self.record.groups)
            # Out of sight by one step: what dies after that leaves no half container.
            os.rename(self.path, gone)
        finally:
            os.close(lock)
        _clear(gone)
        _remove(store)  # unless there are others

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the lock back; may be repeated."""
        lock, self.lock = self.lock, -1
        if lock >= 0:
            os.close(lock)


class Store:
    """A directory of containers; made when first written to."""

    def __init__(self, path: str) -> None:
        self.path = path

    def reserve(self, record: Record) -> Held:
        """A new container's directory, locked, its phase CREATING. Raises ChError if it exists."""
        check_id(record.id)
        fresh, lock = self._fresh()
        _write(fresh, record)
        final = f"{self.path}/{record.id}"
        for _ in range(3):
            try:
                _appear(fresh, final)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                if self.forget_abandoned(record.id):
                    continue
                break
            return Held(final, lock, record)
        os.close(lock)
        _clear(fresh)
        raise ChError(
            f"container {record.id} exists already", hint="delete it, or choose another ID"
        )

    def _fresh(self) -> tuple[str, int]:
        """A new directory that is no container yet, and its lock, which is ours."""
        while True:
            self._prepare()
            fresh = f"{self.path}/{_NEW}{os.urandom(8).hex()}"
            try:
                os.mkdir(fresh, 0o700)
                lock = os.open(f"{fresh}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:  # swept, or the store went with its last container
                continue
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.fstat(lock).st_nlink:
                return fresh, lock
            os.close(lock)  # swept before we had it

    def hold(self, ident: str) -> Held:
        """A container's directory, locked. Raises NotFound."""
        check_id(ident)
        path = f"{self.path}/{ident}"
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                lock = os.open(f"{path}/lock", os.O_RDWR | os.O_CLOEXEC)
            except (FileNotFoundError, NotADirectoryError):
                raise _unknown(ident) from None
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(lock), os.stat(f"{path}/lock")):
                    return Held(path, lock, self.read(ident))
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(lock)
                    raise ChError(f"container {ident} is busy with another command") from None
                time.sleep(_PAUSE)
            except FileNotFoundError:  # deleted meanwhile
                pass
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)

    def read(self, ident: str) -> Record:
        """A container's record; no lock is needed for that. Raises NotFound, StorageError."""
        check_id(ident)
        try:
            with open(f"{self.path}/{ident}/state.json", encoding="utf-8") as file:
                return _record(quickjson.loads(file.read()))
        except (FileNotFoundError, NotADirectoryError):
            raise _unknown(ident) from None
        except (ValueError, TypeError, AttributeError) as error:
            raise StorageError(f"the state of container {ident} cannot be read: {error}") from None

    def status(self, record: Record) -> str:
        """creating, created, running or stopped, by looking."""
        if not record.pid or record.phase == CREATING:
            return CREATING
        if born(record.pid) != record.born or _is_earlier(record.boot):
            return STOPPED
        return CREATED if listens(f"{self.path}/{record.id}") else RUNNING

    def shown(self, record: Record) -> str:
        """The status as it is told: that, or paused, which the specification leaves to runtimes."""
        status = self.status(record)
        return PAUSED if status == RUNNING and record.more.get(PAUSED) else status

    def list(self) -> list[Record]:
        """All containers, by ID; abandoned ones are taken away."""
        out = []
        try:
            names = sorted(os.listdir(self.path))
        except FileNotFoundError:
            return []
        for name in names:
            if name.startswith("."):
                continue
            try:
                record = self.read(name)
            except ChError:
                continue
            if record.phase != CREATING or not self.forget_abandoned(name):
                out.append(record)
        return out

    def _prepare(self) -> None:
        """Make the store if need be, and clear away what killed commands left there."""
        os.makedirs(self.path, 0o700, exist_ok=True)
        status = os.stat(self.path)
        if status.st_uid != os.geteuid():
            raise StorageError(f"{self.path} belongs to another user")
        if status.st_mode & 0o022:
            raise StorageError(
                f"others can write to {self.path}", hint=f"chmod go-w {self.path}, or give --root"
            )
        for name in os.listdir(self.path):
            if name.startswith((_NEW, _GONE)):
                _sweep(f"{self.path}/{name}")

    def forget_abandoned(self, ident: str) -> bool:
        """Take away a container whose creator was killed; False when it is a real one."""
        path = f"{self.path}/{ident}"
        try:
            lock = os.open(f"{path}/lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return not os.path.exists(path)
        gone = False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # What we have locked may have been deleted, and another may have the ID by now.
            if os.path.samestat(os.fstat(lock), os.stat(f"{path}/lock")):
                record = self.read(ident)
                gone = record.phase == CREATING
                if gone:
                    Held(path, -1, record).remove()
        except BlockingIOError:
            pass
        except (FileNotFoundError, NotFound):
            gone = True
        finally:
            os.close(lock)
        return gone


def held(store: Store, ident: str) -> Held:
    """``store.hold``, to be read in a with statement."""
    return store.hold(ident)


def _locked(store: str) -> int:
    """The store's own lock, for a moment: a root's last container goes, or one more comes."""
    lock = os.open(store, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def _appear(fresh: str, final: str) -> None:
    lock = _locked(os.path.dirname(final))
    try:
        os.rename(fresh, final)
    finally:
        os.close(lock)


def _sweep(directory: str) -> None:
    """Remove what nobody holds the lock of."""
    try:
        lock = os.open(f"{directory}/lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # just being made, and then not empty for long; or half gone
        _remove(directory)
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _clear(directory)
    except BlockingIOError:  # somebody is at it
        pass
    finally:
        os.close(lock)


def _clear(directory: str) -> None:
    """Remove a directory of files, as far as it can be done."""
    try:
        # The lock last: without one, only an empty directory is taken away.
        for name in sorted(os.listdir(directory), key="lock".__eq__):
            os.unlink(f"{directory}/{name}")
    except OSError:  # somebody else was faster, or it is none
        pass
    _remove(directory)


def _remove(directory: str) -> None:
    try:
        os.rmdir(directory)
    except OSError:
        pass


def check_id(ident: str) -> None:
    """Raise ChError unless ``ident`` can name a container: one plain file name."""
    if not 0 < len(ident) < 256 or not _LETTERS.issuperset(ident) or ident.startswith("."):
        raise ChError(
            f"a container cannot be called '{printable(ident, 60)}'",
            hint="use letters, digits and _ + . - (not first a dot), at most 255",
        )


def born(pid: int) -> int:
    """The start time of process ``pid`` in clock ticks since boot; 0 when it has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in b"ZX" else int(fields[19])


def boot() -> str:
    """Which start of this machine it is; empty when that cannot be known."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def _is_earlier(name: str) -> bool:
    """Whether it is another start of this machine than now; what is not known is this one."""
    now = boot()
    return bool(name and now) and name != now


def listens(directory: str) -> bool:
    """Whether the first process of the container at ``directory`` still waits for its start."""
    try:
        knock(directory).close()
    except OSError:
        return False
    return True


def knock(directory: str, name: str = "start") -> _socket.socket:
    """Connect to a socket of a container. Raises OSError when nobody listens."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    try:
        # By descriptor: a socket's path may have 107 bytes.
        connection.connect(f"/proc/self/fd/{fd}/{name}")
    except OSError:
        connection.close()
        raise
    finally:
        os.close(fd)
    return connection


def _record(fields: dict[str, Any]) -> Record:
    """What was written by this version or another: fields it does not know are left out."""
    known = {name: value for name, value in fields.items() if name in Record._fields}
    for name in ("annotations", "stubs"):
        known[name] = tuple(map(tuple, fields.get(name, ())))
    return Record(**known)


def _unknown(ident: str) -> NotFound:
    return NotFound(f"there is no container {ident}")


def _write(directory: str, record: Record) -> None:
    path = f"{directory}/state.json"
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        file.write(quickjson.dumps(record._asdict()))
    os.rename(f"{path}.new", path)
