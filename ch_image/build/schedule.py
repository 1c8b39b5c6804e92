"""Carries out steps in the order their needs allow, several at once.

The calling thread looks each step up; what is not to be had from the cache becomes work for a
thread. The first failure stops everything and is the one that is raised; so does an interrupt.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

from ch_image.typed import Generic, Protocol, TypeVar

T = TypeVar("T")
_PATIENCE = 5.0  # seconds that a build that ends waits for its threads


class Cancel:
    """A flag that can be polled: ``fd`` becomes readable when it is raised."""

    def __init__(self) -> None:
        self.fd, self._writer = os.pipe2(os.O_CLOEXEC)
        self._raised = False

    def raise_(self) -> None:
        """Raise the flag; may be repeated."""
        if not self._raised:
            self._raised = True
            os.write(self._writer, b"!")

    def is_raised(self) -> bool:
        """Whether work is to stop."""
        return self._raised

    def close(self) -> None:
        """Free the descriptors."""
        os.close(self.fd)
        os.close(self._writer)


class Once(Generic[T]):
    """Makes something when it is first asked for; may be called from several threads."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make, self._lock = make, threading.Lock()
        self._made: list[T] = []

    @property
    def is_made(self) -> bool:
        """Whether it has been asked for."""
        return bool(self._made)

    def __call__(self) -> T:
        """The one thing. Raises what making it raises, each time."""
        with self._lock:
            if not self._made:
                self._made.append(self._make())
            return self._made[0]


class Work(Generic[T]):
    """A step that has to be carried out. ``key`` joins equal ones: only the first is run."""

    __slots__ = ("key", "run")

    def __init__(self, key: str, run: Callable[[], T]) -> None:
        self.key, self.run = key, run


class Agenda(Protocol[T]):
    """What there is to do, seen from the scheduler. All calls come from one thread."""

    def ready(self) -> list[int]:
        """Steps whose needs are met and that were not handed out before."""

    def look(self, step: int) -> T | Work[T]:
        """The result of a step when no work is needed, else the work."""

    def done(self, step: int, result: T) -> None:
        """``step`` has this result now."""


def run(agenda: Agenda[T], jobs: int, cancel: Cancel) -> None:
    """Until nothing is left to do. Raises what the first failing step raised."""
    pool: _Pool[T] = _Pool(jobs)
    try:
        while True:
            ready = agenda.ready()
            for step in ready:
                found = agenda.look(step)
                if isinstance(found, Work):
                    pool.add(step, found)
                else:
                    agenda.done(step, found)
            if not ready:
                if not pool.busy:
                    return
                pool.collect(agenda)
    except BaseException:
        cancel.raise_()
        pool.drain()
        raise
    finally:
        pool.close()


class _Pool(Generic[T]):
    """At most ``jobs`` threads at a time; equal keys are joined."""

    def __init__(self, jobs: int) -> None:
        self._jobs = max(1, jobs)
        self._finished: SimpleQueue[tuple[int, T | None, BaseException | None]] = SimpleQueue()
        self._waiting: list[tuple[int, Work[T]]] = []
        self._joined: dict[str, list[int]] = {}
        self._keys: dict[int, str] = {}
        self._running = 0
        # Threads stay for the next step: starting one takes longer than handing it something.
        self._orders: SimpleQueue[tuple[int, Work[T]] | None] = SimpleQueue()
        self._threads = 0

    @property
    def busy(self) -> bool:
        """Whether a result is still to come."""
        return self._running > 0 or bool(self._waiting)

    def add(self, step: int, work: Work[T]) -> None:
        """Start ``work``, or join the step to equal work that is under way."""
        if work.key in self._joined:
            self._joined[work.key].append(step)
            return
        self._joined[work.key] = []
        self._keys[step] = work.key
        self._waiting.append((step, work))
        self._start()

    def collect(self, agenda: Agenda[T]) -> None:
        """Wait for one result and hand it on. Raises what the work raised."""
        step, result, error = self._finished.get()
        self._running -= 1
        if error is not None:
            raise error
        self._start()
        others = self._joined.pop(self._keys.pop(step))
        agenda.done(step, result)  # type: ignore[arg-type]  # no error: there is a result
        for other in others:
            found = agenda.look(other)
            if isinstance(found, Work):
                self.add(other, found)
            else:
                agenda.done(other, found)

    def drain(self) -> None:
        """Wait for the threads, whose work was told to stop; but not for long.

        What does not heed the flag (a transfer, a large copy) ends with the process, and leaves
        no more than a process that was killed.
        """
        self._waiting.clear()
        end = time.monotonic() + _PATIENCE
        while self._running:
            try:
                self._finished.get(timeout=max(0.0, end - time.monotonic()))
            except Empty:
                return
            self._running -= 1

    def close(self) -> None:
        """Let the threads go, each when it has done what it is at."""
        for _ in range(self._threads):
            self._orders.put(None)

    def _start(self) -> None:
        while self._waiting and self._running < self._jobs:
            step, work = self._waiting.pop(0)
            self._running += 1
            self._orders.put((step, work))
            if self._running > self._threads:
                self._threads += 1
                threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while order := self._orders.get():
            step, work = order
            try:
                self._finished.put((step, work.run(), None))
            except BaseException as error:
                self._finished.put((step, None, error))
            del order, work  # what they hold is not kept until the next one comes
