"""A registry that lies and never ends, against whole commands: bounded, one error line, no trace.

The server stands on loopback; what it may send is in the millions of bytes a second, so that what
has no bound would show within the time that a test takes.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import world
from wildserver import Asked, Reply, Wild

pytestmark = [pytest.mark.userns]

MEMORY = 400 << 20  # bytes that any process of ours may take, whatever comes
NAME = "evil:1"
OCI = "application/vnd.oci.image."
Answers = dict[str, Reply | Callable[[Asked], Reply]]


class Image(NamedTuple):
    """A small honest image: what a registry answers for it, and its parts."""

    answers: Answers
    manifest: dict[str, Any]
    layer: bytes
    config: bytes


def honest() -> Image:
    raw = world.tar_of({"hello": "hello" * 1000})
    layer = gzip.compress(raw, mtime=0)
    config = json.dumps({
        "architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [world.digest(raw)]},
    }).encode()  # fmt: skip
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI + "manifest.v1+json",
        "config": about(config, "config.v1+json"),
        "layers": [about(layer, "layer.v1.tar+gzip")],
    }
    answers: Answers = {
        f"/v2/evil/blobs/{world.digest(layer)}": Reply(200, layer),
        f"/v2/evil/blobs/{world.digest(config)}": Reply(200, config),
    }
    return Image(answers, manifest, layer, config)


def about(data: bytes, kind: str) -> dict[str, Any]:
    return {"mediaType": OCI + kind, "digest": world.digest(data), "size": len(data)}


def blob(image: Image, data: bytes) -> str:
    return f"/v2/evil/blobs/{world.digest(data)}"


def told(image: Image, **changes: Any) -> Reply:
    """The image's manifest with changes."""
    return Reply(200, json.dumps(image.manifest | changes).encode())


NOISE = os.urandom(1 << 16)
ENDLESS = Reply(200, NOISE, endless=True)
GIB = 1 << 30


def of_size(image: Image, size: int) -> Reply:
    layer = image.manifest["layers"][0] | {"size": size}
    return told(image, layers=[layer])


def endless_token(image: Image) -> Answers:
    def challenge(asked: Asked) -> Reply:
        realm = f'Bearer realm="http://{asked.headers["host"]}/token",service="s"'
        return Reply(401, headers={"WWW-Authenticate": realm})

    return {"/v2/evil/manifests/1": challenge, "/token": ENDLESS}


ATTACKS: dict[str, Callable[[Image], Answers]] = {
    "an endless manifest": lambda i: {"/v2/evil/manifests/1": ENDLESS},
    "an endless refusal": lambda i: {"/v2/evil/manifests/1": ENDLESS._replace(status=403)},
    "an endless token": endless_token,
    "an endless config": lambda i: {blob(i, i.config): ENDLESS},
    "an endless layer": lambda i: {blob(i, i.layer): ENDLESS},
    "a layer of 1 GiB, says the manifest": lambda i: {"/v2/evil/manifests/1": of_size(i, GIB)},
    "a layer of 1 byte, says the manifest": lambda i: {"/v2/evil/manifests/1": of_size(i, 1)},
    "a config of 5 GiB": lambda i: {
        "/v2/evil/manifests/1": told(i, config=i.manifest["config"] | {"size": 5 * GIB})
    },
    "another layer of that size": lambda i: {blob(i, i.layer): Reply(200, bytes(len(i.layer)))},
    "100,000 layers": lambda i: {
        "/v2/evil/manifests/1": told(i, layers=i.manifest["layers"] * 100_000)
    },
    "brackets without end": lambda i: {"/v2/evil/manifests/1": Reply(200, b"[" * 4_000_000)},
    "an index of itself": lambda i: {
        "/v2/evil/manifests/1": Reply(200, json.dumps(
            {"manifests": [about(b"x", "index.v1+json")] * 10_001}).encode()),
    },
    "a digest that is a path": lambda i: {
        "/v2/evil/manifests/1": told(i, layers=[
            i.manifest["layers"][0] | {"digest": "sha256:../../../../etc/passwd"}]),
    },
    "Retry-After a year": lambda i: {
        "/v2/evil/manifests/1": Reply(403, b'{"errors":[{"message":"\x1b[2Jgone"}]}',
                                      {"Retry-After": "31536000"}),
    },
}  # fmt: skip


def pull(tool: world.Tool, wild: Wild, *words: str) -> tuple[world.Done, int]:
    """A pull, and the most memory that one of its processes took, in bytes."""
    script = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL)\n"
        "print('peak', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, flush=True)\n"
        "sys.exit(done.returncode)\n"
    )
    argv = tool.argv("ch-image", *(words or ("pull", f"{wild.host}/{NAME}")))
    done = subprocess.run(
        [argv[0], "-c", script, *argv], capture_output=True, text=True,
        env=tool.environment(), timeout=50,
    )  # fmt: skip
    peak = int(done.stdout.rpartition("peak ")[2]) << 10
    return world.Done(done.returncode, done.stdout, done.stderr), peak


def serving(image: Image, more: Mapping[str, Any]) -> Wild:
    answers: Answers = {"/v2/evil/manifests/1": told(image), **image.answers, **more}

    def answer(asked: Asked) -> Reply:
        found = answers.get(asked.path, Reply(404))
        return found if isinstance(found, Reply) else found(asked)

    return Wild(answer)


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_what_a_registry_does_ends_and_costs_little(
    attack: Callable[[Image], Answers], ch_image: world.Tool
) -> None:
    image = honest()
    with serving(image, attack(image)) as wild:
        done, peak = pull(ch_image, wild)
    assert done.code == 1
    message = done.fault()
    assert len(message) <= 1000
    assert "\x1b" not in done.err
    assert peak < MEMORY
    assert ch_image("list").ok().out == ""
    assert os.listdir(ch_image.storage / "tmp") == []
    left = sum(f.stat().st_size for f in (ch_image.storage / "blobs").rglob("*") if f.is_file())
    assert left < 1 << 20


def test_a_refused_pull_does_not_touch_the_older_image_or_the_next(
    ch_image: world.Tool, tmp_path: Path
) -> None:
    image = honest()
    with serving(image, {}) as wild:
        ref = f"{wild.host}/{NAME}"
        ch_image("pull", ref, "kept").ok()
        before = ch_image("inspect", "--digests", "kept").ok().out
        good = wild.answer
        config = json.dumps(json.loads(image.config) | {"rootfs": {
            "type": "layers", "diff_ids": [world.digest(b"another layer")]}}).encode()  # fmt: skip
        bad = json.dumps(image.manifest | {"config": about(config, "config.v1+json")}).encode()

        def evil(asked: Asked) -> Reply:
            if "/manifests/" in asked.path:
                return Reply(200, bad)
            return Reply(200, config) if world.digest(config) in asked.path else good(asked)

        wild.answer = evil
        assert "diff ID" in ch_image("pull", ref, "kept").fault()
        assert ch_image("inspect", "--digests", "kept").ok().out == before
        wild.answer = good
        ch_image("pull", ref, "next").ok()
    assert [line.split()[0] for line in ch_image("list").ok().out.splitlines()] == ["kept", "next"]


def test_tokens_and_passwords_stay_where_they_belong(
    ch_image: world.Tool, base_layout: world.BaseImage
) -> None:
    """The registry sends redirects, uploads and a second realm elsewhere: none is told a thing."""
    image, loud = honest(), ("--auth", "--debug")
    ch_image("import", base_layout.layout, "base").ok()
    with Wild(lambda asked: Reply(201 if asked.method in ("PUT", "PATCH") else 200,
                                  image.layer)) as other:  # fmt: skip

        def answer(asked: Asked) -> Reply:
            if asked.path == "/token":
                return Reply(200, b'{"token": "secret-token"}')
            if asked.headers.get("authorization") != "Bearer secret-token":
                realm = f'Bearer realm="{wild.url}/token",service="s"'
                return Reply(401, headers={"WWW-Authenticate": realm})
            if asked.method == "POST":
                return Reply(202, headers={"Location": f"{other.url}/upload?x=1"})
            if asked.method == "PUT":
                return Reply(201)
            if asked.method == "HEAD":
                return Reply(404)
            if world.digest(image.layer) in asked.path:
                return Reply(307, headers={"Location": f"{other.url}/signed"})
            found = image.answers.get(asked.path, told(image))
            assert isinstance(found, Reply)
            return found

        with Wild(answer) as wild:
            env = {"CH_IMAGE_USERNAME": "ali", "CH_IMAGE_PASSWORD": "opensesame"}
            done = ch_image("pull", *loud, f"{wild.host}/evil:1", "got", env=env).ok()
            sent = ch_image("push", *loud, "base", f"{wild.host}/evil:2", env=env).ok()
            told_home = [a.headers.get("authorization", "") for a in wild.asked]
        assert {"/signed", "/upload"} <= set(other.paths())
        assert not any("authorization" in asked.headers for asked in other.asked)
    assert any(value.startswith("Basic ") for value in told_home)
    for secret in ("secret-token", "opensesame", "YWxpOm9wZW5zZXNhbWU"):
        assert secret not in done.err + done.out + sent.err + sent.out
        found = subprocess.run(["grep", "-rlF", secret, str(ch_image.storage)], capture_output=True)
        assert found.stdout == b""
