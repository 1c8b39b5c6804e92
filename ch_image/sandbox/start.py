"""From a plan to a running program: PID 1 of the container, and its first process.

PID 1 furnishes the root, starts the command, answers its emulated calls, reaps orphans, and ends
with it; the kernel then ends everything else in the PID namespace. What it found goes, as words
separated by NUL, to a pipe. When the other end of that pipe closes, whoever wanted the result is
gone, and PID 1 ends at once: a killed build leaves nothing behind.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal itself costs an import of enum
import _socket
import errno
import fcntl
import gc
import os
import select
import struct

from ch_image.sandbox import procfs, seccomp
from ch_image.sandbox import syscalls as kernel
from ch_image.sandbox.furnish import furnish
from ch_image.sandbox.identity import ids_of
from ch_image.sandbox.mounts import Root
from ch_image.sandbox.plan import Plan
from ch_image.sandbox.supervisor import Supervisor, answers

_READY, _QUIET = b".", b"q"  # what the first process says before it becomes the command
_TIOCSCTTY = 0x540E  # ioctl_tty(2); the same on all architectures but MIPS, Alpha, SPARC, PowerPC
_SIGCHLD, _SIGKILL, _SIGPIPE, _SIGXFSZ = 17, 9, 13, 25


_PROGRAMS: list[bytes] = []  # the filter, once made


def get_ready() -> None:
    """Make what every container needs, so that each gets it with its fork."""
    if seccomp.marks_processes():
        _PROGRAMS[:] = [_program()]
        answers()
    gc.freeze()  # a collection in a child would write to, and so copy, all that it shares with us


def _program() -> bytes:
    return seccomp.program(endless=procfs.stack_limit(0)[1] == procfs.INFINITY)


def spawn(plan: Plan, fds: tuple[int, int, int, int]) -> int:
    """Fork PID 1 of a new container; ``fds`` are its stdin, stdout, stderr and result pipe.

    The caller must be single-threaded and in our user namespace. Returns the PID.
    """
    pid = kernel.fork(plan.flags())
    if pid == 0:
        code = 1
        try:
            code = _first_process(plan, fds)
        finally:
            os._exit(code)
    return pid


def _first_process(plan: Plan, fds: tuple[int, int, int, int]) -> int:
    result = fds[3]
    begin_first_process()
    try:
        keep_only(fds)
        if 2 not in fds:
            os.dup2(fds[2], 2)
        root = furnish(plan)
    except OSError as error:
        return tell_fault(result, error)
    return lead(plan, fds, root, *fork_command(plan, fds[:3]))


def fork_command(plan: Plan, fds: tuple[int, int, int]) -> tuple[int, _socket.socket]:
    """Start the command with these descriptors: its PID, and where it will say how that went."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    child = os.fork()
    if child == 0:
        ours.close()
        command(plan, fds, theirs)
    theirs.close()
    return child, ours


def begin_first_process() -> None:
    """In process 1, just forked: end with the server, and hear of children, which it does not."""
    _signal.signal(_SIGCHLD, _signal.SIG_DFL)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, _SIGKILL)


def lead(
    plan: Plan,
    fds: tuple[int, int, int, int],
    root: Root,
    child: int,
    ours: _socket.socket,
    begun: _socket.socket | None = None,
) -> int:
    """In process 1: serve the command, which ``child`` becomes, to its end, and tell about it.

    ``ours`` is the other end of the socket that ``child`` has; ``begun`` is closed when the
    command begins.
    """
    result = fds[3]
    wake, waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    _signal.set_wakeup_fd(waker)
    _signal.signal(_SIGCHLD, lambda *_: None)
    os.write(waker, b"-")  # it may have ended already
    made = [word for path, mtime in root.made for word in (path, str(mtime))]
    os.close(root.fd)
    for fd in set(fds[:3]):
        os.close(fd)
    supervisor = _supervisor(plan) if plan.emulate else None  # while the child gets ready
    listener, problem = _listener(ours)
    ours.close()
    if begun:
        begun.close()
    if listener < 0:
        supervisor = None
    if problem:
        os.waitpid(child, 0)
        tell(result, [*problem, "made", *made])
        return 1
    status = _watch(child, supervisor, listener, wake, result)
    _end_all_others()
    tell(result, _report(status, supervisor, made))
    os.close(result)  # nobody has to wait until our memory is freed
    return 0


def keep_only(fds: tuple[int, ...]) -> None:
    """Keep nothing else that a process of the container could fetch from us (pidfd_getfd(2)).

    Least of all the server's socket, a terminal, or a directory outside. Standard descriptors that
    are not kept become /dev/null.
    """
    kernel.close_all_but(*set(fds))
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for number in range(3):
        if number not in fds:
            os.dup2(null, number)
    os.close(null)


def _report(status: int, supervisor: Supervisor | None, made: list[str]) -> list[str]:
    words = ["exit", str(os.waitstatus_to_exitcode(status)), "made", *made]
    if supervisor is not None:
        words += ["count", str(supervisor.count)]
        owners = supervisor.ledger.report()
        if supervisor.ledger.lost:
            words += ["lost", supervisor.ledger.lost]
        for path, uid, gid in owners:
            words += ["owner", path, str(uid), str(gid)]
    return words


def tell(result: int, words: list[str]) -> None:
    """Write a report to the pipe ``result``."""
    data = b"\0".join(os.fsencode(word) for word in words)
    while data:
        try:
            data = data[os.write(result, data) :]
        except OSError:  # nobody listens any more
            return


def tell_fault(result: int, error: OSError) -> int:
    """Report that the container cannot be set up; the exit code of process 1."""
    about = f": {error.filename}" if error.filename else ""
    tell(result, ["error", f"{error.strerror}{about}"])
    return 1


def _supervisor(plan: Plan) -> Supervisor:
    identity = plan.identity
    first = ids_of(identity.uid, identity.gid, identity.groups)
    targets = (getattr(operation, "target", "") for operation in plan.operations)
    return Supervisor(first, plan.owners, frozenset(targets))


def _listener(socket: _socket.socket) -> tuple[int, list[str]]:
    """What the first process says before it becomes the command: its listener, or a problem.

    The listener is -1 where there is none.
    """
    room = struct.calcsize("i")
    data, ancillary, _, _ = socket.recvmsg(8192, _socket.CMSG_SPACE(room))
    listener = -1
    for level, kind, content in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            (listener,) = struct.unpack("i", content[:room])
            os.set_inheritable(listener, False)
    if data.startswith(b"!"):
        return listener, os.fsdecode(data[1:]).split("\0")
    if not data:
        return listener, ["error", "the first process of the container was killed"]
    return listener, []


def _watch(child: int, supervisor: Supervisor | None, listener: int, wake: int, result: int) -> int:
    """Serve and reap until ``child`` ends; its wait status."""
    poll = select.poll()
    poll.register(wake, select.POLLIN)
    poll.register(result, 0)  # only errors: the other end was closed
    if supervisor is not None:
        poll.register(listener, select.POLLIN)
    while True:
        for fd, event in poll.poll():
            if fd == result:
                os._exit(1)
            if fd == wake:
                os.read(wake, 512)
                status = _reap(child)
                if status is not None:
                    return status
            elif supervisor is not None and (
                not event & select.POLLIN or not supervisor.serve(listener)
            ):
                poll.unregister(listener)


def _reap(child: int) -> int | None:
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == child:
            found = status


def _end_all_others() -> None:
    """A process that was left behind must not write to a layer that is finished."""
    try:
        os.kill(-1, _SIGKILL)  # all in our PID namespace
    except ProcessLookupError:
        return
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        pass


def command(plan: Plan, fds: tuple[int, int, int], socket: _socket.socket) -> None:
    """In the first process: become the command, with these descriptors. Never returns.

    What hinders it is said to ``socket``, and else the listener of its calls.
    """
    try:
        _signal.set_wakeup_fd(-1)
        for number in (_SIGCHLD, _SIGPIPE, _SIGXFSZ):
            _signal.signal(number, _signal.SIG_DFL)
        os.setsid()
        for number, fd in enumerate(fds):
            os.dup2(fd, number)
        if plan.terminal:
            fcntl.ioctl(0, _TIOCSCTTY, 0)
        os.umask(plan.umask)
        _enter_directory(plan.cwd)
        program = _find(plan)
        if not plan.new_privileges:
            kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        kernel.prctl(kernel.PR_CAP_AMBIENT, kernel.PR_CAP_AMBIENT_CLEAR_ALL)
        if plan.emulate:
            install_filter(socket)
        else:
            socket.sendmsg([_READY])
        _become(program, plan)
    except OSError as error:
        name = error.filename
        about = os.fsdecode(name) if isinstance(name, str | bytes) else ""
        words = ["failed", str(error.errno), about]
        socket.sendmsg([b"!" + b"\0".join(os.fsencode(word) for word in words)])
    finally:
        os._exit(127)


def _become(program: str, plan: Plan) -> None:
    kernel.close_range(3)
    try:
        os.execve(program, plan.argv, plan.env)
    except OSError as error:
        # The supervisor is at work already: say it where the user looks.
        code = 127 if error.errno == errno.ENOENT else 126
        os.write(2, f"{plan.argv[0]}: {error.strerror}\n".encode())
        os._exit(code)


def _enter_directory(path: str) -> None:
    os.chdir(path)
    # A descriptor or symlink left over must not put us outside the root (CVE-2024-21626).
    if not os.getcwd().startswith("/"):
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def _find(plan: Plan) -> str:
    """The program's path, looked up in the container's PATH as execvp(3) does."""
    name = plan.argv[0]
    if "/" in name:
        os.stat(name)
        return name
    for directory in plan.env.get("PATH", "/usr/local/bin:/usr/bin:/bin").split(":"):
        path = f"{directory or '.'}/{name}"
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return path
    raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), name)


def install_filter(socket: _socket.socket) -> None:
    """Install the filter and send its listener away; without listener, the quiet filter."""
    program = _PROGRAMS[0] if _PROGRAMS else _program()
    for flags in (
        kernel.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV | kernel.SECCOMP_FILTER_FLAG_SPEC_ALLOW,
        kernel.SECCOMP_FILTER_FLAG_SPEC_ALLOW,  # before Linux 5.19
    ):
        try:
            listener = kernel.seccomp_filter(
                program, kernel.SECCOMP_FILTER_FLAG_NEW_LISTENER | flags
            )
        except OSError:
            continue
        rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("i", listener))
        socket.sendmsg([_READY], [rights])
        os.close(listener)
        return
    kernel.seccomp_filter(seccomp.program(notify=False))
    socket.sendmsg([_QUIET])
