"""The modes of --chmod."""

from __future__ import annotations

import pytest

from ch_image.build.chmod import parse_mode
from ch_image.errors import BuildError

CASES = [
    ("644", 0o777, 0o644),
    ("0644", 0o777, 0o644),
    ("7777", 0o000, 0o7777),
    ("0", 0o777, 0o000),
    ("00000755", 0o000, 0o755),
    ("u+x", 0o644, 0o744),
    ("+x", 0o644, 0o755),
    ("a+x", 0o640, 0o751),
    ("-w", 0o666, 0o444),
    ("go-w", 0o666, 0o644),
    ("go=", 0o777, 0o700),
    ("=", 0o777, 0o000),
    ("=rw,+X", 0o644, 0o666),
    ("=rw,+X", 0o744, 0o777),
    ("u=rwX,go=rX", 0o600, 0o644),
    ("u=rwX,go=rX", 0o700, 0o755),
    ("a+X", 0o644, 0o644),
    ("a+X", 0o645, 0o755),
    ("a-X", 0o755, 0o644),
    ("g=u", 0o640, 0o660),
    ("g=u", 0o6750, 0o6770),
    ("g=r", 0o6750, 0o4740),
    ("o=g", 0o750, 0o755),
    ("go=u-w", 0o700, 0o755),
    ("u=g", 0o750, 0o550),
    ("o+u", 0o741, 0o747),
    ("g-u", 0o575, 0o525),
    ("u+s", 0o755, 0o4755),
    ("g+s", 0o755, 0o2755),
    ("+s", 0o755, 0o6755),
    ("o+s", 0o755, 0o755),
    ("+t", 0o755, 0o1755),
    ("u=rwx", 0o4755, 0o755),
    ("u+rw,g+r,o-x,o+w", 0o005, 0o646),
    ("u+r-x+w", 0o100, 0o600),
    ("ug+w,o-r", 0o444, 0o660),
    ("a+", 0o640, 0o640),
]


@pytest.mark.parametrize(("text", "before", "after"), CASES)
def test_a_mode_becomes(text: str, before: int, after: int) -> None:
    assert oct(parse_mode(text).apply(before, is_dir=False)) == oct(after)


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [("a+X", 0o600, 0o711), ("u=rwX,go=rX", 0o600, 0o755), ("755", 0o700, 0o755)],
)
def test_a_directory_counts_as_executable(text: str, before: int, after: int) -> None:
    assert oct(parse_mode(text).apply(before, is_dir=True)) == oct(after)


@pytest.mark.parametrize(
    "text",
    ["10000", "64a", "8", "-1", "0o644", "7_5", "u", "u+y", "rwx", "+x,", ",+x", "u+x,,g+x", "u x"]
    + ["", " 644", "644 ", "u=rw go=r", "٧٥٥", "1" * 30],
)
def test_what_is_no_mode_is_refused(text: str) -> None:
    with pytest.raises(BuildError, match="is no mode"):
        parse_mode(text)
