"""Several processes in one storage, processes that are killed, and disks that are full."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ch_image.errors import StorageError
from ch_image.fs.remove import remove_tree
from ch_image.model.oci import ImageConfig
from ch_image.model.platforms import Platform
from ch_image.model.ref import parse_ref
from ch_image.sandbox import syscalls
from ch_image.storage.images import Image
from ch_image.storage.layers import Chain
from ch_image.storage.store import Storage, open_storage

InUserns = Callable[[Callable[[], Any]], Any]

# Builds images for ever; each must always hold the number that its record says.
BUILDER = """
import itertools, os, sys
from ch_image.sandbox import userns
userns.enter()
from ch_image.model.oci import ImageConfig
from ch_image.model.platforms import Platform
from ch_image.model.ref import parse_ref
from ch_image.storage.cache import CacheRecord
from ch_image.storage.images import Image
from ch_image.storage.store import open_storage
path, tag, kind, count = sys.argv[1:]
store = open_storage(path)
with store.lock():
    snapshotter = store.snapshotter(kind)
    print("ready", flush=True)
    for n in itertools.islice(itertools.count(), int(count) or None):
        chain = ()
        for part in range(3):
            draft = snapshotter.prepare(chain)
            for name in range(5):
                with open(f"{draft.root}/{part}-{name}", "w") as file:
                    file.write(str(n) * 1000)
            os.mkdir(f"{draft.root}/locked{part}", 0)
            chain += (snapshotter.commit(draft, {"x": (n, n)}),)
            store.cache.put(CacheRecord(f"k{tag}{part}", "p", "RUN", chain[-1], {}, n, 0, 0))
        blob = store.blobs.put(str(n).encode() * 100)
        config = ImageConfig(Platform("linux", "amd64"), author=str(n))
        store.images.put(Image(parse_ref(tag), config, chain, None, float(n)))
store.close()
"""


def start(path: Path, tag: str, kind: str = "overlay", count: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILDER, str(path), tag, kind, str(count)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "ready\n", process.communicate()[1]
    return process


def check(store: Storage) -> int:
    """Every image listed is whole; how many there are."""
    snapshotter = store.snapshotter("overlay")
    for summary in store.images.list():
        assert not summary.damaged
        image = store.images.get(summary.ref)
        with snapshotter.view(image.layers) as root:
            files = [p for p in Path(root).iterdir() if p.is_file()]
            assert len(files) == 15
            assert {p.read_text() for p in files} == {image.config.author * 1000}
    for digest in store.blobs.all():
        store.blobs.verify(digest)
    for layer in store.layers.all():
        assert store.layers.get(layer).owners.keys() == {"x"}
    for record in store.cache.all():
        assert record.layer
        assert store.layers.has(record.layer)
    return len(store.images.list())


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "s"
    remove_tree(str(tmp_path / "s"))


@pytest.mark.userns
@pytest.mark.parametrize("kind", ["overlay", "copy"])
def test_a_process_killed_at_any_moment_leaves_whole_images_and_nothing_else(
    path: Path, in_userns: InUserns, kind: str
) -> None:
    chance = random.Random(7)
    for _ in range(8):
        process = start(path, "demo", kind)
        time.sleep(chance.random() * 0.15)
        process.send_signal(signal.SIGKILL)
        process.communicate()

        def look() -> None:
            with open_storage(str(path)) as store, store.lock(exclusive=True, wait=5):
                check(store)
                assert os.listdir(f"{store.path}/tmp") in ([], [os.path.basename(store.tmp)])

        in_userns(look)
    assert os.listdir(path / "tmp") == []


@pytest.mark.userns
def test_processes_at_once_end_with_every_tag_right(path: Path, in_userns: InUserns) -> None:
    running = [start(path, f"t{n}", kind, 15) for n, kind in enumerate(["overlay", "copy"] * 2)]
    running.append(start(path, "t0", "overlay", 15))
    for process in running:
        assert process.communicate(timeout=120) == ("", "")
        assert process.returncode == 0

    def look() -> int:
        with open_storage(str(path)) as store:
            before = check(store)
            with store.lock(exclusive=True):
                store.cache.reset()
                store.gc()
            assert check(store) == before
            # Two of them had one tag: its chain is one's or the other's.
            assert len(store.layers.all()) == 4 * 3
            return before

    assert in_userns(look) == 4


@contextmanager
def holding(path: Path, how: str) -> Iterator[subprocess.Popen[str]]:
    code = (
        "import sys, time\nfrom ch_image.storage.store import open_storage\n"
        f"s = open_storage(sys.argv[1])\nwith s.lock({how}):\n"
        "    s.tmp; print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_users_share_the_storage_and_who_cleans_waits_and_says_so(path: Path) -> None:
    store = open_storage(str(path))
    said: list[str] = []
    with holding(path, "") as other:
        with store.lock(wait=0, on_wait=said.append):
            assert said == []
        with (
            pytest.raises(StorageError, match="did not end within 0.3 seconds"),
            store.lock(exclusive=True, wait=0.3, on_wait=said.append),
        ):
            pass
        assert len(said) == 1
        assert "waiting" in said[0]
        threading.Timer(0.2, other.kill).start()
        with store.lock(exclusive=True, wait=30):
            assert other.wait(10) == -signal.SIGKILL
    with holding(path, "exclusive=True"), pytest.raises(StorageError, match="is cleaning"):
        store.lock(wait=0.1).__enter__()
    store.close()


def test_scratch_of_the_living_stays_and_of_the_dead_goes(path: Path) -> None:
    with holding(path, "") as other:
        with open_storage(str(path)) as store, store.lock(), store.scratch() as mine:
            Path(mine, "x").touch()
            assert len(os.listdir(path / "tmp")) == 2
        other.kill()
        other.wait()
        assert len(os.listdir(path / "tmp")) == 1
        with open_storage(str(path)) as store, store.lock():
            assert os.listdir(path / "tmp") == []


def test_a_forked_child_has_scratch_of_its_own(path: Path) -> None:
    with open_storage(str(path)) as store, store.scratch() as mine:
        pid = os.fork()
        if pid == 0:
            try:
                with store.scratch() as theirs:
                    good = os.path.dirname(theirs) != os.path.dirname(mine)
                store.close()
                os._exit(0 if good else 1)
            finally:
                os._exit(2)
        assert os.waitpid(pid, 0)[1] == 0
        assert os.path.isdir(mine)


def _image(chain: Chain = (), author: str = "") -> Image:
    config = ImageConfig(Platform("linux", "amd64"), author=author)
    return Image(parse_ref("demo"), config, chain, None, 1.0)


@pytest.mark.userns
@pytest.mark.parametrize("kind", ["overlay", "copy"])
def test_a_full_disk_is_one_error_and_loses_nothing(
    tmp_path: Path, in_userns: InUserns, kind: str
) -> None:
    def work() -> None:
        syscalls.mount("tmpfs", str(tmp_path), "tmpfs", 0, "size=4m")
        with open_storage(str(tmp_path / "s")) as store, store.lock():
            try:
                snapshotter = store.snapshotter(kind)
                draft = snapshotter.prepare(())
            except StorageError as error:
                pytest.skip(f"no overlay on tmpfs here: {error}")
            Path(draft.root, "f").write_text("old")
            chain = (snapshotter.commit(draft, {}),)
            store.images.put(_image(chain, "old"))

            for filler in range(200):  # at each step another operation meets the end of the disk
                if not _fill_and_try(store, snapshotter, chain, tmp_path, filler):
                    break
            assert store.images.get(parse_ref("demo")).layers[0] == chain[0]
            with snapshotter.view(chain) as root:
                assert Path(root, "f").read_text() == "old"
            store.images.delete(parse_ref("demo"))
            assert store.images.list() == []

    in_userns(work)


def _fill_and_try(store: Storage, snapshotter: Any, chain: Chain, disk: Path, pages: int) -> bool:
    """With ``pages`` free pages left, build one more; whether that failed, as it should."""
    with open(disk / "filler", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(max(0, file.tell() - pages * 4096))
    draft = None
    try:
        draft = snapshotter.prepare(chain)
        try:
            Path(draft.root, "g").write_bytes(b"n" * 20000)
        except OSError as error:  # as a RUN would see it
            raise StorageError("the step failed") from error
        store.images.put(_image((*chain, snapshotter.commit(draft, {})), "new"))
    except StorageError as error:
        said = str(error)
        assert "no space" in said or "the step failed" in said
        assert store.images.get(parse_ref("demo")).config.author == "old"
        return True
    else:
        return False
    finally:
        if draft:
            snapshotter.discard(draft)
        os.unlink(disk / "filler")


@pytest.mark.userns
def test_a_read_only_disk_can_be_read_and_says_why_it_cannot_be_written(
    tmp_path: Path, in_userns: InUserns
) -> None:
    def work() -> None:
        path = str(tmp_path / "s")
        with open_storage(path) as store, store.lock():
            store.images.put(_image(author="old"))
        syscalls.mount(path, path, None, syscalls.MS_BIND)
        flags = syscalls.MS_BIND | syscalls.MS_REMOUNT | syscalls.MS_RDONLY
        syscalls.mount(None, path, None, flags)
        store = open_storage(path)
        assert [s.name for s in store.images.list()] == ["demo"]
        assert store.images.get(parse_ref("demo")).config.author == "old"
        for write in (
            lambda: store.images.put(_image()),
            lambda: store.images.delete(parse_ref("demo")),
            lambda: store.lock().__enter__(),
            lambda: store.blobs.put(b"x"),
        ):
            with pytest.raises(StorageError, match="read-only"):
                write()

    in_userns(work)
