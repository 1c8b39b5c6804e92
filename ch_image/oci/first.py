"""Inside ``create``: the process that makes the namespaces, and the container's first process.

The maker is the command's child. It enters or makes the namespaces and leaves the first process as
its own sister (CLONE_PARENT), which then belongs to whoever called the command once that ends.
With root emulation the maker stays as supervisor: outside of the PID namespace, so that the
program is process 1 and has no children that it does not know; with the container's mounts and
root, so that paths mean to it what they mean inside.
"""

from __future__ import annotations

import _socket
import os
import select
import struct
from collections.abc import Callable

from ch_image.errors import ChError, SandboxError
from ch_image.oci import hooks, joining, rootfs, terminal
from ch_image.oci.become import Means, become, environment, find, lock_imports
from ch_image.oci.channel import Channel
from ch_image.oci.config import Spec
from ch_image.oci.states import QUIET, RECORDED
from ch_image.sandbox import power, procfs, userns
from ch_image.sandbox import syscalls as kernel
from ch_image.sandbox.identity import ids_of
from ch_image.sandbox.mounts import loopback_up
from ch_image.sandbox.plan import Identity
from ch_image.sandbox.seccomp import program as filter_program
from ch_image.sandbox.start import install_filter
from ch_image.sandbox.supervisor import Supervisor
from ch_image.typed import Any, NamedTuple

_PATIENCE = 5.0  # seconds for a process that wants to be served to say who it is


class Setup(NamedTuple):
    """All that the processes need to know, settled before the first fork."""

    spec: Spec
    bundle: str
    rootfs: str
    state: dict[str, Any]  # as the hooks get it; the PID is put in
    channel: Channel
    waiting: _socket.socket  # listens for ``start``
    more: _socket.socket  # listens for the filters of further processes
    console: _socket.socket | None
    stdio: tuple[int, int, int]
    profile: bytes
    preserve: int
    keyring: bool
    new_user: bool
    owners: tuple[tuple[str, int, int], ...]
    foreign: tuple[int, ...]  # descriptors that only the command may hold


def make(setup: Setup) -> None:
    """In a fresh child: make the namespaces and the first process in them. Never returns."""
    try:
        for fd in setup.foreign:
            os.close(fd)
        _make(setup)
    except Exception as error:  # nobody else could tell of it
        setup.channel.send("error", said(error), getattr(error, "hint", ""))
    finally:
        os._exit(1)


def said(error: Exception) -> str:
    """What went wrong, on one line."""
    if isinstance(error, ChError):
        return str(error)
    if not isinstance(error, OSError):
        return f"internal error: {type(error).__name__}: {error}"
    about = f": {error.filename}" if isinstance(error.filename, str) else ""
    return f"the container cannot be set up: {error.strerror}{about}"


def _make(setup: Setup) -> None:
    spec, channel = setup.spec, setup.channel
    _oom_score(setup)
    waiting = joining.opened(spec)
    user = [pair for pair in waiting if pair[0].kind == "user"]
    waiting = joining.join([pair for pair in waiting if pair not in user], last=False)
    joining.join(user, last=True)
    if setup.new_user:
        try:
            kernel.unshare(kernel.CLONE_NEWUSER)
        except OSError as error:
            raise SandboxError(
                f"a user namespace cannot be made: {error.strerror}",
                hint=userns.reason(error.errno),
            ) from None
    channel.send("map")
    answer = channel.receive()
    if not answer:
        os._exit(1)
    how = answer[1]
    if setup.new_user or user:
        be_root()
    joining.join(waiting, last=True)
    try:
        kernel.unshare(joining.new_flags(spec))
    except OSError as error:
        raise SandboxError(f"linux.namespaces cannot be made: {error.strerror}") from None
    _time_offsets(spec)
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if how == RECORDED:
        procfs.enter()  # what is mounted at /proc inside is no concern of the supervisor's
    pid = kernel.fork(kernel.CLONE_PARENT)
    if pid == 0:
        ours.close()
        _first(setup, proc, emulation(how, theirs))
    channel.send("pid", str(pid))
    theirs.close()
    if how == RECORDED:
        _supervise(setup, ours)
    os._exit(0)


def accept(listener: _socket.socket) -> _socket.socket:
    """The next connection; the module socket, which has this, takes long to import."""
    fd: int
    fd, _ = listener._accept()  # type: ignore[attr-defined]
    return _socket.socket(fileno=fd)


def emulation(how: str, supervisor: _socket.socket | None) -> Callable[[], None] | None:
    """What installs the filter of root emulation: answered by the supervisor, or just "done"."""
    if how == RECORDED and supervisor is not None:
        return lambda: install_filter(supervisor)
    if how == QUIET:
        return filter_quietly
    return None


def filter_quietly() -> None:
    """Let the calls of root emulation succeed without doing anything."""
    kernel.seccomp_filter(filter_program(notify=False))


def be_root() -> None:
    """In a new user namespace: 0:0 if that is mapped, for what we make shall be root's there."""
    try:
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    except OSError:
        pass


def _oom_score(setup: Setup) -> None:
    """Before the user namespace, where more may be allowed; children inherit it."""
    process = setup.spec.process
    if process is None or process.oom_score_adj is None:
        return
    try:
        kernel.write_file("/proc/self/oom_score_adj", str(process.oom_score_adj))
    except OSError as error:
        with open("/proc/self/oom_score_adj") as file:
            have = file.read().strip()
        setup.channel.send("warn", f"process.oomScoreAdj stays {have}: {error.strerror}")


def _time_offsets(spec: Spec) -> None:
    if not spec.linux.time_offsets:
        return
    lines = [f"{clock} {secs} {nano}" for clock, secs, nano in spec.linux.time_offsets]
    try:
        kernel.write_file("/proc/self/timens_offsets", "\n".join(lines))
    except OSError as error:
        raise SandboxError(f"linux.timeOffsets: {error.strerror}") from None


# -- the first process --


def _first(setup: Setup, proc: int, emulate: Callable[[], None] | None) -> None:
    """The container's first process, up to the program. Never returns."""
    channel: Channel | None = setup.channel
    try:
        os.setsid()
        last = power.last_capability()
        _furnish(setup, proc)
        setup.channel.send("ready")
        if not setup.channel.receive():
            os._exit(1)
        setup.channel.close()
        channel = None
        _await_start(setup, proc, last, emulate)
    except Exception as error:  # nobody else could tell of it
        if channel is not None:
            channel.send("error", said(error), getattr(error, "hint", ""))
    finally:
        os._exit(1)


def _furnish(setup: Setup, proc: int) -> None:
    spec, channel = setup.spec, setup.channel
    state = setup.state | {"pid": os.getpid()}

    def warn(text: str) -> None:
        channel.send("warn", text)

    def made(stubs: list[tuple[str, int]]) -> None:
        channel.send("stubs", *(word for path, at in stubs for word in (path, str(at))))

    root = rootfs.furnish(spec, setup.rootfs, setup.bundle, made, warn)
    _names(spec)
    _sysctl(spec, proc, warn)
    channel.send("hooks")
    if not channel.receive():
        os._exit(1)
    hooks.run("createContainer", spec.hooks.create_container, state, setup.bundle)
    rootfs.restrict(spec, root)
    lock_imports()
    rootfs.pivot(spec, root)
    rootfs.propagate(spec)
    process = spec.process
    if process is None:
        return
    for number, fd in enumerate(setup.stdio):
        os.dup2(fd, number)
    if setup.console is not None:
        terminal.take(setup.console, process.console_size, process.user.uid)
        terminal.as_console()
    find(process, environment(process))


def _names(spec: Spec) -> None:
    try:
        if spec.hostname:
            kernel.sethostname(spec.hostname)
        if spec.domainname:
            kernel.setdomainname(spec.domainname)
    except OSError as error:
        raise SandboxError(f"hostname: {error.strerror}") from None
    if any(one.kind == "network" and not one.path for one in spec.linux.namespaces):
        try:
            loopback_up()
        except OSError:  # then there is no loopback, as in a namespace that nobody set up
            pass


def _sysctl(spec: Spec, proc: int, warn: rootfs.Warn) -> None:
    for key, value in spec.linux.sysctl:
        path = "sys/" + key.replace(".", "/")
        try:
            fd = kernel.openat2(proc, path, os.O_WRONLY, 0, kernel.RESOLVE_BENEATH)
            try:
                os.write(fd, value.encode())
            finally:
                os.close(fd)
        except OSError as error:
            warn(f"linux.sysctl: {key} stays as it is: {error.strerror}")


def _await_start(setup: Setup, proc: int, last: int, emulate: Callable[[], None] | None) -> None:
    """Wait for ``start``, then become the program; what goes wrong is told to ``start``."""
    while True:
        connection = accept(setup.waiting)
        if connection.recv(16) == b"start":  # others only look whether we listen
            break
        connection.close()
    caller = Channel(connection)
    setup.waiting.close()
    spec = setup.spec
    try:
        if spec.process is None:
            raise ChError("process: is missing, so there is nothing to start")
        state = setup.state | {"pid": os.getpid()}
        hooks.run("startContainer", spec.hooks.start_container, state, "/")
        means = Means(
            proc, last, setup.profile, emulate, setup.preserve, setup.keyring,
            spec.linux.personality,
        )  # fmt: skip
        become(
            spec.process,
            means,
            warn=lambda text: caller.send("warn", text),
            ready=lambda: caller.send("exec"),
        )
    except Exception as error:  # nobody else could tell of it
        caller.send("error", said(error), getattr(error, "hint", ""))
        os._exit(127)


# -- the supervisor --


def _supervise(setup: Setup, first: _socket.socket) -> None:
    """Answer the emulated calls of the container's processes until there are none left."""
    setup.channel.close()
    setup.waiting.close()
    null = os.open("/dev/null", os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    # The caller's others too: it would wait for the end of a pipe that we hold open.
    kernel.close_all_but(setup.more.fileno(), first.fileno())
    process = setup.spec.process
    if process is None:
        return
    user = process.user
    ids = ids_of(user.uid, user.gid, user.groups)
    mounts = frozenset(one.destination for one in setup.spec.mounts)
    lock_imports()
    Watch(setup.more, first, Supervisor(ids, list(setup.owners), mounts)).serve()


class Watch:
    """Serves the filters that come over ``first`` (once) and ``more`` (with each ``exec``).

    Who comes over ``more`` says first who it wants to be (uid:gid:groups), and gets the mark of
    that identity to put on itself.
    """

    def __init__(self, more: _socket.socket, first: _socket.socket, supervisor: Supervisor) -> None:
        self._more, self._first, self._supervisor = more, first, supervisor
        self._listeners: set[int] = set()
        self._coming: dict[int, _socket.socket] = {}
        self._poll = select.poll()

    def serve(self) -> None:
        """Until the first process is gone, and every process with a filter."""
        self._expect(self._first)
        self._poll.register(self._more, select.POLLIN)
        while self._coming or self._listeners:
            for fd, event in self._poll.poll():
                if fd in self._coming:
                    self._poll.unregister(fd)
                    self._take(self._coming.pop(fd))
                elif fd == self._more.fileno():
                    self._greet(accept(self._more))
                else:
                    self._answer(fd, event)

    def _expect(self, connection: _socket.socket) -> None:
        self._coming[connection.fileno()] = connection
        self._poll.register(connection, select.POLLIN)

    def _greet(self, connection: _socket.socket) -> None:
        connection.settimeout(_PATIENCE)
        try:
            who = Identity.parse(connection.recv(4096).decode())
            ids = ids_of(who.uid, who.gid, who.groups)
            mark = self._supervisor.identities.index_for(ids)
            connection.send(str(-1 if mark is None else mark).encode())
        except (OSError, ValueError):
            connection.close()
            return
        self._expect(connection)

    def _take(self, connection: _socket.socket) -> None:
        """Get the descriptor of a filter, and with it a process to serve."""
        room = struct.calcsize("i")
        try:
            _, ancillary, _, _ = connection.recvmsg(16, _socket.CMSG_SPACE(room))
        except OSError:
            ancillary = []
        connection.close()
        for level, kind, content in ancillary:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                (fd,) = struct.unpack("i", content[:room])
                os.set_inheritable(fd, False)
                self._listeners.add(fd)
                self._poll.register(fd, select.POLLIN)

    def _answer(self, fd: int, event: int) -> None:
        if not event & select.POLLIN or not self._supervisor.serve(fd):
            self._poll.unregister(fd)
            self._listeners.discard(fd)
            os.close(fd)
