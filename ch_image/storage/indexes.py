"""Image indexes in the making: several images, of one platform each, to be pushed as one name.

Kept beside the image list and emptied with it. An index names its images; it keeps none of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from urllib.parse import unquote

from ch_image.errors import ImageError, NotFound, StorageError, printable
from ch_image.storage.faults import faults
from ch_image.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ch_image.model.ref import ImageRef
    from ch_image.storage.store import Storage

_MAX = 4 << 20  # bytes of a record


class Entry(NamedTuple):
    """One image of an index. What is empty is taken from the image when it is pushed."""

    image: str  # its name in storage
    os: str = ""
    architecture: str = ""
    variant: str = ""
    annotations: Mapping[str, str] = {}


class Indexes:
    """The indexes of a storage directory. Who changes one holds the storage's lock."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._path = f"{storage.path}/images/.indexes"

    def get(self, ref: ImageRef) -> list[Entry]:
        """The images of an index. Raises NotFound, StorageError."""
        try:
            return self.read(ref.file_name, str(ref))
        except FileNotFoundError:
            raise NotFound(
                f"no index {ref}", hint=f"make it: ch-image manifest create {ref}"
            ) from None

    def read(self, name: str, shown: str = "") -> list[Entry]:
        """The images of the index whose record is called ``name``. Raises FileNotFoundError,
        StorageError.
        """
        try:
            with open(f"{self._path}/{name}", "rb") as file:
                rows = json.loads(file.read(_MAX))
            return [_entry(*row) for row in rows]
        except (ValueError, TypeError, IndexError):
            shown = shown or printable(unquote(name), 300)
            raise StorageError(
                f"the record of index {shown} is damaged",
                hint=f"make it again: ch-image manifest rm {shown}; manifest create {shown}",
            ) from None

    def put(self, ref: ImageRef, entries: list[Entry], *, new: bool = False) -> None:
        """Store an index, by one rename. Raises ImageError if it is to be new and is not."""
        path = f"{self._path}/{ref.file_name}"
        with faults("store an index"):
            os.makedirs(self._path, mode=0o700, exist_ok=True)
            if new and os.path.exists(path):
                raise ImageError(f"there is an index {ref} already", hint="remove it: manifest rm")
            with self._storage.scratch() as scratch:
                with open(f"{scratch}/index", "w", encoding="utf-8") as file:
                    json.dump(entries, file)
                    file.flush()
                    os.fsync(file.fileno())
                os.rename(f"{scratch}/index", path)

    def remove(self, ref: ImageRef) -> None:
        """Forget an index; its images stay. Raises NotFound."""
        try:
            os.unlink(f"{self._path}/{ref.file_name}")
        except FileNotFoundError:
            raise NotFound(f"no index {ref}") from None


def _entry(image: str, system: str, architecture: str, variant: str, notes: object) -> Entry:
    if not isinstance(notes, dict):
        raise ValueError("annotations are an object")
    annotations = {str(key): str(value) for key, value in notes.items()}
    return Entry(str(image), str(system), str(architecture), str(variant), annotations)
