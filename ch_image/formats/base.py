"""Outside formats of images behind two small interfaces, found by name.

A format of trees lends an image's files, and writes them; one of layers brings an image into the
layer store, and gives one out with its layers and digests. What is written appears under its
final name whole, or not at all. ``exchange`` leads from each to each.
"""

from __future__ import annotations

import errno
import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

from ch_image.errors import UsageError, printable
from ch_image.model.oci import ImageConfig
from ch_image.model.platforms import Platform
from ch_image.model.ref import ImageRef
from ch_image.report import Reporter
from ch_image.storage.images import Image
from ch_image.storage.snapshots.base import Snapshotter
from ch_image.storage.store import Storage
from ch_image.transfer.pack import Wishes
from ch_image.typed import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from subprocess import CompletedProcess


def run(words: Sequence[str]) -> CompletedProcess[bytes]:
    """Run a program to its end, with nothing to read."""
    import subprocess

    return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False)


class Place(NamedTuple):
    """Where and how conversions work. The caller holds the storage's lock."""

    storage: Storage
    snapshotter: Callable[[], Snapshotter]
    ref: Callable[[str], ImageRef]  # how names of images in storage are read
    report: Reporter
    clobber: bool = True  # replace what is there
    exact: bool = False  # leave modes as they are, unsafe ones too
    xattrs: bool = True
    wishes: Wishes = Wishes()  # how layers without a blob are made
    platform: Platform | None = None  # of an index, which one to take; None: this machine's
    run: Callable[[Sequence[str]], CompletedProcess[bytes]] = run  # how others' programs are run


class Content(NamedTuple):
    """An image as a tree to read."""

    config: ImageConfig
    tree: str  # a directory of the host
    owners: Mapping[str, tuple[int, int]]  # path without leading "/" -> owner no xattr can hold
    staged: str = ""  # the directory in scratch whose "t" the tree is, when it may be taken


class Trees(Protocol):
    """A format that holds files."""

    def open(self, name: str, place: Place) -> AbstractContextManager[Content]:
        """The content of the image ``name``, good in the block. Raises ChError, OSError."""

    def admit(self, name: str, place: Place) -> None:
        """Raises ImageError when no image can be called ``name``; asked before any work."""

    def write(self, content: Content, name: str, place: Place) -> None:
        """Write ``content`` as ``name``; it appears when complete. Raises ChError, OSError."""


class Layered(Protocol):
    """A format that holds layers."""

    def bring(self, name: str, place: Place) -> Image:
        """The image ``name`` with its layers and manifest in storage, not listed there yet.

        Raises ChError, OSError.
        """

    def admit(self, name: str, place: Place) -> None:
        """Raises ImageError when no image can be called ``name``; asked before any work."""

    def give(self, image: Image, name: str, place: Place) -> None:
        """Write ``image`` as ``name``; it appears when complete. Raises ChError, OSError."""


# name -> (module of formats/, class in it)
TREES = {
    "dir": ("directory", "Directory"),
    "tar": ("archive", "Archive"),
    "squash": ("squash", "Squash"),
}
LAYERED = {
    "ch-image": ("stored", "Stored"),
    "oci": ("layouts", "Oci"),
    "oci-archive": ("layouts", "OciArchive"),
    "docker-archive": ("layouts", "DockerArchive"),
    "docker": ("daemon", "Docker"),
    "podman": ("daemon", "Podman"),
}
FORMATS = ("ch-image", *TREES, *(name for name in LAYERED if name != "ch-image"))
_BY_NAME = (
    ("oci", ("*.oci", "*.oci:*")),
    ("oci-archive", ("*.oci.tar", "*.oci.tar:*")),
    ("docker-archive", ("*.docker.tar", "*.docker.tar:*")),
    ("squash", ("*.sqfs", "*.squash", "*.squashfs")),
    ("tar", ("-", "*.tar", "*.t?z", "*.tzst", "*.tar.?", "*.tar.??", "*.tar.???")),
    ("dir", ("/*", "./*", "../*", ".", "..")),
)


def infer(name: str) -> str:
    """The format that a name tells of: an archive's ending, a path, else an image in storage."""
    for found, patterns in _BY_NAME:
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            return found
    return "ch-image"


def trees(name: str) -> Trees:
    """The format of that name, which is in TREES."""
    made: Trees = _made(*TREES[name])
    return made


def layered(name: str) -> Layered:
    """The format of that name, which is in LAYERED."""
    made: Layered = _made(*LAYERED[name])
    return made


def check(name: str) -> None:
    """Raises UsageError when there is no format of that name."""
    if name not in FORMATS:
        raise UsageError(
            f"format '{printable(name, 60)}' is not known", hint=f"there is {', '.join(FORMATS)}"
        )


def _made(module: str, attribute: str) -> Any:
    from importlib import import_module

    return getattr(import_module(f"ch_image.formats.{module}"), attribute)()


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Name the target ``path`` in errors of writing to it, which have no name of their own."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            error.filename = path
        raise
