"""Parse results kept by content, for importing and building the parser costs more than a build
that finds everything in the cache.

A kept file is named after the digest of what was parsed, and its own digest stands in front.
"""

from __future__ import annotations

import os

from ch_image import __version__
from ch_image.dockerfile.ast import Dockerfile
from ch_image.dockerfile.ast_json import ast_from_json, ast_to_json
from ch_image.model.sha256 import sha256

_KEEP = 64  # files
_PREFIX = "parsed-"
_HEX = 64


def parse_cached(text: bytes, name: str, directory: str) -> Dockerfile:
    """What `ch_image.dockerfile.parser.parse` gives for ``text``. Raises DockerfileError.

    ``directory`` is the storage's ``context/``; whatever is wrong there only costs time.
    """
    meaning = f"{__version__}\0{name}\0".encode("utf-8", "surrogateescape") + text
    path = os.path.join(directory, _PREFIX + sha256(meaning).hexdigest())
    found = _read(path)
    if found is not None:
        return found
    from ch_image.dockerfile.parser import parse

    parsed = parse(text, name)
    _write(path, directory, parsed)
    return parsed


def _read(path: str) -> Dockerfile | None:
    try:
        with open(path, "rb") as file:
            digest, body = file.read(_HEX), file.read()
        if sha256(body).hexdigest().encode() != digest:
            return None
        return ast_from_json(body)
    except (OSError, ValueError):
        return None


def _write(path: str, directory: str, parsed: Dockerfile) -> None:
    body = ast_to_json(parsed).encode()
    temporary = f"{path}.{os.getpid()}"
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(sha256(body).hexdigest().encode() + body)
        os.rename(temporary, path)
        kept = [entry for entry in os.scandir(directory) if entry.name.startswith(_PREFIX)]
        kept.sort(key=lambda entry: entry.stat().st_mtime, reverse=True)
        for entry in kept[_KEEP:]:
            os.unlink(entry.path)
    except OSError:  # a full or read-only disk: the next build parses again
        pass
