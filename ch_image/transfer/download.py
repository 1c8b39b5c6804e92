"""Brings one blob into storage: from the wire to a growing file, checked, then renamed.

Whoever wants to read a blob while it arrives opens it through ``Download``.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable

from ch_image.errors import ChError, ImageError
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

    def open(self) -> int:
        """A descriptor of the blob, of its whole size or still growing. Raises StorageError."""
        with self._lock, faults("read a blob"):
            path = self._blobs.path(self.blob.digest) if self.done else self._partial
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def run(
        self,
        places: Iterable[Place],
        report: Reporter,
        check: Callable[[], None],
        tell: Callable[[], None],
    ) -> None:
        """Fetch the blob, from the first place that has it whole.

        ``check`` is called between two pieces and may raise; ``tell`` when ``open`` becomes
        possible and when the blob is whole. Raises RegistryError, ImageError, StorageError.
        """
        fault: ChError | None = None
        for place in places:
            for _ in range(2):  # a blob that arrived damaged gets a second chance
                try:
                    self._fetch(place, report, check, tell)
                    return
                except Damaged as error:
                    fault = error
                    report(Detail(f"{self.label}: {error}; fetching it again"))
                except ChError as error:
                    fault = error
                    break
        assert fault is not None
        raise fault

    def _fetch(
        self,
        place: Place,
        report: Reporter,
        check: Callable[[], None],
        tell: Callable[[], None],
    ) -> None:
        import hashlib

        blob, checksum, at, told = self.blob, hashlib.sha256(), 0, 0.0
        path = f"{self._blobs.partial(blob.digest)}-{os.urandom(6).hex()}"
        with faults("write a blob"):
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                with self._lock:
                    self._partial = path
                    self.round += 1
                self.started = True
                tell()
                for chunk in place.client.read_blob(place.repository, blob):
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
                if not self.done:
                    os.unlink(path)
        report(Progress(self.label, blob.size, blob.size))
        tell()


class Damaged(ImageError):
    """What arrived is not what was asked for."""
