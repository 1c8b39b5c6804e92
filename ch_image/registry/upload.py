"""Brings blobs and manifests to a registry (OCI distribution specification, "Push").

A blob that is there is not sent, one that another repository of the registry holds is mounted, and
one whose transfer is cut goes on where the registry says it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple
from urllib.parse import urlencode

from ch_image.errors import RegistryError
from ch_image.model.digest import Digest
from ch_image.model.oci import Descriptor
from ch_image.registry.client import RegistryClient, pull_scope, quoted
from ch_image.registry.transport import CHUNK, Body, Broken, Response, joined, origin_of

SINGLE = 16 << 10  # bytes of a blob that is worth sending with the first request
SMALL = 4 << 20  # bytes of a blob that is sent in one request, and again from its start
PIECE = 16 << 20  # bytes of a request where a registry refuses more (413)
MAX_MOUNTS = 3  # repositories to try to mount a blob from

Source = Callable[[int], Generator[bytes, None, None]]  # a blob's bytes from an offset on
Told = Callable[[int], None]  # how many bytes have been handed to the connection


class Sent(NamedTuple):
    """What it took to bring a blob: ``bytes`` is 0 unless it was sent."""

    how: str  # "present", "mounted" or "sent"
    bytes: int


def push_scope(repository: str) -> frozenset[str]:
    """What writing needs."""
    return frozenset({f"repository:{repository}:pull,push"})


class Uploader:
    """Writes to one repository. Thread-safe."""

    def __init__(self, client: RegistryClient, repository: str) -> None:
        self._client, self._repository = client, repository
        self._scopes = push_scope(repository)

    def _request(
        self,
        method: str,
        url: str,
        *,
        body: bytes | Body | None = None,
        more: dict[str, str] | None = None,
        scopes: frozenset[str] = frozenset(),
        again: bool | None = None,
    ) -> Response:
        headers = {"Content-Type": "application/octet-stream"} | (more or {})
        return self._client.request(
            method,
            url,
            self._repository,
            scopes=self._scopes | scopes,
            headers=headers,
            body=body,
            again=again,
        )

    def blob(
        self,
        blob: Descriptor,
        source: Source,
        mounts: Sequence[str] = (),
        told: Told = lambda done: None,
    ) -> Sent:
        """Make the repository hold a blob.

        ``mounts``: repositories of the same registry that may hold it. Raises RegistryError.
        """
        if self._client.has_blob(self._repository, blob.digest, self._scopes):
            return Sent("present", 0)
        for other in mounts[:MAX_MOUNTS]:
            if self._mount(blob.digest, other):
                return Sent("mounted", 0)
        tries = 0
        while True:
            try:
                self._send(blob, source, told)
                return Sent("sent", blob.size)
            except Broken as error:  # the upload cannot go on: a new one
                tries += 1
                if tries >= min(error.tries, self._client.transport.network.tries):
                    raise
                self._client.transport.pause(tries)

    def _mount(self, digest: Digest, other: str) -> bool:
        query = urlencode({"mount": digest, "from": other})
        with self._request(
            "POST",
            f"{self._repository}/blobs/uploads/?{query}",
            body=b"",
            scopes=pull_scope(other),
            again=True,
        ) as response:
            # 202 begins an upload instead; it is left to expire.
            return response.status == 201

    def _start(self, what: str) -> str:
        """The URL of a new upload."""
        url = f"{self._repository}/blobs/uploads/"
        with self._request("POST", url, body=b"", again=True) as response:
            self._client.expect(response, (202,), what)
            return self._location(response)

    def _location(self, response: Response) -> str:
        location = response.header("Location")
        if not location:
            raise RegistryError(f"{self._client.registry} does not say where to upload to")
        url = joined(response.url, location)
        home = self._client.home()
        there = origin_of(url)
        if home.scheme == "https" and there.scheme == "http" and there.host == home.host:
            # Registries behind a proxy that ends TLS do not know how they are reached.
            url = joined(f"https://{self._client.registry}/", "/" + url.split("/", 3)[3])
        self._client.transport.allowed(url, origin_of(response.url).scheme)
        return url

    def _send(self, blob: Descriptor, source: Source, told: Told) -> None:
        what = f"{self._client.registry}/{self._repository}"
        if blob.size <= SINGLE:
            raw = b"".join(source(0))
            url = f"{self._repository}/blobs/uploads/?digest={quoted(blob.digest)}"
            with self._request("POST", url, body=raw, again=True) as response:
                self._client.expect(response, (201, 202), what)
                if response.status == 201:
                    return
                location = self._location(response)
        else:
            location = self._start(what)
        if blob.size <= SMALL:
            body = Body(lambda: _counted(source(0), 0, told), blob.size)
            self._finish(location, blob, body)
            return
        location = self._pieces(location, blob, source, told)
        self._finish(location, blob, None)

    def _pieces(self, location: str, blob: Descriptor, source: Source, told: Told) -> str:
        """Send the content by PATCH, in one request if all goes well; where to finish."""
        done, piece, tries = 0, blob.size, 0
        while done < blob.size:
            size = min(piece, blob.size - done)
            more = {}
            if done or size < blob.size:
                more["Content-Range"] = f"{done}-{done + size - 1}"
            body = Body(_part(source, done, size, told), size)
            try:
                response = self._request("PATCH", location, body=body, more=more)
            except Broken as error:
                tries += 1
                if tries >= self._client.transport.network.tries:
                    raise
                self._client.transport.pause(tries)
                before = done
                done, location = self._standing(location, error)
                tries = 0 if done > before else tries
                continue
            with response:
                if response.status == 413 and piece > PIECE:
                    piece = PIECE
                    continue
                self._client.expect(response, (202, 201, 204), f"{blob.digest}")
                location = self._location(response)
                # Some take less than they were given, and say so.
                stands = _range_end(response)
                done = stands if stands is not None and stands <= done + size else done + size
        return location

    def _standing(self, location: str, error: Broken) -> tuple[int, str]:
        """How much of an upload has arrived. Raises ``error`` when it is no longer known."""
        with self._request("GET", location) as response:
            stands = _range_end(response)
            if response.status not in (200, 202, 204) or stands is None:
                raise error
            return stands, self._location(response) if response.header("Location") else location

    def _finish(self, location: str, blob: Descriptor, body: Body | None) -> None:
        mark = "&" if "?" in location else "?"
        url = f"{location}{mark}digest={quoted(blob.digest)}"
        with self._request("PUT", url, body=body or b"") as response:
            if response.status == 404:
                raise Broken(f"{self._client.registry} has lost an upload")
            self._client.expect(response, (201, 204), f"the blob {blob.digest}")

    def manifest(self, reference: str, raw: bytes, media_type: str) -> None:
        """Store a manifest or index under a tag or its digest. Raises RegistryError."""
        url = f"{self._repository}/manifests/{reference}"
        name = self._client.name(self._repository, reference)
        with self._request(
            "PUT", url, body=raw, more={"Content-Type": media_type}, again=True
        ) as response:
            self._client.expect(response, (200, 201, 202), name)


def _counted(
    source: Generator[bytes, None, None], start: int, told: Told
) -> Generator[bytes, None, None]:
    done = start
    for chunk in source:
        yield chunk
        done += len(chunk)
        told(done)


def _part(
    source: Source, start: int, size: int, told: Told
) -> Callable[[], Generator[bytes, None, None]]:
    def start_again() -> Generator[bytes, None, None]:
        left = size
        for chunk in source(start):
            yield chunk[:left]
            left -= min(left, len(chunk))
            told(start + size - left)
            if not left:
                return

    return start_again


def _range_end(response: Response) -> int | None:
    """How many bytes an upload has, by the Range header of an answer; None when it has none."""
    text = response.header("Range").removeprefix("bytes=")
    first, dash, last = text.partition("-")
    if not dash or not last.isascii() or not last.isdigit() or first != "0":
        return None
    # An empty upload has "0-0", which one byte has too: sending that byte again does no harm.
    return int(last) + 1 if last != "0" else 0


def reader(path: str) -> Source:
    """The bytes of a file, as uploads want them."""

    def read(start: int) -> Generator[bytes, None, None]:
        with open(path, "rb") as file:
            file.seek(start)
            while chunk := file.read(CHUNK):
                yield chunk

    return read
