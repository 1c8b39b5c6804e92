"""Which changes make a step miss, which don't, and how a miss is explained."""

from __future__ import annotations

from typing import Any

import pytest
from folding import steps

from ch_image.build.key import StepKey, base_key, explain, name_files, step_key


def keys(
    text: str,
    *,
    base: str = "sha256:base",
    platform: str = "linux/amd64",
    build_args: dict[str, str] | None = None,
    passed: dict[str, str] | None = None,
    content: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
) -> list[StepKey]:
    """The keys of all steps of one stage; the last one reads ``content``."""
    out = [base_key(base, platform)]
    found = steps(text, build_args=build_args, passed=passed)[1:]
    for n, folded in enumerate(found, 1):
        key = step_key(
            folded,
            parent=out[-1].chain,
            platform=platform,
            content=content if n == len(found) else None,
            options=options or {"--force": "seccomp"},
        )
        out.append(key)
    return out


HIT, MISS = True, False
ARG = "ARG X=1\nRUN make"
PROXY = {"HTTP_PROXY": "http://a", "USER": "alice", "SSH_AUTH_SOCK": "/a"}
MOUNT = "RUN --mount=type=cache,target=/c make"
SECRET = "RUN --mount=type=secret,id=s make"
COPY = "COPY src /app/"
# one build, another, whether the last step of the second is found
CHANGES: dict[str, tuple[str, dict[str, Any], str, dict[str, Any], bool]] = {
    "nothing": ("RUN make", {}, "RUN make", {}, HIT),
    "case of the instruction": ("RUN make", {}, "run make", {}, HIT),
    "comments and blank lines": ("RUN make", {}, "\n# why\n\nRUN make", {}, HIT),
    "a comment inside": ("RUN a && \\\n b", {}, "RUN a && \\\n# why\n b", {}, HIT),
    "a break in a line": ("RUN a b", {}, "RUN a \\\nb", {}, HIT),
    "the command": ("RUN make", {}, "RUN make all", {}, MISS),
    "blanks in the command": ("RUN a b", {}, "RUN a  b", {}, MISS),
    "exec form": ("RUN make", {}, 'RUN ["make"]', {}, MISS),
    "the shell's words spelt out": ("RUN make", {}, 'RUN ["/bin/sh", "-c", "make"]', {}, MISS),
    "base image": ("RUN make", {}, "RUN make", {"base": "sha256:new"}, MISS),
    "platform": ("RUN make", {}, "RUN make", {"platform": "linux/arm64"}, MISS),
    "force mode": ("RUN make", {}, "RUN make", {"options": {"--force": "none"}}, MISS),
    "force mode of COPY": (COPY, {}, COPY, {"options": {"--force": "none"}}, HIT),
    "a bind of RUN": (
        "RUN make",
        {},
        "RUN make",
        {"options": {"--force": "seccomp", "--bind /x": "/y"}},
        MISS,
    ),
    "ENV value": ("ENV A=1\nRUN make", {}, "ENV A=2\nRUN make", {}, MISS),
    "ENV added": ("RUN make", {}, "ENV A=1\nRUN make", {}, MISS),
    "ENV name": ("ENV A=1\nRUN make", {}, "ENV B=1\nRUN make", {}, MISS),
    "ENV before COPY": ("ENV A=1\nCOPY a b", {}, "ENV A=2\nCOPY a b", {}, MISS),
    "ENV spelt otherwise": ("ENV A=1\nRUN make", {}, 'ENV A "1"\nRUN make', {}, HIT),
    "ENV with the same value from an ARG": (
        "ARG V=1\nENV A=1\nRUN x",
        {},
        "ARG V=1\nENV A=$V\nRUN x",
        {},
        HIT,
    ),
    "ARG default": (ARG, {}, "ARG X=2\nRUN make", {}, MISS),
    "ARG given": (ARG, {}, ARG, {"build_args": {"X": "2"}}, MISS),
    "ARG given as the default has it": (ARG, {}, ARG, {"build_args": {"X": "1"}}, HIT),
    "ARG given otherwise": (
        ARG,
        {"build_args": {"X": "2"}},
        ARG,
        {"build_args": {"X": "3"}},
        MISS,
    ),
    "ARG that nothing declares": ("RUN make", {}, "RUN make", {"build_args": {"X": "2"}}, HIT),
    "ARG before FROM that the stage does not name": (
        "ARG X=1\nFROM scratch\nRUN make",
        {},
        "ARG X=2\nFROM scratch\nRUN make",
        {},
        HIT,
    ),
    "proxy of the host": ("RUN make", {}, "RUN make", {"passed": PROXY}, HIT),
    "proxy of another host": (
        "RUN make",
        {"passed": PROXY},
        "RUN make",
        {"passed": {"HTTP_PROXY": "http://b", "USER": "bob"}},
        HIT,
    ),
    "proxy by --build-arg": (
        "RUN make",
        {},
        "RUN make",
        {"build_args": {"HTTP_PROXY": "http://a"}},
        HIT,
    ),
    "proxy that an ARG declares": (
        "ARG HTTP_PROXY\nRUN make",
        {},
        "ARG HTTP_PROXY\nRUN make",
        {"passed": PROXY},
        HIT,
    ),
    "proxy that an ARG has a default for": (
        "ARG HTTP_PROXY=x\nRUN make",
        {},
        "ARG HTTP_PROXY=x\nRUN make",
        {"passed": PROXY},
        HIT,
    ),
    "proxy that ENV writes": (
        "ARG HTTP_PROXY\nENV P=$HTTP_PROXY\nRUN make",
        {},
        "ARG HTTP_PROXY\nENV P=$HTTP_PROXY\nRUN make",
        {"passed": PROXY},
        MISS,
    ),
    "ARG of a name that the host passes": (
        "ARG USER=app\nRUN make",
        {},
        "ARG USER=app\nRUN make",
        {"passed": PROXY},
        HIT,
    ),
    "SHELL": ("RUN make", {}, 'SHELL ["/bin/bash", "-c"]\nRUN make', {}, MISS),
    "USER": ("USER a\nRUN make", {}, "USER b\nRUN make", {}, MISS),
    "WORKDIR": ("WORKDIR /a\nRUN make", {}, "WORKDIR /b\nRUN make", {}, MISS),
    "WORKDIR in two steps": ("WORKDIR /a/b\nRUN x", {}, "WORKDIR /a\nWORKDIR b\nRUN x", {}, MISS),
    "WORKDIR of another user": (
        "USER a\nWORKDIR /a",
        {},
        "USER b\nWORKDIR /a",
        {},
        MISS,
    ),
    "an earlier RUN": ("RUN a\nRUN make", {}, "RUN b\nRUN make", {}, MISS),
    "a RUN more": ("RUN make", {}, "RUN make\nRUN make", {}, MISS),
    "LABEL before": ("LABEL a=1\nRUN make", {}, "LABEL a=2\nRUN make", {}, HIT),
    "CMD before": ("RUN make", {}, "CMD x\nRUN make", {}, HIT),
    "ENTRYPOINT before": ("RUN make", {}, 'ENTRYPOINT ["x"]\nRUN make', {}, HIT),
    "EXPOSE before": ("RUN make", {}, "EXPOSE 80\nRUN make", {}, HIT),
    "VOLUME before": ("RUN make", {}, "VOLUME /x\nRUN make", {}, HIT),
    "HEALTHCHECK before": ("RUN make", {}, "HEALTHCHECK NONE\nRUN make", {}, HIT),
    "STOPSIGNAL before": ("RUN make", {}, "STOPSIGNAL 9\nRUN make", {}, HIT),
    "MAINTAINER before": ("RUN make", {}, "MAINTAINER x\nRUN make", {}, HIT),
    "ONBUILD before": ("RUN make", {}, "ONBUILD RUN x\nRUN make", {}, HIT),
    "LABEL itself": ("LABEL a=1", {}, "LABEL a=2", {}, MISS),
    "heredoc text": ("RUN <<E\na\nE", {}, "RUN <<E\nb\nE", {}, MISS),
    "heredoc name": ("RUN <<E\na\nE", {}, "RUN <<F\na\nF", {}, HIT),
    "a script's text": ("RUN <<E\n#!/x\na\nE", {}, "RUN <<E\n#!/x\nb\nE", {}, MISS),
    "--network": ("RUN make", {}, "RUN --network=none make", {}, MISS),
    "--network of the build": (
        "RUN make",
        {},
        "RUN make",
        {"options": {"--force": "seccomp", "--network": "none"}},
        MISS,
    ),
    "--network of RUN under one of the build": (
        "RUN --network=none make",
        {"options": {"--force": "seccomp", "--network": "host"}},
        "RUN make",
        {"options": {"--force": "seccomp", "--network": "host"}},
        MISS,
    ),
    "--mount added": ("RUN make", {}, MOUNT, {}, MISS),
    "--mount target": (MOUNT, {}, "RUN --mount=type=cache,target=/d make", {}, MISS),
    "--mount id": (MOUNT, {}, "RUN --mount=type=cache,target=/c,id=x make", {}, MISS),
    "--mount option spelt otherwise": (MOUNT, {}, "RUN --mount=type=cache,dst=/c make", {}, HIT),
    "--mount type": (MOUNT, {}, "RUN --mount=type=tmpfs,target=/c make", {}, MISS),
    "--mount uid": (MOUNT, {}, "RUN --mount=type=cache,target=/c,uid=1 make", {}, MISS),
    "--mount size": (
        "RUN --mount=type=tmpfs,target=/t make",
        {},
        "RUN --mount=type=tmpfs,target=/t,size=1m make",
        {},
        MISS,
    ),
    "--mount of a stage by another name, equal content": (
        "RUN --mount=from=a,target=/t make",
        {"content": {"/t": "1"}},
        "RUN --mount=from=b,target=/t make",
        {"content": {"/t": "1"}},
        HIT,
    ),
    "--mount content": (
        "RUN --mount=target=/t make",
        {"content": {"/t": "1"}},
        "RUN --mount=target=/t make",
        {"content": {"/t": "2"}},
        MISS,
    ),
    "secret id": (SECRET, {}, "RUN --mount=type=secret,id=t make", {}, MISS),
    "secret required": (SECRET, {}, "RUN --mount=type=secret,id=s,required make", {}, MISS),
    "COPY content": (COPY, {"content": {"src": "1"}}, COPY, {"content": {"src": "2"}}, MISS),
    "COPY equal content": (COPY, {"content": {"src": "1"}}, COPY, {"content": {"src": "1"}}, HIT),
    "COPY destination": (COPY, {}, "COPY src /app", {}, MISS),
    "COPY destination spelt otherwise": (
        "WORKDIR /app\nCOPY src .",
        {},
        "WORKDIR /app\nCOPY src /app/",
        {},
        HIT,
    ),
    "COPY owner": (COPY, {}, "COPY --chown=1 src /app/", {}, MISS),
    "COPY mode": (COPY, {}, "COPY --chmod=755 src /app/", {}, MISS),
    "COPY exclude": (COPY, {}, "COPY --exclude=*.o src /app/", {}, MISS),
    "COPY parents": (COPY, {}, "COPY --parents src /app/", {}, MISS),
    "COPY from a stage of another name, equal content": (
        "COPY --from=a /x /y",
        {"content": {"/x": "1"}},
        "COPY --from=b /x /y",
        {"content": {"/x": "1"}},
        HIT,
    ),
    "COPY of a variable with the same value": (
        "ARG s=src\nCOPY src /app/",
        {},
        "ARG s=src\nCOPY $s /app/",
        {},
        HIT,
    ),
    "COPY heredoc text": ("COPY <<f /\n1\nf", {}, "COPY <<f /\n2\nf", {}, MISS),
    "COPY heredoc name": ("COPY <<f /\n1\nf", {}, "COPY <<g /\n1\ng", {}, MISS),
    "COPY heredoc variable": (
        "ENV v=1\nCOPY <<f /\n$v\nf",
        {},
        "ENV v=2\nCOPY <<f /\n$v\nf",
        {},
        MISS,
    ),
    "ADD is not COPY": ("COPY a.tar /", {}, "ADD a.tar /", {}, MISS),
    "ADD unpack": ("ADD a.tar /", {}, "ADD --unpack=false a.tar /", {}, MISS),
    "ADD checksum": (
        "ADD https://example.com/x /",
        {},
        f"ADD --checksum=sha256:{'0' * 64} https://example.com/x /",
        {},
        MISS,
    ),
}


@pytest.mark.parametrize(
    ("text", "given", "new_text", "new_given", "hits"), CHANGES.values(), ids=CHANGES.keys()
)
def test_a_change_of(
    text: str, given: dict[str, Any], new_text: str, new_given: dict[str, Any], hits: bool
) -> None:
    # The cache would have every step of the first build.
    known = {key.key for key in keys(text, **given)}
    assert (keys(new_text, **new_given)[-1].key in known) is hits


def test_no_value_stands_in_the_inputs() -> None:
    text = "ARG X\nARG Y=y$X\nENV Z=$X\nLABEL l=$X\nRUN make\nCOPY $X /x\nUSER $X"
    found = keys(
        text,
        build_args={"X": "TOPSECRET", "HTTP_PROXY": "TOPSECRET"},
        passed={"SSH_AUTH_SOCK": "TOPSECRET"},
    )
    assert "TOPSECRET" not in repr(found)


def test_the_digest_of_a_value_differs_from_step_to_step() -> None:
    found = keys("ARG A=1\nARG B=1\nRUN x\nRUN y")
    digests = [value for key in found for name, value in key.inputs.items() if name[:3] == "ARG"]
    assert len(digests) == len(set(digests))


def test_a_slot_may_be_a_file_name() -> None:
    for key in keys('LABEL "../../x y"=1\nRUN x\nENV a=1'):
        assert key.slot.replace("-", "").isalnum()
        assert len(key.slot) <= 128


# one build, another, what the first step that misses says
EXPLAINED: dict[str, tuple[str, dict[str, Any], str, dict[str, Any], list[str]]] = {
    "ENV": ("ENV CFLAGS=1\nRUN x", {}, "ENV CFLAGS=2\nRUN x", {}, ["ENV CFLAGS changed"]),
    "ARG": ("ARG V=1\nRUN x", {}, "ARG V=1\nRUN x", {"build_args": {"V": "2"}}, ["ARG V changed"]),
    "the command": ("RUN x", {}, "RUN y", {}, ["RUN changed"]),
    "content": (
        "COPY src /",
        {"content": {"src": "1"}},
        "COPY src /",
        {"content": {"src": "2"}},
        ["src content changed"],
    ),
    "force": ("RUN x", {}, "RUN x", {"options": {"--force": "none"}}, ["--force changed"]),
    "network": ("RUN x", {}, "RUN --network=none x", {}, ["RUN --network changed"]),
    "a mount": (
        "RUN x",
        {},
        "RUN --mount=type=cache,target=/c x",
        {},
        ["RUN --mount cache /c added"],
    ),
    "user": ("USER a", {}, "USER b", {}, ["USER changed"]),
    "a document": ("COPY <<f /\n1\nf", {}, "COPY <<f /\n2\nf", {}, ["<<f changed"]),
    "one label of several": (
        "LABEL a=1\nLABEL b=1",
        {},
        "LABEL a=1\nLABEL b=2",
        {},
        ["LABEL b changed"],
    ),
}


@pytest.mark.parametrize(
    ("text", "given", "new_text", "new_given", "words"), EXPLAINED.values(), ids=EXPLAINED.keys()
)
def test_a_miss_is_explained(
    text: str, given: dict[str, Any], new_text: str, new_given: dict[str, Any], words: list[str]
) -> None:
    old, new = keys(text, **given), keys(new_text, **new_given)
    before = {key.slot: key for key in old}
    missing = next(key for key in new if key.key not in {k.key for k in old})
    assert explain(before[missing.slot].inputs, missing.inputs) == words


FILES = {"src/a.c": "1", "src/b.c": "2", "src/deep/c.c": "3", "doc/d": "4"}
FILE_CHANGES: dict[str, tuple[dict[str, str], list[str]]] = {
    "content": ({"src/a.c": "x"}, ["src/a.c content changed"]),
    "two": ({"src/a.c": "x", "doc/d": "y"}, ["doc/d content changed", "src/a.c content changed"]),
    "added": ({"src/z.c": "x"}, ["src/z.c added"]),
    "nothing": ({}, []),
}


@pytest.mark.parametrize(("change", "words"), FILE_CHANGES.values(), ids=FILE_CHANGES.keys())
def test_a_miss_names_the_files(change: dict[str, str], words: list[str]) -> None:
    before = {"src content": "1", "COPY": "1"} | name_files(FILES)
    after = {"src content": str(bool(change)), "COPY": "1"} | name_files(FILES | change)
    if not change:
        after["src content"] = "1"
    assert explain(before, after) == words


def test_a_removed_file_is_named() -> None:
    assert explain(name_files(FILES), name_files({"src/a.c": "1"}))[0] == "doc/d removed"


def test_files_count_only_when_both_sides_have_some() -> None:
    before = {"src content": "1"} | name_files(FILES)
    assert explain(before, {"src content": "2"}) == ["src content changed"]


def test_many_files_are_named_by_their_directories() -> None:
    many = {f"a/{n % 7}/{n}": "1" for n in range(2000)} | {"top": "1"}
    before, after = name_files(many, 50), name_files(many | {"a/3/3": "2"}, 50)
    assert len(before) == 8
    assert explain(before, after) == ["a/3/ content changed"]


def test_too_many_files_at_the_top_are_not_named() -> None:
    assert name_files({str(n): "1" for n in range(300)}) == {}
