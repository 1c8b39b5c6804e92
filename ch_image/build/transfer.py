"""Moves many files from a source into the target: directories first, then files by threads.

The directories are made by one thread, which also decides what must give way; the files then go
in batches to as many threads as there are processors; hard links and the directories' own modes
and times come last, for writing into a directory changes its time.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Sequence

from ch_image.build.hand import MOST, Hand, Job, Queue, carry_out
from ch_image.build.place import Placer
from ch_image.build.rows import DEVICE, INODE, LINKS, MODE, NAME, SIZE, Row
from ch_image.build.select import Level, Match, levels
from ch_image.build.source import Source, join
from ch_image.build.spread import spread
from ch_image.build.target import Target, write_fault
from ch_image.errors import BuildError
from ch_image.fs import owners
from ch_image.typed import NamedTuple

_BATCH = 64  # files
_BIG = 16 << 20  # bytes
_SMALL = 64 << 10  # bytes that a file has on average, or less
_MANY = 3000  # such files, for a process of its own to be worth its start


class _Finish(NamedTuple):
    """What a directory gets in the end; None: stays as it is."""

    place: str
    mode: int | None
    mtime: int | None


class Transfer:
    """Copies from ``source`` into ``target``; ``placer`` makes a `Placer` for each thread."""

    def __init__(self, source: Source, target: Target, placer: Callable[[], Placer]) -> None:
        self._source = source
        self._target = target
        self._make_placer = placer
        self._placer = placer()
        self._jobs: list[Job] = []
        self._finish: list[_Finish] = []
        self._first: dict[tuple[int, int], str] = {}
        self._links: list[tuple[str, str, Row, str]] = []
        self._state: dict[str, str] = {}  # of directories below: made, merged, entered

    def files(self, pairs: Iterable[tuple[Match, str]]) -> None:
        """Copy single files, each to its own place."""
        grouped: dict[tuple[str, str], list[tuple[Row, str]]] = {}
        for match, place in pairs:
            row = self._source.row(match.path)
            if row is None:
                raise BuildError(f"{self._source.name_of(match.path)} has vanished")
            directory, _, name = place.rpartition("/")
            key = (match.path.rpartition("/")[0], directory)
            grouped.setdefault(key, []).append((row, name))
        for (path, place), rows in grouped.items():
            with _writing(place):
                fd = self._target.open_dir(place)
                try:
                    for _, name in rows:
                        self._target.make_room(fd, name, join(place, name))
                finally:
                    os.close(fd)
            self._add(path, place, rows)
        self._run()

    def directory(self, match: Match, place: str, exclude: Sequence[str]) -> None:
        """Copy the contents of a directory into the directory at ``place``."""
        for level in levels(self._source, match, exclude):
            self._level(level, join(place, level.rel) if level.rel else place)
        self._run()
        for first, place, row, path in self._links:
            self._link(first, place, row, path)
        for finish in reversed(self._finish):
            self._complete(finish)

    def _level(self, level: Level, place: str) -> None:
        with self._source.reading(level.path):
            src = self._source.open_dir(level.path)
        try:
            with _writing(place):
                dst = self._target.open_dir(place)
                try:
                    self._own(level, src, dst, place)
                    self._contents(level, dst, place)
                finally:
                    os.close(dst)
        finally:
            os.close(src)

    def _own(self, level: Level, src: int, dst: int, place: str) -> None:
        """The directory itself: attributes and owner now, mode and time in the end."""
        state = os.fstat(src)
        how = self._state.pop(place, "top")
        if how == "top":  # not a copy of the source; BuildKit gives it the time only
            self._finish.append(_Finish(place, None, state.st_mtime_ns))
        elif how == "entered":
            self._finish.append(_Finish(place, stat.S_IMODE(state.st_mode), None))
        else:
            mode = self._placer.policy.bits(state.st_mode)
            if how == "merged":
                owners.clear(dst)
            self._placer.attributes(src, dst, mode, "dir")
            self._finish.append(_Finish(place, mode, state.st_mtime_ns))

    def _contents(self, level: Level, dst: int, place: str) -> None:
        target = self._target
        existing = target.names(dst)
        files = []
        for row in level.rows:
            name = row[NAME]
            at = f"{place}/{name}" if place else name
            if row[MODE] & 0o170000 == 0o040000:
                if target.enter(dst, name, at):
                    self._state[at] = "made"
                else:
                    self._state[at] = "entered" if name in level.passages else "merged"
                continue
            if name in existing or target.replace:
                target.make_room(dst, name, at)
            if row[LINKS] > 1 and stat.S_ISREG(row[MODE]):
                first = self._first.setdefault((row[DEVICE], row[INODE]), at)
                if first != at:
                    self._links.append((first, at, row, level.path))
                    continue
            files.append((row, name))
        self._add(level.path, place, files)

    def _add(self, path: str, place: str, rows: Sequence[tuple[Row, str]]) -> None:
        start = size = 0
        for i, (row, _) in enumerate(rows):
            size += row[SIZE]
            if i - start >= _BATCH or size > _BIG:
                self._jobs.append(Job(path, place, rows[start : i + 1]))
                start, size = i + 1, 0
        if start < len(rows):
            self._jobs.append(Job(path, place, rows[start:]))

    def _run(self) -> None:
        """Do all jobs; the first failure stops the others."""
        jobs, self._jobs = self._jobs, []
        files = sum(len(job.rows) for job in jobs)
        size = sum(row[SIZE] for job in jobs for row, _ in job.rows)
        if files >= _MANY and size < _SMALL * files and len(os.sched_getaffinity(0)) > 1:
            self._run_with_a_hand(jobs)
            return

        def worker() -> Callable[[Job], None]:
            placer = self._make_placer()
            return lambda job: self._do(job, placer)

        spread(jobs, size, worker)

    def _run_with_a_hand(self, jobs: Sequence[Job]) -> None:
        """Do what is in the queue, and so does another process."""
        step = -(-len(jobs) // MOST)
        some = [jobs[n : n + step] for n in range(0, len(jobs), step)]
        placer, target = self._make_placer(), self._target
        queue = Queue(len(some))
        try:
            hand = Hand(some, queue, self._source, placer.policy, target.fds, target.new)
            try:
                while (number := queue.take()) is not None:
                    for job in some[number]:
                        self._do(job, placer)
                hand.result(placer)
            finally:
                hand.close()
        finally:
            queue.close()

    def _do(self, job: Job, placer: Placer) -> None:
        carry_out(job, self._source, placer, self._target.open_dir)

    def _link(self, first: str, place: str, row: Row, path: str) -> None:
        """Another name of a file that was copied already."""
        there, _, old = first.rpartition("/")
        here, _, new = place.rpartition("/")
        with _writing(place):
            src = self._target.open_for_link(there, to=here)
            try:
                dst = self._target.open_dir(here)
                try:
                    os.link(old, new, src_dir_fd=src, dst_dir_fd=dst, follow_symlinks=False)
                except OSError as error:
                    if error.errno != errno.EMLINK:
                        raise
                    self._do(Job(path, here, [(row, new)]), self._placer)
                finally:
                    os.close(dst)
            finally:
                os.close(src)

    def _complete(self, finish: _Finish) -> None:
        with _writing(finish.place):
            fd = self._target.open_dir(finish.place)
            try:
                if finish.mode is not None:
                    os.fchmod(fd, finish.mode)
                if finish.mtime is not None:
                    os.utime(fd, ns=(finish.mtime, finish.mtime))
            finally:
                os.close(fd)


class _writing:
    """Turns an OSError into the BuildError that names the place."""

    __slots__ = ("_place",)

    def __init__(self, place: str) -> None:
        self._place = place

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, OSError):
            raise write_fault(self._place, error) from None
