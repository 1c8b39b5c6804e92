"""Threads that work on one thing together: the first fault ends the work of all.

Knows nothing of what they do. Threads are daemons: one that hangs in a read does not keep an
interrupted command alive.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Stopped(Exception):
    """Raised in a worker whose work is no longer wanted."""


class Crew:
    """Starts workers and waits for them."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._running = 0
        self._fault: BaseException | None = None
        self._stopping = False

    def start(self, work: Callable[[], None], name: str) -> None:
        """Run ``work`` in a thread of its own."""
        thread = threading.Thread(target=self._run, args=(work,), name=name, daemon=True)
        with self._changed:
            self._running += 1
        self._threads.append(thread)
        thread.start()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Stopped:
            pass
        except BaseException as error:
            with self._changed:
                self._fault = self._fault or error
                self._stopping = True
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def check(self) -> None:
        """Raise Stopped when the work is no longer wanted."""
        if self._stopping:
            raise Stopped

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait, in a worker, until ``condition`` holds; see ``tell``. Raises Stopped."""
        with self._changed:
            self._changed.wait_for(lambda: condition() or self._stopping)
        self.check()

    def tell(self) -> None:
        """Let those who wait look at their conditions again."""
        with self._changed:
            self._changed.notify_all()

    def finish(self) -> None:
        """Wait until all have ended, and raise the first fault."""
        with self._changed:
            self._changed.wait_for(lambda: not self._running or self._fault is not None)
        if self._fault is not None:
            self.stop()
            raise self._fault

    def stop(self, patience: float = 2.0) -> None:
        """End the work of all; waits at most ``patience`` seconds for those who are slow."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        end = time.monotonic() + patience
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
