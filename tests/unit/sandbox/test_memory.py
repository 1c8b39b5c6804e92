"""Reading the memory of a process; here of this one."""

from __future__ import annotations

import ctypes
import mmap
import os

import pytest

from ch_image.sandbox import memory


def _address(area: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(area))


@pytest.fixture
def edge() -> tuple[mmap.mmap, int]:
    """Memory, and the address of its end, behind which there is none."""
    area = mmap.mmap(-1, 2 * mmap.PAGESIZE)
    end = _address(area) + mmap.PAGESIZE
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(end), mmap.PAGESIZE, 0) == 0
    return area, end


def test_reading_stops_at_the_end_of_memory(edge: tuple[mmap.mmap, int]) -> None:
    area, end = edge
    area[mmap.PAGESIZE - 5 : mmap.PAGESIZE] = b"ab\0cd"
    assert memory.read(os.getpid(), end - 5, 256) == b"ab\0cd"
    with pytest.raises(OSError, match="Bad address"):
        memory.read(os.getpid(), end, 1)


def test_strings_are_read_up_to_the_first_that_is_not_there(edge: tuple[mmap.mmap, int]) -> None:
    area, end = edge
    area[0:48] = b"sed\0-n\0a word that is longer than it is to be\0".ljust(48)
    area[mmap.PAGESIZE - 3 : mmap.PAGESIZE] = b"-i\0"
    start = end - mmap.PAGESIZE
    addresses = [start, start + 4, start + 7]
    assert memory.read_strings(os.getpid(), addresses, 16) == [b"sed", b"-n", b"a word that is l"]
    addresses[1:1] = [end - 3]
    assert memory.read_strings(os.getpid(), addresses, 16) == [b"sed"]
    assert memory.read_strings(os.getpid(), [0], 16) == []
    assert memory.read_strings(os.getpid(), [start] * 256, 16) == [b"sed"] * 256
