"""ADD: what COPY does, and archives unpacked, URLs and git repositories fetched.

A local file that is a tar archive by its contents, compressed or not, is unpacked into the
destination, which is then a directory; ``--unpack`` decides otherwise, for URLs too. Owners in
an archive are kept unless ``--chown`` says another; ``--chmod`` does not reach into archives.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from ch_image.build.copy import Copying, CopyResult, destination, policy_of
from ch_image.build.copyspec import CopySpec
from ch_image.build.digest import check_unchanged, digest
from ch_image.build.remote import Checkout, Download, Remotes, is_remote
from ch_image.build.rows import MODE, NAME
from ch_image.build.select import Lacking, Match, Selection, lack, select
from ch_image.build.source import Source
from ch_image.build.target import Target
from ch_image.errors import BuildError, ImageError, printable
from ch_image.model.sha256 import sha256
from ch_image.typed import NamedTuple


class AddSpec(NamedTuple):
    """What an ADD says, expanded; ``unpack`` None: local archives, not those of URLs."""

    copy: CopySpec
    checksum: str = ""
    keep_git_dir: bool | None = None
    unpack: bool | None = None


class Chosen(NamedTuple):
    """What one source means: files of the context, or (None) something remote."""

    source: str
    selection: Selection | None


def choose(
    spec: AddSpec, source: Source | None, lacking: Lacking | None = None
) -> tuple[Chosen, ...]:
    """What the sources mean, in order. Raises BuildError. ``source`` None: there is no context.

    ``lacking`` is as for `ch_image.build.copyspec.choose`.
    """
    _check(spec)
    out = []
    for name in spec.copy.sources:
        if is_remote(name):
            out.append(Chosen(name, None))
        elif source is None:
            raise BuildError(
                f'ADD of "{printable(name)}": this build has no context',
                hint="give a directory instead of '-', or ADD from a URL",
            )
        else:
            out.append(Chosen(name, select(source, [name], exclude=spec.copy.exclude)))
    found = [c.selection for c in out if c.selection is not None]
    all_local = len(found) == len(out) and not spec.copy.documents
    if source is not None and lacking is not None and all_local:
        matches = tuple(m for selection in found for m in selection.matches)
        unmatched = tuple(name for selection in found for name in selection.unmatched)
        lack(source, Selection(matches, spec.copy.exclude, unmatched), lacking)
    return tuple(out)


def _check(spec: AddSpec) -> None:
    if not spec.checksum:
        return
    if len(spec.copy.sources) != 1:
        raise BuildError("--checksum is for one source", hint="write one ADD for each")
    if not is_remote(spec.copy.sources[0]):
        raise BuildError("--checksum is for a URL or a git repository")


def identity(chosen: Sequence[Chosen], source: Source | None, remotes: Remotes) -> str:
    """One digest (64 hexadecimal digits) over all that the sources hold. Raises BuildError."""
    out = sha256(b"ch-image add 1\n")
    for name, selection in chosen:
        if selection is None or source is None:
            out.update(f"R{remotes.identity(name)}\0".encode("utf-8", "surrogatepass"))
        else:
            out.update(f"L{digest(source, selection)}\0".encode())
    return out.hexdigest()


def add(
    spec: AddSpec,
    source: Source | None,
    draft_root: str,
    chosen: Sequence[Chosen],
    remotes: Remotes,
    *,
    workdir: str = "/",
    now: int = 0,
) -> CopyResult:
    """Carry out an ADD in the tree at ``draft_root``; ``now`` as in `ch_image.build.copy.copy`.

    Raises BuildError, and ImageError for an archive that is refused.
    """
    copy = spec.copy
    with Target(draft_root, replace=copy.link and not copy.chmod) as target:
        policy = policy_of(copy, target)
        work = Copying(target, policy, destination(workdir, copy.destination))
        adding = _Adding(spec, work, draft_root)
        for name, selection in chosen:
            if selection is None:
                adding.remote(name, remotes)
            elif source is not None:
                adding.local(source, selection)
        for document in copy.documents:
            work.document(document, now)
        result = work.result()
        return CopyResult(
            {**result.owners, **adding.owners},
            result.files + adding.files,
            result.bytes + adding.bytes,
            result.unrecorded + adding.unrecorded,
        )


class _Adding:
    """One ADD at work; plain files go through ``work``."""

    def __init__(self, spec: AddSpec, work: Copying, root: str) -> None:
        self._spec = spec
        self._work = work
        self._root = root
        self.owners: dict[str, tuple[int, int]] = {}
        self.files = self.bytes = self.unrecorded = 0

    def local(self, source: Source, selection: Selection) -> None:
        """Files of the context: archives are unpacked, the rest is copied, in order."""
        plain: list[Match] = []
        for match in selection.matches:
            fd = self._open_archive(source, match)
            if fd is None:
                plain.append(match)
                continue
            try:
                self._work.selection(selection._replace(matches=tuple(plain)), source)
                plain.clear()
                self._unpack(fd)
                row = source.row(match.path)
                if row is not None:
                    check_unchanged(source, os.fstat(fd), row, match.path.rpartition("/")[0])
            finally:
                os.close(fd)
        self._work.selection(selection._replace(matches=tuple(plain)), source)

    def _open_archive(self, source: Source, match: Match) -> int | None:
        """A descriptor of the file if it is one to unpack."""
        row = source.row(match.path)
        if self._spec.unpack is False or row is None or not stat.S_ISREG(row[MODE]):
            return None
        with source.reading(match.path):
            above = source.open_dir(match.path.rpartition("/")[0])
            try:
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                fd = os.open(row[NAME], flags, dir_fd=above)
            finally:
                os.close(above)
        if is_archive(fd):
            return fd
        os.close(fd)
        return None

    def _unpack(self, fd: int) -> None:
        from ch_image.layers.compress import open_reader
        from ch_image.layers.extract import extract_archive

        base = self._work.base(0o755)  # --chmod is not for archives
        kind = self._work.target.kind(base)
        if kind not in (None, stat.S_IFDIR):
            raise BuildError(
                f"cannot unpack into /{printable(base)}, which is a file",
                hint="archives are unpacked into a directory; --unpack=false copies them",
            )
        self._work.mkdirs(base, 0o755)
        with os.fdopen(os.dup(fd), "rb") as file:
            file.seek(0)
            with open_reader(file) as stream:
                done = extract_archive(
                    stream, self._root, inside=base, owner=self._work.policy.owner
                )
        self.owners.update(done.owners)
        self.files += done.files
        self.bytes += done.bytes
        self.unrecorded += done.flattened

    def remote(self, name: str, remotes: Remotes) -> None:
        """A URL or a repository."""
        fetched = remotes.get(name)
        if isinstance(fetched, Download):
            self._download(name, fetched)
        else:
            self._checkout(name, fetched)

    def _download(self, url: str, download: Download) -> None:
        fd = os.open(download.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if self._spec.unpack and is_archive(fd):
                self._unpack(fd)
                return
        finally:
            os.close(fd)
        if not download.name and self._work.destination.endswith("/"):
            raise BuildError(
                f"{printable(url)} ends in no file name, and the destination is a directory",
                hint="name the file in the destination",
            )
        directory, name = os.path.split(download.path)
        os.chmod(download.path, 0o600)
        os.utime(download.path, ns=(download.mtime, download.mtime))
        match = Match(name, download.name or "__unnamed__", False)
        self._through(directory, match)

    def _checkout(self, name: str, checkout: Checkout) -> None:
        source = Source(checkout.path)
        source.what = "the repository"
        at = source.resolve(checkout.subdir)
        source.close()
        if at is None:
            raise BuildError(
                f'no directory "{printable(checkout.subdir)}" in {printable(name)}',
                hint="the part behind the colon is a directory of the repository",
            )
        self._through(checkout.path, Match(at, os.path.basename(at), True))

    def _through(self, root: str, match: Match) -> None:
        """Copy something fetched, by the rules of the instruction."""
        source = Source(root)
        source.what = "what was fetched"
        try:
            self._work.selection(Selection((match,), self._spec.copy.exclude), source)
        finally:
            source.close()


def is_archive(fd: int) -> bool:
    """Whether an open file begins as a tar archive does, compressed or not, with one member."""
    from ch_image.layers.compress import compression_of, open_reader
    from ch_image.layers.tar_read import TarReader

    head = os.pread(fd, 512, 0)
    if not compression_of(head) and len(head) < 512:
        return False
    with os.fdopen(os.dup(fd), "rb") as file:
        file.seek(0)
        try:
            if not compression_of(head):
                return next(iter(TarReader(file)), None) is not None
            with open_reader(file) as stream:
                return next(iter(TarReader(stream)), None) is not None
        except ImageError:
            return False
