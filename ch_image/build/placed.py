"""Faults of a step get the step's place: the word that they are about, where that can be told."""

from __future__ import annotations

from ch_image.build.origins import ImageOrigin
from ch_image.build.plan import Plan, Step
from ch_image.dockerfile.ast import Span
from ch_image.dockerfile.suggest import nearest
from ch_image.errors import (
    BuildError,
    DockerfileError,
    ImageError,
    RegistryError,
    SandboxError,
)
from ch_image.regex import regex
from ch_image.report import Warned

_UNPLACED = (BuildError, ImageError, RegistryError, SandboxError)
_QUOTED = regex(r'"([^"]+)"')
_MAX_LINES = 100  # of an instruction, that are searched


class placed:
    """A block in which a step is looked up or carried out. Raises DockerfileError for the faults
    of the block that know no place.
    """

    def __init__(self, step: Step, plan: Plan) -> None:
        self._step, self._plan = step, plan

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, _UNPLACED) or isinstance(error, DockerfileError):
            return
        step = self._step
        word = step.instruction.text.split()[0].upper()
        message = str(error) if str(error).startswith(word) else f"{word}: {error}"
        hint = _stage_meant(step, self._plan) if isinstance(error, RegistryError) else ""
        where = _word(step, str(error)) or step.instruction.span
        raise step.source.fault(where, message, hint=hint or error.hint) from error


def warned(problem: BuildError, step: Step) -> Warned:
    """What may not be meant at a step, with its place."""
    word = step.instruction.text.split()[0].upper()
    where = _word(step, str(problem)) or step.instruction.span
    hint = f" ({problem.hint})" if problem.hint else ""
    return Warned(f"{step.source.fault(where, f'{word}: {problem}')}{hint}")


def _word(step: Step, message: str) -> Span | None:
    """The place of what the message quotes, or of the image that the step asks for."""
    wanted = _QUOTED.findall(message)
    wanted += [origin.reference for origin in step.origins if isinstance(origin, ImageOrigin)]
    lines, first = step.source.lines, step.instruction.span.line
    escape = step.source.directives.escape
    for text in wanted:
        for number in range(first, min(len(lines), first + _MAX_LINES) + 1):
            line = lines[number - 1]
            column = line.find(text)
            if column >= 0:
                return Span(number, column + 1, len(text))
            if not line.rstrip().endswith(escape):
                break
    return None


def _stage_meant(step: Step, plan: Plan) -> str:
    """A hint, if the image that cannot be had is spelt almost like a stage."""
    before = [stage.name for stage in plan.stages[: step.stage]]
    for origin in step.origins:
        if isinstance(origin, ImageOrigin) and (near := nearest(origin.reference, before)):
            return f"did you mean the stage {near}?"
    return ""
