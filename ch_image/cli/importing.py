"""import: a directory or archive becomes an image in storage."""

from __future__ import annotations

import os

from ch_image.cli import options
from ch_image.cli.session import Session
from ch_image.errors import ImageError, printable
from ch_image.formats.base import Place, find
from ch_image.report import Info


def place(session: Session, *, clobber: bool = True, exact: bool = False) -> Place:
    """Where conversions of this session work."""
    return Place(
        session.storage,
        session.snapshotter,
        session.ref,
        session.report,
        clobber=clobber,
        exact=exact,
        xattrs=session.xattrs,
    )


def _import(session: Session) -> int:
    path, name = session.words
    if not os.path.exists(path):
        raise ImageError(f"nothing to import: no file or directory {printable(path)}")
    session.ref(name)  # before long work is done for a name that is none
    kind = session.parsed.text("format") or ("dir" if os.path.isdir(path) else "tar")
    session.enter()
    with session.locked():
        here = place(session)
        with find(kind).open(path, here) as content:
            find("ch-image").write(content, name, here)
    session.report(Info(f"imported image: {name}"))
    return 0


IMPORT = options.Command(
    "import",
    "PATH REF",
    "Makes an image of one layer from a directory or a tar archive, compressed or not. Where it"
    " holds /ch/metadata.json, as our exports do, environment and the like are taken from there.",
    (options.value("--format", "FORMAT", "dir or tar", choices=("dir", "tar")),),
    _import,
)
