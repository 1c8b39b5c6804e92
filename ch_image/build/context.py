"""The build context: a directory read in place, seen through its ignore rules.

It is never copied as a whole and never left. Which files it has and what they hold is asked once
a build, directory by directory as COPY and ADD need them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from ch_image.build.ahead import Ahead
from ch_image.build.rows import Row
from ch_image.build.source import Rules, Source
from ch_image.build.statindex import StatIndex, fingerprint
from ch_image.dockerfile import ignore
from ch_image.errors import BuildError

_MANY = 5000  # files that are worth a process of its own
_LEAD = 6000  # files it looks at while the caller, who began early, is not ready to look itself
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
        self._ahead: Ahead | None = None
        self._fingerprints: dict[str, bytes] = {}

    def close(self) -> None:
        """See `Source`."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None
        super().close()

    def look_ahead(self, tops: Sequence[str], *, early: bool = False) -> None:
        """Expect that all below the directories ``tops`` will be listed and fingerprinted.

        If that is much, and there are no threads yet, another process lists a part of it; the
        larger part when this is ``early``, a guess that a later call can correct.
        """
        if self.index is None or _processors() < 2 or _threads() > 1:
            return
        known = [p for p in self.index.paths() if any(_below(p, top) for top in tops)]
        if self._ahead is not None:
            if len(known) > len(self.index.paths()) // 2:
                return
            self._ahead.close()  # it would be waited for, and most of it is not needed
            self._ahead = None
        count = self.index.count(known)
        if count >= _MANY:
            known.sort()
            ours = max(count - _LEAD * early, 0) / (2 * count)
            self._ahead = Ahead(known[int(len(known) * ours) :], self._scan)

    def listing(self, path: str) -> Sequence[Row]:
        """See `Source`."""
        if self._ahead is not None and path not in self._listings:
            found = self._ahead.get(path)
            if found is not None:
                self._listings[path], self._fingerprints[path] = found
        return super().listing(path)

    def fingerprint(self, path: str, rows: Sequence[Row]) -> bytes:
        """What changes when a row of the directory ``path`` does."""
        return self._fingerprints.get(path) or fingerprint(rows)

    def save(self) -> None:
        """Keep the digests for the next build. OSError: they could not be written."""
        if self.index is not None:
            self.index.save()


def open_context(
    root: str, dockerfile: str, digests: str, what: str = "the build context"
) -> Context:
    """The context at ``root`` with its ignore rules. Raises BuildError as `read_rules` does."""
    rules = read_rules(root, dockerfile if dockerfile != "-" else "")
    return Context(root, rules[1] if rules else None, digests, what)


def _processors() -> int:
    return len(os.sched_getaffinity(0))


def _threads() -> int:
    """How many this process has; also those that the interpreter knows nothing of."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 2


def _below(path: str, top: str) -> bool:
    return not top or path == top or path.startswith(top + "/")


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
