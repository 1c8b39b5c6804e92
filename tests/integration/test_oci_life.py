"""ch-image oci: containers of a bundle from create to delete, and who gets their output."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import oci
import pytest
import world

from ch_image.oci import talk
from ch_image.oci.states import Store

pytestmark = pytest.mark.userns


@pytest.fixture(scope="module")
def tool(
    base_layout: world.BaseImage, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[world.Tool]:
    """Storage with the image ``base``."""
    made = oci.with_base(tmp_path_factory, base_layout)
    top = made.storage.parent
    made("oci", "mount", "base", top / "bundle").ok()
    yield made
    oci.forget(made)
    made("oci", "umount", top / "bundle").ok()
    assert oci.leftovers(made) == []


@pytest.fixture
def bundle(tool: world.Tool) -> Iterator[Path]:
    """The mounted bundle; no container is left in it."""
    yield tool.storage.parent / "bundle"
    oci.forget(tool)


ENDS = {
    "exit code": ("exit 7", 7),
    "success": ("true", 0),
}


@pytest.mark.parametrize(("script", "code"), ENDS.values(), ids=ENDS.keys())
def test_run_ends_as_the_container_does(
    script: str, code: int, tool: world.Tool, bundle: Path
) -> None:
    oci.command(bundle, "sh", "-c", f"echo out; echo err >&2; {script}")
    done = tool("oci", "run", "-b", bundle, "one")
    assert (done.code, done.out) == (code, "out\n")
    assert done.err.splitlines() == ["err"]
    assert oci.known(tool) == []


def test_run_passes_input(tool: world.Tool, bundle: Path) -> None:
    oci.command(bundle, "sh", "-c", "cat; echo end")
    assert tool("oci", "run", "-b", bundle, "one", stdin="data\n").ok().out == "data\nend\n"


def test_the_steps_of_run_one_by_one(tool: world.Tool, bundle: Path, tmp_path: Path) -> None:
    oci.command(bundle, "sh", "-c", "echo ready; cat; echo bad >&2; exit 5")
    tool("oci", "create", "-b", bundle, "--pid-file", tmp_path / "pid", "one").ok()
    state = oci.state(tool, "one")
    assert (state["status"], state["bundle"]) == ("created", str(bundle.resolve()))
    assert (tmp_path / "pid").read_text().strip() == str(state["pid"])

    tool("oci", "start", "one").ok()

    assert oci.state(tool, "one")["status"] == "running"
    assert tool("oci", "exec", "one", "sh", "-c", "echo $0 x; exit 3").code == 3
    attached = tool("oci", "attach", "one", stdin="typed\n")
    assert (attached.code, attached.out, attached.err) == (5, "ready\ntyped\n", "bad\n")
    state = oci.state(tool, "one")
    assert (state["status"], state["exitCode"]) == ("stopped", 5)
    again = tool("oci", "attach", "one")  # who comes too late gets it all the same
    assert (again.code, again.out, again.err) == (5, "ready\ntyped\n", "bad\n")
    tool("oci", "delete", "one").ok()
    assert oci.known(tool) == []
    assert not (tool.home / "ch-run-oci/one").exists()


def test_several_attach_and_none_loses_anything(tool: world.Tool, bundle: Path) -> None:
    oci.command(bundle, "sh", "-c", "read go; seq 1 20000")
    tool("oci", "create", "-b", bundle, "one").ok()
    tool("oci", "start", "one").ok()
    watchers = [tool.start("oci", "attach", "--no-stdin", "one") for _ in range(2)]
    keeper = _keeper(tool, "one")
    oci.wait_for(lambda: _sockets(keeper) >= 1 + len(watchers))
    done = tool("oci", "attach", "one", stdin="go\n")
    expected = "".join(f"{n}\n" for n in range(1, 20001))
    assert done.ok().out == expected
    for watcher in watchers:
        assert watcher.communicate()[0] == expected


def _sockets(pid: int) -> int:
    """How many sockets a process has open."""
    found = 0
    for one in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found += os.readlink(one).startswith("socket:")
    return found


def test_whoever_called_before_the_end_gets_all(tool: world.Tool, bundle: Path) -> None:
    """Also when it comes while their keeper has no time to welcome or to hear them."""
    oci.command(bundle, "sh", "-c", "echo said; sleep 1000")
    tool("oci", "create", "-b", bundle, "one").ok()
    tool("oci", "start", "one").ok()
    store = Store(str(tool.home / "ch-run-oci"))
    heard = talk.call(store, "one")
    assert heard is not None
    assert heard.recv(100) == b"osaid\n"
    keeper = _keeper(tool, "one")

    os.kill(keeper, signal.SIGSTOP)
    pid = store.read("one").pid
    os.kill(pid, signal.SIGKILL)
    oci.wait_for(lambda: oci.is_gone(pid))
    more = [line for _ in range(3) if (line := talk.call(store, "one"))]
    for line in (heard, *more):
        for _ in range(3):
            line.send(talk.IN + b"typed\n")
    os.kill(keeper, signal.SIGCONT)

    assert heard.recv(100) == b"x137"
    assert [(one.recv(100), one.recv(100)) for one in more] == [(b"osaid\n", b"x137")] * 3
    for line in (heard, *more):
        line.close()


def test_more_comes_out_than_goes_in(tool: world.Tool, bundle: Path) -> None:
    """Neither side waits to say something while the other does."""
    oci.command(bundle, "tee", "/dev/stderr")
    tool("oci", "create", "-b", bundle, "one").ok()
    tool("oci", "start", "one").ok()
    text = "".join(f"{n}\n" for n in range(300_000))
    done = tool("oci", "attach", "one", stdin=text)
    assert done.code == 0
    assert done.out == text
    assert done.err == text


def test_what_a_container_leaves_behind_does_not_keep_it(tool: world.Tool, bundle: Path) -> None:
    """Without a PID namespace its other processes go on, and write to its output."""
    found = oci.config(bundle)
    spaces = found["linux"]["namespaces"]
    found["linux"]["namespaces"] = [one for one in spaces if one["type"] != "pid"]
    (bundle / "config.json").write_text(json.dumps(found))
    try:
        _start(tool, bundle, "yes & exit 3")
        assert tool("oci", "attach", "one").code == 3
    finally:
        found["linux"]["namespaces"] = spaces
        (bundle / "config.json").write_text(json.dumps(found))


def _keeper(tool: world.Tool, ident: str) -> int:
    record = json.loads((tool.home / "ch-run-oci" / ident / "state.json").read_text())
    keeper: int = record["more"]["keeper"]
    return keeper


def test_exec_inherits_and_can_be_told(tool: world.Tool, bundle: Path) -> None:
    _start(tool, bundle, "sleep 60", env=["PATH=/bin", "A=1", "B=2"], cwd="/tmp")
    done = tool("oci", "exec", "-e", "B=3", "one", "sh", "-c", "pwd; echo $A $B; cat", stdin="in\n")
    assert done.ok().out == "/tmp\n1 3\nin\n"
    assert tool("oci", "exec", "--cwd", "/etc", "one", "pwd").ok().out == "/etc\n"
    assert "-l" in tool("oci", "exec", "one", "echo", "-l", "--help").ok().out
    assert tool("oci", "exec", "one", "sh", "-c", "kill -9 $$").code == 137
    assert tool("oci", "exec", "one", "nosuchprogram").code != 0


def _start(tool: world.Tool, bundle: Path, script: str, ident: str = "one", **process: object
           ) -> None:  # fmt: skip
    oci.command(bundle, "sh", "-c", script, **process)
    tool("oci", "create", "-b", bundle, ident).ok()
    tool("oci", "start", ident).ok()


SIGNALS = {
    "the default": ((), "TERM"),
    "an option": (("-s", "USR1"), "USR1"),
    "with SIG": (("--signal", "sigusr2"), "USR2"),
    "a word": (("HUP",), "HUP"),
    "a number": (("-s", "15"), "TERM"),
}


@pytest.mark.parametrize(("words", "name"), SIGNALS.values(), ids=SIGNALS.keys())
def test_kill_sends_a_signal(
    words: tuple[str, ...], name: str, tool: world.Tool, bundle: Path
) -> None:
    traps = "; ".join(f"trap 'echo {n}; exit 4' {n}" for n in ("TERM", "USR1", "USR2", "HUP"))
    _start(tool, bundle, f"{traps}; echo ready; while :; do sleep 0.05; done")
    watching = tool.start("oci", "attach", "--no-stdin", "one")
    assert watching.stdout is not None
    assert watching.stdout.readline() == "ready\n"
    if words and not words[0].startswith("-"):
        tool("oci", "kill", "one", *words).ok()
    else:
        tool("oci", "kill", *words, "one").ok()
    assert (watching.communicate()[0], watching.returncode) == (f"{name}\n", 4)


def test_a_killed_container_ends_run_so(tool: world.Tool, bundle: Path) -> None:
    oci.command(bundle, "sh", "-c", "echo up; sleep 1000")
    running = tool.start("oci", "run", "-b", bundle, "one")
    assert running.stdout is not None
    assert running.stdout.readline() == "up\n"
    tool("oci", "kill", "-f", "one").ok()
    assert running.wait(60) == 137
    running.communicate()


def test_kill_with_a_timeout_kills_what_does_not_end(tool: world.Tool, bundle: Path) -> None:
    _start(tool, bundle, "trap '' TERM; while :; do sleep 0.05; done")
    tool("oci", "kill", "-t", "1", "one").ok()
    assert tool("oci", "attach", "one").code == 137


def test_pause_stops_all_processes_and_resume_lets_them_go_on(
    tool: world.Tool, bundle: Path
) -> None:
    _start(tool, bundle, "sleep 1000 & sleep 1000 & wait")
    oci.wait_for(lambda: len(_states(oci.state(tool, "one")["pid"])) >= 3)
    pid = oci.state(tool, "one")["pid"]

    tool("oci", "pause", "one").ok()

    assert set(_states(pid)) == {"T"}
    assert oci.state(tool, "one")["status"] == oci.containers(tool)["one"] == "paused"
    assert "it is paused" in tool("oci", "exec", "one", "true").fault()
    assert "it is paused" in tool("oci", "pause", "one").fault()
    assert "it is paused" in tool("oci", "delete", "one").fault()
    assert json.loads(tool.run("ch-run-oci", "state", "one").ok().out)["status"] == "paused"
    assert "  paused  " in tool.run("ch-run-oci", "list").ok().out
    assert "it is paused" in tool.run("ch-run-oci", "exec", "one", "true").fault()
    tool.run("ch-run-oci", "resume", "one").ok()
    assert "T" not in _states(pid)
    assert oci.state(tool, "one")["status"] == "running"
    assert "it is running" in tool("oci", "resume", "one").fault()
    tool.run("ch-run-oci", "pause", "one").ok()
    tool("oci", "delete", "-f", "one").ok()
    assert oci.is_gone(pid)


def _states(pid: int) -> list[str]:
    """The states of the processes in the PID namespace of ``pid``."""
    out = []
    mine = os.readlink(f"/proc/{pid}/ns/pid")
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(entry / "ns/pid") == mine:
                out.append((entry / "stat").read_text().rpartition(")")[2].split()[0])
        except OSError:
            continue
    return out


def test_update_changes_what_a_user_can_change(
    tool: world.Tool, bundle: Path, tmp_path: Path
) -> None:
    _start(tool, bundle, "sleep 60")
    tool("oci", "update", "--rlimit", "NOFILE=77:99", "--oom-score-adj", "500", "one").ok()
    pid = oci.state(tool, "one")["pid"]
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert re.search(r"Max open files +77 +99", limits)
    assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "500"
    if os.getuid():
        failed = tool("oci", "update", "--rlimit", "NOFILE=200", "one")
        assert "cannot set the limit" in failed.fault()
        wanted = json.dumps({"memory": {"limit": 1 << 30}})
        failed = tool("oci", "update", "--from-file", "-", "one", stdin=wanted)
        assert "no cgroup of its own" in failed.fault()
    (tmp_path / "odd.json").write_text('{"devices": {}}')
    failed = tool("oci", "update", "-f", tmp_path / "odd.json", "one")
    assert "devices cannot be changed" in failed.fault()


@pytest.mark.parametrize("style", ["basic", "kubernetes", "json"])
def test_a_log_has_what_was_said(
    style: str, tool: world.Tool, bundle: Path, tmp_path: Path
) -> None:
    oci.command(bundle, "sh", "-c", "echo one; echo two >&2; printf three")
    tool("oci", "create", "-b", bundle, "-l", tmp_path / "log", "--log-format", style, "one").ok()
    tool("oci", "start", "one").ok()
    tool("oci", "attach", "one").ok()
    lines = (tmp_path / "log").read_text().splitlines()
    if style == "json":
        said = {(value["stream"], value["log"]) for value in map(json.loads, lines)}
        assert said >= {("stdout", "one\n"), ("stderr", "two\n")}
        return
    mark = "F " if style == "kubernetes" else ""
    said = {tuple(line.split(" ", 2)[1:]) for line in lines}
    assert said >= {("stdout", f"{mark}one"), ("stderr", f"{mark}two")}


def test_what_run_leaves_when_it_is_killed(tool: world.Tool, bundle: Path) -> None:
    oci.command(bundle, "sh", "-c", "echo up; sleep 1000")
    running = tool.start("oci", "run", "-b", bundle, "one")
    assert running.stdout is not None
    assert running.stdout.readline() == "up\n"
    pid = oci.state(tool, "one")["pid"]
    keeper = _keeper(tool, "one")
    running.kill()
    running.communicate()
    oci.wait_for(lambda: oci.is_gone(pid) and oci.is_gone(keeper))
    assert oci.known(tool) == []


def test_signals_of_run_go_to_the_container(tool: world.Tool, bundle: Path) -> None:
    oci.command(bundle, "sh", "-c", "trap 'echo got; exit 6' TERM; echo up;"
                " while :; do sleep 0.05; done")  # fmt: skip
    running = tool.start("oci", "run", "-b", bundle, "one")
    assert running.stdout is not None
    assert running.stdout.readline() == "up\n"
    running.send_signal(signal.SIGTERM)
    assert (running.communicate()[0], running.returncode) == ("got\n", 6)
    assert oci.known(tool) == []


def test_a_container_outlives_its_keeper_and_its_holder(tool: world.Tool, tmp_path: Path) -> None:
    own = tmp_path / "own"
    tool("oci", "mount", "base", own).ok()
    _start(tool, own, "sleep 1000")
    held = oci.holder(tool, own)
    before = set(oci.leftovers(tool))
    if held:
        os.kill(held, signal.SIGKILL)
        oci.wait_for(lambda: oci.is_gone(held))
    tool("tag", "base", "other").ok()  # who writes to storage sweeps what the dead left
    assert set(oci.leftovers(tool)) == before
    assert tool("oci", "exec", "one", "sh", "-c", "echo x > /new; cat /new").ok().out == "x\n"

    os.kill(_keeper(tool, "one"), signal.SIGKILL)
    oci.wait_for(lambda: oci.is_gone(_keeper(tool, "one")))

    assert tool("oci", "exec", "one", "cat", "/new").ok().out == "x\n"
    assert "nobody keeps its output" in tool("oci", "attach", "one").fault()
    assert "in use by container one" in tool("oci", "umount", own).fault()
    tool("oci", "delete", "-f", "one").ok()
    tool("oci", "umount", own).ok()
    tool("tag", "base", "other").ok()
    after = set(oci.leftovers(tool))
    assert after < before if held else after == before == set()


def test_nothing_of_ours_can_be_reached_from_inside(tool: world.Tool, bundle: Path) -> None:
    """No descriptor of the storage directory's locks, the state directory or our pipes."""
    script = "for p in /proc/[0-9]*; do ls -l $p/fd 2>/dev/null; done; true"
    oci.command(bundle, "sh", "-c", script)
    done = tool("oci", "run", "-b", bundle, "one").ok()
    assert str(tool.storage) not in done.out
    assert str(tool.home) not in done.out
    oci.command(bundle, "ls", "/")
    own = tool("oci", "run", "-b", bundle, "one").ok().out.split()
    for way in ("/proc/1/root", "/proc/1/cwd"):
        oci.command(bundle, "ls", way)
        seen = tool("oci", "run", "-b", bundle, "one")
        assert sorted(seen.out.split()) in ([], sorted(own))


@pytest.mark.parametrize("how", [(), ("--copy",)], ids=["held", "copied"])
def test_root_emulation_is_on(how: tuple[str, ...], tool: world.Tool, tmp_path: Path) -> None:
    bundle = tmp_path / "own"
    script = "touch /f && chown 7:8 /f && mknod /null c 1 3 && echo done"
    tool("oci", "mount", *how, "base", bundle, "--", "sh", "-c", script).ok()
    done = tool("oci", "run", "-b", bundle, "one")
    recorded = b""
    if how:
        recorded = os.getxattr(bundle / "rootfs/f", "user.containers.override_stat")
    tool("oci", "umount", bundle).ok()
    assert done.ok().out == "done\n"
    assert recorded == (b"7:8:0644:file" if how else b"")


def test_the_same_states_as_ch_run_oci(tool: world.Tool, bundle: Path) -> None:
    _start(tool, bundle, "sleep 1000")
    done = tool.run("ch-run-oci", "state", "one")
    assert json.loads(done.ok().out)["status"] == "running"
    tool.run("ch-run-oci", "kill", "one", "KILL").ok()
    oci.wait_for(lambda: oci.state(tool, "one")["status"] == "stopped")
    tool.run("ch-run-oci", "delete", "one").ok()
    assert oci.known(tool) == []


def test_ch_run_oci_finds_the_root_of_a_mounted_bundle(
    tool: world.Tool, bundle: Path, tmp_path: Path
) -> None:
    oci.command(bundle, "sh", "-c", "ls /bin/busybox; exit 4")
    done = tool.run("ch-run-oci", "run", "-b", bundle, "one")
    assert (done.out, done.code) == ("/bin/busybox\n", 4)
    oci.command(bundle, "sleep", "1000")
    argv = tool.argv("ch-run-oci", "create", "--bundle", bundle, "--pid-file", "pid", "one")
    nothing = subprocess.DEVNULL  # the container has our standard descriptors
    subprocess.run(argv, cwd=tmp_path, env=tool.environment(), check=True,
                   stdin=nothing, stdout=nothing, stderr=nothing)  # fmt: skip
    assert (tmp_path / "pid").read_text().strip() == str(oci.state(tool, "one")["pid"])
    tool("oci", "start", "one").ok()
    assert "nobody keeps its output" in tool("oci", "attach", "one").fault()
    assert "busybox" in tool("oci", "exec", "one", "ls", "/bin").ok().out


def test_runs_leave_no_process(tool: world.Tool, bundle: Path) -> None:
    def processes() -> int:
        done = subprocess.run(["ps", "-u", str(os.getuid()), "-o", "stat="],
                              capture_output=True, text=True, check=True)  # fmt: skip
        return sum(not line.startswith("Z") for line in done.stdout.splitlines())

    oci.command(bundle, "true")
    before = processes()
    for _ in range(5):
        tool("oci", "run", "-b", bundle, "one").ok()
    oci.wait_for(lambda: processes() <= before)
