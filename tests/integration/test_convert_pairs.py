"""ch-convert from every format to every other, in one round that takes each pair once."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
import world

pytestmark = pytest.mark.userns
# what a name of each format looks like, so that no -o is needed
NAMES = {
    "ch-image": "step{n}", "dir": "./step{n}", "tar": "step{n}.tar.gz", "squash": "step{n}.sqfs",
    "oci": "step{n}.oci", "oci-archive": "step{n}.oci.tar", "docker-archive": "step{n}.docker.tar",
}  # fmt: skip


def round_trip() -> list[str]:
    """Formats in an order in which each follows each other one exactly once (Hierholzer)."""
    left = {one: [other for other in NAMES if other != one] for one in NAMES}
    stack, out = ["dir"], []
    while stack:
        if left[stack[-1]]:
            stack.append(left[stack[-1]].pop())
        else:
            out.append(stack.pop())
    return out[::-1]


def test_the_round_has_every_pair() -> None:
    order = round_trip()
    assert len({*zip(order, order[1:], strict=False)}) == len(order) - 1 == 42


def test_every_pair_of_formats(ch_image: world.Tool, tmp_path: Path) -> None:
    order = round_trip()
    first = tmp_path / "step0"
    for name in ("bin", "etc", "dev", "ch"):
        (first / name).mkdir(parents=True)
    (first / "bin/tool").write_text("#!/bin/sh\n")
    (first / "bin/tool").chmod(0o4755)
    (first / "bin/link").symlink_to("tool")
    (first / "etc/closed").write_text("closed")
    (first / "etc/closed").chmod(0o040)
    (first / "etc").chmod(0o555)
    (first / "ch/environment").write_text("A=b\n")
    os.utime(first / "bin/tool", (1_600_000_000, 1_600_000_000))
    for n, kind in enumerate(order[1:], 1):
        source, target = NAMES[order[n - 1]].format(n=n - 1), NAMES[kind].format(n=n)
        done = ch_image.run("ch-convert", source, target, cwd=tmp_path).ok()
        assert f"input:   {order[n - 1]}" in done.err, done
        assert f"output:  {kind}" in done.err, done
    last = tmp_path / f"step{len(order) - 1}"
    assert order[-1] == "dir"
    # Rights are the owner's own, set-ID is gone, and whoever owns it removes it.
    assert (last / "bin/tool").stat().st_mode & 0o7777 == 0o755
    assert (last / "bin/tool").stat().st_mtime == 1_600_000_000
    assert os.readlink(last / "bin/link") == "tool"
    assert (last / "etc/closed").read_text() == "closed"
    assert "A=b\n" in (last / "ch/environment").read_text()
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        names = {member.name.removeprefix("./").rstrip("/") for member in archive}
    assert {"bin/tool", "bin/link", "etc/closed"} <= names
    left = [f".{name}" for name in os.listdir(tmp_path) if name.endswith(".part")]
    assert left == []
    for path in tmp_path.glob("step*"):
        if path.is_dir() and path != first:
            subprocess.run(["rm", "-rf", path], check=True)
    first.joinpath("etc").chmod(0o755)
    assert len(json.loads(ch_image("list", "--format=json").ok().out)) == order.count("ch-image")
