"""Calls the hooks of config.json: programs that get the container's state on standard input."""

from __future__ import annotations

import os
import select
import time

from ch_image.errors import ChError, printable
from ch_image.oci import quickjson
from ch_image.oci.config import Hook
from ch_image.sandbox import syscalls as kernel
from ch_image.typed import Any

_SIGKILL, _SIGPIPE, _SIGXFSZ = 9, 13, 25


def run(when: str, hooks: tuple[Hook, ...], state: dict[str, Any], directory: str) -> None:
    """Call them one after the other in ``directory``. Raises ChError at the first that fails."""
    for number, hook in enumerate(hooks):
        if reason := _outcome(hook, state, directory):
            raise ChError(f"hook {when}[{number}] {reason}")


def run_all(when: str, hooks: tuple[Hook, ...], state: dict[str, Any], directory: str) -> list[str]:
    """Call them all, also when some fail; what is to be warned of."""
    outcomes = [_outcome(hook, state, directory) for hook in hooks]
    return [f"hook {when}[{number}] {reason}" for number, reason in enumerate(outcomes) if reason]


def _outcome(hook: Hook, state: dict[str, Any], directory: str) -> str:
    """Which hook failed and how; empty if it did not."""
    try:
        reason = _call(hook, quickjson.dumps(state).encode(), directory)
    except OSError as error:
        reason = f"cannot be run: {error.strerror}"
    return f"{printable(hook.path, 200)} {reason}" if reason else ""


def _call(hook: Hook, state: bytes, directory: str) -> str:
    """How it failed, empty if it did not."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        try:
            _become(hook, reader, directory)
        finally:
            os._exit(127)
    os.close(reader)
    _feed(writer, state)
    ended = _wait(child, hook.timeout)
    if ended is None:
        return f"took longer than {hook.timeout} s"
    code = os.waitstatus_to_exitcode(ended)
    if code < 0:
        return f"was ended by signal {-code}"
    return f"failed with exit code {code}" if code else ""


def _become(hook: Hook, reader: int, directory: str) -> None:
    import _signal  # type: ignore[import-not-found]

    for number in (_SIGPIPE, _SIGXFSZ):
        _signal.signal(number, _signal.SIG_DFL)
    os.dup2(reader, 0)
    os.dup2(2, 1)  # standard output is the runtime's own
    if os.path.isdir(directory):
        os.chdir(directory)
    env = dict(item.partition("=")[::2] for item in hook.env)
    os.execve(hook.path, list(hook.args) or [hook.path], env)


def _feed(writer: int, data: bytes) -> None:
    import _signal

    before = _signal.signal(_SIGPIPE, _signal.SIG_IGN)
    try:
        while data:
            data = data[os.write(writer, data) :]
    except BrokenPipeError:  # it does not want to know
        pass
    finally:
        os.close(writer)
        _signal.signal(_SIGPIPE, before)


def _wait(child: int, timeout: int) -> int | None:
    """The wait status; None when it had to be killed after ``timeout`` seconds."""
    if timeout:
        pidfd = kernel.pidfd_open(child)
        end = time.monotonic() + timeout
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        ended = poll.poll(max(0, end - time.monotonic()) * 1000)
        os.close(pidfd)
        if not ended:
            os.kill(child, _SIGKILL)
            os.waitpid(child, 0)
            return None
    return os.waitpid(child, 0)[1]
