"""``RUN --mount``: its options as written, and what they mean once expanded.

The rules are those of BuildKit's ``instructions/commands_runmount.go``. Where a mount's data
comes from, and how it is mounted, is the builder's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ch_image.dockerfile.ast import Mount, MountOption, Span, Word
from ch_image.dockerfile.flags import traced
from ch_image.dockerfile.lines import cut
from ch_image.dockerfile.suggest import did_you_mean
from ch_image.errors import DockerfileError, printable
from ch_image.regex import regex
from ch_image.typed import NamedTuple, Protocol

TYPES = ("bind", "cache", "tmpfs", "secret", "ssh")
SHARING = ("shared", "private", "locked")
_OWNERS = ("mode", "uid", "gid")
_KEYS = (
    *("type", "from", "source", "target", "readonly", "id", "sharing", "required", "size", "env"),
    *_OWNERS,
    *("src", "dst", "destination", "ro", "rw", "readwrite"),
)
_SYNONYMS = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}
_BARE = ("readonly", "ro", "readwrite", "rw", "required")
_TRUE, _FALSE = ("1", "t", "T", "TRUE", "true", "True"), ("0", "f", "F", "FALSE", "false", "False")
_SIZE = regex(r"(?ai)([0-9]+(?:\.[0-9]*)?) ?(?:([kmgtp])(?:i?b)?|b)?\Z")


class ResolvedMount(NamedTuple):
    """One mount with all its values; ``type`` is one of `TYPES`.

    ``size`` is in bytes, 0 without a limit. ``env`` is None when it is not asked for, and may be
    empty for "the variable named like the secret". ``sharing`` is empty when it is not given.
    """

    type: str
    span: Span
    from_: str = ""
    source: str = ""
    target: str = ""
    readonly: bool = True
    size: int = 0
    id: str = ""
    sharing: str = ""
    required: bool = False
    env: str | None = None
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None


class Faults(Protocol):
    """What can make an error that points at a place: a Reader, or a Dockerfile."""

    def fault(self, span: Span, message: str, *, hint: str = "") -> DockerfileError: ...


def read_mount(faults: Faults, word: Word) -> Mount:
    """The value of one ``--mount``, split at its commas; keys are checked, values are not yet."""
    options = []
    for field in _fields(faults, word):
        equals = field.text.find("=")
        key = (field.text if equals < 0 else field.text[:equals]).lower()
        value = None if equals < 0 else cut(field, equals + 1, len(field.text))
        place = field.span if equals < 0 else field.at(0, min(equals, field.span.length))
        if key not in _KEYS:
            shown = printable(key, 60)
            hint = did_you_mean(key, _KEYS)
            raise faults.fault(place, f'"{shown}" is no option of --mount', hint=hint)
        if value is None and key not in _BARE:
            raise faults.fault(place, f'"{key}" needs a value', hint=f"write {key}=VALUE")
        if key == "from" and value and "$" in value.text[:-1]:
            hint = "give the image a stage of its own, FROM ... AS NAME, and name that"
            raise faults.fault(value.span, "from= of a mount takes no variables", hint=hint)
        options.append(MountOption(key, value, place))
    return Mount(word.span, tuple(options))


def resolve_mount(faults: Faults, mount: Mount, expand: Callable[[Word], str]) -> ResolvedMount:
    """What ``mount`` asks for, its values expanded by ``expand``. Raises DockerfileError."""
    found = ResolvedMount("bind", mount.span)
    given: dict[str, MountOption] = {}
    for option in mount.options:
        value = None if option.value is None else expand(option.value)
        key = _SYNONYMS.get(option.key, option.key)
        given[key] = option
        place = option.value.span if option.value and option.value.text else option.span
        found = _with_option(faults, found, place, key, value)
    _check(faults, found, given)
    if not {"readonly", "rw", "readwrite"} & given.keys():
        found = found._replace(readonly=found.type not in ("cache", "tmpfs"))
    return found


def static(mount: Mount) -> bool:
    """Whether the mount has no variables and no escapes, so that it can be judged at once."""
    return not any(
        option.value and any(char in option.value.text for char in "$\\`'\"")
        for option in mount.options
    )


def _with_option(
    faults: Faults, found: ResolvedMount, place: Span, key: str, value: str | None
) -> ResolvedMount:
    text = value or ""
    if key == "type":
        kind = text.lower()
        if kind not in TYPES:
            message = f'there is no mount of type "{printable(text, 60)}"'
            raise faults.fault(place, message, hint=did_you_mean(text, TYPES))
        return found._replace(type=kind)
    if key in ("readonly", "readwrite", "rw"):
        on = _boolean(faults, place, key, value)
        return found._replace(readonly=on if key == "readonly" else not on)
    if key == "required":
        if found.type not in ("secret", "ssh"):
            raise _misplaced(faults, place, key, found.type, "secret and ssh")
        return found._replace(required=_boolean(faults, place, key, value))
    if key == "size":
        if found.type != "tmpfs":
            raise _misplaced(faults, place, key, found.type, "tmpfs")
        return found._replace(size=_size(faults, place, text))
    if key == "sharing":
        if text.lower() not in SHARING:
            message = f'there is no sharing mode "{printable(text, 60)}"'
            raise faults.fault(place, message, hint=did_you_mean(text, SHARING))
        return found._replace(sharing=text.lower())
    if key == "mode":
        return found._replace(mode=_number(faults, place, key, text, 8))
    if key == "uid":
        return found._replace(uid=_number(faults, place, key, text, 10))
    if key == "gid":
        return found._replace(gid=_number(faults, place, key, text, 10))
    if key == "from":
        return found._replace(from_=text)
    if key == "source":
        return found._replace(source=text)
    if key == "target":
        return found._replace(target=text)
    return found._replace(id=text) if key == "id" else found._replace(env=text)


def _check(faults: Faults, found: ResolvedMount, given: dict[str, MountOption]) -> None:
    """Refuse options that do not go together."""
    if found.type not in ("secret", "ssh", "cache"):
        for key in _OWNERS:
            if key in given:
                raise _misplaced(faults, given[key].span, key, found.type, "cache, secret and ssh")
    if found.sharing and found.type != "cache":
        raise _misplaced(faults, given["sharing"].span, "sharing", found.type, "cache")
    if found.type != "secret":
        return
    if found.from_:
        raise _misplaced(faults, given["from"].span, "from", "secret", "bind and cache")
    if not (found.source or found.target or found.id):
        hint = "name it with id=NAME, or say where it goes with target=PATH"
        raise faults.fault(found.span, "a secret mount needs an id or a target", hint=hint)
    if found.source and found.id:
        raise faults.fault(given["source"].span, "a secret has an id or a source, not both")


def _misplaced(faults: Faults, span: Span, key: str, kind: str, where: str) -> DockerfileError:
    hint = f"{key} is for {where} mounts, and stands behind their type="
    return faults.fault(span, f"a {kind} mount takes no {key}", hint=hint)


def _boolean(faults: Faults, place: Span, key: str, value: str | None) -> bool:
    if value is None or value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise faults.fault(place, f'{key} is true or false, not "{printable(value, 60)}"')


def _number(faults: Faults, place: Span, key: str, text: str, base: int) -> int:
    digits = "01234567" if base == 8 else "0123456789"
    if text and len(text) < 20 and not text.strip(digits):
        number = int(text, base)
        if number < 1 << 32:
            return number
    kind = "an octal number" if base == 8 else "a number"
    raise faults.fault(place, f'{key} is {kind}, not "{printable(text, 60)}"')


def _size(faults: Faults, place: Span, text: str) -> int:
    found = _SIZE.match(text)
    if not found:
        hint = "write a number of bytes, or one with k, m, g, t or p behind it"
        raise faults.fault(place, f'"{printable(text, 60)}" is no size', hint=hint)
    shift = 10 * " kmgtp".index((found.group(2) or " ").lower())
    return int(float(found.group(1)) * (1 << shift))


def _fields(faults: Faults, word: Word) -> Iterator[Word]:
    """``word`` split as one line of CSV: a field in double quotes may hold commas."""
    text, start = word.text, 0
    if not text:
        raise faults.fault(word.span, "--mount needs a value", hint="write --mount=type=TYPE,...")
    while True:
        if not text.startswith('"', start):
            stop = text.find(",", start)
            stop = len(text) if stop < 0 else stop
            quote = text.find('"', start, stop)
            if quote >= 0:
                hint = 'put the whole field into quotes: "key=value"'
                raise faults.fault(word.at(quote), "there is a quote inside a field", hint=hint)
            yield cut(word, start, stop)
        else:
            kept: list[tuple[str, int]] = []
            stop = start + 1
            while stop < len(text) and (text[stop] != '"' or text.startswith('""', stop)):
                kept.append((text[stop], stop))
                stop += 2 if text[stop] == '"' else 1
            if stop >= len(text):
                raise faults.fault(word.at(start), "the closing double quote is missing")
            stop += 1
            if stop < len(text) and text[stop] != ",":
                raise faults.fault(word.at(stop), "a comma must follow a quoted field")
            yield traced(word, kept)
        if stop >= len(text):
            return
        start = stop + 1
