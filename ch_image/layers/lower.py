"""What the layers below have at a path, when a layer's archive cannot do without knowing.

Two cases: a hard link to a file that only lower layers have, and a directory that an archive
takes for granted. Trees are in overlay format, topmost first; paths are real (see
`ch_image.fs.directories`), so no link is followed here.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ch_image.fs import whiteouts
from ch_image.fs.directories import FLAGS
from ch_image.typed import NamedTuple


class Found(NamedTuple):
    """A node of a lower layer: its state, and the open directory that it is in."""

    state: os.stat_result
    dir_fd: int
    name: bytes


@contextmanager
def finding(trees: Sequence[str], path: bytes) -> Iterator[Found | None]:
    """Lend what merged ``trees`` show at ``path`` (not the root), None when nothing."""
    *parents, name = path.split(b"/")
    for tree in trees:
        fd = os.open(tree, FLAGS & ~os.O_NOFOLLOW)
        try:
            opaque = False
            for parent in parents:
                state = _look(fd, parent)
                if state is None:
                    break
                if not stat.S_ISDIR(state.st_mode):  # a whiteout or a file: it hides the rest
                    yield None
                    return
                below = os.open(parent, FLAGS, dir_fd=fd)
                os.close(fd)
                fd = below
                opaque = opaque or whiteouts.is_opaque(fd)
            else:
                state = _look(fd, name)
                if state is not None:
                    gone = whiteouts.is_whiteout(state)
                    yield None if gone else Found(state, fd, name)
                    return
            if opaque:
                break
        finally:
            os.close(fd)
    yield None


def root_names(trees: Sequence[str]) -> set[bytes]:
    """Every name that one of the trees has in its root, or has hidden there."""
    return {name for tree in trees for name in os.listdir(os.fsencode(tree))}


def _look(fd: int, name: bytes) -> os.stat_result | None:
    for candidate in (name, whiteouts.PREFIX + name):
        try:
            state = os.stat(candidate, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            continue
        if candidate is name or whiteouts.hidden_name(candidate, state) == name:
            return _AS_WHITEOUT if candidate is not name else state
    return None


_AS_WHITEOUT = os.stat_result((stat.S_IFCHR, 0, 0, 0, 0, 0, 0, 0, 0, 0))
