"""Directory trees as text, for tables of cases: one line a node, the same in and out.

    dir/                    a directory, 755
    dir/file 600 = text     a file, 644 where no mode is said
    link -> target
    pipe |
    socket ~
    other == dir/file       another name of the same file
    dir/file @33:44         the recorded owner, behind the mode

`plant` makes such a tree, `read` tells one; names and texts hold no blanks at their ends.
"""

from __future__ import annotations

import os
import re
import socket
import stat
from collections.abc import Mapping
from pathlib import Path

from ch_image.fs import owners

LINE = re.compile(
    r"(?P<name>\S+?)(?P<dir>/?)(?: (?P<mode>[0-7]{3,4}))?(?: @(?P<uid>\d+):(?P<gid>\d+))?"
    r"(?: (?P<kind>==|=|->|\||~)(?: ?(?P<rest>.*))?)?",
    re.DOTALL,
)


def lines(text: str) -> list[str]:
    """The lines that say something."""
    return [line.strip() for line in text.split("\n") if line.strip()]


def plant(root: Path, text: str) -> Path:
    """Make the tree; modes of directories come last."""
    root.mkdir(parents=True, exist_ok=True)
    modes: list[tuple[Path, int]] = []
    for line in lines(text):
        match = LINE.fullmatch(line)
        assert match, line
        path, kind, rest = root / match["name"], match["kind"], match["rest"] or ""
        path.parent.mkdir(parents=True, exist_ok=True)
        if match["dir"]:
            path.mkdir(exist_ok=True)
        elif kind == "->":
            path.symlink_to(rest)
            continue
        elif kind == "==":
            os.link(root / rest, path, follow_symlinks=False)
            continue
        elif kind == "|":
            os.mkfifo(path)
        elif kind == "~":
            with socket.socket(socket.AF_UNIX) as sock:
                _bind(sock, path)
        else:
            path.write_text(rest)
        mode = int(match["mode"] or ("755" if match["dir"] else "644"), 8)
        if match["uid"]:
            what = "dir" if match["dir"] else "file"
            owner = owners.Recorded(int(match["uid"]), int(match["gid"]), mode, what)
            owners.write(str(path), owner)
        modes.append((path, mode))
    for path, mode in reversed(modes):
        path.chmod(mode)
    return root


def _bind(sock: socket.socket, path: Path) -> None:
    # The path of a socket has 107 bytes at most, whatever the length of tmp_path.
    fd = os.open(path.parent, os.O_RDONLY)
    try:
        sock.bind(f"/proc/self/fd/{fd}/{path.name}")
    finally:
        os.close(fd)


def read(root: Path, elsewhere: Mapping[str, tuple[int, int]] | None = None) -> list[str]:
    """The tree in sorted lines; ``elsewhere`` are owners of links and FIFOs by path."""
    out: list[str] = []
    first: dict[tuple[int, int], str] = {}
    for directory, names, files in os.walk(root):
        for name in sorted(names + files):
            path = Path(directory, name)
            relative = str(path.relative_to(root))
            state = path.lstat()
            key = (state.st_dev, state.st_ino)
            if (
                state.st_nlink > 1
                and not path.is_dir()
                and first.setdefault(key, relative) != relative
            ):
                out.append(f"{relative} == {first[key]}")
                continue
            out.append(_line(path, relative, state, (elsewhere or {}).get(relative, (0, 0))))
    return sorted(out)


def _line(path: Path, name: str, state: os.stat_result, elsewhere: tuple[int, int]) -> str:
    kind = stat.S_IFMT(state.st_mode)
    mode = state.st_mode & 0o7777
    usual = 0o755 if kind == stat.S_IFDIR else 0o644
    parts = [name + "/" * (kind == stat.S_IFDIR)]
    if mode != usual and kind != stat.S_IFLNK:
        parts.append(f"{mode:03o}")
    record = owners.read(str(path))
    owner = (record.uid, record.gid) if record else elsewhere
    if owner != (0, 0):
        parts.append(f"@{owner[0]}:{owner[1]}")
    if kind == stat.S_IFLNK:
        parts += ["->", os.readlink(path)]
    elif kind == stat.S_IFIFO:
        parts.append("|")
    elif kind == stat.S_IFREG:
        if record and record.is_device:
            parts.append(f"= {record.kind}-{record.major}-{record.minor}")
        else:
            parts.append(f"= {path.read_text(errors='surrogateescape')}".strip())
    return " ".join(parts)


def same(text: str) -> list[str]:
    """The lines of an expected tree as `read` gives them: what goes without saying left out."""
    out = []
    for line in lines(text):
        line = re.sub(r"^(\S+/) 755\b", r"\1", line)
        match = LINE.fullmatch(line)
        assert match, line
        plain = not match["dir"] and not match["kind"]
        out.append(re.sub(r"^(\S+[^/]) 644\b", r"\1", line) + (" =" if plain else ""))
    return sorted(out)
