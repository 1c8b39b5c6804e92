"""ch-image oci at a terminal: run, attach and exec with one of their own, its size, leaving it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import oci
import pytest
import world

pytestmark = pytest.mark.userns


@pytest.fixture(scope="module")
def tool(
    base_layout: world.BaseImage, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[world.Tool]:
    """Storage with the image ``base``, mounted at ``bundle``."""
    made = oci.with_base(tmp_path_factory, base_layout)
    top = made.storage.parent
    made("oci", "mount", "base", top / "bundle").ok()
    yield made
    made("oci", "umount", top / "bundle").ok()


@pytest.fixture
def bundle(tool: world.Tool) -> Iterator[Path]:
    """The mounted bundle, whose config.json asks for a terminal."""
    path = tool.storage.parent / "bundle"
    oci.command(path, "sh", terminal=True)
    yield path
    oci.forget(tool)


class Screen:
    """A command of ours at a terminal."""

    def __init__(self, tool: world.Tool, *words: object) -> None:
        self._master, slave = pty.openpty()
        self.resize(30, 100)
        self.process = subprocess.Popen(
            tool.argv("ch-image", *words), stdin=slave, stdout=slave, stderr=slave,
            env=tool.environment(), start_new_session=True, pass_fds=(),
        )  # fmt: skip
        os.close(slave)
        self.shown = ""

    def resize(self, rows: int, columns: int) -> None:
        """Give the terminal a size; who is at it hears of it."""
        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._master, text.encode())

    def until(self, text: str, seconds: float = 30) -> str:
        """Read until something is shown; what was shown before that."""
        end = time.monotonic() + seconds
        while text not in self.shown:
            left = end - time.monotonic()
            assert left > 0, f"not shown: {text!r}; but {self.shown!r}"
            if select.select([self._master], [], [], left)[0]:
                try:
                    self.shown += os.read(self._master, 4096).decode()
                except OSError:
                    self.process.wait(10)
                    assert text in self.shown
        before, _, self.shown = self.shown.partition(text)
        return before

    def end(self) -> int:
        """Wait for the command; its exit code."""
        while self.process.poll() is None:
            if select.select([self._master], [], [], 0.05)[0]:
                try:
                    self.shown += os.read(self._master, 4096).decode()
                except OSError:
                    self.process.wait(30)
        with suppress(OSError):  # what it said last, after we had looked
            while select.select([self._master], [], [], 0)[0]:
                self.shown += os.read(self._master, 4096).decode()
        os.close(self._master)
        return self.process.returncode


def test_run_has_a_terminal_of_the_same_size(tool: world.Tool, bundle: Path) -> None:
    screen = Screen(tool, "oci", "run", "-b", bundle, "one")
    screen.until("# ")
    screen.type("tty; stty size; echo en''d\n")
    assert "/dev/pts/0\r\n30 100" in screen.until("end")
    screen.resize(40, 120)
    os.kill(screen.process.pid, signal.SIGWINCH)  # a session leader without a terminal of its own
    screen.type("sleep 0.2; stty size; echo en''d\n")
    assert "40 120" in screen.until("end")
    screen.type("exit 6\n")
    assert screen.end() == 6
    assert oci.known(tool) == []


def test_ctrl_c_interrupts_what_runs_there_and_not_us(tool: world.Tool, bundle: Path) -> None:
    screen = Screen(tool, "oci", "run", "-b", bundle, "one")
    screen.until("# ")
    screen.type("echo sta''rts; sleep 1000\n")
    screen.until("starts")
    time.sleep(0.1)  # for the shell to have begun to wait
    screen.type("\x03")
    screen.until("# ")
    screen.type("exit 3\n")
    assert screen.end() == 3


def test_leaving_and_coming_back(tool: world.Tool, bundle: Path) -> None:
    screen = Screen(tool, "oci", "run", "-b", bundle, "one")
    screen.until("# ")
    screen.type("hello=wor''ld; echo se''t\n\x10\x11")
    assert screen.end() == 0
    assert "detached; the container runs on" in screen.shown
    assert oci.containers(tool) == {"one": "running"}

    screen = Screen(tool, "oci", "attach", "one")
    screen.type("echo =$hello\n")
    screen.until("=world")
    screen.type("exit 9\n")
    assert screen.end() == 9
    assert oci.state(tool, "one")["exitCode"] == 9


def test_who_leaves_is_heard_out(tool: world.Tool, bundle: Path) -> None:
    """Also by a keeper that comes to it only when whoever left is gone."""
    screen = Screen(tool, "oci", "run", "-b", bundle, "one")
    screen.until("# ")
    keeper = int(Path(f"/proc/{oci.state(tool, 'one')['pid']}/stat").read_text().split()[3])
    os.kill(keeper, signal.SIGSTOP)
    for key in "echo":
        screen.type(key)
        time.sleep(0.05)  # each is a message of its own
    screen.type("\x10\x11")
    assert screen.end() == 0
    os.kill(keeper, signal.SIGCONT)
    time.sleep(0.2)
    assert oci.containers(tool) == {"one": "running"}


def test_create_and_start_then_attach(tool: world.Tool, bundle: Path) -> None:
    tool("oci", "create", "-b", bundle, "one").ok()
    tool("oci", "start", "one").ok()
    screen = Screen(tool, "oci", "attach", "one")
    screen.type("\n")
    screen.until("# ")
    screen.type("stty size; echo en''d\n")
    assert "30 100" in screen.until("end")
    screen.until("# ")  # before that the shell has not taken the terminal back
    screen.type("\x04")  # the end of input
    assert screen.end() == 0


def test_a_pipe_at_a_containers_terminal(tool: world.Tool, bundle: Path) -> None:
    tool("oci", "create", "-b", bundle, "one").ok()
    tool("oci", "start", "one").ok()
    done = tool("oci", "attach", "one", stdin="echo a''b; exit 4\n")
    assert done.code == 4
    assert "ab" in done.out


def test_exec_at_a_terminal(tool: world.Tool, bundle: Path) -> None:
    oci.command(bundle, "sleep", "1000", terminal=False)
    tool("oci", "create", "-b", bundle, "one").ok()
    tool("oci", "start", "one").ok()
    screen = Screen(tool, "oci", "exec", "-t", "one", "sh")
    screen.until("# ")
    screen.type("tty; stty size; echo en''d\n")
    shown = screen.until("end")
    assert "/dev/pts/" in shown
    assert "30 100" in shown
    screen.type("exit 8\n")
    assert screen.end() == 8
    assert oci.containers(tool) == {"one": "running"}
