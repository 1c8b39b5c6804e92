"""Steps in threads: who needs whom, how many at once, and that nothing is left running."""

from __future__ import annotations

import threading
import time

import pytest

from ch_image.build.schedule import Cancel, Work, run


class Chain:
    """So many steps side by side, or each of which needs the one before."""

    def __init__(self, count: int, *, apart: bool = False, fails: int = -1) -> None:
        self.threads: list[int] = []
        self.most = 0  # that ran at once
        self._running = 0
        self._lock = threading.Lock()
        self._count, self._apart, self._fails = count, apart, fails
        self._out: set[int] = set()
        self._finished: set[int] = set()

    def ready(self) -> list[int]:
        able = [n for n in range(self._count) if self._apart or n == 0 or n - 1 in self._finished]
        new = [n for n in able if n not in self._out]
        self._out |= set(new)
        return new

    def look(self, step: int) -> Work[int]:
        return Work(f"key {step}", lambda: self._work(step))

    def _work(self, step: int) -> int:
        with self._lock:
            self._running += 1
            self.most = max(self.most, self._running)
            self.threads.append(threading.get_ident())
        time.sleep(0.01)
        with self._lock:
            self._running -= 1
        if step == self._fails:
            raise ValueError(step)
        return step

    def done(self, step: int, result: int) -> None:
        assert step == result
        self._finished.add(step)


def carried_out(chain: Chain, jobs: int) -> None:
    """Run it; in the end there are as many threads as before."""
    before = threading.active_count()
    cancel = Cancel()
    try:
        run(chain, jobs, cancel)
    finally:
        cancel.close()
        end = time.monotonic() + 5
        while threading.active_count() > before:
            assert time.monotonic() < end, threading.enumerate()
            time.sleep(0.01)


def test_one_thread_carries_out_what_comes_one_by_one() -> None:
    chain = Chain(20)
    carried_out(chain, 4)
    assert len(chain.threads) == 20
    assert len(set(chain.threads)) == 1
    assert threading.get_ident() not in chain.threads


@pytest.mark.parametrize("jobs", [0, 1, 2, 3])
def test_no_more_at_once_than_was_asked_for(jobs: int) -> None:
    chain = Chain(12, apart=True)
    carried_out(chain, jobs)
    assert len(chain.threads) == 12
    assert chain.most == len(set(chain.threads)) == max(1, jobs)


@pytest.mark.parametrize("apart", [False, True])
def test_a_failure_is_raised_and_leaves_no_thread(apart: bool) -> None:
    chain = Chain(6, apart=apart, fails=2)
    with pytest.raises(ValueError, match="2"):
        carried_out(chain, 2)
