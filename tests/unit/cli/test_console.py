"""What the user sees of events, by style and verbosity."""

from __future__ import annotations

import io
import json
import os
import pty
import sys
import threading
import time

import pytest

from ch_image.cli.console import Console, size
from ch_image.cli.log import Log
from ch_image.report import Detail, Info, Output, Progress, StepDone, StepHit, StepStarted, Warned

STORY = [
    Info("inferred image name: demo"),
    StepHit(1, "0", "FROM debian:bookworm"),
    StepStarted(2, "0", "RUN.S make"),
    Output(2, "0", "cc -c a.c"),
    StepDone(2, "0", 1.25),
    Detail("why it missed"),
    Detail("the plan", 2),
    Warned("no such label"),
    Progress("layer abc", 5, 10),
    Progress("layer abc", 10, 10),
]


def told(
    monkeypatch: pytest.MonkeyPatch, verbosity: int, style: str = "plain", quiet: int = 0
) -> list[str]:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    log = Log({}, quiet=quiet)
    console = Console(log, verbosity=verbosity, style=style)
    for event in STORY:
        console(event)
    console.close()
    log.repeat_warnings()
    return stream.getvalue().splitlines()


NORMAL = [
    "inferred image name: demo",
    "  1* FROM debian:bookworm",
    "  2. RUN.S make",
    "cc -c a.c",
    "warning: no such label",
    "warning: reprinting 1 warning",
    "warning: no such label",
]
VERBOSE = [
    *NORMAL[:4],
    "  2  done in 1.2 s",
    "why it missed",
    NORMAL[4],
    "layer abc: 10 B",
    *NORMAL[5:],
]
STYLES = {
    "normal": (0, 0, NORMAL),
    "verbose": (1, 0, VERBOSE),
    "debug": (2, 0, [*VERBOSE[:6], "the plan", *VERBOSE[6:]]),
    "quiet": (-1, 1, NORMAL[4:]),
    "very quiet": (-2, 2, []),
}


@pytest.mark.parametrize(("verbosity", "quiet", "lines"), STYLES.values(), ids=STYLES.keys())
def test_plain_lines(
    verbosity: int, quiet: int, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert told(monkeypatch, verbosity, quiet=quiet) == lines


def test_json_lines_hold_every_field(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [json.loads(line) for line in told(monkeypatch, 0, "json")]
    assert [v["event"] for v in values] == [type(event).__name__ for event in STORY]
    assert values[2] | {"time": 0} == {
        "event": "StepStarted", "time": 0, "number": 2, "stage": "0", "text": "RUN.S make",
    }  # fmt: skip


def test_output_of_steps_at_the_same_time_says_whose_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    console = Console(Log({}))
    for event in (StepStarted(2, "a", "RUN x"), StepStarted(9, "b", "RUN y"), Output(9, "b", "hi")):
        console(event)
    assert stream.getvalue().splitlines()[-1] == "[b 9] hi"


def test_control_characters_of_a_run_are_shown_and_not_obeyed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    console = Console(Log({}))
    for event in (
        StepStarted(1, "", "RUN \x1b[2J"),
        Output(1, "", "a\tb\x1b]52;c;x\x07\r"),
        Warned("\x9b1m"),
        Info("\x00"),
    ):
        console(event)
    text = stream.getvalue()
    assert not [c for c in text if not c.isprintable() and c != "\n"]
    assert "a        b\\x1b]52;c;x\\x07" in text


def test_the_end_of_a_quiet_failure_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    console = Console(Log({}), verbosity=-1)
    console(StepStarted(3, "", "RUN make"))
    for number in range(100):
        console(Output(3, "", f"line {number}"))
    assert console.failure_tail() == [f"line {n}" for n in range(80, 100)]


def test_many_threads_write_whole_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    console = Console(Log({}))
    threads = [
        threading.Thread(target=lambda: [console(Info("x" * 50)) for _ in range(200)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(stream.getvalue().splitlines()) == {"x" * 50}


def on_a_terminal(env: dict[str, str], slow: float) -> str:
    """What a terminal gets of the story, with a pause while the RUN is running."""
    parent, child = pty.openpty()
    real = sys.stderr
    sys.stderr = open(child, "w", encoding="utf-8", closefd=True)
    seen: list[bytes] = []

    def read() -> None:
        while True:
            try:
                data = os.read(parent, 65536)
            except OSError:
                return
            if not data:
                return
            seen.append(data)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        log = Log({"TERM": "xterm", **env})
        console = Console(log)
        for event in STORY:
            console(event)
            if isinstance(event, StepStarted):
                time.sleep(slow)
        console.close()
        log.repeat_warnings()
    finally:
        sys.stderr.close()
        sys.stderr = real
        reader.join(10)
        os.close(parent)
    return b"".join(seen).decode()


def test_a_terminal_shows_what_runs_and_keeps_the_lines() -> None:
    text = on_a_terminal({}, 0.8)
    for line in ("  1* FROM debian:bookworm", "cc -c a.c", "no such label"):
        assert line in text
    assert text.count("RUN.S make") > 1, "the display did not show the running step"
    assert "\x1b[1;33mwarning" in text


def test_short_work_shows_no_display_and_no_color_means_none() -> None:
    text = on_a_terminal({"NO_COLOR": "1"}, 0)
    assert text.count("RUN.S make") == 1
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 << 20, "5.0 MiB"), (3 << 40, "3.0 TiB")],
)
def test_sizes_are_for_people(number: int, text: str) -> None:
    assert size(number) == text
