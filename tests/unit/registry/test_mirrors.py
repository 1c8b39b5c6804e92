"""registries.conf and CH_IMAGE_REGISTRY_MIRROR: where a name leads."""

from __future__ import annotations

import pytest

from ch_image.errors import RegistryError
from ch_image.registry.mirrors import Mirrors, parse_mirror_variable, parse_registries_conf

CONF = """
unqualified-search-registries = ["docker.io"]

[[registry]]
prefix = "docker.io"
location = "docker.io"
[[registry.mirror]]
location = "cache.example:5000/hub"
insecure = true
[[registry.mirror]]
location = "digests.example"
pull-from-mirror = "digest-only"

[[registry]]
prefix = "moved.example/old"
location = "new.example/path"

[[registry]]
prefix = "moved.example/old/deeper"
location = "deeper.example"
insecure = true

[[registry]]
prefix = "*.wild.example"
location = "tame.example/all"

[[registry]]
location = "bad.example"
blocked = true

[[registry]]
location = "careful.example"
mirror-by-digest-only = true
[[registry.mirror]]
location = "mirror.example"
"""


def places(mirrors: Mirrors, name: str, by_digest: bool = False) -> list[str]:
    registry, _, repository = name.partition("/")
    return [
        f"{e.registry}/{e.repository}" + (" insecure" if e.insecure else "")
        for e in mirrors.endpoints(registry, repository, by_digest)
    ]


@pytest.mark.parametrize(
    ("name", "by_digest", "expected"),
    [
        ("other.example/app", False, ["other.example/app"]),
        ("registry-1.docker.io/library/debian", False,
         ["cache.example:5000/hub/library/debian insecure", "registry-1.docker.io/library/debian"]),
        ("registry-1.docker.io/library/debian", True,
         ["cache.example:5000/hub/library/debian insecure", "digests.example/library/debian",
          "registry-1.docker.io/library/debian"]),
        ("moved.example/old/app", False, ["new.example/path/app"]),
        ("moved.example/older/app", False, ["moved.example/older/app"]),
        ("moved.example/old/deeper/app", False, ["deeper.example/app insecure"]),
        ("a.b.wild.example/x/y", False, ["tame.example/all/x/y"]),
        ("wild.example/x", False, ["wild.example/x"]),
        ("careful.example/app", False, ["careful.example/app"]),
        ("careful.example/app", True, ["mirror.example/app", "careful.example/app"]),
    ],
)  # fmt: skip
def test_a_name_leads_where_the_file_says(name: str, by_digest: bool, expected: list[str]) -> None:
    assert places(parse_registries_conf(CONF, "registries.conf"), name, by_digest) == expected


def test_a_blocked_registry_is_refused() -> None:
    with pytest.raises(RegistryError, match="blocks bad.example"):
        places(parse_registries_conf(CONF, "registries.conf"), "bad.example/app")


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("", "r.example/app", ["r.example/app"]),
        ("cache.example", "registry-1.docker.io/library/x",
         ["cache.example/library/x", "registry-1.docker.io/library/x"]),
        ("cache.example", "r.example/app", ["r.example/app"]),
        ("r.example=127.0.0.1:5000/r, r.example=second.example", "r.example/app",
         ["127.0.0.1:5000/r/app", "second.example/app", "r.example/app"]),
    ],
)  # fmt: skip
def test_the_variable_names_mirrors(text: str, name: str, expected: list[str]) -> None:
    assert places(parse_mirror_variable(text), name) == expected


@pytest.mark.parametrize(
    "text",
    ["[[registry", "registry = 3", "[[registry]]\ninsecure = true",
     "[[registry]]\nlocation = 3", '[[registry]]\nlocation = "a b"'],
)  # fmt: skip
def test_a_file_that_cannot_be_meant_is_named(text: str) -> None:
    with pytest.raises(RegistryError, match="some.conf"):
        parse_registries_conf(text, "some.conf")
