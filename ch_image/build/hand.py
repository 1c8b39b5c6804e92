"""A second process that copies small files, beside the one that builds.

Python's lock lets one thread at a time make files, and of what a small file costs only the lesser
part is spent in the kernel. The process lives in the caller's namespaces, works on descriptors that
it is handed, and takes its jobs from the queue that its caller takes them from: a pipe of numbers,
of which each read(2) gets one. It dies with the thread that started it.
"""

from __future__ import annotations

import marshal
import os
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from ch_image.build.chmod import ModeChange
from ch_image.build.place import Placer, Policy, ReadFault
from ch_image.build.rows import NAME, Row
from ch_image.build.source import ImageSource, Source, join, open_directory
from ch_image.build.target import write_fault
from ch_image.errors import BuildError
from ch_image.typed import Any, NamedTuple

_KILL = 9  # signal(7)
_FIRST = 200  # number of the first descriptor that is handed over
_NUMBER = struct.Struct("<I")
MOST = 8192  # numbers that a pipe holds with room to spare
_BOOT = (
    "import sys, marshal\n"
    "sys.path[:] = sys.argv[2:]\n"
    "from ch_image.build.hand import serve\n"
    "serve(int(sys.argv[1]))\n"
)


class Job(NamedTuple):
    """Files of one directory that go to one directory, each under its new name."""

    path: str
    place: str
    rows: Sequence[tuple[Row, str]]


def carry_out(job: Job, source: Source, placer: Placer, open_place: Callable[[str], int]) -> None:
    """Copy the files of a job; ``open_place`` opens where they go. Raises BuildError."""
    with source.reading(job.path):
        src = source.open_dir(job.path)
    at = job.place
    try:
        dst = open_place(job.place)
        try:
            for row, name in job.rows:
                at = f"{job.place}/{name}" if job.place else name
                placer.node(src, row, job.path, dst, name, at)
        finally:
            os.close(dst)
    except ReadFault as fault:
        raise source.fault(join(job.path, row[NAME]), fault.error) from None
    except OSError as error:
        raise write_fault(at, error) from None
    finally:
        os.close(src)


class Queue:
    """Numbers from 0, each taken once, by whoever comes first, in whatever process."""

    def __init__(self, count: int) -> None:
        if count > MOST:
            raise ValueError(count)
        self.fd, writer = os.pipe2(os.O_CLOEXEC)
        os.write(writer, b"".join(_NUMBER.pack(n) for n in range(count)))
        os.close(writer)

    def take(self) -> int | None:
        """The next number; None when there is none left."""
        return _take(self.fd)

    def close(self) -> None:
        """Nobody here takes any more."""
        os.close(self.fd)


def _take(fd: int) -> int | None:
    data = os.read(fd, _NUMBER.size)
    return _NUMBER.unpack(data)[0] if data else None


class Hand:
    """The process. ``new``: places that lie in ``upper``, all others in ``root`` (descriptors)."""

    def __init__(
        self,
        jobs: Sequence[Sequence[Job]],
        queue: Queue,
        source: Source,
        policy: Policy,
        target: tuple[int, int],
        new: set[str],
    ) -> None:
        told = {
            "jobs": [[(*job, job.place in new) for job in some] for some in jobs],
            "what": source.what,
            "links": _link_owners(source, jobs) if isinstance(source, ImageSource) else None,
            "owner": policy.owner,
            "mode": policy.mode and tuple(policy.mode),
        }
        package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        path = [package, *(part for part in sys.path if part)]
        argv = [sys.executable, "-SIc", _BOOT, str(os.getpid()), *path]
        words = os.memfd_create("jobs", os.MFD_CLOEXEC)
        self._reader, writer = os.pipe2(os.O_CLOEXEC)
        top = source.open_dir("")
        try:
            with open(words, "wb", closefd=False) as file:
                file.write(marshal.dumps(told))  # marshal.dump writes each value by itself
            fds = (words, writer, queue.fd, top, *target)
            moves = [(os.POSIX_SPAWN_DUP2, fd, _FIRST + n) for n, fd in enumerate(fds)]
            self._pid = os.posix_spawn(
                sys.executable, argv, {"LANG": "C.UTF-8"}, file_actions=moves
            )
        finally:
            for fd in (words, writer, top):
                os.close(fd)

    def result(self, placer: Placer) -> None:
        """Wait until it is done, and add what it did to ``placer``. Raises BuildError."""
        data = b"".join(iter(lambda: os.read(self._reader, 1 << 16), b""))
        try:
            answer: dict[str, Any] = marshal.loads(data)
        except (EOFError, ValueError, TypeError):
            raise BuildError(
                "the process that copies files ended early",
                hint="was it out of memory? look at the system's log",
            ) from None
        if "fault" in answer:
            raise BuildError(answer["fault"], hint=answer["hint"])
        placer.owners.update(answer["owners"])
        placer.files += answer["files"]
        placer.bytes += answer["bytes"]
        placer.unrecorded += answer["unrecorded"]

    def close(self) -> None:
        """End the process, whatever it is doing."""
        os.close(self._reader)
        os.kill(self._pid, _KILL)
        os.waitpid(self._pid, 0)


def _link_owners(source: Source, jobs: Sequence[Sequence[Job]]) -> Mapping[str, tuple[int, int]]:
    """Of what is no file: the process has no other way to know them."""
    paths = (
        f"{job.path}/{row[0]}" if job.path else row[0]
        for some in jobs
        for job in some
        for row, _ in job.rows
        if row[1] & 0o170000 not in (0o100000, 0o040000)
    )
    owners = ((path, source.link_owner(path)) for path in paths)
    return {path: owner for path, owner in owners if owner != (0, 0)}


def serve(parent: int) -> None:
    """The process's main function."""
    from ch_image.sandbox.syscalls import die_with

    die_with(parent)
    os.setsid()  # Ctrl-C comes to the caller alone, who ends us
    words, writer, queue, top, root, upper = range(_FIRST, _FIRST + 6)
    with open(words, "rb") as file:
        file.seek(0)
        told = marshal.loads(file.read())
    links = told["links"]
    source = Source("") if links is None else ImageSource("", links)
    source.what = told["what"]
    source.hold(top)
    mode = told["mode"]
    placer = Placer(source, Policy(told["owner"], mode and ModeChange(*mode)))
    answer: dict[str, object]
    try:
        _work(told["jobs"], queue, source, placer, (root, upper))
        answer = {name: getattr(placer, name) for name in ("owners", "files", "bytes")}
        answer["unrecorded"] = placer.unrecorded
    except BuildError as error:
        answer = {"fault": str(error), "hint": error.hint}
    with open(writer, "wb") as out:
        out.write(marshal.dumps(answer))


def _work(
    jobs: Sequence[Sequence[tuple[str, str, Sequence[tuple[Row, str]], bool]]],
    queue: int,
    source: Source,
    placer: Placer,
    target: tuple[int, int],
) -> None:
    while (number := _take(queue)) is not None:
        for path, place, rows, new in jobs[number]:
            job = Job(path, place, rows)
            carry_out(job, source, placer, partial(open_directory, target[new]))
