"""From a Dockerfile to numbered steps and what each needs. Pure: no image is looked at.

Signatures:

    plan(dockerfile, scope, target="", contexts=()) -> Plan
    with_triggers(plan, stage, base_triggers) -> Plan

A stage that the target does not need has no steps. ``FROM NAME``, ``COPY --from`` and ``RUN
--mount=from=`` look for an earlier stage, then for a named context (``--build-context``), then
mean an image. ONBUILD triggers of a stage are known here; those of an image only when its config
is, and then `with_triggers` makes a larger plan in which every older step keeps its id.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from ch_image.build.args import Scope
from ch_image.build.origins import (
    ImageOrigin,
    Origin,
    StageDraft,
    StageOrigin,
    near_name,
    outside,
    read_stages,
)
from ch_image.dockerfile.ast import (
    Copy,
    Dockerfile,
    From,
    Instruction,
    Maintainer,
    Mount,
    Onbuild,
    Run,
    Span,
    Word,
)
from ch_image.errors import ImageError, UsageError, printable
from ch_image.model.platforms import Platform
from ch_image.typed import NamedTuple


class Step(NamedTuple):
    """One instruction to carry out, once all that it needs is done.

    ``origins`` has for FROM its base, for COPY the ``--from`` (None: the build context), for RUN
    one entry per mount (None where it has no ``from``), and is empty for all others.
    """

    id: int
    stage: int
    stage_name: str
    instruction: Instruction
    needs: tuple[int, ...]
    origins: tuple[Origin | None, ...]
    source: Dockerfile  # what `instruction.span` points into
    line: int  # of the file that is built: for a trigger, its FROM
    trigger: bool = False

    def __str__(self) -> str:
        needs = ", ".join(map(str, self.needs))
        text = f"{self.id} [{self.stage_name}] {self.instruction.text}"
        return text + (f" (needs {needs})" if needs else "")

    def __repr__(self) -> str:
        return f"<Step {self}>"


class Stage(NamedTuple):
    """One FROM and what follows it. A stage that is not needed has no steps."""

    number: int
    name: str  # "stage-N" when the file gives none
    base: Origin
    platform: Platform | None  # of FROM --platform
    steps: tuple[int, ...]

    @property
    def last(self) -> int:
        """The step whose result is the stage's."""
        return self.steps[-1]


class Trigger(NamedTuple):
    """An instruction that ONBUILD of a base adds to a stage, and what its span points into."""

    instruction: Instruction
    source: Dockerfile


class Plan(NamedTuple):
    """Steps in an order that satisfies their needs, for one target."""

    dockerfile: Dockerfile
    scope: Scope
    stages: tuple[Stage, ...]
    steps: tuple[Step, ...]
    target: int  # index of the stage that is wanted
    contexts: frozenset[str]
    triggers: Mapping[int, tuple[Trigger, ...]]  # of image bases, by stage
    by_id: Mapping[int, Step]

    def step(self, number: int) -> Step:
        """The step with this id."""
        return self.by_id[number]

    def __str__(self) -> str:
        return "\n".join(map(str, self.steps))


def plan(
    dockerfile: Dockerfile, scope: Scope, *, target: str = "", contexts: Collection[str] = ()
) -> Plan:
    """Order what building ``target`` (default: the last stage) takes.

    ``contexts`` are the names that ``--build-context`` gives. Raises DockerfileError at the place
    of a reference that cannot be, UsageError for an unknown target.
    """
    return _build(dockerfile, scope, target, frozenset(contexts), {})


def with_triggers(old: Plan, stage: int, base_triggers: Sequence[str]) -> Plan:
    """``old`` with the ONBUILD triggers of the image that ``stage`` is based on.

    Steps of ``old`` keep their ids, though some need more than before; steps may come up in
    stages that were not needed. Raises DockerfileError in the words of the trigger.
    """
    if not base_triggers:
        return old
    triggers = dict(old.triggers)
    triggers[stage] = tuple(_parse_trigger(text, old.stages[stage]) for text in base_triggers)
    name = str(old.target)
    return _build(old.dockerfile, old.scope, name, old.contexts, triggers)


def _parse_trigger(text: str, stage: Stage) -> Trigger:
    from ch_image.dockerfile.parser import parse_instruction

    base = stage.base.reference if isinstance(stage.base, ImageOrigin) else stage.name
    source = parse_instruction(text, f"ONBUILD of {printable(base, 200)}")
    node = source.instructions[0]
    if isinstance(node, From | Onbuild | Maintainer):
        word = printable(node.text.split()[0].upper())
        raise source.fault(node.span, f"{word} cannot be an ONBUILD trigger")
    return Trigger(node, source)


def _build(
    dockerfile: Dockerfile,
    scope: Scope,
    target: str,
    contexts: frozenset[str],
    triggers: Mapping[int, tuple[Trigger, ...]],
) -> Plan:
    drafts = read_stages(dockerfile, scope, contexts)
    wanted = _target(drafts, target)
    finder = _Finder(drafts, contexts, dockerfile, triggers)
    edges = {draft.number: finder.edges(draft) for draft in drafts}
    _refuse_circles(drafts, edges)
    needed = _reachable(edges, wanted)
    _refuse_later(drafts, edges, needed)
    steps, stages = finder.number(needed)
    by_id = {step.id: step for step in steps}
    return Plan(dockerfile, scope, stages, steps, wanted, contexts, triggers, by_id)


def _target(drafts: Sequence[StageDraft], target: str) -> int:
    if not target:
        return drafts[-1].number
    for draft in reversed(drafts):
        if draft.alias == target.lower():
            return draft.number
    if target.isdecimal() and int(target) < len(drafts):
        return int(target)
    names = [draft.alias for draft in drafts if draft.alias]
    hint = near_name(target, names) or (f"stages are: {', '.join(names)}" if names else "")
    raise UsageError(f'there is no stage "{printable(target, 100)}" to build', hint=hint)


class _Edge(NamedTuple):
    """A stage needs another: for ``span`` of ``source``."""

    stage: int
    source: Dockerfile
    span: Span
    what: str  # "FROM", "COPY --from", "RUN --mount"


class _Finder:
    """Resolves the names in the stages of one file."""

    def __init__(
        self,
        drafts: Sequence[StageDraft],
        contexts: frozenset[str],
        dockerfile: Dockerfile,
        triggers: Mapping[int, tuple[Trigger, ...]],
    ) -> None:
        self.drafts, self.contexts = drafts, contexts
        self.dockerfile, self.triggers = dockerfile, triggers

    def edges(self, draft: StageDraft) -> list[_Edge]:
        """The stages that ``draft`` needs, and where it says so."""
        out = []
        for _, instruction, source, _trigger in self._body(draft):
            for origin, span, what in self._named(draft, instruction, source):
                if isinstance(origin, StageOrigin):
                    out.append(_Edge(origin.stage, source, span, what))
        return out

    def number(self, needed: Collection[int]) -> tuple[tuple[Step, ...], tuple[Stage, ...]]:
        """The steps of the ``needed`` stages; they need no stage that comes later."""
        steps: list[Step] = []
        stages: list[Stage] = []
        for draft in self.drafts:
            numbers: list[int] = []
            for number, instruction, source, trigger in (
                self._body(draft) if draft.number in needed else ()
            ):
                named = [o for o, _, _ in self._named(draft, instruction, source)]
                before = {stages[o.stage].last for o in named if isinstance(o, StageOrigin)}
                before |= set(numbers[-1:])
                line = draft.from_.span.line if trigger else instruction.span.line
                origins = self._origins(instruction, named)
                needs = tuple(sorted(before))
                steps.append(
                    Step(
                        number,
                        draft.number,
                        draft.name,
                        instruction,
                        needs,
                        origins,
                        source,
                        line,
                        trigger,
                    )
                )
                numbers.append(number)
            stages.append(
                Stage(draft.number, draft.name, draft.base, draft.platform, tuple(numbers))
            )
        return tuple(steps), tuple(stages)

    def _body(self, draft: StageDraft) -> Iterator[tuple[int, Instruction, Dockerfile, bool]]:
        """The instructions of a stage, triggers behind the FROM, each with its step's id."""
        (start, first), *rest = draft.body
        yield start + 1, first, self.dockerfile, False
        offset = len(self.dockerfile.instructions) + draft.number + 1
        for n, trigger in enumerate(self._inherited(draft)):
            yield offset + n * len(self.drafts), trigger.instruction, trigger.source, True
        for n, instruction in rest:
            yield n + 1, instruction, self.dockerfile, False

    def _inherited(self, draft: StageDraft) -> tuple[Trigger, ...]:
        if not isinstance(draft.base, StageOrigin):
            return self.triggers.get(draft.number, ())
        base = self.drafts[draft.base.stage].body
        nodes = [node.instruction for _, node in base if isinstance(node, Onbuild)]
        return tuple(Trigger(node, self.dockerfile) for node in nodes)

    def _origins(self, node: Instruction, named: Sequence[Origin]) -> tuple[Origin | None, ...]:
        if isinstance(node, Run):
            queue = iter(named)
            return tuple(next(queue) if _from_of(mount) else None for mount in node.mounts)
        if isinstance(node, Copy) and node.from_ is None:
            return (None,)
        return tuple(named)

    def _named(
        self, draft: StageDraft, node: Instruction, source: Dockerfile
    ) -> Iterator[tuple[Origin, Span, str]]:
        if isinstance(node, From):
            yield draft.base, node.image.span, "FROM"
        elif isinstance(node, Copy) and node.from_ is not None:
            yield (
                self._find(draft, node.from_, source, "COPY --from"),
                node.from_.span,
                "COPY --from",
            )
        elif isinstance(node, Run):
            for mount in node.mounts:
                word = _from_of(mount)
                if word is not None:
                    what = "RUN --mount=from"
                    yield self._find(draft, word, source, what), word.span, what

    def _find(self, draft: StageDraft, word: Word, source: Dockerfile, what: str) -> Origin:
        """What ``word`` of ``draft`` means: an earlier stage before a later one, then the rest."""
        name = word.text
        if "$" in name:
            raise source.fault(
                word.span,
                f"{what} takes no variables",
                hint="give the image a stage of its own: FROM $IMAGE AS NAME",
            )
        if name.isdecimal():
            if int(name) < len(self.drafts):
                return StageOrigin(int(name))
            message = f"there is no stage {name}: the last one is {len(self.drafts) - 1}"
            raise source.fault(word.span, message, hint="stages count from 0")
        named = [d.number for d in self.drafts if d.alias == name.lower()]
        if named:
            return StageOrigin(max((i for i in named if i < draft.number), default=named[0]))
        try:
            return outside(name, self.contexts)
        except ImageError as error:
            names = [d.alias for d in self.drafts[: draft.number] if d.alias]
            hint = near_name(name, names) or error.hint
            raise source.fault(word.span, str(error), hint=hint) from None


def _from_of(mount: Mount) -> Word | None:
    """The ``from`` of a mount as written, None when it has none."""
    for option in reversed(mount.options):
        if option.key == "from" and option.value is not None and option.value.text:
            return option.value
    return None


def _reachable(edges: Mapping[int, Sequence[_Edge]], wanted: int) -> set[int]:
    seen: set[int] = set()
    queue = [wanted]
    while queue:
        stage = queue.pop()
        if stage not in seen:
            seen.add(stage)
            queue += [edge.stage for edge in edges[stage]]
    return seen


def _refuse_circles(drafts: Sequence[StageDraft], edges: Mapping[int, Sequence[_Edge]]) -> None:
    """Raise DockerfileError when a stage needs, by whatever way, itself."""
    for draft in drafts:
        for edge in edges[draft.number]:
            if edge.stage < draft.number:
                continue  # a circle has an edge that leads to a later stage, or to itself
            if edge.stage == draft.number:
                message = f'{edge.what}: stage "{draft.name}" cannot need itself'
                raise edge.source.fault(edge.span, message)
            if draft.number in _reachable(edges, edge.stage):
                other = drafts[edge.stage].name
                message = f'{edge.what}: stages "{draft.name}" and "{other}" need each other'
                raise edge.source.fault(edge.span, message, hint="one must do without the other")


def _refuse_later(
    drafts: Sequence[StageDraft], edges: Mapping[int, Sequence[_Edge]], needed: Collection[int]
) -> None:
    """Raise DockerfileError when a stage that is needed needs one that comes later."""
    for draft in drafts:
        for edge in edges[draft.number] if draft.number in needed else ():
            if edge.stage > draft.number:
                other = drafts[edge.stage]
                raise edge.source.fault(
                    edge.span,
                    f'{edge.what}: stage "{other.name}" begins only in line '
                    f"{other.from_.span.line}",
                    hint=f'move stage "{other.name}" above stage "{draft.name}"',
                )
