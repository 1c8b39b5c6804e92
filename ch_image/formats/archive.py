"""Tar archives of a whole image, with the owners that root would have given.

Written plain, or compressed as the name's ending asks; read whatever the compression, with or
without one directory around everything.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from ch_image.errors import ImageError, UsageError, printable
from ch_image.formats.base import Content, Place, naming
from ch_image.formats.outfit import recall
from ch_image.formats.unfinished import beside, check_parent
from ch_image.layers.compress import Readable, Writable, gzip_writer, open_reader, zstd_writer
from ch_image.layers.create import write_tree
from ch_image.layers.extract import extract_archive
from ch_image.storage.scratch import remove
from ch_image.typed import BinaryIO, NamedTuple, cast

_COMPRESSIONS = (
    ("gzip", (".gz", ".tgz", ".taz")),
    ("zstd", (".zst", ".tzst")),
    ("bzip2", (".bz2", ".tbz", ".tbz2", ".tb2")),
    ("xz", (".xz", ".txz")),
)
# A single directory of one of these names is the image's own, not one around it.
_STANDARD = {
    "bin", "boot", "ch", "dev", "etc", "gnu", "home", "lib", "lib32", "lib64", "media", "mnt",
    "nix", "opt", "proc", "root", "run", "sbin", "srv", "sys", "tmp", "usr", "var",
}  # fmt: skip


class Joined:
    """What was read already of a stream, then the rest of it."""

    def __init__(self, head: bytes, rest: Readable) -> None:
        self._head, self._rest = head, rest

    def read(self, size: int = -1, /) -> bytes:
        """As a file's: up to ``size`` bytes, empty only at the end."""
        if self._head:
            count = len(self._head) if size < 0 else size
            piece, self._head = self._head[:count], self._head[count:]
            return piece
        return self._rest.read(size)


class Unpacked(NamedTuple):
    """Where an archive's content lies now, and the owners that its files cannot carry."""

    tree: str
    owners: Mapping[str, tuple[int, int]]


def unpack(stream: Readable, tree: str) -> Unpacked:
    """Unpack an archive, compressed or not, into the empty directory ``tree``. Raises ImageError.

    The directory around everything is taken away, if there is one.
    """
    with open_reader(stream) as plain:
        owners = dict(extract_archive(plain, tree, own_root=True).owners)
    names = os.listdir(tree)
    if len(names) != 1 or names[0] in _STANDARD:
        return Unpacked(tree, owners)
    inner = f"{tree}/{names[0]}"
    if os.path.islink(inner) or not os.path.isdir(inner):
        return Unpacked(tree, owners)
    os.rename(inner, f"{tree}.inner")
    os.rmdir(tree)
    os.rename(f"{tree}.inner", tree)
    prefix = names[0] + "/"
    return Unpacked(
        tree, {p.removeprefix(prefix): o for p, o in owners.items() if p.startswith(prefix)}
    )


class Archive:
    """The format ``tar``."""

    @contextmanager
    def open(self, name: str, place: Place) -> Iterator[Content]:
        """Unpack the archive at the path ``name`` into scratch. Raises ImageError, OSError."""
        staged = place.storage.layers.stage()
        try:
            with open(os.dup(0) if name == "-" else name, "rb", buffering=0) as file:
                _refuse_directory(file, name)
                try:
                    unpacked = unpack(cast(Readable, file), f"{staged}/t")
                except ImageError as error:
                    raise ImageError(f"{printable(name, 300)}: {error}", hint=error.hint) from None
            config = recall(unpacked.tree)
            if not os.listdir(unpacked.tree):
                raise ImageError(f"the archive is empty: {printable(name)}")
            yield Content(config, unpacked.tree, unpacked.owners, staged)
        finally:
            remove(staged)  # nothing is left there once a layer was made of it

    def admit(self, name: str, place: Place) -> None:
        """Raises ImageError, UsageError for an ending that asks for what we cannot write."""
        compression_for(name)
        if name != "-":
            admit_file(name, place.clobber)

    def write(self, content: Content, name: str, place: Place) -> None:
        """Write the archive at the path ``name``. Raises ImageError, OSError."""
        with output(name, place.clobber) as raw, ExitStack() as stack:
            out = cast(Writable, raw)
            kind = compression_for(name)
            if kind == "gzip":
                out = stack.enter_context(gzip_writer(raw, 6))
            elif kind == "zstd":
                out = stack.enter_context(zstd_writer(raw))
            elif kind == "bzip2":
                import bz2

                out = stack.enter_context(bz2.BZ2File(raw, "wb"))
            elif kind == "xz":
                import lzma

                out = stack.enter_context(lzma.LZMAFile(raw, "wb"))
            epoch = place.wishes.epoch
            write_tree(content.tree, content.owners, cast(BinaryIO, out), clamp_mtime=epoch)


def compression_for(name: str) -> str:
    """What the ending of an archive's name asks for; ``none`` for ``.tar``. Raises UsageError."""
    for kind, endings in _COMPRESSIONS:
        if name.endswith(endings):
            return kind
    if name.endswith(".tar.Z") or name.endswith(".tar.lz"):
        raise UsageError(f"no such compression: {printable(name)}", hint="use .gz, .zst or .xz")
    return "none"


def _refuse_directory(file: BinaryIO | object, name: str) -> None:
    if stat.S_ISDIR(os.fstat(file.fileno()).st_mode):  # type: ignore[union-attr]
        raise ImageError(
            f"not an archive but a directory: {printable(name)}", hint="say so with -i dir"
        )


def admit_file(name: str, clobber: bool) -> bool:
    """Whether ``name`` is a pipe or device, to be written to as it is.

    Raises ImageError when no file can be given that name.
    """
    path = os.path.realpath(name)
    try:
        state = os.stat(path)
    except FileNotFoundError:
        check_parent(path)
        return False
    if stat.S_ISDIR(state.st_mode):
        raise ImageError(f"cannot replace a directory by an archive: {printable(name)}")
    if stat.S_ISREG(state.st_mode) and not clobber:
        raise _exists(name)
    return not stat.S_ISREG(state.st_mode)


@contextmanager
def output(name: str, clobber: bool) -> Iterator[BinaryIO]:
    """A file that gets its name when the block has ended well; pipes and devices at once.

    The name ``-`` is standard output.
    """
    if name == "-":
        with open(os.dup(1), "wb", buffering=1 << 20) as stream:
            yield stream
        return
    path = os.path.realpath(name)
    if admit_file(name, clobber):
        with naming(name), open(path, "wb", buffering=1 << 20) as direct:
            yield direct
        return
    with beside(path) as temporary:
        with naming(name), open(temporary, "xb", buffering=1 << 20) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if clobber:
            os.rename(temporary, path)
        else:
            _link_only(temporary, path, name)


def _link_only(temporary: str, path: str, name: str) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise _exists(name) from None


def _exists(name: str) -> ImageError:
    return ImageError(f"it exists already: {printable(name)}", hint="leave out --no-clobber")
