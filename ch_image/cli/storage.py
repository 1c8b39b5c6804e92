"""storage-path, reset, build-cache: the storage directory as a whole."""

from __future__ import annotations

from ch_image.cli import options
from ch_image.cli.session import Session, emit


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
    parsed = session.parsed
    session.enter()
    if parsed.has("reset"):
        from ch_image.report import Info

        with session.locked():
            number = session.storage.cache.reset()
        session.report(Info(f"build cache: forgot {number} steps"))
    if parsed.has("gc"):
        _gc(session)
    elif parsed.has("keep-storage") or parsed.has("older-than"):
        from ch_image.errors import UsageError

        raise UsageError("--keep-storage and --older-than go with --gc")
    if parsed.has("tree") or parsed.has("dot") or parsed.has("json"):
        _show(session)
    if not parsed.has("dot") and not parsed.has("json"):
        emit(_summary(session))
    return 0


def _gc(session: Session) -> None:
    from ch_image.cli.console import size
    from ch_image.report import Info

    parsed = session.parsed
    age, limit = parsed.text("older-than"), parsed.text("keep-storage")
    unused_for = _seconds(age) if parsed.has("older-than") else None
    keep_bytes = _bytes(limit) if parsed.has("keep-storage") else None
    with session.locked(exclusive=True):
        freed = session.storage.gc(unused_for, keep_bytes)
    session.report(
        Info(
            f"removed {freed.records} steps, {freed.layers} layers ({size(freed.layer_bytes)}),"
            f" {freed.blobs} blobs ({size(freed.blob_bytes)})"
        )
    )
    if freed.shared_files:
        amount = size(freed.shared_bytes)
        session.report(Info(f"shared {freed.shared_files} equal files of layers ({amount})"))
    total = freed.layer_bytes + freed.blob_bytes + freed.shared_bytes
    session.report(Info(f"freed {size(total)}"))


def _show(session: Session) -> None:
    from ch_image.cli import cachetree

    roots = cachetree.forest(session.storage)
    if session.parsed.has("json"):
        import json

        emit([json.dumps(cachetree.as_json(roots), indent=2)])
    elif session.parsed.has("dot"):
        emit(cachetree.dot(roots))
    elif _on_terminal(session):
        from ch_image.cli.live import show_tree

        show_tree(roots, colour=session.log.has_colour)
    else:
        emit(cachetree.plain(roots))


def _on_terminal(session: Session) -> bool:
    """Whether results go to a terminal that can show more than text."""
    import sys

    return sys.stdout.isatty() and session.env.get("TERM", "dumb") != "dumb"


def _seconds(text: str) -> float:
    """``7d``, ``12h``, ``30m``, ``2w``; a bare number is days. Raises UsageError."""
    from ch_image.errors import UsageError, printable

    units = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
    unit = units.get(text[-1:])
    number = _number(text[:-1] if unit else text)
    if number is None or not number < 1e6:
        raise UsageError(
            f"--older-than takes a time, not '{printable(text, 60)}'",
            hint="7d, 12h and 30m are days, hours and minutes",
        )
    return number * (unit or 86400)


def _bytes(text: str) -> int:
    """``500M``, ``10GB``, ``1.5GiB``; powers of 1024. Raises UsageError."""
    from ch_image.errors import UsageError, printable

    short = text.upper().removesuffix("B").removesuffix("I")
    exponent = " KMGT".find(short[-1:]) if short[-1:].isalpha() else 0
    number = _number(short[:-1] if exponent > 0 else short)
    if number is None or exponent < 0:
        raise UsageError(
            f"--keep-storage takes a size, not '{printable(text, 60)}'",
            hint="500M and 10G are sizes; 0 keeps nothing that no image needs",
        )
    return int(number * 1024**exponent)


def _number(text: str) -> float | None:
    if not text or not text.isascii() or text.strip("0123456789."):
        return None
    try:
        return float(text)
    except ValueError:
        return None


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


BUILD_CACHE = options.Command(
    "build-cache",
    "",
    "Shows what the build cache holds. With several options: reset, then gc, then tree.",
    (
        options.flag("--gc", "remove layers and blobs that nothing needs; forget deleted images"),
        options.value("--keep-storage", "SIZE", "with --gc: also the least used steps, until those"
                      " that no image needs take no more (500M, 10G)"),
        options.value("--older-than", "TIME", "with --gc: also steps unused for so long (7d, 12h)"),
        options.flag("--reset", "forget all steps; images stay"),
        options.flag("--tree", "print the steps as a tree: size, last use, images"),
        options.flag("--dot", "print the tree for Graphviz"),
        options.flag("--json", "print the steps as JSON"),
    ),
    _build_cache,
)  # fmt: skip
