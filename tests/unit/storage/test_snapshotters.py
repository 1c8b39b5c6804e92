"""One contract for every snapshotter: what a chain of layers gives, whoever made them.

A reference is kept beside: a plain directory to which the same changes are made.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ch_image.errors import StorageError
from ch_image.fs.remove import remove_tree
from ch_image.storage.layers import Chain, LayerId
from ch_image.storage.snapshots.base import Snapshotter, merged_owners
from ch_image.storage.snapshots.choose import NAMES
from ch_image.storage.store import Storage, open_storage

Change = Callable[[Path], object]
InUserns = Callable[[Callable[[], Any]], Any]


@pytest.fixture(params=NAMES)
def on(request: pytest.FixtureRequest, tmp_path: Path, in_userns: InUserns) -> Any:
    """`on(work)`: work(storage, snapshotter) inside the namespace."""

    def run(work: Callable[[Storage, Snapshotter], object]) -> object:
        def inside() -> object:
            try:
                with open_storage(str(tmp_path / "s")) as store, store.lock():
                    return work(store, store.snapshotter(request.param))
            finally:
                remove_tree(str(tmp_path))

        return in_userns(inside)

    return run


def look(root: Path) -> dict[str, tuple[object, ...]]:
    """All there is to see of a tree; hard links by a name that they share."""
    out: dict[str, tuple[object, ...]] = {}
    names: dict[int, str] = {}
    for path in [root, *sorted(root.rglob("*"))]:
        state = path.lstat()
        name = str(path.relative_to(root))
        kind = stat.S_IFMT(state.st_mode)
        seen: list[object] = [oct(state.st_mode)]
        if kind == stat.S_IFREG:
            seen += [path.read_bytes(), state.st_mtime_ns, names.setdefault(state.st_ino, name)]
        elif kind == stat.S_IFLNK:
            seen += [os.readlink(path)]
        if kind in (stat.S_IFREG, stat.S_IFDIR):
            seen += [
                (attribute, os.getxattr(path, attribute))
                for attribute in sorted(os.listxattr(path))
                if not attribute.startswith("user.overlay.")
            ]
        out[name] = tuple(seen)
    return out


def apply(snapshotter: Snapshotter, chain: Chain, change: Change) -> Chain:
    draft = snapshotter.prepare(chain)
    try:
        change(Path(draft.root))
        return (*chain, snapshotter.commit(draft, {}))
    finally:
        snapshotter.discard(draft)


def base(root: Path) -> None:
    (root / "etc/deep/er").mkdir(parents=True)
    (root / "usr/bin").mkdir(parents=True)
    for name in ("etc/passwd", "etc/deep/file", "etc/deep/er/x", "usr/bin/tool", "keep"):
        (root / name).write_text(name)
        os.utime(root / name, ns=(10**18, 10**18 + 7))
    (root / "link").symlink_to("etc/passwd")
    (root / "dirlink").symlink_to("etc")
    os.mkfifo(root / "fifo", 0o620)
    (root / "usr/bin/su").write_bytes(b"s")
    (root / "usr/bin/su").chmod(0o4755)
    (root / "locked").mkdir()
    (root / "locked/in").write_text("secret")
    (root / "locked").chmod(0)
    root.chmod(0o751)


def chmod_root(root: Path) -> None:
    root.chmod(0o1777)


def replace_directory(root: Path) -> None:
    shutil.rmtree(root / "etc/deep")
    (root / "etc/deep").mkdir()
    (root / "etc/deep/new").write_text("n")


def replace_by_file(root: Path) -> None:
    shutil.rmtree(root / "etc/deep")
    (root / "etc/deep").write_text("now a file")


def replace_by_link(root: Path) -> None:
    shutil.rmtree(root / "etc/deep")
    (root / "etc/deep").symlink_to("..")


def replace_link_by_directory(root: Path) -> None:
    (root / "dirlink").unlink()
    (root / "dirlink/etc").mkdir(parents=True)


def hard_links(root: Path) -> None:
    (root / "one").write_text("shared")
    os.link(root / "one", root / "usr/two")
    os.link(root / "one", root / "etc/three")


def long_names(root: Path) -> None:
    (root / ("n" * 255)).write_text("")
    (root / os.fsdecode(b"\xff\n\t")).write_text("bytes")
    (root / ".whx").write_text("not a marker")


def same_size_and_time(root: Path) -> None:
    (root / "keep").write_text("KEEP")
    os.utime(root / "keep", ns=(10**18, 10**18 + 7))


def sparse(root: Path) -> None:
    with open(root / "holes", "wb") as file:
        file.truncate(1 << 22)
        file.seek(1 << 21)
        file.write(b"x")


CHANGES: dict[str, Change] = {
    "nothing": lambda root: None,
    "a new file": lambda root: (root / "new").write_text("x"),
    "a file changed in place": lambda root: (root / "etc/deep/file").write_text("other"),
    "a change that hides itself": same_size_and_time,
    "mode only": lambda root: (root / "keep").chmod(0o4711),
    "mode of a directory": lambda root: (root / "etc/deep").chmod(0o1700),
    "mode of the root": chmod_root,
    "time only": lambda root: os.utime(root / "keep", (5, 5)),
    "attribute of a file": lambda root: os.setxattr(root / "keep", "user.test", b"v"),
    "attribute of a directory": lambda root: os.setxattr(root / "etc", "user.test", b"v"),
    "removed file": lambda root: (root / "etc/passwd").unlink(),
    "removed link": lambda root: (root / "link").unlink(),
    "removed directory": lambda root: shutil.rmtree(root / "etc"),
    "removed locked directory": lambda root: shutil.rmtree(root / "locked"),
    "all removed": lambda root: [remove_tree(str(p)) for p in list(root.iterdir())],
    "directory replaced": replace_directory,
    "directory by file": replace_by_file,
    "directory by link": replace_by_link,
    "link by directory": replace_link_by_directory,
    "link retargeted": lambda root: [(root / "link").unlink(), (root / "link").symlink_to("x")],
    "file renamed": lambda root: (root / "keep").rename(root / "etc/kept"),
    "directory moved": lambda root: shutil.move(root / "etc/deep", root / "usr/deep"),
    "hard links": hard_links,
    "odd names": long_names,
    "fifo": lambda root: os.mkfifo(root / "etc/pipe", 0o604),
    "holes": sparse,
    "set-user-ID": lambda root: (root / "usr/bin/tool").chmod(0o6555),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_chain_gives_what_was_done_and_layers_below_stay(on: Any, change: Change) -> None:
    def work(store: Storage, snapshotter: Snapshotter) -> None:
        expected = Path(store.tmp, "expected")
        expected.mkdir()
        base(expected)
        first = apply(snapshotter, (), base)
        # Made anew by a snapshotter that remembers nothing, and as the next step of the same one.
        fresh = store.snapshotter(snapshotter.name)
        with fresh.view(first) as root:
            before = _timeless(look(Path(root)))
        assert before == _timeless(look(expected))

        change(expected)
        second = apply(snapshotter, first, change)
        third = apply(snapshotter, second, lambda root: (root / "more").write_text("m"))
        (expected / "more").write_text("m")

        for name in NAMES:
            with store.snapshotter(name).view(third) as root:
                assert _timeless(look(Path(root))) == _timeless(look(expected)), name
        with fresh.view(first) as root:
            assert _timeless(look(Path(root))) == before

    on(work)


def _timeless(seen: dict[str, tuple[object, ...]]) -> dict[str, tuple[object, ...]]:
    """Without the times of files that the tests themselves have just written."""
    return {
        name: tuple(x for x in row if not (isinstance(x, int) and x > 1_700_000_000 * 10**9))
        for name, row in seen.items()
    }


def test_changes_made_at_once_after_prepare_are_seen(on: Any) -> None:
    def work(store: Storage, snapshotter: Snapshotter) -> None:
        chain = apply(snapshotter, (), lambda root: (root / "f").write_text("00"))
        for n in range(30):
            chain = apply(snapshotter, chain, lambda root, n=n: _rewrite(root / "f", f"{n:02}"))
            with open(f"{store.layers.tree(chain[-1])}/f") as file:
                assert file.read() == f"{n:02}"

    on(work)


def _rewrite(path: Path, text: str) -> None:
    with open(path, "r+") as file:
        file.write(text)


def test_a_layer_holds_only_what_changed(on: Any) -> None:
    def work(store: Storage, snapshotter: Snapshotter) -> None:
        chain = apply(snapshotter, (), base)
        chain = apply(snapshotter, chain, lambda root: (root / "etc/deep/file").write_text("x"))
        chain = apply(snapshotter, chain, lambda root: (root / "etc/passwd").unlink())

        def names(layer: LayerId) -> list[str]:
            tree = Path(store.layers.tree(layer))
            return sorted(str(p.relative_to(tree)) for p in tree.rglob("*"))

        assert names(chain[1]) == ["etc", "etc/deep", "etc/deep/file"]
        assert names(chain[2]) == ["etc", "etc/passwd"]
        hidden = os.lstat(f"{store.layers.tree(chain[2])}/etc/passwd")
        assert stat.S_ISCHR(hidden.st_mode)
        assert hidden.st_rdev == 0

    on(work)


def test_a_discarded_draft_leaves_nothing_and_discard_never_fails(on: Any) -> None:
    def work(store: Storage, snapshotter: Snapshotter) -> None:
        chain = apply(snapshotter, (), base)
        draft = snapshotter.prepare(chain)
        base_link = Path(draft.root, "new")
        base_link.mkdir()
        (base_link / "f").write_text("x")
        base_link.chmod(0)
        snapshotter.discard(draft)
        snapshotter.discard(draft)
        assert not os.path.exists(draft.root)
        with snapshotter.view(chain) as root:
            assert not os.path.exists(f"{root}/new")
        assert store.layers.all() == list(chain)

    on(work)


def test_two_drafts_of_one_chain_do_not_meet(on: Any) -> None:
    def work(store: Storage, snapshotter: Snapshotter) -> None:
        chain = apply(snapshotter, (), base)
        one, two = snapshotter.prepare(chain), snapshotter.prepare(chain)
        Path(one.root, "keep").write_text("one")
        Path(two.root, "other").write_text("two")
        left = (*chain, snapshotter.commit(one, {}))
        right = (*chain, snapshotter.commit(two, {}))
        assert not os.path.exists(f"{one.root}/keep"), "it is no longer mounted"
        with snapshotter.view(left) as a, snapshotter.view(right) as b:
            assert Path(a, "keep").read_text() == "one"
            assert not os.path.exists(f"{a}/other")
            assert Path(b, "keep").read_text() == "keep"
            assert Path(b, "other").read_text() == "two"

    on(work)


def test_a_view_cannot_be_written_through(on: Any) -> None:
    def work(store: Storage, snapshotter: Snapshotter) -> None:
        chain = apply(snapshotter, (), base)
        for _ in range(2):
            with snapshotter.view(chain) as root:
                with pytest.raises(OSError, match="Read-only"):
                    Path(root, "keep").write_text("harm")
                assert Path(root, "keep").read_text() == "keep"
        with snapshotter.view(()) as root:
            assert os.listdir(root) == []

    on(work)


def test_names_may_come_and_go_and_the_layers_stay(on: Any) -> None:
    def work(store: Storage, snapshotter: Snapshotter) -> None:
        chain = apply(snapshotter, (), base)
        layer = Path(store.layers.tree(chain[0]))
        before = look(layer)
        draft = snapshotter.prepare(chain, for_names=True)
        root = Path(draft.root)
        assert _timeless(look(root)) == _timeless(before)
        shutil.rmtree(root / "etc")
        (root / "keep").unlink()
        (root / "keep").write_text("another")
        (root / "link").unlink()
        (root / "usr/bin").chmod(0o700)
        os.utime(root / "usr", (5, 5))
        assert look(layer) == before
        snapshotter.discard(draft)
        assert look(layer) == before
        assert not os.path.exists(f"{root}/usr")

    on(work)


def test_what_only_reads_copies_no_file(tmp_path: Path, in_userns: InUserns) -> None:
    """But what a layer holds for overlayfs alone is not shown."""

    def work() -> None:
        with open_storage(str(tmp_path / "s")) as store, store.lock():
            chain = apply(store.snapshotter("copy"), (), base)
            layer = Path(store.layers.tree(chain[0]))
            os.setxattr(layer / "etc/passwd", "user.overlay.origin", b"")
            snapshotter = store.snapshotter("copy")  # one that has no tree yet
            draft = snapshotter.prepare(chain, for_names=True)
            with snapshotter.view(chain) as seen:
                for root in (Path(draft.root), Path(seen)):
                    assert (root / "usr/bin/su").samefile(layer / "usr/bin/su")
                    assert (root / "link").lstat().st_ino == (layer / "link").lstat().st_ino
                    assert not (root / "etc/passwd").samefile(layer / "etc/passwd")
                    assert os.listxattr(root / "etc/passwd") == []
                    assert (root / "etc/passwd").read_text() == "etc/passwd"
            snapshotter.discard(draft)
        assert os.listdir(store.tmp) == ["lock"]
        remove_tree(str(tmp_path))

    in_userns(work)


def _drop_capabilities() -> None:
    """capset(2) to none: from here on this process mounts nothing."""
    header = struct.pack("<Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    assert ctypes.CDLL(None).capset(header, bytes(24)) == 0


def test_where_nothing_can_be_mounted_readers_get_files_of_their_own(
    tmp_path: Path, in_userns: InUserns
) -> None:
    def work() -> None:
        with open_storage(str(tmp_path / "s")) as store, store.lock():
            chain = apply(store.snapshotter("copy"), (), lambda r: (r / "keep").write_text("keep"))
            _drop_capabilities()
            with store.snapshotter("copy").view(chain) as root:
                Path(root, "keep").write_text("harm")
            assert Path(store.layers.tree(chain[0]), "keep").read_text() == "keep"
        assert os.listdir(store.tmp) == ["lock"]
        remove_tree(str(tmp_path))

    in_userns(work)


def test_a_missing_layer_is_an_error_that_names_it_and_leaves_nothing(on: Any) -> None:
    def work(store: Storage, snapshotter: Snapshotter) -> None:
        chain = apply(snapshotter, (), base)
        gone = LayerId("abcdefgh2345")
        for bad in ((*chain, gone), (gone,)):
            with pytest.raises(StorageError, match="layer abcdefgh2345 is gone"):
                snapshotter.prepare(bad)
            with pytest.raises(StorageError, match="layer abcdefgh2345 is gone"):
                snapshotter.view(bad).__enter__()

    on(work)


def test_a_deep_tree_can_be_built_on(on: Any) -> None:
    def work(store: Storage, snapshotter: Snapshotter) -> None:
        def dig(root: Path) -> None:
            here = os.open(root, os.O_RDONLY)
            for _ in range(1500):
                os.mkdir("d" * 20, dir_fd=here)
                below = os.open("d" * 20, os.O_RDONLY, dir_fd=here)
                os.close(here)
                here = below
            os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=here))
            os.close(here)

        chain = apply(snapshotter, (), dig)
        apply(store.snapshotter(snapshotter.name), chain, lambda root: (root / "x").touch())

    on(work)


@pytest.mark.parametrize("depth", [130, 300])
def test_long_chains_give_the_same_tree(on: Any, depth: int) -> None:
    def work(store: Storage, snapshotter: Snapshotter) -> None:
        expected = Path(store.tmp, "expected")
        expected.mkdir()
        chain: Chain = ()
        for n in range(depth):
            _nth_change(n, expected)
            chain = apply(snapshotter, chain, lambda root, n=n: _nth_change(n, root))
        for name in NAMES:
            with store.snapshotter(name).view(chain) as root:
                assert _timeless(look(Path(root))) == _timeless(look(expected)), name

    on(work)


def _nth_change(n: int, root: Path) -> None:
    """Add, change, hide, replace: so that each merged layer has something of everything."""
    where = root / f"dir{n % 7}"
    if n % 23 == 11 and where.exists():
        shutil.rmtree(where)
        if n % 2:
            where.symlink_to(f"dir{(n + 1) % 7}")
        else:
            where.write_text("file")
        return
    if where.is_symlink() or where.is_file():
        where.unlink()
    (where / f"sub{n % 3}").mkdir(parents=True, exist_ok=True)
    where.chmod(0o700 + n % 8)
    file = where / f"sub{n % 3}" / f"f{n % 5}"
    file.unlink(missing_ok=True)  # overlayfs parts hard links when one is written through
    file.write_text(str(n))
    if n % 4 == 0:
        os.link(file, where / f"l{n}")
    if n % 6 == 5:
        shutil.rmtree(where / f"sub{n % 3}")
        (where / f"sub{n % 3}").mkdir()


def test_owners_of_links_end_with_what_hides_or_replaces_them(on: Any) -> None:
    def work(store: Storage, snapshotter: Snapshotter) -> None:
        def step(chain: Chain, change: Change, owners: dict[str, tuple[int, int]]) -> Chain:
            draft = snapshotter.prepare(chain)
            change(Path(draft.root))
            return (*chain, snapshotter.commit(draft, owners))

        def links(root: Path) -> None:
            for name in ("gone", "replaced", "stays", "d/under", "e/under", "f/under"):
                (root / name).parent.mkdir(exist_ok=True)
                (root / name).symlink_to("x")

        def upset(root: Path) -> None:
            (root / "gone").unlink()
            (root / "replaced").unlink()
            (root / "replaced").symlink_to("y")
            shutil.rmtree(root / "d")
            shutil.rmtree(root / "e")
            (root / "e").mkdir()
            (root / "f/new").touch()

        all_of_them = ("gone", "replaced", "stays", "d/under", "e/under", "f/under")
        chain = step((), links, dict.fromkeys(all_of_them, (1, 2)))
        assert set(merged_owners(store.layers, chain)) == set(all_of_them)
        chain = step(chain, upset, {"new": (3, 4)})
        assert merged_owners(store.layers, chain) == {
            "stays": (1, 2),
            "f/under": (1, 2),
            "new": (3, 4),
        }

    on(work)


def test_the_best_one_is_chosen_and_an_unknown_one_refused(
    tmp_path: Path, in_userns: InUserns
) -> None:
    def work() -> str:
        with open_storage(str(tmp_path / "s")) as store:
            with pytest.raises(StorageError, match="no snapshotter is named 'zfs'"):
                store.snapshotter("zfs")
            name = store.snapshotter().name
            assert os.listdir(store.tmp) == ["lock"]
            return name

    assert in_userns(work) == "overlay"
