"""Where credentials, certificates and mirrors are looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from ch_image.cli.environment import auth_files
from ch_image.cli.network import mirrors
from ch_image.errors import ChError

FILES: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "nothing known": ({}, ()),
    "a home": ({"HOME": "/h"}, ("/h/.config/containers/auth.json", "/h/.docker/config.json")),
    "a session": (
        {"HOME": "/h", "XDG_RUNTIME_DIR": "/run/user/1"},
        (
            "/run/user/1/containers/auth.json",
            "/h/.config/containers/auth.json",
            "/h/.docker/config.json",
        ),
    ),
    "moved": (
        {"HOME": "/h", "XDG_CONFIG_HOME": "/c", "DOCKER_CONFIG": "/d"},
        ("/c/containers/auth.json", "/d/config.json"),
    ),
    "named": ({"HOME": "/h", "REGISTRY_AUTH_FILE": "/a"}, ("/a",)),
}


@pytest.mark.parametrize(("env", "files"), FILES.values(), ids=FILES.keys())
def test_auth_files_are_those_of_podman_and_docker(
    env: dict[str, str], files: tuple[str, ...]
) -> None:
    assert auth_files(env) == files


def test_mirrors_come_from_the_file_that_is_named(tmp_path: Path) -> None:
    conf = tmp_path / "registries.conf"
    conf.write_text('[[registry]]\nprefix = "docker.io"\nlocation = "example.com/hub"\n')
    found = mirrors({"CONTAINERS_REGISTRIES_CONF": str(conf)})
    (endpoint,) = found.endpoints("docker.io", "library/x", False)
    assert (endpoint.registry, endpoint.repository) == ("example.com", "hub/library/x")


@pytest.mark.parametrize("text", [b"[[registry", b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_a_fault(text: bytes, tmp_path: Path) -> None:
    conf = tmp_path / "registries.conf"
    conf.write_bytes(text)
    with pytest.raises(ChError):
        mirrors({"CONTAINERS_REGISTRIES_CONF": str(conf)})


def test_a_named_file_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ChError, match="nosuch"):
        mirrors({"CONTAINERS_REGISTRIES_CONF": str(tmp_path / "nosuch")})
