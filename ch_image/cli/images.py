"""list, delete, undelete, tag: the names in storage."""

from __future__ import annotations

from ch_image.cli import options
from ch_image.cli.session import Session, emit
from ch_image.errors import ChError, ImageError, NotFound, UsageError, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ch_image.model.ref import ImageRef
    from ch_image.storage.images import Summary
    from ch_image.typed import Any

_GLOB = frozenset("*?[")


def is_glob(text: str) -> bool:
    """Whether ``text`` is a pattern and no name."""
    return not _GLOB.isdisjoint(text)


def _list(session: Session) -> int:
    if session.parsed.has("tags"):
        if not session.words or is_glob(session.words[0]):
            raise UsageError("--tags takes the name of one image", hint="ch-image list --tags REF")
        from ch_image.cli.details import remote_tags

        return remote_tags(session, session.words[0])
    if session.words and not is_glob(session.words[0]) and not session.parsed.has("undeletable"):
        from ch_image.cli.details import details

        return details(session, session.words[0])
    images = session.storage.images
    deleted = session.parsed.has("undeletable")
    found = sorted(images.deleted() if deleted else images.list(), key=lambda s: s.name)
    if session.words:
        found = matching(session, found, session.words[0])
    if deleted:  # their records are not among those that can be read by name
        emit(printable(s.name, 700) for s in found)
    elif session.parsed.text("format") == "json":
        import json

        emit([json.dumps(_rows(session, found), indent=2)])
    elif session.parsed.has("long"):
        from ch_image.cli.details import table

        emit(table(_rows(session, found)))
    else:
        emit(_line(session, s) for s in found)
    return 0


def _line(session: Session, summary: Summary) -> str:
    """A name with its architecture; what cannot be used is named all the same."""
    name = printable(summary.name, 700)
    try:
        platform = session.storage.images.get(summary.ref).config.platform
    except ChError:
        return f"{name} (damaged)"
    variant = f"/{platform.variant}" if platform.variant else ""
    return f"{name} ({printable(platform.architecture + variant, 60)})"


def _rows(session: Session, found: list[Summary]) -> list[dict[str, Any]]:
    from ch_image.cli.details import Sizes, row

    session.enter()  # directories of images may be closed to their owner
    sizes = Sizes(session.storage)
    return [row(session.storage, summary, sizes) for summary in found]


def matching(session: Session, found: list[Summary], pattern: str) -> list[Summary]:
    """Those whose name, short or in full, matches a name or a shell pattern."""
    from fnmatch import fnmatchcase

    if not is_glob(pattern):
        if any(s.file == pattern for s in found):  # how a damaged record is named
            return [s for s in found if s.file == pattern]
        try:
            wanted = session.ref(pattern).canonical
        except ImageError:
            return [s for s in found if s.damaged and pattern in (s.name, s.canonical)]
        return [s for s in found if s.canonical == wanted]
    return [s for s in found if fnmatchcase(s.name, pattern) or fnmatchcase(s.canonical, pattern)]


LIST = options.Command(
    "list",
    "[REF|GLOB]",
    "Lists the images in storage, one a line with its architecture. With the name of one image:"
    " what is known of it here and in its registry.",
    (
        options.flag("-l --long", "with last change, size and ID"),
        options.flag("--tags", "list the tags that the registry has for REF's repository"),
        options.flag("-u --undeleteable --undeletable", "list what can be undeleted instead"),
        options.value("--format", "FORMAT", "text or json", choices=("text", "json")),
    ),
    _list,
)


def _delete(session: Session) -> int:
    """All that can be deleted is, also when another pattern matches nothing."""
    from ch_image.report import Info

    failed = 0
    with session.locked():
        for pattern in session.words:
            found = matching(session, session.storage.images.list(), pattern)
            if not found:
                failed += 1
                session.log.line(f"no matching image, can't delete: {printable(pattern, 300)}")
            for summary in found:
                session.report(Info(f"deleting image: {summary.name}"))
                session.storage.images.delete(summary.file)
    if failed:
        raise NotFound(
            f"unable to delete {failed} image{'s' if failed > 1 else ''}: no such name in storage",
            hint="ch-image list shows what there is",
        )
    return 0


DELETE = options.Command(
    "delete",
    "GLOB...",
    "Takes images from storage; undelete brings them back until build-cache --gc is run.",
    (),
    _delete,
)


def _undelete(session: Session) -> int:
    from ch_image.report import Info

    ref = session.ref(session.words[0])
    with session.locked():
        session.storage.images.undelete(ref)
    session.report(Info(f"undeleted image: {ref}"))
    return 0


UNDELETE = options.Command(
    "undelete",
    "REF",
    "Brings back a deleted image. An image that has its name by now is not replaced.",
    (),
    _undelete,
)


def _tag(session: Session) -> int:
    import time

    source, target = (session.ref(word) for word in session.words)
    with session.locked():
        image = session.storage.images.get(source)
        session.storage.images.put(image._replace(ref=writable(target), created=time.time()))
    return 0


def writable(ref: ImageRef) -> ImageRef:
    """``ref`` if an image may be given that name. Raises UsageError."""
    if ref.digest:
        raise UsageError(
            f"an image cannot be given a digest as its name: {ref}", hint="use a tag instead"
        )
    return ref


TAG = options.Command(
    "tag",
    "SOURCE DESTINATION",
    "Gives an image in storage a further name.",
    (),
    _tag,
)
