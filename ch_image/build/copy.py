"""COPY: files of a source into the tree that is being built, as BuildKit places them.

A destination that ends in a slash is a directory; so is one that is a directory already, if the
source is a file. Of a directory its contents are copied. What is missing on the way is made,
0755 and with the owner of ``--chown``. Links in the destination are followed inside the image.
A file replaces a file or link; a directory and a file never replace one another, but with
``--link``, which acts as if the image were empty: nothing in it is followed or kept in the way.

Everything happens below the root of the draft by descriptors; nothing here knows how a draft
becomes a layer, or where in a Dockerfile the instruction stands.
"""

from __future__ import annotations

import os
import posixpath
import stat
import time

from ch_image.build import lookup
from ch_image.build.chmod import parse_mode
from ch_image.build.copyspec import CopySpec, Document, choose
from ch_image.build.place import Placer, Policy
from ch_image.build.select import Match, Selection
from ch_image.build.source import Source, clean, join
from ch_image.build.target import Target, write_fault
from ch_image.build.transfer import Transfer
from ch_image.errors import BuildError, printable
from ch_image.fs.owners import Recorded
from ch_image.typed import NamedTuple

_NOWHERE = Source("")  # where heredocs and made directories come from


class CopyResult(NamedTuple):
    """What was done. ``owners`` are those of links and FIFOs, by path without a leading slash."""

    owners: dict[str, tuple[int, int]]
    files: int
    bytes: int
    unrecorded: int = 0  # owners that the file system could not keep


def destination(workdir: str, text: str) -> str:
    """Where ``text`` leads from ``workdir``: absolute, without dots, its last slash kept."""
    if text in ("", "."):
        text = "./"
    path = "/" + clean(text if text.startswith("/") else f"{workdir}/{text}")
    directory = text.endswith(("/", "/.")) and path != "/"
    return path + "/" if directory else path


def policy_of(spec: CopySpec, target: Target) -> Policy:
    """Owner and mode that ``--chown`` and ``--chmod`` give. Raises BuildError."""
    owner = lookup.owner(target.tree, spec.chown) if spec.chown else None
    return Policy(owner, parse_mode(spec.chmod) if spec.chmod else None)


def copy(
    spec: CopySpec,
    source: Source | None,
    draft_root: str,
    *,
    upper: str = "",
    workdir: str = "/",
    selection: Selection | None = None,
    now: int | None = None,
) -> CopyResult:
    """Carry out a COPY in the tree at ``draft_root`` (a path of the host).

    ``upper`` is the draft's, if nobody looks at what was copied before it is a layer.

    ``selection`` is what `choose` gave, if it was called before. ``now`` (nanoseconds) is the
    time of heredoc files. Raises BuildError.
    """
    with Target(draft_root, spec.link and not spec.chmod, upper) as target:
        policy = policy_of(spec, target)
        work = Copying(target, policy, destination(workdir, spec.destination))
        if source is not None:
            chosen = choose(spec, source) if selection is None else selection
            work.selection(chosen, source)
            if spec.parents and not chosen.matches:
                work.mkdirs(work.base())  # as BuildKit leaves it
        for document in spec.documents:
            work.document(document, time.time_ns() if now is None else now)
        return work.result()


class Copying:
    """One instruction at work on one destination."""

    def __init__(self, target: Target, policy: Policy, destination: str) -> None:
        self.target = target
        self.policy = policy
        self.destination = destination
        self.placers: list[Placer] = []
        self.owners: dict[str, tuple[int, int]] = {}
        octal = policy.mode.octal if policy.mode else -1
        self._new_dirs = octal & 0o777 if octal >= 0 else 0o755
        self._base: str | None = None
        self._is_dir = False

    def result(self) -> CopyResult:
        """What was done so far."""
        owners = dict(self.owners)
        for placer in self.placers:
            owners.update(placer.owners)
        return CopyResult(
            owners,
            sum(placer.files for placer in self.placers),
            sum(placer.bytes for placer in self.placers),
            sum(placer.unrecorded for placer in self.placers),
        )

    def base(self, mode: int = -1) -> str:
        """The destination with links followed and its parents made; it may not exist itself."""
        if self._base is None:
            text = self.destination
            parent = text if text.endswith("/") else posixpath.dirname(text)
            self.mkdirs(parent.strip("/"), mode)
            self._base = self.target.follow(text.strip("/"), lambda path: self.mkdirs(path, mode))
        return self._base

    def mkdirs(self, path: str, mode: int = -1) -> None:
        """Make a directory of the image and what is missing above it.

        Without ``mode`` they are 755, or what an octal ``--chmod`` says.
        """
        bits = self._new_dirs if mode < 0 else mode
        placer = self._placer(_NOWHERE)
        uid, gid = self.policy.owner or (0, 0)

        def own(fd: int, made: str) -> None:
            placer.record(fd, Recorded(uid, gid, bits, "dir"))

        self.target.mkdirs(path, bits, own)

    def selection(self, selection: Selection, source: Source) -> None:
        """Copy what was selected in ``source``, in order."""
        files: list[tuple[Match, str]] = []
        for match in selection.matches:
            if match.is_dir:
                self._flush(files, source)
                place = self.place(match.name, True)
                self._transfer(source).directory(match, place, selection.exclude)
            else:
                files.append((match, self.place(match.name, False)))
        self._flush(files, source)

    def _flush(self, files: list[tuple[Match, str]], source: Source) -> None:
        # Two sources of one name and one destination: the last one stays.
        last = {place: match for match, place in files}
        if last:
            self._transfer(source).files([(match, place) for place, match in last.items()])
        files.clear()

    def place(self, name: str, is_dir: bool) -> str:
        """Where a source of this name goes; directories on the way are made."""
        base = self.base()
        # Nothing that a COPY does turns a directory into something else.
        there = stat.S_IFDIR if self._is_dir else self.target.kind(base)
        self._is_dir = there == stat.S_IFDIR
        if not is_dir:
            if there == stat.S_IFDIR:
                return join(base, name)
            self.mkdirs(base.rpartition("/")[0])
        elif there is None:
            self.mkdirs(base)
        elif there != stat.S_IFDIR:
            raise BuildError(
                f"cannot copy a directory onto /{printable(base)}, which is a file",
                hint="remove it first, or choose another destination",
            )
        return base

    def document(self, document: Document, now: int) -> None:
        """Write a heredoc."""
        name = posixpath.basename(document.name)
        place = self.place(name, False)
        directory, _, last = place.rpartition("/")
        uid, gid = self.policy.owner or (0, 0)
        record = Recorded(uid, gid, self.policy.bits(stat.S_IFREG | 0o644), "file")
        placer = self._placer(_NOWHERE)
        try:
            fd = self.target.open_dir(directory)
            try:
                self.target.make_room(fd, last, place)
                placer.data(document.data, fd, last, record, now)
            finally:
                os.close(fd)
        except OSError as error:
            raise write_fault(place, error) from None
        placer.files += 1
        placer.bytes += len(document.data)

    def _transfer(self, source: Source) -> Transfer:
        return Transfer(source, self.target, lambda: self._placer(source))

    def _placer(self, source: Source) -> Placer:
        placer = Placer(source, self.policy)
        self.placers.append(placer)
        return placer
