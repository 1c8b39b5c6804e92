"""Formats by name."""

from __future__ import annotations

import pytest

from ch_image.errors import UsageError
from ch_image.formats.archive import compression_for
from ch_image.formats.base import FORMATS, LAYERED, TREES, check, infer, layered, trees

NAMES = {
    "debian:bookworm": "ch-image",
    "example.com:5000/a/b": "ch-image",
    "dir/sub": "ch-image",
    "/abs/dir": "dir",
    "./dir": "dir",
    "../dir": "dir",
    ".": "dir",
    "x.tar": "tar",
    "/abs/x.tar.gz": "tar",
    "x.tgz": "tar",
    "x.tar.zst": "tar",
    "x.tar.xz": "tar",
    "x.txz": "tar",
    "./x.sqfs": "squash",
    "x.squashfs": "squash",
    "./x.oci": "oci",
    "x.oci:tag": "oci",
    "x.oci.tar": "oci-archive",
    "/a/x.oci.tar:name:tag": "oci-archive",
    "x.docker.tar": "docker-archive",
}


@pytest.mark.parametrize(("name", "kind"), NAMES.items(), ids=NAMES.keys())
def test_a_name_tells_its_format(name: str, kind: str) -> None:
    assert infer(name) == kind


@pytest.mark.parametrize("name", [*FORMATS, "nosuch"])
def test_a_format_is_there_or_said_not_to_be(name: str) -> None:
    if name in TREES:
        assert hasattr(trees(name), "open")
    elif name in LAYERED:
        assert hasattr(layered(name), "bring")
    else:
        with pytest.raises(UsageError, match="not known") as caught:
            check(name)
        assert "tar" in caught.value.hint


ENDINGS = {"a.tar": "none", "a.tar.gz": "gzip", "a.tgz": "gzip", "a.tar.zst": "zstd",
           "a.tar.bz2": "bzip2", "a.txz": "xz", "a": "none"}  # fmt: skip


@pytest.mark.parametrize(("name", "kind"), ENDINGS.items(), ids=ENDINGS.keys())
def test_an_archives_ending_asks_for_its_compression(name: str, kind: str) -> None:
    assert compression_for(name) == kind


def test_an_unknown_compression_is_refused() -> None:
    with pytest.raises(UsageError):
        compression_for("a.tar.Z")
