"""The values of build's options: what is meant, and what cannot be meant."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from ch_image.build.options import Secret
from ch_image.cli import build_options as values
from ch_image.errors import UsageError

NAMES = {
    ("Dockerfile", "/home/me/Demo Project"): "demoproject",
    ("Dockerfile", "/"): "root",
    ("x/Dockerfile.web", "/ctx"): "web",
    ("web.df", "/ctx"): "web",
    ("Web.App.dockerfile", "/ctx"): "web.app",
    ("dockerfile.test", "/ctx"): "test",
    ("Dockerfile", "/a/--x..y__"): "x.y",
    ("Containerfile", "/a/ctx/"): "ctx",
    ("-", "/a/ctx"): "ctx",
}


@pytest.mark.parametrize(("given", "name"), NAMES.items(), ids=str)
def test_a_name_is_inferred(given: tuple[str, str], name: str) -> None:
    assert values.infer_name(*given) == name


@pytest.mark.parametrize("given", [("-", ""), ("Dockerfile", "/a/ÄÖ"), ("Dockerfile.!", "/ctx")])
def test_a_name_that_cannot_be_inferred_is_asked_for(given: tuple[str, str]) -> None:
    with pytest.raises(UsageError) as caught:
        values.infer_name(*given)
    assert "-t" in caught.value.hint


def test_build_args_come_from_the_word_or_the_environment() -> None:
    texts = ["A=1", "B=", "C", "D", "E=x=y", "A=2"]
    assert values.build_args(texts, {"C": "c"}) == (
        {"A": "2", "B": "", "C": "c", "E": "x=y"},
        ["D"],
    )


COMMANDS = {
    "apt,-o,A::B=c": ("apt", "-o", "A::B=c"),
    "a,b\\,c": ("a", "b,c"),
    "a,": ("a", ""),
    "a\\\\,b": ("a\\", "b"),
}


@pytest.mark.parametrize(("text", "words"), COMMANDS.items(), ids=COMMANDS.keys())
def test_a_force_command_is_split_at_its_commas(text: str, words: tuple[str, ...]) -> None:
    assert values.force_commands([text]) == (words,)


def test_hosts_take_colon_or_equals_and_either_family() -> None:
    texts = ["a:127.0.0.1", "b=10.0.0.1", "c:::1", "d:[fe80::1]"]
    assert values.hosts(texts) == (
        ("a", "127.0.0.1"),
        ("b", "10.0.0.1"),
        ("c", "::1"),
        ("d", "fe80::1"),
    )


def test_secrets_are_files_or_variables(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k")
    env = {"TOKEN": "t", "key2": "v"}
    texts = ["id=a,src=key", "id=b,env=TOKEN", "type=env,id=c,src=TOKEN", "id=key2", "id=key"]
    secrets, found = values.secrets(texts, env, str(tmp_path))
    assert secrets == {
        "a": Secret(path=str(tmp_path / "key")),
        "b": Secret(variable="TOKEN"),
        "c": Secret(variable="TOKEN"),
        "key2": Secret(variable="key2"),
        "key": Secret(path=str(tmp_path / "key")),
    }
    assert found == {"TOKEN": b"t", "key2": b"v"}


def test_agents_are_sockets(tmp_path: Path) -> None:
    path = str(tmp_path / "agent")
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(path)
        env = {"SSH_AUTH_SOCK": path}
        assert values.agents(["default", f"other={path}"], env) == {"default": path, "other": path}


def test_contexts_that_are_directories_become_absolute() -> None:
    texts = ["a=sub", "b=image:busybox", "c=oci-layout:x", "d=/abs", "e=https://example.com/x"]
    assert values.contexts(texts, "/cwd") == {
        "a": "/cwd/sub",
        "b": "image:busybox",
        "c": "oci-layout:///cwd/x",
        "d": "/abs",
        "e": "https://example.com/x",
    }


def test_binds_name_existing_sources(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    there = str(tmp_path / "d")
    assert values.binds(["d", "d:/x"], str(tmp_path)) == ((there, there), (there, "/x"))


def _secret(*texts: str) -> Any:
    return values.secrets(texts, {}, "/")


BAD = {
    "a build arg without name": lambda: values.build_args(["=x"], {}),
    "a build arg that is no name": lambda: values.build_args(["a-b=x"], {}),
    "a label without value": lambda: values.pairs("--annotation", ["x"]),
    "a force command without argument": lambda: values.force_commands(["apt"]),
    "a force command without command": lambda: values.force_commands([",x"]),
    "a host without address": lambda: values.hosts(["a"]),
    "a host with a name as address": lambda: values.hosts(["a:b"]),
    "a secret without name": lambda: _secret("type=file"),
    "a secret with an unknown key": lambda: _secret("id=a,mode=1"),
    "a secret with two sources": lambda: _secret("id=a,src=b,env=c"),
    "a secret whose file is not there": lambda: _secret("id=a,src=nosuch"),
    "a secret that is a directory": lambda: _secret("id=a,src=/etc"),
    "a secret whose variable is not set": lambda: _secret("id=a,env=X"),
    "an agent that is not there": lambda: values.agents(["default"], {}),
    "an agent that is a file": lambda: values.agents(["default=/etc/passwd"], {}),
    "a context without value": lambda: values.contexts(["a="], "/"),
    "a bind without source": lambda: values.binds([":/x"], "/"),
    "a bind of nothing": lambda: values.binds(["/nosuch"], "/"),
    "a bind to a relative path": lambda: values.binds(["/etc:x"], "/"),
    "no number of jobs": lambda: values.number("--jobs", "0"),
    "an epoch that is no number": lambda: values.epoch({"SOURCE_DATE_EPOCH": "today"}),
}


@pytest.mark.parametrize("use", BAD.values(), ids=BAD.keys())
def test_what_cannot_be_meant_is_wrong_usage(use: Any) -> None:
    with pytest.raises(UsageError):
        use()


def test_a_secret_that_is_too_large_is_refused(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * (values.MAX_SECRET + 1))
    with pytest.raises(UsageError, match="larger"):
        values.secrets(["id=a,src=big"], {}, str(tmp_path))


@pytest.mark.parametrize(("text", "seconds"), [("", None), ("0", 0), ("1700000000", 1700000000)])
def test_the_epoch_is_seconds(text: str, seconds: int | None) -> None:
    assert values.epoch({"SOURCE_DATE_EPOCH": text}) == seconds
