"""pull: images between registries and storage."""

from __future__ import annotations

import time
from collections.abc import Callable

from ch_image.cli import options
from ch_image.cli.session import Session, emit, working_directory
from ch_image.errors import UsageError
from ch_image.model.ref import ImageRef
from ch_image.report import Info
from ch_image.storage.images import Image
from ch_image.storage.layers import LayerId


def _pull(session: Session) -> int:
    from ch_image.cli.images import writable
    from ch_image.cli.network import registries
    from ch_image.transfer.pull import pull

    parsed = session.parsed
    ref = session.ref(session.words[0])
    target = session.words[1] if len(session.words) > 1 else ""
    if parsed.has("parse-only"):
        emit(reference_parts(ref))
        return 0
    is_path = target.startswith(("/", "./", "../")) or target in (".", "..")
    into = writable(session.ref(target)) if target and not is_path else None
    keep = _layers_to_keep(parsed.text("last-layer"))
    session.enter(programs=session.names_helpers())
    with session.locked():
        unpack = _unpacker(session, target) if is_path else None
        image = pull(
            ref,
            session.storage,
            registries(session),
            session.platform() if session.names_platform else None,
            session.report,
            always=True,
            into=into,
            unsquash=lambda path: _unsquashed(session, path),
        )
        if keep is not None:
            image = _cut(image, keep)
            session.storage.images.put(image)
        if unpack is not None:
            unpack(image)
    session.report(Info("done"))
    return 0


def _unsquashed(session: Session, path: str) -> LayerId:
    from ch_image.cli.importing import place
    from ch_image.formats.mountable import unsquashed

    return unsquashed(path, place(session))


def _layers_to_keep(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise UsageError("--last-layer takes the number of a layer, counted from 1")
    return int(text)


def _cut(image: Image, layers: int) -> Image:
    """The image as it was after its first ``layers`` layers; no registry knows this one."""
    config = image.config._replace(diff_ids=image.config.diff_ids[:layers])
    return image._replace(
        config=config, layers=image.layers[:layers], manifest=None, created=time.time()
    )


def _unpacker(session: Session, target: str) -> Callable[[Image], None]:
    """Makes the plain directory that the command's older form asks for.

    Raises ImageError at once when none can be made there.
    """
    import os

    from ch_image.cli.importing import place
    from ch_image.formats.base import trees
    from ch_image.formats.exchange import lend

    here, directory, path = place(session), trees("dir"), os.path.join(working_directory(), target)
    directory.admit(path, here)

    def unpack(image: Image) -> None:
        with lend(image, here) as content:
            directory.write(content, path, here)

    return unpack


def reference_parts(ref: ImageRef) -> list[str]:
    """What ``--parse-only`` prints."""
    fields = (
        ("as string", ref.canonical),
        ("for filename", ref.file_name),
        ("registry", ref.registry),
        ("repository", ref.repository),
        ("tag", ref.tag or "none"),
        ("digest", ref.digest or "none"),
    )
    return [f"{name + ':':<15}{value}" for name, value in fields]


PULL = options.Command(
    "pull",
    "REF [DEST]",
    "Copies an image from a registry into storage, under its own name or as DEST. A DEST that"
    " begins with / or ./ is a directory into which the image is unpacked as well.",
    (
        options.value("--last-layer", "N", "unpack no more than the first N layers"),
        options.flag("--parse-only", "only print the parts of REF"),
    ),
    _pull,
)
