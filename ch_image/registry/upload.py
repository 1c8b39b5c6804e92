"""Brings blobs and manifests to a registry (OCI distribution specification, "Push").

A blob that is there is not sent, one that another repository of the registry holds is mounted, and
one whose transfer is cut goes on where the registry says it stands. An upload that is given up is
cancelled, as far as the registry listens.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from urllib.parse import urlencode

from ch_image.errors import RegistryError
from ch_image.model.digest import Digest
from ch_image.model.oci import Descriptor
from ch_image.registry.client import RegistryClient, pull_scope, quoted
from ch_image.registry.response import Broken, Response
from ch_image.registry.transport import CHUNK, Body, joined, origin_of
from ch_image.typed import NamedTuple

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


class _Upload:
    """An upload that the registry has begun."""

    __slots__ = ("least", "location")

    def __init__(self, location: str, least: int) -> None:
        self.location = location  # where its next bytes go; every answer may name another
        self.least = least  # bytes that each of several pieces has to have


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
        mounted, upload = self._mount(blob.digest, mounts[:MAX_MOUNTS])
        if mounted:
            return Sent("mounted", 0)
        tries = 0
        while True:
            try:
                self._send(blob, source, told, upload)
                return Sent("sent", blob.size)
            except Broken as error:  # the upload cannot go on: a new one
                upload = None
                tries += 1
                if tries >= min(error.tries, self._client.transport.network.tries):
                    raise
                self._client.transport.pause(tries)

    def _mount(self, digest: Digest, others: Sequence[str]) -> tuple[bool, _Upload | None]:
        """Whether one of the repositories gave the blob; else the upload that was begun instead."""
        upload: _Upload | None = None
        for other in others:
            query = urlencode({"mount": digest, "from": other})
            with self._request(
                "POST",
                f"{self._repository}/blobs/uploads/?{query}",
                body=b"",
                scopes=pull_scope(other),
                again=True,
            ) as response:
                begun = self._begun(response) if response.status == 202 else None
            if upload is not None and (begun or response.status == 201):
                self._cancel(upload)
            if response.status == 201:
                return True, None
            upload = begun or upload
        return False, upload

    def _begun(self, response: Response) -> _Upload:
        least = response.header("OCI-Chunk-Min-Length")
        return _Upload(self._location(response), int(least) if _is_size(least) else 0)

    def _cancel(self, upload: _Upload) -> None:
        """Let the registry forget an upload. That it does not is no fault: uploads expire."""
        with suppress(RegistryError), self._request("DELETE", upload.location, again=False):
            pass

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

    def _send(self, blob: Descriptor, source: Source, told: Told, upload: _Upload | None) -> None:
        if upload is None:
            upload = self._start(blob, source)
        if upload is None:
            return
        try:
            if blob.size <= SMALL:
                body = Body(lambda: _counted(source(0), 0, told), blob.size)
                self._finish(upload, blob, body)
            else:
                self._pieces(upload, blob, source, told)
                self._finish(upload, blob, None)
        except Broken:
            raise
        except BaseException:
            self._cancel(upload)
            raise

    def _start(self, blob: Descriptor, source: Source) -> _Upload | None:
        """A new upload; None when a small blob went with the request for it."""
        what = f"{self._client.registry}/{self._repository}"
        url, raw = f"{self._repository}/blobs/uploads/", b""
        if blob.size <= SINGLE:
            url, raw = f"{url}?digest={quoted(blob.digest)}", b"".join(source(0))
        with self._request("POST", url, body=raw, again=True) as response:
            self._client.expect(response, (201, 202) if blob.size <= SINGLE else (202,), what)
            return None if response.status == 201 else self._begun(response)

    def _pieces(self, upload: _Upload, blob: Descriptor, source: Source, told: Told) -> None:
        """Send the content by PATCH, in one request if all goes well."""
        done, piece, tries = 0, blob.size, 0
        while done < blob.size:
            size = min(piece, blob.size - done)
            more = {}
            if done or size < blob.size:
                more["Content-Range"] = f"{done}-{done + size - 1}"
            body = Body(_part(source, done, size, told), size)
            fault: Broken | None = None
            try:
                response = self._request("PATCH", upload.location, body=body, more=more)
            except Broken as error:
                fault = error
            else:
                with response:
                    if response.status == 413 and piece > PIECE:
                        piece = max(PIECE, upload.least)
                        continue
                    fault = self._disagreement(response)
                    if fault is None:
                        self._client.expect(response, (202, 201, 204), f"{blob.digest}")
                        upload.location = self._location(response)
                        # Some take less than they were given, and say so.
                        stands = _range_end(response)
                        whole = stands is None or stands > done + size
                        done = done + size if whole or stands is None else stands
                        continue
            tries += 1
            if tries >= self._client.transport.network.tries:
                raise fault
            self._client.transport.pause(tries)
            before = done
            done = self._standing(upload, fault)
            tries = 0 if done > before else tries

    def _disagreement(self, response: Response) -> Broken | None:
        """What a registry says that knows of another state of the upload than we do."""
        host = self._client.registry
        if response.status == 404:
            raise Broken(f"{host} has lost an upload")
        if response.status == 416:
            return Broken(f"{host} expects another part of the blob")
        return None

    def _standing(self, upload: _Upload, error: Broken) -> int:
        """How much of an upload has arrived. Raises ``error`` when it is no longer known."""
        with self._request("GET", upload.location) as response:
            stands = _range_end(response)
            if response.status not in (200, 202, 204) or stands is None:
                raise error
            if response.header("Location"):
                upload.location = self._location(response)
            return stands

    def _finish(self, upload: _Upload, blob: Descriptor, body: Body | None) -> None:
        mark = "&" if "?" in upload.location else "?"
        url = f"{upload.location}{mark}digest={quoted(blob.digest)}"
        with self._request("PUT", url, body=body or b"") as response:
            if response.status == 404:
                raise Broken(f"{self._client.registry} has lost an upload")
            self._client.expect(response, (201, 204), f"the blob {blob.digest}")

    def manifest(self, reference: str, raw: bytes, media_type: str) -> bool:
        """Store a manifest or index under a tag or its digest. Raises RegistryError.

        Whether the registry itself notes which manifest this one is about, if it is about one.
        """
        url = f"{self._repository}/manifests/{reference}"
        name = self._client.name(self._repository, reference)
        with self._request(
            "PUT", url, body=raw, more={"Content-Type": media_type}, again=True
        ) as response:
            self._client.expect(response, (200, 201, 202), name)
            return bool(response.header("OCI-Subject"))


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
    if not dash or not _is_size(last) or first != "0":
        return None
    # An empty upload has "0-0", which one byte has too: sending that byte again does no harm.
    return int(last) + 1 if last != "0" else 0


def _is_size(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19


def reader(path: str) -> Source:
    """The bytes of a file, as uploads want them."""

    def read(start: int) -> Generator[bytes, None, None]:
        with open(path, "rb") as file:
            file.seek(start)
            while chunk := file.read(CHUNK):
                yield chunk

    return read
