"""Manifests, indexes and image configs (OCI image-spec 1.1, Docker schema 2).

Bytes are kept beside what was parsed from them, for a digest is of bytes. Unknown keys survive a
round trip.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from ch_image.errors import ImageError
from ch_image.model.digest import DiffId, Digest, parse_digest
from ch_image.model.platforms import Platform
from ch_image.regex import regex
from ch_image.typed import Any, NamedTuple

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_SQUASHFS = "application/vnd.oci.image.layer.squashfs"  # in use, and in no specification
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_SCHEMA1 = (
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)
MAX_DOCUMENT = 4 << 20  # bytes of a manifest, index or config
MAX_LAYERS = 10_000
MAX_ENTRIES = 10_000
MAX_DEPTH = 100
_BRACKETS = regex(rb'(?s)"(?:[^"\\]|\\.)*"|[][{}]')  # strings whole, to skip them


def parse_json(raw: bytes, what: str) -> dict[str, Any]:
    """A JSON object of bounded size and depth. Raises ImageError."""
    if len(raw) > MAX_DOCUMENT:
        raise ImageError(f"{what} is larger than {MAX_DOCUMENT >> 20} MiB")
    if _too_deep(raw):
        raise ImageError(f"{what} is nested more than {MAX_DEPTH} levels deep")
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{what} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ImageError(f"{what} is not a JSON object")
    return value


def _too_deep(raw: bytes) -> bool:
    """Whether brackets outside of strings nest deeper than MAX_DEPTH."""
    if raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH:
        return False
    depth = 0
    for token in _BRACKETS.finditer(raw):
        byte = token[0][:1]
        if byte in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif byte in b"]}":
            depth -= 1
    return False


def canonical_json(value: object) -> bytes:
    """The one byte string of a JSON value: sorted keys, no blanks, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "surrogateescape"
    )


class Descriptor(NamedTuple):
    """A pointer to content by digest and size (bytes)."""

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    annotations: Mapping[str, str] = {}

    def to_json(self) -> dict[str, Any]:
        """As it stands in a manifest."""
        out: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": self.size,
        }
        if self.platform:
            out["platform"] = platform_json(self.platform)
        if self.annotations:
            out["annotations"] = dict(self.annotations)
        return out


class Manifest(NamedTuple):
    """One image for one platform."""

    raw: bytes
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str]


class Index(NamedTuple):
    """Several manifests under one name; entries may be indexes themselves."""

    raw: bytes
    media_type: str
    entries: tuple[Descriptor, ...]
    annotations: Mapping[str, str]


def platform_json(platform: Platform) -> dict[str, str]:
    """As it stands in a descriptor."""
    out = {"architecture": platform.architecture, "os": platform.os}
    return out | ({"variant": platform.variant} if platform.variant else {})


def _platform(value: Any) -> Platform | None:
    if not isinstance(value, dict):
        return None
    parts = (value.get("os"), value.get("architecture"), value.get("variant") or "")
    return Platform(*(str(part or "") for part in parts))


def _strings(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        return {}
    return {str(k): str(v) for k, v in value.items()}


def parse_descriptor(value: Any, what: str) -> Descriptor:
    """A checked descriptor. Raises ImageError."""
    if not isinstance(value, dict):
        raise ImageError(f"{what} is not an object")
    size = value.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 62:
        raise ImageError(f"{what} has no valid size")
    return Descriptor(
        str(value.get("mediaType") or ""),
        parse_digest(value.get("digest")),
        size,
        _platform(value.get("platform")),
        _strings(value.get("annotations")),
    )


def parse_manifest(raw: bytes, content_type: str = "") -> Manifest | Index:
    """A manifest or an index, told apart by content where types are wrong. Raises ImageError."""
    value = parse_json(raw, "manifest")
    media_type = value.get("mediaType") or content_type.partition(";")[0].strip()
    if value.get("schemaVersion") == 1 or "fsLayers" in value:
        raise ImageError(
            "the registry holds this image only as Docker schema 1, which has no digests to check",
            hint="pull and push it once with a newer tool to convert it",
        )
    if isinstance(value.get("manifests"), list) and ("layers" in value or "config" in value):
        raise ImageError(
            "the manifest is an index as well, so that tools would take it differently"
        )
    if isinstance(value.get("manifests"), list):
        entries = value["manifests"]
        if len(entries) > MAX_ENTRIES:
            raise ImageError(f"the index has more than {MAX_ENTRIES} entries")
        if media_type not in (OCI_INDEX, DOCKER_LIST):
            media_type = OCI_INDEX
        found = tuple(
            parse_descriptor(entry, f"entry {n} of the index") for n, entry in enumerate(entries)
        )
        return Index(raw, media_type, found, _strings(value.get("annotations")))
    layers = value.get("layers")
    if not isinstance(layers, list) or "config" not in value:
        raise ImageError("the manifest has neither layers nor a list of manifests")
    if len(layers) > MAX_LAYERS:
        raise ImageError(f"the manifest has more than {MAX_LAYERS} layers")
    if media_type not in (OCI_MANIFEST, DOCKER_MANIFEST):
        media_type = OCI_MANIFEST
    return Manifest(
        raw,
        media_type,
        parse_descriptor(value["config"], "the config's descriptor"),
        tuple(parse_descriptor(layer, f"layer {n}") for n, layer in enumerate(layers, 1)),
        _strings(value.get("annotations")),
    )


class Healthcheck(NamedTuple):
    """``Healthcheck`` of a config; durations in nanoseconds, 0 inherits."""

    test: tuple[str, ...]
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class RunConfig(NamedTuple):
    """The ``config`` object of an image: how a container of it starts."""

    user: str = ""
    exposed_ports: tuple[str, ...] = ()
    env: tuple[str, ...] = ()  # "NAME=value", in order of definition
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    volumes: tuple[str, ...] = ()
    working_dir: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    stop_signal: str = ""
    healthcheck: Healthcheck | None = None
    on_build: tuple[str, ...] = ()
    shell: tuple[str, ...] | None = None
    extra: Mapping[str, Any] = {}  # keys we do not know, kept

    def environment(self) -> dict[str, str]:
        """``env`` as a mapping."""
        return dict(item.partition("=")[::2] for item in self.env)

    def with_env(self, name: str, value: str) -> RunConfig:
        """``name`` set: in its old place when it was there, else at the end."""
        item = f"{name}={value}"
        out = [item if old.partition("=")[0] == name else old for old in self.env]
        return self._replace(env=tuple(out if item in out else [*out, item]))


class History(NamedTuple):
    """One line of an image's history."""

    created: str = ""
    created_by: str = ""
    comment: str = ""
    author: str = ""
    empty_layer: bool = False


class ImageConfig(NamedTuple):
    """An image config. ``diff_ids`` is empty while an image's own layers are not yet digested."""

    platform: Platform
    config: RunConfig = RunConfig()
    created: str = ""  # RFC 3339
    author: str = ""
    history: tuple[History, ...] = ()
    diff_ids: tuple[DiffId, ...] = ()
    extra: Mapping[str, Any] = {}


_KNOWN_RUN = {
    "User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels",
    "StopSignal", "Healthcheck", "OnBuild", "Shell",
}  # fmt: skip
_KNOWN = {
    "architecture", "os", "variant", "config", "created", "author", "history", "rootfs",
}  # fmt: skip
_DROPPED = {"container", "container_config", "id", "parent", "docker_version", "Size"}


def _words(value: Any) -> tuple[str, ...] | None:
    return tuple(str(v) for v in value) if isinstance(value, list) else None


def _run_config(value: Mapping[str, Any]) -> RunConfig:
    health = value.get("Healthcheck")
    return RunConfig(
        user=str(value.get("User") or ""),
        exposed_ports=tuple(_mapping(value.get("ExposedPorts"))),
        env=_words(value.get("Env")) or (),
        entrypoint=_words(value.get("Entrypoint")),
        cmd=_words(value.get("Cmd")),
        volumes=tuple(_mapping(value.get("Volumes"))),
        working_dir=str(value.get("WorkingDir") or ""),
        labels=tuple(_strings(value.get("Labels")).items()),
        stop_signal=str(value.get("StopSignal") or ""),
        healthcheck=_healthcheck(health) if isinstance(health, dict) else None,
        on_build=_words(value.get("OnBuild")) or (),
        shell=_words(value.get("Shell")),
        extra={k: v for k, v in value.items() if k not in _KNOWN_RUN},
    )


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _healthcheck(value: Mapping[str, Any]) -> Healthcheck:
    names = ("Interval", "Timeout", "StartPeriod", "StartInterval", "Retries")
    return Healthcheck(_words(value.get("Test")) or (), *(_number(value.get(n)) for n in names))


def parse_config(raw: bytes) -> ImageConfig:
    """An image config from a registry or an archive. Raises ImageError."""
    value = parse_json(raw, "image config")
    rootfs = _mapping(value.get("rootfs"))
    ids = rootfs.get("diff_ids")
    history = value.get("history")
    platform = _platform(value)
    return ImageConfig(
        platform=platform or Platform("linux", "amd64"),
        config=_run_config(_mapping(value.get("config"))),
        created=str(value.get("created") or ""),
        author=str(value.get("author") or ""),
        history=tuple(
            History(
                str(h.get("created") or ""),
                str(h.get("created_by") or ""),
                str(h.get("comment") or ""),
                str(h.get("author") or ""),
                bool(h.get("empty_layer")),
            )
            for h in (history if isinstance(history, list) else [])
            if isinstance(h, dict)
        ),
        diff_ids=tuple(DiffId(parse_digest(i)) for i in (ids if isinstance(ids, list) else [])),
        extra={k: v for k, v in value.items() if k not in _KNOWN | _DROPPED},
    )


def _run_json(config: RunConfig) -> dict[str, Any]:
    out: dict[str, Any] = dict(config.extra)
    if config.user:
        out["User"] = config.user
    if config.exposed_ports:
        out["ExposedPorts"] = {port: {} for port in sorted(config.exposed_ports)}
    if config.env:
        out["Env"] = list(config.env)
    if config.entrypoint is not None:
        out["Entrypoint"] = list(config.entrypoint)
    if config.cmd is not None:
        out["Cmd"] = list(config.cmd)
    if config.volumes:
        out["Volumes"] = {path: {} for path in sorted(config.volumes)}
    if config.working_dir:
        out["WorkingDir"] = config.working_dir
    if config.labels:
        out["Labels"] = dict(sorted(config.labels))
    if config.stop_signal:
        out["StopSignal"] = config.stop_signal
    if config.healthcheck is not None:
        health = config.healthcheck
        values = {
            "Test": list(health.test),
            "Interval": health.interval,
            "Timeout": health.timeout,
            "StartPeriod": health.start_period,
            "StartInterval": health.start_interval,
            "Retries": health.retries,
        }
        out["Healthcheck"] = {key: value for key, value in values.items() if value}
    if config.on_build:
        out["OnBuild"] = list(config.on_build)
    if config.shell is not None:
        out["Shell"] = list(config.shell)
    return out


def config_json(config: ImageConfig) -> dict[str, Any]:
    """The image config as a JSON value, keys in the order Docker writes them."""
    out: dict[str, Any] = dict(config.extra)
    out["architecture"] = config.platform.architecture
    if config.author:
        out["author"] = config.author
    out["config"] = _run_json(config.config)
    if config.created:
        out["created"] = config.created
    out["history"] = [
        {
            key: value
            for key, value in zip(
                ("created", "created_by", "comment", "author", "empty_layer"), entry, strict=True
            )
            if value
        }
        for entry in config.history
    ]
    out["os"] = config.platform.os
    out["rootfs"] = {"type": "layers", "diff_ids": list(config.diff_ids)}
    if config.platform.variant:
        out["variant"] = config.platform.variant
    return out
