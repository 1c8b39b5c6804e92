"""Which steps a build takes, what each needs, and what is refused before anything runs."""

from __future__ import annotations

import pytest

from ch_image.build.args import make_scope, unused_build_args
from ch_image.build.origins import ContextOrigin, ImageOrigin, ScratchOrigin, StageOrigin
from ch_image.build.plan import Plan, plan, with_triggers
from ch_image.dockerfile.parser import parse
from ch_image.errors import DockerfileError, UsageError
from ch_image.model.platforms import Platform

AMD64 = Platform("linux", "amd64")


def planned(
    text: str,
    target: str = "",
    contexts: tuple[str, ...] = (),
    build_args: dict[str, str] | None = None,
    platform: Platform = AMD64,
) -> Plan:
    dockerfile = parse(text)
    scope = make_scope(
        dockerfile,
        build_args=build_args,
        platform=platform,
        build_platform=AMD64,
        target=target,
    )
    return plan(dockerfile, scope, target=target, contexts=contexts)


def lines(found: Plan) -> list[str]:
    return [str(step) for step in found.steps]


def test_steps_print_with_what_they_need() -> None:
    found = planned(
        "FROM a AS one\nRUN x\nFROM b\nCOPY --from=one /x /y\nRUN --mount=from=one,target=/m z\n"
    )
    assert str(found) == (
        "1 [one] FROM a AS one\n"
        "2 [one] RUN x (needs 1)\n"
        "3 [stage-1] FROM b\n"
        "4 [stage-1] COPY --from=one /x /y (needs 2, 3)\n"
        "5 [stage-1] RUN --mount=from=one,target=/m z (needs 2, 4)"
    )


# text, target, the names of the stages that have steps
NEEDED = {
    "only the last": ("FROM a\nFROM b\n", "", ["stage-1"]),
    "its base": ("FROM a AS x\nFROM b\nFROM x\n", "", ["x", "stage-2"]),
    "what it copies from": ("FROM a AS x\nFROM b\nCOPY --from=x a b\n", "", ["x", "stage-1"]),
    "by number": ("FROM a\nFROM b AS y\nCOPY --from=0 a b\n", "", ["stage-0", "y"]),
    "what it mounts": (
        "FROM a AS x\nFROM b\nRUN --mount=type=bind,from=x,target=/m true\n",
        "",
        ["x", "stage-1"],
    ),
    "across stages": (
        "FROM a AS x\nFROM b AS y\nCOPY --from=x a b\nFROM c\nFROM d\nCOPY --from=y a b\n",
        "",
        ["x", "y", "stage-3"],
    ),
    "the target": ("FROM a AS x\nFROM b\n", "x", ["x"]),
    "the target in another case": ("FROM a AS X\nFROM b\n", "x", ["x"]),
    "the target by number": ("FROM a\nFROM b\n", "0", ["stage-0"]),
    "the later of two with one name": ("FROM a AS x\nFROM b AS x\n", "x", ["x"]),
    "what a trigger of the base stage copies from": (
        "FROM a AS w\nFROM b AS x\nONBUILD COPY --from=w a b\nFROM x\n",
        "",
        ["w", "x", "stage-2"],
    ),
}


@pytest.mark.parametrize(("text", "target", "names"), NEEDED.values(), ids=NEEDED.keys())
def test_only_stages_that_the_target_needs_have_steps(
    text: str, target: str, names: list[str]
) -> None:
    found = planned(text, target)
    assert [stage.name for stage in found.stages if stage.steps] == names
    assert found.stages[found.target].name == names[-1]


# FROM lines, build arguments, the base of the last stage
BASES = {
    "image": ("FROM debian:12", {}, ImageOrigin("debian:12")),
    "scratch": ("FROM scratch", {}, ScratchOrigin()),
    "stage": ("FROM a AS x\nFROM x", {}, StageOrigin(0)),
    "stage in another case": ("FROM a AS Build\nFROM BUILD", {}, StageOrigin(0)),
    "its own name is an image": ("FROM debian AS debian", {}, ImageOrigin("debian")),
    "a later name is an image": ("FROM b AS a\nFROM c AS b", {}, ImageOrigin("c")),
    "the latest stage of that name": ("FROM a AS x\nFROM b AS x\nFROM x", {}, StageOrigin(1)),
    "a number is an image": ("FROM a\nFROM 0", {}, ImageOrigin("0")),
    "digest": (f"FROM a@sha256:{'0' * 64}", {}, ImageOrigin(f"a@sha256:{'0' * 64}")),
    "ARG": ("ARG v=12\nFROM debian:$v", {}, ImageOrigin("debian:12")),
    "ARG given": ("ARG v=12\nFROM debian:${v}", {"v": "13"}, ImageOrigin("debian:13")),
    "ARG names a stage": ("ARG b=x\nFROM a AS x\nFROM $b", {}, StageOrigin(0)),
    "default in place": ("FROM debian:${v:-11}", {}, ImageOrigin("debian:11")),
    "platform ARG": ("FROM a:$TARGETARCH-$BUILDARCH", {}, ImageOrigin("a:arm64-amd64")),
    "TARGETSTAGE": ("FROM a\nFROM b:$TARGETSTAGE AS z", {}, ImageOrigin("b:z")),
    "quotes": ('FROM "debian:12"', {}, ImageOrigin("debian:12")),
    "FROM --arg": ("FROM --arg=v=9 a:$v", {}, ImageOrigin("a:9")),
    "ARG in a stage is not seen": ("ARG v=1\nFROM a\nARG v=2\nFROM b:$v", {}, ImageOrigin("b:1")),
}


@pytest.mark.parametrize(("text", "build_args", "base"), BASES.values(), ids=BASES.keys())
def test_from_means(text: str, build_args: dict[str, str], base: object) -> None:
    found = planned(text + "\n", build_args=build_args, platform=Platform("linux", "arm64", "v8"))
    assert found.stages[-1].base == base
    assert found.step(found.stages[-1].steps[0]).origins == (base,)


def test_origins_stand_for_each_mount_and_copy() -> None:
    found = planned(
        "FROM a AS x\nFROM b\n"
        "COPY one two\nCOPY --from=img:1 one two\nCOPY --from=scratch one two\n"
        "RUN --mount=type=cache,target=/c --mount=from=x,target=/m --mount=type=tmpfs,target=/t y\n"
        "ENV a=1\n"
    )
    assert [step.origins for step in found.steps[2:]] == [
        (None,),
        (ImageOrigin("img:1"),),
        (ScratchOrigin(),),
        (None, StageOrigin(0), None),
        (),
    ]


CONTEXTS = {
    "a base image": ("FROM alpine", "alpine", ContextOrigin("alpine")),
    "whatever way it is written": (
        "FROM docker.io/library/alpine:latest",
        "alpine",
        ContextOrigin("alpine"),
    ),
    "not another tag": ("FROM alpine:3", "alpine", ImageOrigin("alpine:3")),
    "any name": ("FROM My.Files", "My.Files", ContextOrigin("My.Files")),
    "not an earlier stage": ("FROM a AS x\nFROM x", "y", StageOrigin(0)),
    "a whole stage": ("FROM a AS x\nRUN boom", "x", ContextOrigin("x")),
}


@pytest.mark.parametrize(("text", "context", "base"), CONTEXTS.values(), ids=CONTEXTS.keys())
def test_a_named_context_stands_in_for(text: str, context: str, base: object) -> None:
    found = planned(text + "\n", contexts=(context,))
    assert found.stages[-1].base == base


def test_a_stage_replaced_by_a_context_runs_nothing() -> None:
    found = planned("FROM a AS x\nRUN boom\nFROM b\nCOPY --from=x a b\n", contexts=("x",))
    assert [step.instruction.text for step in found.steps] == [
        "FROM a AS x",
        "FROM b",
        "COPY --from=x a b",
    ]


def test_platforms_of_stages() -> None:
    found = planned("FROM --platform=$BUILDPLATFORM a\nFROM --platform=arm64 b\nFROM c\n")
    assert [stage.platform for stage in found.stages] == [
        AMD64,
        Platform("linux", "arm64", "v8"),
        None,
    ]


# text, line and column of the fault, what it says, what the hint says
REFUSED = {
    "copying from a later stage": (
        "FROM a AS x\nCOPY --from=y a b\nFROM b AS y\nFROM x\n",
        (2, 13),
        'stage "y" begins only in line 3',
        'move stage "y" above',
    ),
    "mounting a later stage": (
        "FROM a AS x\nRUN --mount=from=y,target=/m z\nFROM b AS y\nFROM x\n",
        (2, 18),
        "begins only in line 3",
        "above",
    ),
    "copying from itself": ("FROM a AS x\nCOPY --from=x a b\n", (2, 13), "cannot need itself", ""),
    "copying from itself by number": ("FROM a\nCOPY --from=0 a b\n", (2, 13), "need itself", ""),
    "a circle": (
        "FROM a AS x\nCOPY --from=y a b\nFROM b AS y\nCOPY --from=x a b\n",
        (2, 13),
        'stages "x" and "y" need each other',
        "",
    ),
    "a circle through FROM": (
        "FROM a AS x\nCOPY --from=z a b\nFROM b\nFROM x AS z\n",
        (2, 13),
        'stages "x" and "z" need each other',
        "",
    ),
    "a circle nobody needs": (
        "FROM a AS x\nCOPY --from=y a b\nFROM x AS y\nFROM c\n",
        (2, 13),
        "need each other",
        "",
    ),
    "a number that is no stage": (
        "FROM a\nCOPY --from=3 a b\n",
        (2, 13),
        "there is no stage 3",
        "count from 0",
    ),
    "a variable in --from": ("FROM a\nCOPY --from=$x a b\n", (2, 13), "variables", "stage"),
    "a misspelt stage that can be no image": (
        "FROM a AS builder\nFROM b\nCOPY --from=Bulder a b\n",
        (3, 13),
        "not an image reference",
        'did you mean "builder"?',
    ),
    "a base that can be no image": (
        "FROM Debian\n",
        (1, 6),
        "not an image reference",
        "lower case",
    ),
    "a base whose variable is not set": (
        "ARG VERSION=1\nFROM debian:$VERSON\n",
        (2, 6),
        "not an image reference",
        'did you mean "VERSION"?',
    ),
    "a base that is empty": ("FROM $base\n", (1, 6), "empty", "ARG base=VALUE"),
    "a variable that must be set": ("FROM ${base:?which}\n", (1, 6), "which", ""),
    "a platform": ("FROM --platform=linux/amd64/x/y a\n", (1, 17), "not a platform", ""),
}


@pytest.mark.parametrize(("text", "place", "says", "hints"), REFUSED.values(), ids=REFUSED.keys())
def test_a_plan_that_cannot_be_is_refused_at_its_place(
    text: str, place: tuple[int, int], says: str, hints: str
) -> None:
    with pytest.raises(DockerfileError) as caught:
        planned(text)
    assert caught.value.where == ("Dockerfile", *place)
    assert says in caught.value.args[0]
    assert hints in caught.value.hint


def test_a_later_stage_may_be_named_where_nobody_goes() -> None:
    found = planned("FROM a AS x\nCOPY --from=y a b\nFROM b AS y\n")
    assert [stage.name for stage in found.stages if stage.steps] == ["y"]


def test_an_unknown_target_is_answered_with_a_near_name() -> None:
    with pytest.raises(UsageError) as caught:
        planned("FROM a AS builder\nFROM b\n", "buidler")
    assert caught.value.hint == 'did you mean "builder"?'


def test_triggers_of_a_base_stage_come_behind_its_childs_from() -> None:
    found = planned("FROM a AS x\nONBUILD RUN one\nRUN two\nFROM x\nRUN three\n")
    assert [step.instruction.text for step in found.steps] == [
        "FROM a AS x",
        "ONBUILD RUN one",
        "RUN two",
        "FROM x",
        "RUN one",
        "RUN three",
    ]
    trigger = found.steps[4]
    assert trigger.trigger
    assert trigger.line == 4
    assert found.steps[5].needs == (trigger.id,)


def test_triggers_of_an_image_make_a_larger_plan_of_the_same_steps() -> None:
    old = planned("FROM q AS tools\nRUN y\nFROM a\nRUN x\nFROM b\nCOPY --from=1 a b\n", "2")
    assert [stage.name for stage in old.stages if stage.steps] == ["stage-1", "stage-2"]
    new = with_triggers(old, 1, ["RUN one", "COPY --from=tools /a /b"])
    assert {step.id for step in old.steps} < {step.id for step in new.steps}
    assert [(s.stage_name, s.instruction.text) for s in new.steps] == [
        ("tools", "FROM q AS tools"),
        ("tools", "RUN y"),
        ("stage-1", "FROM a"),
        ("stage-1", "RUN one"),
        ("stage-1", "COPY --from=tools /a /b"),
        ("stage-1", "RUN x"),
        ("stage-2", "FROM b"),
        ("stage-2", "COPY --from=1 a b"),
    ]
    assert new.target == old.target
    one, copy = (step for step in new.steps if step.trigger)
    assert old.step(4).needs == (3,)
    assert new.step(4).needs == (copy.id,)
    assert one.needs == (3,)
    assert copy.needs == (2, one.id)
    assert one.line == 3
    again = with_triggers(new, 2, ["USER x"])
    assert {step.id for step in new.steps} < {step.id for step in again.steps}


def test_a_stage_of_only_from_ends_with_its_triggers() -> None:
    old = planned("FROM a AS x\nFROM x\n")
    new = with_triggers(old, 0, ["RUN one"])
    trigger = next(step for step in new.steps if step.trigger)
    assert new.step(2).needs == (trigger.id,)
    assert not any(step.trigger for step in new.steps if step.stage == 1)


@pytest.mark.parametrize("trigger", ["FROM a", "ONBUILD RUN x", "MAINTAINER x", "NOPE x", ""])
def test_a_trigger_that_is_none_is_refused_in_the_words_of_the_image(trigger: str) -> None:
    old = planned("FROM debian:12\n")
    with pytest.raises(DockerfileError) as caught:
        with_triggers(old, 0, [trigger])
    assert caught.value.where[0] == "ONBUILD of debian:12"


def test_build_arguments_that_nothing_declares_are_told() -> None:
    dockerfile = parse("ARG a\nFROM --arg=b=1 x\nARG c=1 d\n")
    given = dict.fromkeys(["a", "b", "c", "d", "e", "HTTP_PROXY", "TARGETARCH"], "1")
    assert unused_build_args(dockerfile, given) == ("e",)
