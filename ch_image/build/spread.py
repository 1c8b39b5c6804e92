"""Spreads jobs over threads where that makes them faster, and only there.

Reading, writing and hashing let go of the interpreter's lock, so threads help with big files and
with disks that are waited for. With many small files that are in memory already they only take
the lock from each other; so a few jobs are done first, to see whether time goes into waiting.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence

from ch_image.typed import TypeVar

_T = TypeVar("_T")
_MAX_THREADS = 8
_BIG = 64 << 10  # bytes a job's file has on average for threads to be worth it
_TRIAL = 4  # jobs done before the choice is made


def spread(jobs: Sequence[_T], size: int, worker: Callable[[], Callable[[_T], None]]) -> None:
    """Do all jobs, ``size`` bytes in all; ``worker`` makes what does them, once per thread.

    The first failure stops the others and is raised.
    """
    work = worker()
    waited = False
    for i, job in enumerate(jobs):
        if i == _TRIAL and (waited or size > _BIG * 64 * len(jobs)):
            _in_threads(jobs[i:], work, worker)
            return
        wall, busy = time.monotonic(), time.thread_time()
        work(job)
        waited |= time.monotonic() - wall > 2 * (time.thread_time() - busy) + 0.001


def _in_threads(
    jobs: Sequence[_T], work: Callable[[_T], None], worker: Callable[[], Callable[[_T], None]]
) -> None:
    todo = iter(jobs)  # next() on a sequence's iterator is atomic
    failures: list[BaseException] = []

    def run(do: Callable[[_T], None]) -> None:
        try:
            for job in todo:
                if failures:
                    return
                do(job)
        except BaseException as error:  # raised again below, in the caller's thread
            failures.append(error)

    count = min(len(os.sched_getaffinity(0)), _MAX_THREADS, len(jobs))
    threads = [threading.Thread(target=run, args=(worker(),)) for _ in range(count - 1)]
    for thread in threads:
        thread.start()
    run(work)
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
