"""A file of what a container says, in the formats that Apptainer names.

``basic``: time, stream and text; ``kubernetes``: the same with its mark of whole (F) and broken (P)
lines; ``json``: an object a line. Times are RFC 3339, in UTC.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime

from ch_image.errors import ChError, printable

FORMATS = ("basic", "kubernetes", "json")
_MAX_LINE = 16 << 10  # bytes of a line before it is broken


class Log:
    """Takes output as it comes and writes whole lines; without ``fd`` it takes it only."""

    def __init__(self, fd: int, style: str) -> None:
        self._fd, self._style = fd, style
        self._begun = {"stdout": b"", "stderr": b""}

    def write(self, stream: str, data: bytes) -> None:
        """Some output. A disk that is full is no reason to stop the container: it is left out."""
        if self._fd < 0:
            return
        *lines, rest = (self._begun[stream] + data).split(b"\n")
        entries = [self._entry(stream, line, whole=True) for line in lines]
        while len(rest) > _MAX_LINE:
            entries.append(self._entry(stream, rest[:_MAX_LINE], whole=False))
            rest = rest[_MAX_LINE:]
        self._begun[stream] = rest
        try:
            os.write(self._fd, b"".join(entries))
        except OSError:
            pass

    def close(self) -> None:
        """The last lines, which have no end."""
        for stream, rest in self._begun.items():
            if rest:
                self.write(stream, b"\n")

    def _entry(self, stream: str, line: bytes, *, whole: bool) -> bytes:
        now = datetime.now(UTC).isoformat()
        text = line.removesuffix(b"\r").decode("utf-8", "replace")
        if self._style == "json":
            value = {"time": now, "stream": stream, "log": text + "\n" * whole}
            return json.dumps(value, ensure_ascii=False).encode() + b"\n"
        mark = f"{'F' if whole else 'P'} " if self._style == "kubernetes" else ""
        return f"{now} {stream} {mark}{text}\n".encode()


def open_log(path: str, style: str) -> Log:
    """The log at ``path``, added to when it is there; an empty path is for none. Raises ChError."""
    if not path:
        return Log(-1, style)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    try:
        return Log(os.open(path, flags, 0o600), style)
    except OSError as error:
        raise ChError(f"cannot write the log {printable(path, 300)}: {error.strerror}") from None
