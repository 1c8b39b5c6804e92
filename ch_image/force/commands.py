"""``--force-cmd=CMD,ARG...``: arguments put after every CMD of a RUN."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence


def add_arguments(argv: Sequence[str], commands: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The command with the arguments of each of ``commands`` put in.

    A word that is CMD gets them as words after it; within a word that is longer (a shell's script),
    they are put, quoted, behind each CMD that stands where a command may and has more behind it.
    """
    out = list(argv)
    for name, *arguments in commands:
        quoted = shlex.join(arguments)
        pattern = re.compile(rf"(?<![\w./=-]){re.escape(name)}(?=\s)")
        changed: list[str] = []
        for word in out:
            if word == name:
                changed += [word, *arguments]
            else:
                changed.append(pattern.sub(lambda m, q=quoted: f"{m[0]} {q}", word))  # type: ignore[misc]
        out = changed
    return tuple(out)
