"""Values of an image config in the spelling that Docker gives them. Pure.

Signatures:

    exposed_ports(words) -> ("80/tcp", ...)      is_signal("SIGTERM") -> bool
    quoted_list(words), duration_text(ns), healthcheck_text(check): texts for the history

The referee is what BuildKit writes, which for lists and durations is how Go prints them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ch_image.model.oci import Healthcheck

_PROTOCOLS = ("tcp", "udp", "sctp")
_ESCAPES = {
    "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v",
    "\\": "\\\\", '"': '\\"',
}  # fmt: skip
# Names of Linux's signals; real-time ones are RTMIN+N and RTMAX-N.
_SIGNALS = frozenset({
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
    "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
    "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
})  # fmt: skip


def exposed_ports(words: Sequence[str]) -> tuple[str, ...]:
    """``8000-8002/udp`` and its kin, one entry a port. Raises ValueError saying what is wrong."""
    out: list[str] = []
    for word in words:
        out += [port for port in _ports(word) if port not in out]
    return tuple(out)


def _ports(word: str) -> list[str]:
    # HOST:CONTAINER is a form of `docker run -p`; Docker takes it here too and drops the host.
    host, _, text = word.rpartition(":")
    if host.rpartition(":")[2]:
        _range(host.rpartition(":")[2])
    numbers, _, protocol = text.partition("/")
    protocol = protocol.lower() or "tcp"
    if protocol not in _PROTOCOLS:
        raise ValueError(f'"{protocol}" is not a protocol')
    return [f"{port}/{protocol}" for port in _range(numbers)]


def _range(text: str) -> range:
    start, dash, end = text.partition("-")
    first = _port(start)
    last = _port(end) if dash else first
    if last < first:
        raise ValueError(f'the range "{text}" runs backwards')
    return range(first, last + 1)


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError(f'"{text}" is not a port number' if text else "a port number is missing")
    if int(text) > 65535:
        raise ValueError(f"port {text} is above 65535")
    return int(text)


def is_signal(text: str) -> bool:
    """Whether STOPSIGNAL may have this value: a name with or without SIG, or a number."""
    if re.fullmatch(r"[+-]?[0-9]+", text):
        return int(text) != 0
    name = text.upper().removeprefix("SIG")
    if name in _SIGNALS:
        return True
    found = re.fullmatch(r"(RTMIN\+|RTMAX-)([0-9]{1,2})", name)
    return found is not None and 1 <= int(found[2]) <= (15 if found[1] == "RTMIN+" else 14)


def quoted(text: str) -> str:
    """``text`` in double quotes, escaped as Go's ``%q``."""
    return '"' + "".join(_ESCAPES.get(c) or _escaped(c) for c in text) + '"'


def _escaped(char: str) -> str:
    if char.isprintable():
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8, as Python carries it
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def quoted_list(words: Sequence[str] | None) -> str:
    """``["a" "b"]``: a list as Go's ``%q``."""
    return "[" + " ".join(map(quoted, words or ())) + "]"


def plain_list(words: Sequence[str]) -> str:
    """``[a b]``: a list as Go's ``%v``."""
    return "[" + " ".join(words) + "]"


def duration_text(nanoseconds: int) -> str:
    """``1m30s``, ``1.5s``, ``250ms``: a duration as Go prints it."""
    if nanoseconds == 0:
        return "0s"
    if nanoseconds < 0:
        return "-" + duration_text(-nanoseconds)
    for unit, name in ((1, "ns"), (1000, "µs"), (1_000_000, "ms")):
        if nanoseconds < unit * 1000:
            return _decimal(nanoseconds, unit) + name
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    text = _decimal(seconds * 1_000_000_000 + rest, 1_000_000_000) + "s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def _decimal(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    digits = str(rest).zfill(len(str(unit)) - 1).rstrip("0") if rest else ""
    return f"{whole}.{digits}" if digits else str(whole)


def healthcheck_text(check: Healthcheck) -> str:
    """A health check as it stands in a history."""
    times = (check.interval, check.timeout, check.start_period, check.start_interval)
    names = ("Interval", "Timeout", "StartPeriod", "StartInterval")
    parts = [f"{name}:{duration_text(t)}" for name, t in zip(names, times, strict=True)]
    return f"{{Test:{plain_list(check.test)} {' '.join(parts)} Retries:{check.retries}}}"
