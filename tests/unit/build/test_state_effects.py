"""What an instruction asks to be done to a tree."""

from __future__ import annotations

from typing import Any

import pytest
from folding import effect_of

from ch_image.build.effects import InlineFile
from ch_image.errors import DockerfileError

EFFECTS: dict[str, tuple[str, dict[str, Any]]] = {
    # RUN
    "RUN shell form": ("RUN a b", {"argv": ("/bin/sh", "-c", "a b"), "shell_form": True}),
    "RUN exec form": ('RUN ["a", "$b"]', {"argv": ("a", "$b"), "shell_form": False}),
    "RUN in its directory as its user": (
        "WORKDIR /w\nUSER app:grp\nRUN x",
        {"cwd": "/w", "user": "app:grp"},
    ),
    "RUN as root in the root": ("RUN x", {"cwd": "/", "user": ""}),
    "RUN network": ("RUN --network=none x", {"network": "none"}),
    "RUN heredoc": (
        "RUN <<E\na $b\nE",
        {"argv": ("/bin/sh", "-c", "a $b\n"), "files": ()},
    ),
    "RUN heredoc without its tabs": (
        "RUN <<-E\n\ta\n\tE",
        {"argv": ("/bin/sh", "-c", "a\n")},
    ),
    "RUN script": (
        "RUN <<E\n#!/usr/bin/env python3\nprint(1)\nE",
        {
            "argv": ("/bin/sh", "-c", "/dev/pipes/E"),
            "files": (InlineFile("/dev/pipes/E", "#!/usr/bin/env python3\nprint(1)\n", 0o755),),
        },
    ),
    "RUN several heredocs": (
        "RUN cat <<A <<B >f\n1\nA\n2\nB",
        {"argv": ("/bin/sh", "-c", "cat <<A <<B >f\n1\nA\n2\nB"), "files": ()},
    ),
    # COPY
    "COPY into the working directory": (
        "WORKDIR /w\nCOPY a b",
        {"sources": ("a",), "destination": "/w/b"},
    ),
    "COPY to a dot": ("WORKDIR /w\nCOPY a .", {"destination": "/w/"}),
    "COPY to a dot in the root": ("COPY a .", {"destination": "/"}),
    "COPY keeps the slash": ("WORKDIR /w\nCOPY a b/", {"destination": "/w/b/"}),
    "COPY keeps slash dot": ("WORKDIR /w\nCOPY a b/.", {"destination": "/w/b/."}),
    "COPY goes up": ("WORKDIR /w/x\nCOPY a ../b/", {"destination": "/w/b/"}),
    "COPY absolute": ("WORKDIR /w\nCOPY a /b", {"destination": "/b"}),
    "COPY to an empty variable": ("WORKDIR /w\nCOPY a $no", {"destination": "/w/"}),
    "COPY expands all its words": (
        "ARG u=1 m=644 s=x d=/y\nCOPY --chown=$u --chmod=$m $s ${s}2 $d/",
        {"sources": ("x", "x2"), "destination": "/y/", "chown": "1", "chmod": "644"},
    ),
    "COPY patterns stay": ('COPY ["*.c", "a b", "/d/"]', {"sources": ("*.c", "a b")}),
    "COPY flags": (
        "COPY --link --parents --exclude=a --exclude=b/** --from=s x /y/",
        {"link": True, "parents": True, "exclude": ("a", "b/**"), "from_": "s"},
    ),
    "COPY symbolic mode": ("COPY --chmod=u+x,go=r a b", {"chmod": "u+x,go=r"}),
    "COPY heredoc is expanded": (
        "ENV v=1\nCOPY <<f /d\n$v '$v' \\$v ${no}.\nf",
        {"files": (InlineFile("f", "1 '1' $v .\n"),), "sources": ()},
    ),
    "COPY quoted heredoc is not": (
        "ENV v=1\nCOPY <<'f' /d\n$v\nf",
        {"files": (InlineFile("f", "$v\n"),)},
    ),
    # ADD
    "ADD": (
        "ADD --checksum=sha256:00 --unpack=true https://example.com/x /d/",
        {
            "sources": ("https://example.com/x",),
            "checksum": "sha256:00",
            "unpack": True,
            "keep_git_dir": None,
        },
    ),
    "ADD flags not given": ("ADD a b", {"checksum": "", "unpack": None, "chown": ""}),
    # WORKDIR
    "WORKDIR makes a directory of its user": (
        "USER app\nWORKDIR /w",
        {"path": "/w", "user": "app"},
    ),
    # RSYNC
    "RSYNC": (
        "ENV d=/y\nWORKDIR /w\nRSYNC +z --chmod=D755 a $d/",
        {"group": "z", "options": ("--chmod=D755",), "sources": ("a",), "destination": "/y/"},
    ),
}


@pytest.mark.parametrize(("text", "expected"), EFFECTS.values(), ids=EFFECTS.keys())
def test_an_instruction_asks_for_its_effect(text: str, expected: dict[str, Any]) -> None:
    effect = effect_of(text)
    assert effect is not None
    assert {name: getattr(effect, name) for name in expected} == expected


@pytest.mark.parametrize(
    "text",
    ["ENV a=1", "ARG a", "LABEL a=1", "USER x", "CMD x", "EXPOSE 1", "WORKDIR /", "ONBUILD RUN x"],
)
def test_metadata_has_no_effect(text: str) -> None:
    assert effect_of(text) is None


ENVIRONMENT = {
    "ENV": ("ENV a=1\nRUN x", {"a": "1"}),
    "ARG": ("ARG a=1\nRUN x", {"a": "1"}),
    "ARG without a value": ("ARG a\nRUN x", {}),
    "ARG after ENV": ("ENV a=1\nARG a=2\nRUN x", {"a": "2"}),
    "ENV after ARG": ("ARG a=1\nENV a=2\nRUN x", {"a": "2"}),
    "ARG without a value after ENV": ("ENV a=1\nARG a\nRUN x", {"a": "1"}),
    "ARG before FROM": ("ARG a=1\nFROM scratch\nRUN x", {}),
}


@pytest.mark.parametrize(("text", "expected"), ENVIRONMENT.values(), ids=ENVIRONMENT.keys())
def test_run_sees_env_and_args(text: str, expected: dict[str, str]) -> None:
    env = dict(effect_of(text).env)  # type: ignore[union-attr]
    assert env.pop("PATH") == "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert env == expected


def test_what_the_host_passes_reaches_run_apart_from_env() -> None:
    passed = {"no_proxy": "example.com", "USER": "alice", "HOME": "/root", "LD_PRELOAD": "x"}
    effect: Any = effect_of("ENV USER=app\nRUN x", {"HTTPS_PROXY": "http://p"}, passed)
    assert effect.passed == {
        "no_proxy": "example.com",
        "USER": "alice",
        "HTTPS_PROXY": "http://p",
        "https_proxy": "http://p",
    }
    assert effect.env["USER"] == "app"
    assert "HTTPS_PROXY" not in effect.env


MOUNTS: dict[str, tuple[str, dict[str, Any]]] = {
    "bind": (
        "target=/t,source=s",
        {"type": "bind", "source": "s", "target": "/t", "readonly": True},
    ),
    "bind to a relative target": ("target=t", {"target": "/w/t"}),
    "bind without a target": ("source=s", {"target": "/w"}),
    "cache": (
        "type=cache,target=/c/",
        {"id": "/c", "sharing": "shared", "readonly": False, "target": "/c/"},
    ),
    "cache named": ("type=cache,target=c,id=x,sharing=locked", {"id": "x", "sharing": "locked"}),
    "cache expands": ("type=cache,target=/c/$v", {"target": "/c/1", "id": "/c/1"}),
    "tmpfs": ("type=tmpfs,target=/t,size=1m", {"size": 1 << 20, "target": "/t"}),
    "secret": ("type=secret,id=s", {"id": "s", "target": "/run/secrets/s", "env": None}),
    "secret by target": ("type=secret,target=/a/b", {"id": "b", "target": "/a/b"}),
    "secret as a variable": ("type=secret,id=s,env=S", {"target": "", "env": "S"}),
    "secret in both": ("type=secret,id=s,env=S,target=x", {"target": "/w/x", "env": "S"}),
    "ssh": ("type=ssh", {"id": "default", "target": ""}),
}


@pytest.mark.parametrize(("options", "expected"), MOUNTS.values(), ids=MOUNTS.keys())
def test_a_mount_has_its_defaults_filled_in(options: str, expected: dict[str, Any]) -> None:
    effect: Any = effect_of(f"ENV v=1\nWORKDIR /w\nRUN --mount={options} x")
    assert {name: getattr(effect.mounts[0], name) for name in expected} == expected


# text, the line and column that the fault points at, what it says
FAULTS = {
    "port out of range": ("EXPOSE 80 70000", (2, 11), "65535"),
    "port that is none": ("EXPOSE http", (2, 8), "http"),
    "port range backwards": ("EXPOSE 9-8", (2, 8), "backwards"),
    "protocol": ("EXPOSE 80/icmp", (2, 8), "icmp"),
    "host port": ("EXPOSE x:80", (2, 8), "x"),
    "signal": ("STOPSIGNAL SIGNOPE", (2, 12), "SIGNOPE"),
    "signal nought": ("STOPSIGNAL 0", (2, 12), "0"),
    "volume empty": ("VOLUME $no", (2, 8), "empty"),
    "mode": ("COPY --chmod=0999 a b", (2, 14), "0999"),
    "mode too large": ("COPY --chmod=17777 a b", (2, 14), "17777"),
    "URL in COPY": ("COPY https://example.com/x /y", (2, 6), "URL"),
    "checksum of two": ("ADD --checksum=sha256:00 a b /c/", (2, 16), "one source"),
    "mount over the root": ("RUN --mount=target=/ x", (2, 13), "/"),
    "ssh with a source": ("RUN --mount=type=ssh,source=x y", (2, 13), "source"),
    "variable that must be set": ("USER ${u:?who}", (2, 6), "who"),
    "variable without its end": ("ENV a=${b", (2, 7), "}"),
    "ENV name that came out empty": ("ENV $n=1", (2, 5), "name"),
}


@pytest.mark.parametrize(("text", "place", "says"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_points_at_its_word(text: str, place: tuple[int, int], says: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        effect_of(text)
    assert caught.value.where == ("Dockerfile", *place)
    assert says in caught.value.args[0]
    assert "\n" not in caught.value.args[0]
