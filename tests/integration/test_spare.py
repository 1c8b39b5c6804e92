"""Processes that wait for a container: what they are, what they miss, and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import world
from containers import PYTHON, make_root, plan_of

from ch_image.sandbox.launcher import Launcher, Result
from ch_image.sandbox.mounts import Bind
from ch_image.sandbox.plan import Plan

pytestmark = pytest.mark.userns


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_root(tmp_path / "root")


def asked(work: Callable[[Callable[[Plan], Result]], Any]) -> Any:
    """What ``work(run)`` returns in a namespace, where run(plan) goes through one server."""

    def inside() -> Any:
        signal.alarm(60)
        launcher = Launcher()
        null = os.open("/dev/null", os.O_RDWR)
        try:
            return work(lambda plan: launcher.launch(plan, null, 2, 2).wait())
        finally:
            launcher.close()

    return world.in_namespace(inside)


def below(pid: int) -> list[int]:
    """All descendants of a process, parents first."""
    try:
        words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [n for word in words for n in (int(word), *below(int(word)))]


def until(find: Callable[[], Any]) -> Any:
    end = time.monotonic() + 10
    while not (found := find()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return found


def waiting() -> list[int]:
    """Process 1 and the first process of what waits, once both are there."""
    found = below(os.getpid())
    return found[1:] if len(found) == 3 else []


def test_who_is_asked_for_has_been_there_before(root: Path) -> None:
    def work(run: Callable[[Plan], Result]) -> None:
        for _ in range(3):
            plan = plan_of(root, "time.sleep(0.2)")
            if below(os.getpid()):
                one, first = until(waiting)
                assert Path(f"/proc/{one}/status").read_text().split("NSpid:")[1].split()[1] == "1"
                result = run(plan)
                assert not Path(f"/proc/{first}").exists(), "it has become the command"
            else:
                result = run(plan)
            assert result.code == 0

    asked(work)


def test_it_sees_what_was_mounted_since(root: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()

    def work(run: Callable[[Plan], Result]) -> None:
        assert run(plan_of(root, "")).code == 0
        until(waiting)
        subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
        (place / "there").touch()
        plan = plan_of(root, "sys.exit(not os.path.exists('/work/place/there'))")
        plan.operations.append(Bind(str(place), "/work/place"))
        assert run(plan).code == 0

    asked(work)


def test_nothing_is_handed_on_but_what_was_asked_for(root: Path) -> None:
    """No descriptor, no directory, no identity, no signal handling of who waited."""
    script = """
assert os.listdir('/proc/self/fd') == ['0', '1', '2', '3'], os.listdir('/proc/self/fd')
assert os.getcwd() == '/work' and os.readlink('/proc/self/root') == '/'
assert os.getpid() == 2 and os.getsid(0) == 2 and os.getppid() == 1
assert os.umask(0) == 0o27
assert not [n for n in map(int, os.listdir('/proc/1/fd')) if os.readlink(f'/proc/1/fd/{n}') == '/']
import signal
assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL
names = [line.split()[4] for line in open('/proc/self/mountinfo')]
assert sorted(names)[0] == '/' and not [n for n in names if n.startswith('/tmp')], names
"""

    def work(run: Callable[[Plan], Result]) -> list[int | None]:
        codes = []
        for _ in range(3):
            plan = plan_of(root, script)
            plan.umask = 0o27
            codes.append(run(plan).code)
            until(waiting)
        return codes

    assert asked(work) == [0, 0, 0]


@pytest.mark.parametrize("whom", ["process 1", "the first process"])
def test_if_somebody_kills_it_another_is_started(root: Path, whom: str) -> None:
    def work(run: Callable[[Plan], Result]) -> None:
        assert run(plan_of(root, "")).code == 0
        one, first = until(waiting)
        os.kill(one if whom == "process 1" else first, signal.SIGKILL)
        time.sleep(0.1)
        for _ in range(2):
            assert run(plan_of(root, "sys.exit(7)")).code == 7

    asked(work)


def test_another_kind_of_container_is_not_made_of_it(root: Path) -> None:
    def work(run: Callable[[Plan], Result]) -> None:
        script = "sys.exit(len(os.listdir('/sys/class/net')) != 1)"
        for namespaces in (["pid", "ipc", "uts"], ["pid", "net"], ["pid", "ipc", "uts"]):
            plan = plan_of(root, script if "net" in namespaces else "")
            plan.namespaces = namespaces
            plan.operations = [
                one for one in plan.operations if getattr(one, "target", "") != "/sys"
            ]
            if "net" in namespaces:
                plan.argv = [
                    PYTHON,
                    "-c",
                    "import socket; sys = socket.if_nameindex(); assert len(sys) == 1",
                ]
            assert run(plan).code == 0

    asked(work)


def test_a_plan_that_is_larger_than_a_sockets_buffer_arrives(root: Path) -> None:
    def work(run: Callable[[Plan], Result]) -> None:
        for _ in range(2):
            plan = plan_of(root, "sys.exit(len(os.environ['V7']) != 100_000)")
            plan.env |= {f"V{n}": "x" * 100_000 for n in range(10)}
            plan.owners = [(f"no/such/file/{n}", 1, 2) for n in range(50_000)]
            assert run(plan).code == 0

    asked(work)


@pytest.mark.parametrize("killed", [False, True])
def test_it_ends_with_the_server(killed: bool, root: Path) -> None:
    def inside() -> bool:
        launcher = Launcher()
        null = os.open("/dev/null", os.O_RDWR)
        assert launcher.launch(plan_of(root, ""), null, 2, 2).wait().code == 0
        spare = until(waiting)
        if killed:
            os.kill(below(os.getpid())[0], signal.SIGKILL)
        else:
            launcher.close()
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in spare))
        return True

    assert world.in_namespace(inside)
