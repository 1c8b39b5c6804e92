"""Stopping all processes of a container for a while, by signals.

A freezer would be a cgroup's, and an ordinary user has none unless somebody delegates one. SIGSTOP
works on every process of one's own, also on the first of a PID namespace when it comes from
outside; what forks meanwhile is found by looking again until nothing runs.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

from ch_image.errors import ChError
from ch_image.oci import container
from ch_image.oci.states import PAUSED, RUNNING, Store, held

_ROUNDS = 1000
_PAUSE = 0.005  # seconds between two looks


def pause(store: Store, ident: str) -> None:
    """Stop all processes of a running container. Raises ChError."""
    with held(store, ident) as hold:
        status = store.shown(hold.record)
        if status != RUNNING:
            raise ChError(f"container {ident} cannot be paused: it is {status}")
        for _ in range(_ROUNDS):
            running = [pid for pid in container.processes(store, ident) if not _is_stopped(pid)]
            if not running:
                break
            for pid in running:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            time.sleep(_PAUSE)
        else:
            _continue(store, ident)
            raise ChError(f"container {ident} cannot be paused: its processes do not stop")
        hold.save(hold.record._replace(more=hold.record.more | {PAUSED: True}))


def resume(store: Store, ident: str) -> None:
    """Let them go on. Raises ChError."""
    with held(store, ident) as hold:
        status = store.shown(hold.record)
        if status != PAUSED:
            raise ChError(f"container {ident} cannot be resumed: it is {status}")
        _continue(store, ident)
        hold.save(hold.record._replace(more=hold.record.more | {PAUSED: False}))


def _continue(store: Store, ident: str) -> None:
    # The first one last: it may watch over the others.
    for pid in reversed(container.processes(store, ident)):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _is_stopped(pid: int) -> bool:
    """Whether no thread of the process runs; one that has ended does not."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
        return all(_state(f"/proc/{pid}/task/{thread}/stat") in b"TtZX" for thread in threads)
    except FileNotFoundError:
        return True


def _state(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read().rpartition(b")")[2].split()[0]
