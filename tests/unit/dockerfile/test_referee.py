"""BuildKit's own parser data, where a checkout of it lies beside this project.

Its line parser accepts more than its builder does. Where the two differ, the builder counts, and
the table says why; a file without FROM is given one.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ch_image.dockerfile.parser import parse
from ch_image.errors import DockerfileError

CHECKOUT = Path(
    os.environ.get("CH_IMAGE_BUILDKIT", Path(__file__).resolve().parents[4] / "buildkit")
)
DATA = CHECKOUT / "frontend/dockerfile/parser"
REFUSED_BY_THE_BUILDER = {
    "testfiles/flags": "unknown flag --user",
    "testfiles/health": "HEALTHCHECK needs CMD or NONE",
    "testfiles/env": "the closing single quote is missing",
    "testfiles/escapes": "the closing double quote is missing",
}


def samples() -> list[str]:
    found = [path.parent for path in DATA.glob("testfile*/**/Dockerfile")]
    return sorted(str(path.relative_to(DATA)) for path in found)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"there is no BuildKit checkout at {CHECKOUT}")
def test_every_sample_is_accepted_or_refused_as_there() -> None:
    assert len(samples()) > 30
    wrong = []
    for name in samples():
        text = (DATA / name / "Dockerfile").read_bytes()
        negative = name.startswith("testfiles-negative")
        if not negative and b"FROM" not in text.upper():
            text = b"FROM scratch\n" + text
        expected = REFUSED_BY_THE_BUILDER.get(name, "")
        try:
            parse(text, name)
        except DockerfileError as error:
            message = str(error.args[0])
            if not negative and (not expected or expected not in message):
                wrong.append(f"{name} is refused: {error}")
        else:
            if negative or expected:
                wrong.append(f"{name} is accepted")
    assert wrong == []
