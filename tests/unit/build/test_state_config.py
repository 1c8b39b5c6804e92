"""The image config that instructions leave behind, against what BuildKit writes."""

from __future__ import annotations

from typing import Any

import pytest
from folding import state_of

from ch_image.build.state import BuildState, finish
from ch_image.model.oci import RunConfig, config_json
from ch_image.model.platforms import Platform

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENV = f"PATH={PATH}"


def config_of(state: BuildState) -> dict[str, Any]:
    value: dict[str, Any] = config_json(state.config)["config"]
    return value


# text, what these keys of the config are (None: not there)
SCRATCH: dict[str, tuple[str, dict[str, Any]]] = {
    "scratch has PATH and the root as working directory": (
        "FROM scratch",
        {"Env": [ENV], "WorkingDir": "/", "Cmd": None, "Entrypoint": None, "User": None},
    ),
    # ENV
    "ENV keeps its order": ("ENV b=1\nENV a=2", {"Env": [ENV, "b=1", "a=2"]}),
    "ENV set again stays in its place": (
        "ENV a=1\nENV b=2\nENV a=3",
        {"Env": [ENV, "a=3", "b=2"]},
    ),
    "ENV PATH stays in front": ("ENV a=1\nENV PATH=/x:$PATH", {"Env": [f"PATH=/x:{PATH}", "a=1"]}),
    "ENV reads all its words before it sets any": (
        "ENV abc=hello\nENV abc=bye def=$abc\nENV ghi=$abc",
        {"Env": [ENV, "abc=bye", "def=hello", "ghi=bye"]},
    ),
    "ENV old form takes the rest of the line": (
        "ENV a  some more  words",
        {"Env": [ENV, "a=some more  words"]},
    ),
    "ENV with quotes": (
        """ENV a="x y" b='p q' c=r\\ s""",
        {"Env": [ENV, "a=x y", "b=p q", "c=r s"]},
    ),
    "ENV single quotes keep the dollar": ("ENV a=1\nENV b='$a'", {"Env": [ENV, "a=1", "b=$a"]}),
    "ENV double quotes don't": ('ENV a=1\nENV b="$a"', {"Env": [ENV, "a=1", "b=1"]}),
    "ENV escaped dollar": ("ENV a=1\nENV b=\\$a", {"Env": [ENV, "a=1", "b=$a"]}),
    "ENV empty value": ('ENV a="" b=', {"Env": [ENV, "a=", "b="]}),
    "ENV of an unset variable is empty": ("ENV a=x${nope}y", {"Env": [ENV, "a=xy"]}),
    "ENV default": ("ENV a=${b:-c}", {"Env": [ENV, "a=c"]}),
    "ENV alternative": ("ENV b=1\nENV a=${b:+c}", {"Env": [ENV, "b=1", "a=c"]}),
    "ENV value with an equals sign": ("ENV a=b=c", {"Env": [ENV, "a=b=c"]}),
    "ENV name from a variable": ("ENV n=x\nENV $n=1", {"Env": [ENV, "n=x", "x=1"]}),
    # ARG
    "ARG does not enter the config": ("ARG a=1", {"Env": [ENV]}),
    "ARG can be read by ENV": ("ARG a=1\nENV b=$a", {"Env": [ENV, "b=1"]}),
    "ARG without a value is empty": ("ARG a\nENV b=x$a", {"Env": [ENV, "b=x"]}),
    "ARG sees the one before on its line": ("ARG a=1 b=${a}2\nENV c=$b", {"Env": [ENV, "c=12"]}),
    "ARG in quotes": ('ARG a="x y"\nENV b=$a', {"Env": [ENV, "b=x y"]}),
    "ARG reads ENV": ("ENV a=1\nARG b=$a\nENV c=$b", {"Env": [ENV, "a=1", "c=1"]}),
    "ARG after ENV of its name is what later words see": (
        "ENV a=env\nARG a=arg\nENV b=$a",
        {"Env": [ENV, "a=env", "b=arg"]},
    ),
    "ENV after ARG of its name wins": (
        "ARG a=arg\nENV a=env\nENV b=$a",
        {"Env": [ENV, "a=env", "b=env"]},
    ),
    "ENV can keep the value of an ARG of its name": (
        "ARG v=1\nENV v=${v:-2}",
        {"Env": [ENV, "v=1"]},
    ),
    "ARG is not seen before its line": ("ENV b=x$a\nARG a=1", {"Env": [ENV, "b=x"]}),
    "ARG before FROM is not seen in a stage": (
        "ARG a=1\nFROM scratch\nENV b=x$a",
        {"Env": [ENV, "b=x"]},
    ),
    "ARG before FROM is seen once it is named": (
        "ARG a=1\nFROM scratch\nARG a\nENV b=x$a",
        {"Env": [ENV, "b=x1"]},
    ),
    "ARG before FROM loses to a default of the stage": (
        "ARG a=1\nFROM scratch\nARG a=2\nENV b=$a",
        {"Env": [ENV, "b=2"]},
    ),
    "ARGs before FROM see each other": (
        "ARG a=1\nARG b=$a.2\nFROM scratch\nARG b\nENV c=$b",
        {"Env": [ENV, "c=1.2"]},
    ),
    "ARG of a base stage is inherited": (
        "FROM scratch AS base\nARG a=1\nFROM base\nENV b=$a",
        {"Env": [ENV, "b=1"]},
    ),
    "platform ARG must be named": ("ENV a=x$TARGETARCH", {"Env": [ENV, "a=x"]}),
    "platform ARG": (
        "ARG TARGETPLATFORM TARGETARCH TARGETVARIANT\n"
        "ENV a=$TARGETPLATFORM-$TARGETARCH-$TARGETVARIANT",
        {"Env": [ENV, "a=linux/amd64-amd64-"]},
    ),
    "platform ARG with a default of its own": (
        "ARG TARGETARCH=x\nENV a=$TARGETARCH",
        {"Env": [ENV, "a=x"]},
    ),
    "FROM --arg is an ARG of the stage": (
        "FROM --arg=a=1 scratch\nENV b=$a",
        {"Env": [ENV, "b=1"]},
    ),
    # CMD, ENTRYPOINT, SHELL
    "CMD exec form": ('CMD ["a", "b c"]', {"Cmd": ["a", "b c"], "ArgsEscaped": True}),
    "CMD shell form": ("CMD a b  c", {"Cmd": ["/bin/sh", "-c", "a b  c"]}),
    "CMD does not expand": (
        'ENV x=1\nCMD ["sh", "-c", "echo $x ${y}"]',
        {"Cmd": ["sh", "-c", "echo $x ${y}"]},
    ),
    "CMD shell form does not expand": (
        'ENV x=1\nCMD echo "$x"',
        {"Cmd": ["/bin/sh", "-c", 'echo "$x"']},
    ),
    "CMD that is no JSON is shell form": (
        "CMD ['a', 'b']",
        {"Cmd": ["/bin/sh", "-c", "['a', 'b']"]},
    ),
    "CMD last one wins": ('CMD ["a"]\nCMD ["b"]', {"Cmd": ["b"]}),
    "ENTRYPOINT exec form": ('ENTRYPOINT ["/e", "x"]', {"Entrypoint": ["/e", "x"], "Cmd": None}),
    "ENTRYPOINT shell form": ("ENTRYPOINT exec top", {"Entrypoint": ["/bin/sh", "-c", "exec top"]}),
    "ENTRYPOINT after CMD of the stage leaves it": (
        'CMD ["a"]\nENTRYPOINT ["e"]',
        {"Cmd": ["a"], "Entrypoint": ["e"]},
    ),
    "ENTRYPOINT before CMD": (
        'ENTRYPOINT ["e"]\nCMD ["a"]',
        {"Cmd": ["a"], "Entrypoint": ["e"]},
    ),
    "ENTRYPOINT resets the CMD of a base stage": (
        'FROM scratch AS base\nCMD ["a"]\nFROM base\nENTRYPOINT ["e"]',
        {"Cmd": None, "Entrypoint": ["e"]},
    ),
    "ENTRYPOINT [] takes it away": ('ENTRYPOINT ["e"]\nENTRYPOINT []', {"Entrypoint": None}),
    "SHELL wraps CMD": (
        'SHELL ["/bin/bash", "-eu", "-c"]\nCMD x',
        {"Shell": ["/bin/bash", "-eu", "-c"], "Cmd": ["/bin/bash", "-eu", "-c", "x"]},
    ),
    "SHELL leaves an earlier CMD": (
        'CMD x\nSHELL ["/b", "-c"]',
        {"Cmd": ["/bin/sh", "-c", "x"]},
    ),
    "SHELL is inherited by a stage": (
        'FROM scratch AS b\nSHELL ["/b", "-c"]\nFROM b\nENTRYPOINT x',
        {"Entrypoint": ["/b", "-c", "x"], "Shell": ["/b", "-c"]},
    ),
    "SHELL replaces names that are set, and only those": (
        'ENV s=/bin/bash\nSHELL ["$s", "-c", "$p = \'Stop\';"]',
        {"Shell": ["/bin/bash", "-c", "$p = 'Stop';"]},
    ),
    # LABEL
    "LABEL": ("LABEL a=1 b=2", {"Labels": {"a": "1", "b": "2"}}),
    "LABEL old form": ("LABEL a some text", {"Labels": {"a": "some text"}}),
    "LABEL with quotes and blanks": ('LABEL "a.b c"="d e"', {"Labels": {"a.b c": "d e"}}),
    "LABEL set again": ("LABEL a=1\nLABEL a=2", {"Labels": {"a": "2"}}),
    "LABEL expands": ("ARG v=3\nLABEL v=$v w=${v}x", {"Labels": {"v": "3", "w": "3x"}}),
    "LABEL single quotes": ("ARG v=3\nLABEL v='$v'", {"Labels": {"v": "$v"}}),
    "LABEL over lines": ('LABEL a="1" \\\n      b="2"', {"Labels": {"a": "1", "b": "2"}}),
    # EXPOSE
    "EXPOSE defaults to tcp": ("EXPOSE 80", {"ExposedPorts": {"80/tcp": {}}}),
    "EXPOSE protocols": (
        "EXPOSE 53/udp 80/TCP 9/sctp",
        {"ExposedPorts": {"53/udp": {}, "80/tcp": {}, "9/sctp": {}}},
    ),
    "EXPOSE range": (
        "EXPOSE 8000-8002/udp",
        {"ExposedPorts": {"8000/udp": {}, "8001/udp": {}, "8002/udp": {}}},
    ),
    "EXPOSE adds up": ("EXPOSE 1\nEXPOSE 2 1", {"ExposedPorts": {"1/tcp": {}, "2/tcp": {}}}),
    "EXPOSE expands": ("ENV p=81\nEXPOSE $p/udp", {"ExposedPorts": {"81/udp": {}}}),
    "EXPOSE splits what a variable holds": (
        'ENV p="81 82"\nEXPOSE $p',
        {"ExposedPorts": {"81/tcp": {}, "82/tcp": {}}},
    ),
    "EXPOSE drops the port of the host": (
        "EXPOSE 8080:80 127.0.0.1:81:81",
        {"ExposedPorts": {"80/tcp": {}, "81/tcp": {}}},
    ),
    # VOLUME
    "VOLUME": ("VOLUME /a /b", {"Volumes": {"/a": {}, "/b": {}}}),
    "VOLUME JSON": ('VOLUME ["/a b", "/c"]', {"Volumes": {"/a b": {}, "/c": {}}}),
    "VOLUME expands": ("ARG d=/x\nVOLUME $d/y", {"Volumes": {"/x/y": {}}}),
    "VOLUME adds up": ("VOLUME /a\nVOLUME /b /a", {"Volumes": {"/a": {}, "/b": {}}}),
    # USER
    "USER": ("USER app", {"User": "app"}),
    "USER with group": ("USER 1000:100", {"User": "1000:100"}),
    "USER expands": ("ARG u=1\nUSER $u:${g:-2}", {"User": "1:2"}),
    "USER last one wins": ("USER a\nUSER root", {"User": "root"}),
    # WORKDIR
    "WORKDIR": ("WORKDIR /a/b", {"WorkingDir": "/a/b"}),
    "WORKDIR relative to the root": ("WORKDIR a", {"WorkingDir": "/a"}),
    "WORKDIR relative to the one before": (
        "WORKDIR /a\nWORKDIR b\nWORKDIR ../c",
        {"WorkingDir": "/a/c"},
    ),
    "WORKDIR never above the root": ("WORKDIR ../..", {"WorkingDir": "/"}),
    "WORKDIR expands": ("ENV d=/x\nWORKDIR $d/$e", {"WorkingDir": "/x/"}),
    "WORKDIR absolute is kept as written": ("WORKDIR /a/", {"WorkingDir": "/a/"}),
    "WORKDIR relative is cleaned": ("WORKDIR /a\nWORKDIR b//c/", {"WorkingDir": "/a/b/c"}),
    "WORKDIR with blanks": ('WORKDIR "/a b"', {"WorkingDir": "/a b"}),
    "WORKDIR of an empty variable stays": ("WORKDIR /a\nWORKDIR $no", {"WorkingDir": "/a"}),
    # HEALTHCHECK
    "HEALTHCHECK shell form": (
        "HEALTHCHECK CMD curl -f localhost || exit 1",
        {"Healthcheck": {"Test": ["CMD-SHELL", "curl -f localhost || exit 1"]}},
    ),
    "HEALTHCHECK exec form": (
        'HEALTHCHECK CMD ["curl", "-f", "$X"]',
        {"Healthcheck": {"Test": ["CMD", "curl", "-f", "$X"]}},
    ),
    "HEALTHCHECK options in nanoseconds": (
        "HEALTHCHECK --interval=1m30s --timeout=1.5s --start-period=2h --start-interval=250ms "
        "--retries=3 CMD x",
        {
            "Healthcheck": {
                "Test": ["CMD-SHELL", "x"],
                "Interval": 90_000_000_000,
                "Timeout": 1_500_000_000,
                "StartPeriod": 7_200_000_000_000,
                "StartInterval": 250_000_000,
                "Retries": 3,
            }
        },
    ),
    "HEALTHCHECK NONE": ("HEALTHCHECK NONE", {"Healthcheck": {"Test": ["NONE"]}}),
    "HEALTHCHECK forgets earlier options": (
        "HEALTHCHECK --retries=3 CMD x\nHEALTHCHECK CMD y",
        {"Healthcheck": {"Test": ["CMD-SHELL", "y"]}},
    ),
    # the rest
    "STOPSIGNAL name": ("STOPSIGNAL SIGQUIT", {"StopSignal": "SIGQUIT"}),
    "STOPSIGNAL number": ("STOPSIGNAL 9", {"StopSignal": "9"}),
    "STOPSIGNAL real-time": ("STOPSIGNAL SIGRTMIN+3", {"StopSignal": "SIGRTMIN+3"}),
    "STOPSIGNAL expands": ("ARG s=term\nSTOPSIGNAL $s", {"StopSignal": "term"}),
    "ONBUILD is recorded raw": (
        "ENV a=1\nONBUILD RUN echo $a\nONBUILD COPY x /y",
        {"OnBuild": ["RUN echo $a", "COPY x /y"]},
    ),
    "ONBUILD is not inherited": (
        "FROM scratch AS b\nONBUILD USER x\nFROM b",
        {"OnBuild": None, "User": None},
    ),
    "RUN leaves the config alone": ("RUN true", {"Env": [ENV], "Cmd": None}),
    "COPY leaves the config alone": ("COPY a b", {"Env": [ENV], "WorkingDir": "/"}),
    "escape directive": (
        "# escape=`\nFROM scratch\nENV a=`$x b=\\y",
        {"Env": [ENV, "a=$x", "b=\\y"]},
    ),
}


@pytest.mark.parametrize(("text", "expected"), SCRATCH.values(), ids=SCRATCH.keys())
def test_instructions_write_the_config_that_docker_writes(
    text: str, expected: dict[str, Any]
) -> None:
    config = config_of(state_of(text))
    assert {key: config.get(key) for key in expected} == expected


BASE = RunConfig(
    user="www",
    exposed_ports=("80/tcp",),
    env=("A=base", "LANG=C"),
    entrypoint=("/entry",),
    cmd=("serve",),
    volumes=("/data",),
    working_dir="srv",
    labels=(("l", "base"),),
    stop_signal="SIGINT",
    on_build=("RUN trigger",),
    shell=("/bin/ash", "-c"),
    extra={"Hostname": "h"},
)
INHERITED: dict[str, tuple[str, dict[str, Any]]] = {
    "everything but the triggers": (
        "FROM base",
        {
            "User": "www",
            "ExposedPorts": {"80/tcp": {}},
            "Entrypoint": ["/entry"],
            "Cmd": ["serve"],
            "Volumes": {"/data": {}},
            "Labels": {"l": "base"},
            "StopSignal": "SIGINT",
            "OnBuild": None,
            "Shell": ["/bin/ash", "-c"],
            "Hostname": "h",
        },
    ),
    "PATH is added behind": ("FROM base", {"Env": ["A=base", "LANG=C", ENV]}),
    "a relative working directory becomes absolute": ("FROM base", {"WorkingDir": "/srv"}),
    "WORKDIR is relative to the base's": ("FROM base\nWORKDIR x", {"WorkingDir": "/srv/x"}),
    "ENTRYPOINT resets the base's CMD": (
        'FROM base\nENTRYPOINT ["e"]',
        {"Entrypoint": ["e"], "Cmd": None},
    ),
    "ENTRYPOINT leaves a CMD of one's own": (
        'FROM base\nCMD ["c"]\nENTRYPOINT ["e"]',
        {"Cmd": ["c"]},
    ),
    "CMD leaves the base's ENTRYPOINT": (
        'FROM base\nCMD ["c"]',
        {"Entrypoint": ["/entry"], "Cmd": ["c"]},
    ),
    "the base's SHELL wraps": ("FROM base\nCMD c", {"Cmd": ["/bin/ash", "-c", "c"]}),
    "ENV of the base keeps its place": ("FROM base\nENV A=new", {"Env": ["A=new", "LANG=C", ENV]}),
    "ENV of the base is read": (
        "FROM base\nENV B=$A",
        {"Env": ["A=base", "LANG=C", ENV, "B=base"]},
    ),
    "LABEL of the base can be replaced": (
        "FROM base\nLABEL l=x m=y",
        {"Labels": {"l": "x", "m": "y"}},
    ),
    "VOLUME adds to the base's": ("FROM base\nVOLUME /v", {"Volumes": {"/data": {}, "/v": {}}}),
    "triggers of one's own": ("FROM base\nONBUILD USER x", {"OnBuild": ["USER x"]}),
    "HEALTHCHECK": ("FROM base\nHEALTHCHECK NONE", {"Healthcheck": {"Test": ["NONE"]}}),
}


@pytest.mark.parametrize(("text", "expected"), INHERITED.values(), ids=INHERITED.keys())
def test_a_stage_starts_from_the_config_of_its_base(text: str, expected: dict[str, Any]) -> None:
    config = config_of(state_of(text, BASE))
    assert {key: config.get(key) for key in expected} == expected


# text, --build-arg, Env behind PATH
BUILD_ARGS: dict[str, tuple[str, dict[str, str], list[str]]] = {
    "replaces a default": ("ARG a=1\nENV b=$a", {"a": "2"}, ["b=2"]),
    "gives a value": ("ARG a\nENV b=$a", {"a": "2"}, ["b=2"]),
    "may be empty": ("ARG a=1\nENV b=x$a", {"a": ""}, ["b=x"]),
    "is taken as it is": ("ARG a\nENV b=$a", {"a": "$x 'y'"}, ["b=$x 'y'"]),
    "needs an ARG": ("ENV b=x$a", {"a": "2"}, ["b=x"]),
    "reaches the stage through an ARG before FROM": (
        "ARG a=1\nFROM scratch\nARG a\nENV b=$a",
        {"a": "2"},
        ["b=2"],
    ),
    "reaches every stage": (
        "FROM scratch AS x\nARG a=1\nFROM x\nARG a=3\nENV b=$a",
        {"a": "2"},
        ["b=2"],
    ),
    "replaces a platform ARG": ("ARG TARGETARCH\nENV b=$TARGETARCH", {"TARGETARCH": "z"}, ["b=z"]),
    "loses to a later ENV": ("ARG a\nENV a=env\nENV b=$a", {"a": "2"}, ["a=env", "b=env"]),
    "wins over an earlier ENV": ("ENV a=env\nARG a\nENV b=$a", {"a": "2"}, ["a=env", "b=2"]),
    "replaces FROM --arg": ("FROM --arg=a=1 scratch\nENV b=$a", {"a": "2"}, ["b=2"]),
}


@pytest.mark.parametrize(
    ("text", "build_args", "expected"), BUILD_ARGS.values(), ids=BUILD_ARGS.keys()
)
def test_a_build_argument(text: str, build_args: dict[str, str], expected: list[str]) -> None:
    assert config_of(state_of(text, build_args=build_args))["Env"] == [ENV, *expected]


def test_what_the_host_passes_does_not_reach_the_config() -> None:
    passed = {"HTTP_PROXY": "http://u:p@proxy.example.com", "USER": "alice"}
    state = state_of("ARG USER=app\nUSER $USER\nENV a=x$HTTP_PROXY", passed=passed)
    assert config_of(state)["Env"] == [ENV, "a=x"]
    assert config_of(state)["User"] == "app"


def test_maintainer_is_the_author() -> None:
    assert state_of("MAINTAINER Jo <jo@example.com>").config.author == "Jo <jo@example.com>"


def test_the_finished_config_has_labels_dates_and_the_platform_that_was_asked_for() -> None:
    state = state_of("LABEL a=1 b=2\nRUN true")
    when = "2001-02-03T04:05:06Z"
    config = finish(
        state, created=when, labels={"b": "x", "c": "y"}, platform=Platform("linux", "arm64", "v8")
    )
    out = config_json(config)
    assert out["config"]["Labels"] == {"a": "1", "b": "x", "c": "y"}
    assert out["created"] == when
    assert [line["created"] for line in out["history"]] == [when, when]
    assert (out["os"], out["architecture"], out.get("variant")) == ("linux", "arm64", None)
