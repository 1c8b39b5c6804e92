"""Sources of ADD that are not files here: URLs and git repositories.

Each has an identity that says what it holds, for the cache key: the digest of a URL's contents,
a commit. It is asked for first; the contents are fetched at most once, and not at all where the
instruction pins them (``--checksum``) and the result is in the cache.

How a URL is read is handed in; this knows no network.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from collections.abc import Callable, Mapping

from ch_image.build.gitref import Git, GitRef, parse_git
from ch_image.errors import BuildError, RegistryError, printable
from ch_image.typed import NamedTuple, Protocol, TypeAlias

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Fetch(Protocol):
    """Reads a URL to its end into ``sink``; returns the Last-Modified header, "" without one."""

    def __call__(self, url: str, sink: Callable[[bytes], object], /) -> str: ...


class Download(NamedTuple):
    """A fetched URL: a file of the host, the name it has in the image, its time (ns)."""

    path: str
    name: str
    mtime: int


class Checkout(NamedTuple):
    """A fetched repository: a directory of the host, and which part of it is meant."""

    path: str
    subdir: str


Fetched: TypeAlias = Download | Checkout


def is_remote(source: str) -> bool:
    """Whether a source of ADD is a URL or a git repository. Raises BuildError for a bad one."""
    return source.startswith(("http://", "https://")) or parse_git(source) is not None


class Remotes:
    """The remote sources of one ADD; what is fetched goes to ``scratch`` (a path of the host)."""

    def __init__(
        self,
        scratch: str,
        fetch: Fetch,
        *,
        checksum: str = "",
        keep_git_dir: bool | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._scratch = scratch
        self._fetch = fetch
        self._checksum = checksum
        self._keep_git_dir = keep_git_dir
        self._git = Git(environment)
        self._have: dict[str, tuple[str, Fetched]] = {}
        self._commits: dict[str, str] = {}

    def identity(self, source: str) -> str:
        """What ``source`` holds now, in one word for the cache key. Raises BuildError."""
        git = parse_git(source)
        if git is not None:
            kept = "+git" if self._keep(git) else ""
            return f"git:{self._commit(source, git)}:{git.subdir}{kept}"
        if self._checksum:
            return self._pinned()
        return self._download(source)[0]

    def get(self, source: str) -> Fetched:
        """The contents, fetched now if they are not here yet. Raises BuildError."""
        git = parse_git(source)
        if git is None:
            return self._download(source)[1]
        if source not in self._have:
            commit = self._commit(source, git)
            path = self._place()
            os.mkdir(path, 0o700)
            self._git.fetch(git, commit, path, self._keep(git))
            self._have[source] = commit, Checkout(path, git.subdir)
        return self._have[source][1]

    def _place(self) -> str:
        return os.path.join(self._scratch, f"add{len(self._have)}-{os.urandom(4).hex()}")

    def _keep(self, git: GitRef) -> bool:
        """Whether .git stays; the instruction and the URL must not contradict one another."""
        said = {self._keep_git_dir, git.keep_git_dir} - {None}
        if len(said) > 1:
            raise BuildError("--keep-git-dir and the repository's keep-git-dir contradict")
        return True in said

    def _commit(self, source: str, git: GitRef) -> str:
        if source not in self._commits:
            commit = self._git.commit(git)
            for wanted in (self._checksum, git.checksum):
                if wanted and not commit.startswith(wanted.lower()):
                    raise BuildError(
                        f"{printable(git.remote)}: the commit is {commit}, not {printable(wanted)}",
                        hint="the ref has moved, or --checksum is wrong",
                    )
            self._commits[source] = commit
        return self._commits[source]

    def _pinned(self) -> str:
        if not _DIGEST.fullmatch(self._checksum):
            raise BuildError(
                f'--checksum: "{printable(self._checksum)}" is no digest',
                hint='write "sha256:" and 64 hexadecimal digits',
            )
        return self._checksum

    def _download(self, url: str) -> tuple[str, Download]:
        known = self._have.get(url)
        if known is not None and isinstance(known[1], Download):
            return known[0], known[1]
        path = self._place()
        hasher = hashlib.sha256()
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:

            def sink(data: bytes) -> None:
                hasher.update(data)
                file.write(data)

            try:
                modified = self._fetch(url, sink)
            except RegistryError as error:
                raise BuildError(str(error), hint=error.hint) from None
        digest = f"sha256:{hasher.hexdigest()}"
        if self._checksum and digest != self._pinned():
            raise BuildError(
                f"{printable(url)} has the digest {digest}, not {printable(self._checksum)}",
                hint="its contents have changed, or --checksum is wrong",
            )
        self._have[url] = digest, Download(path, name_of(url), _time(modified))
        return digest, Download(path, name_of(url), _time(modified))


def name_of(url: str) -> str:
    """The file name that a URL ends in; empty when it has none."""
    from urllib.parse import unquote, urlsplit

    name = posixpath.basename(unquote(urlsplit(url).path, errors="surrogateescape"))
    return "" if name in (".", "..") or "\0" in name else name


def _time(text: str) -> int:
    """An HTTP date in nanoseconds since 1970; 0 when there is none, as in BuildKit."""
    if not text:
        return 0
    from email.utils import parsedate_to_datetime

    try:
        return int(parsedate_to_datetime(text).timestamp()) * 1_000_000_000
    except (ValueError, OverflowError, TypeError):
        return 0
