"""oci pause, resume, update: changing a container that runs."""

from __future__ import annotations

from ch_image.cli import options
from ch_image.cli.oci_run import store_of
from ch_image.cli.session import Session
from ch_image.errors import ChError, UsageError, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ch_image.typed import Any

_MAX_RESOURCES = 1 << 20  # bytes
_INFINITY = 0xFFFFFFFFFFFFFFFF


def _pause(session: Session) -> int:
    from ch_image.oci import freeze

    freeze.pause(store_of(session), session.words[0])
    return 0


PAUSE = options.Command(
    "oci pause", "ID", "Stops all processes of a running container, by SIGSTOP.", (), _pause
)


def _resume(session: Session) -> int:
    from ch_image.oci import freeze

    freeze.resume(store_of(session), session.words[0])
    return 0


RESUME = options.Command("oci resume", "ID", "Lets a paused container go on.", (), _resume)


def _update(session: Session) -> int:
    from ch_image.oci import container, limits

    store, ident, parsed = store_of(session), session.words[0], session.parsed
    if not any(parsed.has(name) for name in ("from-file", "rlimit", "oom-score-adj")):
        raise UsageError("nothing to change", hint="give --from-file, --rlimit, --oom-score-adj")
    rlimits = [_rlimit(text) for text in parsed.texts("rlimit")]
    score = _score(parsed.text("oom-score-adj"))
    wanted = limits.settings(_resources(session)) if parsed.has("from-file") else {}
    pids = container.processes(store, ident)
    if not pids:
        raise ChError(f"container {ident} cannot be changed: it is stopped")
    if wanted:
        limits.apply(limits.own_cgroup(pids), wanted)
    for number, soft, hard in rlimits:
        limits.set_limit(pids, number, soft, hard)
    if score is not None:
        limits.set_oom_score(pids, score)
    return 0


def _resources(session: Session) -> dict[str, Any]:
    import sys

    from ch_image.errors import ImageError
    from ch_image.model.oci import parse_json

    name = session.parsed.text("from-file")
    try:
        if name == "-":
            data = sys.stdin.buffer.read(_MAX_RESOURCES)
        else:
            with open(name, "rb") as file:
                data = file.read(_MAX_RESOURCES)
    except OSError as error:
        raise ChError(f"can't open: {printable(name, 300)}: {error.strerror}") from None
    try:
        return parse_json(data, printable(name, 300))
    except ImageError as error:
        raise ChError(str(error)) from None


def _rlimit(text: str) -> tuple[int, int, int]:
    from ch_image.oci.spec import RLIMITS

    name, equals, values = text.partition("=")
    name = "RLIMIT_" + name.upper().removeprefix("RLIMIT_")
    soft, colon, hard = values.partition(":")
    if name not in RLIMITS:
        known = [one.removeprefix("RLIMIT_") for one in RLIMITS]
        hint = options.near(name.removeprefix("RLIMIT_"), known) or f"there is {', '.join(known)}"
        raise UsageError(
            f"--rlimit: no limit is called '{printable(text.partition('=')[0], 60)}'", hint=hint
        )
    numbers = [_amount(one) for one in (soft, hard if colon else soft)]
    if not equals or None in numbers:
        raise UsageError(f"--rlimit takes NAME=SOFT[:HARD], not '{printable(text, 60)}'")
    return RLIMITS[name], numbers[0] or 0, numbers[1] or 0


def _amount(text: str) -> int | None:
    if text in ("unlimited", "-1"):
        return _INFINITY
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _score(text: str) -> int | None:
    if not text:
        return None
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and int(digits[:9]) <= 1000):
        raise UsageError(f"--oom-score-adj takes -1000 to 1000, not '{printable(text, 60)}'")
    return int(text)


UPDATE = options.Command(
    "oci update",
    "ID",
    "Changes what a created or running container may use.",
    (
        options.value("-f --from-file", "FILE", "the resources object of config.json, as JSON; -"
                      " reads standard input. Needs a cgroup that is delegated to you"),
        options.values("--rlimit", "NAME=SOFT[:HARD]", "a limit of all its processes; repeatable"),
        options.value("--oom-score-adj", "N", "how soon the kernel ends it when memory runs out"),
    ),
    _update,
)  # fmt: skip
