"""Manifests and configs from outside: bounded, checked, kept."""

from __future__ import annotations

import json

import pytest

from ch_image.errors import ImageError
from ch_image.model.oci import (
    Index,
    Manifest,
    config_json,
    parse_config,
    parse_json,
    parse_manifest,
)

DIGEST = "sha256:" + "a" * 64
LAYER = {"mediaType": "x", "digest": DIGEST, "size": 3}


def nested(depth: int) -> bytes:
    return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


def test_brackets_in_strings_are_no_depth() -> None:
    text = "[{" * 300 + '\\"'
    assert parse_json(json.dumps({"a": text}).encode(), "it") == {"a": text}


def test_depth_is_bounded() -> None:
    parse_json(nested(100), "it")
    with pytest.raises(ImageError, match="100 levels"):
        parse_json(nested(101), "it")


REFUSED = {
    "not JSON": b"<html>",
    "an array": b"[]",
    "neither layers nor manifests": b"{}",
    "schema 1": b'{"schemaVersion":1,"fsLayers":[]}',
    "no config": json.dumps({"layers": [LAYER]}).encode(),
    "a negative size": json.dumps({"config": LAYER | {"size": -1}, "layers": []}).encode(),
    "a boolean size": json.dumps({"config": LAYER | {"size": True}, "layers": []}).encode(),
    "a path as digest": json.dumps({"config": LAYER | {"digest": "../x"}, "layers": []}).encode(),
    "too large": b'{"a":"' + b"x" * (4 << 20) + b'"}',
    "too many layers": json.dumps({"config": LAYER, "layers": [LAYER] * 10_001}).encode(),
}  # fmt: skip


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_manifest_is_refused(raw: bytes) -> None:
    with pytest.raises(ImageError):
        parse_manifest(raw)


def test_a_digest_of_another_kind_is_refused() -> None:
    layer = LAYER | {"digest": "sha512:" + "f" * 128}
    with pytest.raises(ImageError, match="not a sha256 digest: 'sha512:fff"):
        parse_manifest(json.dumps({"config": LAYER, "layers": [layer]}).encode())


def test_an_index_is_known_by_its_content() -> None:
    raw = json.dumps({"manifests": [LAYER | {"platform": {"os": "linux", "architecture": "arm"}}]})
    found = parse_manifest(raw.encode(), "text/plain")
    assert isinstance(found, Index)
    assert found.entries[0].platform is not None
    assert isinstance(
        parse_manifest(json.dumps({"config": LAYER, "layers": [LAYER]}).encode()), Manifest
    )


def test_a_config_survives_a_round_trip_with_what_we_do_not_know() -> None:
    value = {
        "architecture": "arm64", "os": "linux", "variant": "v8", "author": "me", "created": "t",
        "config": {
            "User": "1:2", "Env": ["A=1", "B="], "Cmd": ["a"], "Entrypoint": [], "Strange": [1],
            "ExposedPorts": {"1/tcp": {}}, "Volumes": {"/v": {}}, "Labels": {"k": "v"},
            "WorkingDir": "/w", "StopSignal": "9", "OnBuild": ["RUN x"], "Shell": ["/bin/sh"],
            "Healthcheck": {"Test": ["CMD", "x"], "Interval": 5, "Retries": 2},
        },
        "history": [{"created_by": "x", "empty_layer": True}],
        "rootfs": {"type": "layers", "diff_ids": [DIGEST]}, "moby.buildkit": {"x": 1},
    }  # fmt: skip
    assert config_json(parse_config(json.dumps(value).encode())) == value
