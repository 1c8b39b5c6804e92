"""A syntax tree as JSON and back, so that a parse can be kept and the grammar left unloaded.

Generic over the node types: each is written as the number of its type and its fields in order.
What was written by another shape of the tree is refused, never misread.
"""

from __future__ import annotations

import json
import zlib

from ch_image.dockerfile import ast
from ch_image.typed import Any

# In this order a type's number is its place; a plain tuple is number 0.
_TYPES: tuple[Any, ...] = (
    *(tuple, ast.Span, ast.Word, ast.Pair, ast.Default, ast.Heredoc, ast.MountOption, ast.Mount),
    *(ast.From, ast.Run, ast.Copy, ast.Add, ast.Env, ast.Label, ast.Arg, ast.Workdir, ast.User),
    *(ast.Cmd, ast.Entrypoint, ast.Shell, ast.Expose, ast.Volume, ast.Healthcheck),
    *(ast.Stopsignal, ast.Maintainer, ast.Rsync, ast.Onbuild, ast.Directives, ast.Dockerfile),
)
_NUMBERS = {kind: number for number, kind in enumerate(_TYPES)}
_SHAPE = zlib.crc32(repr([(kind.__name__, kind._fields) for kind in _TYPES[1:]]).encode())


def ast_to_json(dockerfile: ast.Dockerfile) -> str:
    """``dockerfile`` as one line of ASCII."""
    return json.dumps([_SHAPE, _packed(dockerfile)], separators=(",", ":"))


def ast_from_json(text: str | bytes) -> ast.Dockerfile:
    """The tree that `ast_to_json` has written. Raises ValueError for anything else."""
    try:
        shape, packed = json.loads(text)
        found = _unpacked(packed) if shape == _SHAPE else None
    except (TypeError, IndexError, RecursionError) as error:
        raise ValueError(f"this is no syntax tree: {error}") from None
    if not isinstance(found, ast.Dockerfile):
        raise ValueError("this syntax tree has another shape")
    return found


def _packed(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_NUMBERS[type(value)], *map(_packed, value)]
    return value


def _unpacked(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    fields = list(map(_unpacked, value[1:]))
    return _TYPES[value[0]](*fields) if value[0] else tuple(fields)
