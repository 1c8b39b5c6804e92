"""import: a directory, archive or file system becomes an image in storage."""

from __future__ import annotations

import os

from ch_image.cli import options
from ch_image.cli.build_options import epoch
from ch_image.cli.session import Session
from ch_image.errors import ImageError, printable
from ch_image.formats.base import LAYERED, TREES, Place
from ch_image.report import Info
from ch_image.transfer.pack import Wishes


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
        wishes=Wishes(epoch=epoch(session.env)),
        platform=session.platform() if session.names_platform else None,
        run=session.run_outside,
    )


def _import(session: Session) -> int:
    from ch_image.formats.exchange import convert
    from ch_image.formats.layouts import split
    from ch_image.formats.recognise import recognise

    source, name = session.words
    path = split(source)[0]
    if not os.path.exists(path):
        raise ImageError(f"nothing to import: no file or directory {printable(path)}")
    session.ref(name)  # before long work is done for a name that is none
    kind = session.parsed.text("format") or recognise(path)
    session.enter()
    with session.locked():
        convert((kind, source), ("ch-image", name), place(session))
    session.report(Info(f"imported image: {name}"))
    return 0


_KINDS = (*TREES, *(name for name in LAYERED if name.startswith(("oci", "docker-"))))
IMPORT = options.Command(
    "import",
    "PATH REF",
    "Makes an image of a directory, a tar archive (compressed or not), a SquashFS file, an OCI"
    " layout or archive of one, or an archive of docker save. The latter three keep their layers"
    " and digests; PATH:TAG names one of several images. Of the others one layer is made; where"
    " /ch/metadata.json is, as our exports have it, environment and the like are taken from there.",
    (options.value("--format", "FORMAT", "what PATH is, if it looks otherwise", choices=_KINDS),),
    _import,
)
