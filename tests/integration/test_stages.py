"""Stages that don't need each other are built at once; how that reads, and how it ends."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import time
import uuid
from pathlib import Path

import pytest
import world

pytestmark = [pytest.mark.userns, pytest.mark.registry]

RANDOM = "/proc/sys/kernel/random/uuid"


def processes(mark: str) -> list[str]:
    """Processes whose command line has `mark` in it."""
    return subprocess.run(["pgrep", "-f", mark], capture_output=True, text=True).stdout.split()


def until_gone(mark: str, seconds: float = 5) -> bool:
    end = time.monotonic() + seconds
    while processes(mark):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def two_stages(context: Path, base: str, first: str, second: str) -> Path:
    """A Dockerfile whose last stage needs two others, which need nothing of each other."""
    context.mkdir(exist_ok=True)
    (context / "Dockerfile").write_text(
        f"FROM {base} AS one\nRUN {first}\nFROM {base} AS two\nRUN {second}\n"
        f"FROM {base}\nCOPY --from=one /one /\nCOPY --from=two /two /\n"
    )
    return context


def test_independent_stages_run_at_once_and_one_by_one_if_told_so(
    ch_image: world.Tool, base_image: str, tmp_path: Path
) -> None:
    ch_image("pull", base_image).ok()
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    # Each says that it is there and waits for the other: one after the other, both wait in vain.
    meet = (
        ":>/m/{0}; n=0; until [ -e /m/{1} ]; do n=$((n+1)); [ $n -lt 600 ]; sleep 0.1; done; :>/{0}"
    )
    stages = f"set -e; {meet.format('one', 'two')}", f"set -e; {meet.format('two', 'one')}"
    context = two_stages(tmp_path / "c", base_image, *stages)
    ch_image("build", "--jobs", 2, "-b", f"{meeting}:/m", "-t", "x", context).ok()
    alone = "mkdir /m/here; sleep 0.3; rmdir /m/here; :>/{0}"
    stages = f"set -e; {alone.format('one')}", f"set -e; {alone.format('two')}"
    context = two_stages(tmp_path / "c", base_image, *stages)
    ch_image("build", "--jobs", 1, "-b", f"{meeting}:/m", "-t", "x", context).ok()


def test_lines_of_stages_that_run_at_once_say_whose_they_are(
    ch_image: world.Tool, base_image: str, tmp_path: Path
) -> None:
    talk = "for i in 1 2 3; do echo {0} $i; sleep 0.3; done; :>/{0}"
    context = two_stages(tmp_path / "c", base_image, talk.format("one"), talk.format("two"))
    lines = ch_image("build", "--jobs", 2, "-t", "x", context).ok().err.splitlines()
    assert [line for line in lines if line.startswith("[one 2] one ")][1:]
    assert [line for line in lines if line.startswith("[two 4] two ")][1:]
    assert not [line for line in lines if "[one 2] two" in line or "[two 4] one" in line]


def test_the_first_failure_stops_the_others_and_is_the_one_reported(
    ch_image: world.Tool, base_image: str, tmp_path: Path
) -> None:
    mark = f"mark{uuid.uuid4().hex}"
    context = two_stages(
        tmp_path / "c",
        base_image,
        f"echo busy; sleep 600; : {mark}",
        "sleep 0.5; echo the reason; exit 3",
    )
    began = time.monotonic()
    done = ch_image("build", "--jobs", 2, "-t", "x", context)
    assert done.code == 1
    assert done.fault() == "Dockerfile:4: RUN command exited with 3"
    assert time.monotonic() - began < 20
    assert until_gone(mark), "the other stage's processes run on"
    assert done.err.count("the reason\n") == 2, (
        "its last lines are repeated, for others came between"
    )
    assert done.err.index("busy") < done.err.rindex("the reason\n")
    assert "x" not in ch_image("list").ok().out.split()


@pytest.mark.parametrize("times", [1, 3])
def test_ctrl_c_on_a_terminal_ends_all_stages_and_leaves_nothing(
    times: int, ch_image: world.Tool, base_image: str, tmp_path: Path
) -> None:
    """As a terminal does it: every process of the foreground group gets the signal."""
    mark = f"mark{uuid.uuid4().hex}"
    # Equal ones would be joined; a shell becomes the last program it is to start.
    runs = f"sleep 600; : {mark} one", f"sleep 600; : {mark} two"
    context = two_stages(tmp_path / "c", base_image, *runs)
    parent, child = pty.openpty()
    build = subprocess.Popen(
        [
            "setsid",
            "-c",
            "-w",
            *ch_image.argv("ch-image", "build", "--jobs", 2, "-t", "x", context),
        ],
        stdin=child,
        stdout=child,
        stderr=child,
        env=ch_image.environment(TERM="xterm"),
    )
    os.close(child)
    try:
        end = time.monotonic() + 20
        while len(processes(f"sh -c.*{mark}")) < 2:
            assert time.monotonic() < end, "two stages run at once"
            time.sleep(0.05)
        time.sleep(0.5)  # the display stands
        for _ in range(times):
            os.write(parent, b"\x03")
        said = b""
        try:
            while data := os.read(parent, 65536):
                said += data
        except OSError:  # the other side is closed
            pass
        assert build.wait(20) == 130
        assert b"Traceback" not in said
        assert said.count(b"interrupted") == 1
        assert until_gone(mark), "processes of the containers run on"
        assert os.listdir(ch_image.storage / "tmp") == []
        assert "x" not in ch_image("list").ok().out.split()
    finally:
        os.close(parent)
        for pid in processes(mark):
            os.kill(int(pid), signal.SIGKILL)


@pytest.mark.parametrize("mode", ["--cache", "--rebuild", "--no-cache"])
def test_equal_steps_of_two_stages_are_carried_out_once(
    mode: str, ch_image: world.Tool, base_image: str, tmp_path: Path
) -> None:
    context = tmp_path / "c"
    context.mkdir()
    (context / "Dockerfile").write_text(
        f"FROM {base_image} AS one\nRUN sleep 1; cat {RANDOM} > /id\nRUN true\n"
        f"FROM {base_image} AS two\nRUN sleep 1; cat {RANDOM} > /id\n"
        f"FROM {base_image}\nCOPY --from=one /id /one\nCOPY --from=two /id /two\n"
        "RUN cmp /one /two\n"
    )
    done = ch_image("build", mode, "--jobs", 4, "-t", "x", context).ok()
    marks = re.findall(r"^ *\d+([.*]) RUN\.S sleep", done.err, re.M)
    assert sorted(marks) == ["*", "."]


def test_builds_at_once_that_share_steps_each_end_with_layers_that_fit_together(
    ch_image: world.Tool, base_image: str, tmp_path: Path
) -> None:
    """What follows a step of another build must never stand on this build's own outcome of it."""
    ch_image("pull", base_image).ok()
    steps = [f"cat {RANDOM} > /id"] + [f"cp /id /id{n}; sleep 0.{n % 3}" for n in range(6)]
    builds = []
    for n in range(3):
        context = tmp_path / f"c{n}"
        context.mkdir()
        (context / "Dockerfile").write_text(
            f"FROM {base_image}\n" + "".join(f"RUN {s}\n" for s in steps) + f"RUN echo {n} > /n\n"
        )
        builds.append(ch_image.start("build", "-t", f"x{n}", context))
    for build in builds:
        _, err = build.communicate(timeout=120)
        assert build.returncode == 0, err
    check = "for i in 0 1 2 3 4 5; do cmp /id /id$i || exit 1; done; cat /n"
    for n in range(3):
        assert ch_image.run("ch-run", f"x{n}", "--", "sh", "-c", check).ok().out == f"{n}\n"


def test_steps_after_one_that_was_carried_out_again_are_not_taken_from_the_cache(
    ch_image: world.Tool, base_image: str, tmp_path: Path
) -> None:
    context = tmp_path / "c"
    context.mkdir()
    (context / "Dockerfile").write_text(
        f"FROM {base_image} AS one\nRUN cat {RANDOM} > /id\nFROM one\nRUN cp /id /copy\n"
    )
    ch_image("build", "-t", "x", context).ok()
    ch_image("build", "--no-cache-filter", "one", "-t", "x", context).ok()
    ch_image.run("ch-run", "x", "--", "cmp", "/id", "/copy").ok()
