"""Dockerfiles folded without a build: what state and effect their instructions leave."""

from __future__ import annotations

from collections.abc import Mapping

from ch_image.build.args import make_scope
from ch_image.build.effects import Effect
from ch_image.build.fold import fold
from ch_image.build.state import BuildState, Folded, start_image, start_scratch, start_stage
from ch_image.dockerfile.ast import From
from ch_image.dockerfile.parser import parse
from ch_image.model.oci import ImageConfig, RunConfig
from ch_image.model.platforms import Platform

AMD64 = Platform("linux", "amd64")


def steps(
    text: str,
    base: RunConfig | None = None,
    build_args: Mapping[str, str] | None = None,
    passed: Mapping[str, str] | None = None,
) -> list[Folded]:
    """What each instruction of ``text`` gives, the FROMs left out.

    The first stage is based on ``base`` (None: scratch), each other on the one before it. A text
    without a FROM gets one.
    """
    dockerfile = parse(text if "FROM " in text else f"FROM scratch\n{text}")
    scope = make_scope(dockerfile, build_args=build_args, passed=passed, platform=AMD64)
    out: list[Folded] = []
    state: BuildState | None = None
    for instruction in dockerfile.instructions:
        if isinstance(instruction, From):
            if state is None:
                state = start_image(ImageConfig(AMD64, base)) if base else start_scratch(AMD64)
            else:
                state = start_stage(state)
        if state is not None:
            folded = fold(state, instruction, scope, dockerfile)
            state = folded.state
            out.append(folded)
    return out


def state_of(
    text: str,
    base: RunConfig | None = None,
    build_args: Mapping[str, str] | None = None,
    passed: Mapping[str, str] | None = None,
) -> BuildState:
    """The state after the last instruction of ``text``."""
    return steps(text, base, build_args, passed)[-1].state


def effect_of(
    text: str,
    build_args: Mapping[str, str] | None = None,
    passed: Mapping[str, str] | None = None,
) -> Effect | None:
    """The effect of the last instruction of ``text``."""
    return steps(text, None, build_args, passed)[-1].effect
