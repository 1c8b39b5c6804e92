"""SquashFS images: run where the machine lets us, else refused with two ways out."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import world

pytestmark = pytest.mark.userns


@pytest.fixture
def squash(base_layout: world.BaseImage, tmp_path: Path) -> Path:
    """The busybox image as a SquashFS file."""
    if shutil.which("mksquashfs") is None:
        world.lacking("no mksquashfs")
    path = tmp_path / "image.sqfs"
    words = ["mksquashfs", str(base_layout.tree), str(path), "-all-root", "-no-progress", "-quiet"]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return path


@pytest.fixture
def fuse(ch_image: world.Tool) -> None:
    """Only where an ordinary user may open /dev/fuse."""
    if ch_image.run("ch-run", "--feature", "squash").code:
        world.lacking("no squashfuse, or /dev/fuse is not for ordinary users")


def servers(path: Path) -> set[str]:
    """The squashfuse processes that have ``path`` open."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(entry) == str(path):
                found.add(entry.parts[2])
        except OSError:
            continue
    return found


def test_without_fuse_two_ways_out_are_named(ch_image: world.Tool, squash: Path) -> None:
    """Taken away here: a /dev/fuse that is another device, and no program to serve it."""
    hidden = ["/dev/fuse"], ["/usr/bin/squashfuse", "/usr/bin/squashfuse_ll"]
    for paths in hidden:
        script = "".join(
            f"if [ -e {path} ]; then mount --bind /dev/null {path}; fi; " for path in paths
        )
        for words, code in ((("--feature", "squash"), 87), ((squash, "--", "true"), 31)):
            argv = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c",
                    script + 'exec "$@"', "sh", *ch_image.argv("ch-run", *words)]  # fmt: skip
            ended = subprocess.run(argv, env=ch_image.environment(), capture_output=True, text=True)
            done = world.Done(ended.returncode, ended.stdout, ended.stderr)
            assert done.code == code, done
            if code == 31:
                assert f"can't mount a SquashFS image: {squash}: " in done.fault()
                assert "ch-image import it and run it by name, or ch-convert it to" in done.err


def test_an_image_runs_from_its_file_and_nothing_stays(
    fuse: None, ch_image: world.Tool, squash: Path
) -> None:
    mounts = Path("/proc/self/mounts").read_text()
    done = ch_image.run("ch-run", squash, "--", "sh", "-c", "cat /etc/os-release; touch /x")
    assert done.out.startswith("ID=busybox")
    assert "Read-only" in done.err
    assert Path("/proc/self/mounts").read_text() == mounts
    end = time.monotonic() + 5
    while servers(squash) and time.monotonic() < end:
        time.sleep(0.05)
    assert not servers(squash)


def test_fake_writes_and_a_place_to_mount_at(
    fuse: None, ch_image: world.Tool, squash: Path, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    words = ["-W", "-m", place, squash, "--", "sh", "-c", "echo x > /x && cat /x"]
    assert ch_image.run("ch-run", *words).ok().out == "x\n"
    assert list(place.iterdir()) == []


def test_peers_share_one_file_system(fuse: None, ch_image: world.Tool, squash: Path) -> None:
    tag = f"squash-{os.getpid()}"
    argv = ch_image.argv("ch-run", "--join-ct=4", f"--join-tag={tag}", squash, "--", "sleep", "1")
    running = [subprocess.Popen(argv, env=ch_image.environment()) for _ in range(4)]
    time.sleep(0.7)
    assert len(servers(squash)) <= 1
    assert [process.wait(60) for process in running] == [0] * 4


def test_what_cannot_be_meant_is_told(
    fuse: None, ch_image: world.Tool, squash: Path, tmp_path: Path
) -> None:
    for words, message in (
        (["-m", tmp_path / "nosuch", squash], "nosuch"),
        (["-w", squash], "-W"),
    ):
        done = ch_image.run("ch-run", *words, "--", "true")
        assert (done.code, message in done.err) == (31, True)
    cut = tmp_path / "cut.sqfs"
    cut.write_bytes(squash.read_bytes()[:5000])
    assert "cut short, at 5000 of" in ch_image.run("ch-run", cut, "--", "true").fault()
    broken = tmp_path / "broken.sqfs"
    broken.write_bytes(squash.read_bytes()[:64] + b"\xff" * 4000)
    done = ch_image.run("ch-run", broken, "--", "true")
    assert (done.code, "broken.sqfs" in done.err) == (31, True)
