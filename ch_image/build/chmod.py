"""``--chmod``: an octal mode, or clauses such as ``u=rwX,go=rX`` as chmod(1) reads them.

Symbolic clauses follow BSD's chmod, as BuildKit's do, with no umask: ``=`` also takes set-ID bits
away (not where it copies, as ``g=u`` does), ``X`` looks at the mode before any change.
"""

from __future__ import annotations

import re

from ch_image.errors import BuildError, printable
from ch_image.typed import NamedTuple

_CLAUSE = re.compile(r"([augo]*)((?:[-+=][rwxXstugo]*)+)")
_ACTION = re.compile(r"([-+=])([rwxXstugo]*)")
_WHO = {"u": 0o4700, "g": 0o2070, "o": 0o0007, "a": 0o6777}
_BITS = {"r": 0o444, "w": 0o222, "x": 0o111, "X": 0o111, "s": 0o6000, "t": 0o1000}
_SHIFT = {"u": 6, "g": 3, "o": 0}


class ModeChange(NamedTuple):
    """What ``--chmod`` does to a mode. ``octal`` is -1 where the change is symbolic."""

    octal: int
    clauses: tuple[tuple[str, str, str], ...] = ()  # who, operator, permissions

    def apply(self, mode: int, is_dir: bool) -> int:
        """The permission bits (0o7777) of a file that has ``mode``."""
        if self.octal >= 0:
            return self.octal
        mode &= 0o7777
        executable = is_dir or bool(mode & 0o111)
        for who, operator, permissions in self.clauses:
            mode = _act(mode, who, operator, permissions, executable)
        return mode


def parse_mode(text: str) -> ModeChange:
    """Read the value of ``--chmod``. Raises BuildError when it is neither form."""
    if re.fullmatch(r"[0-7]{1,22}", text) and int(text, 8) <= 0o7777:
        return ModeChange(int(text, 8))
    clauses = []
    for part in text.split(","):
        clause = _CLAUSE.fullmatch(part)
        if clause is None:
            raise BuildError(
                f'--chmod: "{printable(text)}" is no mode',
                hint="write an octal number up to 7777, as in --chmod=644, "
                "or clauses, as in --chmod=u=rwX,go=rX",
            )
        clauses += [(clause[1], *action) for action in _ACTION.findall(clause[2])]
    return ModeChange(-1, tuple(clauses))


def _act(mode: int, who: str, operator: str, permissions: str, executable: bool) -> int:
    whose = 0
    for letter in who:
        whose |= _WHO[letter]
    reach = whose or 0o6777
    if whose != 0o7:  # "o+s" and "o+t" mean nothing
        reach |= 0o1000
    else:
        permissions = permissions.replace("s", "").replace("t", "")
    bits = 0
    for letter in permissions:
        if letter in _SHIFT:
            copied = mode >> _SHIFT[letter] & 7
            bits |= copied << 6 | copied << 3 | copied
        elif letter != "X" or executable or operator == "-":
            bits |= _BITS[letter]
    if operator == "-":
        return mode & ~(bits & reach)
    if operator == "=":
        cleared = whose or 0o6777
        mode &= ~(cleared & 0o777 if set(permissions) & set(_SHIFT) else cleared)
    return mode | bits & reach
