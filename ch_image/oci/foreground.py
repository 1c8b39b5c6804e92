"""Containers and processes that the caller waits for; signals it gets go to them."""

from __future__ import annotations

import os
import select
import signal

from ch_image.errors import ChError
from ch_image.oci import container
from ch_image.oci.config import Process
from ch_image.oci.states import Store
from ch_image.oci.wishes import Wishes
from ch_image.sandbox import syscalls as kernel
from ch_image.typed import Any

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Handler = Callable[[int, object], None]

_FORWARDED = (
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2,
    signal.SIGWINCH, signal.SIGCONT,
)  # fmt: skip
_ENDING = (signal.SIGHUP, signal.SIGTERM)


def run(store: Store, ident: str, bundle: str, wishes: Wishes) -> int:
    """Create, start, wait, delete; the program's exit code, 128+N when signal N ended it."""
    _catch(_ENDING, _end)  # until there is a program that they can be handed on to
    record = container.create(store, ident, bundle, wishes)
    try:
        container.start(store, ident, wishes.warn)
        return wait(record.pid)
    finally:
        container.delete(store, ident, force=True, warn=wishes.warn)


def _catch(numbers: Iterable[signal.Signals], handler: Handler) -> dict[signal.Signals, Any]:
    """Handle signals, but those that we were told to ignore (nohup); the handlers before."""
    heeded = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heeded}


def _end(number: int, _frame: object) -> None:
    """As INT does already: leave, and tidy up on the way."""
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)


def execute(
    store: Store, ident: str, process: Process, wishes: Wishes, *, detach: bool = False
) -> int:
    """Run another process in a container; its exit code, 0 at once with ``detach``."""
    pid = container.execute(store, ident, process, wishes)
    return 0 if detach else wait(pid)


def wait(pid: int) -> int:
    """The exit code of a child; signals that come meanwhile are handed on to it."""
    pidfd = kernel.pidfd_open(pid)

    def forward(number: int, _frame: object) -> None:
        try:
            kernel.pidfd_send_signal(pidfd, number)
        except OSError:  # it has ended
            pass

    before = _catch(_FORWARDED, forward)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        while not poll.poll():
            pass
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        raise ChError(f"process {pid} was taken by somebody else") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(pidfd)
    return code if code >= 0 else 128 - code
