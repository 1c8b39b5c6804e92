"""Debian's buildah with ch-run-oci as its runtime, for a user of one ID."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import world

pytestmark = pytest.mark.userns
PROGRAM = f"""#!{sys.executable}
import os, sys
sys.path.insert(0, {str(world.CHECKOUT)!r})
sys.argv[0] = "ch-run-oci"
from ch_image.cli.run_oci import main
sys.exit(main())
"""
MANY = "\n".join(f"RUN echo {n} >> /log; (sleep 300 &)" for n in range(6))


class Builder:
    """buildah over a storage of its own."""

    def __init__(self, directory: Path, base: world.BaseImage) -> None:
        self.buildah = world.program("buildah")
        self.directory, self.base = directory, base
        self.runtime = directory / "ch-run-oci"
        self.runtime.write_text(PROGRAM)
        self.runtime.chmod(0o755)
        self.states = directory / "run/ch-run-oci"
        self.states.parent.mkdir(mode=0o700)
        policy = directory / ".config/containers/policy.json"
        policy.parent.mkdir(parents=True)
        policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')

    def __call__(self, *args: object) -> world.Done:
        """`buildah ARGS`."""
        where = [f"--{name}={self.directory / name}" for name in ("root", "runroot")]
        env = world.clean_environment(self.directory, TMPDIR=str(self.directory))
        env["XDG_RUNTIME_DIR"] = str(self.states.parent)
        done = subprocess.run(
            [self.buildah, *where, "--storage-driver=vfs", *map(str, args)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=env,
            text=True,
            timeout=200,
        )
        return world.Done(done.returncode, done.stdout, done.stderr)

    def build(self, name: str, instructions: str, *options: str) -> world.Done:
        """An image from the busybox tree and some instructions."""
        file = self.directory / f"{name}.dockerfile"
        file.write_text(f"FROM scratch\nCOPY . /\nENV PATH=/bin\n{instructions}\n")
        return self(
            "build", "--isolation=oci", "--runtime", self.runtime, "--network=host", "--no-cache",
            "--layers=false", "-t", name, "-f", file, *options, self.base.tree,
        )  # fmt: skip

    def left(self) -> list[str]:
        """States, and processes of our runtime or of its containers."""
        names = [p.name for p in self.states.iterdir()] if self.states.exists() else []
        mine = str(self.runtime).encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    line = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                if mine in line or line == b"sleep\000300\0":
                    names.append(line.decode(errors="replace"))
        return names


@pytest.fixture(scope="module")
def builder(
    tmp_path_factory: pytest.TempPathFactory, base_layout: world.BaseImage
) -> Iterator[Builder]:
    """A storage that is removed with the modes that images leave behind."""
    directory = tmp_path_factory.mktemp("buildah")
    made = Builder(directory, base_layout)
    yield made
    subprocess.run(["chmod", "-R", "u+rwX", str(directory)], check=False, capture_output=True)


def test_many_runs_leave_nothing_but_the_image(builder: Builder) -> None:
    last = "RUN touch /f && chown 33:44 /f && cat /log && su app -c 'id -u' && ls /run /sys | wc -l"
    done = builder.build("many", f"{MANY}\n{last}").ok()
    assert "\n0\n1\n2\n3\n4\n5\n1234\n" in done.out
    assert builder.left() == []
    layout = builder.directory / "out"
    builder("push", "-q", "many", f"oci:{layout}").ok()
    owners = subprocess.run(
        f"for f in {layout}/blobs/sha256/*; do tar -xzOf $f f 2>/dev/null; "
        "tar -tzvf $f --numeric-owner 2>/dev/null; done",
        shell=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    names = {line.split()[-1] for line in owners.splitlines() if line}
    assert {"log", "f", "bin/busybox"} <= names
    assert not {"etc/hosts", "etc/resolv.conf"} & names  # mount points are taken away again


@pytest.mark.parametrize(
    ("run", "code", "said"),
    [
        ("RUN exit 37", 37, "exit status 37"),
        ('RUN ["/no/such/program"]', 1, "/no/such/program: no such file or directory"),
    ],
)
def test_a_failure_is_the_builds_and_leaves_nothing(
    builder: Builder, run: str, code: int, said: str
) -> None:
    done = builder.build("failing", run)
    assert done.code == code
    assert said in done.err
    assert builder.left() == []
