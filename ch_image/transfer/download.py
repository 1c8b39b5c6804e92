"""Brings one blob into storage: from the wire to a growing file, checked, then renamed.

Whoever wants to read a blob while it arrives opens it through ``Download``.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from ch_image.errors import ImageError, RegistryError
from ch_image.model.digest import Digest
from ch_image.model.oci import Descriptor
from ch_image.registry.registries import Place
from ch_image.report import Detail, Progress, Reporter
from ch_image.storage.blobs import Blobs
from ch_image.storage.faults import faults

_TELL = 0.1  # seconds between two reports of progress


class Download:
    """One blob on its way. ``label`` names it for people."""

    def __init__(self, blob: Descriptor, label: str, blobs: Blobs) -> None:
        self.blob, self.label, self._blobs = blob, label, blobs
        self.done = blobs.has(blob.digest, blob.size)
        self.started = self.done
        self.round = 0  # how often it was begun from its first byte
        self._lock = threading.Lock()
        self._partial = ""

    def open(self) -> tuple[int, int] | None:
        """A descriptor of the blob, of its whole size or still growing, and the round it belongs
        to; None when there is nothing to open yet. Raises StorageError.
        """
        with self._lock, faults("read a blob"):
            if not self.started:
                return None
            path = self._blobs.path(self.blob.digest) if self.done else self._partial
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC), self.round

    def run(
        self,
        places: Sequence[Place],
        report: Reporter,
        check: Callable[[], None],
        tell: Callable[[], None],
    ) -> None:
        """Fetch the blob, from the first place that has it; others go on where one fails.

        ``check`` is called between two pieces and may raise; ``tell`` when ``open`` becomes
        possible and when the blob is whole. A blob that arrives damaged is begun anew once, at
        another place if there is one. Raises RegistryError, ImageError, StorageError.
        """
        try:
            self._fetch(places, report, check, tell)
        except Damaged as error:
            report(Detail(f"{error}; fetching it again"))
            self._fetch([*places[1:], places[0]], report, check, tell)

    def _fetch(
        self,
        places: Sequence[Place],
        report: Reporter,
        check: Callable[[], None],
        tell: Callable[[], None],
    ) -> None:
        """Who follows the file relies on this: it only grows, and to its full size unless we raise
        something that ends the whole work.
        """
        import hashlib

        blob, checksum, at, told = self.blob, hashlib.sha256(), 0, 0.0
        path = f"{self._blobs.partial(blob.digest)}-{os.urandom(6).hex()}"
        with faults("write a blob"):
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                with self._lock:
                    self._partial, self.started = path, True
                    self.round += 1
                tell()
                for chunk in self._bytes(places, report):
                    check()
                    checksum.update(chunk)
                    view = memoryview(chunk)
                    while view:
                        view = view[os.write(fd, view) :]
                    at += len(chunk)
                    if (now := time.monotonic()) - told > _TELL:
                        told = now
                        report(Progress(self.label, at, blob.size))
                digest = Digest("sha256:" + checksum.hexdigest())
                if digest != blob.digest:
                    raise Damaged(f"{self.label} is damaged: its digest is not {blob.digest}")
                with self._lock:
                    os.rename(path, self._blobs.path(blob.digest))
                    self.done = True
            finally:
                os.close(fd)
                with self._lock:
                    if not self.done:
                        self.started = False
                        os.unlink(path)
        report(Progress(self.label, blob.size, blob.size))
        tell()

    def _bytes(self, places: Sequence[Place], report: Reporter) -> Iterator[bytes]:
        """The blob's bytes; where one place fails, the next goes on. Raises as the last did."""
        at = 0
        for number, place in enumerate(places, 1):
            try:
                for chunk in place.client.read_blob(place.repository, self.blob, at):
                    at += len(chunk)
                    yield chunk
                return
            except (RegistryError, ImageError) as error:
                if number == len(places):
                    raise
                report(Detail(f"{self.label}: {error}; asking {places[number].client.registry}"))


class Damaged(ImageError):
    """What arrived is not what was asked for."""
