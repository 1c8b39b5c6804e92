"""Durations, quoted lists, ports and signals in Docker's spelling."""

from __future__ import annotations

import pytest

from ch_image.build.wording import duration_text, exposed_ports, is_signal, quoted

SECOND = 1_000_000_000
DURATIONS = {
    0: "0s",
    1: "1ns",
    1500: "1.5µs",
    1_000_000: "1ms",
    250_000_000: "250ms",
    999_999_999: "999.999999ms",
    SECOND: "1s",
    1_500_000_000: "1.5s",
    60 * SECOND: "1m0s",
    90 * SECOND: "1m30s",
    3600 * SECOND: "1h0m0s",
    3661 * SECOND + 1: "1h1m1.000000001s",
    100 * 3600 * SECOND: "100h0m0s",
    -SECOND: "-1s",
}


@pytest.mark.parametrize(("nanoseconds", "text"), DURATIONS.items(), ids=DURATIONS.values())
def test_a_duration_reads_as_go_prints_it(nanoseconds: int, text: str) -> None:
    assert duration_text(nanoseconds) == text


QUOTED = {
    "a b": '"a b"',
    'a"b\\': r'"a\"b\\"',
    "\n\t\r\a\b\f\v": r'"\n\t\r\a\b\f\v"',
    "\0\x1b\x7f": r'"\x00\x1b\x7f"',
    "é€😀": '"é€😀"',
    "\u200b\u2028": r'"\u200b\u2028"',
    "\udcff": r'"\xff"',
}


@pytest.mark.parametrize(("text", "expected"), QUOTED.items())
def test_a_string_is_quoted_as_go_does(text: str, expected: str) -> None:
    assert quoted(text) == expected


def test_a_port_given_twice_counts_once() -> None:
    assert exposed_ports(["80", "80/tcp", "79-81"]) == ("80/tcp", "79/tcp", "81/tcp")
    assert len(exposed_ports(["0-65535"])) == 65536


@pytest.mark.parametrize(
    "word", ["", "/tcp", "-1", "1-", "1-2-3", "٣", "99999999999999999999", "a:b:80", "1.5"]
)
def test_what_is_no_port_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        exposed_ports([word])


@pytest.mark.parametrize("text", ["SIGTERM", "term", "9", "64", "RTMIN+15", "SIGRTMAX-14", "-1"])
def test_a_signal(text: str) -> None:
    assert is_signal(text)


@pytest.mark.parametrize("text", ["", "0", "SIGFOO", "RTMIN+16", "RTMIN-1", "SIG", "9x", " 9"])
def test_no_signal(text: str) -> None:
    assert not is_signal(text)
