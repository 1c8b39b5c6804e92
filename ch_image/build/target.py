"""The tree that COPY and ADD write to: its directories, and what must give way.

With ``replace`` (``--link``) the tree is written as if it were empty: what it holds already is
neither followed nor merged with, except that a directory stays a directory.

Directories that are made here are filled where an overlay keeps what is new (``upper``), if that
is told: every file made through the overlay costs the kernel twice as much. Paths are resolved,
and looked at, in the merged tree only; nothing below a new directory is ever asked for there.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from ch_image.build.source import DIRECTORY, join, open_directory
from ch_image.errors import BuildError, printable
from ch_image.fs import owners
from ch_image.fs.remove import remove_tree
from ch_image.fs.tree import MAX_LINKS, Tree

_ROOT = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
OnCreate = Callable[[int, str], None]


def write_fault(path: str, error: OSError) -> BuildError:
    """The error for a destination that could not be written."""
    return BuildError(f"cannot write /{printable(path)} in the image: {error.strerror}")


class Target:
    """The merged tree at ``root``. Paths are relative to it, without a leading slash.

    ``upper``: see `ch_image.storage.snapshots.base.Draft`; empty: everything goes through ``root``.
    """

    def __init__(self, root: str, replace: bool = False, upper: str = "") -> None:
        self.tree = Tree(root)
        self.replace = replace
        self._fd = os.open(root, _ROOT)
        self._upper = os.open(upper, _ROOT) if upper else self._fd
        self._made: set[str] = {""}
        self.new: set[str] = set()  # directories that were made here

    def __enter__(self) -> Target:
        return self

    def __exit__(self, *_: object) -> None:
        if self._upper != self._fd:
            os.close(self._upper)
        os.close(self._fd)
        self.tree.close()

    @property
    def fds(self) -> tuple[int, int]:
        """Descriptors of the merged tree and of what is new in it."""
        return self._fd, self._upper

    def open_dir(self, path: str) -> int:
        """A descriptor of a directory, by a path that holds no links."""
        return open_directory(self._upper if path in self.new else self._fd, path)

    def open_for_link(self, path: str, to: str) -> int:
        """The directory of a file that gets another name in the directory ``to``.

        The kernel links only inside one mount; what was copied before is seen in either.
        """
        return open_directory(self._upper if to in self.new else self._fd, path)

    def kind(self, path: str) -> int | None:
        """The type (S_IFMT) of what is at ``path``, None when there is nothing that counts."""
        if self.replace and path not in self._made:
            return None
        try:
            return stat.S_IFMT(self.tree.lstat(path).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def follow(self, path: str, mkdirs: Callable[[str], None]) -> str:
        """``path`` with its links followed; ``mkdirs`` makes what a dangling link lacks."""
        if self.replace:
            return path
        for _ in range(MAX_LINKS):
            parent, _, name = path.rpartition("/")
            try:
                directory = self.tree.resolve(parent)
                path = join(directory, name)
                if self.kind(path) != stat.S_IFLNK:
                    return path
                link = self.tree.readlink(path)
            except OSError as error:
                raise write_fault(path, error) from None
            text = link if link.startswith("/") else f"{directory}/{link}"
            path = self._beyond(text.strip("/"), mkdirs)
        raise BuildError(f"too many links lead to /{printable(path)} in the image")

    def _beyond(self, path: str, mkdirs: Callable[[str], None]) -> str:
        """The target of a link, its parents made; ``..`` is resolved after links."""
        parent, _, name = path.rpartition("/")
        if name in (".", "..", ""):
            return self.tree.resolve(path)
        if parent:
            mkdirs(parent)
        return join(self.tree.resolve(parent), name)

    def mkdirs(self, path: str, mode: int, on_create: OnCreate) -> None:
        """Make a directory and its missing parents, all with exactly ``mode``."""
        try:
            if self.replace:
                self._mkdirs_afresh(path, mode, on_create)
            else:
                self.tree.mkdirs(path, mode, self._noting(on_create))
        except NotADirectoryError:
            raise BuildError(
                f"/{printable(path)} cannot be made in the image: there is a file on the way",
                hint="choose another destination, or remove the file first",
            ) from None
        except OSError as error:
            raise write_fault(path, error) from None

    def _noting(self, on_create: OnCreate) -> OnCreate:
        def created(fd: int, path: str) -> None:
            self.new.add(path)
            on_create(fd, path)

        return created

    def _mkdirs_afresh(self, path: str, mode: int, on_create: OnCreate) -> None:
        at = ""
        for name in path.split("/") if path else ():
            parent, at = at, join(at, name)
            if at in self._made:
                continue
            above = self.open_dir(parent)
            try:
                self.enter(above, name, at)
                fd = os.open(name, DIRECTORY, dir_fd=above)
            finally:
                os.close(above)
            try:
                owners.clear(fd)
                os.fchmod(fd, mode)
                on_create(fd, at)
            finally:
                os.close(fd)

    def enter(self, fd: int, name: str, path: str) -> bool:
        """See that ``name`` in the directory ``fd`` is a directory; whether it is a new one."""
        try:
            state = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            state = None
        if state is not None and not stat.S_ISDIR(state.st_mode):
            if not self.replace or path in self._made:
                raise BuildError(
                    f"cannot copy a directory onto /{printable(path)}, which is "
                    + ("a link" if stat.S_ISLNK(state.st_mode) else "a file"),
                    hint="remove it first, or choose another destination",
                )
            os.unlink(name, dir_fd=fd)
            state = None
        if self.replace:
            self._made.add(path)
        if state is None:
            os.mkdir(name, 0o700, dir_fd=fd)
            self.new.add(path)
        return state is None

    def make_room(self, fd: int, name: str, path: str) -> None:
        """Remove what stands where a file goes to ``name`` in the directory ``fd``."""
        try:
            state = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            state = None
        if state is not None and stat.S_ISDIR(state.st_mode):
            if not self.replace or path in self._made:
                raise BuildError(
                    f"cannot copy a file onto /{printable(path)}, which is a directory",
                    hint="end the destination in a slash to copy into it, or remove it first",
                )
            remove_tree(f"/proc/self/fd/{fd}/{name}")
        elif state is not None:
            os.unlink(name, dir_fd=fd)
        if self.replace:
            self._made.add(path)

    def names(self, fd: int) -> set[str]:
        """What an open directory holds already."""
        return set(os.listdir(fd))
