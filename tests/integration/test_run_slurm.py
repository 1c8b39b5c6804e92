"""Real Slurm on loopback, all its daemons as an ordinary user: srun and sbatch start ch-run."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import world

pytestmark = [pytest.mark.userns, pytest.mark.slow]
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={port}
SlurmdPort={next_port}
AuthType=auth/munge
AuthInfo=socket={path}/munge/sock
CredType=cred/munge
StateSaveLocation={path}/state
SlurmdSpoolDir={path}/spool
SlurmctldPidFile={path}/slurmctld.pid
SlurmdPidFile={path}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
NodeName={host} NodeAddr=127.0.0.1 CPUs=8
PartitionName=all Nodes=ALL Default=YES
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A cluster of one node; the environment that leads to it."""
    for name in ("munged", "slurmctld", "slurmd", "srun", "sbatch"):
        if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None:
            world.lacking(f"no {name}")
    path = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool", "munge"):
        (path / name).mkdir()
    (path / "munge").chmod(0o700)
    (path / "munge/key").write_bytes(os.urandom(1024))
    (path / "munge/key").chmod(0o400)
    port = 20000 + os.getpid() % 20000
    host, user = socket.gethostname().partition(".")[0], pwd.getpwuid(os.getuid()).pw_name
    text = CONFIGURATION.format(host=host, user=user, path=path, port=port, next_port=port + 1)
    (path / "slurm.conf").write_text(text)
    munge = [f"--{what}={path}/munge/{name}" for what, name in (
        ("key-file", "key"), ("socket", "sock"), ("pid-file", "pid"),
        ("log-file", "log"), ("seed-file", "seed"))]  # fmt: skip
    env = {"SLURM_CONF": f"{path}/slurm.conf", "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    daemons = [["munged", "-F", "--force", *munge], ["slurmctld", "-D"]]
    daemons.append(["slurmd", "-D", "-N", host])
    running = []
    try:
        for argv in daemons:
            with (path / f"{argv[0]}.out").open("wb") as out:
                running.append(subprocess.Popen(argv, env=env, stdout=out, stderr=out))
            time.sleep(1)
        end = time.monotonic() + 30
        while time.monotonic() < end:
            words = ["sinfo", "-h", "-o", "%T"]
            done = subprocess.run(words, env=env, capture_output=True, text=True)
            if done.stdout.strip() == "idle":
                break
            time.sleep(0.2)
        else:
            told = [(path / f"{argv[0]}.out").read_text()[-300:] for argv in daemons]
            world.lacking(f"Slurm does not start here: {told}")
        yield env
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def test_the_tasks_of_a_step_share_one_container(
    slurm: dict[str, str], ch_image: world.Tool, base_layout: world.BaseImage
) -> None:
    script = "echo $SLURM_PROCID $(stat -Lc %i /proc/self/ns/mnt)"
    run = ch_image.argv("ch-run", "--join", base_layout.tree, "--", "sh", "-c", script)
    done = subprocess.run(["srun", "-n", "4", *run], env=ch_image.environment(**slurm),
                          capture_output=True, text=True, timeout=60)  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [line.split() for line in done.stdout.splitlines()]
    assert sorted(rank for rank, _ in found) == list("0123")
    assert len({space for _, space in found}) == 1


def test_an_exit_code_reaches_slurm(
    slurm: dict[str, str], ch_image: world.Tool, base_layout: world.BaseImage
) -> None:
    run = ch_image.argv("ch-run", base_layout.tree, "--", "sh", "-c", "exit 7")
    env = ch_image.environment(**slurm)
    done = subprocess.run(["srun", "-n", "1", *run], env=env, capture_output=True, timeout=60)
    assert done.returncode == 7


def test_the_example_runs_as_a_batch_job(
    slurm: dict[str, str], ch_image: world.Tool, base_layout: world.BaseImage, tmp_path: Path
) -> None:
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    start = ch_image.argv("ch-run")
    (bin_ / "ch-run").write_text(
        f"#!{start[0]}\nimport sys\nsys.path.insert(0, {str(world.CHECKOUT)!r})\n{start[2]}\n"
    )
    (bin_ / "ch-run").chmod(0o755)
    env = ch_image.environment(**slurm) | {
        "PATH": f"{bin_}:{slurm['PATH']}", "IMAGE": str(base_layout.tree), "PROGRAM": "id -u",
    }  # fmt: skip
    job = world.CHECKOUT / "examples/slurm/job.sh"
    words = ["sbatch", "--wait", "-o", f"{tmp_path}/out", str(job)]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=90)
    out = (tmp_path / "out").read_text()
    assert done.returncode == 0, (done.stderr, out)
    assert out.split() == [str(os.getuid())] * 2
