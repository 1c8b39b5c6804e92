"""Ctrl-C and KILL while a layer is on its way: nothing of ours runs on, nothing is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import world
from wildserver import Asked, Reply, Wild

pytestmark = pytest.mark.userns
LAYER = world.tar_of({f"data/{n}": str(n) * 20_000 for n in range(200)})


class Slow:
    """Serves one image, whose layer stops half-way until `go` is set."""

    def __init__(self) -> None:
        self.waiting = False
        self.hold = True
        self.config = json.dumps(
            {"architecture": "amd64", "os": "linux",
             "rootfs": {"type": "layers", "diff_ids": [world.digest(LAYER)]}}
        ).encode()  # fmt: skip

        def describe(data: bytes) -> dict[str, object]:
            return {"mediaType": "", "digest": world.digest(data), "size": len(data)}

        value = {"schemaVersion": 2, "config": describe(self.config), "layers": [describe(LAYER)]}
        self.manifest = json.dumps(value).encode()

    def __call__(self, asked: Asked) -> Reply:
        if "/manifests/" in asked.path:
            return Reply(200, self.manifest)
        if asked.path.endswith(world.digest(self.config)):
            return Reply(200, self.config)
        if self.hold and asked.headers.get("range"):
            self.waiting = True
            while self.hold:
                time.sleep(0.02)
        return Reply(200, LAYER, cut=len(LAYER) // 2 if self.hold else None)


@pytest.fixture
def slow() -> Iterator[tuple[Slow, Wild]]:
    serve = Slow()
    with Wild(serve) as wild:
        yield serve, wild
        serve.hold = False


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.02)


def ours(storage: Path) -> list[str]:
    """Processes that have something of this storage directory open."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        for fd in Path("/proc", pid, "fd").glob("*") if int(pid) != os.getpid() else ():
            try:
                if str(storage) in os.readlink(fd):
                    found.append(pid)
            except OSError:
                continue
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_pull_leaves_nothing(
    number: int, slow: tuple[Slow, Wild], ch_image: world.Tool
) -> None:
    serve, wild = slow
    process = ch_image.start("pull", f"{wild.host}/app:1")
    until(lambda: serve.waiting)
    until(lambda: bool(ours(ch_image.storage)))
    begin = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert time.monotonic() - begin < 5
    assert process.returncode != 0
    assert "Traceback" not in err
    until(lambda: not ours(ch_image.storage), 5)
    assert ch_image("list").ok().out == ""
    serve.hold = False
    ch_image("pull", f"{wild.host}/app:1").ok()
    assert f"{wild.host}/app:1" in ch_image("list").ok().out
    left = subprocess.check_output(["find", str(ch_image.storage / "tmp"), "-name", "partial*"])
    assert left == b""
