"""Blobs, layer records, images and cache: what is read is what was written, or an error."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ch_image.errors import ImageError, NotFound, StorageError
from ch_image.model.digest import DiffId, Digest, digest_of
from ch_image.model.oci import OCI_LAYER, Descriptor, History, ImageConfig, RunConfig
from ch_image.model.platforms import Platform
from ch_image.model.ref import parse_ref
from ch_image.storage.cache import CacheRecord
from ch_image.storage.images import Image
from ch_image.storage.layers import Chain, LayerId
from ch_image.storage.store import Storage, open_storage

DIFF = DiffId(Digest("sha256:" + "a1" * 32))
BLOB = Descriptor(OCI_LAYER, Digest("sha256:" + "b2" * 32), 12345)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Storage]:
    with open_storage(str(tmp_path / "s")) as storage, storage.lock():
        yield storage


def new_layer(store: Storage, name: str = "file", **known: object) -> LayerId:
    staged = store.layers.stage()
    Path(staged, "t", name).write_text("content")
    return store.layers.publish(staged, **known)  # type: ignore[arg-type]


def image(name: str, layers: Chain = ()) -> Image:
    config = ImageConfig(
        Platform("linux", "arm64", "v8"),
        RunConfig(env=("A=\udcff", "B=ü\n"), cmd=("sh",), extra={"X": [1]}),
        created="2024-01-01T00:00:00Z",
        history=(History(created_by="RUN \t\n[[[[", empty_layer=True),),
        diff_ids=(DIFF,),
    )
    return Image(parse_ref(name), config, layers, BLOB, 1700000000.125, {"k": "v"})


def step(key: str, parent: str = "", layer: LayerId | None = None) -> CacheRecord:
    return CacheRecord(key, parent, "RUN ü", layer, {"env A": "\udcff"}, 1.5, 0.0, 0.25)


# -- blobs


def test_a_blob_comes_back_as_it_went_in(store: Storage) -> None:
    for data in (b"", b"x", os.urandom(70000)):
        digest = store.blobs.put(data)
        assert digest == digest_of(data)
        assert store.blobs.has(digest, len(data))
        assert store.blobs.read(digest, 1 << 20) == data
        with store.blobs.open(digest) as file:
            assert file.read() == data
    assert len(store.blobs.all()) == 3


def test_a_damaged_blob_is_reported_removed_and_can_be_stored_again(store: Storage) -> None:
    data = b"manifest" * 100
    for spoil in (b"", data[:-1], data[:-1] + b"X"):
        digest = store.blobs.put(data)
        Path(store.blobs.path(digest)).write_bytes(spoil)
        with pytest.raises(StorageError, match="damaged"):
            store.blobs.read(digest, 1 << 20)
        assert not store.blobs.has(digest)
        Path(store.blobs.path(digest)).write_bytes(spoil)
        with pytest.raises(StorageError, match="damaged"):
            store.blobs.verify(digest)
        assert store.blobs.put(data) == digest
        Path(store.blobs.path(digest)).write_bytes(spoil)
        assert store.blobs.put(data) == digest
        assert store.blobs.read(digest, 1 << 20) == data


WRONG = {
    "other bytes": (b"abd", 3, "does not match"),
    "too short": (b"ab", 3, "has 2 bytes, 3 were announced"),
    "too long": (b"abcd", 3, "longer than the 3 bytes"),
    "too short, size unknown": (b"ab", None, "does not match"),
}


@pytest.mark.parametrize(("data", "size", "why"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_download_is_refused_and_leaves_nothing(
    store: Storage, data: bytes, size: int | None, why: str
) -> None:
    expected = digest_of(b"abc")

    def download() -> None:
        with store.blobs.writer(expected, size) as writer:
            for byte in data:
                writer.write(bytes([byte]))
            writer.commit()

    with pytest.raises(ImageError, match=why):
        download()

    Path(store.blobs.partial(expected)).write_bytes(data)
    with pytest.raises(ImageError):
        store.blobs.adopt(store.blobs.partial(expected), expected, size)
    assert not store.blobs.has(expected)
    assert store.blobs.all() == []
    assert os.listdir(store.tmp) == ["lock"]


def test_a_writer_can_start_again_and_a_partial_file_can_be_adopted(store: Storage) -> None:
    with store.blobs.writer(digest_of(b"abc"), 3) as writer:
        writer.write(b"xy")
        writer.restart()
        writer.write(b"abc")
        assert writer.size == 3
        digest = writer.commit()
    assert store.blobs.read(digest, 3) == b"abc"
    with pytest.raises(StorageError, match="too large"):
        store.blobs.read(digest, 2)

    other = digest_of(b"def")
    path = store.blobs.partial(other)
    Path(path).write_bytes(b"def")
    assert store.blobs.partial(other) == path
    assert store.blobs.adopt(path, other, 3) == other
    with pytest.raises(NotFound):
        store.blobs.read(digest_of(b"none"), 10)


@pytest.mark.parametrize("name", ["../../etc/passwd", "sha256:../x", "sha256:" + "/" * 64, ""])
def test_what_is_no_digest_names_no_file(store: Storage, name: str) -> None:
    with pytest.raises(ImageError):
        store.blobs.path(Digest(name))


# -- layers


def test_a_layer_keeps_all_that_is_known_of_it(store: Storage) -> None:
    owners = {"etc/x\udcff\n": (33, 4000000000), "run/fifo": (0, 5)}
    below = new_layer(store)
    layer = new_layer(store, owners=owners, lower=(below,), diff_id=DIFF, blob=BLOB)

    record = store.layers.get(layer)
    assert (record.diff_id, record.blob, record.owners) == (DIFF, BLOB, owners)
    assert record.lower == (below,)
    assert Path(store.layers.tree(layer), "file").read_text() == "content"
    assert sorted(store.layers.all()) == sorted([below, layer])
    assert store.layers.trusted(layer)


def test_a_layer_is_found_by_diff_id_when_it_stands_on_its_own_or_on_the_same(
    store: Storage,
) -> None:
    base, other = new_layer(store), new_layer(store)
    tied = new_layer(store, diff_id=DIFF, lower=(base,))
    assert store.layers.find(DIFF) is None
    assert store.layers.find(DIFF, (other,)) is None
    assert store.layers.find(DIFF, (base,)) == tied

    free = new_layer(store)
    store.layers.update(store.layers.get(free)._replace(diff_id=DIFF, blob=BLOB))
    assert store.layers.find(DIFF, (other,)) == free
    assert store.layers.get(free).blob == BLOB
    store.layers.remove(free)
    assert store.layers.find(DIFF, (other,)) is None
    assert not os.path.exists(store.layers.tree(free))


def test_a_layer_of_another_boot_is_trusted_only_after_a_sync(
    store: Storage, tmp_path: Path
) -> None:
    early = new_layer(store, diff_id=DIFF)
    store.sync()
    late = new_layer(store)
    _reboot(tmp_path / "s")

    with open_storage(str(tmp_path / "s")) as after:
        assert after.layers.trusted(early)
        assert after.layers.find(DIFF) == early
        assert not after.layers.trusted(late)
        after.cache.put(step("k1", layer=early))
        after.cache.put(step("k2", layer=late))
        assert after.cache.get("k1")
        assert after.cache.get("k2") is None


def _reboot(path: Path) -> None:
    """Let everything on record belong to another boot than this one."""
    from ch_image.storage.record import pack, unpack

    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    for file in [*path.glob("layers/*/record"), path / "synced"]:
        kind = "synced" if file.name == "synced" else "layer"
        words, body = unpack(file.read_bytes(), kind, str(file))
        words = [word.replace(boot, "another") for word in words]
        file.write_bytes(pack(kind, tuple(words), body.replace(boot.encode(), b"another")))


# -- images


def test_an_image_comes_back_as_it_went_in(store: Storage) -> None:
    layer = new_layer(store)
    first = image("demo", (layer,))
    store.images.put(first)

    assert store.images.get(parse_ref("demo:latest"))._replace(ref=first.ref) == first
    assert store.images.get(parse_ref("docker.io/library/demo")).layers == (layer,)
    assert [(s.name, s.created, s.damaged) for s in store.images.list()] == [
        ("demo", 1700000000.125, False)
    ]
    assert store.images.list()[0].ref == first.ref


def test_an_unknown_image_is_an_error_that_names_near_ones(store: Storage) -> None:
    store.images.put(image("debian:bookworm"))
    with pytest.raises(NotFound, match="no image debain:bookworm in storage") as caught:
        store.images.get(parse_ref("debain:bookworm"))
    assert caught.value.hint == "there is debian:bookworm"
    assert store.images.find(parse_ref("other")) is None


def test_deleting_and_undeleting(store: Storage) -> None:
    layer = new_layer(store)
    store.images.put(image("a", (layer,)))
    store.images.delete(parse_ref("a"))
    assert store.images.list() == []
    assert [s.name for s in store.images.deleted()] == ["a"]
    with pytest.raises(NotFound):
        store.images.delete(parse_ref("a"))

    store.images.undelete(parse_ref("a"))
    assert store.images.get(parse_ref("a")).layers == (layer,)
    store.images.delete(parse_ref("a"))
    store.images.put(image("a"))
    with pytest.raises(ImageError, match="there is an image a again"):
        store.images.undelete(parse_ref("a"))
    store.images.delete(parse_ref("a"))
    store.images.put(image("b", (layer,)))
    store.images.delete(parse_ref("b"))
    store.layers.remove(layer)
    with pytest.raises(StorageError, match="is gone"):
        store.images.undelete(parse_ref("b"))


def test_an_image_without_one_of_its_layers_is_neither_published_nor_used(store: Storage) -> None:
    layer = new_layer(store)
    store.images.put(image("a", (layer,)))
    store.layers.remove(layer)
    with pytest.raises(StorageError, match="lacks layer"):
        store.images.get(parse_ref("a"))
    with pytest.raises(StorageError, match="gone"):
        store.images.put(image("a", (layer,)))
    assert [s.name for s in store.images.list()] == ["a"]


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def _zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _flipped(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def _unreadable(path: Path) -> None:
    path.chmod(0)
    if os.geteuid() == 0:
        path.write_bytes(b"")


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


DAMAGE = [_empty, _cut, _zeroed, _flipped, _unreadable, _directory, _fifo, _link]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda f: f.__name__[1:])
def test_damaged_records_are_errors_or_misses_and_can_be_listed_and_deleted(
    store: Storage, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    layer = new_layer(store, diff_id=DIFF)
    ref = parse_ref("127.0.0.1:5000/a/b:c")
    store.images.put(image(str(ref), (layer,)))
    store.images.put(image("whole"))
    store.cache.put(step("k1", "k0", layer))
    damage(tmp_path / "s/images" / ref.file_name)
    damage(tmp_path / "s/cache/k1")

    with pytest.raises(StorageError, match="image 127.0.0.1:5000/a/b:c is damaged"):
        store.images.get(ref)
    assert [(s.name, s.damaged) for s in store.images.list()] == [
        ("127.0.0.1:5000/a/b:c", True),
        ("whole", False),
    ]
    assert store.cache.get("k1") is None
    assert store.cache.by_parent("k0") is None
    assert store.cache.all() == []
    with pytest.raises(StorageError, match="damaged"):
        store.gc()  # which layers that image needs is not known
    store.images.delete(store.images.list()[0].ref)
    assert [s.name for s in store.images.list()] == ["whole"]

    damage(tmp_path / "s/layers" / layer / "record")
    with pytest.raises(StorageError):
        store.layers.get(layer)
    assert store.layers.find(DIFF) is None
    assert not store.layers.trusted(layer)


def test_no_single_changed_byte_of_a_record_goes_unnoticed(store: Storage, tmp_path: Path) -> None:
    ref = parse_ref("a")
    store.images.put(image("a"))
    path = tmp_path / "s/images" / ref.file_name
    raw = path.read_bytes()
    for at in range(len(raw)):
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 4]) + raw[at + 1 :])
        with pytest.raises(StorageError):
            store.images.get(ref)
        path.write_bytes(raw[:at])
        with pytest.raises(StorageError):
            store.images.get(ref)


def test_a_record_under_another_name_is_not_taken_for_that_name(
    store: Storage, tmp_path: Path
) -> None:
    store.images.put(image("a"))
    store.cache.put(step("k1"))
    images = tmp_path / "s/images"
    os.rename(images / parse_ref("a").file_name, images / parse_ref("b").file_name)
    os.rename(tmp_path / "s/cache/k1", tmp_path / "s/cache/k2")
    with pytest.raises(StorageError, match="damaged"):
        store.images.get(parse_ref("b"))
    assert store.cache.get("k2") is None


# -- cache


def test_a_cache_record_comes_back_and_a_vanished_layer_makes_it_a_miss(store: Storage) -> None:
    layer = new_layer(store)
    for record in (step("k1", "k0", layer), step("k2", "k0")):
        store.cache.put(record)
        found = store.cache.get(record.key)
        assert found
        assert found._replace(used=0.0) == record
        assert store.cache.by_parent("k0") == found
    assert store.cache.get("none") is None

    store.layers.remove(layer)
    assert store.cache.get("k1") is None
    assert store.cache.get("k2")
    assert len(store.cache.gc(set())) == 1
    assert store.cache.reset() == 1
    assert store.cache.all() == []


@pytest.mark.parametrize("key", ["", "../images/x", ".parents", "a/b", "a\n", "x" * 200])
def test_what_is_no_key_names_no_file(store: Storage, key: str) -> None:
    with pytest.raises(StorageError, match="not a cache key"):
        store.cache.get(key)


def test_gc_keeps_what_images_and_cache_need_and_nothing_else(store: Storage) -> None:
    used, cached, orphan, old = (new_layer(store) for _ in range(4))
    merged = new_layer(store, merged=(used, cached))
    stale = new_layer(store, merged=(used, orphan))
    needed, loose = store.blobs.put(b"needed"), store.blobs.put(b"loose")
    known = Descriptor(OCI_LAYER, needed, 6)
    store.layers.update(store.layers.get(used)._replace(blob=known))
    store.images.put(image("a", (used,))._replace(manifest=None))
    store.images.put(image("gone", (orphan,)))
    store.images.delete(parse_ref("gone"))
    store.cache.put(step("new", layer=cached))
    store.cache.put(step("old", layer=old))
    os.utime(Path(store.path, "cache/old"), (1, 1))

    freed = store.gc(unused_for=3600)

    assert sorted(store.layers.all()) == sorted([used, cached, merged])
    assert not store.layers.has(stale)
    assert store.blobs.all() == [needed]
    assert not store.blobs.has(loose)
    assert (freed.records, freed.layers, freed.blobs, freed.blob_bytes) == (1, 3, 1, 5)
    assert store.images.deleted() == []


def test_a_reset_leaves_an_empty_storage_that_can_be_used(store: Storage) -> None:
    store.images.put(image("a", (new_layer(store),)))
    store.blobs.put(b"x")
    store.cache.put(step("k"))

    store.reset()

    assert (store.images.list(), store.layers.all(), store.blobs.all()) == ([], [], [])
    assert store.cache.get("k") is None
    store.images.put(image("a", (new_layer(store),)))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_image_list_is_one_error_and_the_old_image_stays(
    store: Storage, tmp_path: Path
) -> None:
    store.images.put(image("a"))
    images = tmp_path / "s/images"
    images.chmod(0o500)
    try:
        with pytest.raises(StorageError, match="cannot store the image's record") as caught:
            store.images.put(image("a")._replace(created=2.0))
        assert isinstance(caught.value.__cause__, OSError)
        assert caught.value.__cause__.errno == errno.EACCES
    finally:
        images.chmod(0o700)
    assert store.images.get(parse_ref("a")).created == 1700000000.125
