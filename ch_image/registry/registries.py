"""Which servers hold an image: its registry, and the mirrors that stand before it.

One ``Registries`` serves a whole command, so that connections and tokens are shared between the
images of a build. Knows neither storage nor image formats.
"""

from __future__ import annotations

import threading

from ch_image.model.ref import ImageRef
from ch_image.registry.client import RegistryClient
from ch_image.registry.credentials import Credentials, Sources
from ch_image.registry.mirrors import Mirrors
from ch_image.registry.tls import Network
from ch_image.report import Reporter, Warned, silent
from ch_image.typed import NamedTuple


class Place(NamedTuple):
    """A repository on a server that may hold what is looked for."""

    client: RegistryClient
    repository: str
    is_mirror: bool = False


class Registries:
    """Makes clients, one for each server. Thread-safe."""

    def __init__(
        self,
        network: Network = Network(),  # noqa: B008
        sources: Sources = Sources(),  # noqa: B008
        report: Reporter = silent,
        mirrors: Mirrors | None = None,
    ) -> None:
        self.network, self.report = network, report
        self._credentials = Credentials(sources, lambda text: report(Warned(text)))
        self._mirrors = mirrors or Mirrors()
        self._clients: dict[tuple[str, bool], RegistryClient] = {}
        self._lock = threading.Lock()

    def client(self, registry: str, insecure: bool = False) -> RegistryClient:
        """The client for HOST[:PORT]; ``insecure``: its certificate is not checked."""
        with self._lock:
            found = self._clients.get((registry, insecure))
            if found is None:
                network = self.network._replace(tls_verify=False) if insecure else self.network
                found = RegistryClient(registry, network, self._credentials, self.report)
                self._clients[registry, insecure] = found
            return found

    def places(self, ref: ImageRef) -> list[Place]:
        """Where to read an image, in the order to try. Raises RegistryError when it is blocked."""
        return [
            Place(self.client(e.registry, e.insecure), e.repository, e.is_mirror)
            for e in self._mirrors.endpoints(ref.registry, ref.repository, bool(ref.digest))
        ]

    def home(self, ref: ImageRef) -> Place:
        """Where to write an image: never a mirror. Raises RegistryError when it is blocked."""
        return self.places(ref)[-1]
