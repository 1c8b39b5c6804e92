"""Debian's docker-registry with passwords and TLS, pulled from and pushed to as a user does it."""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import world
from wildserver import certificate

# bcrypt of "opensesame", the only hash that the registry takes
HTPASSWD = "ali:$2b$04$abcdefghijklmnopqrstuuFuhxWRTXIsURoluSTZ1N4tYaWGn9oOi\n"
USER, PASSWORD = "ali", "opensesame"


@contextlib.contextmanager
def guarded_registry(directory: Path) -> Iterator[tuple[str, Path]]:
    """HOST:PORT of a registry with TLS and a password, and the certificate of its authority."""
    keys = certificate(directory / "keys")
    host = f"127.0.0.1:{world.free_port()}"
    (directory / "htpasswd").write_text(HTPASSWD)
    config = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(directory / "data")}},
        "auth": {"htpasswd": {"realm": "tests", "path": str(directory / "htpasswd")}},
        "http": {
            "addr": host,
            "tls": {"certificate": str(keys / "server.crt"), "key": str(keys / "server.key")},
        },
    }
    (directory / "config.yml").write_text(json.dumps(config))
    with (directory / "log").open("wb") as log:
        server = subprocess.Popen(
            [world.program("setpriv"), "--pdeathsig", "TERM", world.program("docker-registry"),
             "serve", str(directory / "config.yml")],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        time.sleep(0.2)
        yield host, keys / "ca.crt"
    finally:
        server.terminate()
        server.wait(10)


class Guarded:
    """The running registry, and the image in it."""

    def __init__(self, host: str, authority: Path) -> None:
        self.host, self.authority = host, authority
        self.image = f"{host}/team/busybox:latest"

    def environment(self, **more: str) -> dict[str, str]:
        return {"REQUESTS_CA_BUNDLE": str(self.authority), **more}


@pytest.fixture(scope="module")
def guarded(
    tmp_path_factory: pytest.TempPathFactory, base_layout: world.BaseImage
) -> Iterator[Guarded]:
    with guarded_registry(tmp_path_factory.mktemp("guarded")) as (host, authority):
        running = Guarded(host, authority)
        for _ in range(50):
            done = subprocess.run(
                [world.program("skopeo"), "--insecure-policy", "copy", "--dest-tls-verify=false",
                 f"--dest-creds={USER}:{PASSWORD}", base_layout.source,
                 f"docker://{running.image}"], capture_output=True, text=True,
            )  # fmt: skip
            if "connection refused" not in done.stderr:
                break
            time.sleep(0.1)
        assert done.returncode == 0, done.stderr
        yield running


pytestmark = [pytest.mark.registry, pytest.mark.userns]


def test_who_has_no_password_is_told_what_to_do(ch_image: world.Tool, guarded: Guarded) -> None:
    done = ch_image("pull", guarded.image, env=guarded.environment())
    assert "unauthorized, or not in the registry" in done.fault()
    assert "--auth" in done.err
    assert done.code == 1


def test_the_environments_password_serves_with_auth(ch_image: world.Tool, guarded: Guarded) -> None:
    env = guarded.environment(CH_IMAGE_USERNAME=USER, CH_IMAGE_PASSWORD=PASSWORD)
    assert ch_image("pull", guarded.image, env=env).code == 1
    done = ch_image("pull", "--auth", "--debug", guarded.image, env=env).ok()
    assert PASSWORD not in done.out + done.err
    assert base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode() not in done.err
    assert guarded.image in ch_image("list").ok().out
    everything = subprocess.run(
        ["grep", "-rlF", PASSWORD, str(ch_image.storage)], capture_output=True, text=True
    )
    assert everything.stdout == ""


def test_a_wrong_password_is_refused(ch_image: world.Tool, guarded: Guarded) -> None:
    env = guarded.environment(CH_IMAGE_USERNAME=USER, CH_IMAGE_PASSWORD="wrong")
    assert "unauthorized" in ch_image("pull", "--auth", guarded.image, env=env).fault()


@pytest.mark.parametrize("place", ["docker", "podman"])
def test_a_login_of_docker_or_podman_serves(
    place: str, ch_image: world.Tool, guarded: Guarded, tmp_path: Path
) -> None:
    path = tmp_path / ("config.json" if place == "docker" else "auth.json")
    pair = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    path.write_text(json.dumps({"auths": {f"https://{guarded.host}/v2/": {"auth": pair}}}))
    path.chmod(0o600)
    variable = {"docker": ("DOCKER_CONFIG", tmp_path), "podman": ("REGISTRY_AUTH_FILE", path)}
    name, value = variable[place]
    env = guarded.environment(**{name: str(value)})
    ch_image("pull", guarded.image, env=env).ok()


def test_an_unknown_authority_is_refused_and_can_be_let_be(
    ch_image: world.Tool, guarded: Guarded
) -> None:
    env = {"CH_IMAGE_USERNAME": USER, "CH_IMAGE_PASSWORD": PASSWORD}
    done = ch_image("pull", "--auth", guarded.image, env=env)
    assert "is not trusted" in done.fault()
    ch_image("pull", "--auth", "--tls-no-verify", guarded.image, env=env).ok()
