"""Peers of one node share namespaces: one ch-run makes them, the others enter.

Whoever binds the group's name first makes the namespaces; a name in the abstract space of Unix
sockets (unix(7)) belongs to one process at a time and goes with it, so that there is nothing to
leak and a peer that dies lets another take its place. Once its container stands, the maker leaves
a keeper: a process in these namespaces that hands every peer a descriptor of itself
(pidfd_open(2)) to enter by (setns(2)), and ends when the last has come, or ``_WAIT`` seconds after
the maker's command. So a short command of the maker's is no trouble for late peers.
"""

from __future__ import annotations

import _socket
import errno
import os
import select
import time

from ch_image.errors import ChError, UsageError, printable
from ch_image.sandbox import syscalls as kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ch_image.cli.options import Parsed
    from ch_image.typed import Literal

_COUNTS = ("OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_STEP_TASKS_PER_NODE", "SLURM_CPUS_ON_NODE")
_TAG = "SLURM_STEP_ID"
_MAX_TAG = 60  # bytes; a Unix socket's name has 107
_WAIT = 30.0  # seconds until a peer gives up, and a keeper after its maker
_PAUSE = 0.01  # seconds between two tries
_BACKLOG = 4096
_NAMESPACES = kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS
_SCM_RIGHTS, _SO_PEERCRED = 1, 17  # not in every build of the module _socket
_PIDFD = 4  # bytes of a descriptor in a message


class Group:
    """Peers of one node: how many there are, and what they call themselves."""

    __slots__ = ("_listener", "_say", "count", "is_first", "tag", "unique")

    def __init__(self, count: int, tag: str, unique: str, say: Callable[[str], None]) -> None:
        self.count, self.tag, self.unique, self._say = count, tag, unique, say
        self._listener: _socket.socket | None = None
        self.is_first = False

    def meet(self) -> None:
        """Settle who makes the namespaces; if that isn't us (``is_first``), we are in them.

        Raises ChError when nobody answers, or the name is another user's.
        """
        self.is_first = self.count == 1
        if self.is_first:
            return
        address = f"\0ch-run/{os.getuid()}/{self.unique}".encode(errors="surrogateescape")
        deadline = time.monotonic() + _WAIT
        while time.monotonic() < deadline:
            listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
            try:
                listener.bind(address)
                listener.listen(_BACKLOG)
            except OSError as error:
                listener.close()
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                self._listener, self.is_first = listener, True
                self._say("join: I won")
                self._say("join: winner initializing namespaces")
                return
            if self._enter(address, deadline):
                return
            time.sleep(_PAUSE)
        raise ChError(
            f"join: no peer of group '{printable(self.tag, 60)}' answered in {_WAIT:.0f} seconds",
            hint="the first peer may still be starting: try again, or give another --join-tag",
        )

    def _enter(self, address: bytes, deadline: float) -> bool:
        """Enter the namespaces that another peer makes; False when that peer is gone."""
        peer = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        try:
            peer.settimeout(max(0.1, deadline - time.monotonic()))
            try:
                peer.connect(address)
                _refuse_stranger(peer, self.tag)
                data, ancillary, _, _ = peer.recvmsg(100, _socket.CMSG_SPACE(_PIDFD))
            except (ConnectionError, BlockingIOError, TimeoutError):
                return False
            if not data or not ancillary:
                return False
            maker, left = data.split()
            pidfd = int.from_bytes(ancillary[0][2][:_PIDFD], _order())
            self._say("join: I lost")
            self._say(f"joining namespaces of pid {int(maker)}")
            _enter_namespaces(pidfd)
            os.close(pidfd)
            try:
                peer.send(b".")
            except ConnectionError:  # the keeper was killed; we are in all the same
                pass
            self._say(f"join: {int(left)} peers left")
            if not int(left):
                self._say("join: cleaning up IPC")
            return True
        finally:
            peer.close()

    def keep(self) -> None:
        """In the finished namespaces: leave the keeper that lets the other peers in."""
        if self._listener is None:
            return
        maker = kernel.pidfd_open(os.getpid())
        pid = os.getpid()
        self._say(f"join: {self.count - 1} peers left")
        child = os.fork()
        if child == 0:
            try:  # twice, so that it is no child of the command, which would not wait for it
                if os.fork() == 0:
                    _Keeper(self._listener, maker, pid, self.count - 1).serve()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        os.close(maker)
        self._listener.close()


class _Keeper:
    """Lets ``left`` peers in."""

    def __init__(self, listener: _socket.socket, maker: int, pid: int, left: int) -> None:
        self._listener, self._maker, self._pid, self._left = listener, maker, pid, left
        self._peers: dict[int, _socket.socket] = {}
        self._me = -1

    def serve(self) -> None:
        """Until all have come, or the maker's command has ended and no more may be expected."""
        self._detach()
        poll = select.poll()
        poll.register(self._listener.fileno(), select.POLLIN)
        poll.register(self._maker, select.POLLIN)
        end = 0.0
        while self._left > 0:
            wait = (end - time.monotonic()) * 1000 if end else None
            if wait is not None and wait <= 0:
                return
            for fd, _ in poll.poll(wait):
                if fd == self._maker:
                    poll.unregister(fd)
                    end = time.monotonic() + _WAIT
                elif fd == self._listener.fileno():
                    if (peer := self._greet()) >= 0:
                        poll.register(peer, select.POLLIN)
                else:
                    poll.unregister(fd)
                    self._part(fd)
            # Nobody is greeted beyond those expected: the next group is theirs to make.
            full = len(self._peers) >= self._left
            poll.register(self._listener.fileno(), 0 if full else select.POLLIN)

    def _detach(self) -> None:
        """From the terminal, the pipes and the directory of the command."""
        os.setsid()
        os.chdir("/")
        null = os.open("/dev/null", os.O_RDWR)
        for number in range(3):
            os.dup2(null, number)
        low, high = sorted((self._listener.fileno(), self._maker))
        for first, last in ((3, low - 1), (low + 1, high - 1), (high + 1, 0xFFFFFFFF)):
            if first <= last:
                kernel.close_range(first, last)
        self._me = kernel.pidfd_open(os.getpid())

    def _greet(self) -> int:
        """Let a peer know how to enter; its descriptor, -1 for one that has no business here."""
        fd: int
        fd, _ = self._listener._accept()  # type: ignore[attr-defined]
        peer = _socket.socket(fileno=fd)
        try:
            _refuse_stranger(peer, "")
            left = max(0, self._left - len(self._peers) - 1)
            rights = (_socket.SOL_SOCKET, _SCM_RIGHTS, self._me.to_bytes(_PIDFD, _order()))
            peer.sendmsg([f"{self._pid} {left}".encode()], [rights])
        except (OSError, ChError):
            peer.close()
            return -1
        self._peers[fd] = peer
        return fd

    def _part(self, fd: int) -> None:
        peer = self._peers.pop(fd)
        try:
            if peer.recv(1):  # else it died on the way, and another may come in its place
                self._left -= 1
        except OSError:
            pass
        peer.close()


def joined(parsed: Parsed, env: Mapping[str, str], say: Callable[[str], None]) -> Group:
    """The group that the options name, when it is clear who makes its namespaces.

    Unless that is us (``is_first``), we are in them. Raises ChError.
    """
    if parsed.has("join-pid"):
        pid = number("--join-pid", parsed.text("join-pid"))
        if pid <= 0:
            raise ChError("--join-pid: not a process")
        if any(parsed.has(name) for name in ("join", "join-ct", "join-tag")):
            raise UsageError("--join-pid and the other --join options exclude each other")
        say(f"join: 0 0 (null) {pid}")
        _enter_process(pid, say)
        return Group(0, "", "", say)
    group = _wanted(parsed, env, say)
    say(f"join: 1 {group.count} {printable(group.tag, 60)} 0")
    group.meet()
    return group


def _enter_process(pid: int, say: Callable[[str], None]) -> None:
    """Enter the namespaces of process ``pid``. Raises ChError."""
    path = f"/proc/{pid}/ns/user"
    say(f"joining namespaces of pid {pid}")
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        pidfd = kernel.pidfd_open(pid)
    except (FileNotFoundError, ProcessLookupError):
        raise ChError(f"join: no PID {pid}: {path} not found") from None
    except OSError as error:
        raise ChError(f"join: can't open {path}: {error.strerror}") from None
    try:
        _enter_namespaces(pidfd)
    finally:
        os.close(pidfd)


def _enter_namespaces(pidfd: int) -> None:
    try:
        kernel.setns(pidfd, _NAMESPACES)
    except OSError as error:
        raise ChError(
            f"join: can't enter the namespaces: {error.strerror}",
            hint="they must be those of a ch-run of yours (Linux 5.8)",
        ) from None


def _refuse_stranger(peer: _socket.socket, tag: str) -> None:
    """A name that another user has taken must not get us into anything of theirs."""
    credentials = peer.getsockopt(_socket.SOL_SOCKET, _SO_PEERCRED, 12)
    if int.from_bytes(credentials[4:8], _order()) != os.getuid():
        raise ChError(
            f"join: another user holds the name of group '{printable(tag, 60)}'",
            hint="give another --join-tag",
        )


def _order() -> Literal["little", "big"]:
    import sys

    return sys.byteorder


def _wanted(parsed: Parsed, env: Mapping[str, str], say: Callable[[str], None]) -> Group:
    count = _count(parsed, env, say)
    tag, unique = _tag(parsed, env, say)
    if not tag:
        raise ChError("join: peer group tag cannot be empty string")
    if len(unique.encode(errors="surrogateescape")) > _MAX_TAG:
        raise ChError(f"join: peer group tag is longer than {_MAX_TAG} bytes")
    return Group(count, tag, unique, say)


def _count(parsed: Parsed, env: Mapping[str, str], say: Callable[[str], None]) -> int:
    count = 0
    if parsed.has("join-ct"):
        say("join: peer group size from command line")
        count = number("--join-ct", parsed.text("join-ct"))
    else:
        for name in _COUNTS:
            if name in env:
                say(f"join: peer group size from {name}")
                count = number(name, env[name], goop=True)
                break
    if count <= 0:
        raise ChError(
            "join: no valid peer group size found",
            hint=f"give --join-ct=N, or set {_COUNTS[0]} or {_COUNTS[2]}",
        )
    return count


def _tag(parsed: Parsed, env: Mapping[str, str], say: Callable[[str], None]) -> tuple[str, str]:
    """The tag, and what makes it unique on this node."""
    if parsed.has("join-tag"):
        say("join: peer group tag from command line")
        return (parsed.text("join-tag"),) * 2
    if _TAG in env:
        say(f"join: peer group tag from {_TAG}")
        # Steps are counted in each job anew, and two jobs may share a node.
        return env[_TAG], f"{env.get('SLURM_JOB_ID', '')}.{env[_TAG]}"
    say("join: peer group tag from getppid(2)")
    return (str(os.getppid()),) * 2


def number(what: str, text: str, *, goop: bool = False) -> int:
    """An integer as C's strtol(3) reads it; ``goop`` may follow. Raises ChError."""
    stripped = text.lstrip(" \t\n")
    sign = stripped[:1] if stripped[:1] in ("-", "+") else ""
    rest = stripped[len(sign) :]
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    if not digits:
        raise ChError(f"{what}: no digits found")
    if len(digits) > 18 or not -(1 << 31) <= int(sign + digits) < 1 << 31:
        raise ChError(f"{what}: out of range")
    if rest[len(digits) :] and not goop:
        raise ChError(f"{what}: extra characters after digits")
    return int(sign + digits)
