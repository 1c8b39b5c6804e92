"""The build cache as a tree of steps: which stands on which, its size, last use, and users."""

from __future__ import annotations

import time

from ch_image.cli.console import size
from ch_image.errors import ChError, printable
from ch_image.storage.cache import CacheRecord
from ch_image.storage.clean import last_use, parent_of
from ch_image.storage.images import Image
from ch_image.storage.layers import LayerId
from ch_image.storage.store import Storage
from ch_image.storage.usage import own_size
from ch_image.typed import Any, NamedTuple

_WIDTH = 60  # columns of the steps in a plain tree
_TEXT = 100  # characters of an instruction in a graph


class Node(NamedTuple):
    """One step; ``size`` is None where it made no layer."""

    record: CacheRecord
    size: int | None
    used: float
    images: tuple[str, ...]
    children: list[Node]

    @property
    def label(self) -> str:
        """The instruction, safe to show."""
        return printable(self.record.text)


def forest(storage: Storage) -> list[Node]:
    """The steps that stand on no other, each with what stands on it; oldest first."""
    # Keys of steps are hexadecimal; other records tell what a name of a base meant last.
    found = (record for record in storage.cache.all() if "-" not in record.key)
    records = sorted(found, key=lambda one: (one.created, one.key))
    users = _users(storage)
    used = last_use(records)
    nodes = {}
    for record in records:
        amount = own_size(storage.layers.tree(record.layer)) if record.layer else None
        names = tuple(users.get(record.layer, ())) if record.layer else ()
        nodes[record.key] = Node(record, amount, used[record.key], names, [])
    roots: list[Node] = []
    for node in nodes.values():
        parent = nodes.get(parent_of(node.record))
        (parent.children if parent is not None else roots).append(node)
    return roots


def _users(storage: Storage) -> dict[LayerId, list[str]]:
    """Which images a layer is part of; damaged ones are part of none."""
    out: dict[LayerId, list[str]] = {}
    for summary in storage.images.list():
        try:
            image: Image = storage.images.get(summary.ref)
        except ChError:
            continue
        for layer in image.layers:
            out.setdefault(layer, []).append(printable(summary.name, 200))
    return out


def plain(roots: list[Node]) -> list[str]:
    """Lines of text; a chain of steps stays in its column, ``-`` begins what branches off."""
    lines = []
    todo = [(node, "", "* ", "") for node in reversed(roots)]
    while todo:
        node, indent, mark, stage = todo.pop()
        lines.append(_line(node, indent + mark, stage))
        stage = node.record.stage
        if node.children:
            *branches, last = node.children
            todo.append((last, indent, "* ", stage))
            todo += [(branch, indent + "| ", "- ", stage) for branch in reversed(branches)]
    return lines


def _line(node: Node, mark: str, stage: str) -> str:
    own = printable(node.record.stage, 40)
    name = f"[{own}] " if node.record.stage != stage and own else ""
    text = f"{mark}{name}{node.label}"
    text = text if len(text) <= _WIDTH else text[: _WIDTH - 2] + ".."
    return f"{text:<{_WIDTH}} {_facts(node)}".rstrip()


def _facts(node: Node) -> str:
    amount = size(node.size) if node.size is not None else ""
    return f"{amount:>10}  {ago(node.used):>8}  {', '.join(node.images)}"


def ago(when: float) -> str:
    """How long ago, in the largest unit that fits."""
    seconds = max(0.0, time.time() - when)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def as_json(roots: list[Node]) -> list[dict[str, Any]]:
    """One object a step, parents first; sizes in bytes, times in seconds since 1970."""
    out = []
    todo = list(reversed(roots))
    known = {node.record.key for node in _all(roots)}
    while todo:
        node = todo.pop()
        record, parent = node.record, parent_of(node.record)
        out.append({
            "key": record.key,
            "parent": parent if parent in known else None,
            "stage": record.stage,
            "instruction": record.text,
            "layer": record.layer,
            "size": node.size,
            "created": record.created,
            "used": node.used,
            "seconds": record.seconds,
            "images": list(node.images),
        })  # fmt: skip
        todo += reversed(node.children)
    return out


def dot(roots: list[Node]) -> list[str]:
    """A graph for Graphviz: steps, and the images that end with their layers."""
    lines = ["digraph cache {", "  rankdir=TB; node [shape=box, fontsize=10];"]
    tops: dict[str, str] = {}
    for node in _all(roots):
        key = node.record.key[:16]
        text = printable(node.record.text, _TEXT)
        if node.size is not None:
            text += f"\n{size(node.size)}"
        lines.append(f"  k{key} [label={_quoted(text)}];")
        lines += [f"  k{key} -> k{child.record.key[:16]};" for child in node.children]
        for name in node.images:  # parents come first, so the last step of an image wins
            tops[name] = key
    for number, (name, key) in enumerate(tops.items()):
        lines.append(f"  i{number} [label={_quoted(name)}, shape=ellipse, style=filled];")
        lines.append(f"  k{key} -> i{number} [style=dashed];")
    return [*lines, "}"]


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _all(roots: list[Node]) -> list[Node]:
    out = []
    todo = list(reversed(roots))
    while todo:
        node = todo.pop()
        out.append(node)
        todo += reversed(node.children)
    return out
