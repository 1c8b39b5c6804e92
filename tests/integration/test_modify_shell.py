"""modify by hand: a shell at a real terminal, and what of it is kept."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

import pytest
import world

pytestmark = pytest.mark.userns
PROMPT = r"# (\x1b\[6n)?$"  # busybox also asks where the cursor is
NIGHT = 100_000 + os.getpid()  # seconds; nobody else sleeps so long


@pytest.fixture
def demo(ch_image: world.Tool, base_layout: world.BaseImage) -> world.Tool:
    """The tool, with an image demo in storage."""
    ch_image("import", base_layout.tar, "demo").ok()
    return ch_image


class Terminal:
    """A command at a terminal of 40 rows and 99 columns, which we type at."""

    def __init__(self, tool: world.Tool, *args: object) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 40, 99, 0, 0))
        self.before = termios.tcgetattr(slave)
        self.process = subprocess.Popen(
            tool.argv("ch-image", *args),
            stdin=slave, stdout=slave, stderr=slave,
            env=tool.environment(TERM="xterm"), start_new_session=True,
        )  # fmt: skip
        self.slave = slave
        self.seen = ""

    def until(self, pattern: str, seconds: float = 60) -> str:
        """Read until ``pattern`` is on the screen."""
        end = time.monotonic() + seconds
        while not re.search(pattern, self.seen):
            assert time.monotonic() < end, f"{pattern} did not come:\n{self.seen}"
            if select.select([self.master], [], [], 0.5)[0]:
                self.seen += os.read(self.master, 4096).decode("utf-8", "replace")
        found, self.seen = self.seen, ""
        return found

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def end(self) -> int:
        """Its exit code; the terminal must be as it was before."""
        end = time.monotonic() + 60
        while self.process.poll() is None and time.monotonic() < end:
            if select.select([self.master], [], [], 0.1)[0]:
                self.seen += os.read(self.master, 4096).decode("utf-8", "replace")
        code = self.process.wait(1)
        assert termios.tcgetattr(self.slave)[:4] == self.before[:4]
        os.close(self.slave)
        os.close(self.master)
        return code


@pytest.mark.parametrize("option", [(), ("-i",)], ids=["at a terminal", "-i"])
def test_what_is_done_by_hand_is_one_layer(demo: world.Tool, option: tuple[str, ...]) -> None:
    at = Terminal(demo, "modify", *option, "demo", "other")
    at.until(PROMPT)
    at.type("stty size; tty > /dev/null; echo ended $?; echo $TERM\r")
    shown = at.until(r"xterm\r\n")
    assert "40 99\r\n" in shown
    at.type("sh -c 'echo go; exec sleep 100'\r")
    at.until(r"\ngo\r\n")  # by now the terminal is the sleep's, which Ctrl-C is for
    at.type("\x03")  # not for us
    at.until(PROMPT)
    at.type("echo by hand > /made; chown app /made; false; exit\r")
    assert at.end() == 0, at.seen
    shown = demo("diff", "demo", "other").ok().out
    assert shown == "+ /made  (-rw-r--r-- 1234:0 8)\n"
    assert "modify -i /bin/sh" in demo("history", "other").ok().out
    old, new = (json.loads(demo("inspect", name).ok().out)["config"] for name in ("demo", "other"))
    assert {**old, "Env": None, "WorkingDir": None} == {**new, "Env": None, "WorkingDir": None}
    assert demo.run("ch-run", "demo", "--", "ls", "/made").code != 0


def test_without_a_terminal_the_shell_reads_what_there_is(demo: world.Tool) -> None:
    done = demo("modify", "-i", "demo", "other", stdin="echo out; echo x > /x; exit 3\n").ok()
    assert done.out == "out\n"
    assert demo("diff", "demo", "other").ok().out.startswith("+ /x")


def test_a_shell_that_is_killed_leaves_nothing(demo: world.Tool) -> None:
    at = Terminal(demo, "modify", "-i", "demo", "other")
    at.until(PROMPT)
    at.type("touch /x; kill -9 $$\r")
    assert at.end() == 1
    assert "killed by signal 9; nothing was kept" in at.seen
    assert [line.split()[0] for line in demo("list").ok().out.splitlines()] == ["demo"]


def test_when_we_are_ended_the_shell_ends_and_the_terminal_is_as_before(demo: world.Tool) -> None:
    at = Terminal(demo, "modify", "-i", "demo", "other")
    at.until(PROMPT)
    at.type(f"sleep {NIGHT} & echo $!\r")
    at.until(r"\d+\r\n")
    at.process.send_signal(signal.SIGTERM)
    assert at.end() != 0
    assert "other" not in demo("list").ok().out
    assert not subprocess.run(["pgrep", "-f", f"^sleep {NIGHT}"], capture_output=True).stdout


WRONG = {
    "with a command": (["-i", "-c", "true", "demo", "x"], 2, "-i and -c exclude"),
    "with a script": (["-i", "demo", "x", "script"], 2, "-i and a script exclude"),
    "with fakeroot": (["-i", "--force=fakeroot", "demo", "x"], 2, "exclude each other"),
    "onto itself": (["-i", "demo", "demo:latest"], 2, "another name"),
    "no such shell": (["-i", "-S", "/bin/zsh", "demo", "x"], 1, "no program /bin/zsh"),
    "a relative shell": (["-i", "-S", "zsh", "demo", "x"], 2, "no absolute path"),
}


@pytest.mark.parametrize(("words", "code", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_meant_is_told(
    words: list[str], code: int, message: str, demo: world.Tool
) -> None:
    done = demo("modify", *words, stdin="")
    assert (done.code, message in done.fault()) == (code, True), done
    assert "x" not in demo("list").ok().out.split()
