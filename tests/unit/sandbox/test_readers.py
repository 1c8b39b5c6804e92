"""Which programs are asked about more for what they are told."""

from __future__ import annotations

import struct
import sys

import pytest

from ch_image.sandbox.readers import asks_for_interpreter, is_driver, reads_owners

READ = """
tar cf x.tar .
tar -cf x.tar .
tar -C / -cf x.tar usr
tar --create --file x.tar .
tar -rf x.tar more
tar uf x.tar more
tar --diff -f x.tar
tar -df x.tar
tar --totals -cf x.tar .
tar
sed -i s/a/b/ file
sed -Ei s/a/b/ file
sed -e s/a/b/ -e s/b/c/ -n -i.bak file
sed --in-place=.bak s/a/b/ file
sed s/a/b/ file -i
dpkg --configure -a
dpkg --status-fd 9 --force-confdef --configure man-db
dpkg -i a.deb
python3 /root/.ansible/tmp/AnsiballZ_copy.py
"""
LEFT = """
tar xf x.tar
tar -xf - --warning=no-timestamp
tar zxvf x.tgz
tar -tvf x.tar
tar --extract -f x.tar
sed s/i/j/ file
sed -n -e s/a/b/p file
sed --expression=s/i/j/ file
sed
dpkg --unpack a.deb
dpkg -L man-db
python3 setup.py
python3
"""
COMPILERS = """
gcc
cc
c++
gfortran
gcc-12
g++-4.8
x86_64-linux-gnu-gcc
aarch64-linux-gnu-g++-12
"""
ALIKE = """
gcc-ar
gcc-nm-12
cpp
tcc
ccache
acc
gccgo
12
-
"""


def _lines(text: str) -> list[str]:
    return text.strip().splitlines()


@pytest.mark.parametrize("line", _lines(READ))
def test_who_reads_owners_is_marked(line: str) -> None:
    words = line.encode().split()
    assert reads_owners(words[0], words)


@pytest.mark.parametrize("line", _lines(LEFT))
def test_who_does_not_runs_free(line: str) -> None:
    words = line.encode().split()
    assert not reads_owners(words[0], words)


def test_a_long_list_of_arguments_is_taken_for_one_that_edits() -> None:
    assert reads_owners(b"sed", [b"sed", *[b"-e"] * 255])
    assert not reads_owners(b"sed", [b"sed", *[b"-e"] * 254])


@pytest.mark.parametrize("name", _lines(COMPILERS))
def test_compilers_are_known_by_any_of_their_names(name: str) -> None:
    assert is_driver(name.encode())


@pytest.mark.parametrize("name", [*_lines(ALIKE), ""])
def test_what_is_called_alike_is_none(name: str) -> None:
    assert not is_driver(name.encode())


def _elf(*types: int, size: int = 56, count: int = -1, bits: int = 2) -> bytes:
    head = struct.pack(
        "<4sB11xHHIQQQIHHH", b"\x7fELF", bits, 2, 62, 1, 0, 64, 0, 0, 64, size,
        len(types) if count < 0 else count,
    )  # fmt: skip
    return head.ljust(64, b"\0") + b"".join(struct.pack("<I52x", one) for one in types)


PROGRAMS = {
    "linked to libraries": (_elf(6, 3, 1), True),
    "linked statically": (_elf(1, 1, 4), False),
    "of 32 bits": (_elf(3, bits=1), False),
    "cut off in its header": (_elf(3)[:60], False),
    "cut off behind it": (_elf(3)[:64], False),
    "with headers of no size": (_elf(1, size=0, count=0xFFFF), False),
    "with more headers than there are": (_elf(1, count=0xFFFF), False),
    "a script": (b"#!/bin/sh\n", False),
    "empty": (b"", False),
}


@pytest.mark.parametrize(("head", "expected"), PROGRAMS.values(), ids=PROGRAMS.keys())
def test_programs_that_have_libraries_are_known(head: bytes, expected: bool) -> None:
    assert asks_for_interpreter(head) == expected


def test_this_python_is_one() -> None:
    with open(sys.executable, "rb") as file:
        assert asks_for_interpreter(file.read(4096))
