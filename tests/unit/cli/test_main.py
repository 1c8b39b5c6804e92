"""ch-image as a process: exit codes, streams, messages; real programs, real storage."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import world

from ch_image import __version__


def run_with(tool: world.Tool, env: dict[str, str], cwd: Path, *words: str) -> world.Done:
    """A command of ch-image's whose variables may be any, CH_IMAGE_STORAGE too."""
    done = subprocess.run(
        tool.argv("ch-image", *words),
        capture_output=True,
        text=True,
        env=tool.environment() | env,
        cwd=cwd,
    )
    return world.Done(done.returncode, done.stdout, done.stderr)


USAGE = {
    "no sub-command": ([], "no sub-command", ""),
    "an unknown sub-command": (["lsit"], "'lsit'", "list"),
    "an unknown option": (["list", "--lnog"], "--lnog", "--long"),
    "an unknown common option": (["--strage=x", "list"], "--strage", "--storage"),
    "too many operands": (["storage-path", "x"], "'x'", "usage"),
    "too few operands": (["delete"], "GLOB", "usage"),
    "quiet and verbose": (["-q", "list", "-v"], "exclude", ""),
    "two cache modes": (["--cache", "--rebuild", "list"], "exclude", ""),
    "an unknown verb": (["oci", "x", "--anything"], "oci has no 'x'", "there is mount"),
    "a bad format": (["list", "--format", "xml"], "'xml'", "json"),
    "a control character": (["\x1b]0;title\x07"], r"'\x1b]0;title\x07'", ""),
}


@pytest.mark.parametrize(("words", "message", "hint"), USAGE.values(), ids=USAGE.keys())
def test_wrong_usage_is_told_in_one_line_and_exits_2(
    words: list[str], message: str, hint: str, ch_image: world.Tool
) -> None:
    done = ch_image(*words)
    assert done.code == 2
    assert message in done.fault()
    assert hint in "".join(re.findall(r"^hint: .*", done.err, re.M))
    assert done.out == ""
    assert not ch_image.storage.exists()


VARIABLES = {
    "a relative storage path": ({"CH_IMAGE_STORAGE": "relative"}, ["storage-path"], "absolute"),
    "an unknown cache mode": ({"CH_IMAGE_CACHE": "on"}, ["build", "."], "'on'"),
    "a log that cannot be written": ({"CH_LOG_FILE": "/nosuch/log"}, ["list"], "/nosuch/log"),
    "a port that is none": (
        {"CH_REGY_DEFAULT_HOST": "example.com", "CH_REGY_DEFAULT_PORT": "x"},
        ["pull", "--parse-only", "a"],
        "'x'",
    ),
}


@pytest.mark.parametrize(("env", "words", "message"), VARIABLES.values(), ids=VARIABLES.keys())
def test_a_bad_variable_is_wrong_usage(
    env: dict[str, str], words: list[str], message: str, ch_image: world.Tool, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    done = run_with(ch_image, env, tmp_path, *words)
    assert done.code == 2
    assert message in done.fault()


def test_help_and_version_go_to_standard_output(ch_image: world.Tool) -> None:
    for words in (["--help"], ["-h"], ["list", "--help"], ["-h", "list"], ["build", "-h"]):
        done = ch_image(*words).ok()
        assert done.out.startswith("usage: ch-image ")
        assert done.err == ""
    assert ch_image("--version").ok().out == f"{__version__}\n"
    assert ch_image("list", "--version").ok().out == f"{__version__}\n"


def test_help_names_every_sub_command_and_its_module_has_it(ch_image: world.Tool) -> None:
    from ch_image.cli.main import COMMANDS, find

    text = ch_image("--help").ok().out
    for name, (module, _, about) in COMMANDS.items():
        assert f"  {name} " in text
        assert about in text
        if module:
            assert find(name).name == name


def test_dependencies_are_silent_when_all_is_there(ch_image: world.Tool) -> None:
    done = ch_image("--dependencies").ok()
    assert done.out == done.err == ""


STORAGE = {
    "the default": ({"CH_IMAGE_STORAGE": ""}, [], "/var/tmp/tester.ch"),
    "an odd user name": ({"CH_IMAGE_STORAGE": "", "USER": "../x"}, [], "/var/tmp/{me}.ch"),
    "the variable": ({"CH_IMAGE_STORAGE": "/a/b/"}, [], "/a/b"),
    "the option": ({"CH_IMAGE_STORAGE": "/a/b"}, ["-s", "/c"], "/c"),
    "a relative option": ({}, ["--storage=x/../y"], "{cwd}/y"),
    "the option after the sub-command": ({}, ["-s", "/c", "--", "storage-path"], "/c"),
}


@pytest.mark.parametrize(("env", "words", "path"), STORAGE.values(), ids=STORAGE.keys())
def test_the_storage_directory_is_the_first_that_is_named(
    env: dict[str, str], words: list[str], path: str, ch_image: world.Tool, tmp_path: Path
) -> None:
    import pwd

    words = words[:-2] + words[-1:] if "--" in words else [*words, "storage-path"]
    done = run_with(ch_image, env, tmp_path, *words).ok()
    me = pwd.getpwuid(os.getuid()).pw_name
    assert done.out == path.format(cwd=tmp_path, me=me) + "\n"


def test_later_options_win(ch_image: world.Tool) -> None:
    assert ch_image("-s", "/a", "storage-path", "-s", "/b").ok().out == "/b\n"


def test_a_fault_of_ours_is_one_line_and_with_debug_a_traceback(tmp_path: Path) -> None:
    body = (
        "import sys\n"
        "from ch_image.cli.faults import run_program\n"
        "def body(frame):\n"
        "    frame.debug = len(sys.argv) > 1\n"
        "    raise KeyError('x\\x1b')\n"
        "sys.exit(run_program(body))\n"
    )

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", body, *words],
            capture_output=True,
            text=True,
            env=world.clean_environment(tmp_path),
        )

    plain, debug = run(), run("--debug")
    assert plain.returncode == debug.returncode == 1
    assert plain.stderr.splitlines()[0].startswith("error: internal error: KeyError")
    assert "--debug" in plain.stderr
    assert "Traceback" not in plain.stderr
    assert "\x1b" not in plain.stderr
    assert "Traceback" in debug.stderr


def test_a_reader_that_leaves_is_no_fault(ch_image: world.Tool) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        ch_image.argv("ch-image", "--help"),
        stdout=writer,
        stderr=subprocess.PIPE,
        env=ch_image.environment(),
    )
    os.close(writer)
    assert done.stderr == b""


def test_results_that_cannot_be_written_are_a_fault(ch_image: world.Tool) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            ch_image.argv("ch-image", "storage-path"),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=ch_image.environment(),
        )
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot write to standard output: No space left")
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_a_closed_standard_descriptor_harms_nothing(closed: int, ch_image: world.Tool) -> None:
    redirect = f"{closed}{'<' if closed == 0 else '>'}&-"
    done = subprocess.run(
        ["sh", "-c", f'"$@" {redirect}', "sh", *ch_image.argv("ch-image", "list")],
        capture_output=True,
        text=True,
        env=ch_image.environment(),
    )
    assert done.returncode == 0, done.stderr
    assert (ch_image.storage / "version").read_text() == "1\n"


def test_names_that_are_no_text_are_shown_escaped(ch_image: world.Tool) -> None:
    argv = [os.fsencode(word) for word in ch_image.argv("ch-image", "inspect")]
    done = subprocess.run(
        [*argv, b"caf\xe9"], capture_output=True, env=ch_image.environment(LC_ALL="C")
    )
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    assert done.stderr.isascii()


def test_the_log_goes_to_the_file_and_errors_to_both(ch_image: world.Tool, tmp_path: Path) -> None:
    log = tmp_path / "log"
    env = {"CH_LOG_FILE": str(log), "CH_LOG_FESTOON": "yes"}
    for _ in range(2):
        done = ch_image("delete", "nosuch", env=env)
        assert done.code == 1
        assert "error: " in done.err
        assert "can't delete" not in done.err
    lines = log.read_text().splitlines()
    assert sum("no matching image, can't delete: nosuch" in line for line in lines) == 2
    assert all(re.match(r"\d+ \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S+ ", line) for line in lines)


def tidier(tmp_path: Path, tidying: str) -> subprocess.Popen[str]:
    """A program that is at work, and runs the lines of `tidying` when it is ended."""
    body = (
        "import sys, time\n"
        "from ch_image.cli import faults\n"
        "def body(frame):\n"
        "    faults.end_on_signals()\n"
        "    try:\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(60)\n"
        "    finally:\n"
        f"{textwrap.indent(tidying, ' ' * 8)}\n"
        "sys.exit(faults.run_program(body))\n"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", body],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=world.clean_environment(tmp_path),
    )
    assert running.stdout
    assert running.stdout.readline() == "ready\n"
    return running


def ends(running: subprocess.Popen[str], code: int) -> None:
    """It ends with that code, tidied up, and with one error line."""
    out, err = running.communicate(timeout=30)
    assert (running.returncode, out) == (code, "tidied\n")
    assert err.startswith("error: ")
    assert "Traceback" not in err


def test_who_presses_ctrl_c_thrice_does_not_stop_the_tidying_up(tmp_path: Path) -> None:
    running = tidier(
        tmp_path,
        "print('begun', flush=True)\n"
        "for _ in range(10): time.sleep(0.05)\n"
        "print('tidied', flush=True)",
    )
    running.send_signal(signal.SIGINT)
    assert running.stdout
    assert running.stdout.readline() == "begun\n"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        running.send_signal(number)
    ends(running, 130)


@pytest.mark.parametrize(("number", "code"), [(2, 130), (15, 143), (1, 129)])
def test_interrupt_and_term_end_it_with_their_code(tmp_path: Path, number: int, code: int) -> None:
    running = tidier(tmp_path, "print('tidied', flush=True)")
    running.send_signal(number)
    ends(running, code)
