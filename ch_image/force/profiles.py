"""Fakeroot profiles: one YAML file for each family of distributions, read and checked.

id: debian10plus                # short, what messages call it
name: Debian 10 and later       # for people
match:
  file: /etc/os-release         # in the image
  regex: '^ID=debian$'          # searched in it; ^ and $ match at lines
  unless: '^ID_LIKE=.*ubuntu'   # optional: must not be found
init:                           # before the first RUN that needs it, in this order
  - check: command -v fakeroot  # when this succeeds, the command is not run
    command: apt-get install -y fakeroot
keywords: [apt, apt-get, dpkg]  # a RUN with one of these words needs it
wrapper: [fakeroot]             # put before its command
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable

from ch_image.errors import BuildError, printable
from ch_image.typed import Any, NamedTuple, NoReturn

_KEYS = ("id", "name", "match", "init", "keywords", "wrapper")
_MAX_SIZE = 1 << 16  # bytes of one file


class InitStep(NamedTuple):
    """Two shell commands: does ``check`` succeed, ``command`` is not needed."""

    check: str
    command: str


class Profile(NamedTuple):
    """How a family of distributions gets and uses its fakeroot."""

    id: str
    name: str
    file: str
    regex: re.Pattern[str]
    unless: re.Pattern[str] | None
    init: tuple[InitStep, ...]
    keywords: frozenset[str]
    wrapper: tuple[str, ...]

    def matches(self, read: Callable[[str], str | None]) -> bool:
        """Whether an image is of this family; ``read`` gives a file's text, None without it."""
        text = read(self.file)
        if text is None or not self.regex.search(text):
            return False
        return not (self.unless and self.unless.search(text))


def load(directories: Iterable[str]) -> list[Profile]:
    """The profiles of all files ``*.yaml``, by name in each directory; earlier ones win by id.

    Directories that do not exist count as empty. Raises BuildError naming file and key.
    """
    out: dict[str, Profile] = {}
    for directory in directories:
        try:
            files = sorted(name for name in os.listdir(directory) if name.endswith(".yaml"))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise BuildError(f"cannot read {printable(directory)}: {error.strerror}") from None
        for name in files:
            profile = read(os.path.join(directory, name))
            out.setdefault(profile.id, profile)
    return list(out.values())


def read(path: str) -> Profile:
    """One profile. Raises BuildError naming file and key."""
    from ch_image.model.yaml_file import parse_yaml

    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_SIZE + 1)
    except OSError as error:
        raise BuildError(f"cannot read {printable(path)}: {error.strerror}") from None
    if len(data) > _MAX_SIZE:
        raise BuildError(f"{printable(path)}: larger than {_MAX_SIZE} bytes")
    return _Reader(path).profile(parse_yaml(data, path))


class _Reader:
    """Checks one file's content; every complaint names file, key and what is expected."""

    def __init__(self, path: str) -> None:
        self._path = path

    def _refuse(self, key: str, expected: str) -> NoReturn:
        where = f"{printable(self._path)}: {printable(key, 60)}: " if key else f"{self._path}: "
        raise BuildError(f"{where}expected {expected}", hint="docs/emulation.md describes profiles")

    def profile(self, content: object) -> Profile:
        top = self._table(content, "", _KEYS, _KEYS)
        match = self._table(top["match"], "match", ("file", "regex", "unless"), ("file", "regex"))
        file = self._text(match["file"], "match.file")
        if not file.startswith("/"):
            self._refuse("match.file", "an absolute path")
        unless = self._regex(match["unless"], "match.unless") if "unless" in match else None
        identity = self._text(top["id"], "id")
        if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", identity):
            self._refuse("id", "lower-case letters, digits, '_', '.' and '-'")
        return Profile(
            identity,
            self._text(top["name"], "name"),
            file,
            self._regex(match["regex"], "match.regex"),
            unless,
            tuple(self._init(top["init"])),
            frozenset(self._texts(top["keywords"], "keywords")),
            tuple(self._texts(top["wrapper"], "wrapper")),
        )

    def _table(
        self, value: object, key: str, known: tuple[str, ...], needed: tuple[str, ...]
    ) -> dict[str, Any]:
        if not isinstance(value, dict):
            self._refuse(key, f"a mapping with the keys {', '.join(needed)}")
        dot = f"{key}." if key else ""
        for name in value:
            if name not in known:
                self._refuse(f"{dot}{name}", f"one of the keys {', '.join(known)}")
        for name in needed:
            if name not in value:
                self._refuse(f"{dot}{name}", "this key to be there")
        return value

    def _text(self, value: object, key: str) -> str:
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            self._refuse(key, "a text that is not empty (put numbers in quotes)")
        return value.strip()

    def _texts(self, value: object, key: str) -> list[str]:
        if not isinstance(value, list) or not value:
            self._refuse(key, "a list of at least one text")
        return [self._text(one, f"{key}[{n}]") for n, one in enumerate(value)]

    def _regex(self, value: object, key: str) -> re.Pattern[str]:
        text = self._text(value, key)
        try:
            return re.compile(text, re.MULTILINE)
        except re.error as error:
            self._refuse(key, f"a regular expression of Python ({error})")

    def _init(self, value: object) -> Iterable[InitStep]:
        if not isinstance(value, list):
            self._refuse("init", "a list of steps")
        keys = ("check", "command")
        for n, one in enumerate(value):
            step = self._table(one, f"init[{n}]", keys, keys)
            yield InitStep(*(self._text(step[key], f"init[{n}].{key}") for key in keys))
