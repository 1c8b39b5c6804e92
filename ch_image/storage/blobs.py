"""Content-addressed files: manifests, configs and compressed layers, byte for byte.

A blob's name is its digest, so what is read is checked against it; a blob that no longer matches
is removed and reported, for it can be fetched again. Knows nothing of what the bytes mean.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ch_image.errors import ImageError, NotFound, StorageError
from ch_image.storage.faults import faults
from ch_image.storage.record import read_file, remove_file, write_file
from ch_image.storage.scratch import Scratch
from ch_image.typed import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from ch_image.model.digest import Digest

_CHUNK = 1 << 20


class BlobWriter:
    """Takes the bytes of one blob; ``commit`` checks and publishes it."""

    def __init__(
        self, blobs: Blobs, staged: str, expected: Digest | None, size: int | None
    ) -> None:
        import hashlib

        self._blobs = blobs
        self._staged = staged
        self._expected = expected
        self._limit = size
        self._hash = hashlib.sha256()
        self._fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.fchmod(self._fd, 0o600)
        self.size = 0  # bytes written so far: where a resumed transfer goes on

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append ``data``. Raises ImageError beyond the announced size, StorageError."""
        if self._limit is not None and self.size + len(data) > self._limit:
            raise ImageError(f"{self._name()} is longer than the {self._limit} bytes announced")
        view = memoryview(data)
        with faults("write a blob"):
            while view:
                view = view[os.write(self._fd, view) :]
        self._hash.update(data)
        self.size += len(data)
        return len(data)

    def restart(self) -> None:
        """Forget what was written, for a sender that cannot resume. Raises StorageError."""
        import hashlib

        with faults("write a blob"):
            os.ftruncate(self._fd, 0)
            os.lseek(self._fd, 0, os.SEEK_SET)
        self._hash = hashlib.sha256()
        self.size = 0

    def commit(self) -> Digest:
        """Publish what was written. Raises ImageError when size or digest are not as expected."""
        if self._limit is not None and self.size != self._limit:
            raise ImageError(f"{self._name()} has {self.size} bytes, {self._limit} were announced")
        digest = _digest(self._hash.hexdigest())
        if self._expected is not None and digest != self._expected:
            raise ImageError(f"{self._name()} does not match its digest: it has {digest}")
        self.close()
        with faults("store a blob"):
            os.rename(self._staged, self._blobs.path(digest))
        return digest

    def close(self) -> None:
        """Close the file; without ``commit`` before, nothing is published."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _name(self) -> str:
        return f"blob {self._expected}" if self._expected else "a blob"


class Blobs:
    """``blobs/sha256/``. Methods may be called from several threads."""

    def __init__(self, path: str, scratch: Scratch) -> None:
        self._path = f"{path}/blobs/sha256"
        self._scratch = scratch

    def path(self, digest: Digest) -> str:
        """Where the blob lies or would lie."""
        algorithm, _, value = digest.partition(":")
        if algorithm != "sha256" or len(value) != 64 or not value.isalnum():
            raise ImageError(f"not a sha256 digest: {digest!r}")
        return f"{self._path}/{value}"

    def has(self, digest: Digest, size: int | None = None) -> bool:
        """Whether the blob is there, of ``size`` bytes when that is given (a cheap check)."""
        try:
            found = os.stat(self.path(digest))
        except OSError:
            return False
        return size is None or found.st_size == size

    def read(self, digest: Digest, limit: int) -> bytes:
        """A blob of at most ``limit`` bytes, verified.

        Raises NotFound, and StorageError when it is damaged (it is removed then) or too large.
        """
        path = self.path(digest)
        try:
            with faults("read a blob"):
                data = read_file(path, limit)
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise NotFound(f"no blob {digest} in storage", hint="pull the image again")
            raise
        from ch_image.model.digest import digest_of

        if digest_of(data) != digest:
            raise self._damaged(digest)
        return data

    def put(self, data: bytes) -> Digest:
        """Store ``data``. Raises StorageError."""
        from ch_image.model.digest import digest_of

        digest = digest_of(data)
        path = self.path(digest)
        with faults("store a blob"):
            if not self.has(digest, len(data)) or read_file(path, len(data)) != data:
                write_file(path, data, self._scratch)
        return digest

    def open(self, digest: Digest) -> BinaryIO:
        """The blob for reading, *not* verified: who reads it to the end must check the digest.

        Raises NotFound, StorageError.
        """
        try:
            return open(self.path(digest), "rb")  # noqa: SIM115  (the caller closes it)
        except FileNotFoundError:
            raise NotFound(f"no blob {digest} in storage", hint="pull the image again") from None
        except OSError as error:
            from ch_image.storage.faults import storage_error

            raise storage_error("read a blob", error) from error

    @contextmanager
    def writer(
        self, expected: Digest | None = None, size: int | None = None
    ) -> Iterator[BlobWriter]:
        """A writer for one blob; without ``commit`` in the block nothing remains of it."""
        staged = self._scratch.name()
        with faults("write a blob"):
            writer = BlobWriter(self, staged, expected, size)
        try:
            yield writer
        finally:
            writer.close()
            with suppress(OSError):
                remove_file(staged)

    def partial(self, digest: Digest) -> str:
        """A path in scratch, the same for all calls of this process, where a download may grow.

        ``adopt`` publishes it.
        """
        return f"{self._scratch.path}/partial-{self.path(digest).rpartition('/')[2]}"

    def adopt(self, path: str, digest: Digest, size: int | None = None) -> Digest:
        """Publish the file ``path`` of our scratch, read once to check it.

        Raises ImageError (and removes the file) when size or digest are wrong.
        """
        import hashlib

        total, checksum = 0, hashlib.sha256()
        with faults("store a blob"):
            with open(path, "rb") as file:
                while chunk := file.read(_CHUNK):
                    checksum.update(chunk)
                    total += len(chunk)
            if size is not None and total != size:
                remove_file(path)
                raise ImageError(f"blob {digest} has {total} bytes, {size} were announced")
            if _digest(checksum.hexdigest()) != digest:
                remove_file(path)
                raise ImageError(f"blob {digest} does not match its digest")
            os.rename(path, self.path(digest))
        return digest

    def verify(self, digest: Digest) -> None:
        """Read the whole blob. Raises NotFound, or StorageError and removes it if damaged."""
        import hashlib

        checksum = hashlib.sha256()
        with self.open(digest) as file, faults("read a blob"):
            while chunk := file.read(_CHUNK):
                checksum.update(chunk)
        if _digest(checksum.hexdigest()) != digest:
            raise self._damaged(digest)

    def all(self) -> list[Digest]:
        """The digests of all blobs."""
        with faults("list blobs"):
            return [_digest(name) for name in sorted(os.listdir(self._path)) if len(name) == 64]

    def remove(self, digest: Digest) -> int:
        """Remove a blob; how many bytes that freed. Raises StorageError."""
        path = self.path(digest)
        with faults("remove a blob"):
            try:
                size = os.stat(path).st_size
            except FileNotFoundError:
                return 0
            return size if remove_file(path) else 0

    def _damaged(self, digest: Digest) -> StorageError:
        with suppress(OSError):  # on a read-only disk it stays; it is refused all the same
            remove_file(self.path(digest))
        return StorageError(
            f"blob {digest} is damaged; it was removed", hint="pull the image again"
        )


def _digest(hexadecimal: str) -> Digest:
    from ch_image.model.digest import Digest

    return Digest(f"sha256:{hexadecimal}")
