"""What a collection takes and what it leaves; equal files that become one; a crash in between."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from ch_image.model.oci import ImageConfig
from ch_image.model.platforms import host_platform
from ch_image.model.ref import parse_ref
from ch_image.storage.cache import CacheRecord
from ch_image.storage.dedupe import JOURNAL, dedupe
from ch_image.storage.images import Image
from ch_image.storage.layers import LayerId
from ch_image.storage.store import Storage, open_storage
from ch_image.storage.usage import disk_usage, own_size

TIME = 1_600_000_000_123_456_789


@pytest.fixture
def store(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "store"))


def layer(store: Storage, files: dict[str, bytes], mtime: int = TIME) -> LayerId:
    """A layer of these files; all times are `mtime`."""
    staged = Path(store.layers.stage())
    for name, data in files.items():
        path = staged / "t" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for path in sorted((staged / "t").rglob("*"), reverse=True):
        os.utime(path, ns=(mtime, mtime))
    os.utime(staged / "t", ns=(mtime, mtime))
    return store.layers.publish(str(staged))


def cached(store: Storage, key: str, parent: str, made: LayerId | None, used: float) -> None:
    store.cache.put(CacheRecord(key, f"{parent}-RUN", "RUN", made, {}, used, used, 0))
    os.utime(Path(store.path, "cache", key), (used, used))


def chain_of_steps(store: Storage) -> list[LayerId]:
    """k0 <- k1 <- k2, of about 100 KiB each; and another on k0 that was used long ago."""
    made = [layer(store, {f"f{n}": os.urandom(100 << 10)}) for n in range(4)]
    for n in range(3):
        cached(store, f"k{n}", f"k{n - 1}" if n else "base", made[n], 1_000_000.0 + n)
    cached(store, "old", "k0", made[3], 1000.0)
    return made


@pytest.mark.parametrize(
    ("kib", "left"),
    [(1000, ["k0", "k1", "k2", "old"]), (350, ["k0", "k1", "k2"]), (250, ["k0", "k1"]),
     (120, ["k0"]), (0, [])],
)  # fmt: skip
def test_the_least_recently_used_steps_go_and_never_one_that_others_stand_on(
    store: Storage, kib: int, left: list[str]
) -> None:
    chain_of_steps(store)
    for n in range(3):  # used in one build
        os.utime(Path(store.path, "cache", f"k{n}"), (1_000_000, 1_000_000))
    freed = store.gc(keep_bytes=kib << 10)
    assert sorted(record.key for record in store.cache.all()) == left
    assert freed.layers == 4 - len(left)
    assert freed.layer_bytes >= freed.layers * (100 << 10)
    assert disk_usage(store.layers.tree(one) for one in store.layers.all()) <= max(kib, 1) << 10


def test_what_an_image_has_costs_the_cache_nothing(store: Storage) -> None:
    made = chain_of_steps(store)
    config = ImageConfig(platform=host_platform())
    store.images.put(Image(parse_ref("x"), config, tuple(made[:3]), None, 1.0))
    store.gc(keep_bytes=0)
    assert sorted(record.key for record in store.cache.all()) == ["k0", "k1", "k2"]


def test_a_step_is_as_young_as_what_stands_on_it(store: Storage) -> None:
    first, second = (layer(store, {"f": b"x"}) for _ in range(2))
    cached(store, "k0", "base", first, 1000.0)
    cached(store, "k1", "k0", second, 4e9)
    store.gc(unused_for=7 * 86400)
    assert sorted(record.key for record in store.cache.all()) == ["k0", "k1"]


def keep(store: Storage, *layers: LayerId) -> None:
    for one in layers:
        cached(store, f"keep-{one}", "base", one, 4e9)


def inode(store: Storage, one: LayerId, name: str) -> int:
    return os.stat(f"{store.layers.tree(one)}/{name}").st_ino


def test_equal_files_of_layers_share_their_blocks(store: Storage) -> None:
    data = os.urandom(200 << 10)
    a, b = layer(store, {"d/x": data, "y": data}), layer(store, {"d/x": data, "z": data})
    keep(store, a, b)
    before = disk_usage([store.layers.tree(a), store.layers.tree(b)])
    freed = store.gc()
    assert freed.shared_files == 1
    assert freed.shared_bytes >= 200 << 10
    assert disk_usage([store.layers.tree(a), store.layers.tree(b)]) <= before - (200 << 10)
    assert inode(store, a, "d/x") == inode(store, b, "d/x")
    assert len({inode(store, a, "y"), inode(store, a, "d/x"), inode(store, b, "z")}) == 3
    for one in (a, b):
        assert os.stat(f"{store.layers.tree(one)}/d").st_mtime_ns == TIME
        assert Path(store.layers.tree(one), "d/x").read_bytes() == data
    assert own_size(store.layers.tree(a)) >= 400 << 10
    assert store.gc().shared_files == 0
    assert not os.path.lexists(f"{store.path}/{JOURNAL}")


def test_the_last_layer_that_has_a_file_keeps_it(store: Storage) -> None:
    a, b = (layer(store, {"x": b"data" * 5000}) for _ in range(2))
    keep(store, a, b)
    store.gc()
    store.cache.remove(f"keep-{a}")
    assert store.gc().layer_bytes < 20000, "a file that another layer has frees nothing"
    assert Path(store.layers.tree(b), "x").read_bytes() == b"data" * 5000


DIFFERENCES = {
    "content": lambda path: path.write_bytes(b"B" * 9000),
    "length": lambda path: path.write_bytes(b"A" * 9001),
    "mode": lambda path: path.chmod(0o600),
    "time": lambda path: os.utime(path, ns=(TIME, TIME + 1)),
    "attribute": lambda path: os.setxattr(path, "user.x", b"1"),
}


@pytest.mark.parametrize("change", DIFFERENCES.values(), ids=DIFFERENCES.keys())
def test_files_that_differ_in_anything_stay_apart(store: Storage, change: object) -> None:
    a, b = (layer(store, {"x": b"A" * 9000}) for _ in range(2))
    path = Path(store.layers.tree(b), "x")
    assert callable(change)
    change(path)
    if "utime" not in change.__code__.co_names:
        os.utime(path, ns=(TIME, TIME))
    keep(store, a, b)
    assert store.gc().shared_files == 0


def test_links_inside_of_a_layer_are_part_of_it(store: Storage) -> None:
    a, b = (layer(store, {"x": b"A" * 9000}) for _ in range(2))
    os.link(f"{store.layers.tree(a)}/x", f"{store.layers.tree(a)}/y")
    keep(store, a, b)
    assert store.gc().shared_files == 0
    assert os.stat(f"{store.layers.tree(a)}/y").st_nlink == 2


def test_many_layers_need_few_descriptors(store: Storage) -> None:
    made = [layer(store, {f"d{n}/x": b"A" * 9000 for n in range(5)}) for _ in range(60)]
    shared = dedupe(store, made, store._scratch)
    assert shared.files == 59 * 5


def test_a_kill_at_any_moment_changes_no_time_and_no_content(store: Storage) -> None:
    data = {f"d{n}/x": os.urandom(5000) for n in range(40)}
    made = [layer(store, data) for _ in range(3)]
    for delay in (0.001, 0.004, 0.008, 0.012, 0.02, 0.03):
        pid = os.fork()
        if pid == 0:
            signal.setitimer(signal.ITIMER_REAL, delay)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            try:
                dedupe(store, made, store._scratch)
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        with open_storage(store.path).lock():  # what any command does
            pass
        assert not os.path.lexists(f"{store.path}/{JOURNAL}")
        for one in made:
            for name, content in data.items():
                path = Path(store.layers.tree(one), name)
                assert path.read_bytes() == content
                assert path.parent.stat().st_mtime_ns == TIME
                assert path.stat().st_mtime_ns == TIME


@pytest.mark.parametrize("journal", [b"", b"torn", b'{"layers/../../x":1}'])
def test_a_journal_that_makes_no_sense_stops_nothing(store: Storage, journal: bytes) -> None:
    Path(store.path, JOURNAL).write_bytes(journal)
    with store.lock():
        assert not os.path.lexists(f"{store.path}/{JOURNAL}")
