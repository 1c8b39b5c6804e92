"""What an image gets when it leaves storage as a plain tree, and gives back when it comes in.

    /ch/environment      its ENV, one NAME=VALUE a line, for ``ch-run --set-env``
    /ch/metadata.json    env, working directory, labels, shell, volumes, history, architecture
    /mnt/0 ... /mnt/9    mount points, as are /dev, /proc, /sys, /tmp
    /etc/hosts, /etc/resolv.conf    empty files to mount upon

These are Charliecloud's, so that its ch-run runs our images. They are never part of a layer.
Everything is found inside the tree, whatever links the image holds; what cannot be put there is
told and left out.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable

from ch_image.errors import ChError
from ch_image.fs.tree import Tree
from ch_image.model.oci import ImageConfig, RunConfig, config_json, parse_json
from ch_image.model.platforms import Platform, host_platform, parse_platform
from ch_image.typed import Any

# Parents before what is in them.
_DIRECTORIES = (
    "dev", "proc", "sys", "tmp", "etc", "ch", "mnt", *(f"mnt/{number}" for number in range(10)),
)  # fmt: skip
_FILES = ("etc/hosts", "etc/resolv.conf")
ENVIRONMENT, METADATA = "ch/environment", "ch/metadata.json"
_WHEN = 1_000_000_000 * 10**9  # ns; what is put in has no time of its own
_MAX_METADATA = 1 << 20  # bytes


def outfit(root: str, config: ImageConfig) -> list[str]:
    """Put it all into the tree at ``root``; what could not be done, in words.

    New nodes get a fixed time and old directories keep theirs, so that the same image always
    leaves as the same tree.
    """
    wanted: list[tuple[str, bytes | None]] = [(path, None) for path in _DIRECTORIES]
    wanted += [(path, b"") for path in _FILES]
    wanted.append((ENVIRONMENT, _bytes(environment_text(config.config))))
    wanted.append((METADATA, _bytes(metadata_text(config))))
    problems = []
    with Tree(root) as tree:
        for path, data in wanted:
            try:
                _put(tree, path, data)
            except OSError as error:
                reason = error.strerror or str(error)
                problems.append(f"cannot put /{path} into the exported tree: {reason}")
    return problems


def _put(tree: Tree, path: str, data: bytes | None) -> None:
    """A directory (``data`` None) or file, where there is none; our own files are replaced."""
    parent, name = tree.open_parent(path)
    try:
        before = os.fstat(parent)
        try:
            state = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            pass
        else:
            if path not in (ENVIRONMENT, METADATA):
                return
            if stat.S_ISDIR(state.st_mode):
                raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
            os.unlink(name, dir_fd=parent)
        if data is None:
            os.mkdir(name, dir_fd=parent)
            os.chmod(name, 0o1777 if name == "tmp" else 0o755, dir_fd=parent)
        else:
            _write(parent, name, data)
        os.utime(name, ns=(_WHEN, _WHEN), dir_fd=parent, follow_symlinks=False)
        os.utime(".", ns=(before.st_atime_ns, before.st_mtime_ns), dir_fd=parent)
    finally:
        os.close(parent)


def _write(parent: int, name: str, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(name, flags, 0o644, dir_fd=parent), "wb") as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(data)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def environment_text(config: RunConfig) -> str:
    """``/ch/environment``: sorted, one NAME=VALUE a line; what has a newline cannot be said."""
    items = sorted(item for item in config.env if "\n" not in item and "=" in item)
    return "".join(f"{item}\n" for item in items)


def metadata_text(config: ImageConfig) -> str:
    """``/ch/metadata.json`` in Charliecloud's shape."""
    run = config.config
    value = {
        "arch": config.platform.architecture,
        "arg": {},
        "cwd": run.working_dir or "/",
        "env": run.environment(),
        "history": config_json(config)["history"],
        "labels": dict(run.labels),
        "shell": list(run.shell or ("/bin/sh", "-c")),
        "volumes": sorted(run.volumes),
    }
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def recall(root: str) -> ImageConfig:
    """The config of a tree that comes in: from its ``/ch/metadata.json``, else an empty one.

    What the file says is checked as if it came from a stranger, and left out where it is not of
    the right kind; it can only set what a Dockerfile could.
    """
    with Tree(root) as tree:
        try:
            value = parse_json(tree.read_bytes(METADATA, _MAX_METADATA), f"/{METADATA}")
        except (OSError, ChError):
            value = {"env": _variables(tree)}
    env = _texts(value.get("env"))
    cwd, shell = value.get("cwd"), value.get("shell")
    run = RunConfig(
        env=tuple(f"{n}={v}" for n, v in env.items() if n and "=" not in n),
        working_dir=cwd if isinstance(cwd, str) and cwd.startswith("/") and cwd != "/" else "",
        labels=tuple(_texts(value.get("labels")).items()),
        shell=_words(shell) if _words(shell) != ("/bin/sh", "-c") else None,
        volumes=_words(value.get("volumes")) or (),
    )
    return ImageConfig(_platform(value.get("arch")), run)


def _variables(tree: Tree) -> dict[str, str]:
    """What ``/ch/environment`` says, where only that is there."""
    try:
        lines = tree.read_bytes(ENVIRONMENT, _MAX_METADATA).decode("utf-8", "surrogateescape")
    except OSError:
        return {}
    return dict(line.partition("=")[::2] for line in lines.split("\n") if "=" in line)


def _texts(value: Any) -> dict[str, str]:
    """The part of a JSON object that is text to text, without NUL."""
    if not isinstance(value, dict):
        return {}
    return {n: v for n, v in value.items() if isinstance(v, str) and "\0" not in n + v}


def _words(value: Any) -> tuple[str, ...] | None:
    good = isinstance(value, list) and value and all(isinstance(v, str) for v in value)
    return tuple(value) if good else None


def _platform(value: Any) -> Platform:
    try:
        return parse_platform(value) if isinstance(value, str) else host_platform()
    except ChError:
        return host_platform()


def undress(root: str) -> None:
    """Take our two files out of a tree of ours that becomes a layer, and /ch if nothing is left."""
    with Tree(root) as tree:
        for path in (ENVIRONMENT, METADATA):
            _remove(tree, path, os.unlink)
        _remove(tree, "ch", os.rmdir)


def _remove(tree: Tree, path: str, how: Callable[..., None]) -> None:
    try:
        parent, name = tree.open_parent(path)
    except OSError:
        return
    try:
        before = os.fstat(parent)
        how(name, dir_fd=parent)
        os.utime(".", ns=(before.st_atime_ns, before.st_mtime_ns), dir_fd=parent)
    except OSError:
        pass  # not there, a directory, or not empty: then it is the image's own
    finally:
        os.close(parent)
