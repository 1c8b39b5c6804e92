"""push: images from storage to registries."""

from __future__ import annotations

import os

from ch_image.cli import options
from ch_image.cli.build_options import epoch
from ch_image.cli.session import Session
from ch_image.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ch_image.model.ref import ImageRef
    from ch_image.storage.images import Image
    from ch_image.transfer.pack import Wishes

COMPRESSION = options.value(
    "--compression",
    "NAME[:LEVEL]",
    "of layers that were built here: gzip (level 1 to 9, default 1) or zstd (1 to 19, default 3)",
)


def _push(session: Session) -> int:
    from ch_image.cli.network import registries
    from ch_image.transfer.push import push

    parsed = session.parsed
    source = session.ref(session.words[0])
    target = session.ref(session.words[1]) if len(session.words) > 1 else source
    made = wishes(session)
    if not parsed.has("image"):
        session.storage.images.get(source)  # before anything is asked
    session.enter(programs=session.names_helpers())
    with session.locked():
        image = _image(session, source)
        if parsed.has("flatten"):
            from ch_image.cli.importing import place
            from ch_image.formats.exchange import flattened

            image = flattened(image, place(session))
        if parsed.has("squashfs"):
            from ch_image.cli.importing import place
            from ch_image.formats.mountable import squashed

            image = squashed(image, place(session)._replace(wishes=made))
        push(image, target, session.storage, registries(session), made, session.report)
    return 0


def wishes(session: Session) -> Wishes:
    """How layers are to be made. Raises UsageError."""
    from ch_image.transfer.pack import Wishes, parse_compression

    name, level = parse_compression(session.parsed.text("compression", "gzip"))
    return Wishes(name, level, epoch(session.env))


def _image(session: Session, ref: ImageRef) -> Image:
    """The image to push: of that name in storage, or made of the directory ``--image``."""
    path = session.parsed.text("image")
    if not path:
        return session.storage.images.get(ref)
    if not os.path.isdir(path):
        raise UsageError(f"--image takes a directory: {path}")
    from ch_image.cli.importing import place
    from ch_image.formats.exchange import bring

    return bring("dir", path, place(session))._replace(ref=ref)


PUSH = options.Command(
    "push",
    "REF [DEST]",
    "Copies an image from storage to a registry, under its own name or as DEST. Layers that came"
    " from a registry go back as they are, byte for byte; what the registry has is not sent.",
    (
        options.value("--image", "DIR", "push this directory as an image of one layer"),
        COMPRESSION,
        options.flag("--flatten", "as one layer in which everything is root's"),
        options.flag("--squashfs", "as one layer that is a SquashFS file, which few tools take"),
    ),
    _push,
)
