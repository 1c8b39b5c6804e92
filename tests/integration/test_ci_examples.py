"""The example pipelines, step by step, as a runner carries them out: on two machines in turn.

The registry is real, with TLS and a password. Only what a runner brings itself is stood in for:
`pip` and `sudo`, and the values of its variables.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import world
import yaml
from guarded import PASSWORD, USER, Guarded, guarded_registry

pytestmark = [pytest.mark.userns, pytest.mark.registry]
PIPELINES = world.CHECKOUT / "examples/ci"


@pytest.fixture(scope="module")
def registry(
    tmp_path_factory: pytest.TempPathFactory, base_layout: world.BaseImage
) -> Iterator[Guarded]:
    """With the base image that the example's Dockerfile wants."""
    with guarded_registry(tmp_path_factory.mktemp("guarded")) as (host, authority):
        copy = [world.program("skopeo"), "--insecure-policy", "copy", "--dest-tls-verify=false",
                f"--dest-creds={USER}:{PASSWORD}", base_layout.source,
                f"docker://{host}/debian:bookworm"]  # fmt: skip
        for _ in range(50):
            done = subprocess.run(copy, capture_output=True, text=True)
            if "connection refused" not in done.stderr:
                break
            time.sleep(0.1)
        assert done.returncode == 0, done.stderr
        yield Guarded(host, authority)


class Runner:
    """A machine that has just been set up, with nothing of the one before."""

    def __init__(self, place: Path, registry: Guarded) -> None:
        place.mkdir()
        self.tool = world.Tool(place / "storage", place)
        programs = place / "bin"
        programs.mkdir()
        for name in ("ch-image", "ch-run"):
            self._program(programs / name, f'exec {shlex.join(self.tool.argv(name))} "$@"')
        self._program(programs / "pip", '[ "$*" = "install ch-image" ]')
        self._program(programs / "sudo", '[ "$1" = sysctl ]')
        host, _, port = registry.host.partition(":")
        self.env = self.tool.environment(**registry.environment()) | {
            "PATH": f"{programs}:{self.tool.environment()['PATH']}",
            "CH_REGY_DEFAULT_HOST": host,
            "CH_REGY_DEFAULT_PORT": port,
        }

    @staticmethod
    def _program(path: Path, text: str) -> None:
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def run(self, script: str, env: dict[str, str]) -> str:
        """What a shell script that must succeed says."""
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", script],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, env=self.env | env, cwd=world.CHECKOUT,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout


def gitlab(runner: Runner, registry: Guarded, commit: str) -> str:
    """One run of the GitLab pipeline; what its jobs said."""
    pipeline: dict[str, Any] = yaml.safe_load((PIPELINES / "gitlab-ci.yml").read_text())
    given = {
        "CI_REGISTRY": registry.host,
        "CI_REGISTRY_IMAGE": f"{registry.host}/team/project",
        "CI_REGISTRY_USER": USER,
        "CI_REGISTRY_PASSWORD": PASSWORD,
        "CI_COMMIT_SHORT_SHA": commit,
        "CI_PROJECT_DIR": str(runner.tool.home),
    }
    said = ""
    for name, job in pipeline.items():
        if name == "stages":
            continue
        assert job["stage"] in pipeline["stages"]
        env = dict(given)
        for key, text in job["variables"].items():
            env[key] = re.sub(r"\$(\w+)", lambda found: given[found[1]], text)
        said += runner.run("\n".join([*job["before_script"], *job["script"]]), env)
        said += runner.run("\n".join(job["after_script"]), env)
    return said


def github(runner: Runner, registry: Guarded, commit: str) -> str:
    """One run of the GitHub workflow; what its jobs said."""
    values = {
        "github.repository": "team/project2",
        "github.actor": USER,
        "github.sha": commit,
        "secrets.GITHUB_TOKEN": PASSWORD,
    }
    text = (PIPELINES / "github-actions.yml").read_text()
    text = re.sub(r"\$\{\{ ([\w.]+) \}\}", lambda found: values[found[1]], text)
    workflow: dict[str, Any] = yaml.safe_load(text.replace("ghcr.io", registry.host))
    said = ""
    for job in workflow["jobs"].values():
        assert job["permissions"]["packages"] == "write"
        for step in job["steps"]:
            if "run" in step:
                said += runner.run(step["run"], job["env"] | step.get("env", {}))
            else:
                assert re.fullmatch(r"actions/(checkout|setup-python)@v\d+", step["uses"])
    return said


RUNNERS = {"gitlab": (gitlab, "team/project"), "github": (github, "team/project2")}


@pytest.mark.parametrize("kind", RUNNERS)
def test_a_pipeline_pushes_and_the_next_one_finds_its_cache(
    kind: str, registry: Guarded, tmp_path: Path
) -> None:
    pipeline, name = RUNNERS[kind]
    first = pipeline(Runner(tmp_path / "one", registry), registry, "1a2b3c")
    assert re.search(r"^ *\d+\. RUN", first, re.M), first
    assert "hello from the pipeline" in first
    assert PASSWORD not in first
    second = pipeline(Runner(tmp_path / "two", registry), registry, "4d5e6f")
    assert re.search(r"^ *\d+\* RUN", second, re.M), second
    assert not re.search(r"^ *\d+\. (RUN|COPY)", second, re.M), second
    user = world.Tool(tmp_path / "three", tmp_path)
    env = registry.environment(CH_IMAGE_USERNAME=USER, CH_IMAGE_PASSWORD=PASSWORD)
    for tag in ("1a2b3c", "4d5e6f", "latest"):
        user("pull", "--auth", f"{registry.host}/{name}:{tag}", tag, env=env).ok()
    assert user.run("ch-run", "latest", "--", "cat", "/srv/greeting").ok().out
