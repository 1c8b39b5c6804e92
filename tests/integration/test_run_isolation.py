"""What a command in ch-run can do to the host, and what is left when it ends: nothing."""

from __future__ import annotations

import importlib
import os
import re
import socket
import stat
import subprocess
from pathlib import Path

import pytest
import world

pytestmark = pytest.mark.userns


@pytest.fixture
def image(base_layout: world.BaseImage, tmp_path: Path) -> Path:
    """A directory with busybox in it."""
    root = tmp_path / "image"
    subprocess.run(["cp", "-a", str(base_layout.tree), str(root)], check=True)
    return root


def test_the_hosts_mounts_are_the_same_afterwards(ch_image: world.Tool, image: Path) -> None:
    before = _mounts_of(image.parent)
    for words in ([], ["-W"], ["-w"], ["-t"], ["--home"], ["-b", "/etc:/new/place"]):
        ch_image.run("ch-run", *words, image, "--", "true").ok()
    assert _mounts_of(image.parent) == before == []


def _mounts_of(place: Path) -> list[str]:
    """The host's mounts that have to do with ``place``; others may come and go meanwhile."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if str(place) in line or "/proc/self/fd" in line]


def test_set_id_files_are_inert(ch_image: world.Tool, image: Path) -> None:
    program = image / "bin/busybox-setid"
    program.write_bytes((image / "bin/busybox").read_bytes())
    program.chmod(0o6755)
    assert program.stat().st_mode & stat.S_ISUID
    script = "busybox-setid grep -E 'NoNewPrivs|CapEff|CapPrm|Uid' /proc/self/status"
    done = ch_image.run("ch-run", "-u", "4321", image, "--", "sh", "-c", script)
    assert re.findall(r"\t(\w+)", done.ok().out) == [*["4321"] * 4, "0" * 16, "0" * 16, "1"]


@pytest.mark.parametrize(
    "path", ["/proc/1/mem", "/proc/1/oom_score_adj", "/proc/sys/kernel/hostname", "/dev/mem"]
)
def test_what_belongs_to_root_cannot_be_written(
    path: str, ch_image: world.Tool, image: Path
) -> None:
    if os.getuid() == 0:
        pytest.skip("root may")
    done = ch_image.run("ch-run", "-u0", "-g0", image, "--", "sh", "-c", f": >> {path}")
    assert done.code != 0


def test_no_child_and_no_zombie_stays(ch_image: world.Tool, image: Path) -> None:
    argv = ch_image.argv("ch-run", image, "--", "sh", "-c", "cat /proc/self/task/*/children; :")
    process = subprocess.Popen(argv, env=ch_image.environment(), stdout=subprocess.PIPE)
    process.communicate()
    assert process.returncode == 0
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        assert int(words[1]) != process.pid


def test_the_only_descriptor_let_in_is_the_launchers_socket(
    ch_image: world.Tool, image: Path, tmp_path: Path
) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, (tmp_path / "secret").open("w") as secret:
        numbers = theirs.fileno(), secret.fileno()
        for number in numbers:
            os.set_inheritable(number, True)
        for kept in numbers:
            argv = ch_image.argv("ch-run", image, "--", "sh", "-c", "echo /proc/$$/fd/*")
            env = ch_image.environment(PMI_FD=str(kept))
            done = subprocess.run(argv, env=env, close_fds=False, capture_output=True, text=True)
            found = {int(path.rpartition("/")[2]) for path in done.stdout.split()}
            assert (kept in found) == (kept == theirs.fileno())
            assert secret.fileno() not in found
            assert {0, 1, 2} <= found


def test_a_hundred_start_at_once(ch_image: world.Tool, image: Path) -> None:
    argv = ch_image.argv("ch-run", image, "--", "true")
    running = [subprocess.Popen(argv, env=ch_image.environment()) for _ in range(100)]
    assert [process.wait(120) for process in running] == [0] * 100


@pytest.mark.parametrize("program", ["run", "convert"])
def test_every_option_is_documented(program: str) -> None:
    options = importlib.import_module(f"ch_image.cli.{program}").OPTIONS
    text = (world.CHECKOUT / f"docs/ch-{program}.md").read_text()
    names = [name for option in options for name in option.names]
    words = set(re.findall(r"-[-\w?]+", text))
    assert [name for name in names if name not in words] == []
