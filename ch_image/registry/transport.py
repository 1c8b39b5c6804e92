"""HTTP as registries need it: bounded, patient, and careful whom it tells a secret.

Redirects are followed by hand, five at most, never from https to http, and each hop is told only
what ``authorize`` says for its origin. Bodies are handed on as they come off the wire. Nothing
here knows what a manifest is. The only importer of ``requests``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from urllib.parse import quote, urljoin, urlsplit

from ch_image.errors import RegistryError, printable
from ch_image.registry.response import Broken, Response, shown
from ch_image.registry.tls import Network, context, is_loopback, proxy_for
from ch_image.report import Detail, Reporter, silent
from ch_image.typed import Any, NamedTuple

CHUNK = 1 << 20  # bytes of a request's body handed on at a time
MAX_WAIT = 60.0  # seconds, whatever Retry-After says
MAX_REDIRECTS = 5
LOOPBACK_TIMEOUT = 5.0  # seconds for a handshake with a server that may not speak TLS at all
_BUSY = (429, 500, 502, 503, 504)
_MOVED = (301, 302, 303, 307, 308)


class Origin(NamedTuple):
    """What a secret is made for (RFC 6454)."""

    scheme: str
    host: str
    port: int


class Body(NamedTuple):
    """A request body that can be sent again: ``open`` starts it anew; ``size`` in bytes."""

    open: Callable[[], Generator[bytes, None, None]]
    size: int


class NotTLS(RegistryError):
    """The server answers, but not in TLS."""


Authorize = Callable[[Origin], str]


def origin_of(url: str) -> Origin:
    """The origin of an absolute http(s) URL. Raises RegistryError on any other."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.scheme not in ("http", "https") or "@" in parts.netloc:
        raise RegistryError(f"the registry names a URL that is not followed: {shown(url)}")
    return Origin(parts.scheme, host, port or (443 if parts.scheme == "https" else 80))


def joined(base: str, url: str) -> str:
    """``url`` as seen from ``base``. Raises RegistryError when it cannot be read."""
    try:
        return urljoin(base, url)
    except ValueError:
        raise RegistryError(f"the registry names a URL that is none: {shown(url)}") from None


class Transport:
    """Requests to one registry, ``home`` (HOST[:PORT]), and to where it points. Thread-safe."""

    def __init__(
        self,
        network: Network,
        home: str,
        report: Reporter = silent,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.network, self.home, self.report, self._sleep = network, home.lower(), report, sleep
        self._lock = threading.Lock()
        self._adapters: dict[tuple[bool, bool], Any] = {}

    def pause(self, tries: int) -> None:
        """Wait before the try after number ``tries``; each wait is twice the one before."""
        self._sleep(min(MAX_WAIT, self.network.backoff * 2 ** (tries - 1)))

    def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | Body | None = None,
        authorize: Authorize = lambda origin: "",
        again: bool | None = None,
        follow: bool = True,
    ) -> Response:
        """Send a request, follow redirects, try again where that may help.

        ``again`` says whether sending it twice does no harm (default: for GET and HEAD). Any
        status is returned, never raised; no answer at all is a RegistryError.
        """
        may_repeat = method in ("GET", "HEAD") if again is None else again
        tries = 0
        while True:
            tries += 1
            last = not may_repeat or tries >= self.network.tries
            try:
                hops = MAX_REDIRECTS if follow else 0
                response = self._follow(method, url, dict(headers or {}), body, authorize, hops)
            except Broken as error:
                if last or tries >= error.tries:
                    raise
                self.report(Detail(f"{error}; trying again"))
                self.pause(tries)
                continue
            if last or response.status not in _BUSY:
                return response
            wait = retry_after(response.header("Retry-After"), time.time())
            host = origin_of(response.url).host
            self.report(Detail(f"{host} answers {response.status}; trying again"))
            response.close()
            self.pause(tries) if wait is None else self._sleep(wait)

    def _follow(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        body: bytes | Body | None,
        authorize: Authorize,
        hops: int,
    ) -> Response:
        came_from = "https" if urlsplit(url).scheme == "https" else "http"
        for hop in range(hops + 1):
            origin = self.allowed(url, came_from)
            secret = authorize(origin)
            sent = headers | ({"Authorization": secret} if secret else {})
            response = self._once(method, url, origin, sent, body)
            self.report(Detail(f"{method} {shown(url)}: {response.status}", 2))
            location = response.header("Location")
            replay = method in ("GET", "HEAD") or response.status in (307, 308)
            if response.status not in _MOVED or not location or not replay or not hops:
                return response
            response.drain()
            if hop < hops:
                url, came_from = joined(url, location), origin.scheme
        raise RegistryError(f"{shown(url)}: more than {MAX_REDIRECTS} redirects")

    def allowed(self, url: str, came_from: str = "https") -> Origin:
        """The origin of ``url``. Raises RegistryError where plain HTTP must not be spoken."""
        origin = origin_of(url)
        if origin.scheme == "http":
            safe = is_loopback(origin.host) or not self.network.tls_verify
            if not safe or (came_from == "https" and not self._is_home(origin)):
                raise RegistryError(
                    f"refused to speak plain HTTP to {origin.host}:{origin.port}",
                    hint="only loopback registries may do without TLS; see --tls-no-verify",
                )
        return origin

    def _is_home(self, origin: Origin) -> bool:
        return self.home in (origin.host, f"{origin.host}:{origin.port}")

    def _once(
        self,
        method: str,
        url: str,
        origin: Origin,
        headers: dict[str, str],
        body: bytes | Body | None,
    ) -> Response:
        import requests
        from urllib3.exceptions import HTTPError

        request = requests.PreparedRequest()
        request.method = method
        request.url = quote(url.partition("#")[0], safe="%/:=&?~+!$,;'@()*[]")
        request.headers = requests.structures.CaseInsensitiveDict(
            {"User-Agent": self.network.user_agent, "Accept-Encoding": "identity"} | headers
        )
        request.hooks = {}
        stream = body.open() if isinstance(body, Body) else None
        size = body.size if isinstance(body, Body) else len(body or b"")
        if body is not None or method in ("POST", "PUT", "PATCH"):
            request.headers["Content-Length"] = str(size)
        content: Any = stream or body
        request.body = content if size else None
        proxy = proxy_for(origin.scheme, origin.host, origin.port, self.network.proxies)
        patience = self.network.connect_timeout
        if is_loopback(origin.host):
            patience = min(patience, LOOPBACK_TIMEOUT)
        try:
            answer = self._adapter(origin, proxy).send(
                request,
                stream=True,
                timeout=(patience, self.network.read_timeout),
                verify=self.network.tls_verify,
                proxies={origin.scheme: proxy} if proxy else {},
            )
        except (requests.RequestException, HTTPError, OSError, ValueError) as error:
            raise _explain(error, origin, proxy, self.network) from None
        finally:
            if stream is not None:
                stream.close()
        patience = self.network.read_timeout
        return Response(method, answer.status_code, answer.headers, url, answer.raw, patience)

    def _adapter(self, origin: Origin, proxy: str) -> Any:
        """Client certificates are shown to the registry itself, and to nobody it points to.

        Where neither it nor a proxy speaks TLS, no authorities are loaded.
        """
        kind = (origin.scheme == "http" and not proxy, self._is_home(origin))
        with self._lock:
            if kind not in self._adapters:
                tls = None if kind[0] else context(self.network, self.home, kind[1])
                self._adapters[kind] = _make_adapter(tls)
            return self._adapters[kind]


def _make_adapter(tls: Any) -> Any:
    import urllib3
    from requests.adapters import HTTPAdapter

    # Who says --tls-no-verify knows; the library would warn of each host.
    urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)

    class Adapter(HTTPAdapter):
        """One TLS context for all connections, instead of the library's own bundle of CAs."""

        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            super().init_poolmanager(*args, ssl_context=tls, **kwargs)

        def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
            return super().proxy_manager_for(proxy, ssl_context=tls, **kwargs)

        def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
            conn.cert_reqs = "CERT_REQUIRED" if verify else "CERT_NONE"
            conn.assert_hostname = None if verify else False

    return Adapter(max_retries=0, pool_connections=4, pool_maxsize=16)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """``error`` and what it wraps, outermost first; the libraries nest them in several ways."""
    seen: list[BaseException] = []
    todo: list[object] = [error]
    while todo and len(seen) < 20:
        one = todo.pop(0)
        if isinstance(one, BaseException) and one not in seen:
            seen.append(one)
            yield one
            todo += [*one.args, getattr(one, "reason", None), one.__cause__]


def _explain(error: BaseException, origin: Origin, proxy: str, network: Network) -> RegistryError:
    import socket
    import ssl

    host = f"{origin.host}:{origin.port}"
    via = " through the proxy" if proxy else ""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return RegistryError(
                f"the certificate of {host} is not trusted: {cause.verify_message}",
                hint="name its authority with --cert-dir or SSL_CERT_FILE, or use --tls-no-verify",
            )
        if isinstance(cause, ssl.SSLError):
            why = cause.reason or str(cause)
            return NotTLS(f"no TLS connection with {host}{via}: {printable(why, 200)}")
        if isinstance(cause, socket.gaierror):
            return RegistryError(
                f"cannot find the host {origin.host}{via}: {cause.strerror}",
                hint="is the name right, and is there a network?",
            )
        if isinstance(cause, ConnectionRefusedError):
            return RegistryError(
                f"nothing listens on {host}{via}: connection refused",
                hint="is the registry running, and is the port right?",
            )
    name = type(error).__name__
    if "ConnectTimeout" in name:
        wait = f"{network.connect_timeout:g} s"
        return RegistryError(f"no connection with {host}{via} within {wait}")
    if "Timeout" in name or "imed out" in str(error):
        wait = f"{network.read_timeout:g} s"
        return Broken(f"{host} did not answer within {wait}", tries=2)
    for cause in _causes(error):
        if isinstance(cause, ConnectionError):
            return Broken(f"{host} cut the connection: {cause.strerror or 'no answer'}")
        if isinstance(cause, OSError) and cause.errno:
            return RegistryError(f"no connection with {host}{via}: {cause.strerror}")
    return Broken(f"{host} does not answer as HTTP should: {printable(str(error), 200)}")


def retry_after(text: str, now: float) -> float | None:
    """Seconds to wait (RFC 9110, 10.2.3), capped; None when the header says nothing usable."""
    if text.isascii() and text.isdigit():
        return min(MAX_WAIT, float(text))
    if text:
        from email.utils import parsedate_to_datetime

        try:
            return min(MAX_WAIT, max(0.0, parsedate_to_datetime(text).timestamp() - now))
        except (ValueError, TypeError, OverflowError):
            return None
    return None
