"""Where a step's files come from, and which stages a Dockerfile has. Pure.

Signatures:

    readread_stages(dockerfile, scope, contexts) -> list[StageDraft]
    outside(name, contexts) -> Origin
    near_name(name, names) -> hint or ""

A name means an earlier stage, then a named context (``--build-context``), then an image.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from ch_image.build.args import Reader, Scope
from ch_image.dockerfile.ast import Arg, Dockerfile, From, Instruction, Span
from ch_image.dockerfile.expand import Expander
from ch_image.dockerfile.suggest import nearest
from ch_image.errors import ImageError, UsageError
from ch_image.model.platforms import Platform, parse_platform
from ch_image.model.ref import parse_ref
from ch_image.typed import NamedTuple, TypeAlias

SCRATCH = "scratch"


class StageOrigin(NamedTuple):
    """Files of the stage with this index."""

    stage: int


class ImageOrigin(NamedTuple):
    """Files of an image, by a checked reference."""

    reference: str


class ContextOrigin(NamedTuple):
    """Files of the ``--build-context`` of this name."""

    name: str


class ScratchOrigin(NamedTuple):
    """An empty tree."""


Origin: TypeAlias = StageOrigin | ImageOrigin | ContextOrigin | ScratchOrigin


class StageDraft(NamedTuple):
    """A stage while its references are still names."""

    number: int
    name: str
    alias: str
    from_: From
    body: tuple[tuple[int, Instruction], ...]  # with their numbers in the file
    base: Origin
    platform: Platform | None


def read_stages(dockerfile: Dockerfile, scope: Scope, contexts: frozenset[str]) -> list[StageDraft]:
    drafts: list[StageDraft] = []
    names: dict[str, int] = {}
    starts = [n for n, node in enumerate(dockerfile.instructions) if isinstance(node, From)]
    first = starts[0] if starts else len(dockerfile.instructions)
    for node in dockerfile.instructions[:first]:
        if not isinstance(node, Arg):
            word = node.text.split()[0].upper()
            raise dockerfile.fault(
                node.span,
                f"{word} before the first FROM",
                hint="a Dockerfile starts with FROM; only ARG may come before it",
            )
    if not starts:
        raise dockerfile.fault(
            Span(max(1, len(dockerfile.lines)), 1),
            "there is no FROM, so there is nothing to build",
            hint="start with FROM IMAGE, or FROM scratch for an empty one",
        )
    for index, start in enumerate(starts):
        end = starts[index + 1] if index + 1 < len(starts) else len(dockerfile.instructions)
        node = dockerfile.instructions[start]
        assert isinstance(node, From)
        name = node.name or f"stage-{index}"
        body = tuple(enumerate(dockerfile.instructions))[start:end]
        base, platform = _base(dockerfile, scope, node, names, contexts)
        if node.name and node.name in contexts:  # the context stands in for the whole stage
            base, body = ContextOrigin(node.name), body[:1]
        drafts.append(StageDraft(index, name, node.name, node, body, base, platform))
        if node.name:
            names[node.name] = index
    return drafts


def _base(
    dockerfile: Dockerfile,
    scope: Scope,
    node: From,
    names: Mapping[str, int],
    contexts: frozenset[str],
) -> tuple[Origin, Platform | None]:
    values = dict(scope.global_args)
    for pair in node.args:
        name = pair.key.text
        default = Expander(dockerfile, values.get).word(pair.value)
        values[name] = scope.build_args.get(name, default)
    reader = Reader(values)
    text = Expander(dockerfile, reader).word(node.image)
    empty = [name for name in sorted(reader.seen) if not values.get(name)]
    if not text:
        raise dockerfile.fault(
            node.image.span,
            "FROM has no image: the variables in it are empty",
            hint=_undefined(empty, values),
        )
    platform = None
    if node.platform is not None:
        wish = Expander(dockerfile, values.get).word(node.platform)
        try:
            platform = parse_platform(wish)
        except UsageError as error:
            raise dockerfile.fault(node.platform.span, str(error), hint=error.hint) from None
    if text.lower() in names:
        return StageOrigin(names[text.lower()]), platform
    try:
        return outside(text, contexts), platform
    except ImageError as error:
        hint = _undefined(empty, values) or near_name(text, names) or error.hint
        raise dockerfile.fault(node.image.span, str(error), hint=hint) from None


def _undefined(empty: Sequence[str], values: Mapping[str, str]) -> str:
    if not empty:
        return ""
    near = near_name(empty[0], [name for name in values if name not in empty])
    return near or f"declare it before the first FROM: ARG {empty[0]}=VALUE"


def outside(name: str, contexts: frozenset[str]) -> Origin:
    """What ``name`` means when it is no stage. Raises ImageError."""
    if name == SCRATCH:
        return ScratchOrigin()
    if name in contexts:
        return ContextOrigin(name)
    reference = parse_ref(name)
    for context in contexts:
        try:
            if parse_ref(context).canonical == reference.canonical:
                return ContextOrigin(context)
        except ImageError:
            continue  # a context need not have the name of an image
    return ImageOrigin(name)


def near_name(name: str, names: Collection[str]) -> str:
    """A hint when ``name`` looks like a misspelt one of ``names``, else nothing."""
    found = nearest(name, names)
    return f'did you mean "{found}"?' if found else ""
