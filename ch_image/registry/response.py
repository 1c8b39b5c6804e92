"""An answer over HTTP and its body: as it comes off the wire, bounded in size and in waiting.

Knows the library's objects, and asks nothing itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from urllib.parse import urlsplit

from ch_image.errors import RegistryError, printable
from ch_image.typed import Any

PIECE = 1 << 18  # bytes of an answer's body read at a time
LEAST = 1 << 16  # bytes that have to come within the time in which a single one has to
SHORT = 1 << 16  # bytes of a body that is read rather than a new connection made


class Broken(RegistryError):
    """No whole answer, for a reason that passes; worth ``tries`` requests in all."""

    def __init__(self, message: str, *, tries: int = 5) -> None:
        super().__init__(message, hint="try again; what is already here is not fetched again")
        self.tries = tries


def shown(url: str) -> str:
    """``url`` for people: without its query, which may be signed."""
    return printable(url.partition("?")[0], 300)


class Response:
    """An answer whose body has not been read yet. Close it, or read it to its end."""

    __slots__ = ("_empty", "_patience", "_raw", "headers", "status", "url")

    def __init__(
        self,
        method: str,
        status: int,
        headers: Mapping[str, str],
        url: str,
        raw: Any,
        patience: float = 60.0,
    ) -> None:
        """``patience``: seconds in which LEAST bytes have to come, or all that are left."""
        self.status, self.headers, self.url, self._raw = status, headers, url, raw
        self._patience = patience
        self._empty = method == "HEAD" or status in (204, 304) or self.length() == 0

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection. It is used again only if nothing is left to read."""
        if self._empty:
            list(self.chunks(1))
        self._raw.close()

    def header(self, name: str) -> str:
        """A header's value, or the empty string."""
        return self.headers.get(name) or ""

    def length(self) -> int | None:
        """The announced size of the body in bytes, when one is announced."""
        text = self.header("Content-Length")
        return int(text) if text.isascii() and text.isdigit() else None

    def chunks(self, limit: int) -> Iterator[bytes]:
        """The body as sent, at most ``limit`` bytes of it. Raises Broken when it is cut short."""
        from urllib3.exceptions import HTTPError

        read = getattr(self._raw, "read1", self._raw.read)  # urllib3 1.26 has only the latter
        left, waited, had = limit, 0.0, 0
        host = printable(urlsplit(self.url).netloc, 200)
        try:
            while left > 0:
                began = time.monotonic()
                data = read(min(PIECE, left), decode_content=False)
                if not data:
                    break
                waited, had = waited + time.monotonic() - began, had + len(data)
                if had >= LEAST:
                    waited, had = 0.0, 0
                elif waited > self._patience:
                    raise Broken(f"{host} sends next to nothing", tries=2)
                left -= len(data)
                yield data
        except (HTTPError, OSError, ValueError) as error:
            slow = "imed out" in str(error)
            why = "sends nothing any more" if slow else "cut the connection in the middle"
            raise Broken(f"{host} {why}", tries=2 if slow else 5) from None

    def read(self, limit: int, what: str) -> bytes:
        """The whole body. Raises RegistryError when it is longer than ``limit`` bytes."""
        data = b"".join(self.chunks(limit + 1))
        if self.header("Content-Encoding").lower() in ("gzip", "x-gzip"):
            data = _gunzip(data, limit + 1)
        if len(data) > limit:
            self.close()
            raise RegistryError(f"{what} from {shown(self.url)} is larger than {limit >> 10} KiB")
        return data

    def drain(self) -> None:
        """Read a short body away, so that the connection can be used again, and close."""
        with suppress(Broken):
            if (self.length() or 0) <= SHORT:
                list(self.chunks(SHORT))
        self.close()


def _gunzip(data: bytes, limit: int) -> bytes:
    import zlib

    try:
        return zlib.decompressobj(31).decompress(data, limit)
    except zlib.error as error:
        raise RegistryError(f"an answer that says it is gzip is not: {error}") from None
