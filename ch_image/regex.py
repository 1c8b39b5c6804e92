"""Regular expressions that are compiled when they are first used.

A command imports many more of them than it uses, and compiling costs more than what it matches.
Flags are written in the expression: naming those of ``re`` would import it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from re import compile as regex
else:

    class regex:
        """Stands for the compiled pattern, and has its methods."""

        def __init__(self, pattern):
            self.pattern = pattern

        def __getattr__(self, name):
            import re

            compiled = re.compile(self.pattern)
            for method in ("findall", "finditer", "fullmatch", "match", "search", "split", "sub"):
                setattr(self, method, getattr(compiled, method))
            return getattr(compiled, name)


__all__ = ["regex"]
