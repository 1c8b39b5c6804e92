"""Compression of layers: what a blob's bytes unpack to, and the other way round.

Formats are told by their first bytes, never by a media type or a file name. Decompression runs
in a thread of its own, for the libraries let go of Python's lock: unpacking and decompressing
happen at the same time. This knows nothing of tar.

Compressed output is reproducible: no name, no time, and the same bytes whatever the number of
processors. Faults of the data are ImageErrors, those of the source come through as they are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

from ch_image.errors import ImageError
from ch_image.typed import Any, Final, Protocol

CHUNK: Final = 1 << 20
_AHEAD: Final = 6  # chunks decompressed before they are wanted
_WAITING: Final = 2  # blocks to compress that wait, or are taken
_MEMORY: Final = 160 << 20  # what a decompressor's window may take, bytes
_INPUT: Final = 256 << 10
_THREADS: Final = 2  # fixed: zstd's output depends on there being threads


class Readable(Protocol):
    """Anything with ``read``; it returns b"" at the end only, and may return less than asked."""

    def read(self, size: int = -1, /) -> bytes: ...


class Writable(Protocol):
    """Anything with ``write`` that takes all it is given."""

    def write(self, data: bytes, /) -> Any: ...


class Hasher(Protocol):
    """What `hashlib` makes."""

    def update(self, data: bytes, /) -> None: ...


class HashingReader:
    """Passes a stream through, and feeds what was read to a hasher; ``count`` is in bytes."""

    __slots__ = ("_hasher", "_source", "count")

    def __init__(self, source: Readable, hasher: Hasher) -> None:
        self._source, self._hasher, self.count = source, hasher, 0

    def read(self, size: int = -1, /) -> bytes:
        """Read up to ``size`` bytes."""
        data = self._source.read(size)
        self._hasher.update(data)
        self.count += len(data)
        return data


class HashingWriter:
    """Passes writes on, and feeds them to a hasher; ``count`` is in bytes."""

    __slots__ = ("_hasher", "_target", "count")

    def __init__(self, target: Writable, hasher: Hasher) -> None:
        self._target, self._hasher, self.count = target, hasher, 0

    def write(self, data: bytes, /) -> int:
        """Write all of ``data``."""
        self._target.write(data)
        self._hasher.update(data)
        self.count += len(data)
        return len(data)


class _Joined:
    """``head``, which was read to look at it, and then the rest of ``source``."""

    __slots__ = ("_head", "_source")

    def __init__(self, head: bytes, source: Readable) -> None:
        self._head, self._source = head, source

    def read(self, size: int = -1, /) -> bytes:
        head = self._head
        if not head:
            return self._source.read(size)
        if 0 <= size < len(head):
            self._head = head[size:]
            return head[:size]
        self._head = b""
        return head

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """What isal's C code asks for instead of ``read``."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Frames:
    """Streams of a library's decompressor object, one after the other, as one stream."""

    def __init__(
        self, source: Readable, new: Callable[[], Any], what: str, piece: int = _INPUT
    ) -> None:
        self._source, self._new, self._what, self._piece = source, new, what, piece
        self._decoder = new()
        self._pending = b""

    def read(self, size: int = -1, /) -> bytes:
        while True:
            decoder = self._decoder
            if decoder.eof:
                # Padding between and after frames is zeros.
                self._pending = (decoder.unused_data or self._pending).lstrip(b"\0")
                self._pending = self._pending or self._source.read(self._piece).lstrip(b"\0")
                if not self._pending:
                    return b""
                self._decoder = decoder = self._new()
            elif decoder.needs_input and not self._pending:
                self._pending = self._source.read(self._piece)
                if not self._pending:
                    raise EOFError(f"{self._what} data end too early")
            data, self._pending = decoder.decompress(self._pending, size), b""
            if data:
                return bytes(data)


class _ZstdFrame:
    """zstandard's object in the likeness of bz2's and lzma's."""

    needs_input = True

    def __init__(self) -> None:
        import zstandard

        self._object = zstandard.ZstdDecompressor(max_window_size=_MEMORY).decompressobj()
        self.eof = False
        self.unused_data = b""

    def decompress(self, data: bytes, _size: int) -> bytes:
        out = self._object.decompress(data)
        self.eof, self.unused_data = self._object.eof, self._object.unused_data
        return out


def _gzip(source: Readable) -> Readable:
    from isal import igzip

    reader: Any = igzip.IGzipFile
    return reader(fileobj=source, mode="rb")  # type: ignore[no-any-return]


def _zstd(source: Readable) -> Readable:
    # zstandard's own stream reader takes a cut-off frame for a whole one. Its other interface
    # knows no bound on output: four bytes can stand for 128 KiB, so it gets little at a time.
    return _Frames(source, _ZstdFrame, "zstd", piece=2048)


def _bzip2(source: Readable) -> Readable:
    import bz2

    return _Frames(source, bz2.BZ2Decompressor, "bzip2")


def _xz(source: Readable) -> Readable:
    import lzma

    return _Frames(source, lambda: lzma.LZMADecompressor(memlimit=_MEMORY), "xz")


_FORMATS: Final[tuple[tuple[bytes, str, Callable[[Readable], Readable]], ...]] = (
    (b"\x1f\x8b", "gzip", _gzip),
    (b"\x28\xb5\x2f\xfd", "zstd", _zstd),
    (b"BZh", "bzip2", _bzip2),
    (b"\xfd7zXZ\0", "xz", _xz),
)


def compression_of(head: bytes) -> str:
    """gzip, zstd, bzip2, xz, or "" for none; ``head`` is the first six bytes or more."""
    return next((name for magic, name, _ in _FORMATS if head.startswith(magic)), "")


def open_reader(source: Readable, hasher: Hasher | None = None) -> Reader:
    """The uncompressed bytes of ``source``, fed to ``hasher`` (the diff ID's) on their way.

    Use it in a ``with``, which ends its thread. The digest is whole when the end was read.
    """
    head = b""
    while len(head) < 6 and (more := source.read(6 - len(head))):
        head += more
    joined = _Joined(head, source)
    for magic, _, new in _FORMATS:
        if head.startswith(magic):
            return Reader(new(joined), hasher)
    return Reader(joined, hasher)


def _tokens(count: int) -> SimpleQueue[None]:
    """A semaphore: ``get`` takes, ``put(None)`` gives back.

    What a signal raises can leave one of `threading` locked for ever, for it is written in Python.
    """
    tokens: SimpleQueue[None] = SimpleQueue()
    for _ in range(count):
        tokens.put(None)
    return tokens


class Reader:
    """A stream that is read, and hashed, ahead of its reader by a thread."""

    def __init__(self, source: Readable, hasher: Hasher | None) -> None:
        self._source, self._hasher = source, hasher
        self._chunks: SimpleQueue[bytes | BaseException] = SimpleQueue()
        self._room = _tokens(_AHEAD)
        self._closed = False
        self._rest: bytes | None = b""  # None: the end was read
        self._thread = threading.Thread(target=self._run, name="decompress", daemon=True)
        self._thread.start()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the thread, wherever it is; what was not read is dropped."""
        self._closed = True
        self._room.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            while True:
                self._room.get()
                if self._closed:
                    return
                data = self._source.read(CHUNK)
                if self._hasher is not None:
                    self._hasher.update(data)
                self._chunks.put(data)
                if not data:
                    return
        except BaseException as error:  # it is raised again where the data are wanted
            self._chunks.put(error)

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes, at most ``size`` if that is not negative; b"" at the end only."""
        data = self._rest
        if data is None:
            return b""
        if not data:
            item = self._chunks.get()
            self._room.put(None)
            if isinstance(item, BaseException):
                self._rest = None
                raise _fault(item)
            data = item
            if not data:
                self._rest = None
                return b""
        if 0 <= size < len(data):
            self._rest = data[size:]
            return data[:size]
        self._rest = b""
        return data


def _fault(error: BaseException) -> BaseException:
    """The error to raise for what a decompressor or the source raised."""
    damaged = isinstance(error, EOFError) or type(error).__module__ in (
        "gzip", "zlib", "lzma", "_lzma", "zstd", "zstandard", "isal.isal_zlib", "isal_zlib"
    )  # fmt: skip
    # bz2 raises a bare OSError, without the number that the kernel's errors have.
    damaged = damaged or (isinstance(error, OSError) and error.errno is None)
    if damaged or type(error).__name__ in ("ZstdError", "LZMAError", "IsalError"):
        return ImageError(f"the compressed data are damaged: {error}")
    return error


class Compressor:
    """Compresses what is written to it; the target gets the last of it at ``close``.

    Data go on in blocks of one size, for the output depends on how the input is cut.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._held = bytearray()

    def __enter__(self) -> Compressor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, data: bytes | memoryview, /) -> int:
        """Take all of ``data``."""
        held = self._held
        held += data
        if len(held) >= CHUNK:
            whole = len(held) // CHUNK * CHUNK
            with memoryview(held) as view:
                for at in range(0, whole, CHUNK):
                    self._stream.write(bytes(view[at : at + CHUNK]))
            del held[:whole]
        return len(data)

    def close(self) -> None:
        """Write what is left and the end of the compressed stream; the target stays open."""
        held, self._held = self._held, bytearray()
        if held:
            self._stream.write(bytes(held))
        self._stream.close()


class _Apart:
    """A stream that a thread of its own makes, writes to and closes.

    What a signal raises is raised in the main thread, wherever that is. In the midst of handing a
    block to isal's threads that would leave them, and whoever closes them, waiting for ever.
    """

    def __init__(self, new: Callable[[], Any]) -> None:
        self._new = new
        self._blocks: SimpleQueue[bytes | None] = SimpleQueue()
        self._room = _tokens(_WAITING)
        self._error: BaseException | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="compress", daemon=True)
        self._thread.start()

    def write(self, data: bytes, /) -> None:
        """Take all of ``data``. Raises what writing earlier blocks raised."""
        self._room.get()
        if self._error is not None:
            self._room.put(None)
            raise self._error
        self._blocks.put(data)

    def close(self) -> None:
        """Wait until all is written. Raises what writing raised."""
        if not self._closed:
            self._closed = True
            self._blocks.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        data: bytes | None = b""
        try:
            stream = self._new()
            try:
                while (data := self._blocks.get()) is not None:
                    stream.write(data)
                    self._room.put(None)
            finally:
                stream.close()
        except BaseException as error:  # it is raised again where the data come from
            self._error = error
            for _ in range(_WAITING):
                self._room.put(None)
            while data is not None:
                data = self._blocks.get()


class _Flushable:
    """A target for isal, which flushes what it writes to."""

    def __init__(self, target: Writable) -> None:
        self.write = target.write

    def flush(self) -> None:
        """Nothing is held back here."""


def gzip_writer(target: Writable, level: int = 1) -> Compressor:
    """Compress to ``target`` as gzip; level 0 (fastest) to 9, of which 3 and up are the same."""
    from isal import igzip_threaded

    opened: Any = igzip_threaded.open
    words = (_Flushable(target), "wb", min(level, 3))
    return Compressor(_Apart(lambda: opened(*words, threads=_THREADS, block_size=CHUNK)))


def zstd_writer(target: Writable, level: int = 3) -> Compressor:
    """Compress to ``target`` as zstd; level 1 to 19."""
    import zstandard

    compressor: Any = zstandard.ZstdCompressor(level=level, threads=_THREADS)
    return Compressor(compressor.stream_writer(target, closefd=False))
