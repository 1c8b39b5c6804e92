"""The build context: a directory read in place, seen through its ignore rules.

It is never copied as a whole and never left. Which files it has and what they hold is asked once
a build, directory by directory as COPY and ADD need them.
"""

from __future__ import annotations

import os

from ch_image.build.source import Rules, Source
from ch_image.build.statindex import StatIndex
from ch_image.dockerfile import ignore
from ch_image.errors import BuildError

_MAX_RULES = 4 << 20  # bytes of an ignore file


class Context(Source):
    """The build context at ``root`` (a path of the host).

    ``digests`` is the storage's ``context/`` directory; empty: nothing is remembered.
    """

    def __init__(
        self,
        root: str,
        rules: Rules | None = None,
        digests: str = "",
        what: str = "the build context",
    ) -> None:
        super().__init__(root, rules)
        self.what = what
        self.index = StatIndex(digests, root) if digests else None

    def save(self) -> None:
        """Keep the digests for the next build. OSError: they could not be written."""
        if self.index is not None:
            self.index.save()


def read_rules(root: str, dockerfile: str = "") -> tuple[str, ignore.Ignore] | None:
    """The ignore rules for a build of ``dockerfile`` (a path of the host): (their file, rules).

    ``<Dockerfile>.dockerignore`` beside the Dockerfile wins over ``.dockerignore`` of the
    context. None: there are none. Raises BuildError when they cannot be read.
    """
    candidates = [f"{dockerfile}.dockerignore"] if dockerfile else []
    own = os.path.join(root, ".dockerignore")
    for path in [*candidates, own]:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(fd, "rb") as file:
                data = file.read(_MAX_RULES + 1)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise BuildError(f"cannot read the ignore rules {path}: {error.strerror}") from None
        if len(data) > _MAX_RULES:
            raise BuildError(f"the ignore rules {path} have more than 4 MiB")
        return path, ignore.parse(data, ".dockerignore" if path == own else path)
    return None
