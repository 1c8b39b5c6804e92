"""What the engine tells while it works; who paints it is the command line's choice.

Events are plain values. A ``Reporter`` is any function of one event; it may be called from
several threads and must not raise.
"""

from __future__ import annotations

from collections.abc import Callable

from ch_image.typed import NamedTuple, TypeAlias


class StepStarted(NamedTuple):
    """A step is carried out now. ``number`` is its Dockerfile line, ``stage`` its stage's name."""

    number: int
    stage: str
    text: str


class StepHit(NamedTuple):
    """A step was found in the build cache."""

    number: int
    stage: str
    text: str


class StepDone(NamedTuple):
    """A step that was started has ended well after ``seconds``."""

    number: int
    stage: str
    seconds: float


class StepFaulted(NamedTuple):
    """A step that was started has failed; the build ends with its error."""

    number: int
    stage: str


class Output(NamedTuple):
    """One line (without its end) that a RUN command wrote; ``number`` is its step's line."""

    number: int
    stage: str
    line: str


class Progress(NamedTuple):
    """A transfer: ``done`` of ``total`` bytes (0: unknown) of what ``what`` names."""

    what: str
    done: int
    total: int


class Info(NamedTuple):
    """Something every user wants to read, such as "pulling image"."""

    text: str


class Detail(NamedTuple):
    """Something to read with ``-v`` (level 1) or ``--debug`` (level 2)."""

    text: str
    level: int = 1


class Warned(NamedTuple):
    """Something that is probably not meant; repeated at the end."""

    text: str


Event: TypeAlias = (
    StepStarted | StepHit | StepDone | StepFaulted | Output | Progress | Info | Detail | Warned
)
Reporter: TypeAlias = Callable[[Event], None]


def silent(event: Event) -> None:
    """The reporter of those who want to hear nothing."""
