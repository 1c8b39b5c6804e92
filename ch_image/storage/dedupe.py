"""Equal files of different layers become one file on disk, by hard links.

Only files at the same path, so that no image ever sees two of its paths as one file, and only
those that are equal in all that an image can see: contents, mode, time, extended attributes. A
link is made beside the layers and renamed over the file, so a reader finds the one or the other.

The rename changes the time of its directory, which is put back at once. The times are in a
journal before the first rename, and whoever comes after a crash puts back what is in it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress

from ch_image.errors import StorageError
from ch_image.fs.directories import Directories
from ch_image.storage.faults import faults
from ch_image.storage.record import Damaged, dump, load, pack, read_record, write_file
from ch_image.storage.usage import walk
from ch_image.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ch_image.storage.layers import LayerId
    from ch_image.storage.scratch import Scratch
    from ch_image.storage.store import Storage

JOURNAL = "relinking"
_BLOCK = 1 << 20  # bytes compared at once
_OPEN = 6  # trees; each has up to a hundred descriptors
_NO_LINK = (errno.EMLINK, errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP)


class _File(NamedTuple):
    layer: int  # index into the list of layers
    directory: bytes
    name: bytes
    inode: int
    blocks: int


class Shared(NamedTuple):
    """Files that are links now, and bytes of disk that they took before."""

    files: int
    bytes: int


class _Trees:
    """The trees of the layers, by number; few are open at a time."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths
        self._open: dict[int, Directories] = {}

    def __getitem__(self, number: int) -> Directories:
        found = self._open.pop(number, None)
        if found is None:
            if len(self._open) >= _OPEN:
                self._open.pop(next(iter(self._open))).close()
            found = Directories(self.paths[number])
        self._open[number] = found
        return found

    def close(self) -> None:
        for tree in self._open.values():
            tree.close()
        self._open.clear()


def dedupe(storage: Storage, layers: Iterable[LayerId], scratch: Scratch) -> Shared:
    """Share what is equal between ``layers``; the exclusive lock is held. Raises StorageError."""
    oldest_first = sorted((_age(storage, layer), layer) for layer in layers)
    with faults("share equal files"), ExitStack() as stack:
        trees = _Trees([storage.layers.tree(layer) for age, layer in oldest_first if age])
        stack.callback(trees.close)
        todo = _pairs(trees)
        if not todo:
            return Shared(0, 0)
        _write_journal(storage, trees, todo, scratch)
        stage = stack.enter_context(Directories(stack.enter_context(storage.scratch())))
        files = size = 0
        for kept, double in todo:
            if _replace(trees, stage.root, kept, double):
                files += 1
                size += double.blocks * 512
        storage.sync()
        os.unlink(f"{storage.path}/{JOURNAL}")
    return Shared(files, size)


def _age(storage: Storage, layer: LayerId) -> float:
    """When the layer was made; 0 for one that is damaged."""
    try:
        return storage.layers.get(layer).created
    except StorageError:
        return 0.0


def _pairs(trees: _Trees) -> list[tuple[_File, _File]]:
    """(the file that stays, one that is equal to it), for all files that are worth it."""
    groups: dict[tuple[bytes, bytes, int, int, int], list[_File]] = {}
    for number in range(len(trees.paths)):
        inside: dict[int, list[tuple[bytes, bytes, os.stat_result]]] = {}
        for directory, name, state in walk(trees[number]):
            if stat.S_ISREG(state.st_mode) and state.st_blocks:
                inside.setdefault(state.st_ino, []).append((directory, name, state))
        for inode, places in inside.items():
            if len(places) > 1:  # links inside of the layer are part of the image
                continue
            directory, name, state = places[0]
            key = directory, name, state.st_size, state.st_mode, state.st_mtime_ns
            file = _File(number, directory, name, inode, state.st_blocks)
            groups.setdefault(key, []).append(file)
    out = []
    for files in groups.values():
        kept: list[_File] = []
        for file in files if len(files) > 1 else ():
            if any(file.inode == other.inode for other in kept):
                continue
            same = next((other for other in kept if _equal(trees, other, file)), None)
            if same is None:
                kept.append(file)
            else:
                out.append((same, file))
    return out


def _open(trees: _Trees, file: _File) -> int:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(file.name, flags, dir_fd=trees[file.layer].get(file.directory))


def _equal(trees: _Trees, one: _File, other: _File) -> bool:
    a = _open(trees, one)
    try:
        b = _open(trees, other)
        try:
            names = sorted(os.listxattr(a))
            if names != sorted(os.listxattr(b)):
                return False
            if any(os.getxattr(a, name) != os.getxattr(b, name) for name in names):
                return False
            while block := os.read(a, _BLOCK):
                if block != os.read(b, len(block)):
                    return False
            return True
        finally:
            os.close(b)
    finally:
        os.close(a)


def _replace(trees: _Trees, stage: int, kept: _File, double: _File) -> bool:
    with suppress(FileNotFoundError):
        os.unlink(b"link", dir_fd=stage)
    source = trees[kept.layer].get(kept.directory)
    try:
        os.link(kept.name, b"link", src_dir_fd=source, dst_dir_fd=stage, follow_symlinks=False)
    except OSError as error:
        if error.errno in _NO_LINK:  # a file cannot have more links, for one
            return False
        raise
    target = trees[double.layer].get(double.directory)
    before = os.fstat(target)
    os.rename(b"link", double.name, src_dir_fd=stage, dst_dir_fd=target)
    os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
    return True


def _write_journal(
    storage: Storage, trees: _Trees, todo: list[tuple[_File, _File]], scratch: Scratch
) -> None:
    times: dict[str, int] = {}
    for number, directory in sorted({(double.layer, double.directory) for _, double in todo}):
        path = f"{trees.paths[number]}/{os.fsdecode(directory)}"
        when = os.fstat(trees[number].get(directory)).st_mtime_ns
        times[path[len(storage.path) + 1 :]] = when
    write_file(f"{storage.path}/{JOURNAL}", pack("relinking", (), dump(times) + b"\n"), scratch)
    storage.sync()


def recover(path: str) -> None:
    """Put back the times of directories that a crash during ``dedupe`` may have left changed.

    ``path`` is the storage directory. Cheap when there is nothing to do. Raises StorageError.
    """
    journal = f"{path}/{JOURNAL}"
    if not os.path.lexists(journal):
        return
    with faults("put back times of directories"):
        try:
            _, body = read_record(journal, "relinking")
            times = load(body, journal)
        except (FileNotFoundError, Damaged):  # torn: then nothing was renamed yet
            times = {}
        with Directories(path) as tree:
            for name, when in times.items():
                try:
                    fd = tree.get(os.fsencode(name).rstrip(b"/"))
                    os.utime(fd, ns=(os.fstat(fd).st_atime_ns, when))
                except (FileNotFoundError, NotADirectoryError):
                    continue
                except PermissionError:  # a closed directory: for a command that is in a namespace
                    return
        with suppress(FileNotFoundError):
            os.unlink(journal)
