"""The single files behind the digest of a selection, so that a miss can be told by their names."""

from __future__ import annotations

import stat
from collections.abc import Sequence

from ch_image.build.context import Context
from ch_image.build.key import MOST_FILES, file_value
from ch_image.build.rows import MODE, NAME
from ch_image.build.select import Level, Selection, levels
from ch_image.build.source import Source, join


def named_files(source: Source, selection: Selection) -> dict[str, str]:
    """Path -> what stands for mode and contents, of all files that ``selection`` takes.

    Only what `ch_image.build.digest` found out in this build, or the context's index knows, is
    used: nothing is read again. Empty when something is not known.
    """
    out: dict[str, str] = {}
    taken = [list(levels(source, m, selection.exclude)) for m in selection.matches if m.is_dir]
    if sum(len(level.rows) for found in taken for level in found) > MOST_FILES:
        whole = _directories(source, [level for found in taken for level in found])
        if whole:
            return whole
    for match in selection.matches:
        if match.is_dir:
            for level in taken.pop(0):
                if not _add(source, level, out):
                    return {}
        else:
            row = source.row(match.path)
            directory = match.path.rpartition("/")[0]
            rows = [row] if row is not None else []
            if not _add(source, Level(directory, "", rows, False, frozenset()), out):
                return {}
    return out


def _directories(source: Source, found: Sequence[Level]) -> dict[str, str]:
    """Each directory for what lies in it, without looking at its files one by one."""
    try:
        return {
            (level.path or ".") + "/": file_value(stat.S_IFDIR, source.digests[level.path])
            for level in found
        }
    except KeyError:
        return {}


def _add(source: Source, level: Level, out: dict[str, str]) -> bool:
    known = source.contents.get(level.path)
    if known is None and isinstance(source, Context) and source.index is not None:
        known = {name: digest for name, (_, digest) in source.index.files(level.path).items()}
    for row in level.rows:
        path = join(level.path, row[NAME])
        if stat.S_ISDIR(row[MODE]):
            out[path + "/"] = file_value(row[MODE] & 0o7777, b"directory")
            continue
        if known is None or row[NAME] not in known:
            return False
        out[path] = file_value(row[MODE], known[row[NAME]])
    return True
