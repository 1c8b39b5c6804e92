"""Devices of the host by their Container Device Interface specifications, for ch-run.

A vendor's file says what a container needs for a device: mounts, variables, nodes, hooks. We follow
CDI 0.3 to 1.0 (cncf-tags/container-device-interface, SPEC.md) as far as an ordinary user can:
mounts are read-only unless they say otherwise; nodes are there already, for the host's /dev is;
of hooks, those that make links and update the linker's cache are understood by name and done by
us, and no program of the host is ever run. Files are JSON or YAML, in directories whose later
ones win.
"""

from __future__ import annotations

import os

from ch_image.errors import ChError, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ch_image.typed import Any

DIRECTORIES = ("/etc/cdi", "/var/run/cdi")
_MAX_FILE = 4 << 20  # bytes
_MAX_FILES = 1000
_HINT = "see the files in /etc/cdi and /var/run/cdi, or set CDI_SPEC_DIRS"


class Edits:
    """What a container gets: mounts (source, target, read-only), variables, links, libraries."""

    def __init__(self) -> None:
        self.mounts: list[tuple[str, str, bool]] = []
        self.env: list[str] = []
        self.links: list[tuple[str, str]] = []  # (path, what it names)
        self.libraries: list[str] = []  # directories for the linker's cache
        self.ignored: list[str] = []  # what was asked for and is not done

    def add(self, edits: Any, where: str) -> None:
        """Take a ``containerEdits`` object. Raises ChError."""
        edits = _object(edits, where)
        for item in _list(edits, "env", where):
            if not isinstance(item, str) or "=" not in item or item.startswith("="):
                raise _damaged(where, "env")
            self.env.append(item)
        for item in _list(edits, "mounts", where):
            self._mount(_object(item, where), where)
        for item in _list(edits, "deviceNodes", where):
            self._node(_object(item, where), where)
        for item in _list(edits, "hooks", where):
            self._hook(_object(item, where), where)
        self.ignored += [f"{key} of {where}" for key in _NOT_OURS if edits.get(key)]

    def _mount(self, mount: dict[str, Any], where: str) -> None:
        source, target = _path(mount, "hostPath", where), _path(mount, "containerPath", where)
        choices = [text for text in _list(mount, "options", where) if isinstance(text, str)]
        if mount.get("type", "bind") not in ("", "bind", "none"):
            self.ignored.append(f"mount of type {mount['type']} on {target}")
            return
        self.mounts.append((source, target, "rw" not in choices))

    def _node(self, node: dict[str, Any], where: str) -> None:
        target = _path(node, "path", where)
        source = node.get("hostPath") or target
        if not isinstance(source, str) or not source.startswith("/"):
            raise _damaged(where, "hostPath")
        if source != target or not target.startswith("/dev/"):
            self.mounts.append((source, target, False))
        elif not os.path.exists(source):
            raise ChError(f"--device: no {printable(source, 200)} on this host (from {where})")

    def _hook(self, hook: dict[str, Any], where: str) -> None:
        words = [str(word) for word in _list(hook, "args", where)]
        name = next((w for w in words if w in _HOOKS), "")
        if not name:
            program = hook.get("path", "")
            self.ignored.append(f"hook {' '.join([str(program), *words[1:]])}")
            return
        values = list(_values(words, _HOOKS[name]))
        if name == "update-ldcache":
            self.libraries += values
            return
        for value in values:
            target, separator, path = value.partition("::")
            if not separator or not path.startswith("/"):
                raise _damaged(where, "--link")
            self.links.append((path, target))


_NOT_OURS = ("additionalGids", "intelRdt", "netDevices")  # only root can give these
_HOOKS = {"update-ldcache": "--folder", "create-symlinks": "--link"}


def _values(words: list[str], option: str) -> Iterable[str]:
    for at, word in enumerate(words):
        if word == option and at + 1 < len(words):
            yield words[at + 1]
        elif word.startswith(f"{option}="):
            yield word.partition("=")[2]


def directories(env: Mapping[str, str]) -> tuple[str, ...]:
    """Where specifications are looked for, the most important last."""
    given = env.get("CDI_SPEC_DIRS", "")
    return tuple(d for d in given.split(":") if d) if given else DIRECTORIES


def edits(names: Iterable[str], places: Iterable[str]) -> Edits:
    """What the devices ``vendor.com/class=name`` need; ``=all`` stands for all of a kind.

    Raises ChError.
    """
    out = Edits()
    specs = [spec for place in reversed(tuple(places)) for spec in _read_all(place, out.ignored)]
    damaged = out.ignored[:1]
    general: set[str] = set()
    for name in names:
        kind, equals, device = name.partition("=")
        if not equals or not device or "/" not in kind:
            raise ChError(
                f"--device takes VENDOR/CLASS=NAME, not '{printable(name, 100)}'",
                hint="for example: --device nvidia.com/gpu=all",
            )
        found = _find(specs, kind, device)
        if not found:
            about = f" ({damaged[0]})" if damaged else ""
            raise ChError(f"no device {printable(name, 100)}{about}", hint=_near(specs, kind))
        for path, spec, entry in found:
            if path not in general:
                general.add(path)
                out.add(spec.get("containerEdits") or {}, path)
            out.add(entry.get("containerEdits") or {}, path)
    return out


def _find(
    specs: list[tuple[str, dict[str, Any]]], kind: str, device: str
) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    out: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {}
    for path, spec in specs:
        if spec.get("kind") != kind:
            continue
        for item in _list(spec, "devices", path):
            entry = _object(item, path)
            if device in (entry.get("name"), "all"):
                out.setdefault(str(entry.get("name")), (path, spec, entry))
    if device == "all":
        if len(out) > 1:
            out.pop("all", None)  # the vendor's own name for the others
    elif device in out:
        return [out[device]]
    return list(out.values())


def _near(specs: list[tuple[str, dict[str, Any]]], kind: str) -> str:
    same = [spec for _, spec in specs if spec.get("kind") == kind]
    known = [f"{kind}={e.get('name')}" for s in same for e in s.get("devices", []) if e]
    if not known:
        known = sorted({str(spec.get("kind")) for _, spec in specs})
    return f"there is {printable(', '.join(known), 300)}" if known else _HINT


def _read_all(place: str, damaged: list[str]) -> list[tuple[str, dict[str, Any]]]:
    """The files of a directory; one that is damaged is told, for it may be another vendor's."""
    try:
        names = sorted(os.listdir(place))[:_MAX_FILES]
    except OSError:
        return []
    names = [n for n in names if n.endswith((".json", ".yaml", ".yml")) and n[0] != "."]
    out = []
    for name in names:
        try:
            out.append((f"{place}/{name}", _read(f"{place}/{name}")))
        except ChError as error:
            damaged.append(str(error))
    return out


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise ChError(f"can't read {printable(path, 300)}: {error.strerror}") from None
    if len(data) > _MAX_FILE:
        raise ChError(f"too large for a CDI specification: {printable(path, 300)}")
    if path.endswith(".json"):
        import json

        try:
            return _object(json.loads(data), path)
        except (ValueError, RecursionError) as error:
            raise ChError(f"no CDI specification: {printable(path, 300)}: {error}") from None
    from ch_image.model.yaml_file import parse_yaml

    return _object(parse_yaml(data, path), path)


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _damaged(where, "an object")
    return value


def _list(value: dict[str, Any], key: str, where: str) -> list[Any]:
    found = value.get(key) or []
    if not isinstance(found, list):
        raise _damaged(where, key)
    return found


def _path(value: dict[str, Any], key: str, where: str) -> str:
    found = value.get(key)
    if not isinstance(found, str) or not found.startswith("/") or "\0" in found:
        raise _damaged(where, key)
    return found


def _damaged(where: str, what: str) -> ChError:
    return ChError(f"no CDI specification: {printable(where, 300)}: {what} is not as it must be")
