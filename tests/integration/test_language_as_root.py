"""Dockerfiles of tests/data/language give the trees and configs that root's buildah gives.

Root leaves them in $CH_TEST_PEER/language (see as-root-language). Type, mode, owner, link target,
hard links and content of every path are compared, and Docker's config key by key. What differs is
listed here with its reason, and in docs/dockerfile.md.
"""

from __future__ import annotations

import fnmatch
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import conftest
import debian
import pytest
import world
from language import Bench

pytestmark = [pytest.mark.userns, pytest.mark.registry]

DATA = Path(__file__).parent.parent / "data/language"
NAMES = sorted(path.stem for path in DATA.glob("*.Dockerfile") if path.stem != "base")

# (Dockerfile, path) -> why the trees differ; buildah is not what Docker is there
TREE = {
    **{
        ("*", path): "mount points of a RUN, which neither Docker's layers have nor ours"
        for path in ("dev", "proc", "run", "sys", "etc/hosts", "etc/hostname", "etc/resolv.conf")
    },
    ("copy", "mode-dir"): "a directory that COPY makes has the mode of --chmod, as with BuildKit",
    ("copy", "modes/2755"): "buildah drops set-ID bits of a context's files, BuildKit does not",
    ("copy", "modes/4755"): "the same",
    ("copy", "modes/setgid"): "the same",
    ("copy", "target/new*"): "a file goes where a dangling link leads, and is no directory there",
    ("run", "tmp/id"): "USER has its supplementary groups of /etc/group, as with BuildKit",
}
# (Dockerfile, key) -> why the configs differ
CONFIG = {
    ("*", "Hostname"): "the name of buildah's container",
    ("*", "ArgsEscaped"): "BuildKit sets it with every CMD",
    ("*", "WorkingDir"): "an image from scratch begins in /, as with BuildKit",
    ("config", "Cmd"): "SHELL counts for a CMD behind it, as Docker's reference has it",
    ("config", "ExposedPorts"): "a range is written out, as BuildKit does",
    ("config", "Env"): "a variable that is set anew keeps its place, as with BuildKit",
    ("reset", "Env"): "the same",
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    if debian.peer("language/done") is None:
        pytest.skip("root has left no listings (tests/integration/as-root-language)")
    work = tmp_path_factory.mktemp("language")
    tool = world.Tool(work / "storage", work)
    (work / "files").mkdir()
    subprocess.run([str(DATA / "context"), str(work / "files")], check=True)
    tool("build", "-t", "base", "-f", DATA / "base.Dockerfile", work / "files").ok()
    yield Bench(tool, "base", work)
    conftest.remove_tree(work / "storage")


def theirs(name: str) -> Any:
    path = debian.peer(f"language/{name}")
    assert path is not None
    return json.loads(path.read_text())


def expected(table: dict[tuple[str, str], str], name: str, path: str) -> bool:
    return any(fnmatch.fnmatchcase(name, n) and fnmatch.fnmatchcase(path, p) for n, p in table)


@pytest.mark.parametrize("name", NAMES)
def test_tree_and_config_are_those_of_root(name: str, bench: Bench) -> None:
    base = ("--build-arg", "BASE=base")
    file = DATA / f"{name}.Dockerfile"
    bench.tool("build", "-t", name, *base, "-f", file, bench.work / "files").ok()
    found = _trees(name, bench) + _configs(name, bench)
    assert not found, f"{len(found)} differences, root's first:\n" + "\n".join(found[:60])


def _trees(name: str, bench: Bench) -> list[str]:
    if debian.peer(f"language/{name}.json") is None:  # it has triggers
        return []
    root, ours = theirs(f"{name}.json"), bench.tree(name)
    found = []
    for path in sorted(root.keys() | ours.keys()):
        a, b = root.get(path), ours.get(path)
        if path == "." or a == b or expected(TREE, name, path):
            continue
        if a is None or b is None:
            found.append(f"{path}: {(a, b)}")
            continue
        keys = sorted(a.keys() | b.keys())
        differ = {key: (a.get(key), b.get(key)) for key in keys if a.get(key) != b.get(key)}
        found.append(f"{path}: {differ}")
    return found


def _configs(name: str, bench: Bench) -> list[str]:
    root = theirs(f"{name}.config.json")["Docker"]["config"]
    ours = bench.config(name)["config"]
    root["Labels"] = {k: v for k, v in (root["Labels"] or {}).items() if "buildah" not in k}
    found = []
    for key in sorted(root.keys() | ours.keys()):
        a, b = root.get(key) or None, ours.get(key) or None
        if a != b and not expected(CONFIG, name, key):
            found.append(f"{key}: {(a, b)}")
    return found
