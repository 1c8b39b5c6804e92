"""Image references, as distribution/reference reads them."""

from __future__ import annotations

import pytest

from ch_image.errors import ImageError
from ch_image.model.platforms import Platform, parse_platform
from ch_image.model.ref import DOCKER_HUB, DefaultRegistry, parse_ref

SHA = "sha256:" + "0" * 64
PARSED = {
    "debian": (DOCKER_HUB, "library/debian", "latest", None),
    "debian:12": (DOCKER_HUB, "library/debian", "12", None),
    "docker.io/debian": (DOCKER_HUB, "library/debian", "latest", None),
    "a/b": (DOCKER_HUB, "a/b", "latest", None),
    "localhost/x": ("localhost", "x", "latest", None),
    "h.example/x:T_1.2-3": ("h.example", "x", "T_1.2-3", None),
    "h:5000/a/b/c:t": ("h:5000", "a/b/c", "t", None),
    "[::1]:5000/a": ("[::1]:5000", "a", "latest", None),
    f"debian@{SHA}": (DOCKER_HUB, "library/debian", "", SHA),
    f"h.example/x:t@{SHA}": ("h.example", "x", "t", SHA),
    "a__b/c-d---e.f": (DOCKER_HUB, "a__b/c-d---e.f", "latest", None),
}
REFUSED = [
    "", ".", "..", "/", "a/", "/a", "a//b", "A", "a:", "a:b:c", "a@sha256:0", "a@" + SHA[:-1],
    "a b", "a\nb", "a%2fb", "../a", "a/../b", "-a", "a-", "a" * 256, "x" * 5000, "h:99999999/a",
    "a:" + "t" * 129, "a_", "_a", "ä",
]  # fmt: skip


@pytest.mark.parametrize("text", PARSED)
def test_a_reference_is_completed(text: str) -> None:
    ref = parse_ref(text)
    assert (ref.registry, ref.repository, ref.tag, ref.digest) == PARSED[text]
    assert parse_ref(str(ref)) == ref


@pytest.mark.parametrize("text", REFUSED)
def test_what_cannot_be_an_image_is_refused_on_one_line(text: str) -> None:
    with pytest.raises(ImageError) as caught:
        parse_ref(text)
    assert "\n" not in str(caught.value)


def test_file_names_are_injective_and_harmless() -> None:
    refs = [parse_ref(text) for text in [*PARSED, "a/" * 100 + "b", "a/" * 100 + "c"]]
    names = [ref.file_name for ref in refs]
    assert len(set(names)) == len({ref.canonical for ref in refs})
    assert all("/" not in name and len(name) <= 200 for name in names)


def test_another_default_registry_adds_no_library() -> None:
    ref = parse_ref("x:1", DefaultRegistry("r.example:5", ""))
    assert ref.canonical == "r.example:5/x:1"


def test_platforms_and_what_serves_them() -> None:
    assert parse_platform("arm64") == Platform("linux", "arm64", "v8")
    assert parse_platform("x86_64") == Platform("linux", "amd64", "")
    assert parse_platform("linux/arm/v7") == Platform("linux", "arm", "v7")
    wanted = Platform("linux", "arm", "v7")
    assert wanted.rank(Platform("linux", "arm", "v6")) == 3
    assert wanted.rank(Platform("linux", "arm64", "v8")) is None
    assert Platform("linux", "arm64", "v8").rank(Platform("linux", "arm64")) == 1
