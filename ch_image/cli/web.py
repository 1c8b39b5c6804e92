"""How ADD reads a URL. What that needs is loaded, and connected, only when a build does."""

from __future__ import annotations

import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ch_image.build.remote import Fetch
    from ch_image.cli.session import Session
    from ch_image.registry.web import Web


def fetcher(session: Session) -> Fetch:
    """Reads URLs as the command line says; thread-safe. Its calls raise RegistryError."""
    mutex = threading.Lock()
    made: list[Web] = []

    def fetch(url: str, sink: Callable[[bytes], object], /) -> str:
        from ch_image.cli.network import network
        from ch_image.registry.web import Web

        with mutex:
            if not made:
                made.append(Web(network(session), session.report))
        return made[0].fetch(url, sink)

    return fetch
