"""Which words of an instruction are expanded before it takes effect."""

from __future__ import annotations

from collections.abc import Iterable

from ch_image.dockerfile.ast import (
    Add,
    Copy,
    Env,
    Expose,
    Instruction,
    Label,
    Run,
    Stopsignal,
    User,
    Volume,
    Word,
    Workdir,
)


def expanded_words(node: Instruction) -> Iterable[Word]:
    """The words in which variables stand for their values, in the order written.

    An ARG's defaults are left out: a build argument may take their place unread.
    """
    match node:
        case Env() | Label():
            return [word for pair in node.pairs for word in pair]
        case Workdir():
            return [node.path]
        case User():
            return [node.user]
        case Stopsignal():
            return [node.signal]
        case Volume():
            return node.paths
        case Expose():
            return node.ports
        case Copy() | Add():
            words = [*node.sources, node.destination]
            return words + [word for word in _flags(node) if word]
        case Run():
            options = [option for mount in node.mounts for option in mount.options]
            return [option.value for option in options if option.value]
        case _:
            return ()


def _flags(node: Copy | Add) -> Iterable[Word | None]:
    checksum = node.checksum if isinstance(node, Add) else None
    return (node.chown, node.chmod, checksum)
