"""Lines for people, and the same for the file that an engine gives by ``--log``."""

from __future__ import annotations

from ch_image.cli.log import Log
from ch_image.errors import UsageError, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class OciLog(Log):
    """A ``Log`` that also appends to a file, as text or as one JSON object a line."""

    def __init__(self, env: Mapping[str, str], path: str, form: str) -> None:
        super().__init__(env)
        self._path, self._json = path, form == "json"
        if path:
            self._record("", "")

    def error(self, message: str, hint: str, more: tuple[str, ...] = ()) -> None:
        """What went wrong and what to do."""
        super().error(message, hint, more)
        self._record("error", "; ".join([message, *(line.strip() for line in more)]))

    def warning(self, text: str) -> None:
        """Something that could not be had; said once."""
        self.line(f"{self.paint('warning')}: {text}")
        self._record("warning", text)

    def _record(self, level: str, text: str) -> None:
        if not self._path:
            return
        import json
        import time

        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = json.dumps({"level": level, "msg": text, "time": now}) if self._json else (
            f"{now}: {level}: {text}"
        )  # fmt: skip
        try:
            with open(self._path, "a", encoding="utf-8", errors="backslashreplace") as file:
                if level:
                    file.write(line + "\n")
        except OSError as error:
            if not level:  # at the start; later there is nobody left to tell
                path, self._path = self._path, ""
                raise UsageError(
                    f"--log: cannot write '{printable(path)}': {error.strerror}"
                ) from None
