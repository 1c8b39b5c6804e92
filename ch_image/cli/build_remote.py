"""A context that is a URL: a git repository, a tar archive, or a Dockerfile that needs no context.

What is fetched lies in storage until the build ends. It comes from others: nothing in it leads
out of it.
"""

from __future__ import annotations

import os
import re
from contextlib import ExitStack

from ch_image.build.args import PASSED
from ch_image.build.gitref import parse_git
from ch_image.build.remote import Checkout, Remotes, is_remote, name_of
from ch_image.build.source import Source
from ch_image.cli.build_options import build_args
from ch_image.cli.session import Session
from ch_image.cli.web import fetcher
from ch_image.errors import BuildError, printable
from ch_image.typed import NamedTuple

_KEEP = "BUILDKIT_CONTEXT_KEEP_GIT_DIR"  # the build argument that leaves .git in a context


class Fetched(NamedTuple):
    """A directory, or (empty) the path of a file that is no archive."""

    directory: str
    file: str = ""


def is_url(word: str) -> bool:
    """Whether CONTEXT is a URL. Raises BuildError for a bad one."""
    return ("://" in word or "@" in word) and is_remote(word)


def fetch_context(session: Session, stack: ExitStack, url: str) -> Fetched:
    """Fetch the context ``url``; it is removed when ``stack`` ends. Raises BuildError."""
    session.enter()
    scratch = stack.enter_context(session.storage.scratch())
    env = session.env
    given, _ = build_args(session.parsed.texts("build-arg"), env)
    git = parse_git(url)
    keep = None
    if git is not None and git.keep_git_dir is None and _KEEP in given:
        keep = given[_KEEP].lower() in ("1", "t", "true")
    remotes = Remotes(
        scratch,
        fetcher(session),
        keep_git_dir=keep,
        environment={name: env[name] for name in (*PASSED, "PATH") if name in env},
    )
    found = remotes.get(url)
    name = _name(git.remote if git is not None else url)
    if isinstance(found, Checkout):
        path = f"{scratch}/{name}"
        os.rename(found.path, path)
        return Fetched(_below(path, found.subdir, url))
    if not _is_archive(found.path):
        return Fetched("", found.path)
    from ch_image.formats.archive import unpack

    path = f"{scratch}/{name}"
    os.mkdir(path, 0o755)
    with open(found.path, "rb", buffering=0) as file:
        unpack(file, path)
    return Fetched(path)


def _name(url: str) -> str:
    """The directory gives the image its name where there is no ``-t``."""
    last = re.split(r"[/:]", name_of(url) or url.rstrip("/"))[-1]
    return "url-" + re.sub(r"[^A-Za-z0-9_-]", "", last.partition(".")[0]) if last else "url"


def _below(path: str, subdir: str, url: str) -> str:
    source = Source(path)
    try:
        found = source.resolve(subdir)
        if found is None or not source.is_dir(found):
            raise BuildError(f'no directory "{printable(subdir)}" in {printable(url, 200)}')
        return os.path.join(path, found) if found else path
    finally:
        source.close()


def _is_archive(path: str) -> bool:
    from ch_image.layers.compress import compression_of

    with open(path, "rb") as file:
        head = file.read(262)
    return bool(compression_of(head[:16])) or head[257:] == b"ustar"
