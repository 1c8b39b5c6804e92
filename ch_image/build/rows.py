"""Directory entries as plain tuples, for there may be very many; fields are NAME to LINKS below."""

from __future__ import annotations

import marshal
from collections.abc import Iterator, Sequence

from ch_image.typed import Final, TypeAlias, overload

Row: TypeAlias = tuple[str, int, int, int, int, int, int, int]
NAME: Final = 0
MODE: Final = 1
SIZE: Final = 2
MTIME: Final = 3  # nanoseconds, as the next
CTIME: Final = 4
INODE: Final = 5
DEVICE: Final = 6
LINKS: Final = 7


class Packed(Sequence[Row]):
    """The rows of a directory as another process sent them, taken apart when somebody needs them.

    What is asked of every directory is there without: the names of ``directories``, the rows of
    files that have several names (``linked``), and how many rows there are.
    """

    def __init__(
        self, data: bytes, count: int, directories: Sequence[str], linked: Sequence[Row]
    ) -> None:
        self._data, self._count = data, count
        self.directories, self.linked = directories, linked
        self._rows: list[Row] | None = None

    def _all(self) -> list[Row]:
        if self._rows is None:
            self._rows = marshal.loads(self._data)
        return self._rows

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Row]:
        return iter(self._all())

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Row]: ...
    def __getitem__(self, at: int | slice) -> Row | Sequence[Row]:
        return self._all()[at]


def directories_of(rows: Sequence[Row]) -> Sequence[str]:
    """The names of the directories among ``rows``."""
    if isinstance(rows, Packed):
        return rows.directories
    return [row[NAME] for row in rows if row[MODE] & 0o170000 == 0o040000]


def linked_of(rows: Sequence[Row]) -> Sequence[Row]:
    """The ``rows`` of files with several names."""
    if isinstance(rows, Packed):
        return rows.linked
    return [row for row in rows if row[LINKS] > 1]
