"""Files by URL, for ADD: plain GETs, without credentials of any registry."""

from __future__ import annotations

from collections.abc import Callable

from ch_image.errors import RegistryError
from ch_image.registry.response import shown
from ch_image.registry.tls import Network
from ch_image.registry.transport import Origin, Transport, origin_of
from ch_image.report import Progress, Reporter, silent

MAX_FILE = 64 << 30  # bytes


class Web:
    """Reads URLs. May be used from several threads."""

    def __init__(self, network: Network, report: Reporter = silent) -> None:
        self._transport = _Open(network, "", report)
        self._report = report

    def fetch(self, url: str, sink: Callable[[bytes], object], /) -> str:
        """Read ``url`` to its end into ``sink``; the Last-Modified header, "" without one.

        Raises RegistryError.
        """
        with self._transport.send("GET", url) as answer:
            if answer.status != 200:
                raise RegistryError(f"{shown(url)}: the server answers {answer.status}")
            total, done = answer.length(), 0
            for data in answer.chunks(MAX_FILE):
                sink(data)
                done += len(data)
                self._report(Progress(shown(url), done, total or 0))
            if total is not None and done != total:
                raise RegistryError(f"{shown(url)}: {done} bytes came instead of {total}")
            return answer.header("Last-Modified")


class _Open(Transport):
    """The user has written the URL, so plain HTTP is what is meant; https stays https."""

    def allowed(self, url: str, came_from: str = "https") -> Origin:
        """See `Transport`; ``http`` is also what a first request comes from."""
        origin = origin_of(url)
        if origin.scheme == "http" and came_from == "https":
            raise RegistryError(f"refused to follow a redirect from https to {shown(url)}")
        return origin
