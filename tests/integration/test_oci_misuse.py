"""Mistakes with containers, through ch-image oci: one clear line each, and nothing left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import oci
import pytest
import world

pytestmark = pytest.mark.userns


@pytest.fixture(scope="module")
def tool(
    base_layout: world.BaseImage, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[world.Tool]:
    """Storage with the image ``base``, mounted at ``bundle``."""
    made = oci.with_base(tmp_path_factory, base_layout)
    top = made.storage.parent
    made("oci", "mount", "base", top / "bundle", "--", "sleep", "1000").ok()
    yield made
    made("oci", "umount", top / "bundle").ok()


@pytest.fixture
def bundle(tool: world.Tool) -> Iterator[Path]:
    """The mounted bundle; no container is left in it."""
    yield tool.storage.parent / "bundle"
    oci.forget(tool)
    assert oci.known(tool) == []


# What is done to container "one" before, what is wrong, what is said.
MISUSE: dict[str, tuple[str, str, str]] = {
    "created twice": ("create", "create -b BUNDLE one", "exists already"),
    "run over another": ("create", "run -b BUNDLE one", "exists already"),
    "started before it is created": ("", "start one", "no container one"),
    "started twice": ("create start", "start one", "it is running"),
    "started after its end": ("create start kill", "start one", "it is stopped"),
    "killed after its end": ("create start kill", "kill one", "it is stopped"),
    "killed when unknown": ("", "kill one", "no container one"),
    "an unknown signal": ("create", "kill -s NOPE one", "no signal is called 'NOPE'"),
    "deleted while it runs": ("create start", "delete one", "it is running"),
    "deleted when unknown": ("", "delete one", "no container one"),
    "asked for when unknown": ("", "state one", "no container one"),
    "attached when unknown": ("", "attach one", "no container one"),
    "entered when unknown": ("", "exec one true", "no container one"),
    "entered after its end": ("create start kill", "exec one true", "it is stopped"),
    "paused before its start": ("create", "pause one", "it is created"),
    "paused when unknown": ("", "pause one", "no container one"),
    "paused after its end": ("create start kill", "pause one", "it is stopped"),
    "resumed without a pause": ("create start", "resume one", "it is running"),
    "changed after its end": ("create start kill", "update --rlimit CPU=9 one", "it is stopped"),
    "changed in nothing": ("create", "update one", "nothing to change"),
    "an ID with a slash": ("", "create -b BUNDLE a/b", "cannot be called 'a/b'"),
    "an ID of dots": ("", "create -b BUNDLE ..", "cannot be called '..'"),
    "an empty ID": ("", "create -b BUNDLE <>", "cannot be called ''"),
    "an ID that is too long": ("", f"create -b BUNDLE {'x' * 300}", "cannot be called"),
    "no bundle": ("", "create one", "no bundle given"),
    "a bundle that is not there": ("", "create -b /nowhere one", "no such bundle"),
    "a directory that is no bundle": ("", "create -b EMPTY one", "not found"),
    "a root that is not there": ("", "create -b ROOTLESS one", "root.path"),
    "bad JSON": ("", "create -b BAD one", "JSON"),
    "a log that cannot be written": ("", "create -b BUNDLE -l /proc/x one", "write the log"),
    "a program that is not there": ("", "run -b WITHOUT one", "nosuchprogram"),
    "no ID": ("", "start", "needs ID"),
    "no command": ("create start", "exec one", "needs CMD"),
}


@pytest.fixture
def places(tool: world.Tool, bundle: Path, tmp_path: Path) -> dict[str, Path]:
    """Bundles good and bad, by the words of the table."""
    good = (bundle / "config.json").read_text()
    texts = {
        "EMPTY": "", "ROOTLESS": good, "BAD": good[:-10],
        "WITHOUT": good.replace('"sleep"', '"nosuchprogram"'),
    }  # fmt: skip
    for name, text in texts.items():
        (tmp_path / name).mkdir()
        if text:
            (tmp_path / name / "config.json").write_text(text)
    (tmp_path / "WITHOUT/rootfs/bin").mkdir(parents=True)
    return {name: tmp_path / name for name in texts} | {"BUNDLE": bundle}


@pytest.mark.parametrize(("before", "words", "message"), MISUSE.values(), ids=MISUSE.keys())
def test_misuse_is_one_line(
    before: str, words: str, message: str, tool: world.Tool, places: dict[str, Path]
) -> None:
    for verb in before.split():
        more = {"create": ["-b", places["BUNDLE"]], "kill": ["-f"]}.get(verb, [])
        tool("oci", verb, *more, "one").ok()
        if verb == "kill":
            oci.wait_for(lambda: oci.containers(tool)["one"] == "stopped")
    known = oci.known(tool)
    full = [places.get(word, word.replace("<>", "")) for word in words.split()]

    done = tool("oci", *full)

    assert message in done.fault()
    assert done.code == (2 if message in USAGE else 1)
    assert oci.known(tool) == known


USAGE = {"no bundle given", "needs ID", "needs CMD", "nothing to change",
         "no signal is called 'NOPE'"}  # fmt: skip


def test_of_two_that_race_for_one_id_one_gets_it(tool: world.Tool, bundle: Path) -> None:
    racing = [tool.start("oci", "create", "-b", bundle, "one") for _ in range(4)]
    texts = [one.communicate()[1] for one in racing]
    assert sorted(one.returncode for one in racing) == [0, 1, 1, 1]
    assert sum("exists already" in text for text in texts) == 3
    assert oci.containers(tool) == {"one": "created"}


def test_delete_with_force_forgives(tool: world.Tool, bundle: Path) -> None:
    tool("oci", "delete", "--force", "one").ok()
    tool("oci", "create", "-b", bundle, "one").ok()
    tool("oci", "delete", "--force", "one").ok()
    assert oci.known(tool) == []


def test_a_bundle_that_cannot_be_read(tool: world.Tool, tmp_path: Path, bundle: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    (closed / "config.json").write_text((bundle / "config.json").read_text())
    (closed / "config.json").chmod(0)
    done = tool("oci", "create", "-b", closed, "one")
    if done.code:  # root may
        assert "Permission denied" in done.fault()
    assert oci.known(tool) == [] or done.code == 0
