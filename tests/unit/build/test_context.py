"""The context's digests: what changes them, what does not, and what a rebuild may not read."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trees

from ch_image.build import statindex
from ch_image.build.context import Context, read_rules
from ch_image.build.copy import copy
from ch_image.build.copyspec import CopySpec, choose, content
from ch_image.build.digest import digest
from ch_image.build.source import ImageSource
from ch_image.build.statindex import Memo
from ch_image.dockerfile import ignore
from ch_image.errors import BuildError
from ch_image.fs.remove import remove_tree

TREE = """
d/a = 1
d/b 755 = 2
d/e/c = 3
d/l -> a
d/p |
f = 4
"""
LONG_AGO = 1_600_000_000_000_000_000


def digest_of(root: Path, *sources: str, digests: Path | None = None, **options: object) -> str:
    """The digest of a COPY's sources in a new build."""
    rules = options.pop("rules", None)
    assert rules is None or isinstance(rules, ignore.Ignore)
    context = Context(str(root), rules, str(digests) if digests else "")
    spec = CopySpec(sources, "/x/", **options)  # type: ignore[arg-type]
    try:
        return digest(context, choose(spec, context))
    finally:
        context.save()
        context.close()


def settle(root: Path) -> None:
    """Wait until the timestamps of now are safely in the past."""
    time.sleep(0.05)


def rename(root: Path) -> None:
    (root / "d/a").rename(root / "d/z")


def touch(root: Path) -> None:
    os.utime(root / "d/a", ns=(0, 99))


CHANGES: list[tuple[str, Callable[[Path], object], bool]] = [
    ("nothing", lambda root: None, True),
    ("content", lambda root: (root / "d/a").write_text("9"), False),
    ("content deeper", lambda root: (root / "d/e/c").write_text("9"), False),
    ("content to the same", lambda root: (root / "d/a").write_text("1"), True),
    ("mode", lambda root: (root / "d/a").chmod(0o600), False),
    ("mode of a directory", lambda root: (root / "d/e").chmod(0o700), False),
    ("mode of the directory itself", lambda root: (root / "d").chmod(0o700), True),
    ("name", rename, False),
    ("time", touch, True),
    ("time of a directory", lambda root: os.utime(root / "d/e", ns=(0, 99)), True),
    ("a new file", lambda root: (root / "d/new").write_text(""), False),
    ("a new directory", lambda root: (root / "d/new").mkdir(), False),
    ("a removed file", lambda root: (root / "d/a").unlink(), False),
    ("a link's target", lambda root: (root / "d/l").unlink() or (root / "d/l").symlink_to("b"),
     False),
    ("a link's target's content, elsewhere", lambda root: (root / "f").write_text("9"), True),
    ("a file to a link", lambda root: (root / "d/a").unlink() or (root / "d/a").symlink_to("1"),
     False),
    ("a file to a directory", lambda root: (root / "d/a").unlink() or (root / "d/a").mkdir(),
     False),
    ("a FIFO to a file", lambda root: (root / "d/p").unlink() or (root / "d/p").write_text(""),
     False),
    ("an attribute", lambda root: os.setxattr(root / "d/a", "user.note", b"1"), False),
    ("an attribute that stays behind",
     lambda root: os.setxattr(root / "d/a", "user.containers.override_stat", b"1:1:0644:file"),
     True),
    ("one file under two names", lambda root: (root / "d/b").unlink()
     or os.link(root / "d/a", root / "d/b"), False),
    ("another name outside", lambda root: os.link(root / "d/a", root / "g"), True),
]  # fmt: skip


@pytest.mark.parametrize("remembered", [False, True])
@pytest.mark.parametrize(("name", "change", "same"), CHANGES, ids=[c[0] for c in CHANGES])
def test_the_digest_knows_what_matters(
    name: str, change: Callable[[Path], object], same: bool, remembered: bool, tmp_path: Path
) -> None:
    root = trees.plant(tmp_path / "context", TREE)
    digests = tmp_path / "digests" if remembered else None
    settle(root)
    before = digest_of(root, "d", digests=digests)
    change(root)
    assert (digest_of(root, "d", digests=digests) == before) is same
    assert (digest_of(root, "d") == before) is same


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("d",), ("d/",), True),
        (("d",), ("/d/.",), True),
        (("d",), ("d/*",), False),
        (("d/a",), ("d/l",), False),  # the name counts in a destination directory
        (("d/a", "f"), ("f", "d/a"), False),
        (("d/a",), ("d/[a]",), True),
        (("d",), ("d", "f"), False),
    ],
)
def test_the_digest_of_other_sources(
    one: tuple[str, ...], other: tuple[str, ...], same: bool, tmp_path: Path
) -> None:
    root = trees.plant(tmp_path / "context", TREE)
    assert (digest_of(root, *one) == digest_of(root, *other)) is same


def test_what_is_left_out_does_not_count(tmp_path: Path) -> None:
    root = trees.plant(tmp_path / "context", TREE)
    rules = ignore.from_patterns(["d/b"])
    before = digest_of(root, "d", rules=rules), digest_of(root, "d", exclude=("b",))
    (root / "d/b").write_text("9")
    assert (digest_of(root, "d", rules=rules), digest_of(root, "d", exclude=("b",))) == before
    assert digest_of(root, "d", rules=ignore.from_patterns(["d/a"])) != before[0]


def test_a_rebuild_reads_no_file(tmp_path: Path) -> None:
    root = trees.plant(tmp_path / "context", TREE)
    settle(root)
    before = digest_of(root, "d", "f", digests=tmp_path / "digests")
    opened = _reads()
    assert digest_of(root, "d", "f", digests=tmp_path / "digests") == before
    assert _reads() - opened < 10_000  # the index itself, not what follows
    (root / "d/big").write_bytes(bytes(3_000_000))
    settle(root)
    changed = digest_of(root, "d", "f", digests=tmp_path / "digests")
    opened = _reads()
    assert digest_of(root, "d", "f", digests=tmp_path / "digests") == changed
    assert _reads() - opened < 10_000


def _reads() -> int:
    """Bytes that this process has read so far."""
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("rchar:"):
            return int(line.split()[1])
    raise AssertionError("no rchar")


def test_a_file_that_was_young_when_it_was_read_is_read_again(tmp_path: Path) -> None:
    root = trees.plant(tmp_path / "context", "old = 1\nyoung = 1")
    settle(root)
    (root / "young").write_text("2")
    before = digest_of(root, ".", digests=tmp_path / "digests")
    # A second change in the same tick of the clock would leave these rows as they are.
    context = Context(str(root), None, str(tmp_path / "digests"))
    assert context.index is not None
    rows = {row[0]: row for row in context.listing("")}
    known = context.index.files("")
    assert known["old"][0] == statindex.stat_key(rows["old"])
    assert known["young"][0] != statindex.stat_key(rows["young"])
    settle(root)
    assert digest_of(root, ".", digests=tmp_path / "digests") == before


@pytest.mark.parametrize(
    ("changed", "read", "doubtful"),
    [
        (LONG_AGO + 5, LONG_AGO + 10**9, False),
        (LONG_AGO + 5, LONG_AGO + 10**7, True),
        (LONG_AGO + 5, LONG_AGO, True),  # a clock that runs behind
        (LONG_AGO, LONG_AGO + 10**9, True),  # a file system with whole seconds
        (LONG_AGO, LONG_AGO + 3 * 10**9, False),
    ],
)
def test_a_file_is_racy(changed: int, read: int, doubtful: bool) -> None:
    row = ("a", 0o100644, 1, 0, changed, 1, 1, 1)
    assert statindex.racy(row, read) is doubtful


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: data[:60] + b"\xff" + data[61:],
        lambda data: b"another format",
        lambda data: b"ch-image context digests 2\n" + data[27:],
    ],
)
def test_a_damaged_index_is_as_good_as_none(
    damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    root = trees.plant(tmp_path / "context", TREE)
    settle(root)
    before = digest_of(root, "d", digests=tmp_path / "digests")
    (index,) = (tmp_path / "digests").iterdir()
    good = index.read_bytes()
    index.write_bytes(damage(good))
    assert digest_of(root, "d", digests=tmp_path / "digests") == before
    assert index.read_bytes() == good


def test_what_a_killed_process_was_writing_goes_away(tmp_path: Path) -> None:
    root = trees.plant(tmp_path / "context", TREE)
    old, young = tmp_path / "digests/x.1.new", tmp_path / "digests/y.2.new"
    old.parent.mkdir()
    old.write_text("")
    young.write_text("")
    os.utime(old, (0, 0))
    digest_of(root, "d", digests=tmp_path / "digests")
    assert young.exists()
    assert not old.exists()


def test_a_file_that_changes_between_digest_and_copy_is_refused(tmp_path: Path) -> None:
    root = trees.plant(tmp_path / "context", TREE)
    image = trees.plant(tmp_path / "image", "")
    for name in ("d/a", "d/e/c"):
        context, spec = Context(str(root)), CopySpec(("d",), "/x")
        selection = choose(spec, context)
        digest(context, selection)
        (root / name).write_text("changed")
        with pytest.raises(BuildError, match=f"{name} in the build context changes"):
            copy(spec, context, str(image), selection=selection)


def test_a_directory_that_becomes_a_link_is_not_followed(tmp_path: Path) -> None:
    root = trees.plant(tmp_path / "context", TREE)
    outside = trees.plant(tmp_path / "outside", "c = secret")
    image = trees.plant(tmp_path / "image", "")
    context, spec = Context(str(root)), CopySpec(("d",), "/x")
    selection = choose(spec, context)
    digest(context, selection)
    (root / "d/e/c").unlink()
    (root / "d/e").rmdir()
    (root / "d/e").symlink_to(outside)
    with pytest.raises(BuildError, match="cannot read d/e"):
        copy(spec, context, str(image), selection=selection)
    assert "secret" not in str(trees.read(image))


def test_no_link_leads_out_of_the_context(tmp_path: Path) -> None:
    trees.plant(tmp_path, "secret = s\noutside/secret = s")
    root = trees.plant(
        tmp_path / "context", f"abs -> {tmp_path}/secret\nup -> ../secret\ndir -> ../outside\na"
    )
    context = Context(str(root))
    for source in ("abs", "up", "dir", "dir/secret", "dir/*", "../secret", f"{tmp_path}/secret"):
        with pytest.raises(BuildError):
            choose(CopySpec((source,), "/"), context)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    root = trees.plant(tmp_path / "context", "d/a\nd/b 000\nc/ 000")
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    with pytest.raises(BuildError, match="cannot read d/b in the build context: Permission"):
        digest_of(root, "d")
    with pytest.raises(BuildError, match="cannot read c in the build context"):
        digest_of(root, "c")
    (root / "c").chmod(0o755)


def test_fifos_are_never_opened(tmp_path: Path) -> None:
    root = trees.plant(tmp_path / "context", "d/p |\np |")
    digest_of(root, "d", "p")  # would wait for a writer


def test_only_what_is_asked_for_is_looked_at(tmp_path: Path) -> None:
    root = trees.plant(tmp_path / "context", "a = 1\nhuge/ 000")
    assert digest_of(root, "a")
    (root / "huge").chmod(0o755)


@pytest.mark.parametrize("depth", [300, 1100])
def test_deep_directories(depth: int, tmp_path: Path) -> None:
    root = trees.plant(tmp_path / "context", "d/")
    fd = os.open(root / "d", os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("n", dir_fd=fd)
        below = os.open("n", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("end", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=fd))
    os.close(fd)
    image = trees.plant(tmp_path / "image", "")
    context, spec = Context(str(root)), CopySpec(("d",), "/x")
    try:
        digest(context, choose(spec, context))
        assert copy(spec, context, str(image)).files == 1
    finally:  # too deep for pytest's own removal
        remove_tree(str(root))
        remove_tree(str(image))


def test_names_that_are_no_text(tmp_path: Path) -> None:
    root = trees.plant(tmp_path / "context", "d/")
    name = b"\xff\xfe\n\x01"
    with open(os.fsencode(root / "d") + b"/" + name, "w") as file:
        file.write("1")
    image = trees.plant(tmp_path / "image", "")
    settle(root)
    first = digest_of(root, "d", digests=tmp_path / "digests")
    assert digest_of(root, "d", digests=tmp_path / "digests") == first
    copy(CopySpec(("d",), "/x"), Context(str(root)), str(image))
    assert os.listdir(os.fsencode(image / "x")) == [name]


def test_many_files_by_several_threads_are_all_copied_and_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ch_image.build.spread._TRIAL", 0)
    monkeypatch.setattr("ch_image.build.spread._BIG", -1)
    root = trees.plant(tmp_path / "context", "\n".join(f"d{i % 7}/f{i} = {i}" for i in range(1000)))
    image = trees.plant(tmp_path / "image", "")
    threaded = digest_of(root, ".")
    done = copy(CopySpec((".",), "/"), Context(str(root)), str(image))
    assert done.files == 1000
    assert trees.read(image) == trees.read(root)
    (root / "d3/f3").chmod(0o000)
    if os.geteuid() != 0:
        with pytest.raises(BuildError, match="d3/f3"):
            digest_of(root, ".")
    monkeypatch.undo()
    (root / "d3/f3").chmod(0o644)
    assert digest_of(root, ".") == threaded


def test_the_ignore_file_beside_the_dockerfile_wins(tmp_path: Path) -> None:
    root = trees.plant(tmp_path / "context", ".dockerignore = a\nsub/X.dockerignore = b\nsub/X")
    for dockerfile, hidden in [("sub/X", "b"), ("sub/Y", "a"), ("", "a")]:
        found = read_rules(str(root), str(root / dockerfile) if dockerfile else "")
        assert found is not None
        assert [n for n in "ab" if found[1].excluded(n)] == [hidden]
    (root / ".dockerignore").unlink()
    assert read_rules(str(root)) is None


def test_an_image_that_is_known_is_not_looked_at(tmp_path: Path) -> None:
    root = trees.plant(tmp_path / "image", "d/a = 1")
    memo, asked = Memo(str(tmp_path / "digests")), []

    def ask(identity: str, memo: Memo, *sources: str, **options: bool) -> str:
        def mount() -> str:
            asked.append(identity)
            return str(root)

        source = ImageSource(mount, dict, identity)
        return content(CopySpec(sources or ("d",), "/x"), source, memo=memo, **options)

    first = ask("layers", memo)
    (root / "d/a").write_text("2")
    assert ask("layers", memo) == first
    assert ask("layers", Memo(str(tmp_path / "digests"))) == first
    assert asked == ["layers"]
    assert ask("other layers", memo) != first
    assert len({first, ask("layers", memo, "d/a"), ask("layers", memo, "d", "d/a")}) == 3
    ask("layers", memo, owners=True)
    assert len(asked) == 5


def test_a_damaged_memo_costs_work_only(tmp_path: Path) -> None:
    root = trees.plant(tmp_path / "image", "d/a = 1")
    source, spec = ImageSource(str(root), {}, "layers"), CopySpec(("d",), "/x")
    first = content(spec, source, memo=Memo(str(tmp_path)))
    for damage in (b"", b"\xff\n", b"a b\n" * 3, b"0" * 64 + b" " + b"1" * 63):
        (tmp_path / "images").write_bytes(damage)
        assert content(spec, source, memo=Memo(str(tmp_path))) == first


def test_owners_of_an_image_count_only_where_they_are_kept(tmp_path: Path) -> None:
    plain = trees.plant(tmp_path / "plain", "d/a = 1\nd/e/\nd/l -> a")
    owned = trees.plant(tmp_path / "owned", "d/a @5:6 = 1\nd/e/ @5:6\nd/l -> a")
    spec = CopySpec(("d",), "/x")

    def ask(root: Path, links: dict[str, tuple[int, int]], owners: bool) -> str:
        source = ImageSource(str(root), links)
        return digest(source, choose(spec, source), owners=owners)

    assert ask(plain, {}, False) == ask(owned, {"d/l": (1, 1)}, False)
    assert len({ask(plain, {}, True), ask(owned, {}, True), ask(owned, {"d/l": (1, 1)}, True)}) == 3
