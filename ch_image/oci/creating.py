"""The command's side of ``create``: it starts the maker, answers it, and settles the outcome."""

from __future__ import annotations

import _socket
import os
import time

from ch_image.errors import ChError, SandboxError
from ch_image.oci import first, groups, hooks, ids, joining, seccomp, terminal
from ch_image.oci.channel import Channel
from ch_image.oci.config import Spec, User
from ch_image.oci.states import CREATED, CREATING, QUIET, RECORDED, Held, boot, born
from ch_image.oci.wishes import Wishes

_SIGKILL = 9


class Creation:
    """One ``create``: what it has made so far, so that it can be taken back."""

    def __init__(self, held: Held, spec: Spec, wishes: Wishes, rootfs: str) -> None:
        self._held, self._spec, self._wishes, self._rootfs = held, spec, wishes, rootfs
        self._channel, self.inner = Channel.pair()
        self._maker = self._pid = 0
        self._emulation = ""
        self._made: list[tuple[str, int]] = []
        self._group = groups.Group()
        self._console: _socket.socket | None = None

    def run(self) -> None:
        """Up to the point where the first process waits for its start. Raises ChError."""
        waiting, more = (listening(self._held.path, name) for name in ("start", "emulation"))
        self._console = self._connected()
        setup = self._setup(waiting, more)
        self._group = groups.make(self._spec.linux, self._held.record.id, self._wishes.warn)
        if self._group.made:  # so that whoever finds us killed takes it away
            self._save(CREATING)
        self._maker = os.fork()
        if self._maker == 0:
            first.make(setup)
        self.inner.close()
        waiting.close()
        more.close()
        if self._console is not None and self._wishes.console < 0:
            self._console.close()
        self.converse()
        _reap(self._maker, wait=self._emulation != RECORDED)

    def undo(self) -> None:
        """End what was started."""
        self._channel.close()
        for pid in (self._pid, self._maker):
            if pid:
                try:
                    os.kill(pid, _SIGKILL)
                except ProcessLookupError:
                    pass
                _reap(pid, wait=True)

    def _connected(self) -> _socket.socket | None:
        process, wishes = self._spec.process, self._wishes
        return console_of(process is not None and process.terminal, wishes)

    def _setup(self, waiting: _socket.socket, more: _socket.socket) -> first.Setup:
        spec, wishes = self._spec, self._wishes
        self._asked = ids.plan(spec)
        profile = seccomp.compiled(spec.linux.seccomp, wishes.warn) if spec.linux.seccomp else b""
        if profile:  # for processes that come later
            with open(f"{self._held.path}/profile", "wb") as file:
                file.write(profile)
        return first.Setup(
            spec=spec,
            bundle=self._held.record.bundle,
            rootfs=self._rootfs,
            state=self._held.record.state(CREATED),
            channel=self.inner,
            waiting=waiting,
            more=more,
            console=self._console,
            stdio=wishes.stdio,
            profile=profile,
            preserve=wishes.preserve_fds,
            keyring=wishes.keyring,
            new_user=self._asked.new,
            owners=wishes.owners,
            foreign=(self._held.lock, self._channel.end.fileno()),
        )

    def converse(self) -> None:
        """Answer the maker and the first process until the latter is ready."""
        furnished = False
        while True:
            message = self._channel.receive()
            if not message:
                raise SandboxError("the container's first process was killed")
            kind, *words = message
            if kind == "error":
                raise SandboxError(words[0], hint=words[1])
            if kind == "warn":
                self._wishes.warn(words[0])
            elif kind == "map":
                self._map()
            elif kind == "pid":
                self._pid = int(words[0])
                self._save(CREATING)
                if self._group.path:
                    groups.join(self._group.path, self._pid, self._wishes.warn)
            elif kind == "stubs":
                at = iter(words)
                self._made = [(path, int(time_)) for path, time_ in zip(at, at, strict=True)]
                self._save(CREATING)
            elif kind == "hooks":
                furnished = True
            elif kind == "ready":
                self._settle()
                return
            # The two messages are of two processes, so they come in either order.
            if furnished and self._pid:
                furnished = False
                self._hooks()
                self._channel.send("go")

    def _map(self) -> None:
        wishes, got = self._wishes, self._asked
        if got.new:
            user = self._spec.process.user if self._spec.process else User()
            got = ids.write_maps(self._maker, got, user, wishes.emulate, wishes.warn)
        if got.alone if wishes.emulate is None else wishes.emulate:
            # A supervisor needs the container's root; in a joined namespace it has another.
            records = wishes.records and not joining.joins_mounts(self._spec)
            self._emulation = RECORDED if records else QUIET
        self._channel.send("mapped", self._emulation)

    def _hooks(self) -> None:
        """Those of the runtime's own namespaces."""
        state = self._held.record.state(CREATED)
        bundle, found = self._held.record.bundle, self._spec.hooks
        hooks.run("prestart", found.prestart, state, bundle)
        hooks.run("createRuntime", found.create_runtime, state, bundle)

    def _save(self, phase: str) -> None:
        self._held.save(
            self._held.record._replace(
                phase=phase,
                pid=self._pid,
                born=born(self._pid),
                boot=boot(),
                emulation=self._emulation,
                stubs=tuple(self._made),
                group=self._group.path,
                groups=self._group.made,
            )
        )

    def _settle(self) -> None:
        """Write down that there is a container; only then may its first process stay."""
        if self._wishes.pid_file:
            write_pid(self._wishes.pid_file, self._pid)
        self._save(CREATED)
        self._channel.send("settled")
        self._channel.close()


def listening(directory: str, name: str) -> _socket.socket:
    """A listening socket in a container's directory."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    try:
        listener.bind(f"/proc/self/fd/{fd}/{name}")  # a socket's path may have 107 bytes
        listener.listen(64)
    finally:
        os.close(fd)
    return listener


def console_of(has_terminal: bool, wishes: Wishes) -> _socket.socket | None:
    """The connection over which a terminal's master side goes to the caller."""
    asked = bool(wishes.console_socket) or wishes.console >= 0
    if has_terminal and not asked:
        raise ChError(
            "process.terminal is true, and there is no console socket to send it to",
            hint="give --console-socket, or set process.terminal to false",
        )
    if not has_terminal:
        if wishes.console_socket:
            raise ChError("a console socket is given, but process.terminal is false")
        return None
    if wishes.console >= 0:
        return _socket.socket(fileno=os.dup(wishes.console))
    return terminal.connect(wishes.console_socket)


def write_pid(path: str, pid: int) -> None:
    """A file with a process number, there at once with its content."""
    fresh = f"{path}.{os.getpid()}"
    try:
        with open(fresh, "w") as file:
            file.write(str(pid))
        os.rename(fresh, path)
    except OSError as error:
        raise ChError(f"pid file {path}: {error.strerror}") from None


def now() -> str:
    """The time in UTC, as RFC 3339 has it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _reap(pid: int, *, wait: bool) -> None:
    """Take a child's exit status, if it has ended or ``wait`` says to wait for that."""
    try:
        os.waitpid(pid, 0 if wait else os.WNOHANG)
    except ChildProcessError:
        pass
