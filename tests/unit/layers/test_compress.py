"""Compressed streams, whole, cut and damaged."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import subprocess
import sys
import threading
import zlib

import pytest
import world
import zstandard

from ch_image.errors import ImageError
from ch_image.layers.compress import (
    Compressor,
    HashingReader,
    HashingWriter,
    compression_of,
    gzip_writer,
    open_reader,
    zstd_writer,
)

DATA = os.urandom(300_000) + b"layer " * 200_000
checked = zstandard.ZstdCompressor(write_checksum=True).compress
PACK = {"gzip": gzip.compress, "zstd": checked, "bzip2": bz2.compress, "xz": lzma.compress}


def unpack(data: bytes) -> bytes:
    with open_reader(io.BytesIO(data)) as stream:
        return b"".join(iter(lambda: stream.read(50_000), b""))


@pytest.mark.parametrize("kind", PACK)
def test_each_format_is_told_by_its_first_bytes(kind: str) -> None:
    packed = PACK[kind](DATA)
    assert compression_of(packed) == kind
    assert unpack(packed) == DATA


@pytest.mark.parametrize("kind", PACK)
def test_streams_may_follow_each_other(kind: str) -> None:
    assert unpack(PACK[kind](DATA[:7]) + PACK[kind](b"") + PACK[kind](DATA[7:])) == DATA


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("cut", [8, 20, 1000, -1, -9])
def test_a_cut_stream_is_refused(kind: str, cut: int) -> None:
    with pytest.raises(ImageError, match="damaged"):
        unpack(PACK[kind](DATA)[:cut])


@pytest.mark.parametrize("kind", PACK)
def test_a_damaged_stream_is_refused(kind: str) -> None:
    packed = bytearray(PACK[kind](DATA))
    packed[5000:5004] = b"\xff\0\xff\0"
    with pytest.raises(ImageError, match="damaged"):
        unpack(bytes(packed))


def test_what_is_not_compressed_passes_through() -> None:
    for data in (b"", b"x", b"\x1f", DATA):
        assert unpack(data) == data


class Failing(io.BytesIO):
    """A source that fails as a disk does."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() > 1000:
            raise OSError(5, "Input/output error")
        return super().read(100)


def test_a_failing_source_is_no_damage_of_the_data() -> None:
    with open_reader(Failing(DATA)) as stream, pytest.raises(OSError, match="Input/output"):
        list(iter(lambda: stream.read(1000), b""))


def test_the_thread_ends_with_the_reader() -> None:
    before = set(threading.enumerate())  # others may end meanwhile
    for size in (0, 10):
        with open_reader(io.BytesIO(gzip.compress(DATA * 5))) as stream:
            stream.read(size)
    assert not set(threading.enumerate()) - before


def test_bombs_take_little_memory_at_a_time() -> None:
    bomb = zstandard.compress(bytes(200 << 20))
    with open_reader(io.BytesIO(bomb)) as stream:
        assert max(len(piece) for piece in iter(stream.read, b"")) <= 128 << 20


def test_an_xz_dictionary_of_gigabytes_is_refused() -> None:
    header = bytearray(lzma.compress(b"x", preset=9))  # whose dictionary has 64 MiB
    assert unpack(bytes(header)) == b"x"
    block = header[12 : 12 + (header[12] + 1) * 4]
    at = block.index(b"\x21\x01") + 2
    block[at] = 38  # 2 GiB
    block[-4:] = zlib.crc32(block[:-4]).to_bytes(4, "little")
    header[12 : 12 + len(block)] = block
    with pytest.raises(ImageError, match="damaged"):
        unpack(bytes(header))


WRITERS = {"gzip": gzip_writer, "zstd": zstd_writer}


@pytest.mark.parametrize("kind", WRITERS)
def test_what_is_written_is_the_same_however_it_is_cut(kind: str) -> None:
    outputs = set()
    for step in (1234, 1 << 20, len(DATA)):
        out = io.BytesIO()
        with WRITERS[kind](out) as packed:
            for at in range(0, len(DATA), step):
                packed.write(DATA[at : at + step])
        outputs.add(out.getvalue())
    assert len(outputs) == 1
    packed_data = outputs.pop()
    assert compression_of(packed_data) == kind
    assert unpack(packed_data) == DATA
    if kind == "gzip":
        assert gzip.decompress(packed_data) == DATA
        assert packed_data[3:8] == bytes(5), "a name or a time is in the header"


@pytest.mark.parametrize("level", range(10))
def test_gzip_takes_the_levels_that_gzip_has(level: int) -> None:
    out = io.BytesIO()
    with gzip_writer(out, level) as packed:
        packed.write(b"x" * 1000)
    assert gzip.decompress(out.getvalue()) == b"x" * 1000


def test_an_empty_stream_is_a_stream() -> None:
    for writer in WRITERS.values():
        out = io.BytesIO()
        packed: Compressor = writer(out)
        packed.close()
        assert unpack(out.getvalue()) == b""


def test_hashing_sees_all_that_passes() -> None:
    wanted = hashlib.sha256(DATA).hexdigest()
    into, outof, ahead = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    sink = io.BytesIO()
    writer = HashingWriter(sink, into)
    writer.write(DATA)
    reader = HashingReader(io.BytesIO(sink.getvalue()), outof)
    with open_reader(reader, ahead) as stream:
        while stream.read(1000):
            pass
    assert {h.hexdigest() for h in (into, outof, ahead)} == {wanted}
    assert writer.count == reader.count == len(DATA)


INTERRUPTED = """
import random, signal
from ch_image.layers.compress import CHUNK, gzip_writer

class Interrupted(BaseException):
    pass

class Target:
    def write(self, data): pass

def handler(*_):
    raise Interrupted

signal.signal(signal.SIGALRM, handler)
block, random = random.randbytes(CHUNK * 3 // 2), random.Random(1)
for number in range(60):
    try:
        with gzip_writer(Target()) as out:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0005, 0.02))
            while True:
                out.write(block)
    except Interrupted:
        pass
print("all ended")
"""


def test_an_interruption_at_any_moment_leaves_nobody_waiting() -> None:
    argv = [sys.executable, "-c", INTERRUPTED]
    env = os.environ | {"PYTHONPATH": str(world.CHECKOUT)}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=100)
    assert (done.stdout, done.returncode) == ("all ended\n", 0), done.stderr


class Full:
    """A target that takes one block and then has no space."""

    def __init__(self) -> None:
        self.left = 2

    def write(self, data: bytes) -> int:
        self.left -= 1
        if self.left < 0:
            raise OSError(28, "No space left on device")
        return len(data)


def test_a_full_target_is_told_and_can_be_left() -> None:
    def fill() -> None:
        with gzip_writer(Full()) as out:
            for _ in range(50):
                out.write(os.urandom(1 << 20))

    with pytest.raises(OSError, match="No space left"):
        fill()
    packer = gzip_writer(Full())
    packer.write(DATA)
    with pytest.raises(OSError, match="No space left"):
        packer.close()
