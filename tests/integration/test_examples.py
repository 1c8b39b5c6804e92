"""Every example builds and does what it says, on an ordinary user's machine without a registry."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import debian
import pytest
import world

pytestmark = pytest.mark.userns
EXAMPLES = world.CHECKOUT / "examples"


@pytest.fixture
def busybox(ch_image: world.Tool, tmp_path: Path, base_layout: world.BaseImage) -> world.Tool:
    """The tool, with the example base image in its storage."""
    context = tmp_path / "context"
    context.mkdir()
    shutil.copy(base_layout.tree / "bin/busybox", context / "busybox")
    ch_image("build", "-t", "busybox", "-f", EXAMPLES / "busybox/Dockerfile", context).ok()
    return ch_image


def exported(tool: world.Tool, image: str, tmp_path: Path) -> dict[str, tarfile.TarInfo]:
    """The members of an image's tar by path."""
    tar = tmp_path / f"{image}.tar"
    tool.run("ch-convert", image, tar).ok()
    with tarfile.open(tar) as opened:
        return {m.name.removeprefix("./"): m for m in opened}


def test_hello_greets_and_keeps_the_owner_it_was_given(busybox: world.Tool, tmp_path: Path) -> None:
    busybox("build", "-t", "hello", EXAMPLES / "hello").ok()
    said = busybox.run("ch-run", "hello", "--", "/srv/hello").ok().out
    assert said.startswith("hello, world\n") or said.startswith("\n")  # ENV needs --set-env
    said = busybox.run("ch-run", "--set-env", "hello", "--", "/srv/hello").ok().out
    assert said.startswith("hello, world\nThis is BusyBox")
    member = exported(busybox, "hello", tmp_path)["srv/hello"]
    assert (member.uid, member.gid, member.mode & 0o777) == (1234, 1234, 0o755)


def test_multistage_keeps_the_result_and_not_the_tools(busybox: world.Tool, tmp_path: Path) -> None:
    busybox("build", "-t", "multistage", EXAMPLES / "multistage").ok()
    members = exported(busybox, "multistage", tmp_path)
    assert {"data/sorted", "data/sorted.sha256"} <= members.keys()
    assert "work/sorted" not in members
    said = busybox.run("ch-run", "multistage", "--", "cat", "/data/sorted").ok().out
    assert said == "1\n2\n3\n10\n"


def test_the_base_has_its_sticky_directories(busybox: world.Tool, tmp_path: Path) -> None:
    members = exported(busybox, "busybox", tmp_path)
    assert members["tmp"].mode & 0o1777 == 0o1777
    assert members["bin/sh"].issym() or members["bin/sh"].islnk()


def test_numpy_from_packages_solves(ch_image: world.Tool, debian_base: str) -> None:
    text = (EXAMPLES / "numpy/Dockerfile").read_text().replace("debian:bookworm", debian_base)
    words = ("build", "-t", "numpy", "-f", "-", EXAMPLES / "numpy")
    ch_image(*words, stdin=text).ok()
    solve = ("--set-env", "numpy", "--", "sh", "-c", "python3 /srv/solve.py 200; env")
    said = ch_image.run("ch-run", *solve).ok().out
    assert "200 equations, error below 1e-9: True" in said
    assert "OPENBLAS_NUM_THREADS=1" in said


@pytest.mark.slow
@pytest.mark.skipif(
    "CH_TEST_LONG" not in os.environ, reason="a compiler and two MPIs: CH_TEST_LONG=1 does it"
)
def test_an_mpi_program_compiled_in_the_image_runs(ch_image: world.Tool, debian_base: str) -> None:
    text = (EXAMPLES / "mpihello/Dockerfile").read_text().replace("debian:bookworm", debian_base)
    ch_image("build", "-t", "mpihello", "-f", "-", EXAMPLES / "mpihello", stdin=text).ok()
    launch = "mpirun --oversubscribe -np 2 hello"
    said = ch_image.run("ch-run", "mpihello", "--", "sh", "-c", launch).ok().out
    assert sorted(said.splitlines()) == ["rank 0 of 2: sum 3", "rank 1 of 2: sum 3"]
    if shutil.which("mpirun.openmpi") is None:
        return
    argv = ch_image.argv("ch-run", "--join", "mpihello", "--", "hello")
    env = ch_image.environment(TMPDIR="/tmp")
    done = subprocess.run(
        ["mpirun.openmpi", "-np", "2", "--oversubscribe", *argv],
        env=env, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert sorted(done.stdout.splitlines()) == sorted(said.splitlines()), done.stderr


@pytest.mark.slow
@pytest.mark.skipif(
    bool(os.environ.get("CH_IMAGE_SNAPSHOTTER")), reason="once is enough: it takes a minute"
)
def test_debian_is_bootstrapped_without_root(tmp_path: Path) -> None:
    """Only where nobody else has: it takes a minute, and CH_TEST_LONG=1 does it in any case."""
    if debian.peer("debian.tar") is None:
        tar = debian.CACHE / "debian.tar"
        with world.only_one(debian.CACHE / "lock"):
            tar = tar if tar.exists() else debian.bootstrap(tar)
    elif "CH_TEST_LONG" in os.environ:
        tar = debian.bootstrap(tmp_path / "debian.tar")
    else:
        pytest.skip("root's debootstrap has made one")
    listed = subprocess.check_output(["tar", "-tv", "--numeric-owner", "-f", tar], text=True)
    shadow = next(line for line in listed.splitlines() if line.endswith("etc/shadow"))
    assert shadow.split()[1] == "0/42"
    assert "debootstrap/" not in listed
