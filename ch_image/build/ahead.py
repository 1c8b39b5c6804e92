"""Lists the later half of a large tree in a fork, while the caller lists the first.

Of what it costs to look at a file most is Python's own time, which one process can spend on one
processor only. Rows go through memory that both have; they are what the caller would have found.
"""

from __future__ import annotations

import marshal
import os
from collections.abc import Callable, Sequence

from ch_image.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from ch_image.build.source import Row


class Ahead:
    """The fork, which must be made while there are no threads.

    ``look`` gives the rows of a directory, and what else is to be known of them.
    """

    def __init__(
        self, paths: Sequence[str], look: Callable[[str], tuple[list[Row], bytes]]
    ) -> None:
        self._paths = frozenset(paths)
        self._found: dict[str, tuple[list[Row], bytes]] | None = None
        self._memory = os.memfd_create("rows", os.MFD_CLOEXEC)
        self._pid = os.fork()
        if self._pid == 0:
            try:
                _list(paths, look, self._memory)
            finally:
                os._exit(0)

    def get(self, path: str) -> tuple[list[Row], bytes] | None:
        """What the fork found in the directory ``path``; None: it has to be looked at."""
        if path not in self._paths:
            return None
        if self._found is None:
            self._found = self._read()
        return self._found.get(path)

    def _read(self) -> dict[str, tuple[list[Row], bytes]]:
        os.waitpid(self._pid, 0)
        self._pid = 0
        data = os.pread(self._memory, os.fstat(self._memory).st_size, 0)
        try:
            found: dict[str, tuple[list[Row], bytes]] = marshal.loads(data)
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


def _list(
    paths: Sequence[str], look: Callable[[str], tuple[list[Row], bytes]], memory: int
) -> None:
    found = {}
    for path in paths:
        try:
            found[path] = look(path)
        except OSError:  # the caller meets it too, and can say so
            continue
    data = memoryview(marshal.dumps(found))
    while data:
        data = data[os.write(memory, data) :]
