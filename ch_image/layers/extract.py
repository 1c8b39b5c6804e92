"""Unpacks a layer's archive, or any other tar archive, into a tree.

Nothing outside the tree is created, changed or deleted, whatever the archive says: each place is
reached from descriptors (see `ch_image.layers.places`), a member that exists is unlinked and made
anew, and no node but those made here is ever opened. Modes are exact and independent of the
umask, times are kept to the nanosecond; directories get both when all is in place.

Owners other than 0:0 and device numbers are recorded (`ch_image.fs.owners`); those of nodes that
cannot carry a record are returned. An archive cannot steer us: attributes in which overlayfs and
we keep our own notes are dropped, and a 0:0 device is a recorded device like any other.

Whiteouts (OCI image layout, "layer.md") become overlayfs's. They hide what lower layers have and
nothing of the same layer, whatever the order of members. Names that begin with ``.wh.`` and are
none are refused, aufs's own bookkeeping is skipped.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence

from ch_image.errors import ImageError
from ch_image.fs import owners, whiteouts
from ch_image.fs.copy import copy_node, set_mode
from ch_image.fs.remove import remove_at
from ch_image.fs.tree import fsbytes, fstext
from ch_image.layers import lower as lower_layers
from ch_image.layers import tar_read as tar
from ch_image.layers.capability import as_version_2
from ch_image.layers.compress import Readable
from ch_image.layers.hiding import Hiding
from ch_image.layers.places import DirectoryState, Hidden, Places, clean, fault, shown
from ch_image.typed import Final, NamedTuple

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOREIGN: Final = ("user.overlay.", "user.containers.")
_ACL: Final = "system.posix_acl_"
_XATTR_REFUSED: Final = (errno.EOPNOTSUPP, errno.EPERM, errno.EINVAL, errno.EACCES)
_UNSAID: Final = DirectoryState(0o755, 0, {})
_MAX_NUMBER: Final = 0xFFFF_FFFF  # of a device


class Extracted(NamedTuple):
    """What came of unpacking."""

    owners: dict[str, tuple[int, int]]  # of links, FIFOs: path without leading slash -> (uid, gid)
    used_lower: bool  # the result depends on what the lower trees are
    files: int  # members unpacked
    bytes: int  # file data stored, holes not counted
    flattened: bool  # owners or devices could not be recorded: no user attributes here
    lost: tuple[str, ...]  # names of extended attributes that the filesystem refused


def extract(stream: Readable, tree_dir: str, *, lower: Sequence[str] = ()) -> Extracted:
    """Unpack a layer's uncompressed archive into the empty directory ``tree_dir``.

    ``lower`` are the trees of the layers below, topmost first: hard links to what only they have
    become copies, and directories the archive takes for granted look as they do there (0755 and
    root's otherwise). ImageError: the archive is refused. StorageError: the disk is full or
    failing. The stream is read to its end, so that a digest over it is whole.
    """
    work = _Unpacking(stream, tree_dir, lower)
    try:
        work.begin_layer()
        return work.run()
    finally:
        work.places.close()


def extract_archive(
    stream: Readable,
    tree_dir: str,
    *,
    inside: str = "",
    owner: tuple[int, int] | None = None,
    own_root: bool = False,
) -> Extracted:
    """Unpack a plain uncompressed archive into the directory ``inside`` of an image's tree.

    Whiteouts mean nothing here. What exists is replaced, except that directories stay
    directories. ``owner`` is for all members instead of their own. ``own_root``: the archive's
    entry for ``.`` applies to the directory itself (for an import; ADD leaves it as it is).
    Raises like `extract`.
    """
    work = _Unpacking(stream, tree_dir, ())
    work.owner, work.own_root = owner, own_root
    try:
        _, work.prefix = work.places.parent(clean(fsbytes(inside)))
        return work.run()
    finally:
        work.places.close()


class _Unpacking:
    """One archive on its way into a tree."""

    def __init__(self, stream: Readable, tree_dir: str, lower: Sequence[str]) -> None:
        self._reader = tar.TarReader(stream)
        self.places = Places(tree_dir, lower)
        self.hiding: Hiding | None = None
        self.prefix = b""  # real path of the directory that is the archive's root
        self.owner: tuple[int, int] | None = None
        self.own_root = True
        self._owners: dict[str, tuple[int, int]] = {}
        self._flattened = False
        self._lost: set[str] = set()
        self._files = self._bytes = 0
        self._make: dict[bytes, Callable[[tar.Member, bytes], None]] = {
            tar.REGULAR: self._regular,
            tar.DIRECTORY: self._directory,
            tar.SYMLINK: self._symlink,
            tar.HARD_LINK: self._hard_link,
            tar.CHAR: self._device,
            tar.BLOCK_DEVICE: self._device,
            tar.FIFO: self._fifo,
        }

    def begin_layer(self) -> None:
        """Give whiteouts their meaning, and the root what it has if the archive does not say."""
        places = self.places
        self.hiding = Hiding(places)
        places.set_state(b"", _UNSAID)

    def _inherit_root(self) -> None:
        """Let the root look as below, for the archive says nothing of it.

        At the end, for asking for the trees below may mean to wait for them.
        """
        places = self.places
        if self.hiding is None or places.states[b""] is not _UNSAID:
            return
        for tree in places.lower[:1]:
            fd = os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                state = os.fstat(fd)
                places.inherit(b"", fd, stat.S_IMODE(state.st_mode), state.st_mtime_ns)
            finally:
                os.close(fd)

    def run(self) -> Extracted:
        """Unpack everything."""
        name = b""
        try:
            for member in self._reader:
                name = member.name
                self._member(member)
                self._files += 1
            name = b""
            if self.hiding:
                self.hiding.finish()
            self._inherit_root()
            self.places.finish(self._set_xattr)
        except OSError as error:
            raise fault(error, name) from error
        return Extracted(
            self._owners,
            self.places.used_lower,
            self._files,
            self._bytes,
            self._flattened,
            tuple(sorted(self._lost)),
        )

    def _member(self, member: tar.Member) -> None:
        path = clean(member.name)
        if self.hiding and b".wh." in path and self.hiding.take(path):
            return
        if self.prefix:
            path = self.prefix + b"/" + path if path else self.prefix
        if self.owner is not None:
            member = member._replace(uid=self.owner[0], gid=self.owner[1])
        if path == self.prefix:
            self._root(member)
        else:
            self._make[member.kind](member, path)

    # -- kinds of members --

    def _regular(self, member: tar.Member, path: bytes) -> None:
        directory, _, name = path.rpartition(b"/")
        dir_fd = self.places.known(directory)
        if dir_fd is None:
            dir_fd, directory = self.places.parent(directory)
        try:
            fd = os.open(name, _CREATE, 0o600, dir_fd=dir_fd)
        except FileExistsError:
            dir_fd = self._clear(directory, name)
            fd = os.open(name, _CREATE, 0o600, dir_fd=dir_fd)
        try:
            if member.size:
                self._bytes += self._reader.copy_data(fd)
            # Attributes before the mode: writing them takes permission to write. Both after the
            # data: writing those takes capabilities and set-ID bits away.
            if member.xattrs is not None:
                self._xattrs(fd, member.xattrs)
            if member.uid or member.gid:
                self._record(fd, member, "file")
            os.fchmod(fd, member.mode)
            os.utime(fd, ns=(member.mtime, member.mtime))
        finally:
            os.close(fd)

    def _device(self, member: tar.Member, path: bytes) -> None:
        if not (0 <= member.major <= _MAX_NUMBER and 0 <= member.minor <= _MAX_NUMBER):
            raise ImageError(f"device {shown(member.name)} has numbers that cannot be")
        directory, _, name = path.rpartition(b"/")
        dir_fd, directory = self.places.parent(directory)
        dir_fd = self._free(dir_fd, directory, name)
        fd = os.open(name, _CREATE, 0o600, dir_fd=dir_fd)
        try:
            self._record(fd, member, "char" if member.kind == tar.CHAR else "block")
            os.fchmod(fd, member.mode)
            os.utime(fd, ns=(member.mtime, member.mtime))
        finally:
            os.close(fd)

    def _directory(self, member: tar.Member, path: bytes) -> None:
        directory, _, name = path.rpartition(b"/")
        dir_fd, directory = self.places.parent(directory)
        real = directory + b"/" + name if directory else name
        existed = hidden = False
        try:
            os.mkdir(name, 0o700, dir_fd=dir_fd)
        except FileExistsError:
            state = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
            existed = stat.S_ISDIR(state.st_mode)
            if not existed:
                hidden = self.hiding is not None and whiteouts.is_whiteout(state)
                dir_fd = self._clear(directory, name)
                os.mkdir(name, 0o700, dir_fd=dir_fd)
        late: dict[str, bytes] = {}
        if existed or hidden or member.uid or member.gid or member.xattrs:
            fd = self.places.directories.get(real)
            if hidden:
                self.places.make_opaque(real, fd)
            late = self._directory_notes(fd, member, existed)
        self.places.set_state(real, DirectoryState(member.mode, member.mtime, late))

    def _root(self, member: tar.Member) -> None:
        if member.kind != tar.DIRECTORY:
            raise ImageError("the archive has something other than a directory for its root")
        if not self.own_root:
            return
        fd = self.places.directories.get(self.prefix)
        late = self._directory_notes(fd, member, existed=True)
        self.places.set_state(self.prefix, DirectoryState(member.mode, member.mtime, late))

    def _directory_notes(self, fd: int, member: tar.Member, existed: bool) -> dict[str, bytes]:
        """Record owner and attributes; return those that have to wait."""
        if member.uid or member.gid:
            self._record(fd, member, "dir")
        elif existed:
            owners.clear(fd)
        xattrs = member.xattrs or {}
        self._xattrs(fd, {n: v for n, v in xattrs.items() if not n.startswith(_ACL)})
        return {n: v for n, v in xattrs.items() if n.startswith(_ACL)}

    def _symlink(self, member: tar.Member, path: bytes) -> None:
        directory, _, name = path.rpartition(b"/")
        dir_fd, directory = self.places.parent(directory)
        try:
            os.symlink(member.link, name, dir_fd=dir_fd)
        except FileExistsError:
            dir_fd = self._clear(directory, name)
            os.symlink(member.link, name, dir_fd=dir_fd)
        times = (member.mtime, member.mtime)
        os.utime(name, ns=times, dir_fd=dir_fd, follow_symlinks=False)
        self._note_owner(directory, name, (member.uid, member.gid))

    def _fifo(self, member: tar.Member, path: bytes) -> None:
        directory, _, name = path.rpartition(b"/")
        dir_fd, directory = self.places.parent(directory)
        dir_fd = self._free(dir_fd, directory, name)
        os.mkfifo(name, 0o600, dir_fd=dir_fd)
        set_mode(dir_fd, name, member.mode)
        times = (member.mtime, member.mtime)
        os.utime(name, ns=times, dir_fd=dir_fd, follow_symlinks=False)
        self._note_owner(directory, name, (member.uid, member.gid))

    def _hard_link(self, member: tar.Member, path: bytes) -> None:
        target = clean(member.link)
        target = self.prefix + b"/" + target if self.prefix else target
        there, _, old = target.rpartition(b"/")
        here, _, new = path.rpartition(b"/")
        missing = ImageError(
            f"hard link {shown(member.name)}: there is no file {shown(member.link)} to link to"
        )
        try:
            found, there = self.places.find(there)
        except Hidden:
            raise missing from None
        real = there + b"/" + old if there else old
        if found is None or not _linkable(found, old, missing):
            self._copy_from_lower(real, here, new, missing)
            return
        source = os.dup(found)  # finding the other directory may close it
        try:
            dir_fd, here = self.places.parent(here)
            if _same(source, old, dir_fd, new):
                return
            dir_fd = self._free(dir_fd, here, new)
            os.link(old, new, src_dir_fd=source, dst_dir_fd=dir_fd, follow_symlinks=False)
        except FileNotFoundError:  # it was in what had to give way
            raise missing from None
        finally:
            os.close(source)
        self._note_owner(here, new, self._owners.get(fstext(real), (0, 0)))

    def _copy_from_lower(self, real: bytes, here: bytes, new: bytes, missing: ImageError) -> None:
        if not real or self.places.covered(real):
            raise missing
        with lower_layers.finding(self.places.lower, real) as found:
            if found is None or stat.S_ISDIR(found.state.st_mode):
                raise missing
            dir_fd, here = self.places.parent(here)
            dir_fd = self._free(dir_fd, here, new)
            copy_node(found.dir_fd, found.name, dir_fd, new)
        self.places.used_lower = True

    # -- what members have in common --

    def _free(self, dir_fd: int, directory: bytes, name: bytes) -> int:
        """Make sure that nothing is in the way; the descriptor of the directory from now on."""
        try:
            os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        except FileNotFoundError:
            return dir_fd
        return self._clear(directory, name)

    def _clear(self, directory: bytes, name: bytes) -> int:
        """Remove what is in the way; the descriptor of the directory from now on."""
        dir_fd = self.places.directories.get(directory)
        state = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        remove_at(dir_fd, name)
        if self._owners:
            self._owners.pop(fstext(directory + b"/" + name if directory else name), None)
        if stat.S_ISDIR(state.st_mode) or stat.S_ISLNK(state.st_mode):
            self.places.changed()
        return self.places.directories.get(directory)

    def _note_owner(self, directory: bytes, name: bytes, owner: tuple[int, int]) -> None:
        if owner == (0, 0):
            return
        path = directory + b"/" + name if directory else name
        self.places.remember(len(path))
        self._owners[fstext(path)] = owner

    def _record(self, fd: int, member: tar.Member, kind: str) -> None:
        if self._flattened:
            return
        record = owners.Recorded(
            member.uid, member.gid, member.mode, kind, member.major, member.minor
        )
        try:
            owners.write(fd, record)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EPERM):
                raise
            self._flattened = True

    def _xattrs(self, fd: int, xattrs: dict[str, bytes]) -> None:
        for name, value in xattrs.items():
            self._set_xattr(fd, name, value)

    def _set_xattr(self, fd: int, name: str, value: bytes) -> None:
        """Set an attribute of those that an image may have; others are its machine's own."""
        if name == "security.capability":
            value = as_version_2(value)
        elif name.startswith(_FOREIGN) or not name.startswith(("user.", _ACL)):
            return
        try:
            os.setxattr(fd, fsbytes(name), value)
        except OSError as error:
            if error.errno not in _XATTR_REFUSED:
                raise
            self._lost.add(name)


def _linkable(dir_fd: int, name: bytes, missing: ImageError) -> bool:
    """Whether a node that can have another name is there; ImageError when it cannot have one."""
    try:
        state = os.stat(name or b".", dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(state.st_mode) or whiteouts.is_whiteout(state):
        raise missing
    return True


def _same(dir_fd: int, name: bytes, other_dir_fd: int, other: bytes) -> bool:
    try:
        there = os.stat(other, dir_fd=other_dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.stat(name, dir_fd=dir_fd, follow_symlinks=False), there)
