"""What the sources of a COPY or ADD mean in a tree: which files, and one digest over them.

The rules are BuildKit's: sources are cleaned by name (``..`` never leaves the root), a wildcard
is Go's ``filepath.Match``, links are followed in the source itself and in the part of it that has
no wildcard, links below a directory stay links. With ``--parents`` the part behind ``/./`` (or
all of it) is a pattern as in ``.dockerignore``, whose directories are kept.

The digest covers names, types, modes, contents, link targets, extended attributes, which files
are one file, and for images owners; it does not cover times. It knows nothing of the destination.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Iterator, Sequence

from ch_image.build.rows import MODE, NAME, Row, directories_of
from ch_image.build.source import Rules, Source, clean, join, near
from ch_image.build.wildcard import compile_component, has_wildcards
from ch_image.dockerfile import ignore
from ch_image.errors import BuildError, printable
from ch_image.typed import NamedTuple

Lacking = Callable[[BuildError], None]  # what becomes of wildcards that match nothing


class Match(NamedTuple):
    """One file or directory that a source means."""

    path: str  # where it is, links followed
    name: str  # what it is called in a destination directory
    is_dir: bool
    include: str = ""  # --parents: the pattern behind the pivot; empty: everything


class Selection(NamedTuple):
    """What all sources of one instruction mean, in order."""

    matches: tuple[Match, ...]
    exclude: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()  # wildcards that matched nothing, which is no fault


class Level(NamedTuple):
    """What is taken of one directory; ``rel`` is its path below the match."""

    path: str
    rel: str
    rows: Sequence[Row]
    whole: bool  # nothing was left out by patterns
    passages: frozenset[str]  # directories that only lead to something that is taken


def select(
    source: Source, sources: Iterable[str], *, parents: bool = False, exclude: Sequence[str] = ()
) -> Selection:
    """Find the sources. Raises BuildError for one that is not there."""
    matches: list[Match] = []
    unmatched = []
    dropped = ignore.from_patterns(exclude) if exclude else None
    for pattern in sources:
        if parents:
            found = _with_parents(source, pattern, tuple(exclude))
        else:
            found = [
                match
                for match in _expand(source, clean(pattern), pattern)
                if match.is_dir or dropped is None or not dropped.excluded(match.name)
            ]
        if not found and _is_pattern(pattern):
            unmatched.append(pattern)
        matches += found
    return Selection(tuple(matches), tuple(exclude), tuple(unmatched))


def refuse(problem: BuildError) -> None:
    """A `Lacking` for where something has to be there."""
    raise problem


def lack(source: Source, selection: Selection, lacking: Lacking) -> None:
    """Call ``lacking`` if wildcards were all there was and none of them matched.

    As with BuildKit that is no fault of COPY and ADD: nothing is copied.
    """
    if not selection.matches and selection.unmatched:
        names = ", ".join(f'"{printable(name)}"' for name in selection.unmatched)
        message = f"nothing in {source.what} matches {names}"
        lacking(BuildError(message, hint=_hint(source, selection)))


def _hint(source: Source, selection: Selection) -> str:
    pattern = clean(selection.unmatched[0])
    fixed, wild = _split(pattern)
    base = source.resolve("/".join(fixed))
    if base is None or not wild:
        return ""
    hidden = ignored(source, join(base, wild[0]), pattern=True)
    if hidden:
        return hidden
    names = [row[NAME] for row in source.listing(base)] if source.is_dir(base) else []
    shown = ", ".join(printable(name, 40) for name in names[:5])
    more = ", ..." if len(names) > 5 else ""
    return f"{source.name_of(base)} holds {shown}{more}" if shown else ""


def ignored(source: Source, path: str, *, pattern: bool = False) -> str:
    """Which ignore line leaves out ``path`` if one does, as a hint; empty otherwise."""
    rules = source.rules
    if not isinstance(rules, ignore.Ignore):
        return ""
    names = [path]
    if pattern:
        directory, _, wild = path.rpartition("/")
        match = compile_component(wild)
        names = [join(directory, n) for n in source.everything(directory) if match.fullmatch(n)]
    for name in names:
        line = rules.explain(name)
        if line is not None and (pattern or source.hidden(name)):
            shown = printable(line.text)
            return f'{printable(line.file)}, line {line.number} leaves it out: "{shown}"'
    return ""


def missing(source: Source, path: str, written: str) -> BuildError:
    """The error for a source that is not there."""
    hint = ignored(source, path)
    if not hint:
        row = source.row(path)
        if row is not None and stat.S_ISLNK(row[MODE]):
            target = printable(source.readlink(path))
            hint = f"it is a link to {target}, which is not there"
        else:
            close = near(path, source)
            hint = "a source is named from the top of where it is copied from"
            hint = f'did you mean "{printable(close)}"?' if close else hint
    return BuildError(f'no "{printable(written)}" in {source.what}', hint=hint)


def _is_pattern(pattern: str) -> bool:
    return has_wildcards(pattern)


def _split(pattern: str) -> tuple[list[str], list[str]]:
    """The components before the first that has a wildcard, and the rest."""
    names = pattern.split("/") if pattern else []
    for i, name in enumerate(names):
        if has_wildcards(name):
            return names[:i], names[i:]
    return names, []


def _expand(source: Source, pattern: str, written: str) -> list[Match]:
    fixed, wild = _split(pattern)
    if not wild:
        return [_match(source, pattern, written)]
    start = "/".join(fixed)
    base = source.resolve(start)
    if base is None:
        raise missing(source, start, start)
    patterns = [compile_component(part) for part in wild]
    found = [base]
    for i, compiled in enumerate(patterns):
        last = i == len(patterns) - 1
        found = [
            join(directory, row[NAME])
            for directory in found
            if source.is_dir(directory)
            for row in source.listing(directory)
            if compiled.fullmatch(row[NAME]) and (last or stat.S_ISDIR(row[MODE]))
        ]
    return [_match(source, path, path) for path in found]


def _match(source: Source, path: str, written: str) -> Match:
    at = source.resolve(path)
    if at is None:
        raise missing(source, path, written)
    return Match(at, path.rpartition("/")[2], source.is_dir(at))


def _with_parents(source: Source, pattern: str, exclude: tuple[str, ...]) -> list[Match]:
    base, pivot, rest = pattern.partition("/./")
    if not pivot:
        base, rest = "", pattern
    rest = clean(rest)
    found = []
    for match in _expand(source, clean(base), base):
        taken = match._replace(include=rest)
        if match.is_dir and (not rest or any(level.rows for level in levels(source, taken))):
            found.append(taken)
    if not found and not _is_pattern(pattern):
        raise missing(source, clean(f"{base}/{rest}"), pattern)
    return found


def levels(source: Source, match: Match, exclude: Sequence[str] = ()) -> Iterator[Level]:
    """The directories of a directory match, each before those below it, by name."""
    if not match.include and not exclude:
        todo = [("", match.path)]
        while todo:
            rel, path = todo.pop()
            rows = source.listing(path)
            yield Level(path, rel, rows, True, frozenset())
            below = reversed(directories_of(rows))
            todo += [(join(rel, name), join(path, name)) for name in below]
    else:
        yield from _Filter(source, match, exclude).levels()


class _Filter:
    """A directory seen through --parents' pattern and --exclude."""

    def __init__(self, source: Source, match: Match, exclude: Sequence[str]) -> None:
        self._source = source
        self._match = match
        self._include: Rules | None = None
        self._lead: list[str] = []
        if match.include:
            self._include = ignore.from_patterns([match.include])
            for name in match.include.split("/"):
                if has_wildcards(name):
                    break
                self._lead.append(name)
        self._exclude: Rules | None = ignore.from_patterns(exclude) if exclude else None

    def levels(self) -> list[Level]:
        """Directories that lead to nothing are dropped: they were only looked into."""
        kept: list[Level] = []
        empty: set[str] = set()
        for level in reversed(list(self._look())):
            gone = {n for n in level.passages if join(level.rel, n) in empty}
            rows = [row for row in level.rows if row[NAME] not in gone]
            if not rows and level.rel and not level.whole:
                empty.add(level.rel)
                continue
            kept.append(Level(level.path, level.rel, rows, False, level.passages - gone))
        return kept[::-1]

    def _look(self) -> Iterator[Level]:
        """All that may be needed; ``whole`` tells that the directory itself is taken."""
        todo = [("", self._match.path, True)]
        while todo:
            rel, path, taken = todo.pop()
            rows, passages, below = [], set(), []
            for row in self._source.listing(path):
                inside = join(rel, row[NAME])
                wanted, enter = self._judge(inside)
                if row[MODE] & 0o170000 == 0o040000:
                    if not wanted and not enter:
                        continue
                    below.append((inside, join(path, row[NAME]), wanted))
                    if not wanted:
                        passages.add(row[NAME])
                elif not wanted:
                    continue
                rows.append(row)
            yield Level(path, rel, rows, taken, frozenset(passages))
            todo += reversed(below)

    def _judge(self, rel: str) -> tuple[bool, bool]:
        """Whether ``rel`` is taken; whether something below it may be, if it is not."""
        if self._exclude is not None and self._exclude.excluded(rel):
            return False, self._exclude.may_return(rel)
        if self._include is None or self._include.excluded(rel):
            return True, True
        names = rel.split("/")
        lead = self._lead[: len(names)]
        return False, names[: len(lead)] == lead
