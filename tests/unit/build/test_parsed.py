"""Kept parse results are the parse result, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from ch_image.build.parsed import parse_cached
from ch_image.dockerfile.parser import parse
from ch_image.errors import DockerfileError

TEXT = b"""# escape=`
ARG A=1
FROM --platform=linux/amd64 debian:$A AS one
RUN --mount=type=cache,target=/c <<EOF1 cat <<-"EOF2"
one
EOF1
\ttwo
EOF2
COPY --chown=1:2 --exclude=*.o a b `
  # a comment

  c/
ENV A="b c" D=\xff
HEALTHCHECK --interval=5m CMD curl x
ONBUILD ADD x y
LABEL "a"='b'
CMD ["a", "\\u00e9"]
"""


def test_the_second_reading_is_the_first(tmp_path: Path) -> None:
    first = parse_cached(TEXT, "Dockerfile", str(tmp_path))
    assert len(list(tmp_path.iterdir())) == 1
    assert parse_cached(TEXT, "Dockerfile", str(tmp_path)) == first == parse(TEXT, "Dockerfile")


@pytest.mark.parametrize("damage", [b"", b"x", b"0" * 64 + b"[]"])
def test_a_damaged_file_only_costs_time(tmp_path: Path, damage: bytes) -> None:
    first = parse_cached(TEXT, "Dockerfile", str(tmp_path))
    (kept,) = tmp_path.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(damage or whole[:-3])
    assert parse_cached(TEXT, "Dockerfile", str(tmp_path)) == first


def test_faults_are_not_kept(tmp_path: Path) -> None:
    with pytest.raises(DockerfileError):
        parse_cached(b"FORM x", "Dockerfile", str(tmp_path))
    assert list(tmp_path.iterdir()) == []
