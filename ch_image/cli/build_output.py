"""build --output: what was built, given out as files, beside or instead of a name in storage."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Sequence

from ch_image.errors import BuildError, UsageError, printable
from ch_image.typed import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ch_image.cli.session import Session
    from ch_image.model.ref import ImageRef
    from ch_image.storage.images import Image

KINDS = ("local", "tar", "oci", "docker", "image")
_KEYS = ("type", "dest", "name", "tar")


class Output(NamedTuple):
    """One ``--output``; ``dest`` is absolute, or ``-`` for standard output."""

    kind: str
    dest: str = ""
    tar: bool = True  # an archive; False: a directory, where the kind leaves the choice


def parse(texts: Iterable[str], cwd: str) -> tuple[Output, ...]:
    """``DIR``, ``-`` or ``type=KIND[,dest=PATH]``, as docker has them. Raises UsageError."""
    return tuple(_parse(text, cwd) for text in texts)


def _parse(text: str, cwd: str) -> Output:
    shown = printable(text, 200)

    def refuse(why: str, hint: str = "") -> UsageError:
        return UsageError(f"--output {shown}: {why}", hint=hint)

    fields: dict[str, str] = {}
    if "=" not in text:
        fields = {"type": "tar" if text == "-" else "local", "dest": text}
    for part in text.split(",") if "=" in text else ():
        key, equals, value = part.partition("=")
        if not equals or key not in _KEYS:
            raise refuse(f"{printable(part, 60)} is none of {', '.join(k + '=' for k in _KEYS)}")
        fields[key] = value
    kind, dest = fields.get("type", ""), fields.get("dest", "")
    if kind not in KINDS:
        raise refuse("no such type" if kind else "no type", f"there is {', '.join(KINDS)}")
    if kind == "image":
        return Output(kind)
    if dest == "-" and kind == "local":
        raise refuse("standard output cannot hold a directory", "write type=tar")
    if not dest:
        raise refuse("no dest", f"write type={kind},dest=PATH")
    tar = fields.get("tar", "true") not in ("false", "0") and kind != "local"
    return Output(kind, dest if dest == "-" else os.path.join(cwd, dest), tar)


def write(
    outputs: Iterable[Output], image: Image, names: Sequence[ImageRef], session: Session
) -> None:
    """Give ``image`` out, known by ``names``. Raises ChError, OSError.

    The storage's lock is held.
    """
    for output in outputs:
        if output.kind == "local":
            _write_directory(output.dest, image, session)
        elif output.kind == "tar":
            _write_tar(output.dest, image, session)
        elif output.kind != "image":
            _write_layout(output, image, names, session)


def _write_directory(dest: str, image: Image, session: Session) -> None:
    """Into a directory, whose other files stay; files are the user's, without set-ID bits."""
    from ch_image.build.copy import copy
    from ch_image.build.copyspec import CopySpec
    from ch_image.build.rows import MODE, NAME
    from ch_image.build.select import Match, Selection
    from ch_image.build.source import Source
    from ch_image.formats.directory import make_plain

    if os.path.commonpath([os.path.realpath(dest), session.storage.path]) == session.storage.path:
        raise UsageError(f"--output: this is the storage directory: {printable(dest)}")
    os.makedirs(dest, exist_ok=True)
    snapshotter = session.snapshotter()
    draft = snapshotter.prepare(image.layers)
    try:
        make_plain(draft.root, exact=False)
        source = Source(draft.root)
        source.what = "the image"
        try:
            for row in source.listing(""):  # one by one: the directory itself stays as it is
                name = row[NAME]
                entry = Selection((Match(name, name, stat.S_ISDIR(row[MODE])),))
                files = CopySpec((name,), f"/{name}", chown="0:0")
                copy(files, source, dest, selection=entry)
        finally:
            source.close()
    finally:
        snapshotter.discard(draft)


def _write_layout(
    output: Output, image: Image, names: Sequence[ImageRef], session: Session
) -> None:
    """As a registry would have it: an OCI layout, or an archive of one."""
    from ch_image.cli.build_options import epoch
    from ch_image.formats.archive import output as whole
    from ch_image.transfer.lay_out import write_archive, write_directory
    from ch_image.transfer.pack import Wishes, pack

    storage = session.storage
    packed = pack(image, storage, Wishes(epoch=epoch(session.env)), session.report)
    docker = output.kind == "docker"
    if output.dest == "-":
        _no_terminal()
        write_archive(packed, names, storage.blobs, sys.stdout.buffer, docker=docker)
        sys.stdout.buffer.flush()
    elif output.tar:
        with whole(output.dest, True) as file:
            write_archive(packed, names, storage.blobs, file, docker=docker)
    else:
        write_directory(packed, names, storage.blobs, output.dest)


def _write_tar(dest: str, image: Image, session: Session) -> None:
    """The tree with its true owners, as a tar archive."""
    from ch_image.cli.build_options import epoch
    from ch_image.cli.importing import place
    from ch_image.formats.archive import Archive
    from ch_image.formats.base import Content
    from ch_image.layers.create import write_tree
    from ch_image.storage.snapshots.base import merged_owners

    owners = merged_owners(session.storage.layers, image.layers)
    with session.snapshotter().view(image.layers) as tree:
        if dest != "-":
            Archive().write(Content(image.config, tree, owners), dest, place(session))
            return
        _no_terminal()
        write_tree(tree, owners, sys.stdout.buffer, clamp_mtime=epoch(session.env))
        sys.stdout.buffer.flush()


def _no_terminal() -> None:
    if sys.stdout is None or sys.stdout.isatty():
        raise BuildError("an archive is not written to a terminal", hint="redirect it")
    sys.stdout.flush()
