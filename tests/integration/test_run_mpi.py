"""Two real ranks under mpirun, as an ordinary user, with OpenMPI and with MPICH.

The image borrows the host's /usr, so that nothing has to be downloaded: what is tested is what
passes between the launcher, the ranks and each other.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import world

pytestmark = pytest.mark.userns
EXAMPLE = world.CHECKOUT / "examples/mpihello/hello.c"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A root whose programs and libraries are the host's."""
    root = tmp_path / "image"
    for name in ("usr", "etc/alternatives", "etc/openmpi", "dev", "proc", "sys", "tmp", "work"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    return root


def compiled(kind: str, tmp_path: Path) -> Path:
    """The example, made with this MPI."""
    compiler, launcher = f"mpicc.{kind}", f"mpirun.{kind}"
    if shutil.which(compiler) is None or shutil.which(launcher) is None:
        world.lacking(f"no {compiler} and {launcher}")
    if not Path("/bin").is_symlink():
        world.lacking("the host's /bin and /usr/bin are two")
    work = tmp_path / "work"
    work.mkdir()
    done = subprocess.run(
        [compiler, "-o", str(work / "hello"), str(EXAMPLE)], capture_output=True, text=True
    )
    if done.returncode:
        world.lacking(f"{compiler} cannot compile: {done.stderr[:200]}")
    return work


LAUNCHERS = {
    "openmpi": ["mpirun.openmpi", "-np", "2", "--oversubscribe"],
    "mpich": ["mpirun.mpich", "-np", "2"],
}


@pytest.mark.parametrize("kind", LAUNCHERS)
def test_two_ranks_find_each_other(
    kind: str, ch_image: world.Tool, image: Path, tmp_path: Path
) -> None:
    work = compiled(kind, tmp_path)
    join = ["--join", "--join-ct=2"]
    binds = ["-b", "/usr:/usr", "-b", "/etc/alternatives", "-b", f"{work}:/work"]
    binds += ["-b", "/etc/openmpi"] if Path("/etc/openmpi").is_dir() else []
    argv = [*LAUNCHERS[kind], *ch_image.argv("ch-run", *join, *binds, image, "--", "/work/hello")]
    env = ch_image.environment(
        PATH=os.environ["PATH"], TMPDIR="/tmp", OMPI_ALLOW_RUN_AS_ROOT="1",
        OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
    )  # fmt: skip
    done = subprocess.run(argv, capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["rank 0 of 2: sum 3", "rank 1 of 2: sum 3"]
