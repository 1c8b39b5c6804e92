"""The image list: one record for each reference, published last and by one rename.

Listing and deleting need no record to be whole. What an image's layers hold is not known here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress

from ch_image.errors import ImageError, NotFound, StorageError, printable
from ch_image.storage.durable import Durability
from ch_image.storage.faults import faults, storage_error
from ch_image.storage.layers import Chain, LayerId, Layers
from ch_image.storage.record import Damaged, dump, load, pack, read_record, remove_file, write_file
from ch_image.storage.scratch import Scratch
from ch_image.typed import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from ch_image.model.digest import Digest
    from ch_image.model.oci import Descriptor, ImageConfig
    from ch_image.model.ref import ImageRef


class Image(NamedTuple):
    """An image in storage."""

    ref: ImageRef
    config: ImageConfig
    layers: Chain
    manifest: Descriptor | None  # as pulled or last pushed; its blob is in the store
    created: float  # when it got this name here, Unix time
    annotations: Mapping[str, str] = {}


class Summary(NamedTuple):
    """One line of a listing; cheap, for it is read without parsing the record."""

    name: str  # as the user would write it
    canonical: str
    created: float  # 0 when the record is damaged
    file: str  # the record's file name: what ``delete`` also takes
    damaged: bool

    @property
    def ref(self) -> ImageRef:
        """The reference. Raises ImageError when a damaged record no longer tells it."""
        from ch_image.model.ref import parse_ref

        ref = parse_ref(self.canonical)
        return ref._replace(name=self.name)


Summaries: TypeAlias = list[Summary]  # in Images, "list" is a method


class Images:
    """``images/`` and ``deleted/``. Methods may be called from several threads."""

    def __init__(self, path: str, scratch: Scratch, durability: Durability, layers: Layers) -> None:
        self._path = f"{path}/images"
        self._deleted = f"{path}/deleted"
        self._scratch = scratch
        self._durability = durability
        self._layers = layers

    def put(self, image: Image) -> None:
        """Publish ``image`` under its reference, replacing an older one, after a sync of all
        that was written. Raises StorageError; the older image stays then.
        """
        if missing := self._layers.missing(image.layers):
            raise StorageError(f"layer {missing[0]} is gone from storage", hint="build it again")
        data = _encode(image)
        self._durability.watch()
        self._durability.sync()
        with faults("store the image's record"):
            write_file(f"{self._path}/{image.ref.file_name}", data, self._scratch)
            _sync_directory(self._path)

    def find(self, ref: ImageRef) -> Image | None:
        """The image, or None. Raises StorageError when it is damaged or incomplete."""
        try:
            image = _read(f"{self._path}/{ref.file_name}", ref)
        except FileNotFoundError:
            return None
        if missing := self._layers.missing(image.layers):
            raise StorageError(
                f"image {ref} lacks layer {missing[0]}", hint="pull or build it again"
            )
        return image._replace(ref=ref)

    def get(self, ref: ImageRef) -> Image:
        """The image. Raises NotFound with near names, StorageError as ``find``."""
        image = self.find(ref)
        if image is None:
            raise self._not_found(ref)
        return image

    def list(self) -> Summaries:
        """All images by name, damaged ones too. Raises StorageError."""
        return self._list(self._path)

    def deleted(self) -> Summaries:
        """What ``undelete`` may bring back."""
        return self._list(self._deleted)

    def delete(self, image: ImageRef | str) -> None:
        """Take an image (or the record's file name) from the list, into ``deleted/``.

        Needs no free space and no readable record. Raises NotFound, StorageError.
        """
        name = image if isinstance(image, str) else image.file_name
        if "/" in name or name.startswith("."):
            raise NotFound(f"no image {printable(name, 200)!r} in storage")
        try:
            os.rename(f"{self._path}/{name}", f"{self._deleted}/{name}")
        except FileNotFoundError:
            if os.path.lexists(f"{self._path}/{name}") and self._unlink(name):
                return
            raise self._not_found(image) from None
        except OSError:
            # No space for another directory entry, or a directory in our way: without undelete.
            self._unlink(name)

    def undelete(self, ref: ImageRef) -> None:
        """Put a deleted image back. Raises NotFound, StorageError when layers are gone, and
        ImageError when there is an image of that name again.
        """
        name = ref.file_name
        try:
            image = _read(f"{self._deleted}/{name}", ref)
        except FileNotFoundError:
            raise NotFound(f"no deleted image {ref}") from None
        if missing := self._layers.missing(image.layers):
            raise StorageError(f"image {ref} cannot be undeleted: layer {missing[0]} is gone")
        with faults("undelete the image"):
            try:
                os.link(f"{self._deleted}/{name}", f"{self._path}/{name}")
            except FileExistsError:
                raise ImageError(
                    f"there is an image {ref} again", hint=f"delete it first: ch-image delete {ref}"
                ) from None
            remove_file(f"{self._deleted}/{name}")

    def purge(self) -> None:
        """Forget what was deleted."""
        with faults("forget deleted images"):
            for name in os.listdir(self._deleted):
                remove_file(f"{self._deleted}/{name}")

    def read_all(self) -> tuple[Image, ...]:
        """Every image of the list. Raises StorageError when one is damaged: who throws away what
        no image needs must know them all.
        """
        found = []
        for summary in self.list():
            try:
                found.append(_read(f"{self._path}/{summary.file}", None))
            except FileNotFoundError:
                continue
            except Damaged as error:
                error.hint = f"delete it first: ch-image delete {summary.name}"
                raise
        return tuple(found)

    def survey(self, *, deleted: bool = False) -> Iterator[tuple[str, Image | Damaged]]:
        """Every record by its file name, a damaged one as what is wrong. Raises StorageError."""
        path = self._deleted if deleted else self._path
        for summary in self._list(path):
            with suppress(FileNotFoundError):
                try:
                    yield summary.file, _read(f"{path}/{summary.file}", None)
                except Damaged as error:
                    yield summary.file, error

    def _unlink(self, name: str) -> bool:
        try:
            return remove_file(f"{self._path}/{name}")
        except OSError as error:
            raise storage_error("delete the image", error) from error

    def _list(self, path: str) -> Summaries:
        with faults("list the images"):
            names = sorted(n for n in os.listdir(path) if not n.startswith("."))
        out = []
        for name in names:
            try:
                words, _ = read_record(f"{path}/{name}", "image")
                out.append(Summary(words[0], words[1], float(words[2]), name, False))
            except FileNotFoundError:
                continue
            except (Damaged, IndexError, ValueError):
                canonical = _canonical(name)
                out.append(Summary(canonical, canonical, 0.0, name, True))
        return out

    def _not_found(self, image: ImageRef | str) -> NotFound:
        import difflib

        known: dict[str, None] = {}
        with suppress(StorageError):
            known = dict.fromkeys(s.name for s in self.list())
        near = difflib.get_close_matches(str(image), known, 3, 0.6)
        hint = f"there is {', '.join(near)}" if near else "ch-image list shows what there is"
        return NotFound(f"no image {printable(str(image), 300)} in storage", hint=hint)


def _canonical(file_name: str) -> str:
    """The reference that ``ImageRef.file_name`` encoded, as far as it can be told."""
    from urllib.parse import unquote

    return printable(unquote(file_name), 300)


def _encode(image: Image) -> bytes:
    from ch_image.model.oci import config_json

    ref = image.ref
    meta = {
        "ref": list(ref),
        "layers": image.layers,
        "manifest": image.manifest.to_json() if image.manifest else None,
        "annotations": dict(image.annotations),
    }
    words = (ref.name, ref.canonical, repr(image.created))
    return pack("image", words, dump(meta) + b"\n" + dump(config_json(image.config)) + b"\n")


def _read(path: str, expected: ImageRef | None) -> Image:
    """The image recorded at ``path``. Raises FileNotFoundError, Damaged."""
    from ch_image.model.oci import parse_config, parse_descriptor
    from ch_image.model.ref import ImageRef

    name = printable(str(expected), 300) if expected else _canonical(os.path.basename(path))
    hint = f"delete it (ch-image delete {name}), then pull or build it again"
    try:
        words, body = read_record(path, "image")
        first, second, _ = body.split(b"\n")
        meta = load(first, path)
        registry, repository, tag, digest, short = meta["ref"]
        ref = ImageRef(registry, repository, tag, _digest(digest), short)
        if ref.file_name != os.path.basename(path):
            raise ValueError("the record of another image")
        manifest = meta["manifest"]
        return Image(
            ref,
            parse_config(second),
            tuple(LayerId(layer) for layer in meta["layers"]),
            parse_descriptor(manifest, "manifest") if manifest else None,
            float(words[2]),
            meta["annotations"],
        )
    except (Damaged, ImageError, ValueError, KeyError, TypeError, IndexError) as error:
        raise Damaged(f"the record of image {name} is damaged", hint=hint) from error


def _digest(value: object) -> Digest | None:
    from ch_image.model.digest import parse_digest

    return None if value is None else parse_digest(value)


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
