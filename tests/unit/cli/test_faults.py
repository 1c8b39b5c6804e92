"""From an exception to the lines that the user reads."""

from __future__ import annotations

import errno

import pytest

from ch_image.cli.faults import describe
from ch_image.errors import DockerfileError, ImageError


def test_a_fault_in_a_dockerfile_shows_the_line_and_marks_the_character() -> None:
    error = DockerfileError(
        "no such file", where=("Dockerfile", 7, 6), text="COPY dist /srv", width=4
    )
    message, _, more = describe(error)
    assert message == "Dockerfile:7: no such file"
    assert more == ("   7 | COPY dist /srv", "            ^^^^")


CARETS = {
    "a tab before": ("\tRUM x", 2, 3),
    "a control character before": ("a\x1b[31m RUM", 8, 3),
    "the first character": ("RUM", 1, 3),
    "behind the end": ("RUN", 4, 1),
    "a long line": ("x" * 5000 + " RUM " + "y" * 5000, 5002, 3),
}


@pytest.mark.parametrize(("text", "column", "width"), CARETS.values(), ids=CARETS.keys())
def test_the_mark_stands_under_the_fault(text: str, column: int, width: int) -> None:
    error = DockerfileError("fault", where=("Dockerfile", 1, column), text=text, width=width)
    shown, mark = describe(error)[2]
    start = mark.index("^")
    assert mark == " " * start + "^" * width
    marked = shown[start : start + width]
    assert marked == text[column - 1 : column - 1 + width]
    assert shown.isprintable()
    assert len(shown) < 400


def test_what_comes_from_outside_cannot_steer_the_terminal() -> None:
    message, hint, _ = describe(ImageError("bad\n\x1b[2J\x9b", hint="try\r\nthis"))
    assert message == "bad\\n\\x1b[2J\\x9b"
    assert hint == "try\\r\\nthis"


def test_a_message_is_cut_at_a_thousand_characters() -> None:
    assert len(describe(ImageError("x" * 100_000))[0]) == 1000


OS_ERRORS = {
    errno.ENOSPC: "free some space",
    errno.EROFS: "read-only",
    errno.EACCES: "permission",
    errno.EDQUOT: "quota",
    errno.EMFILE: "ulimit -n",
}


@pytest.mark.parametrize("number", OS_ERRORS, ids=errno.errorcode.get)
def test_what_the_machine_refuses_is_told_with_the_path_and_a_way_out(number: int) -> None:
    message, hint, _ = describe(OSError(number, "the reason", "/some/path"))
    assert message == "/some/path: the reason"
    assert OS_ERRORS[number] in hint
