"""A tree of files to copy from: a build context, another stage or another image.

Everything is read by descriptors, one component at a time and without following a link, so that
nothing outside the root can be reached, whatever links the tree holds and whoever changes it
meanwhile. Links are resolved here, by name, inside the root. Each directory is listed at most
once, when it is first asked for.

A *path* is relative to the root, without a leading slash; the root is "". Names are the bytes of
the kernel decoded as `os.fsdecode` does.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from ch_image.build.rows import MODE, NAME, Row
from ch_image.errors import BuildError, printable
from ch_image.fs.owners import Recorded
from ch_image.sandbox.syscalls import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2
from ch_image.typed import Protocol, TypeAlias

Owners: TypeAlias = Mapping[str, tuple[int, int]]

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEEP = 15  # components that one call resolves
_MAX_LINKS = 255  # as many as BuildKit follows before it gives up


class Rules(Protocol):
    """What a ``.dockerignore`` says."""

    def excluded(self, path: str) -> bool:
        """Whether ``path``, or a directory it lies in, is left out."""

    def may_return(self, path: str) -> bool:
        """Whether something below ``path``, a directory left out, may come back (a ``!`` line)."""


def clean(path: str) -> str:
    """``path`` without ``.``, ``..`` and doubled or outer slashes; never above the root."""
    return posixpath.normpath("/" + path).lstrip("/")


def join(directory: str, name: str) -> str:
    """The path of ``name`` in ``directory``."""
    return f"{directory}/{name}" if directory else name


def make_row(name: str, st: os.stat_result) -> Row:
    """The row of one directory entry."""
    if st.st_mode & 0o170000 == 0o040000:  # what is in a directory changes without its being new
        return (name, st.st_mode, 0, 0, 0, 0, 0, 0)
    return (
        name,
        st.st_mode,
        st.st_size,
        st.st_mtime_ns,
        st.st_ctime_ns,
        st.st_ino,
        st.st_dev,
        st.st_nlink,
    )


class Source:
    """The tree under ``root``. Used by several threads at once."""

    what = "the build context"  # for messages

    def __init__(self, root: str, rules: Rules | None = None) -> None:
        self.root = root
        self.rules = rules
        self._fd = -1
        self._lock = threading.Lock()
        self._listings: dict[str, Sequence[Row]] = {}
        self._named: dict[str, dict[str, Row]] = {}
        self._single: dict[str, Row | None] = {}
        # Digests of files that were hashed for this build, by directory and name.
        self.contents: dict[str, dict[str, bytes]] = {}
        self.digests: dict[str, bytes] = {}  # of whole directories, likewise

    def hold(self, fd: int) -> None:
        """Take an open directory for the root."""
        self._fd = fd

    def close(self) -> None:
        """Close the root."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def record(self, fd: int) -> Recorded | None:
        """Who owns an open file or directory, where that is not 0:0, and what device it is."""
        return None

    def link_owner(self, path: str) -> tuple[int, int]:
        """Who owns a link, a FIFO or a socket."""
        return 0, 0

    def refused_xattrs(self) -> tuple[str, ...]:
        """Beginnings of the names of extended attributes that stay behind."""
        return "user.overlay.", "user.containers.", "system."

    def open_dir(self, path: str) -> int:
        """A descriptor of the directory at ``path``, no link followed on the way."""
        with self._lock:
            if self._fd < 0:
                self._fd = os.open(self._where(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return open_directory(self._fd, path)

    def _where(self) -> str:
        return self.root

    def listing(self, path: str) -> Sequence[Row]:
        """What is in the directory ``path``, by name, without what the rules leave out."""
        rows = self._listings.get(path)
        if rows is None:
            with self.reading(path):
                rows = self._scan(path)
            self._listings[path] = rows
        return rows

    def _scan(self, path: str) -> list[Row]:
        rows = []
        look, excluded = os.stat, self.rules.excluded if self.rules else None
        fd = self.open_dir(path)
        try:
            for name in os.listdir(fd):
                if excluded is not None and excluded(join(path, name)):
                    row = self._passage(path, name, fd)
                    if row is not None:
                        rows.append(row)
                    continue
                try:
                    st = look(name, dir_fd=fd, follow_symlinks=False)
                except FileNotFoundError:  # removed since it was listed
                    continue
                if st.st_mode & 0o170000 == 0o040000:
                    rows.append((name, st.st_mode, 0, 0, 0, 0, 0, 0))
                else:
                    rows.append(
                        (
                            name,
                            st.st_mode,
                            st.st_size,
                            st.st_mtime_ns,
                            st.st_ctime_ns,
                            st.st_ino,
                            st.st_dev,
                            st.st_nlink,
                        )
                    )
        finally:
            os.close(fd)
        rows.sort()
        return rows

    def _passage(self, path: str, name: str, fd: int) -> Row | None:
        """An excluded directory's row, if the rules bring back something below it."""
        if self.rules is None or not self.rules.may_return(join(path, name)):
            return None
        try:
            st = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        if not stat.S_ISDIR(st.st_mode) or not self.listing(join(path, name)):
            return None
        return make_row(name, st)

    def everything(self, path: str) -> list[str]:
        """The names in a directory, also those that the rules leave out; for hints."""
        with self.reading(path):
            fd = self.open_dir(path)
            try:
                return sorted(os.listdir(fd))
            finally:
                os.close(fd)

    def hidden(self, path: str) -> bool:
        """Whether something lies at ``path`` that the rules leave out; for hints."""
        directory, _, name = path.rpartition("/")
        try:
            return name in self.everything(directory) and self.row(path) is None
        except BuildError:
            return False

    def row(self, path: str) -> Row | None:
        """The entry at ``path`` itself, links not followed; None when there is none."""
        directory, _, name = path.rpartition("/")
        if directory in self._listings:
            named = self._named.get(directory)
            if named is None:
                named = {row[NAME]: row for row in self._listings[directory]}
                self._named[directory] = named
            return named.get(name)
        if path not in self._single:
            with self.reading(path):
                self._single[path] = self._look(directory, name, path)
        return self._single[path]

    def _look(self, directory: str, name: str, path: str) -> Row | None:
        try:
            fd = self.open_dir(directory)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            if self.rules is not None and self.rules.excluded(path):
                return self._passage(directory, name, fd)
            return make_row(name, os.stat(name or ".", dir_fd=fd, follow_symlinks=False))
        except (FileNotFoundError, NotADirectoryError):
            return None
        finally:
            os.close(fd)

    def readlink(self, path: str) -> str:
        """Where the link at ``path`` points, as it is written."""
        directory, _, name = path.rpartition("/")
        with self.reading(path):
            fd = self.open_dir(directory)
            try:
                return os.readlink(name, dir_fd=fd)
            finally:
                os.close(fd)

    def resolve(self, path: str) -> str | None:
        """The path of what ``path`` means with all links followed inside the root, or None."""
        todo = clean(path).split("/")[::-1]
        found, links = "", 0
        while todo:
            name = todo.pop()
            if name in ("", "."):
                continue
            if name == "..":
                found = found.rpartition("/")[0]
                continue
            at = join(found, name)
            row = self.row(at)
            if row is None:
                return None
            if stat.S_ISLNK(row[MODE]):
                links += 1
                if links > _MAX_LINKS:
                    raise BuildError(f"{self.name_of(path)}: too many links lead to each other")
                target = self.readlink(at)
                found = "" if target.startswith("/") else found
                todo += target.split("/")[::-1]
                continue
            if todo and not stat.S_ISDIR(row[MODE]) and any(part != "." for part in todo):
                return None
            found = at
        return found

    def is_dir(self, path: str) -> bool:
        """Whether a directory lies at ``path``, links not followed."""
        if not path:
            return True
        row = self.row(path)
        return row is not None and stat.S_ISDIR(row[MODE])

    def name_of(self, path: str) -> str:
        """``path`` as messages show it."""
        return printable(path) or "/"

    @contextmanager
    def reading(self, path: str) -> Iterator[None]:
        """Turn what the kernel says into a BuildError that names the file."""
        try:
            yield
        except OSError as error:
            raise self.fault(path, error) from None

    def fault(self, path: str, error: OSError) -> BuildError:
        """The error for a file that could not be read."""
        hint = ""
        if isinstance(error, PermissionError):
            hint = "leave it out with a .dockerignore line, or make it readable"
        return BuildError(
            f"cannot read {self.name_of(path)} in {self.what}: {error.strerror}", hint=hint
        )


class ImageSource(Source):
    """The merged tree of another stage or image; who owns what counts.

    ``owners`` holds the owners of links, FIFOs and sockets by path. ``identity`` names the
    contents (the chain of layers), so that digests of what is copied from it can be remembered.
    Root and owners may be functions, which are called when the files are looked at: whoever
    finds all digests remembered needs no mount.
    """

    what = "the image copied from"

    def __init__(
        self,
        root: str | Callable[[], str],
        owners: Owners | Callable[[], Owners],
        identity: str = "",
    ) -> None:
        super().__init__(root if isinstance(root, str) else "")
        self._root = root
        self._given_owners = owners
        self._owners: Owners | None = None
        self.identity = identity

    def _where(self) -> str:
        if not self.root and not isinstance(self._root, str):
            self.root = self._root()
        return self.root

    def refused_xattrs(self) -> tuple[str, ...]:
        """See `Source`. Access control lists are part of an image, those of the host are not."""
        return "user.overlay.", "user.containers."

    def record(self, fd: int) -> Recorded | None:
        """See `Source`."""
        from ch_image.fs import owners

        return owners.read(fd)

    def link_owner(self, path: str) -> tuple[int, int]:
        """See `Source`."""
        if self._owners is None:
            given = self._given_owners
            self._owners = given() if callable(given) else given
        return self._owners.get(path, (0, 0))


def open_directory(root: int, path: str) -> int:
    """A descriptor of the directory at ``path`` under ``root``; no link is followed."""
    names = path.split("/") if path else []
    fd = os.open(".", DIRECTORY, dir_fd=root)
    while len(names) > _DEEP:
        # The kernel walks many at once; but a path has 4095 bytes at most, a name 255.
        try:
            below = openat2(
                fd,
                "/".join(names[:_DEEP]),
                DIRECTORY,
                resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS,
            )
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EPERM):  # before Linux 5.6, or a filter
                os.close(fd)
                raise
            break
        os.close(fd)
        fd, names = below, names[_DEEP:]
    for name in names:
        try:
            below = os.open(name, DIRECTORY, dir_fd=fd)
        finally:
            os.close(fd)
        fd = below
    return fd


def near(path: str, source: Source, rows: Sequence[Row] | None = None) -> str:
    """A path that exists and that ``path`` may have meant; empty when there is none."""
    import difflib

    found = ""
    names = clean(path).split("/")
    for i, name in enumerate(names):
        at = source.resolve(join(found, name))
        if at is not None:
            found = at
            continue
        if not source.is_dir(found):
            return ""
        have = [row[NAME] for row in source.listing(found)]
        close = difflib.get_close_matches(name, have, 1)
        if not close:
            return ""
        return "/".join([*([found] if found else []), close[0], *names[i + 1 :]])
    return ""
