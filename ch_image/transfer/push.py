"""From storage to a registry: layers and config first, the manifest last.

Blobs that the registry has are not sent, and those that it has in another repository are mounted
there. Who reads the tag meanwhile sees the old image or the new one, never half of one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Sequence

from ch_image.errors import ChError, ImageError
from ch_image.model.digest import Digest
from ch_image.model.oci import Descriptor, Manifest
from ch_image.model.ref import ImageRef, short_digest
from ch_image.registry import referrers
from ch_image.registry.registries import Place, Registries
from ch_image.registry.upload import Source, Uploader, reader
from ch_image.report import Detail, Info, Progress, Reporter, silent
from ch_image.storage.images import Image
from ch_image.storage.store import Storage
from ch_image.transfer.crew import Crew
from ch_image.transfer.download import Download
from ch_image.transfer.pack import Wishes, pack, stored_manifest
from ch_image.typed import NamedTuple

MAX_UPLOADS = 4
_TELL = 0.1  # seconds between two reports of progress


class Pushed(NamedTuple):
    """What a push did; counts are of layers and config."""

    digest: Digest  # of the manifest
    sent: int
    sent_bytes: int
    mounted: int
    present: int
    unchanged: bool = False  # the registry's tag led to this image already


def push(
    image: Image,
    destination: ImageRef,
    storage: Storage,
    registries: Registries,
    wishes: Wishes = Wishes(),  # noqa: B008
    report: Reporter = silent,
) -> Pushed:
    """Make ``destination`` name ``image``.

    The process has entered its user namespace, and holds the storage's lock. Raises RegistryError,
    ImageError, StorageError; the tag is as it was then.
    """
    place = registries.home(destination)
    known = stored_manifest(image, storage, wishes)
    if known is not None and image.manifest and _is_there(place, destination, image.manifest):
        report(Info(f"unchanged: {destination}"))
        return Pushed(image.manifest.digest, 0, 0, 0, 0, unchanged=True)
    report(Info(f"pushing image: {destination}"))
    image, manifest = pack(image, storage, wishes, report)
    assert image.manifest is not None
    if destination.digest and destination.digest != image.manifest.digest:
        raise ImageError(
            f"the image's digest is {image.manifest.digest}, not the one in {destination}",
            hint="push it to a tag",
        )
    work = _Push(image, manifest, place, storage, registries, report)
    pushed = work.run(destination)
    digest = short_digest(pushed.digest)
    report(
        Info(
            f"pushed {destination}: {digest}, {pushed.sent} blobs sent "
            f"({pushed.sent_bytes} bytes), {pushed.mounted} mounted, {pushed.present} there before"
        )
    )
    return pushed


def _is_there(place: Place, ref: ImageRef, manifest: Descriptor) -> bool:
    found = place.client.head_manifest(place.repository, ref.reference)
    return found is not None and found.digest == manifest.digest


class _Push:
    """One push at work."""

    def __init__(
        self,
        image: Image,
        manifest: Manifest,
        place: Place,
        storage: Storage,
        registries: Registries,
        report: Reporter,
    ) -> None:
        self._image, self._manifest, self._place = image, manifest, place
        self._storage, self._registries, self._report = storage, registries, report
        self._uploader = Uploader(place.client, place.repository)
        self._crew = Crew()
        self._lock = threading.Lock()
        self._counts = {"sent": 0, "mounted": 0, "present": 0}
        self._bytes = 0
        layers = {layer.digest: layer for layer in manifest.layers}  # the same one may come twice
        total = len(layers)
        self._todo = [(blob, f"layer {n}/{total}") for n, blob in enumerate(layers.values(), 1)]
        self._todo.append((manifest.config, "config"))
        self._mounts = _repositories(storage, place.client.registry, place.repository, image)

    def run(self, destination: ImageRef) -> Pushed:
        """Send what is lacking, then say what it is."""
        try:
            for number in range(min(MAX_UPLOADS, len(self._todo))):
                self._crew.start(self._send_blobs, f"upload {number}")
            self._crew.finish()
        finally:
            self._crew.stop()
        manifest = self._image.manifest
        assert manifest is not None
        raw, kind = self._manifest.raw, self._manifest.media_type
        noted = self._uploader.manifest(destination.tag or manifest.digest, raw, kind)
        if not noted and b'"subject"' in raw:
            referrers.note(self._place.client, self._place.repository, raw, kind, self._report)
        counts = self._counts
        return Pushed(
            manifest.digest, counts["sent"], self._bytes, counts["mounted"], counts["present"]
        )

    def _send_blobs(self) -> None:
        while self._todo:
            try:
                blob, label = self._todo.pop(0)
            except IndexError:
                return
            self._send(blob, label)

    def _send(self, blob: Descriptor, label: str) -> None:
        last = 0.0

        def told(done: int) -> None:
            nonlocal last
            self._crew.check()
            if done == blob.size or time.monotonic() - last > _TELL:
                last = time.monotonic()
                self._report(Progress(label, done, blob.size))

        sent = self._uploader.blob(blob, self._source(blob, label), self._mounts, told)
        self._report(Detail(f"{label}: {sent.how}"))
        with self._lock:
            self._counts[sent.how] += 1
            self._bytes += sent.bytes

    def _source(self, blob: Descriptor, label: str) -> Source:
        """The blob's bytes; one that was never fetched (its tree was here) comes from its home."""
        path = self._storage.blobs.path(blob.digest)

        def read(start: int) -> Generator[bytes, None, None]:
            if not self._storage.blobs.has(blob.digest, blob.size):
                places = self._registries.places(self._image.ref)
                download = Download(blob, label, self._storage.blobs)
                download.run(places, self._report, self._crew.check, lambda: None)
            yield from reader(path)(start)

        return read


def _repositories(storage: Storage, registry: str, repository: str, image: Image) -> Sequence[str]:
    """Repositories of the registry whose images share layers with ``image``, as known here."""
    ours, found = set(image.layers), dict[str, None]()
    for summary in storage.images.list():
        if not summary.canonical.startswith(registry + "/"):
            continue
        try:
            other = storage.images.find(summary.ref)
        except ChError:  # a damaged record is no source, and no reason not to push
            continue
        if other is not None and other.ref.repository != repository and ours & set(other.layers):
            found[other.ref.repository] = None
    return tuple(found)
