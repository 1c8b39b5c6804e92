"""storage-path, reset, build-cache: the storage directory as a whole."""

from __future__ import annotations

from ch_image.cli import options
from ch_image.cli.session import Session, emit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ch_image.storage.cache import CacheRecord


def _storage_path(session: Session) -> int:
    print(session.storage_path)
    return 0


STORAGE_PATH = options.Command(
    "storage-path",
    "",
    "Prints the storage directory that would be used, whether or not it exists.",
    (),
    _storage_path,
)


def _reset(session: Session) -> int:
    session.enter()
    with session.locked(exclusive=True):
        session.storage.reset()
    return 0


RESET = options.Command(
    "reset",
    "",
    "Removes all images and the whole build cache from storage. There is no way back.",
    (),
    _reset,
)


def _build_cache(session: Session) -> int:
    from ch_image.report import Info

    parsed = session.parsed
    session.enter()
    if parsed.has("reset"):
        with session.locked():
            number = session.storage.cache.reset()
        session.report(Info(f"build cache: forgot {number} steps"))
    if parsed.has("gc"):
        from ch_image.cli.console import size

        days = parsed.text("older-than")
        with session.locked(exclusive=True):
            freed = session.storage.gc(_seconds(days) if days else None)
        session.report(
            Info(
                f"removed {freed.records} steps, {freed.layers} layers,"
                f" {freed.blobs} blobs ({size(freed.blob_bytes)})"
            )
        )
    if parsed.has("tree"):
        emit(tree(session.storage.cache.all()))
    emit(_summary(session))
    return 0


def _seconds(days: str) -> float:
    from ch_image.errors import UsageError, printable

    try:
        number = float(days)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1e6:
        raise UsageError(f"--older-than takes a number of days, not '{printable(days, 60)}'")
    return number * 86400


def _summary(session: Session) -> list[str]:
    storage = session.storage
    counts = (
        ("named images", len(storage.images.list())),
        ("deleted images", len(storage.images.deleted())),
        ("cached steps", len(storage.cache.all())),
        ("layers", len(storage.layers.all())),
        ("blobs", len(storage.blobs.all())),
    )
    return [f"{name + ':':<18}{number:>8}" for name, number in counts]


def tree(records: list[CacheRecord]) -> list[str]:
    """The cache as a tree of steps, oldest first; one line each, cut to 77 columns.

    Steps whose parent has been forgotten are roots.
    """
    from ch_image.errors import printable

    known = {record.key for record in records}
    children: dict[str, list[CacheRecord]] = {}
    for record in sorted(records, key=lambda r: (r.created, r.key)):
        children.setdefault(record.parent if record.parent in known else "", []).append(record)
    lines: list[str] = []
    # A chain of steps stays in its column; only a fork indents what branches off.
    todo = [(record, "", "*") for record in reversed(children.get("", []))]
    while todo:
        record, indent, mark = todo.pop()
        text = f"{indent}{mark} {printable(record.text)}"
        lines.append(text if len(text) <= 77 else text[:75] + "..")
        below = children.pop(record.key, [])
        if below:
            todo.append((below[-1], indent, "*"))
            todo += [(branch, indent + "| ", "*") for branch in reversed(below[:-1])]
    return lines


BUILD_CACHE = options.Command(
    "build-cache",
    "",
    "Shows what the build cache holds. With several options: reset, then gc, then tree.",
    (
        options.flag("--gc", "remove layers and blobs that nothing needs; forget deleted images"),
        options.value("--older-than", "DAYS", "with --gc: also forget steps unused for so long"),
        options.flag("--reset", "forget all steps; images stay"),
        options.flag("--tree", "print the steps as a tree"),
    ),
    _build_cache,
)
