"""Git repositories as sources of ADD: their names, and their files fetched by the host's git.

git runs outside of any container, so it gets nothing of the user's and nothing of the machine's
configuration, no hooks, no helpers, only the four protocols below, and no terminal to ask on.
What it fetches is data: a repository cannot name a program to run.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Mapping

from ch_image.errors import BuildError, printable
from ch_image.typed import NamedTuple

_SCP = re.compile(r"([A-Za-z0-9_-]+@[A-Za-z0-9.-]+:[^?#]*)(?:\?([^#]*))?(?:#(.*))?", re.DOTALL)
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_PROTOCOLS = "http:https:ssh:git"
_SETTINGS = {
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "core.symlinks": "true",
    "credential.helper": "",
    "protocol.file.allow": "never",
    "protocol.ext.allow": "never",
    "advice.detachedHead": "false",
    "init.defaultBranch": "main",
}


# What may be handed in; anything else could make git run or read what it should not.
_PASSED = re.compile(
    r"PATH|SSH_AUTH_SOCK|GIT_SSH_COMMAND|SSL_CERT_(?:FILE|DIR)|(?:https?|all|no)_proxy", re.I
)


class GitRef(NamedTuple):
    """A repository and what to take of it. None: not said."""

    remote: str
    ref: str = ""
    subdir: str = ""
    checksum: str = ""  # the commit, or how it begins
    keep_git_dir: bool | None = None
    submodules: bool = True


def parse_git(source: str) -> GitRef | None:
    """The repository that ``source`` names, or None when it names none. Raises BuildError.

    ``https://host/repo.git``, ``git://``, ``ssh://`` and ``user@host:path``, each with
    ``#ref:directory`` or a query (ref, tag, branch, subdir, checksum, commit, keep-git-dir,
    submodules).
    """
    if ":" not in source:
        return None
    from urllib.parse import urlsplit, urlunsplit

    scp = _SCP.fullmatch(source)
    if scp is not None:
        remote, query, fragment = scp[1], scp[2] or "", scp[3] or ""
    else:
        try:
            parts = urlsplit(source)
        except ValueError:  # such as the brackets of an IPv6 address
            raise BuildError(f'"{printable(source)}" is no URL') from None
        web = parts.scheme in ("http", "https") and parts.path.endswith(".git")
        if not web and parts.scheme not in ("git", "ssh"):
            return None
        remote = urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))
        query, fragment = parts.query, parts.fragment
    ref, _, subdir = fragment.partition(":")
    plain = GitRef(remote, ref, posixpath.normpath("/" + subdir).strip("/"))
    git = _with_query(plain, query, source) if query else plain
    for word in (git.remote, git.ref):
        if word.startswith("-") or "\n" in word or "\0" in word:
            raise BuildError(f'"{printable(source)}" is no git repository')
    return git


def _with_query(git: GitRef, query: str, source: str) -> GitRef:
    from urllib.parse import parse_qsl

    given: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key in given:
            raise BuildError(f'"{printable(source)}" says {printable(key)} twice')
        given[key] = value
    refs = {git.ref} if git.ref else set()
    directories = {git.subdir} if git.subdir else set()
    for key, value in given.items():
        if key in ("keep-git-dir", "submodules"):
            continue
        if not value:
            raise BuildError(f'"{printable(source)}": {printable(key)} has no value')
        if key in ("ref", "tag", "branch"):
            refs.add({"ref": "", "tag": "refs/tags/", "branch": "refs/heads/"}[key] + value)
        elif key == "subdir":
            directories.add(posixpath.normpath("/" + value).strip("/"))
        elif key not in ("checksum", "commit"):
            raise BuildError(
                f'"{printable(source)}": {printable(key)} means nothing for a git repository'
            )
    if len(refs) > 1 or len(directories) > 1:
        raise BuildError(f'"{printable(source)}" names more than one ref or directory')
    keep = given.get("keep-git-dir")
    return git._replace(
        ref="".join(refs),
        subdir="".join(directories),
        checksum=given.get("checksum", given.get("commit", "")),
        keep_git_dir=None if keep is None else _truth(keep, source),
        submodules=_truth(given.get("submodules", "true"), source),
    )


def _truth(text: str, source: str) -> bool:
    if text in ("", "1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise BuildError(f'"{printable(source)}": "{printable(text)}" is neither true nor false')


class Git:
    """Runs git. ``environment`` is what git may know of the host's: a proxy, an SSH agent."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = {k: v for k, v in (environment or {}).items() if _PASSED.fullmatch(k)}

    def commit(self, git: GitRef) -> str:
        """The commit that the ref means at the remote. Raises BuildError."""
        if _COMMIT.fullmatch(git.ref):
            return git.ref
        ref = git.ref or "HEAD"
        lines = self._run("ls-remote", "--", git.remote, ref, ref + "^{}").splitlines()
        found = {name: commit for commit, _, name in (line.partition("\t") for line in lines)}
        for name in (ref, f"refs/tags/{ref}", f"refs/heads/{ref}", f"refs/{ref}"):
            commit = found.get(name + "^{}", found.get(name, ""))
            if _COMMIT.fullmatch(commit):
                return commit
        raise BuildError(
            f'no branch, tag or commit "{printable(ref)}" in {printable(git.remote)}',
            hint="a commit is named by all of its 40 digits",
        )

    def fetch(self, git: GitRef, commit: str, directory: str, keep_git_dir: bool) -> None:
        """Check ``commit`` out into the empty ``directory`` (a path of the host)."""
        self._run("init", "-q", "--template=", directory)
        self._run("remote", "add", "origin", git.remote, at=directory)
        wanted = git.ref if git.ref and not _COMMIT.fullmatch(git.ref) else commit
        try:
            self._run("fetch", "-q", "--depth=1", "--no-tags", "origin", commit, at=directory)
        except BuildError:  # a server that gives out only what a ref points to
            self._run("fetch", "-q", "--tags", "origin", "+refs/heads/*:refs/remotes/origin/*",
                      *([] if wanted == commit else [wanted]), at=directory)  # fmt: skip
        self._run("checkout", "-q", "--detach", commit, at=directory)
        if git.submodules and os.path.lexists(os.path.join(directory, ".gitmodules")):
            self._run("submodule", "-q", "update", "--init", "--recursive", "--depth=1",
                      at=directory)  # fmt: skip
        if not keep_git_dir:
            _remove_git_dirs(directory)

    def _run(self, *args: str, at: str = "") -> str:
        import subprocess

        settings = [part for key, value in _SETTINGS.items() for part in ("-c", f"{key}={value}")]
        where = ["-C", at] if at else []
        try:
            done = subprocess.run(
                ["git", *settings, *where, *args],
                env=self._clean_environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                umask=0o022,
                cwd="/",
                timeout=3600,
            )
        except FileNotFoundError:
            raise BuildError(
                "ADD of a git repository needs git, which is not installed",
                hint="install git, or ADD an archive of the repository",
            ) from None
        except subprocess.TimeoutExpired:
            raise BuildError(f"git {args[0]} has taken more than an hour") from None
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()
            why = next((line for line in said if line.startswith(("fatal:", "error:"))), "")
            why = why or (said[-1] if said else f"exit code {done.returncode}")
            raise BuildError(f"git {args[0]} failed: {printable(why, 300)}")
        return done.stdout.decode("utf-8", "replace")

    def _clean_environment(self) -> dict[str, str]:
        fixed = {
            "LC_ALL": "C",
            "HOME": "/nonexistent",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "true",
            "GIT_ALLOW_PROTOCOL": _PROTOCOLS,
            "GIT_LFS_SKIP_SMUDGE": "1",
        }
        usual = {"PATH": os.defpath, "GIT_SSH_COMMAND": "ssh -o BatchMode=yes"}
        return usual | self._environment | fixed


def _remove_git_dirs(directory: str) -> None:
    """Take away the repository's own records, those of submodules too."""
    from ch_image.fs.remove import remove_tree

    # Names only: os.walk does not enter links to directories.
    for path, directories, files in os.walk(directory):
        if ".git" in directories or ".git" in files:
            remove_tree(os.path.join(path, ".git"))
            directories[:] = [name for name in directories if name != ".git"]
