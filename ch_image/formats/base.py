"""Outside formats of images behind one small interface, found by name.

A format lends an image's content, and writes one; all go together. What is written appears under
its final name whole, or not at all.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from ch_image.errors import ImageError, UsageError, printable
from ch_image.model.oci import ImageConfig
from ch_image.model.ref import ImageRef
from ch_image.report import Reporter
from ch_image.storage.snapshots.base import Snapshotter
from ch_image.storage.store import Storage


class Place(NamedTuple):
    """Where and how conversions work. The caller holds the storage's lock."""

    storage: Storage
    snapshotter: Callable[[], Snapshotter]
    ref: Callable[[str], ImageRef]  # how names of images in storage are read
    report: Reporter
    clobber: bool = True  # replace what is there
    exact: bool = False  # leave modes as they are, unsafe ones too
    xattrs: bool = True


class Content(NamedTuple):
    """An image as a tree to read."""

    config: ImageConfig
    tree: str  # a directory of the host
    owners: Mapping[str, tuple[int, int]]  # path without leading "/" -> owner no xattr can hold
    staged: str = ""  # the directory in scratch whose "t" the tree is, when it may be taken


class Format(Protocol):
    """One format, read and written."""

    def open(self, name: str, place: Place) -> AbstractContextManager[Content]:
        """The content of the image ``name``, good in the block. Raises ChError, OSError."""

    def write(self, content: Content, name: str, place: Place) -> None:
        """Write ``content`` as ``name``; it appears when complete. Raises ChError, OSError."""


# name -> (module of formats/, class in it); an empty module: not built yet
FORMATS = {
    "ch-image": ("stored", "Stored"),
    "dir": ("directory", "Directory"),
    "tar": ("archive", "Archive"),
    "squash": ("", ""),
    "docker": ("", ""),
    "podman": ("", ""),
    "oci": ("", ""),
    "oci-archive": ("", ""),
    "docker-archive": ("", ""),
}
_BY_NAME = (
    ("squash", ("*.sqfs", "*.squash", "*.squashfs")),
    ("tar", ("*.tar", "*.t?z", "*.tzst", "*.tar.?", "*.tar.??", "*.tar.???")),
    ("dir", ("/*", "./*", "../*", ".", "..")),
)


def infer(name: str) -> str:
    """The format that a name tells of: an archive's ending, a path, else an image in storage."""
    for found, patterns in _BY_NAME:
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            return found
    return "ch-image"


def find(name: str) -> Format:
    """The format of that name. Raises UsageError."""
    from importlib import import_module

    module, attribute = FORMATS.get(name, ("", ""))
    if not module:
        what = "is not built yet" if name in FORMATS else "is not known"
        built = ", ".join(known for known, (there, _) in FORMATS.items() if there)
        raise UsageError(f"format '{printable(name, 60)}' {what}", hint=f"there is {built}")
    made: Format = getattr(import_module(f"ch_image.formats.{module}"), attribute)()
    return made


def temporary_name(path: str) -> str:
    """A free name beside the absolute ``path``, for what is to be renamed to it.

    Raises ImageError when the directory is not there.
    """
    parent, _, name = path.rpartition("/")
    if not os.path.isdir(parent or "/"):
        raise ImageError(f"no such directory: {printable(parent)}")
    return f"{parent}/.{name[:100]}.{os.urandom(6).hex()}.part"
