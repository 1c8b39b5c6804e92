"""The process beside a container that ``ch-image oci`` created.

It is the parent of the container's first process and so learns its exit code; it has the other
ends of its pipes, or its terminal, and gives them to who attaches; and while it lives it keeps the
storage directory as it is when the bundle is a mounted one. It ends with the container. A runtime
that creates a container by config.json alone (``ch-run-oci``) needs none of this.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
from collections.abc import Callable
from contextlib import suppress

from ch_image.errors import ChError
from ch_image.oci import container, holder, logs, spec, talk
from ch_image.oci.attach import received
from ch_image.oci.leave import Report, detach, leave
from ch_image.oci.states import Store, held
from ch_image.sandbox import syscalls as kernel
from ch_image.typed import NamedTuple

_TIOCSWINSZ = 0x5414
# In Record.more: the container's exit code, and whether it has a terminal.
EXIT, TERMINAL = "exit", "terminal"
_LAST = 1 << 20  # bytes of output that a pipe can have when the container has ended


class Order(NamedTuple):
    """What is wanted of a container beside its bundle.

    ``owner``: a descriptor of a pipe whose other end closes when whoever wants the container is
    gone, and it with them; -1 when it shall live on. ``direct``: our own standard descriptors
    become the container's, unless it has a terminal.
    """

    owner: int = -1
    direct: bool = False
    pid_file: str = ""
    log_path: str = ""
    log_format: str = "kubernetes"


def create(
    store: Store, ident: str, bundle: str, order: Order, warn: Callable[[str], None]
) -> None:
    """Create a container and leave its keeper. Raises ChError."""
    kept = (order.owner,) if order.owner >= 0 else ()
    warnings = leave("ch-image keeper", _Keeper(store, ident, bundle, order).live, kept)
    for text in filter(None, warnings):
        warn(text)


class _Keeper:
    """``live`` is all of its life."""

    def __init__(self, store: Store, ident: str, bundle: str, order: Order) -> None:
        self._store, self._ident, self._bundle, self._order = store, ident, bundle, order
        self._spec = spec.load(bundle)
        self._pid = 0

    def live(self, report: Report) -> None:
        """Create the container, say so, and stay with it until it ends."""
        warnings: list[str] = []
        holder.enter(self._bundle)  # its locks stay ours until we end
        wanted = self._spec
        terminal = wanted.process is not None and wanted.process.terminal
        streams = Streams.terminal() if terminal else Streams.pipes(direct=self._order.direct)
        wishes = container.Wishes(
            console=streams.theirs[0] if terminal else -1,
            stdio=streams.theirs if not terminal else (0, 1, 2),
            pid_file=self._order.pid_file,
            more={"keeper": os.getpid(), TERMINAL: terminal},
            warn=warnings.append,
        )
        log = logs.open_log(self._order.log_path, self._order.log_format)
        record = container.create(self._store, self._ident, self._bundle, wishes, wanted)
        self._pid = record.pid
        try:
            streams.settle(is_terminal=terminal)
            listener = talk.listen(self._store, self._ident)
            report.ready(*warnings)
        except BaseException:  # nobody waits for it any more
            container.delete(self._store, self._ident, force=True)
            raise
        detach()
        desk = _Desk(listener, streams, self._order.owner, self._pid, log)
        desk.serve(self._abandon, self._ended)
        log.close()

    def _abandon(self) -> None:
        """Whoever wanted the container was killed."""
        with suppress(ChError):
            container.delete(self._store, self._ident, force=True)

    def _ended(self, recent: talk.Recent) -> int:
        """Note what is left of the container, which has ended; its exit code."""
        code = 255
        with suppress(ChildProcessError):
            status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
            code = status if status >= 0 else 128 - status
        with suppress(ChError, OSError), held(self._store, self._ident) as hold:
            recent.save(f"{hold.path}/{talk.OUTPUT}")
            hold.save(hold.record._replace(more=hold.record.more | {EXIT: code}))
        return code


class Streams:
    """Both ends of what connects a container's program with the world.

    ``sources``: descriptor -> kind of its messages. ``sink``: where input goes, -1 for nowhere.
    """

    def __init__(self, theirs: tuple[int, int, int], sources: dict[int, bytes], sink: int) -> None:
        self.theirs, self.sources, self.sink = theirs, sources, sink
        self.is_terminal = False
        self._line: socket.socket | None = None

    @classmethod
    def pipes(cls, *, direct: bool) -> Streams:
        """Three pipes; or our own standard descriptors."""
        if direct:
            return cls((0, 1, 2), {}, -1)
        (in_, sink), (out, out_), (err, err_) = (os.pipe2(os.O_CLOEXEC) for _ in range(3))
        for ours in (sink, out, err):
            os.set_blocking(ours, False)
        return cls((in_, out_, err_), {out: talk.OUT, err: talk.ERR}, sink)

    @classmethod
    def terminal(cls) -> Streams:
        """A terminal that the container's maker sends us."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        streams = cls((theirs.detach(), -1, -1), {}, -1)
        streams._line = ours
        return streams

    def settle(self, *, is_terminal: bool) -> None:
        """Once the container has its ends: let go of them, and take what was sent."""
        for fd in set(self.theirs):
            if fd > 2:
                os.close(fd)
        if not is_terminal or self._line is None:
            return
        self.sink = received(self._line)
        if self.sink < 0:
            raise ChError("the container's terminal did not come")
        os.set_blocking(self.sink, False)
        self.sources = {self.sink: talk.OUT}
        self.is_terminal = True
        self._line.close()

    def resize(self, data: bytes) -> None:
        """Give the terminal another size."""
        if self.is_terminal and len(data) == 8:
            with suppress(OSError):
                fcntl.ioctl(self.sink, _TIOCSWINSZ, data)

    def close_input(self) -> None:
        """No more input comes: a pipe is closed, to a terminal its end-of-file character goes."""
        if self.is_terminal:
            with suppress(OSError):
                os.write(self.sink, b"\x04")
        elif self.sink >= 0:
            os.close(self.sink)
            self.sink = -1


class _Desk:
    """Moves data between the container and who is attached, as fast as the slowest takes it."""

    def __init__(
        self, listener: socket.socket, streams: Streams, owner: int, pid: int, log: logs.Log
    ) -> None:
        self._listener, self._streams, self._owner, self._log = listener, streams, owner, log
        self._pidfd = kernel.pidfd_open(pid)
        self._recent = talk.Recent()
        self._guests: dict[int, socket.socket] = {}
        self._waiting: dict[int, list[bytes]] = {}  # messages that a guest has not taken
        self._input = bytearray()
        self._last = False  # after that no input comes

    def serve(self, abandon: Callable[[], None], ended: Callable[[talk.Recent], int]) -> None:
        """Until the container has ended. ``abandon`` ends it when its owner is gone; ``ended``
        notes what is left, and tells the exit code.
        """
        while True:
            events = dict(self._poll().poll())
            if self._listener.fileno() in events:
                self._welcome(self._listener.accept()[0])
            for fd in events.keys() & self._guests.keys():
                self._hear(fd, events[fd])
            for fd in events.keys() & self._streams.sources.keys():
                self._read(fd)
            self._feed()
            if self._pidfd in events:
                break
            if self._owner in events:
                for fd in list(self._guests):  # they may have said that it shall live on
                    self._hear_out(fd)
                if self._owner >= 0:
                    abandon()
                    self._disown()
        for fd in list(self._streams.sources):  # what it said last
            # Without a PID namespace, what it left behind may go on for ever.
            for _ in range(_LAST // talk.ROOM):
                if not self._read(fd):
                    break
        self._dismiss(ended(self._recent))

    def _poll(self) -> select.poll:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(self._pidfd, select.POLLIN)
        if self._owner >= 0:
            poll.register(self._owner, 0)  # only that the other end was closed
        for fd in self._guests:
            wanted = 0 if self._input else select.POLLIN
            poll.register(fd, wanted | (select.POLLOUT if self._waiting[fd] else 0))
        events = dict.fromkeys(self._streams.sources, 0)
        if not any(self._waiting.values()):
            events = dict.fromkeys(events, int(select.POLLIN))
        if self._input and self._streams.sink >= 0:
            events[self._streams.sink] = events.get(self._streams.sink, 0) | select.POLLOUT
        for fd, wanted in events.items():
            if wanted:
                poll.register(fd, wanted)
        return poll

    def _welcome(self, guest: socket.socket) -> None:
        guest.setblocking(False)
        fd = guest.fileno()
        self._guests[fd], self._waiting[fd] = guest, []
        for kind, data in self._recent.parts:
            self._waiting[fd].append(kind + data)
        self._push(fd)

    def _hear_out(self, fd: int) -> None:
        """Take in all that a guest has said."""
        while fd in self._guests and self._hear(fd, select.POLLIN):
            pass

    def _hear(self, fd: int, event: int) -> bool:
        """Take one message of a guest; False when there was none."""
        if event & select.POLLOUT:
            self._push(fd)
        if fd not in self._guests or not event & ~select.POLLOUT:
            return False
        try:
            message = self._guests[fd].recv(talk.ROOM + 1)
        except BlockingIOError:
            return False
        except ConnectionResetError:  # gone without reading all; what it said comes after that
            return True
        except OSError:
            message = b""
        kind, data = message[:1], message[1:]
        if not message:
            self._part(fd)
        elif kind == talk.IN and self._streams.sink >= 0:
            self._input += data
        elif kind == talk.CLOSE:
            self._last = True
        elif kind == talk.SIZE:
            self._streams.resize(data)
        elif kind == talk.FREE:
            self._disown()
        return True

    def _disown(self) -> None:
        if self._owner >= 0:
            os.close(self._owner)
            self._owner = -1

    def _read(self, fd: int) -> bool:
        """Take what there is of output; False when there is none."""
        try:
            data = os.read(fd, talk.ROOM)
        except BlockingIOError:
            return False
        except OSError:  # a terminal that nobody has open any more
            data = b""
        kind = self._streams.sources[fd]
        if not data:
            del self._streams.sources[fd]
            if fd != self._streams.sink:
                os.close(fd)
            return False
        self._recent.add(kind, data)
        self._log.write("stdout" if kind == talk.OUT else "stderr", data)
        for guest in list(self._guests):
            self._waiting[guest].append(kind + data)
            self._push(guest)
        return True

    def _feed(self) -> None:
        """Give the container what input it takes."""
        try:
            while self._input and self._streams.sink >= 0:
                del self._input[: os.write(self._streams.sink, self._input)]
        except BlockingIOError:
            pass
        except OSError:  # it takes none any more
            self._input.clear()
        if self._last and not self._input:
            self._last = False
            self._streams.close_input()

    def _push(self, fd: int) -> None:
        """Send a guest what it takes."""
        queue = self._waiting[fd]
        try:
            while queue:
                self._guests[fd].send(queue[0])
                del queue[0]
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno in (errno.ENOBUFS, errno.ENOMEM):  # it will be tried again
                return
            self._hear_out(fd)
            if fd in self._guests:
                self._part(fd)

    def _part(self, fd: int) -> None:
        self._guests.pop(fd).close()
        del self._waiting[fd]

    def _dismiss(self, code: int) -> None:
        """Give every guest what is still theirs, however long they take, and let them go."""
        # Who comes later is refused, and finds in the container's directory what was noted there.
        self._listener.shutdown(socket.SHUT_RD)
        self._listener.setblocking(False)
        with suppress(OSError):  # there are no more
            while True:
                self._welcome(self._listener.accept()[0])
        self._listener.close()
        poll = select.poll()
        for fd, guest in self._guests.items():
            _hear_no_more(guest)
            self._waiting[fd].append(talk.END + b"%d" % code)
            poll.register(fd, select.POLLOUT)
        while self._guests:
            for fd, _ in poll.poll():
                self._push(fd)
                if not self._waiting.get(fd):
                    poll.unregister(fd)
                    if fd in self._guests:
                        self._part(fd)


def _hear_no_more(guest: socket.socket) -> None:
    """Let a guest say nothing more, and drop what they said already.

    What lay unread when the line is closed, the kernel would tell them of by a reset, before they
    get what we have sent; and who waits to be heard does not read.
    """
    with suppress(OSError):
        guest.shutdown(socket.SHUT_RD)
        while guest.recv(talk.ROOM + 1):
            pass
