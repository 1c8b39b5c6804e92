"""One registry, spoken to by the OCI distribution specification 1.1 (Docker Registry v2).

Says what a registry holds and hands out its bytes; digests of manifests are checked here, those
of blobs by whoever takes the bytes in. Knows no storage. Uploads are in ``registry.upload``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from urllib.parse import quote, urlsplit

from ch_image.errors import ImageError, RegistryError, printable
from ch_image.model.digest import Digest, digest_of, parse_digest
from ch_image.model.oci import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    DOCKER_SCHEMA1,
    MAX_DOCUMENT,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    parse_json,
)
from ch_image.registry.answers import error_text, next_link, warnings
from ch_image.registry.auth import Authenticator
from ch_image.registry.credentials import Credentials
from ch_image.registry.response import Broken, Response, shown
from ch_image.registry.tls import Network, is_loopback, speaks_plain
from ch_image.registry.transport import (
    LOOPBACK_TIMEOUT,
    Body,
    NotTLS,
    Origin,
    Transport,
    joined,
    origin_of,
)
from ch_image.report import Detail, Reporter, Warned, silent
from ch_image.typed import NamedTuple

ACCEPT = ", ".join(
    (OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST, f"{DOCKER_SCHEMA1[1]};q=0.1")
)
MAX_PAGES = 1000
MAX_TAGS = 1_000_000
MAX_ANSWERS = 4  # to refusals of one request
_PROGRESS = 1 << 20  # bytes after which a cut connection counts as a first one again
_RANGE = re.compile(r"bytes (\d+)-")


class Found(NamedTuple):
    """What a tag leads to; ``size`` in bytes, 0 when the registry does not say."""

    digest: Digest
    size: int
    media_type: str


class Fetched(NamedTuple):
    """A manifest or index as it came."""

    raw: bytes
    media_type: str  # of the Content-Type header, which may be wrong or empty
    digest: Digest  # of ``raw``


def pull_scope(repository: str) -> frozenset[str]:
    """What reading needs."""
    return frozenset({f"repository:{repository}:pull"})


class RegistryClient:
    """One registry, HOST[:PORT]. Thread-safe; keeps connections and tokens."""

    def __init__(
        self,
        registry: str,
        network: Network = Network(),  # noqa: B008
        credentials: Credentials | None = None,
        report: Reporter = silent,
        transport: Transport | None = None,
    ) -> None:
        self.registry, self.report = registry, report
        self.transport = transport or Transport(network, registry, report)
        self._credentials = credentials
        self._authenticators: dict[str, Authenticator] = {}
        self._warned: set[str] = set()
        host = urlsplit(f"//{registry}").hostname or registry
        self._is_here = is_loopback(host)
        self._may_be_plain = self._is_here or not network.tls_verify
        self._scheme = ""  # once known

    def _authenticator(self, repository: str) -> Authenticator:
        """One for each namespace, for auth files tell logins apart by it."""
        known = self._authenticators.get(repository)
        if known is not None:
            return known
        found = self._credentials
        fresh = Authenticator(
            self.transport,
            lambda refused: found.find(self.registry, repository, refused) if found else None,
            one_time=found.sources.one_time if found else False,
        )
        return self._authenticators.setdefault(repository, fresh)

    def home(self) -> Origin:
        """The registry's own origin, as far as it is known yet."""
        return origin_of(f"{self._scheme or 'https'}://{self.registry}")

    def request(
        self,
        method: str,
        url: str,
        repository: str,
        *,
        scopes: frozenset[str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | Body | None = None,
        again: bool | None = None,
    ) -> Response:
        """Send a request, logging in where the registry asks for it; any status is returned.

        ``url`` is absolute, or a path below ``/v2/``. Raises RegistryError when there is no answer.
        """
        wanted = pull_scope(repository) if scopes is None else scopes
        authenticator = self._authenticator(repository)
        for attempt in range(MAX_ANSWERS + 1):
            sent = authenticator.authorization(wanted)
            response = self._send(method, url, headers, body, sent, again)
            at_home = origin_of(response.url) == self.home()
            if response.status != 401 or not at_home or attempt == MAX_ANSWERS:
                break
            try:
                better = authenticator.answer(response, self.home(), wanted, sent, attempt)
            except BaseException:
                response.close()
                raise
            if not better:
                break
            response.drain()
        if at_home:
            self._pass_on(response)
        return response

    def _pass_on(self, response: Response) -> None:
        """Tell what the registry warns of, each text once."""
        for text in warnings(response.header("Warning")):
            if text not in self._warned:
                self._warned.add(text)
                self.report(Warned(f"{self.registry} says: {printable(text, 300)}"))

    def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        body: bytes | Body | None,
        secret: str,
        again: bool | None,
    ) -> Response:
        """TLS first; plain only for a server that is allowed to and speaks no TLS."""

        def send(scheme: str) -> Response:
            base = f"{scheme}://{self.registry}/v2/"
            home = origin_of(base)
            return self.transport.send(
                method,
                joined(base, url),
                headers=headers,
                body=body,
                authorize=lambda to: secret if to == home else "",
                again=again,
            )

        if not self._scheme and self._is_here:
            there = self.home()
            if speaks_plain(there.host, there.port, LOOPBACK_TIMEOUT):
                self._scheme = "http"
        if self._scheme or not self._may_be_plain:
            return send(self._scheme or "https")
        with suppress(NotTLS):
            response = send("https")
            self._scheme = "https"
            return response
        self._scheme = "http"
        return send("http")

    # -- manifests ---------------------------------------------------------------------------

    def head_manifest(self, repository: str, reference: str) -> Found | None:
        """What a tag leads to, without its content; None when the registry does not say.

        Says None too when there is no such tag: asking for the content tells why.
        """
        path = f"{repository}/manifests/{reference}"
        with self.request("HEAD", path, repository, headers={"Accept": ACCEPT}) as response:
            if response.status != 200:
                return None
            try:
                digest = parse_digest(response.header("Docker-Content-Digest"))
            except ImageError:
                return None
            kind = response.header("Content-Type").partition(";")[0].strip()
            return Found(digest, response.length() or 0, kind)

    def get_manifest(self, repository: str, reference: str) -> Fetched:
        """A manifest or index by tag or digest; the digest is checked.

        Raises RegistryError, ImageError on bytes that are not what was asked for.
        """
        path = f"{repository}/manifests/{reference}"
        name = self.name(repository, reference)
        for tries in (1, 2, 3):
            # Who gives no answer has been asked often enough by the transport.
            response = self.request("GET", path, repository, headers={"Accept": ACCEPT})
            try:
                with response:
                    self.expect(response, (200,), name)
                    raw = response.read(MAX_DOCUMENT, "a manifest")
                    promised = response.header("Docker-Content-Digest")
                    kind = response.header("Content-Type").partition(";")[0].strip()
                    limit = response.header("RateLimit-Remaining")
            except Broken:
                if tries == 3:
                    raise
                self.transport.pause(tries)
                continue
            break
        if limit:
            self.report(Detail(f"{self.registry}: pulls left: {printable(limit, 100)}"))
        digest = digest_of(raw)
        if ":" in reference and reference != digest:
            raise ImageError(
                f"the registry sent another manifest than {name} (its digest is {digest})",
                hint="somebody between here and the registry, or the registry itself, is at fault",
            )
        if promised.startswith("sha256:") and promised != digest and ":" not in reference:
            raise ImageError(
                f"the manifest of {name} is damaged: its digest is {digest}, "
                f"not {printable(promised, 100)} as the registry says"
            )
        return Fetched(raw, kind, digest)

    def name(self, repository: str, reference: str) -> str:
        """A manifest's name for people."""
        mark = "@" if ":" in reference else ":"
        return f"{self.registry}/{repository}{mark}{reference}"

    # -- blobs -------------------------------------------------------------------------------

    def has_blob(
        self, repository: str, digest: Digest, scopes: frozenset[str] | None = None
    ) -> bool:
        """Whether the repository holds a blob."""
        path = f"{repository}/blobs/{digest}"
        with self.request("HEAD", path, repository, scopes=scopes) as response:
            return response.status == 200

    def read_blob(self, repository: str, blob: Descriptor, offset: int = 0) -> Iterator[bytes]:
        """The bytes of a blob from ``offset`` on: exactly as many as its descriptor says.

        A cut connection is taken up again where it was cut. The digest is the caller's to check.
        Raises RegistryError; ImageError when the registry announces another size.
        """
        done, tries = offset, 0
        while done < blob.size:
            before = done
            try:
                for chunk in self._blob_from(repository, blob, done):
                    done += len(chunk)
                    yield chunk
                if done == blob.size:
                    return
                host = printable(self.registry)
                raise Broken(f"{host} sent {done} of {blob.size} bytes of {blob.digest}")
            except _Unanswered as error:
                raise error.why from None
            except Broken as error:
                tries = 1 if done - before >= _PROGRESS else tries + 1
                if tries >= min(error.tries, self.transport.network.tries):
                    raise
                self.report(Detail(f"{error}; going on from byte {done}"))
                self.transport.pause(tries)

    def _blob_from(self, repository: str, blob: Descriptor, offset: int) -> Iterator[bytes]:
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        try:
            response = self.request("GET", f"{repository}/blobs/{blob.digest}", repository,
                                    headers=headers)  # fmt: skip
        except Broken as error:
            raise _Unanswered(error) from None
        with response:
            self.expect(response, (200, 206), f"the blob {blob.digest}")
            start = 0
            if response.status == 206:
                match = _RANGE.match(response.header("Content-Range"))
                start = int(match.group(1)) if match else offset
            length = response.length()
            if start > offset or (length is not None and start + length != blob.size):
                raise ImageError(
                    f"{shown(response.url)}: the registry offers {start + (length or 0)} bytes, "
                    f"the manifest says {blob.size}"
                )
            skip = offset - start
            for chunk in response.chunks(blob.size - start):
                yield chunk[skip:]
                skip = max(0, skip - len(chunk))

    def get_document(self, repository: str, blob: Descriptor, what: str) -> bytes:
        """A small blob, such as a config, whole and checked. Raises RegistryError, ImageError."""
        if blob.size > MAX_DOCUMENT:
            raise ImageError(f"{what} is larger than {MAX_DOCUMENT >> 20} MiB")
        raw = b"".join(self.read_blob(repository, blob))
        if digest_of(raw) != blob.digest:
            raise ImageError(f"{what} is damaged: its digest is not {blob.digest}")
        return raw

    # -- lists -------------------------------------------------------------------------------

    def tags(self, repository: str) -> list[str]:
        """The tags of a repository, in the registry's order. Raises RegistryError."""
        url = f"{repository}/tags/list?n=1000"
        found: list[str] = []
        for _ in range(MAX_PAGES):
            with self.request("GET", url, repository) as response:
                self.expect(response, (200,), f"the tags of {self.registry}/{repository}")
                raw = response.read(MAX_DOCUMENT, "a list of tags")
                link = next_link(response.header("Link"))
                base = response.url
            tags = parse_json(raw, "the list of tags").get("tags")
            found += [str(tag) for tag in tags] if isinstance(tags, list) else []
            if not link or len(found) > MAX_TAGS:
                return found[:MAX_TAGS]
            url = joined(base, link)
            if origin_of(url) != self.home():
                raise RegistryError(f"{self.registry}: the list of tags goes on elsewhere")
        return found

    # -- refusals ----------------------------------------------------------------------------

    def expect(self, response: Response, statuses: tuple[int, ...], what: str) -> None:
        """Raise RegistryError, with what the registry itself says, on any other status."""
        if response.status in statuses:
            return
        said = error_text(response)
        status = response.status
        told = f": {said}" if said else ""
        hint = ""
        if status == 401:
            message = f"unauthorized, or not in the registry: {what}{told}"
            hint = "check the name; if it is right, log in with 'ch-image login' or use --auth"
        elif status in (400, 404):
            message = f"not in the registry: {what}{told}"
            hint = "check the name and the tag"
        elif status == 403:
            message = f"the registry denies access to {what}{told}"
            hint = "check the name and the account you are logged in with"
        elif status == 429:
            message = f"{self.registry} limits how often one may ask{told}"
            hint = "wait a while, or log in with --auth for a higher limit"
        else:
            message = f"{self.registry} answers {status} for {what}{told}"
        raise RegistryError(message, status=status, hint=hint)


class _Unanswered(Exception):
    """The transport has tried often enough already."""

    def __init__(self, why: Broken) -> None:
        super().__init__(str(why))
        self.why = why


def quoted(text: str) -> str:
    """``text`` as a value in a URL's query."""
    return quote(text, safe="")
