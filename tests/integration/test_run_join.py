"""Peers of one node: however many start at once, whoever dies, they share one container."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import world

pytestmark = pytest.mark.userns
SHOW = "ls -lL /proc/self/ns >/dev/null; for n in user mnt; do stat -Lc %i /proc/self/ns/$n; done"


@pytest.fixture
def image(base_layout: world.BaseImage) -> str:
    """A directory with busybox in it."""
    return str(base_layout.tree)


def start(tool: world.Tool, *words: object, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        tool.argv("ch-run", *words),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=tool.environment(**env),
    )


def told(process: subprocess.Popen[str], seconds: float = 60) -> str:
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == 0, err
    return out


def keepers(tag: str) -> list[str]:
    """Names of groups that are still held."""
    return [line for line in Path("/proc/net/unix").read_text().splitlines() if tag in line]


def gone(tag: str, seconds: float = 5) -> bool:
    end = time.monotonic() + seconds
    while keepers(tag) and time.monotonic() < end:
        time.sleep(0.02)
    return not keepers(tag)


@pytest.mark.parametrize("peers", [2, 7, 64])
def test_all_peers_share_one_container_and_leave_nothing(
    peers: int, ch_image: world.Tool, image: str
) -> None:
    tag = f"all-{os.getpid()}-{peers}"
    words = [f"--join-ct={peers}", f"--join-tag={tag}", image, "--", "sh", "-c", SHOW]
    shm = sorted(os.listdir("/dev/shm"))
    running = [start(ch_image, *words) for _ in range(peers)]
    found = {told(process) for process in running}
    assert len(found) == 1
    assert os.readlink("/proc/self/ns/mnt")[5:-1] not in found.pop().split()
    assert gone(tag)
    assert sorted(os.listdir("/dev/shm")) == shm


def test_a_peer_may_come_after_the_makers_command_has_ended(
    ch_image: world.Tool, image: str
) -> None:
    tag = f"late-{os.getpid()}"
    words = ["--join-ct=3", f"--join-tag={tag}", "-u", "77", image, "--", "sh", "-c", SHOW]
    first = told(start(ch_image, *words))
    assert keepers(tag), "nobody waits for the others"
    second = told(start(ch_image, *words[:2], "/usr", "--", "sh", "-c", f"{SHOW}; id -u"))
    assert second == f"{first}77\n"  # in the maker's image, as the maker's user
    assert keepers(tag)
    assert told(start(ch_image, *words)) == first
    assert gone(tag)


def test_a_maker_that_is_killed_lets_another_take_its_place(
    ch_image: world.Tool, image: str
) -> None:
    tag = f"killed-{os.getpid()}"
    words = ["--join-ct=8", f"--join-tag={tag}", image, "--", "sh", "-c", SHOW]
    for pause in (0.02, 0.05, 0.08):
        victim = start(ch_image, *words)
        time.sleep(pause)
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
    found = {told(process) for process in [start(ch_image, *words) for _ in range(8)]}
    assert len(found) <= 2  # 2 where a victim had come far enough to be counted


def test_a_maker_that_fails_lets_all_fail_with_its_reason(ch_image: world.Tool, image: str) -> None:
    words = ["--join-ct=4", f"--join-tag=fails-{os.getpid()}", "-b", "/etc:/proc/nosuch", image]
    running = [start(ch_image, *words, "--", "true") for _ in range(4)]
    for process in running:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 31
        assert "/proc/nosuch" in err


def test_the_keeper_holds_no_pipe_and_is_no_child_of_the_command(
    ch_image: world.Tool, image: str
) -> None:
    words = ["--join-ct=2", f"--join-tag=pipe-{os.getpid()}", image, "--", "sh", "-c"]
    began = time.monotonic()
    out = told(start(ch_image, *words, "echo $$; wait; cat /proc/self/task/*/children; sleep 0.2"))
    assert time.monotonic() - began < 20, "the reader of the pipe was kept waiting"
    assert len(out.split()) == 1
    told(start(ch_image, *words, "true"))


SIZES = {
    "OpenMPI's": {"OMPI_COMM_WORLD_LOCAL_SIZE": "2", "SLURM_CPUS_ON_NODE": "9"},
    "Slurm's step": {"SLURM_STEP_TASKS_PER_NODE": "2(x4)", "SLURM_CPUS_ON_NODE": "9"},
    "Slurm's node": {"SLURM_CPUS_ON_NODE": "2foo"},
}


@pytest.mark.parametrize("env", SIZES.values(), ids=SIZES.keys())
def test_size_and_name_come_from_the_launcher(
    env: dict[str, str], ch_image: world.Tool, image: str
) -> None:
    step = f"step-{os.getpid()}"
    env = env | {"SLURM_STEP_ID": step, "SLURM_JOB_ID": "5"}
    words = ["--join", image, "--", "sh", "-c", SHOW]
    assert len({told(p) for p in [start(ch_image, *words, **env) for _ in range(2)]}) == 1
    assert gone(step)


def test_without_a_step_the_parent_names_the_group(ch_image: world.Tool, image: str) -> None:
    words = ["--join", "--join-ct=2", image, "--", "sh", "-c", SHOW]
    assert len({told(p) for p in [start(ch_image, *words) for _ in range(2)]}) == 1


WRONG = {
    "no size": (["--join"], {}, "no valid peer group size"),
    "a size without digits": (["--join-ct=a"], {}, "--join-ct: no digits"),
    "an empty size": (["--join-ct="], {}, "--join-ct: no digits"),
    "goop": (["--join-ct=1a"], {}, "--join-ct: extra characters"),
    "a size of nothing": (["--join-ct=0"], {}, "no valid peer group size"),
    "a size below nothing": (["--join"], {"SLURM_CPUS_ON_NODE": "-1"}, "no valid peer group"),
    "a size too large": (["--join-ct=2147483648"], {}, "out of range"),
    "far too large": (["--join-ct=" + "9" * 400], {}, "out of range"),
    "letters of Slurm": (["--join"], {"SLURM_CPUS_ON_NODE": "a"}, "SLURM_CPUS_ON_NODE: no digits"),
    "an empty name": (["--join-ct=1", "--join-tag="], {}, "cannot be empty"),
    "an empty step": (["--join-ct=1"], {"SLURM_STEP_ID": ""}, "cannot be empty"),
    "a long name": (["--join-ct=1", "--join-tag=" + "x" * 99], {}, "longer"),
    "a process that is not ours": (["--join-pid=1"], {}, "/proc/1/ns/user: Permission denied"),
    "no such process": (["--join-pid=2147483647"], {}, "no PID 2147483647"),
    "process nobody": (["--join-pid=0"], {}, "not a process"),
    "a process named": (["--join-pid=init"], {}, "no digits"),
}


@pytest.mark.parametrize(("words", "env", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_joined_is_told(
    words: list[str], env: dict[str, str], message: str, ch_image: world.Tool, image: str
) -> None:
    done = ch_image.run("ch-run", *words, image, "--", "true", env=env)
    assert (done.code, message in done.fault()) == (31, True), done


def test_joining_a_process_excludes_joining_a_group(ch_image: world.Tool, image: str) -> None:
    done = ch_image.run("ch-run", "--join-ct=2", "--join-pid=5", image, "--", "true")
    assert (done.code, "exclude" in done.fault()) == (64, True)


def test_a_running_container_can_be_entered(ch_image: world.Tool, image: str) -> None:
    first = start(ch_image, "-W", image, "--", "sh", "-c", f"{SHOW}; echo x > /mark; sleep 30")
    assert first.stdout
    spaces = first.stdout.readline() + first.stdout.readline()
    end = time.monotonic() + 10
    words = [f"--join-pid={first.pid}", "--cd=/etc", "--set-env=A=b", image, "--", "sh", "-c"]
    out = ""
    while "mark" not in out and time.monotonic() < end:
        out = told(start(ch_image, *words, f"{SHOW}; ls /mark; pwd; echo $A; echo $CH_RUNNING"))
    assert out == f"{spaces}/mark\n/etc\nb\nWeird Al Yankovic\n"
    first.kill()
    first.communicate()
