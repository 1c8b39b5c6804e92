"""What layers take on disk, where files may be shared between layers as hard links."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator

from ch_image.fs.directories import Directories

_BLOCK = 512  # bytes that st_blocks counts in, see stat(2)


def walk(tree: Directories) -> Iterator[tuple[bytes, bytes, os.stat_result]]:
    """(directory, name, lstat) of everything below ``tree``; directories before what they hold.

    Paths are those of `Directories`. Raises OSError.
    """
    todo = [b""]
    while todo:
        path = todo.pop()
        names = sorted(map(os.fsencode, os.listdir(tree.get(path))))
        for name in names:
            state = os.stat(name, dir_fd=tree.get(path), follow_symlinks=False)
            if stat.S_ISDIR(state.st_mode):
                todo.append(path + b"/" + name if path else name)
            yield path, name, state


def disk_usage(trees: Iterable[str]) -> int:
    """Bytes that would be free if all these trees were removed: files that are also linked from
    elsewhere don't count. What cannot be read counts nothing.
    """
    total = 0
    linked: dict[tuple[int, int], tuple[int, int]] = {}  # file -> (links not seen yet, bytes)
    for tree in trees:
        try:
            with Directories(tree) as directories:
                total += os.fstat(directories.root).st_blocks * _BLOCK
                for _, _, state in walk(directories):
                    size = state.st_blocks * _BLOCK
                    if state.st_nlink == 1 or stat.S_ISDIR(state.st_mode):
                        total += size
                        continue
                    key = state.st_dev, state.st_ino
                    left, _ = linked.get(key, (state.st_nlink, size))
                    linked[key] = left - 1, size
        except OSError:  # a damaged layer
            continue
    return total + sum(size for left, size in linked.values() if left <= 0)


def own_size(tree: str) -> int:
    """Bytes that the files of one tree take, each counted once, whoever else has links to them."""
    total = 0
    seen: set[tuple[int, int]] = set()
    try:
        with Directories(tree) as directories:
            for _, _, state in walk(directories):
                if state.st_nlink > 1 and not stat.S_ISDIR(state.st_mode):
                    key = state.st_dev, state.st_ino
                    if key in seen:
                        continue
                    seen.add(key)
                total += state.st_blocks * _BLOCK
    except OSError:
        return total
    return total
