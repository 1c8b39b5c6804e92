"""``exec``: another process in a container that is there already.

A child enters the container's namespaces and leaves the process as its own sister (CLONE_PARENT):
so that is the caller's child, and in the PID namespace. With root emulation its filter's listener
goes to the supervisor that the container has.
"""

from __future__ import annotations

import _socket
import os

from ch_image.errors import ChError
from ch_image.oci import creating, groups, joining, terminal
from ch_image.oci.become import Means, become, lock_imports
from ch_image.oci.channel import Channel
from ch_image.oci.config import Process
from ch_image.oci.first import be_root, emulation, said
from ch_image.oci.states import RECORDED, Record, knock
from ch_image.oci.wishes import Wishes
from ch_image.sandbox import power
from ch_image.sandbox import syscalls as kernel
from ch_image.sandbox.plan import Identity


def run(directory: str, record: Record, process: Process, wishes: Wishes) -> int:
    """Start ``process`` in the container of ``record``; its PID. Raises ChError."""
    console = creating.console_of(process.terminal, wishes)
    ours, theirs = Channel.pair()
    enterer = os.fork()
    if enterer == 0:
        ours.close()
        _enter(directory, record, process, wishes, theirs, console)
    theirs.close()
    if console is not None:
        console.close()
    pid = 0
    try:
        pid = _converse(ours, wishes)
        if wishes.pid_file:
            creating.write_pid(wishes.pid_file, pid)
        return pid
    finally:
        ours.close()
        os.waitpid(enterer, 0)


def _converse(channel: Channel, wishes: Wishes) -> int:
    pid, begun, problem = 0, False, None
    while message := channel.receive():
        kind, *words = message
        if kind == "pid":
            pid = int(words[0])
        elif kind == "warn":
            wishes.warn(words[0])
        elif kind == "error":
            problem = ChError(words[0], hint=words[1])
        begun = begun or kind == "exec"
    if problem is None and begun:
        return pid
    if pid:
        os.waitpid(pid, 0)
    raise problem or ChError("the process was killed before it could start")


def _enter(
    directory: str,
    record: Record,
    process: Process,
    wishes: Wishes,
    channel: Channel,
    console: _socket.socket | None,
) -> None:
    """Never returns."""
    try:
        supervisor = knock(directory, "emulation") if record.emulation == RECORDED else None
        if supervisor is not None:
            _mark(supervisor, process)
        profile = _profile(directory)
        last = power.last_capability()
        proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        lock_imports()
        if record.group:
            groups.join(record.group, os.getpid(), lambda text: channel.send("warn", text))
        joining.enter_process(record.pid)
        be_root()
        pid = kernel.fork(kernel.CLONE_PARENT)
        if pid:
            channel.send("pid", str(pid))
            os._exit(0)
        os.setsid()
        for number, fd in enumerate(wishes.stdio):
            os.dup2(fd, number)
        if console is not None:
            terminal.take(console, process.console_size, process.user.uid)
        emulate = emulation(record.emulation, supervisor)
        become(
            process,
            Means(proc, last, profile, emulate, wishes.preserve_fds, wishes.keyring),
            warn=lambda text: channel.send("warn", text),
            ready=lambda: channel.send("exec"),
        )
    except Exception as error:  # nobody else could tell of it
        channel.send("error", said(error), getattr(error, "hint", ""))
    finally:
        os._exit(127)


def _mark(supervisor: _socket.socket, process: Process) -> None:
    """Put on the mark by which the supervisor will know who this is (sandbox.identity).

    It must be done here: inside, this process is not its own to look into (proc(5), dumpable).
    """
    user = process.user
    supervisor.send(str(Identity(user.uid, user.gid, user.groups)).encode())
    mark = int(supervisor.recv(16) or b"-1")
    if mark < 0:
        raise ChError(f"process.user: the container knows too many users to add {user.uid}")
    kernel.write_file("/proc/self/coredump_filter", f"{mark:#x}")


def _profile(directory: str) -> bytes:
    try:
        with open(f"{directory}/profile", "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""
