"""The environment of a ch-run command: the host's, adjusted, then edited as the options say.

The rules are Charliecloud's, whose users' job scripts rely on them. Pure functions on mappings;
nothing here reads a file or the process environment.
"""

from __future__ import annotations

from ch_image.cli.extglob import matches
from ch_image.errors import ChError, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

RUNNING = "Weird Al Yankovic"  # what CH_RUNNING has always been set to
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def adjusted(host: Mapping[str, str], home: str) -> dict[str, str]:
    """The host's environment as it starts out inside; ``home`` is the home directory there."""
    env = dict(host)
    env["HOME"] = home
    path = env.get("PATH", "")
    if not path:
        env["PATH"] = _DEFAULT_PATH
    elif "/bin" not in path.split(":"):
        env["PATH"] = f"{path}:/bin"  # images that don't merge /bin into /usr need it
    env.pop("TMPDIR", None)  # a host path, whose place inside is /tmp
    return env


def edited(
    env: Mapping[str, str], edits: Iterable[tuple[str, list[str], str]], *, expand: bool = True
) -> dict[str, str]:
    """``env`` after ``edits``, in their order, and marked as ours. Raises ChError.

    An edit is (kind, values, origin): ``set`` with assignments, ``unset`` with one pattern, or
    ``no-expand``, after which values are taken as they are. ``origin`` is named in errors.
    """
    out = dict(env)
    for kind, values, origin in edits:
        if kind == "no-expand":
            expand = False
        elif kind == "unset":
            for pattern in values:
                if not pattern:
                    raise ChError("--unset-env: the pattern is empty")
                out = {name: value for name, value in out.items() if not matches(name, pattern)}
        else:
            for number, text in enumerate(values, 1):
                if text:
                    name, value = assignment(text, f"{origin}:{number}" if origin else "")
                    out[name] = expanded(value, out) if expand else value
    out["CH_RUNNING"] = RUNNING
    return out


def assignment(text: str, where: str = "") -> tuple[str, str]:
    """``NAME=VALUE`` without one pair of single quotes around the value, or around it all."""
    shown = f"{where}: " if where else ""
    if len(text) > 1 and text[0] == text[-1] == "'":
        text = text[1:-1]
    name, equals, value = text.partition("=")
    if not equals:
        raise ChError(f"{shown}can't parse variable: no delimiter: {printable(text, 100)}")
    if not name:
        raise ChError(f"{shown}can't parse variable: empty name: {printable(text, 100)}")
    if len(value) > 1 and value[0] == value[-1] == "'":
        value = value[1:-1]
    return name, value


def expanded(value: str, env: Mapping[str, str]) -> str:
    """A search path whose items of the form ``$NAME`` are replaced by that variable.

    An item whose variable is unset or empty goes, with one colon, lest an empty item remain.
    """
    items = []
    for item in value.split(":"):
        if len(item) > 1 and item[0] == "$":
            item = env.get(item[1:], "")
            if not item:
                continue
        items.append(item)
    return ":".join(items)
