"""verify: each kind of damage is found, said in a line, and repaired where that can be."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import conftest
import pytest
import world

pytestmark = pytest.mark.userns
Enter = Callable[[Callable[[], object]], object]
NOTHING_WRONG = "0 repaired, 0 damaged\n"
RECIPE = """FROM {base}
RUN echo one > /one && chown app /one
RUN echo two > /two
"""


@pytest.fixture(scope="module")
def template(
    tmp_path_factory: pytest.TempPathFactory, registry: world.Registry, base_image: str
) -> Iterator[Path]:
    """A storage with something of everything: pulled, built, pushed, imported, deleted."""
    place = tmp_path_factory.mktemp("verify")
    tool = world.Tool(place / "storage", place)
    tool("pull", base_image, "base").ok()
    tool("build", "-t", "built", "-", stdin=RECIPE.format(base="base")).ok()
    tool("build", "-t", "sent", "-", stdin="FROM base\nRUN echo three > /three\n").ok()
    tool("push", "sent", registry.ref("sent:latest"), env={"SOURCE_DATE_EPOCH": "1000000"}).ok()
    (place / "tree/bin").mkdir(parents=True)
    (place / "tree/bin/tool").write_text("tool")
    tool("import", place / "tree", "alone").ok()
    tool("tag", "alone", "gone").ok()
    tool("delete", "gone").ok()
    tool("manifest", "create", "many", "built").ok()
    tool.run("ch-run", "built", "--", "true").ok()
    yield tool.storage
    conftest.remove_tree(tool.storage)


@pytest.fixture
def tool(template: Path, tmp_path: Path, in_userns: Enter) -> Iterator[world.Tool]:
    """Over a copy of the template."""
    copy = tmp_path / "storage"
    in_userns(lambda: subprocess.run(["cp", "-a", template, copy], check=True).returncode)
    yield world.Tool(copy, tmp_path)
    conftest.remove_tree(copy)


def layers_of(tool: world.Tool, image: str) -> list[str]:
    """The names of an image's layers, bottom first."""
    (path,) = (tool.storage / "images").glob(f"*{image}*")
    found: list[str] = json.loads(path.read_bytes().split(b"\n")[1])["layers"]
    return found


def layer_blob(tool: world.Tool, layer: str) -> Path:
    record = (tool.storage / "layers" / layer / "record").read_text().split("\n")[1]
    digest = json.loads(record)["blob"]["digest"]
    return tool.storage / "blobs/sha256" / digest.removeprefix("sha256:")


def manifest_blob(tool: world.Tool) -> Path:
    blobs = (tool.storage / "blobs/sha256").iterdir()
    return next(path for path in blobs if b'"layers"' in path.read_bytes())


def overwrite(path: Path, at: int = -2) -> None:
    """One byte becomes another; size and time stay, as when a disk or a cable is bad."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[at] ^= 0x15
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def base(tool: world.Tool) -> str:
    return layers_of(tool, "base")[0]


def top(tool: world.Tool, image: str) -> str:
    return layers_of(tool, image)[-1]


def tree(tool: world.Tool, layer: str) -> Path:
    return tool.storage / "layers" / layer / "t"


def step(tool: world.Tool, text: str) -> Path:
    return next(
        path
        for path in (tool.storage / "cache").iterdir()
        if path.is_file() and text.encode() in path.read_bytes()
    )


def memo(tool: world.Tool) -> Path:
    tool.run("ch-run", "built", "--", "true").ok()  # of the copy, whose inodes are others
    return tool.storage / "running/built"


def replace_trees(tool: world.Tool) -> None:
    path, swapped = memo(tool), base(tool)
    words = path.read_bytes()
    for layer in layers_of(tool, "built")[1:]:
        words = words.replace(f"layers/{layer}/t".encode(), f"layers/{swapped}/t".encode())
    path.write_bytes(words)


def lose(path: Path) -> None:
    conftest.remove_tree(path)


def dangling(tool: world.Tool) -> None:
    lose(tool.storage / "layers" / top(tool, "built"))


def blob_and_record(tool: world.Tool) -> None:
    overwrite(layer_blob(tool, base(tool)))
    (tree(tool, base(tool)).parent / "record").write_bytes(b"")


OWNER = "user.containers.override_stat"
Damage = Callable[[world.Tool], object]
# what is done -> what is said
REPAIRED: dict[str, tuple[Damage, str]] = {
    "a layer's blob": (
        lambda t: overwrite(layer_blob(t, base(t))),
        r"blob sha256:\w+: damaged: removed",
    ),
    "a manifest": (
        lambda t: overwrite(manifest_blob(t), 5),
        r"blob sha256:\w+: damaged: removed",
    ),
    "a blob cut short": (
        lambda t: os.truncate(layer_blob(t, base(t)), 100),
        r"blob sha256:\w+: damaged",
    ),
    "a file of a pulled layer": (
        lambda t: overwrite(tree(t, base(t)) / "etc/os-release"),
        r"layer \w+ \(of .*base.*\): its tree is not what it was: unpacked again",
    ),
    "a mode": (
        lambda t: (tree(t, base(t)) / "etc/group").chmod(0o666),
        "not what it was: unpacked again",
    ),
    "a link": (
        lambda t: os.rename(tree(t, base(t)) / "bin/cat", tree(t, base(t)) / "bin/sh"),
        "not what it was: unpacked again",
    ),
    "a file too many": (
        lambda t: (tree(t, base(t)) / "etc/evil").touch(),
        "not what it was: unpacked again",
    ),
    "a file lost": (
        lambda t: (tree(t, base(t)) / "etc/passwd").unlink(),
        "not what it was: unpacked again",
    ),
    "an owner": (
        lambda t: os.setxattr(tree(t, base(t)) / "home/app", OWNER, b"0:0:040755"),
        "not what it was: unpacked again",
    ),
    "a file of a pushed layer": (
        lambda t: overwrite(tree(t, top(t, "sent")) / "three"),
        r"layer \w+ \(of .*sent.*\): its tree is not what it was: unpacked again",
    ),
    "a pulled layer's tree": (lambda t: lose(tree(t, base(t))), "its tree is gone: unpacked again"),
    "a pulled layer": (lambda t: lose(tree(t, base(t)).parent), "it is gone: unpacked again"),
    "a pulled layer's record": (
        lambda t: overwrite(tree(t, base(t)).parent / "record"),
        "its record is damaged: unpacked again",
    ),
    "a cached step": (
        lambda t: overwrite(step(t, "echo one")),
        r"cached step .*: its record is damaged: forgotten",
    ),
    "a deleted image": (
        lambda t: overwrite(next((t.storage / "deleted").iterdir())),
        r"deleted image .*gone.*: forgotten",
    ),
    "what ch-run noted": (replace_trees, "what ch-run noted of built: damaged: removed"),
    "a killed process's scratch": (
        lambda t: (t.storage / "tmp/killed/deep/er").mkdir(parents=True),
        "left over by 1 dead processes: removed",
    ),
}
STAYS: dict[str, tuple[Damage, str]] = {
    "an image's record": (
        lambda t: overwrite(next((t.storage / "images").glob("*alone*"))),
        r"record of image .*alone.* is damaged",
    ),
    "a built layer's tree": (dangling, r"layer \w+ \(of .*built.*\): it is gone"),
    "a built layer's record": (
        lambda t: overwrite(tree(t, top(t, "built")).parent / "record"),
        r"its record is damaged",
    ),
    "an index's record": (
        lambda t: overwrite(next((t.storage / "images/.indexes").iterdir()), 1),
        r"record of index .*many.* is damaged",
    ),
    "blob and tree of a layer": (
        blob_and_record,
        r"layer \w+ \(of .*base.*\): its record is damaged",
    ),
}


def test_what_is_whole_is_left_alone(tool: world.Tool) -> None:
    before = {p: p.stat().st_mtime_ns for p in tool.storage.rglob("*") if "record" in p.name}
    done = tool("verify").ok()
    assert done.out == NOTHING_WRONG
    assert re.search(r"verified: 4 images, \d+ blobs; 2 layers compared, 3 only read", done.err)
    assert before == {p: p.stat().st_mtime_ns for p in before}


@pytest.mark.parametrize("kind", REPAIRED)
def test_damage_is_repaired(kind: str, tool: world.Tool) -> None:
    damage, said = REPAIRED[kind]
    damage(tool)
    done = tool("verify").ok()
    assert re.search(said, done.out), done.out
    assert "Traceback" not in done.err
    assert tool("verify").ok().out == NOTHING_WRONG
    show = ("sh", "-c", "cat /one /two; grep -c app: /etc/passwd")
    assert tool.run("ch-run", "--no-passwd", "built", "--", *show).ok().out == "one\ntwo\n1\n"
    tool("build", "-t", "again", "-", stdin=RECIPE.format(base="base")).ok()


@pytest.mark.parametrize("kind", STAYS)
def test_damage_that_nobody_can_repair_is_named(kind: str, tool: world.Tool) -> None:
    damage, said = STAYS[kind]
    damage(tool)
    first = tool("verify")
    assert first.code == 1, first
    assert re.search(said, first.out), first.out
    assert re.search(r"^\d repaired, [1-9] damaged$", first.out, re.M)
    again = tool("verify")
    assert again.code == 1
    assert re.search(said, again.out), again.out
    tool("list").ok()


def test_the_next_build_does_again_what_is_gone(tool: world.Tool) -> None:
    dangling(tool)
    out = tool("verify").out
    assert re.search("cached step RUN.*echo two.*is damaged: forgotten", out), out
    built = tool("build", "-t", "built", "-", stdin=RECIPE.format(base="base")).ok()
    assert re.search(r"\* RUN.*one", built.err)
    assert re.search(r"\. RUN.*two", built.err)
    assert tool("verify").ok().out == NOTHING_WRONG


def test_the_next_pull_fetches_a_layer_that_cannot_be_trusted(
    tool: world.Tool, base_image: str
) -> None:
    damage, _ = STAYS["blob and tree of a layer"]
    damage(tool)
    assert tool("verify").code == 1
    tool("pull", base_image, "base").ok()
    show = ("--no-passwd", "base", "--", "cat", "/etc/group")
    assert tool.run("ch-run", *show).ok().out == world.GROUP


def test_a_dry_run_changes_nothing(tool: world.Tool) -> None:
    overwrite(tree(tool, base(tool)) / "etc/os-release")
    overwrite(step(tool, "echo one"))
    for _ in range(2):
        done = tool("verify", "--dry-run")
        assert done.code == 1
        assert "would be unpacked again from its blob" in done.out
        assert "would be forgotten" in done.out
        assert "0 repaired, 2 found" in done.out
    assert tool("verify").ok().out.endswith("2 repaired, 0 damaged\n")


def test_a_file_that_is_no_blob_and_a_lost_member_of_an_index_are_mentioned(
    tool: world.Tool,
) -> None:
    (tool.storage / "blobs/sha256/notes.txt").write_text("mine")
    tool("delete", "built").ok()
    done = tool("verify").ok()
    assert "blobs: notes.txt is no blob: left alone" in done.out
    assert re.search(
        "index .*many.* names .*built.*, which is not in storage: left alone", done.out
    )
    assert (tool.storage / "blobs/sha256/notes.txt").exists()
