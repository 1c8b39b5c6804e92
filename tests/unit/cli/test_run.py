"""ch-run as a process: what it says, what its command sees, what it leaves behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
import world

pytestmark = pytest.mark.userns


@pytest.fixture
def image(base_layout: world.BaseImage) -> str:
    """A directory with busybox in it."""
    return str(base_layout.tree)


def run(tool: world.Tool, *words: object, **options: object) -> world.Done:
    return tool.run("ch-run", *words, **options)  # type: ignore[arg-type]


USAGE = {
    "nothing": ([], 64, "no image"),
    "no command": (["{image}"], 64, "no command"),
    "no command after --": (["{image}", "--"], 64, "no command"),
    "an unknown option": (["--wirte", "{image}", "--", "true"], 64, "--wirte"),
    "an unknown image": (["/nosuch", "--", "true"], 31, "/nosuch"),
    "an image that is a file": (["/etc/passwd", "--", "true"], 31, "/etc/passwd"),
    "an unknown name": (["nosuch:1", "--", "true"], 31, "nosuch:1"),
    "no such command": (["{image}", "--", "nosuch"], 49, "nosuch"),
    "no such command by path": (["{image}", "--", "/bin/nosuch"], 49, "/bin/nosuch"),
    "a command that is no program": (["{image}", "--", "/etc/passwd"], 49, "Permission denied"),
    "a command that is a directory": (["{image}", "--", "/etc"], 49, "/etc"),
    "an absent directory": (["-c", "/nosuch", "{image}", "--", "true"], 31, "/nosuch"),
    "an absent bind": (["-b", "/nosuch:/mnt", "{image}", "--", "true"], 31, "/nosuch"),
    "a bind without source": (["-b", ":/mnt", "{image}", "--", "true"], 31, "--bind"),
    "a user that is no number": (["-u", "root", "{image}", "--", "true"], 64, "--uid"),
    "a group that is no number": (["-g", "-1", "{image}", "--", "true"], 64, "--gid"),
    "an absent file of variables": (["--set-env=nosuch", "{image}", "--", "true"], 31, "nosuch"),
    "no variables in the image": (["--set-env", "{image}", "--", "true"], 31, "/ch/environment"),
    "an empty pattern": (["--unset-env=", "{image}", "--", "true"], 31, "--unset-env"),
    "the host's root": (["/", "--", "true"], 31, "the host's own root"),
    "an empty image": (["", "--", "true"], 64, "no image"),
    "an image that may not be seen": (["{closed}/image", "--", "true"], 31, "Permission denied"),
    "quiet and verbose": (["-qv", "{image}", "--", "true"], 64, "exclude"),
    "an unknown feature": (["--feature=x"], 64, "'x'"),
    "none to execute": (["-b", "/etc/passwd:/bin/pw", "{image}", "pw"], 49, "/bin/pw: Perm"),
    "an empty command": (["{image}", "--", ""], 49, "can't execve(2): ''"),
    "a directory on a file": (["-b", "/etc:/etc/group", "{image}", "id"], 31, "image is not"),
    "a file on a directory": (["-b", "/etc/passwd:/usr", "{image}", "true"], 31, "is a directory"),
    "a bad size": (["-W=much", "{image}", "--", "true"], 31, "--write-fake: no size"),
}


@pytest.mark.parametrize(("words", "code", "message"), USAGE.values(), ids=USAGE.keys())
def test_what_cannot_be_run_is_told_with_its_own_code(
    words: list[str], code: int, message: str, ch_image: world.Tool, image: str, tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    done = run(ch_image, *(word.format(image=image, closed=closed) for word in words))
    assert done.code == code, done
    assert message in done.fault()
    assert done.out == ""


HINTS = {
    "a shell's line": (["{image}", "--", "echo $HOME"], "sh -c 'echo $HOME'"),
    "no interpreter": (["-b", "{tmp}:/t", "{image}", "--", "/t/lost"], "its interpreter"),
    "none by name": (["-b", "{tmp}/lost:/bin/lost", "{image}", "lost"], "its interpreter"),
    "no first line": (["-b", "{tmp}:/t", "{image}", "--", "/t/bare"], "#!/bin/sh"),
    "a name that can be pulled": (["alpine", "--", "true"], "ch-image pull alpine"),
    "a name of Apptainer's": (["docker://alpine", "--", "true"], "ch-image pull alpine"),
    "a word for an option": (["--set-env", "A=b", "{image}", "--", "true"], "--set-env=A=b"),
    "a file for an option": (["--set-env", "{tmp}/bare", "{image}", "id"], "={tmp}/bare"),
    "a size for an option": (["-W", "5m", "{image}", "--", "true"], "--write-fake=5m"),
    "an empty command": (["{image}", "--", ""], "is a variable of yours unset?"),
    "no such storage": (["-s", "/nosuch", "alpine", "--", "true"], "no storage directory /nosuch"),
    "docker's -e": (["-e", "A=b", "{image}", "--", "true"], "--set-env=NAME=VALUE"),
    "docker's --volume": (["--volume", "/x", "{image}", "--", "true"], "--bind"),
    "docker's --rm": (["--rm", "{image}", "--", "true"], "leave it out"),
    "Apptainer's --nv": (["--nv", "{image}", "--", "true"], "--device"),
}


@pytest.mark.parametrize(("words", "hint"), HINTS.values(), ids=HINTS.keys())
def test_what_others_would_write_is_answered_with_what_to_write(
    words: list[str], hint: str, ch_image: world.Tool, image: str, tmp_path: Path
) -> None:
    for name, text in (("lost", "#!/usr/bin/nosuch\n"), ("bare", "echo\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    done = run(ch_image, *(word.format(image=image, tmp=tmp_path) for word in words))
    done.fault()
    assert hint.format(tmp=tmp_path) in done.err.partition("hint: ")[2], done


def test_a_name_that_is_almost_there_is_shown(
    ch_image: world.Tool, base_layout: world.BaseImage
) -> None:
    ch_image("import", base_layout.layout, "almost:2").ok()
    done = run(ch_image, "almost", "--", "true")
    assert done.fault() == "can't find image: almost"
    assert "hint: there is almost:2; ch-image pull almost fetches it" in done.err


def test_faults_inside_can_be_debugged(ch_image: world.Tool, image: str) -> None:
    """Nothing can be imported there, not even what shows a traceback."""
    done = run(ch_image, "--debug", "-c", "/nosuch", image, "--", "true")
    assert (done.code, done.err.splitlines()[-1]) == (
        31, "error: can't cd to /nosuch: No such file or directory",
    )  # fmt: skip


def test_a_variable_without_a_name_is_left_out(ch_image: world.Tool, image: str) -> None:
    argv = ch_image.argv("ch-run", image, "--", "env")
    words = ["env", "=nameless", "NAMED=1", *argv]
    done = subprocess.run(words, env=ch_image.environment(), capture_output=True, text=True)
    assert "NAMED=1\n" in done.stdout, done.stderr
    assert "nameless" not in done.stdout


@pytest.mark.parametrize(("feature", "code"), [("extglob", 0), ("seccomp", 0), ("overlayfs", 0)])
def test_features_are_told_by_exit_code(feature: str, code: int, ch_image: world.Tool) -> None:
    assert run(ch_image, "--feature", feature) == world.Done(code, "", "")


def test_help_usage_and_version_go_to_standard_output(ch_image: world.Tool) -> None:
    for option in ("--help", "-h", "-?", "--usage"):
        assert run(ch_image, option).ok().out.startswith("usage: ch-run")
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", run(ch_image, "-V").ok().out)


def test_the_commands_exit_code_and_signal_are_seen(ch_image: world.Tool, image: str) -> None:
    assert run(ch_image, image, "--", "sh", "-c", "exit 7").code == 7
    assert run(ch_image, image, "--", "sh", "-c", "kill -9 $$").code == -signal.SIGKILL


def test_options_stand_on_both_sides_and_the_commands_stay_its_own(
    ch_image: world.Tool, image: str
) -> None:
    for words in (["-c", "/etc", image, "--"], [image, "-c", "/etc", "--"], ["-c", "/etc", image]):
        assert run(ch_image, *words, "sh", "-c", "pwd").ok().out == "/etc\n"
    assert run(ch_image, image, "echo", "-c", "--", "x").ok().out == "-c -- x\n"


def test_the_image_is_read_only_and_left_alone(ch_image: world.Tool, image: str) -> None:
    before = sorted(os.walk(image))
    done = run(ch_image, "-b", "/etc:/no/such/place", image, "--", "sh", "-c",
               "ls /no/such/place/passwd; touch /x; touch /etc/x")  # fmt: skip
    assert done.out == "/no/such/place/passwd\n"
    assert done.err.count("Read-only file system") == 2
    assert sorted(os.walk(image)) == before


def test_fake_writes_succeed_and_are_forgotten(ch_image: world.Tool, image: str) -> None:
    before = sorted(os.walk(image))
    script = "echo x > /x && rm -r /usr && mkdir /usr && cat /x && ls /usr | wc -l"
    assert run(ch_image, "-W", image, "--", "sh", "-c", script).ok().out.split() == ["x", "0"]
    assert sorted(os.walk(image)) == before
    full = run(ch_image, "-W=1m", image, "--", "sh", "-c", "head -c 9000000 /dev/zero > /x")
    assert full.code != 0


def test_writes_stay_where_they_were_asked_for(
    ch_image: world.Tool, base_layout: world.BaseImage, tmp_path: Path
) -> None:
    image = tmp_path / "image"
    subprocess.run(["cp", "-a", str(base_layout.tree), str(image)], check=True)
    run(ch_image, "-w", str(image), "--", "sh", "-c", "echo kept > /x").ok()
    assert (image / "x").read_text() == "kept\n"


def test_the_user_is_known_inside_and_can_be_chosen(ch_image: world.Tool, image: str) -> None:
    me = run(ch_image, image, "--", "sh", "-c", "id -u; id -g; whoami").ok().out.split()
    assert me[:2] == [str(os.getuid()), str(os.getgid())]
    root = run(ch_image, "-u0", "--gid=0", image, "--", "sh", "-c", "id -u; id -g; whoami").ok()
    assert root.out.split() == ["0", "0", "root"]
    other = run(ch_image, "-u", "4321", image, "--", "id", "-u").ok()
    assert other.out == "4321\n"
    own = run(ch_image, "--no-passwd", image, "--", "cat", "/etc/passwd").ok().out
    assert own == (Path(image) / "etc/passwd").read_text()


def test_the_environment_is_the_hosts_adjusted(ch_image: world.Tool, image: str) -> None:
    env = {"TMPDIR": "/var/tmp", "MINE": "1"}
    script = "echo $HOME,$PATH,${TMPDIR-unset},$MINE,$CH_RUNNING"
    done = run(ch_image, image, "--", "sh", "-c", script, env=env).ok()
    home, path, tmpdir, mine, running = done.out.strip().split(",")
    assert (home, tmpdir, mine, running) == ("/root", "unset", "1", "Weird Al Yankovic")
    assert "/bin" in path.split(":")


def test_variables_are_edited_in_their_order(
    ch_image: world.Tool, image: str, tmp_path: Path
) -> None:
    (tmp_path / "env").write_text("A=1\n\nB='two words'\n")
    (tmp_path / "env0").write_bytes(b"C=x\ny\0D=4\0")
    words = [
        *("--unset-env=*", f"--set-env={tmp_path}/env", f"--set-env0={tmp_path}/env0"),
        *("--unset-env=@(D|E)", "--set-env=P=/x:$A", "--env-no-expand", "--set-env=Q=$A"),
    ]
    done = run(ch_image, *words, image, "--", "/bin/env", "-0").ok()
    found = dict(item.split("=", 1) for item in done.out.split("\0") if item)
    assert found == {
        "A": "1", "B": "two words", "C": "x\ny", "P": "/x:1", "Q": "$A",
        "CH_RUNNING": "Weird Al Yankovic",
    }  # fmt: skip


def test_without_a_path_commands_are_found_where_the_system_looks(
    ch_image: world.Tool, image: str
) -> None:
    run(ch_image, "--unset-env=*", image, "--", "true").ok()
    assert run(ch_image, "--set-env=PATH=/nosuch", image, "--", "true").code == 49


def test_home_and_tmp_are_brought_in_or_not(
    ch_image: world.Tool, image: str, tmp_path: Path
) -> None:
    (ch_image.home / "file").write_text("mine")
    done = run(ch_image, "--home", image, "--", "sh", "-c", "cat $HOME/file; echo $HOME").ok()
    assert done.out == "mine/home/tester\n"
    (tmp_path / "there").write_text("x")
    env = {"TMPDIR": str(tmp_path)}
    assert "there" in run(ch_image, image, "--", "ls", "/tmp", env=env).ok().out.split()
    assert run(ch_image, "-t", image, "--", "ls", "/tmp", env=env).ok().out == ""


def test_who_runs_is_known_without_the_variable(ch_image: world.Tool, image: str) -> None:
    """The caller's name, and not that of root, which we are on the way."""
    import pwd

    me = pwd.getpwuid(os.getuid()).pw_name
    argv = ch_image.argv("ch-run", "--home", image, "--", "sh", "-c", "echo $HOME; whoami")
    env = {name: text for name, text in ch_image.environment().items() if name != "USER"}
    done = subprocess.run(argv, env=env, capture_output=True, text=True)
    assert done.stdout.split() == [f"/home/{me}", me]


def test_what_stands_in_the_way_of_a_mount_is_named(
    ch_image: world.Tool, base_layout: world.BaseImage, tmp_path: Path
) -> None:
    image = tmp_path / "image"
    subprocess.run(["cp", "-a", str(base_layout.tree), str(image)], check=True)
    for path in ("etc/passwd", "etc/hosts"):
        (image / path).unlink(missing_ok=True)
        (image / path).mkdir()
        done = run(ch_image, image, "--", "true")
        assert (done.code, f"/{path}" in done.fault()) == (31, True), done
        (image / path).rmdir()
    (image / "ch/environment").mkdir(parents=True)
    done = run(ch_image, "--set-env", image, "--", "true")
    assert done.fault() == "can't open: /ch/environment: Is a directory"
    (image / "proc").rmdir()
    (image / "proc").touch()
    done = run(ch_image, image, "--", "true")
    assert (done.code, "/proc in the image is not" in done.fault()) == (31, True), done


def test_nothing_of_the_host_leaks_in(ch_image: world.Tool, image: str) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    script = "ls /proc/self/fd; grep -E 'NoNewPrivs|SigIgn' /proc/self/status"
    argv = ch_image.argv("ch-run", image, "--", "sh", "-c", script)
    env = ch_image.environment()
    out = subprocess.run(argv, capture_output=True, text=True, env=env, close_fds=False).stdout
    os.close(reader)
    os.close(writer)
    assert out.split()[:4] == ["0", "1", "2", "3"]  # 3 is ls's own
    assert re.search(r"NoNewPrivs:\s+1", out)
    ignored = int(re.findall(r"SigIgn:\s+(\w+)", out)[0], 16)
    assert not ignored & (1 << (signal.SIGPIPE - 1)), "the command would not see a broken pipe"


def test_power_over_the_mounts_is_gone(ch_image: world.Tool, image: str) -> None:
    script = "umount /tmp; mount -o remount,rw /; touch /x"
    done = run(ch_image, "-u0", "-g0", image, "--", "sh", "-c", script)
    assert done.code != 0
    assert not (Path(image) / "x").exists()


def test_a_hostile_image_cannot_lead_a_mount_out(ch_image: world.Tool, tmp_path: Path,
                                                 base_layout: world.BaseImage) -> None:  # fmt: skip
    image, outside = tmp_path / "image", tmp_path / "outside"
    subprocess.run(["cp", "-a", str(base_layout.tree), str(image)], check=True)
    outside.mkdir()
    (image / "door").symlink_to(f"../../../../../../{outside}")
    (image / "etc/resolv.conf").symlink_to(f"{outside}/resolv.conf")
    (image / "sys").symlink_to("/proc")
    for target in ("/door/in", "/door", "/deep/door/in", "/shm/in"):
        (image / "shm").symlink_to("/dev/shm/ch-run-test") if target == "/shm/in" else None
        done = run(ch_image, "-b", f"{tmp_path}:{target}", str(image), "--", "ls", "/")
        assert "Traceback" not in done.err
        assert list(outside.iterdir()) == []
    assert not Path("/dev/shm/ch-run-test").exists()


def test_what_is_mounted_over_links_stays_in_the_image(
    ch_image: world.Tool, tmp_path: Path, base_layout: world.BaseImage
) -> None:
    image = tmp_path / "image"
    subprocess.run(["cp", "-a", str(base_layout.tree), str(image)], check=True)
    (image / "data").symlink_to("/srv/data")
    (tmp_path / "file").write_text("here")
    words = ["-b", f"{tmp_path}/file:/data/file", str(image), "--", "cat", "/srv/data/file"]
    assert run(ch_image, *words).ok().out == "here"


def test_a_mount_point_in_a_directory_of_the_host_is_not_made(
    ch_image: world.Tool, image: str, tmp_path: Path
) -> None:
    words = ["-b", "/etc:/tmp/new", image, "--", "true"]
    done = run(ch_image, *words, env={"TMPDIR": str(tmp_path)})
    assert (done.code, "/tmp/new" in done.fault()) == (31, True)
    assert not (tmp_path / "new").exists()
    (tmp_path / "new").mkdir()
    run(ch_image, *words, env={"TMPDIR": str(tmp_path)}).ok()
    run(ch_image, "-t", "-b", "/etc:/tmp/new", image, "--", "ls", "/tmp/new/passwd").ok()


def test_an_image_in_storage_runs_from_its_layers(
    ch_image: world.Tool, base_layout: world.BaseImage
) -> None:
    ch_image("import", base_layout.tar, "demo").ok()
    assert run(ch_image, "demo", "--", "cat", "/etc/os-release").ok().out.startswith("ID=busybox")
    assert "Read-only" in run(ch_image, "demo", "--", "touch", "/x").err
    run(ch_image, "-W", "demo:latest", "--", "touch", "/x").ok()
    done = run(ch_image, "-w", "demo", "--", "true")
    assert (done.code, "-W" in done.err) == (31, True)
    assert run(ch_image, "--set-env", "demo", "--", "true").code == 0
    assert os.listdir(ch_image.storage / "tmp") == []


def test_many_start_at_once(ch_image: world.Tool, image: str) -> None:
    argv = ch_image.argv("ch-run", image, "--", "true")
    running = [subprocess.Popen(argv, env=ch_image.environment()) for _ in range(30)]
    assert [process.wait(60) for process in running] == [0] * 30


def test_seccomp_lets_calls_succeed_that_need_root(ch_image: world.Tool, image: str) -> None:
    words = ["-W", "-u0", "-g0", image, "--", "chown", "5:5", "/etc/passwd"]
    assert run(ch_image, *words).code != 0
    run(ch_image, "--seccomp", *words).ok()
