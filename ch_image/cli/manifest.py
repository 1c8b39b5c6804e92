"""manifest: indexes, which give images for several platforms one name."""

from __future__ import annotations

from collections.abc import Callable

from ch_image.cli import options
from ch_image.cli.session import Session, emit
from ch_image.errors import ImageError, UsageError, printable
from ch_image.model.ref import ImageRef
from ch_image.report import Info
from ch_image.storage.images import Image
from ch_image.storage.indexes import Entry, Indexes


def _manifest(session: Session) -> int:
    verb, *words = session.words
    if verb not in _VERBS:
        hint = options.near(verb, _VERBS) or f"there is {', '.join(_VERBS)}"
        raise UsageError(f"manifest has no '{printable(verb, 60)}'", hint=hint)
    carry_out, least, most, synopsis = _VERBS[verb]
    if not least <= len(words) <= most:
        raise UsageError(f"usage: ch-image manifest {verb} {synopsis}")
    list_ref = session.ref(words[0])
    if verb == "push":
        session.enter(programs=session.names_helpers())  # before threads start
    with session.locked():
        carry_out(session, Indexes(session.storage), list_ref, words[1:])
    return 0


def _create(session: Session, indexes: Indexes, name: ImageRef, words: list[str]) -> None:
    entries: list[Entry] = []
    for word in words:
        entries = _with(entries, _entry(session, word))
    indexes.put(name, entries, new=True)


def _add(session: Session, indexes: Indexes, name: ImageRef, words: list[str]) -> None:
    entries = indexes.get(name)
    for word in words:
        entries = _with(entries, _entry(session, word))
    indexes.put(name, entries)


def _annotate(session: Session, indexes: Indexes, name: ImageRef, words: list[str]) -> None:
    entries = indexes.get(name)
    image = session.ref(words[0]).canonical
    if image not in [entry.image for entry in entries]:
        raise ImageError(f"the index {name} has no image {printable(words[0], 200)}")
    changed = [_changed(session, one) if one.image == image else one for one in entries]
    indexes.put(name, changed)


def _entry(session: Session, word: str) -> Entry:
    image = session.storage.images.get(session.ref(word))
    return _changed(session, Entry(image.ref.canonical))


def _with(entries: list[Entry], entry: Entry) -> list[Entry]:
    return [one for one in entries if one.image != entry.image] + [entry]


def _changed(session: Session, entry: Entry) -> Entry:
    """The entry as ``--os`` and the like want it."""
    from ch_image.model.platforms import parse_platform

    parsed = session.parsed
    if parsed.has("arch"):
        platform = parse_platform(parsed.text("arch"))
        entry = entry._replace(architecture=platform.architecture, variant=platform.variant)
    if parsed.has("platform"):
        platform = parse_platform(parsed.text("platform"))
        entry = entry._replace(
            os=platform.os, architecture=platform.architecture, variant=platform.variant
        )
    entry = entry._replace(os=parsed.text("os", entry.os))
    entry = entry._replace(variant=parsed.text("variant", entry.variant))
    annotations = dict(entry.annotations)
    for text in parsed.texts("annotation"):
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise UsageError(f"--annotation takes NAME=VALUE, not '{printable(text, 100)}'")
        annotations[key] = value
    return entry._replace(annotations=annotations)


def _push(session: Session, indexes: Indexes, name: ImageRef, words: list[str]) -> None:
    from ch_image.cli.network import registries
    from ch_image.cli.push import wishes
    from ch_image.transfer.push_index import push_index

    def find(canonical: str) -> Image:
        return session.storage.images.get(session.ref(canonical))

    target = session.ref(words[0]) if words else name
    push_index(
        indexes.get(name), find, target, session.storage, registries(session),
        wishes(session), session.report,
    )  # fmt: skip


def _inspect(session: Session, indexes: Indexes, name: ImageRef, words: list[str]) -> None:
    for entry in indexes.get(name):
        real = session.storage.images.get(session.ref(entry.image)).config.platform
        parts = (
            entry.os or real.os,
            entry.architecture or real.architecture,
            entry.variant if entry.variant or entry.architecture else real.variant,
        )
        noted = "".join(f"  {n}={v}" for n, v in sorted(entry.annotations.items()))
        emit([printable(f"{'/'.join(filter(None, parts)):<16} {entry.image}{noted}", 1000)])


def _remove(session: Session, indexes: Indexes, name: ImageRef, words: list[str]) -> None:
    indexes.remove(name)
    session.report(Info(f"removed index: {name}"))


_Verb = Callable[[Session, Indexes, ImageRef, list[str]], None]
_MANY = 1000
_VERBS: dict[str, tuple[_Verb, int, int, str]] = {
    "create": (_create, 1, _MANY, "INDEX [IMAGE...]"),
    "add": (_add, 2, _MANY, "INDEX IMAGE..."),
    "annotate": (_annotate, 2, 2, "INDEX IMAGE"),
    "push": (_push, 1, 2, "INDEX [DEST]"),
    "inspect": (_inspect, 1, 1, "INDEX"),
    "rm": (_remove, 1, 1, "INDEX"),
}


def _manifest_options() -> tuple[options.Option, ...]:
    from ch_image.cli.push import COMPRESSION

    return (
        options.value("--os", "OS", "create, add, annotate: the system that the image is for"),
        options.value("--variant", "VARIANT", "likewise, the variant; -a gives the architecture"),
        options.values("--annotation", "NAME=VALUE", "note this beside the image in the index"),
        COMPRESSION,
    )


MANIFEST = options.Command(
    "manifest",
    "create|add|annotate|push|inspect|rm INDEX [IMAGE...]",
    "Gives images for several platforms one name. create makes an index of images in storage, add"
    " adds some, annotate changes what it says of one (-a, --os, --variant, --annotation), push"
    " brings all of them and then the index to a registry.",
    _manifest_options(),
    _manifest,
)
