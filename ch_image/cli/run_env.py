"""The environment of a ch-run command: the host's, adjusted, then edited as the options say.

The rules are Charliecloud's, whose users' job scripts rely on them. Pure functions on mappings;
nothing here reads a file or the process environment.
"""

from __future__ import annotations

from ch_image.cli.extglob import matches
from ch_image.errors import ChError, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

RUNNING = "Weird Al Yankovic"  # what CH_RUNNING has always been set to


def adjusted(host: Mapping[str, str], home: str) -> dict[str, str]:
    """The host's environment as it starts out inside; ``home`` is the home directory there."""
    env = {name: value for name, value in host.items() if name}  # "=..." has none, execve wants one
    env["HOME"] = home
    path = env.get("PATH")
    if path is not None and "/bin" not in path.split(":"):
        # Images that don't merge /bin into /usr need it. An unset PATH stays unset, for shells
        # have a better default than we could guess.
        env["PATH"] = f"{path}:/bin" if path else "/bin"
    env.pop("TMPDIR", None)  # a host path, whose place inside is /tmp
    return env


def edited(
    env: Mapping[str, str],
    edits: Iterable[tuple[str, list[str], str]],
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, str]:
    """``env`` after ``edits``, in their order, and marked as ours. Raises ChError.

    An edit is (kind, values, origin): ``set`` with assignments, ``unset`` with one pattern, or
    ``no-expand``, after which values are taken as they are. ``origin`` is named in errors. ``say``
    hears of every variable that is set.
    """
    out, expand = dict(env), True
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
                    say(f"environment: {printable(f'{name}={out[name]}', 1000)}")
    out["CH_RUNNING"] = RUNNING
    return out


def assignment(text: str, where: str = "") -> tuple[str, str]:
    """``NAME=VALUE`` without one pair of single quotes around the value, or around it all."""
    shown = f"{where}: " if where else ""  # after what is wrong, as job scripts look for it
    if len(text) > 1 and text[0] == text[-1] == "'":
        text = text[1:-1]
    name, equals, value = text.partition("=")
    if not equals:
        raise ChError(f"can't parse variable: no delimiter: {shown}{printable(text, 100)}")
    if not name:
        raise ChError(f"can't parse variable: empty name: {shown}{printable(text, 100)}")
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
