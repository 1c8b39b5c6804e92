"""What exported trees get and imported ones give, also when the image is hostile."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ch_image.formats.outfit import environment_text, outfit, recall, undress
from ch_image.model.oci import ImageConfig, RunConfig
from ch_image.model.platforms import Platform, host_platform

CONFIG = ImageConfig(
    Platform("linux", "arm64", "v8"),
    RunConfig(
        env=("PATH=/bin", "A=b=c", "EMPTY="),
        working_dir="/srv",
        labels=(("who", "me"),),
        shell=("/bin/bash", "-c"),
        volumes=("/data",),
    ),
)


def names(root: Path) -> set[str]:
    return {str(p.relative_to(root)) for p in root.rglob("*")}


def test_an_empty_tree_gets_mount_points_and_metadata(tmp_path: Path) -> None:
    assert outfit(str(tmp_path), CONFIG) == []
    assert names(tmp_path) == {
        "dev", "proc", "sys", "tmp", "etc", "etc/hosts", "etc/resolv.conf", "mnt", "ch",
        "ch/environment", "ch/metadata.json", *(f"mnt/{n}" for n in range(10)),
    }  # fmt: skip
    assert (tmp_path / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert (tmp_path / "ch/environment").read_text() == "A=b=c\nEMPTY=\nPATH=/bin\n"
    value = json.loads((tmp_path / "ch/metadata.json").read_text())
    assert value["cwd"] == "/srv"
    assert value["arch"] == "arm64"


def test_what_was_put_in_comes_back_and_goes_away(tmp_path: Path) -> None:
    outfit(str(tmp_path), CONFIG)
    back = recall(str(tmp_path))
    assert back.platform.architecture == "arm64"
    assert back.config.environment() == CONFIG.config.environment()
    assert back.config._replace(env=()) == CONFIG.config._replace(env=())
    undress(str(tmp_path))
    assert not (tmp_path / "ch").exists()
    assert (tmp_path / "mnt/9").is_dir()


def test_the_same_image_leaves_as_the_same_tree_whenever(tmp_path: Path) -> None:
    for name in ("a", "b"):
        root = tmp_path / name
        (root / "etc").mkdir(parents=True)
        os.utime(root / "etc", ns=(0, 5_000_000_000))
        os.utime(root, ns=(0, 7_000_000_000))
        old = os.umask(0o077 if name == "a" else 0)
        outfit(str(root), CONFIG)
        os.umask(old)

    def look(root: Path) -> list[tuple[str, int, int]]:
        found = [root, *sorted(root.rglob("*"))]
        states = [(str(p.relative_to(root)), p.lstat()) for p in found]
        return [(name, s.st_mode, s.st_mtime_ns) for name, s in states]

    assert look(tmp_path / "a") == look(tmp_path / "b")
    times = {name: time for name, _, time in look(tmp_path / "a")}
    assert times["."] == 7_000_000_000
    assert times["etc"] == 5_000_000_000


def test_what_the_image_has_stays(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hosts").write_text("mine")
    (tmp_path / "etc/resolv.conf").symlink_to("../run/nowhere")
    (tmp_path / "tmp").mkdir(mode=0o700)
    (tmp_path / "mnt").symlink_to("srv")
    (tmp_path / "srv").mkdir()
    assert outfit(str(tmp_path), CONFIG) == []
    assert (tmp_path / "etc/hosts").read_text() == "mine"
    assert (tmp_path / "etc/resolv.conf").is_symlink()
    assert (tmp_path / "tmp").stat().st_mode & 0o7777 == 0o700
    assert (tmp_path / "srv/9").is_dir()


HOSTILE = {
    "/ch leads out": {"ch": "-> ../outside"},
    "/ch leads out by an absolute path": {"ch": "-> {outside}"},
    "a file of ours leads out": {"ch/environment": "-> ../../outside/file"},
    "/mnt leads out": {"mnt": "-> ../outside"},
    "/etc leads out": {"etc": "-> ../../../outside"},
    "/ch is a file": {"ch": "a file"},
    "/ch leads to itself": {"ch": "-> ch"},
    "a file of ours is a directory": {"ch/environment/x": "a file"},
}


@pytest.mark.parametrize("nodes", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_image_cannot_make_us_write_outside(
    nodes: dict[str, str], tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("ours")
    root = tmp_path / "root"
    root.mkdir()
    for name, text in nodes.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text.startswith("-> "):
            path.symlink_to(text[3:].format(outside=outside))
        else:
            path.write_text(text)
    outfit(str(root), CONFIG)
    recall(str(root))
    undress(str(root))
    assert names(outside) == {"file"}
    assert (outside / "file").read_text() == "ours"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["outside", "root"]


STRANGE = {
    "no JSON": "{",
    "a list": "[]",
    "numbers": '{"env": {"A": 1}, "cwd": 5, "labels": 7, "shell": "x", "arch": 3, "volumes": {}}',
    "bad names": '{"env": {"": "x", "a=b": "c", "n\\u0000": "x"}, "cwd": "relative", "shell": []}',
    "nested too deeply": "[" * 10_000,
    "a bad architecture": '{"arch": "../../x y"}',
}


@pytest.mark.parametrize("text", STRANGE.values(), ids=STRANGE.keys())
def test_strange_metadata_is_left_out(text: str, tmp_path: Path) -> None:
    (tmp_path / "ch").mkdir()
    (tmp_path / "ch/metadata.json").write_text(text)
    assert recall(str(tmp_path)) == ImageConfig(host_platform())


def test_the_environment_alone_is_enough(tmp_path: Path) -> None:
    (tmp_path / "ch").mkdir()
    (tmp_path / "ch/environment").write_text("A=1\nnothing\nB=x=y\n")
    assert recall(str(tmp_path)).config.env == ("A=1", "B=x=y")


def test_a_variable_with_a_newline_cannot_smuggle_another() -> None:
    assert environment_text(RunConfig(env=("A=x\nLD_PRELOAD=y", "B=1"))) == "B=1\n"
