"""The command's side of create, with the messages of the two processes that it talks to."""

from __future__ import annotations

import json
import os
from pathlib import Path

import bundles

from ch_image.oci import spec
from ch_image.oci.creating import Creation
from ch_image.oci.states import CREATED, Record, Store
from ch_image.oci.wishes import NO_WISHES


def test_the_container_is_never_without_its_number(tmp_path: Path) -> None:
    """The process that made the first one may be slower than that one is with all its mounts."""
    keep = {"path": "/bin/sh", "args": ["sh", "-c", f"cat > {tmp_path}/state"]}
    config = bundles.config("true", hooks={"createRuntime": [keep]})
    store = Store(str(tmp_path / "s"))
    held = store.reserve(Record("x", "/bundle"))
    found = spec.parse(json.dumps(config).encode(), "config.json")
    creation = Creation(held, found, NO_WISHES, "/bundle/rootfs")
    creation.inner.send("hooks")  # of the first process
    creation.inner.send("pid", str(os.getpid()))  # of its maker
    creation.inner.send("ready")

    creation.converse()

    held.close()
    assert [creation.inner.receive() for _ in range(2)] == [["go"], ["settled"]]
    assert json.loads((tmp_path / "state").read_text())["pid"] == os.getpid()
    record = store.read("x")
    assert (record.phase, record.pid) == (CREATED, os.getpid())
    creation.inner.close()
