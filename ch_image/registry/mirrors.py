"""Mirrors, other locations and insecure registries: containers-registries.conf(5), version 2.

Takes the text of the file; who reads which file is the command line's business.
"""

from __future__ import annotations

from collections.abc import Mapping

from ch_image.errors import RegistryError, printable
from ch_image.model.ref import DOCKER_HUB
from ch_image.typed import Any, NamedTuple

_HUB_NAMES = ("docker.io", "index.docker.io", DOCKER_HUB)


class Endpoint(NamedTuple):
    """A repository on a server."""

    registry: str
    repository: str
    insecure: bool = False
    is_mirror: bool = False


class _Mirror(NamedTuple):
    location: str  # HOST[:PORT][/PATH]
    insecure: bool
    digests: bool  # serves what is asked for by digest
    tags: bool


class _Rule(NamedTuple):
    prefix: str  # HOST[:PORT][/PATH], or *.DOMAIN
    location: str  # what replaces the prefix; empty: nothing does
    insecure: bool
    blocked: bool
    mirrors: tuple[_Mirror, ...]


class Mirrors:
    """What to do for which names."""

    def __init__(self, rules: tuple[_Rule, ...] = ()) -> None:
        self._rules = sorted(rules, key=lambda rule: -len(rule.prefix))

    def endpoints(self, registry: str, repository: str, by_digest: bool) -> list[Endpoint]:
        """Where a repository is to be looked for; the last is no mirror.

        Raises RegistryError when the registry is blocked.
        """
        host = "docker.io" if registry in _HUB_NAMES else registry
        full = f"{host}/{repository}"
        rule = next((r for r in self._rules if _covers(r.prefix, full)), None)
        if rule is None:
            return [Endpoint(registry, repository)]
        if rule.blocked:
            raise RegistryError(
                f"registries.conf blocks {printable(rule.prefix)}",
                hint="take 'blocked = true' out of registries.conf, or use another registry",
            )
        found = [
            _endpoint(rule.prefix, m.location, full, m.insecure, True)
            for m in rule.mirrors
            if (m.digests if by_digest else m.tags)
        ]
        found.append(_endpoint(rule.prefix, rule.location, full, rule.insecure, False))
        return found


def _covers(prefix: str, full: str) -> bool:
    if prefix.startswith("*."):
        return full.partition("/")[0].partition(":")[0].endswith(prefix[1:])
    return full == prefix or full.startswith(prefix + "/")


def _endpoint(prefix: str, location: str, full: str, insecure: bool, mirror: bool) -> Endpoint:
    if not location:
        moved = full
    elif prefix.startswith("*."):
        moved = f"{location}/{full.partition('/')[2]}"
    else:
        moved = location + full[len(prefix) :]
    registry, _, repository = moved.partition("/")
    return Endpoint(
        DOCKER_HUB if registry in _HUB_NAMES else registry, repository, insecure, mirror
    )


def parse_registries_conf(text: str, path: str) -> Mirrors:
    """What a registries.conf says. Raises RegistryError where it cannot be meant."""
    import tomllib

    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RegistryError(f"{path}: {error}") from None
    tables = value.get("registry", [])
    if not isinstance(tables, list):
        raise RegistryError(f"{path}: 'registry' must be written as [[registry]]")
    return Mirrors(tuple(_rule(table, path) for table in tables if isinstance(table, dict)))


def _text(table: Mapping[str, Any], key: str, path: str) -> str:
    value = table.get(key, "")
    if not isinstance(value, str) or any(c in value for c in "@?# \n"):
        raise RegistryError(
            f"{path}: {key} = {printable(repr(value), 100)} is not HOST[:PORT]/PATH"
        )
    return value.rstrip("/")


def _rule(table: Mapping[str, Any], path: str) -> _Rule:
    location, prefix = _text(table, "location", path), _text(table, "prefix", path)
    if not location and not prefix:
        raise RegistryError(f"{path}: a [[registry]] has neither prefix nor location")
    only_digests = bool(table.get("mirror-by-digest-only"))
    mirrors: list[_Mirror] = []
    listed = table.get("mirror", [])
    for mirror in listed if isinstance(listed, list) else []:
        if not isinstance(mirror, dict):
            continue
        what = mirror.get("pull-from-mirror") or ("digest-only" if only_digests else "all")
        mirrors.append(
            _Mirror(
                _text(mirror, "location", path),
                bool(mirror.get("insecure")),
                what in ("all", "digest-only"),
                what in ("all", "tag-only"),
            )
        )
    return _Rule(
        prefix or location,
        location,
        bool(table.get("insecure")),
        bool(table.get("blocked")),
        tuple(m for m in mirrors if m.location),
    )


def parse_mirror_variable(text: str) -> Mirrors:
    """``CH_IMAGE_REGISTRY_MIRROR``: ``[REGISTRY=]HOST[:PORT][/PATH]``, several by commas.

    Without REGISTRY, Docker Hub is mirrored. Raises RegistryError.
    """
    table: dict[str, list[_Mirror]] = {}
    for item in text.replace(" ", ",").split(","):
        if not item:
            continue
        name, equals, location = item.rpartition("=")
        words = {"name": name if equals else "docker.io", "location": location}
        where = "CH_IMAGE_REGISTRY_MIRROR"
        prefix, target = _text(words, "name", where), _text(words, "location", where)
        table.setdefault(prefix, []).append(_Mirror(target, False, True, True))
    return Mirrors(
        tuple(_Rule(name, "", False, False, tuple(mirrors)) for name, mirrors in table.items())
    )
