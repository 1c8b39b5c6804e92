"""The build cache shown as a tree, a graph and JSON."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest
import world

from ch_image.cli import cachetree
from ch_image.cli.storage import _bytes, _seconds
from ch_image.errors import UsageError
from ch_image.storage.cache import CacheRecord
from ch_image.storage.store import Storage, open_storage


def chain(store: Storage, *steps: tuple[str, str, str]) -> None:
    """Records of (key, parent's key, text), a second apart."""
    for n, (key, parent, text) in enumerate(steps):
        slot = f"{parent}-RUN"
        store.cache.put(CacheRecord(key, slot, text, None, {}, 1000.0 + n, 0, 0, stage="app"))


@pytest.fixture
def store(tmp_path: Path) -> Storage:
    opened = open_storage(str(tmp_path / "store"))
    chain(
        opened,
        ("a", "0", "FROM x"), ("b", "a", "RUN 1"), ("c", "b", "RUN 2"), ("d", "a", "RUN 3"),
        ("e", "d", "RUN 4\x1b[2J"), ("f", "a", "RUN 5"), ("lone", "gone", "COPY . /"),
    )  # fmt: skip
    return opened


def test_chains_stay_in_their_column_and_forks_indent(store: Storage) -> None:
    lines = [line[:40].rstrip() for line in cachetree.plain(cachetree.forest(store))]
    assert lines == [
        "* [app] FROM x",
        "| - RUN 1",
        "| * RUN 2",
        "| - RUN 3",
        "| * RUN 4\\x1b[2J",
        "* RUN 5",
        "* [app] COPY . /",
    ]


def test_json_has_parents_before_children(store: Storage) -> None:
    rows = cachetree.as_json(cachetree.forest(store))
    seen = set()
    for row in rows:
        assert row["parent"] is None or row["parent"] in seen
        seen.add(row["key"])
    assert seen == set("abcdef") | {"lone"}
    json.dumps(rows)


def test_a_graph_is_one_that_graphviz_can_read(store: Storage) -> None:
    chain(store, ("q", "a", 'RUN echo "\\n\\"'))
    lines = cachetree.dot(cachetree.forest(store))
    assert '  kq [label="RUN echo \\"\\\\n\\\\\\""];' in lines
    assert "  ka -> kb;" in lines
    done = subprocess.run(["sh", "-c", "command -v dot"], capture_output=True)
    if done.returncode == 0:
        subprocess.run(["dot"], input="\n".join(lines).encode(), check=True, capture_output=True)


def test_a_chain_of_very_many_steps_is_no_recursion(tmp_path: Path) -> None:
    store = open_storage(str(tmp_path / "store"))
    chain(store, *((f"k{n + 1}", f"k{n}", "RUN x") for n in range(3000)))
    assert len(cachetree.plain(cachetree.forest(store))) == 3000


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7d", 604800), ("12h", 43200), ("30m", 1800), ("2w", 1209600), ("1", 86400)],
)  # fmt: skip
def test_times(text: str, seconds: float) -> None:
    assert _seconds(text) == seconds


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("500", 500), ("500M", 500 << 20), ("10G", 10 << 30), ("10GB", 10 << 30),
     ("1.5GiB", 3 << 29), ("2k", 2048), ("7b", 7), ("1T", 1 << 40)],
)  # fmt: skip
def test_sizes(text: str, number: int) -> None:
    assert _bytes(text) == number


@pytest.mark.parametrize("text", ["", "x", "-1", "1e3", "d", "7y", "١d", "1..2", "inf"])
def test_what_is_neither_time_nor_size(text: str) -> None:
    with pytest.raises(UsageError):
        _seconds(text)
    with pytest.raises(UsageError):
        _bytes(text)


def test_ago() -> None:
    now = time.time()
    said = [cachetree.ago(now - s) for s in (-5, 3, 200, 7300, 86400 * 40)]
    assert said == ["0 s", "3 s", "3 min", "2 h", "40 d"]


@pytest.mark.userns
def test_limits_without_a_collection_are_refused(ch_image: world.Tool) -> None:
    assert ch_image("build-cache", "--older-than", "7d").code == 2
    assert ch_image("build-cache", "--gc", "--keep-storage", "much").code == 2
    assert json.loads(ch_image("build-cache", "--json").ok().out) == []
    assert ch_image("build-cache", "--dot").ok().out.splitlines()[-1] == "}"
