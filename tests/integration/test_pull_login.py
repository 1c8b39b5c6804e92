"""Debian's docker-registry with passwords and TLS, pulled from and pushed to as a user does it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pty
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import world
from guarded import PASSWORD, USER, Guarded, guarded_registry


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


def test_authorities_come_from_a_directory(
    ch_image: world.Tool, guarded: Guarded, tmp_path: Path
) -> None:
    (tmp_path / "ours.crt").write_bytes(guarded.authority.read_bytes())
    env = {"CH_IMAGE_USERNAME": USER, "CH_IMAGE_PASSWORD": PASSWORD}
    ch_image("pull", "--auth", "--cert-dir", tmp_path, guarded.image, env=env).ok()
    done = ch_image("pull", "--auth", "--cert-dir", tmp_path / "no", guarded.image, env=env)
    assert "no such directory" in done.fault()


def test_a_push_logs_in_and_tells_nobody(ch_image: world.Tool, guarded: Guarded) -> None:
    """What is read without writing's rights is written with them; not even --debug says how."""
    env = guarded.environment(CH_IMAGE_USERNAME=USER, CH_IMAGE_PASSWORD=PASSWORD)
    ch_image("pull", "--auth", guarded.image, "mine", env=env).ok()
    target = f"{guarded.host}/mine/copy:1"
    assert "unauthorized" in ch_image("push", "mine", target, env=env).fault()
    done = ch_image("push", "--auth", "--debug", "mine", target, env=env).ok()
    pair = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    assert PASSWORD not in done.out + done.err
    assert pair not in done.out + done.err
    before, after = (
        ch_image("inspect", "--auth", "--remote", "--digests", name, env=env).ok().out
        for name in (guarded.image, target)
    )
    assert before == after
    assert "available remotely:    yes" in ch_image("list", "--auth", target, env=env).ok().out


HELPER = """#!/bin/sh
[ "$1" = get ] || exit 9
read server; echo "$server $(id -u)" >> {log}
echo '{{"ServerURL": "x", "Username": "{user}", "Secret": "{password}"}}'
"""


@pytest.mark.parametrize("key", ["credHelpers", "credsStore"])
def test_a_credential_helper_sees_the_user_as_they_are(
    key: str, ch_image: world.Tool, guarded: Guarded, tmp_path: Path
) -> None:
    """Not as root of a namespace of ours, to whom no key ring would open."""
    helper, log = tmp_path / "docker-credential-test", tmp_path / "log"
    helper.write_text(HELPER.format(log=log, user=USER, password=PASSWORD))
    helper.chmod(0o755)
    value = {guarded.host: "test"} if key == "credHelpers" else "test"
    (tmp_path / "config.json").write_text(json.dumps({key: value}))
    env = guarded.environment(DOCKER_CONFIG=str(tmp_path), PATH=f"{tmp_path}:{os.environ['PATH']}")
    done = ch_image("pull", "--debug", guarded.image, "mine", env=env).ok()
    assert PASSWORD not in done.err
    if key == "credsStore":
        assert log.read_text() == f"{guarded.host} {os.getuid()}\n"
        return
    ch_image("push", "mine", f"{guarded.host}/helped:1", env=env).ok()
    (tmp_path / "Dockerfile").write_text(f"FROM {guarded.image}\nENV A=b\n")
    ch_image("build", "-t", "built", "-f", tmp_path / "Dockerfile", tmp_path, env=env).ok()
    ch_image("inspect", "--remote", guarded.image, env=env).ok()
    assert set(log.read_text().splitlines()) == {f"{guarded.host} {os.getuid()}"}
    helper.write_text("#!/bin/sh\nexit 3\n")
    assert "ended with code 3" in ch_image("pull", guarded.image, "x", env=env).fault()
    helper.unlink()
    done = ch_image("pull", guarded.image, "x", env=env)
    assert "docker-credential-test, which is not installed" in done.err


def typed(tool: world.Tool, env: Mapping[str, str], *words: object) -> tuple[int, str]:
    """Run a command on a terminal where user name and password are typed when asked for."""
    pid, terminal = pty.fork()
    if pid == 0:
        argv = tool.argv("ch-image", *words)
        os.execvpe(argv[0], argv, tool.environment(**env))
    shown, answered = "", 0
    with contextlib.suppress(OSError):  # EIO: the other side is closed
        while data := os.read(terminal, 4096):
            shown += data.decode(errors="replace")
            for question in re.findall(r"(?:username|password) for [^:]+(?::\d+)?: ", shown)[
                answered:
            ]:
                answered += 1
                answer = USER if question.startswith("username") else PASSWORD
                os.write(terminal, f"{answer}\n".encode())
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown


def test_who_sits_at_a_terminal_is_asked_once_and_not_shown(
    ch_image: world.Tool, guarded: Guarded
) -> None:
    code, shown = typed(ch_image, guarded.environment(), "pull", "--auth", guarded.image, "mine")
    assert code == 0, shown
    assert shown.count("password for ") == 1
    assert PASSWORD not in shown


def test_one_time_passwords_are_asked_for_anew(ch_image: world.Tool, guarded: Guarded) -> None:
    words = ("--auth", "--password-many", guarded.image, "mine")
    code, shown = typed(ch_image, guarded.environment(), "pull", *words)
    assert code == 0, shown
    assert shown.count("password for ") >= 1
    assert PASSWORD not in shown
    files = subprocess.run(
        ["grep", "-rlF", PASSWORD, str(ch_image.storage), str(ch_image.home)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert files.stdout == ""
