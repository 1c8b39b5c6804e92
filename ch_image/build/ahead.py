"""Lists the later half of a large tree in a fork, while the caller lists the first.

Of what it costs to look at a file most is Python's own time, which one process can spend on one
processor only. Rows go through memory that both have; they are what the caller would have found.
"""

from __future__ import annotations

import marshal
import os
from collections.abc import Callable, Sequence

from ch_image.build.rows import Packed, Row, directories_of, linked_of
from ch_image.build.statindex import fingerprint_of, packed
from ch_image.typed import TypeAlias

Packet: TypeAlias = tuple[bytes, bytes, int, Sequence[str], Sequence[Row]]


class Ahead:
    """The fork, which must be made while there are no threads.

    ``look`` gives the rows of a directory.
    """

    def __init__(self, paths: Sequence[str], look: Callable[[str], list[Row]]) -> None:
        self._paths = frozenset(paths)
        self._found: dict[str, Packet] | None = None
        self._memory = os.memfd_create("rows", os.MFD_CLOEXEC)
        self._pid = os.fork()
        if self._pid == 0:
            try:
                _list(paths, look, self._memory)
            finally:
                os._exit(0)

    def get(self, path: str) -> tuple[Packed, bytes] | None:
        """The rows that the fork found in the directory ``path``, and their fingerprint.

        None: it has to be looked at.
        """
        if path not in self._paths:
            return None
        if self._found is None:
            self._found = self._read()
        found = self._found.get(path)
        if found is None:
            return None
        fingerprint, data, count, directories, linked = found
        return Packed(data, count, directories, linked), fingerprint

    def _read(self) -> dict[str, Packet]:
        os.waitpid(self._pid, 0)
        self._pid = 0
        data = os.pread(self._memory, os.fstat(self._memory).st_size, 0)
        try:
            found: dict[str, Packet] = marshal.loads(data)
            return found
        except (EOFError, ValueError, TypeError):  # it was killed: then everything is looked at
            return {}

    def close(self) -> None:
        """End it; may be repeated."""
        if self._pid:
            os.kill(self._pid, 9)
            os.waitpid(self._pid, 0)
            self._pid = 0
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1


def _list(paths: Sequence[str], look: Callable[[str], list[Row]], memory: int) -> None:
    found = {}
    for path in paths:
        try:
            rows = look(path)
        except OSError:  # the caller meets it too, and can say so
            continue
        data = packed(rows)
        mark = fingerprint_of(data)
        found[path] = (mark, data, len(rows), directories_of(rows), linked_of(rows))
    left = memoryview(marshal.dumps(found, 2))
    while left:
        left = left[os.write(memory, left) :]
