"""The operations on containers, as functions; two command lines share them.

Every function takes the ``Store`` first and raises ChError with one line for what it cannot do.

``create`` may be called by an ordinary user, by root, and by uid 0 of a user namespace that
someone else made (rootless buildah and podman do, and so does a holder of mounts): it then uses
what power it has there. The bundle's tree need only be visible to the caller, so a bundle whose
root is mounted in a holder's namespaces is created by a process that has entered them
(``setns``); from then on the container has its own mount namespace, and everything else works from
outside, for the caller's user owns the container's namespaces.

The container's first process is the caller's child, and when the caller ends it is reparented to
the next subreaper (prctl(2), PR_SET_CHILD_SUBREAPER), which gets its exit status by wait(2), or to
init. A caller that goes on waits for ``Record.pid`` itself.
"""

from __future__ import annotations

import os
import select
import stat

from ch_image.errors import ChError, NotFound, printable
from ch_image.oci.channel import Channel
from ch_image.oci.states import (
    CREATED,
    CREATING,
    RUNNING,
    STOPPED,
    Held,
    Record,
    Store,
    born,
    check_id,
    held,
    knock,
)
from ch_image.oci.wishes import NO_WISHES, Wishes
from ch_image.sandbox import syscalls as kernel
from ch_image.typed import Any

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ch_image.oci.config import Hook, Process, Spec

    Warn = Callable[[str], None]

__all__ = [
    "NO_WISHES",
    "Wishes",
    "create",
    "delete",
    "execute",
    "kill",
    "processes",
    "start",
    "state",
    "template",
]

_SIGKILL = 9
_PATIENCE = 10_000  # milliseconds for a killed process to go


def _silent(_text: str) -> None:
    pass


def create(
    store: Store,
    ident: str,
    bundle: str,
    wishes: Wishes = NO_WISHES,
    config: Spec | None = None,
) -> Record:
    """Make the container of ``bundle`` up to the point where only ``start`` is missing.

    ``config`` replaces the bundle's config.json. When this fails nothing is left behind.
    """
    from ch_image.oci import creating, spec

    check_id(ident)
    bundle = os.path.realpath(bundle)
    found = config if config is not None else spec.load(bundle)
    rootfs = _rootfs(bundle, found)
    _refuse_impossible(found)
    for name in _unknown_capabilities(found):
        wishes.warn(f"process.capabilities: there is no capability '{name}'")
    hold = store.reserve(_record(ident, bundle, rootfs, found, wishes))
    creation = creating.Creation(hold, found, wishes, rootfs)
    try:
        creation.run()
        return hold.record
    except BaseException:
        creation.undo()
        hold.remove()
        _forget(wishes.pid_file)
        raise
    finally:
        hold.close()


def _unknown_capabilities(found: Spec) -> tuple[str, ...]:
    wanted = found.process.capabilities if found.process else None
    return wanted.unknown if wanted else ()


def _rootfs(bundle: str, found: Spec) -> str:
    path = os.path.realpath(os.path.join(bundle, found.root))
    try:
        if not stat.S_ISDIR(os.stat(path).st_mode):
            raise ChError(f"root.path: {printable(path, 300)}: not a directory")
    except OSError as error:
        raise ChError(f"root.path: {printable(path, 300)}: {error.strerror}") from None
    return path


def _refuse_impossible(found: Spec) -> None:
    """What could only fail later, and more obscurely."""
    kinds = {one.kind for one in found.linux.namespaces}
    for name in found.linux.refused:
        raise ChError(f"linux.{name}: only root could apply that, and this runtime does not")
    if (found.hostname or found.domainname) and "uts" not in kinds:
        raise ChError("hostname: would change this machine's: there is no namespace of type uts")
    if found.linux.time_offsets and "time" not in kinds:
        raise ChError("linux.timeOffsets: there is no namespace of type time")


def _record(ident: str, bundle: str, rootfs: str, found: Spec, wishes: Wishes) -> Record:
    from ch_image.oci import creating, spec

    return Record(
        id=ident,
        bundle=bundle,
        rootfs=rootfs,
        version=found.version,
        created=creating.now(),
        annotations=found.annotations,
        poststart=tuple(hook._asdict() for hook in found.hooks.poststart),
        poststop=tuple(hook._asdict() for hook in found.hooks.poststop),
        process=spec.written(found.process) if found.process else {},
        more=dict(wishes.more),
    )


def _forget(pid_file: str) -> None:
    if pid_file:
        try:
            os.unlink(pid_file)
        except OSError:
            pass


def start(store: Store, ident: str, warn: Warn = _silent) -> Record:
    """Let a created container's first process become its program."""
    with held(store, ident) as hold:
        record = hold.record
        status = _status(store, hold)
        if status != CREATED:
            raise ChError(f"container {ident} cannot be started: it is {status}")
        try:
            caller = Channel(knock(hold.path))
        except OSError as error:
            raise ChError(f"container {ident} does not answer: {error.strerror}") from None
        caller.send("start")
        _listen(caller, warn)
        if record.poststart:
            _after_start(store, record, warn)
        return record


def _after_start(store: Store, record: Record, warn: Warn) -> None:
    """The poststart hooks; one that fails ends the container since version 1.3, or is warned of."""
    from ch_image.oci import hooks

    found, now = _hooks(record.poststart), record.state(RUNNING)
    major, minor = (int(part) for part in record.version.split(".")[:2])
    if (major, minor) < (1, 3):
        for text in hooks.run_all("poststart", found, now, record.bundle):
            warn(text)
        return
    try:
        hooks.run("poststart", found, now, record.bundle)
    except ChError:
        _kill_hard(store, record)
        raise


def _listen(caller: Channel, warn: Warn, started: Callable[[int], None] = lambda _: None) -> None:
    """Until the process is the program. Raises ChError when it could not become that."""
    begun = False
    while message := caller.receive():
        kind, *words = message
        if kind == "error":
            caller.close()
            raise ChError(words[0], hint=words[1])
        if kind == "warn":
            warn(words[0])
        elif kind == "pid":
            started(int(words[0]))
        begun = begun or kind == "exec"
    caller.close()
    if not begun:
        raise ChError("the process was killed before it could start")


def _hooks(kept: tuple[dict[str, Any], ...]) -> tuple[Hook, ...]:
    from ch_image.oci.config import Hook

    return tuple(
        Hook(one["path"], tuple(one["args"]), tuple(one["env"]), one["timeout"]) for one in kept
    )


def _status(store: Store, hold: Held) -> str:
    """The status of a container whose lock is ours. Raises NotFound for what was abandoned."""
    status = store.status(hold.record)
    if status == CREATING:  # and nobody is at it, for we have the lock
        hold.remove()
        raise NotFound(f"there is no container {hold.record.id}")
    return status


def state(store: Store, ident: str) -> dict[str, Any]:
    """The state as the specification's JSON has it (``ociVersion``, ``id``, ``status``, ...)."""
    record = store.read(ident)
    status = store.shown(record)
    if status == CREATING and store.forget_abandoned(ident):
        raise NotFound(f"there is no container {ident}")
    return record.state(status)


def kill(store: Store, ident: str, number: int, *, everyone: bool = False) -> None:
    """Send signal ``number`` to the first process; ``everyone``: to all in its PID namespace."""
    record = store.read(ident)
    status = store.status(record)
    if status not in (CREATED, RUNNING):
        raise ChError(f"container {ident} cannot be signalled: it is {status}")
    if not _signal(record, number):
        raise ChError(f"container {ident} cannot be signalled: it is {STOPPED}")
    if everyone:
        for pid in processes(store, ident)[1:]:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass


def _signal(record: Record, number: int) -> bool:
    """Signal the first process; False when it has ended. A later one with its number is safe."""
    try:
        pidfd = kernel.pidfd_open(record.pid)
    except ProcessLookupError:
        return False
    try:
        if born(record.pid) != record.born:
            return False
        kernel.pidfd_send_signal(pidfd, number)
        return True
    except ProcessLookupError:
        return False
    except OSError as error:
        raise ChError(f"signal {number} to process {record.pid}: {error.strerror}") from None
    finally:
        os.close(pidfd)


def delete(store: Store, ident: str, *, force: bool = False, warn: Warn = _silent) -> None:
    """Forget a stopped container; with ``force`` kill it first, and an unknown one is fine.

    One that was created and never started is ended as well: callers that give up in between, such
    as Buildah when it has no network to offer, say no more than that.
    """
    try:
        before = store.read(ident)
        if force or store.status(before) == CREATED:
            _kill_hard(store, before)
        with held(store, ident) as hold:
            status = _status(store, hold)
            if status != STOPPED:
                raise ChError(
                    f"container {ident} cannot be deleted: it is {store.shown(hold.record)}",
                    hint="kill it first, or use --force",
                )
            record = hold.record
            hold.remove()
    except NotFound:
        if force:
            return
        raise
    if not record.poststop:
        return
    from ch_image.oci import hooks

    state_ = record.state(STOPPED)
    for text in hooks.run_all("poststop", _hooks(record.poststop), state_, record.bundle):
        warn(text)


def _kill_hard(store: Store, record: Record) -> None:
    """Kill the first process (and so all in its PID namespace) and wait until it is gone."""
    if store.status(record) not in (CREATED, RUNNING):
        return
    others = processes(store, record.id)[1:]
    try:
        pidfd = kernel.pidfd_open(record.pid)
    except ProcessLookupError:
        return
    try:
        if not _signal(record, _SIGKILL):
            return
        for pid in others:  # of a container without a PID namespace
            try:
                os.kill(pid, _SIGKILL)
            except OSError:
                pass
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(_PATIENCE):
            raise ChError(f"container {record.id} does not end: process {record.pid} hangs")
    finally:
        os.close(pidfd)


def processes(store: Store, ident: str) -> list[int]:
    """PIDs, as the caller sees them, of all processes in the container, its first one first."""
    record = store.read(ident)
    if store.status(record) not in (CREATED, RUNNING):
        return []
    theirs = _namespace(str(record.pid))
    parents = {pid: _parent(pid) for pid in map(int, filter(str.isdigit, os.listdir("/proc")))}
    if theirs and theirs != _namespace("self"):
        rest = [pid for pid in parents if _namespace(str(pid)) == theirs]
    else:
        rest = [pid for pid in parents if _descends(pid, record.pid, parents)]
    return [record.pid, *(pid for pid in sorted(rest) if pid != record.pid)]


def _namespace(pid: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


def _descends(pid: int, from_: int, parents: dict[int, int]) -> bool:
    while pid and pid != from_:
        pid = parents.get(pid, 0)
    return pid == from_


def execute(store: Store, ident: str, process: Process, wishes: Wishes = NO_WISHES) -> int:
    """Start another process in a running container; its PID, of a child of this process.

    The caller waits for it (``os.waitpid``). Raises ChError when it cannot be started.
    """
    record = store.read(ident)
    status = store.shown(record)
    if status not in (CREATED, RUNNING):
        raise ChError(f"nothing can be run in container {ident}: it is {status}")
    from ch_image.oci import entering

    return entering.run(f"{store.path}/{ident}", record, process, wishes)


def template(store: Store, ident: str) -> Process:
    """The container's own process as config.json had it: what ``exec`` starts from."""
    from ch_image.oci import spec

    return spec.parse_process(store.read(ident).process)
