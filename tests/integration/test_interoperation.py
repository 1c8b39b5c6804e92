"""Neighbours of ours, each as its user runs it: what they take from us, and we from them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import conftest
import pytest
import world

pytestmark = [pytest.mark.userns, pytest.mark.registry]

EPOCH = {"SOURCE_DATE_EPOCH": "1700000000"}
DOCKERFILE = """FROM {base}
RUN echo new > /new && ln /new /hard && ln -s new /link && chown 33:34 /new && chmod 4755 /new
RUN rm /etc/group && mkdir /d && chown -h 7:8 /link && chmod 1777 /d
ENV A=b
"""
# vfs can be had everywhere; who has no subordinate IDs gets all files as their own
STORAGE_CONF = """[storage]
driver = "vfs"
[storage.options.vfs]
ignore_chown_errors = "true"
"""


class Harbour(NamedTuple):
    """An image `app`, built and pushed as `ref`; `digests` as our storage has them."""

    tool: world.Tool
    registry: world.Registry
    ref: str
    digests: dict[str, str]


def digests(tool: world.Tool, name: str) -> dict[str, str]:
    """What `inspect --digests` says: "manifest", "config", "layer 1" ... -> digest."""
    out = tool("inspect", "--digests", name).ok().out
    return dict(re.findall(r"^(\w+(?: \d+)?) +(sha256:[0-9a-f]{64})", out, re.M))


def of_archive(found: dict[str, str]) -> dict[str, str]:
    """Those that an archive of `docker save` keeps: all but the manifest's."""
    return {label: digest for label, digest in found.items() if label != "manifest"}


@pytest.fixture(scope="module")
def harbour(
    registry: world.Registry, base_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Harbour]:
    work = tmp_path_factory.mktemp("harbour")
    (work / "home/.config/containers").mkdir(parents=True)
    (work / "home/.config/containers/storage.conf").write_text(STORAGE_CONF)
    tool = world.Tool(work / "storage", work / "home")
    (work / "context").mkdir()
    (work / "context/Dockerfile").write_text(DOCKERFILE.format(base=base_image))
    tool("build", "-t", "app", work / "context", env=EPOCH).ok()
    ref = registry.ref("interoperation:1")
    tool("push", "app", ref, env=EPOCH).ok()
    yield Harbour(tool, registry, ref, digests(tool, "app"))
    conftest.remove_tree(tool.storage)


@pytest.fixture
def neighbour(harbour: Harbour, tmp_path: Path) -> Iterator[world.Tool]:
    """A second storage, which has seen nothing; podman's and buildah's are in its home."""
    home = tmp_path / "home"
    shutil.copytree(harbour.tool.home / ".config", home / ".config")
    tool = world.Tool(tmp_path / "storage", home)
    yield tool
    for pause in home.rglob("pause.pid"):  # a process that rootless podman leaves behind
        with contextlib.suppress(ValueError, ProcessLookupError):
            os.kill(int(pause.read_text()), signal.SIGTERM)
    if (home / ".local").exists():
        conftest.remove_tree(home / ".local")
    conftest.remove_tree(tool.storage)


def installed(name: str) -> str:
    return shutil.which(name) or pytest.skip(f"{name} is not installed")


def theirs(tool: world.Tool, *words: object) -> str:
    """What a neighbour's program prints."""
    done = subprocess.run(
        [installed(str(words[0])), *map(str, words[1:])],
        capture_output=True,
        text=True,
        cwd=tool.home,
        env=world.clean_environment(tool.home),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_skopeo_sees_what_we_pushed(harbour: Harbour, neighbour: world.Tool) -> None:
    flags = ("--tls-verify=false", "--no-creds")
    seen = json.loads(theirs(neighbour, "skopeo", "inspect", *flags, f"docker://{harbour.ref}"))
    assert seen["Digest"] == harbour.digests["manifest"]
    assert seen["Env"][-1] == "A=b"
    assert len(seen["Layers"]) == 3
    words = ("skopeo", "inspect", "--config", *flags, f"docker://{harbour.ref}")
    config = json.loads(theirs(neighbour, *words))
    ids = [digest for label, digest in harbour.digests.items() if label.startswith("layer")]
    assert config["rootfs"]["diff_ids"] == ids
    assert [line.get("empty_layer", False) for line in config["history"]].count(False) == 3


@pytest.mark.parametrize("kind", ["oci", "v2s2"])
def test_what_skopeo_copies_comes_back(kind: str, harbour: Harbour, neighbour: world.Tool) -> None:
    copy = harbour.registry.ref(f"copied-{kind}:1")
    theirs(neighbour, "skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", "--format",
           kind, "--dest-tls-verify=false", "--src-no-creds", "--dest-no-creds",
           f"docker://{harbour.ref}", f"docker://{copy}")  # fmt: skip
    neighbour("pull", copy, "back").ok()
    found = digests(neighbour, "back")
    if kind == "oci":
        assert found == harbour.digests
    assert found["layer 3"] == harbour.digests["layer 3"]
    ran = neighbour.run("ch-run", "back", "--", "cat", "/new")
    assert ran.ok().out == "new\n"


def test_umoci_unpacks_what_skopeo_fetches_of_ours(harbour: Harbour, neighbour: world.Tool) -> None:
    theirs(neighbour, "skopeo", "--insecure-policy", "copy", "--src-tls-verify=false",
           "--src-no-creds", f"docker://{harbour.ref}", "oci:layout:1")  # fmt: skip
    theirs(neighbour, "umoci", "unpack", "--rootless", "--image", "layout:1", "bundle")
    root = neighbour.home / "bundle/rootfs"
    assert (root / "new").samefile(root / "hard")
    assert not (root / "etc/group").exists()
    assert (root / "d").stat().st_mode & 0o7777 == 0o1777
    recorded = os.getxattr(root / "new", "user.rootlesscontainers")
    assert recorded == b"\x08\x21\x10\x22"  # protobuf: uid 33, gid 34


def test_buildah_builds_on_what_we_push_and_we_pull_what_it_pushes(
    harbour: Harbour, neighbour: world.Tool
) -> None:
    flags = ("--tls-verify=false",)
    name = theirs(neighbour, "buildah", "from", *flags, f"docker://{harbour.ref}").strip()
    theirs(neighbour, "buildah", "config", "--env", "C=d", name)
    theirs(neighbour, "buildah", "commit", name, "localhost/derived")
    target = harbour.registry.ref("from-buildah:1")
    theirs(neighbour, "buildah", "push", *flags, "localhost/derived", f"docker://{target}")
    neighbour("pull", target, "derived").ok()
    config = json.loads(neighbour("inspect", "derived").ok().out)
    assert config["config"]["Env"][-2:] == ["A=b", "C=d"]
    found = digests(neighbour, "derived")
    assert [found[f"layer {n}"] for n in (1, 2, 3)] == [
        harbour.digests[f"layer {n}"] for n in (1, 2, 3)
    ]
    kind = "application/vnd.oci.image.manifest.v1+json"
    raw = harbour.registry.get("from-buildah/manifests/1", kind)
    assert world.digest(raw) == found["manifest"]


def test_podman_loads_and_saves_as_the_user_that_we_are(
    harbour: Harbour, neighbour: world.Tool
) -> None:
    """Not as root of a namespace of ours, for whom it would look for images of root."""
    installed("podman")
    env = {"PATH": f"{os.environ['PATH']}:/usr/bin", **EPOCH}
    harbour.tool.run("ch-convert", "-o", "podman", "app", "given:1",
                     env=env | {"HOME": str(neighbour.home),
                                "XDG_RUNTIME_DIR": str(neighbour.home)}).ok()  # fmt: skip
    seen = json.loads(theirs(neighbour, "podman", "image", "inspect", "given:1"))[0]
    assert f"sha256:{seen['Id']}" == harbour.digests["config"]
    neighbour.run("ch-convert", "-i", "podman", "given:1", "back", env=env).ok()
    assert of_archive(digests(neighbour, "back")) == of_archive(harbour.digests)
    assert "not known" in neighbour.run(
        "ch-convert", "-i", "podman", "localhost/nosuch:1", "x", env=env
    ).fault()  # fmt: skip


def test_a_docker_daemon_loads_builds_and_saves(harbour: Harbour, neighbour: world.Tool) -> None:
    host = os.environ.get("CH_TEST_DOCKER_HOST") or pytest.skip(
        "CH_TEST_DOCKER_HOST names no docker daemon to try this with"
    )
    installed("docker")
    env = {"PATH": os.environ["PATH"], "DOCKER_HOST": host, **EPOCH}

    def docker(*words: str, text: str = "") -> str:
        done = subprocess.run(
            [installed("docker"), *words], input=text, capture_output=True, text=True,
            env=world.clean_environment(neighbour.home, **env),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    names = [f"ch-image-test-{os.getpid()}:{n}" for n in (1, 2)]
    try:
        harbour.tool.run("ch-convert", "-o", "docker", "app", names[0], env=env).ok()
        seen = docker("image", "inspect", names[0], "-f", "{{.Id}} {{.RootFS.Layers}}")
        assert seen.split()[0] == harbour.digests["config"]
        stat = "stat -c '%u:%g %a %h' /new /d && readlink /link && test ! -e /etc/group && echo $A"
        out = docker("run", "--rm", "--network=host", names[0], "sh", "-c", stat)
        assert out.split("\n") == ["33:34 4755 2", "0:0 1777 2", "new", "b", ""]
        lines = f"FROM {names[0]}\nRUN echo theirs > /theirs && chown 5:6 /theirs\n"
        docker("build", "-q", "--network=host", "-t", names[1], "-", text=lines)
        neighbour.run("ch-convert", "-i", "docker", names[0], "same", env=env).ok()
        assert of_archive(digests(neighbour, "same")) == of_archive(harbour.digests)
        neighbour.run("ch-convert", "-i", "docker", names[1], "derived", env=env).ok()
        assert neighbour.run("ch-run", "derived", "--", "cat", "/theirs").ok().out == "theirs\n"
        found = digests(neighbour, "derived")
        assert found["layer 3"] == harbour.digests["layer 3"]
        done = neighbour.run("ch-convert", "-i", "docker", "nosuch/image:1", "x", env=env)
        assert "docker save failed" in done.fault()
    finally:
        docker("rmi", "-f", *names)
