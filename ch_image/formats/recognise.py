"""Tells what format something on disk is of, by a look at it and not at its name."""

from __future__ import annotations

import os
import re

from ch_image.errors import ChError
from ch_image.layers.compress import compression_of, open_reader
from ch_image.typed import Any

_SQUASHFS = b"hsqs"  # superblock of squashfs 4, little-endian
# Names in archives of layers: those of an OCI layout, and of docker save before and after 25.
_OF_LAYERS = re.compile(
    r"\.|blobs(/sha256(/[0-9a-f]{64})?)?|oci-layout|(index|manifest)\.json|repositories"
    r"|[0-9a-f]{64}(\.json|\.tar|/(VERSION|json|layer\.tar))?"
)
_MAX_NAMES = 10_000


def recognise(path: str) -> str:
    """``dir``, ``oci``, ``squash``, ``oci-archive``, ``docker-archive``, or ``tar``; empty when
    nothing is there. What looks like none of them is ``tar``, whose reader says what is wrong.
    """
    if os.path.isdir(path):
        return "oci" if os.path.isfile(f"{path}/oci-layout") else "dir"
    try:
        with open(path, "rb") as file:
            if not file.seekable():
                return "tar"
            head = file.read(6)
            file.seek(0)
            if head.startswith(_SQUASHFS):
                return "squash"
            if not compression_of(head):
                return _archive_kind(file, "r:")
            with open_reader(file) as reader:
                return _archive_kind(reader, "r|")
    except FileNotFoundError:
        return ""
    except OSError:
        return "tar"


def _archive_kind(file: Any, mode: str) -> str:
    import tarfile

    opened: Any = tarfile.open
    names: set[str] = set()
    try:
        with opened(fileobj=file, mode=mode) as archive:
            for member in archive:
                name = os.path.normpath(member.name)
                if len(names) > _MAX_NAMES or not _OF_LAYERS.fullmatch(name):
                    break
                names.add(name)
    except (tarfile.TarError, ChError, ValueError):
        pass  # damaged: its reader will say so
    if "oci-layout" in names:
        return "oci-archive"
    return "docker-archive" if "manifest.json" in names else "tar"
