"""The store of containers: who wins, what a killed command leaves, which names are names."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
import world

from ch_image.errors import ChError, NotFound, StorageError
from ch_image.oci.states import CREATED, CREATING, STOPPED, Record, Store, born, held

TAKE = """
import sys
from ch_image.errors import ChError
from ch_image.oci.states import Record, Store
try:
    Store(sys.argv[1]).reserve(Record("x", "/bundle"))
    print("won", flush=True)
except ChError as error:
    print(error, flush=True)
if len(sys.argv) > 2: sys.exit(0)
sys.stdin.read()
"""


def taker(path: Path) -> subprocess.Popen[str]:
    """A process that reserves ID x and holds it until its standard input closes."""
    return started(TAKE, path)


def started(script: str, path: Path) -> subprocess.Popen[str]:
    """A process over the store ``path``."""
    return subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=world.clean_environment(path.parent),
    )


def test_of_racing_creators_one_wins(tmp_path: Path) -> None:
    takers = [taker(tmp_path / "s") for _ in range(5)]
    said = [one.stdout.readline().strip() for one in takers if one.stdout]
    for one in takers:
        one.communicate()
    assert sorted(said) == ["container x exists already"] * 4 + ["won"]


def test_what_a_killed_creator_left_is_taken_over(tmp_path: Path) -> None:
    killed = taker(tmp_path / "s")
    assert killed.stdout
    assert killed.stdout.readline() == "won\n"
    store = Store(str(tmp_path / "s"))
    with pytest.raises(ChError, match="exists already"):
        store.reserve(Record("x", "/bundle"))
    killed.kill()
    killed.communicate()
    store.reserve(Record("x", "/bundle")).close()
    assert os.listdir(tmp_path / "s") == ["x"]


def test_an_abandoned_container_is_not_listed(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "s"))
    store.reserve(Record("x", "/bundle")).close()
    assert store.list() == []
    assert not (tmp_path / "s/x").exists()


SWAP = """
import sys
from ch_image.oci.states import Record, Store
store, made = Store(sys.argv[1]), []

def swap(event, _args):
    if event == "fcntl.flock" and len(made) == 1:
        made.append(None)
        made[0].remove()
        made[0].close()
        made[1] = store.reserve(Record("x", "/bundle"))

made.append(store.reserve(Record("x", "/bundle")))
sys.addaudithook(swap)
print(store.forget_abandoned("x"), len(made), store.read("x").id)
"""


def test_what_is_being_made_is_not_taken_for_an_older_one_of_that_name(tmp_path: Path) -> None:
    """Someone finds a container's lock; before they have it, that one goes and another comes."""
    assert started(SWAP, tmp_path / "s").communicate()[0] == "False 2 x\n"


def test_directories_that_never_became_containers_are_swept(tmp_path: Path) -> None:
    for name in (".new-a", ".new-b", ".new-held", ".gone-a"):
        (tmp_path / name).mkdir()
        if name != ".new-b":
            (tmp_path / name / "lock").touch()
            (tmp_path / name / "state.json").touch()
    with (tmp_path / ".new-held/lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        Store(str(tmp_path)).reserve(Record("x", "/bundle")).close()
    assert sorted(os.listdir(tmp_path)) == [".new-held", "x"]


def test_the_longest_name(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "s"))
    store.reserve(Record("x" * 255, "/bundle")).close()
    with held(store, "x" * 255) as hold:
        hold.remove()
    assert not (tmp_path / "s").exists()


def test_a_process_with_the_same_number_is_another(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "s"))
    hold = store.reserve(Record("x", "/bundle"))
    assert store.status(hold.record) == CREATING
    me = os.getpid()
    hold.save(hold.record._replace(phase=CREATED, pid=me, born=born(me)))
    assert store.status(store.read("x")) == "running"
    hold.save(hold.record._replace(born=born(me) - 1))
    assert store.status(store.read("x")) == STOPPED
    hold.save(hold.record._replace(born=born(me), boot="an earlier one"))
    assert store.status(store.read("x")) == STOPPED
    hold.close()
    with held(store, "x") as again:
        again.remove()
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", ".x", "a b", "ä", "x" * 256, "a\n"])
def test_names_that_are_none(tmp_path: Path, name: str) -> None:
    store = Store(str(tmp_path / "s"))
    for act in (store.read, store.hold, lambda n: store.reserve(Record(n, "/b"))):
        with pytest.raises(ChError, match="cannot be called"):
            act(name)
    assert not (tmp_path / "s").exists()


def test_unknown_and_broken_containers(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with pytest.raises(NotFound):
        store.hold("x")
    (tmp_path / "x").mkdir()
    for text in ("{", "[]", '{"id": "x"}', '{"id": "x", "bundle": "/b", "annotations": 1}'):
        (tmp_path / "x/state.json").write_text(text)
        with pytest.raises(StorageError, match="the state of container x cannot be read"):
            store.read("x")
    (tmp_path / "x/state.json").write_text('{"id": "x", "bundle": "/b", "of_a_later_version": 1}')
    assert store.read("x").bundle == "/b"


def test_a_store_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(StorageError, match="others can write"):
        Store(str(tmp_path)).reserve(Record("x", "/bundle"))
