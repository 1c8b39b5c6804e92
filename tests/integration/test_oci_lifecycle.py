"""ch-run-oci as an engine calls it: the states, misuse, signals, hooks, what a crash leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import bundles
import pytest
import world

pytestmark = pytest.mark.userns


@pytest.fixture
def runtime(tmp_path: Path, base_layout: world.BaseImage) -> Iterator[bundles.Runtime]:
    """A bundle and a state directory; when the test is over nothing is left in it."""
    made = bundles.Runtime(tmp_path, base_layout.tree)
    yield made
    for name in list(made.states.iterdir()) if made.states.exists() else []:
        made("delete", "--force", name.name)
    assert made.leftovers() == []


def test_a_life(runtime: bundles.Runtime) -> None:
    runtime.write("sh", "-c", "echo hello; exit 7", annotations={"a": "b"})
    pid_file = runtime.bundle / "pid"
    runtime.create("c", "--pid-file", pid_file).ok()
    state = json.loads(runtime("state", "c").ok().out)
    assert state["status"] == "created"
    assert state["pid"] == int(pid_file.read_text())
    assert state["bundle"] == str(runtime.bundle)
    assert (state["id"], state["ociVersion"]) == ("c", "1.0.2")
    assert state["annotations"] == {"a": "b"}
    assert runtime.output.read_text() == ""  # nothing has run yet
    runtime("start", "c").ok()
    runtime.stops()
    assert "pid" not in json.loads(runtime("state", "c").ok().out)
    assert runtime.output.read_text() == "hello\n"
    runtime("delete", "c").ok()
    assert runtime("state", "c").fault() == "there is no container c"


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exit 0", 0),
        ("exit 3", 3),
        ("kill -9 $$", 0),  # process 1 of a PID namespace does not hear itself
        ("sh -c 'kill -TERM $$; sleep 9'; exit $?", 143),
    ],
)
def test_exit_codes(runtime: bundles.Runtime, script: str, code: int) -> None:
    runtime.write("sh", "-c", script)
    assert runtime.run().code == code


def test_misuse_of_the_order(runtime: bundles.Runtime) -> None:
    runtime.write("sleep", "60")
    assert runtime("start", "c").fault() == "there is no container c"
    runtime.create("c").ok()
    assert runtime.create("c").fault() == "container c exists already"
    runtime("start", "c").ok()
    for words, fault in (
        (["start"], "container c cannot be started: it is running"),
        (["delete"], "container c cannot be deleted: it is running"),
    ):
        done = runtime(*words, "c")
        assert (done.code, done.fault()) == (1, fault)
    assert runtime.status() == "running"  # none of it had an effect
    runtime("kill", "c", "KILL").ok()
    runtime.stops()
    for words, fault in (
        (["kill"], "container c cannot be signalled: it is stopped"),
        (["start"], "container c cannot be started: it is stopped"),
        (["exec", "c", "true"], "nothing can be run in container c: it is stopped"),
    ):
        done = runtime(*words) if len(words) > 1 else runtime(*words, "c")
        assert (done.code, done.fault()) == (1, fault)
    runtime("delete", "c").ok()
    assert runtime("delete", "c").fault() == "there is no container c"
    runtime("delete", "--force", "c").ok()


BUNDLES = {
    "no bundle": (lambda b: b.rename(b.parent / "gone"), "config.json: not found"),
    "bundle unreadable": (lambda b: b.chmod(0), "config.json: Permission denied"),
    "no config": (lambda b: (b / "config.json").unlink(), "config.json: not found"),
    "bad JSON": (lambda b: (b / "config.json").write_text("{"), "not JSON"),
    "no rootfs": (lambda b: (b / "rootfs").rename(b / "x"), "root.path: "),
    "rootfs a file": (
        lambda b: ((b / "rootfs").rename(b / "x"), (b / "rootfs").touch()),
        "root.path: ",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("harm", "fault"), BUNDLES.values(), ids=BUNDLES.keys())
def test_bundles_that_are_none(runtime: bundles.Runtime, harm: object, fault: str) -> None:
    runtime.write("true")
    assert callable(harm)
    harm(runtime.bundle)
    done = runtime.create("c")
    runtime.bundle.exists() and runtime.bundle.chmod(0o755)
    assert done.code == 1
    assert fault in done.fault()
    assert not runtime.states.exists()


IMPOSSIBLE = {
    "no such program": ({}, ["nothing"], "executable file not found in $PATH"),
    "no such file": ({}, ["/bin/nothing"], "no such file or directory"),
    "hostname of the host": (
        {"linux": {"namespaces": [{"type": "mount"}, {"type": "user"}]}}, ["true"], "hostname: ",
    ),
    "Intel RDT": ({"linux": {"intelRdt": {"closID": "x"}}}, ["true"], "linux.intelRdt: "),
    "a terminal and nobody to have it": ({"process": {"terminal": True}}, ["sh"], "console socket"),
    "no such source": (
        {"mounts": [{"destination": "/mnt", "source": "/nonexistent", "options": ["bind"]}]},
        ["true"], "mounts[0] on /mnt: /nonexistent: No such file or directory",
    ),
    "mapped mounts": (
        {"mounts": [{"destination": "/mnt", "source": "/", "options": ["bind", "idmap"]}]},
        ["true"], "mounts[0] on /mnt: mount option idmap",
    ),
    "a namespace that is a file": (
        {"linux": {"namespaces": [{"type": "ipc", "path": "/etc/passwd"}]}, "hostname": ""},
        ["true"],
        "linux.namespaces[0]: /etc/passwd: not a namespace",
    ),
    "a namespace of another type": (
        {
            "linux": {"namespaces": [{"type": "network", "path": "/proc/self/ns/pid"}]},
            "hostname": "",
        },
        ["true"], "not a network namespace",
    ),
    "a hook that fails": (
        {"hooks": {"createRuntime": [{"path": "/bin/false"}]}}, ["true"],
        "hook createRuntime[0] /bin/false failed with exit code 1",
    ),
    "a hook that hangs": (
        {"hooks": {"createContainer": [
            {"path": "/bin/sleep", "args": ["sleep", "60"], "timeout": 1}]}},
        ["true"], "took longer than 1 s",
    ),
    "a hook that is not there": (
        {"hooks": {"prestart": [{"path": "/no"}]}}, ["true"], "hook prestart[0] /no ",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("more", "args", "fault"), IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_what_cannot_be_created_leaves_nothing(
    runtime: bundles.Runtime, more: dict[str, object], args: list[str], fault: str
) -> None:
    runtime.write(*args, **more)
    pid_file = runtime.bundle / "pid"
    done = runtime.create("c", "--pid-file", pid_file)
    assert done.code == 1
    assert fault in done.fault()
    assert not runtime.states.exists()
    assert not pid_file.exists()
    assert runtime.leftovers() == []


def test_a_failed_create_leaves_the_root_as_it_was(runtime: bundles.Runtime) -> None:
    before = set((runtime.bundle / "rootfs").rglob("*"))
    more = [{"destination": "/made/here", "type": "tmpfs"}, {"destination": "/x", "type": "nosuch"}]
    runtime.write("true", mounts=[*bundles.MOUNTS, *more])
    assert "mounts[4] on /x" in runtime.create("c").fault()
    runtime.write("true", mounts=[*bundles.MOUNTS, more[0]], process={"args": ["nosuch"]})
    assert "executable file not found" in runtime.create("c").fault()
    assert set((runtime.bundle / "rootfs").rglob("*")) ^ before == set()


def test_containers_of_one_root_do_not_take_each_others_mounts(runtime: bundles.Runtime) -> None:
    """Who takes a mount point away unmounts what others have there."""
    before = set((runtime.bundle / "rootfs").rglob("*"))
    for ident, place in (("a", "/made"), ("b", "/made/more"), ("c", "/made/most")):
        mounts = [{"destination": path, "type": "tmpfs"} for path in ("/one", place)]
        runtime.write("sleep", "60", mounts=[*bundles.MOUNTS, *mounts])
        runtime.create(ident).ok()
        runtime("start", ident).ok()
    runtime("delete", "--force", "a").ok()
    runtime("delete", "--force", "c").ok()
    mounted = runtime("exec", "b", "cut", "-d", " ", "-f2", "/proc/mounts").ok().out.split()
    assert {"/one", "/made/more", "/dev", "/proc"} <= set(mounted)
    runtime("delete", "--force", "b").ok()
    assert set((runtime.bundle / "rootfs").rglob("*")) ^ before == set()


def test_several_faults_of_a_config_have_a_line_each(runtime: bundles.Runtime) -> None:
    runtime.write("true", root={}, mounts=[{"type": "proc"}])
    done = runtime.create("c")
    assert done.fault().endswith("config.json has 2 faults")
    assert "  root.path: is missing\n  mounts[0].destination: is missing\n" in done.err


@pytest.mark.parametrize("ident", ["a/b", "..", ".hidden", "", "a b"])
def test_names_that_are_none(runtime: bundles.Runtime, ident: str) -> None:
    runtime.write("true")
    for words in (["create", "--bundle", runtime.bundle], ["state"], ["delete", "--force"]):
        done = runtime(*words, ident)
        assert done.code == 1
        assert "cannot be called" in done.fault()


def test_a_program_that_cannot_be_executed_fails_at_start(runtime: bundles.Runtime) -> None:
    broken = runtime.bundle / "rootfs/bin/broken"
    broken.write_text("\0\0\0\0")
    broken.chmod(0o755)
    runtime.write("/bin/broken")
    runtime.create("c").ok()
    done = runtime("start", "c")
    assert (done.code, done.fault()) == (1, "process.args[0]: /bin/broken: exec format error")
    runtime.stops()


def test_signals_reach_the_first_process(runtime: bundles.Runtime) -> None:
    script = "trap 'echo got; exit 5' USR1; echo ready; while :; do sleep 0.02; done"
    runtime.write("sh", "-c", script)
    runtime.create("c").ok()
    runtime("start", "c").ok()
    while runtime.output.read_text() != "ready\n":
        assert runtime.status() == "running"
    assert runtime("kill", "c", "NOSUCH").code == 2
    runtime("kill", "--signal", "SIGUSR1", "c").ok()
    runtime.stops()
    assert runtime.output.read_text() == "ready\ngot\n"


@pytest.mark.parametrize("name", ["createRuntime", "poststart"])
def test_run_that_is_ended_before_it_waits_leaves_nothing(
    name: str, runtime: bundles.Runtime
) -> None:
    hook = {"path": "/bin/sh", "args": ["sh", "-c", "kill -TERM $PPID"]}
    runtime.write("sleep", "60", hooks={name: [hook]})
    assert runtime.run().code == 143
    assert runtime.leftovers() == []


def test_run_ignores_what_it_was_told_to_ignore(runtime: bundles.Runtime) -> None:
    runtime.write("sh", "-c", "echo up; read line; echo $line")
    argv = runtime.tool.argv("ch-run-oci", "--root", runtime.states, "run", "-b", runtime.bundle)
    running = subprocess.Popen(
        ["nohup", *argv, "c"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=runtime.tool.environment(),
    )  # fmt: skip
    assert running.stdout
    assert running.stdout.readline() == "up\n"
    running.send_signal(signal.SIGHUP)
    assert running.communicate("on\n")[0] == "on\n"
    assert running.returncode == 0


def test_hooks_run_at_their_times_with_the_state(runtime: bundles.Runtime) -> None:
    log = runtime.bundle / "log"
    script = f'read s; case $s in *\\"id\\":\\ \\"c\\"*) i=c;; esac; echo $0 $i >> {log}'

    def hook(name: str, path: str = "/bin/sh", to: str = script) -> list[dict[str, object]]:
        return [{"path": path, "args": [name, "-c", to.replace("$0", name)]}]

    inside = "read s; echo startContainer >> /log"
    runtime.write(
        "sh", "-c", "echo program >> /log",
        hooks={
            "prestart": hook("prestart"),
            "createRuntime": hook("createRuntime"),
            "createContainer": hook("createContainer"),
            "startContainer": hook("sh", to=inside),
            "poststart": hook("poststart") + [{"path": "/bin/false"}],
            "poststop": hook("poststop") + [{"path": "/bin/false"}],
        },
    )  # fmt: skip
    runtime.create("c").ok()
    made = ["prestart c", "createRuntime c", "createContainer c"]
    assert log.read_text().splitlines() == made
    started = runtime("start", "c").ok()
    assert started.err == "warning: hook poststart[1] /bin/false failed with exit code 1\n"
    runtime.stops()
    deleted = runtime("delete", "c").ok()
    assert "hook poststop[1] /bin/false failed" in deleted.err
    assert log.read_text().splitlines() == [*made, "poststart c", "poststop c"]
    inner = runtime.bundle / "rootfs/log"
    assert inner.read_text().splitlines() == ["startContainer", "program"]


def test_since_version_1_3_a_failed_poststart_hook_ends_the_container(
    runtime: bundles.Runtime,
) -> None:
    runtime.write("sleep", "60", ociVersion="1.3.0", hooks={"poststart": [{"path": "/bin/false"}]})
    runtime.create("c").ok()
    assert "hook poststart[0]" in runtime("start", "c").fault()
    assert runtime.status() == "stopped"


def test_a_killed_create_leaves_nothing(runtime: bundles.Runtime) -> None:
    """Killed while a hook keeps it: no process stays, and the ID is free."""
    made = {"destination": "/made/here", "type": "tmpfs"}
    runtime.write("true", mounts=[*bundles.MOUNTS, made], hooks={"createRuntime": [{
        "path": "/bin/sh", "args": ["sh", "-c", f"touch {runtime.bundle}/here; sleep 60"],
    }]})  # fmt: skip
    words = ("--root", runtime.states, "create", "--bundle", runtime.bundle, "c")
    creator = subprocess.Popen(
        runtime.tool.argv("ch-run-oci", *words),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=runtime.tool.environment(),
        start_new_session=True,
    )
    while not (runtime.bundle / "here").exists():
        assert creator.poll() is None
    assert runtime.status() == "creating"
    creator.kill()
    creator.wait()
    assert runtime("state", "c").fault() == "there is no container c"
    assert not (runtime.bundle / "rootfs/made").exists()
    subprocess.run(["pkill", "-g", str(creator.pid)], check=False)  # the hook itself
    runtime.write("true")
    assert runtime.run().code == 0


def test_a_container_outlives_its_creator_and_is_known_by_its_process(
    runtime: bundles.Runtime,
) -> None:
    runtime.write("sleep", "60")
    runtime.create("c").ok()
    runtime("start", "c").ok()
    runtime.bundle.rename(runtime.bundle.parent / "renamed")  # the name of the bundle is no matter
    assert runtime.status() == "running"
    os.kill(json.loads(runtime("state", "c").out)["pid"], signal.SIGKILL)
    runtime.stops()
    runtime("delete", "c").ok()


def test_what_an_earlier_start_of_the_machine_left_is_stopped(runtime: bundles.Runtime) -> None:
    """A store that is no tmpfs outlives its containers; their numbers are other processes' then."""
    runtime.write("sleep", "60")
    runtime.create("c").ok()
    runtime("start", "c").ok()
    path = runtime.states / "c/state.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"boot": "0b5fd5a3-an-earlier-one"}))
    try:
        assert runtime.status() == "stopped"
        for words in (["start", "c"], ["kill", "c", "KILL"], ["exec", "c", "true"]):
            assert "it is stopped" in runtime(*words).fault()
        assert runtime("ps", "c").ok().out == "PID\n"
        runtime("delete", "--force", "c").ok()
        os.kill(record["pid"], 0)  # whoever has that number now is left alone
    finally:
        os.kill(record["pid"], signal.SIGKILL)
    assert not runtime.states.exists()


def test_delete_ends_what_was_never_started(runtime: bundles.Runtime) -> None:
    runtime.write("true")
    runtime.create("c").ok()
    runtime("delete", "c").ok()
    assert runtime.leftovers() == []


def test_where_states_are_kept(runtime: bundles.Runtime, tmp_path: Path) -> None:
    runtime.write("true")
    runtime.create("c").ok()
    listed = json.loads(runtime("list", "--format", "json").ok().out)
    assert [one["id"] for one in listed] == ["c"]
    assert runtime("list", "--quiet").out == "c\n"
    assert (runtime.states.stat().st_mode & 0o777) == 0o700
    assert runtime.tool.run("ch-run-oci", "list", "-q").out == ""  # XDG_RUNTIME_DIR's


def test_logs_and_the_hang(runtime: bundles.Runtime, tmp_path: Path) -> None:
    log, file = tmp_path / "log", tmp_path / "file"
    done = runtime(
        "--log", log, "--log-format", "json", "--systemd-cgroup", "state", "x",
        env={"CH_LOG_FILE": str(file), "CH_LOG_FESTOON": "1"},
    )  # fmt: skip
    assert done.code == 1
    entry = json.loads(log.read_text())
    assert (entry["level"], entry["msg"]) == ("error", "there is no container x")
    assert file.read_text().endswith(" error: there is no container x\n")
    with pytest.raises(subprocess.TimeoutExpired):
        runtime("list", env={"CH_RUN_OCI_HANG": "list"}, timeout=1)
    runtime("list", env={"CH_RUN_OCI_HANG": "create"}).ok()


def test_what_it_says_of_itself(runtime: bundles.Runtime) -> None:
    assert runtime("--version").ok().out.splitlines()[1].startswith("spec: 1.")
    features = json.loads(runtime("features").ok().out)
    assert features["ociVersionMin"] == "1.0.0"
    assert "rro" in features["mountOptions"]
    assert {"pid", "user"} <= set(features["linux"]["namespaces"])
    assert runtime().code == 2
    done = runtime("checkpoint", "c")
    assert (done.code, done.fault()) == (2, "there is no command 'checkpoint'")
