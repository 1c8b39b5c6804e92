"""Commands that are killed, interrupted or run at once: nothing runs on, nothing is half made."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
import world

pytestmark = [pytest.mark.userns, pytest.mark.registry]


def processes(mark: str) -> list[int]:
    """PIDs of all processes whose command line has `mark` in it, wherever they live."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def until(condition: Callable[[], object], seconds: float = 20) -> bool:
    """Whether `condition` came true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def sleeping_build(tool: world.Tool, base: str, context: Path) -> tuple[subprocess.Popen[str], str]:
    """A build in the middle of a RUN that sleeps, and the word that marks its processes.

    The RUN leaves a daemon of its own session behind, which ignores what it can.
    """
    mark = f"mark-{uuid.uuid4().hex}"
    context.mkdir(exist_ok=True)
    (context / "Dockerfile").write_text(
        f"FROM {base}\nRUN echo first > /first\n"
        f"RUN setsid sh -c 'trap \"\" HUP INT TERM; : {mark}; while :; do sleep 1; done' & \\\n"
        f" sh -c ': {mark}; sleep 600; :'\n"
    )
    build = tool.start("build", "-t", "slow", context)
    in_run = until(lambda: len([p for p in processes(mark) if p != build.pid]) >= 2)
    assert in_run or build.poll() is None, build.communicate()
    assert in_run, "the RUN never started"
    return build, mark


SIGNALS = {"Ctrl-C": signal.SIGINT, "TERM": signal.SIGTERM, "HUP": signal.SIGHUP}


@pytest.mark.parametrize("number", [*SIGNALS.values(), signal.SIGKILL], ids=[*SIGNALS, "KILL"])
def test_a_build_that_is_ended_leaves_no_process_and_no_image(
    number: int, ch_image: world.Tool, base_image: str, tmp_path: Path
) -> None:
    build, mark = sleeping_build(ch_image, base_image, tmp_path / "context")
    try:
        os.kill(build.pid, number)
        _, err = build.communicate(timeout=20)
        assert build.returncode in {-number, 128 + number}
        assert "Traceback" not in err
        assert until(lambda: not processes(mark), 5), "processes of the container run on"
        assert "slow" not in ch_image("list").ok().out.split()
    finally:
        for pid in processes(mark):
            os.kill(pid, signal.SIGKILL)


def test_after_a_kill_the_next_build_goes_on_from_the_last_whole_step(
    ch_image: world.Tool, base_image: str, tmp_path: Path
) -> None:
    context = tmp_path / "context"
    build, _ = sleeping_build(ch_image, base_image, context)
    build.kill()
    build.communicate(timeout=20)
    (context / "Dockerfile").write_text(f"FROM {base_image}\nRUN echo first > /first\nRUN true\n")
    done = ch_image("build", "-t", "whole", context).ok()
    lines = re.findall(r"^ *\d+[.*] .*", done.out + done.err, re.M)
    assert ["*" in line.split()[0] for line in lines] == [True, True, False], lines
    left = [name for name in os.listdir(ch_image.storage / "tmp") if not name.startswith(".")]
    assert left == [], "what the killed build left was not removed"


def test_a_signal_to_ch_run_ends_its_command(ch_image: world.Tool, base_image: str) -> None:
    mark = "600.25"
    ch_image("pull", base_image).ok()
    argv = ch_image.argv("ch-run", base_image, "--", "sleep", mark)
    run = subprocess.Popen(argv, env=ch_image.environment(), stdin=subprocess.DEVNULL)
    try:
        others = [run.pid]
        assert until(lambda: b"sleep" in b"".join(_words(p) for p in processes(mark)))
        time.sleep(0.3)
        run.terminate()
        assert run.wait(20) in {-signal.SIGTERM, 128 + signal.SIGTERM}
        assert until(lambda: not [p for p in processes(mark) if p not in others], 5)
    finally:
        run.kill()


def _words(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_builds_at_the_same_time_in_one_storage_directory_all_succeed(
    ch_image: world.Tool, base_image: str, tmp_path: Path
) -> None:
    builds = []
    for n in range(3):
        context = tmp_path / f"c{n}"
        context.mkdir()
        (context / "Dockerfile").write_text(
            f"FROM {base_image}\nRUN echo shared > /shared\nRUN echo {n} > /mine\n"
        )
        builds.append(ch_image.start("build", "-t", f"image{n}", context))
    for build in builds:
        _, err = build.communicate(timeout=120)
        assert build.returncode == 0, err
    for n in range(3):
        said = ch_image.run("ch-run", f"image{n}", "--", "cat", "/shared", "/mine").ok().out
        assert said == f"shared\n{n}\n"


def test_an_older_image_survives_a_failed_build_of_its_name(
    ch_image: world.Tool, base_image: str, tmp_path: Path
) -> None:
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text(f"FROM {base_image}\nRUN echo old > /state\n")
    ch_image("build", "-t", "kept", tmp_path).ok()
    dockerfile.write_text(f"FROM {base_image}\nRUN echo new > /state\nRUN false\n")
    assert ch_image("build", "-t", "kept", tmp_path).code == 1
    assert ch_image.run("ch-run", "kept", "--", "cat", "/state").ok().out == "old\n"
