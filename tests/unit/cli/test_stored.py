"""import, list, inspect, delete, undelete, tag, reset, ch-convert: images that come and go."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest
import world

pytestmark = pytest.mark.userns


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree with something of everything that an ordinary user can make."""
    root = tmp_path / "tree"
    for name in ("bin", "dev", "usr/lib", "etc", "ch", "locked"):
        (root / name).mkdir(parents=True)
    (root / "bin/tool").write_text("#!/bin/sh\n")
    (root / "bin/tool").chmod(0o6755)
    (root / "bin/same").hardlink_to(root / "bin/tool")
    (root / "bin/link").symlink_to("/bin/tool")
    (root / "usr/lib/secret").write_text("s")
    (root / "usr/lib/secret").chmod(0)
    os.mkfifo(root / "usr/pipe")
    (root / "locked/in").write_text("x")
    (root / "ch/environment").write_text("GREETING=hello\n")
    os.utime(root / "bin/tool", ns=(1, 1_600_000_000_123_456_789))
    (root / "locked").chmod(0o500)
    return root


@pytest.fixture
def filled(ch_image: world.Tool, tree: Path) -> world.Tool:
    ch_image("import", tree, "demo").ok()
    return ch_image


def machine() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64/v8"}.get(os.uname().machine, os.uname().machine)


def test_an_import_is_listed_with_its_architecture(filled: world.Tool) -> None:
    assert filled("list").ok().out == f"demo ({machine()})\n"
    heading, line = filled("list", "-l").ok().out.splitlines()
    assert heading.split() == ["NAME", "PLATFORM", "CHANGED", "SIZE", "ID"]
    assert line.split()[:2] == ["demo", f"linux/{machine()}"]
    (row,) = json.loads(filled("list", "--format=json").ok().out)
    assert row["name"] == "demo"
    assert row["size"] == len("#!/bin/sh\n") * 2 + 2
    assert row["id"].startswith("sha256:" + line.split()[-1])


def test_an_image_is_its_config(filled: world.Tool) -> None:
    config = json.loads(filled("inspect", "demo").ok().out)
    assert config["config"]["Env"] == ["GREETING=hello"]
    assert len(config["history"]) == 1
    (docker,) = json.loads(filled("inspect", "--format=docker", "demo:latest").ok().out)
    assert docker["RepoTags"] == ["demo:latest"]
    assert docker["Config"] == config["config"]
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", docker["Id"])
    assert "diff ID" in filled("inspect", "--digests", "demo").ok().out
    assert "imported" in filled("history", "demo").ok().out


def test_globs_select(filled: world.Tool) -> None:
    for name in ("other:1", "other:2", "example.com/x"):
        filled("tag", "demo", name).ok()

    def listed(*words: str) -> list[str]:
        return [line.split()[0] for line in filled("list", *words).ok().out.splitlines()]

    assert listed() == ["demo", "example.com/x", "other:1", "other:2"]
    assert listed("other:*") == ["other:1", "other:2"]
    assert listed("*.com/?") == ["example.com/x"]
    assert listed("nosuch*") == []
    filled("delete", "other:*", "example.com/x").ok()
    assert listed() == ["demo"]
    assert listed("-u") == ["example.com/x", "other:1", "other:2"]


def test_delete_does_what_it_can_and_says_what_it_could_not(filled: world.Tool) -> None:
    done = filled("delete", "nosuch", "demo", "*none*")
    assert done.code == 1
    assert "2 images" in done.fault()
    assert "can't delete: nosuch" in done.err
    assert filled("list").ok().out == ""


def test_a_deleted_image_comes_back_until_gc(filled: world.Tool) -> None:
    before = filled("inspect", "demo").ok().out
    filled("delete", "demo").ok()
    assert filled("inspect", "demo").code == 1
    filled("undelete", "demo").ok()
    assert filled("inspect", "demo").ok().out == before
    assert filled("undelete", "demo").code == 1
    filled("delete", "demo").ok()
    filled("build-cache", "--gc").ok()
    assert "demo" in filled("undelete", "demo").fault()


def test_undelete_never_replaces(filled: world.Tool, tree: Path) -> None:
    filled("delete", "demo").ok()
    (tree / "new").write_text("new")
    filled("import", tree, "demo").ok()
    now = filled("list", "-l").ok().out
    assert filled("undelete", "demo").code == 1
    assert filled("list", "-l").ok().out == now


def test_reset_leaves_nothing_and_the_directory_usable(filled: world.Tool, tree: Path) -> None:
    filled("reset").ok()
    assert filled("list").ok().out == ""
    assert os.listdir(filled.storage / "layers") in ([], [".diff"])
    filled("import", tree, "demo").ok()


def test_the_cache_is_summed_up(filled: world.Tool) -> None:
    out = filled("build-cache", "--tree").ok().out
    assert re.search(r"^named images: +1$", out, re.M)
    assert re.search(r"^cached steps: +0$", out, re.M)


@pytest.mark.parametrize("name", ["..", ".", "a/../b", "%2f", "a\nb", "x" * 5000, "A", "-x:y", ""])
def test_a_name_can_name_nothing_but_an_image(name: str, filled: world.Tool, tree: Path) -> None:
    before = filled("list", "-l").ok().out
    starts = (["import", tree], ["tag", "demo"], ["inspect"], ["undelete"], ["delete"])
    for words in ([*start, "--", name] for start in starts):
        done = filled(*words)
        assert done.code == 1, (words[0], done)
        assert done.fault()
    assert filled("list", "-l").ok().out == before


def test_a_damaged_record_is_listed_and_can_be_deleted(filled: world.Tool) -> None:
    (record,) = [p for p in (filled.storage / "images").iterdir() if not p.name.startswith(".")]
    record.write_bytes(record.read_bytes()[:20])
    listed = filled("list").ok().out
    assert listed.endswith("(damaged)\n")
    assert "damaged" in filled("list", "-l").ok().out
    assert filled("inspect", "demo").code == 1
    filled("delete", listed.split()[0]).ok()
    assert filled("list").ok().out == ""


def contents(root: Path) -> dict[str, tuple[str, int, str]]:
    """Type, mode and content of everything below, as a privileged reader would see it."""
    script = 'cd "$1" && find . -mindepth 1 -printf "%P %y %#m %l\\n" | sort'
    out = subprocess.check_output(["sh", "-c", script, "sh", str(root)], text=True)
    return {line.split()[0]: tuple(line.split(" ")[1:]) for line in out.splitlines()}  # type: ignore[misc]


def test_an_exported_directory_is_safe_and_removable(filled: world.Tool, tmp_path: Path) -> None:
    out = tmp_path / "out"
    filled.run("ch-convert", "demo", f"{out}").ok()
    found = contents(out)
    assert found["bin/tool"][:2] == ("f", "0755"), "set-ID bits left in an exported directory"
    assert found["usr/lib/secret"][:2] == ("f", "0600")
    assert found["locked"][:2] == ("d", "0700")
    assert found["bin/link"] == ("l", "0777", "/bin/tool")
    assert found["usr/pipe"][0] == "p"
    tool = (out / "bin/tool").stat()
    assert tool.st_nlink == 2
    assert tool.st_mtime_ns == 1_600_000_000_123_456_789
    assert (out / "ch/environment").read_text() == "GREETING=hello\n"
    assert not [p for p in out.rglob("*") if p.is_file() and os.listxattr(p)]
    subprocess.run(["rm", "-rf", str(out)], check=True)


def test_an_exact_export_keeps_modes(filled: world.Tool, tmp_path: Path) -> None:
    out = tmp_path / "out"
    filled.run("ch-convert", "--exact", "demo", str(out)).ok()
    assert stat.S_IMODE((out / "bin/tool").stat().st_mode) == 0o6755
    assert stat.S_IMODE((out / "locked").stat().st_mode) == 0o500


def test_an_exported_directory_replaces_an_image_and_nothing_else(
    filled: world.Tool, tmp_path: Path
) -> None:
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter").write_text("years of work")
    done = filled.run("ch-convert", "demo", str(thesis))
    assert "does not look like an image" in done.fault()
    for name in ("bin", "dev", "usr"):  # as homes have them
        (thesis / name).mkdir()
    assert filled.run("ch-convert", "demo", str(thesis)).fault() == done.fault()
    assert (thesis / "chapter").read_text() == "years of work"

    out = tmp_path / "out"
    filled.run("ch-convert", "demo", str(out)).ok()
    (out / "left").write_text("over")
    assert filled.run("ch-convert", "--no-clobber", "demo", str(out)).code == 1
    assert (out / "left").exists()
    filled.run("ch-convert", "demo", str(out)).ok()
    assert not (out / "left").exists()
    (tmp_path / "empty").mkdir()
    filled.run("ch-convert", "demo", str(tmp_path / "empty")).ok()
    hidden = [name for name in os.listdir(tmp_path) if name.startswith(".")]
    assert hidden == []


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tgz", "tar.zst", "tar.bz2", "tar.xz"])
def test_an_archive_goes_out_and_comes_in(ending: str, filled: world.Tool, tmp_path: Path) -> None:
    path = tmp_path / f"demo.{ending}"
    filled.run("ch-convert", "demo", str(path)).ok()
    filled.run("ch-convert", str(path), "again").ok()
    filled.run("ch-convert", "again", str(tmp_path / "again.tar")).ok()
    filled.run("ch-convert", "demo", str(tmp_path / "demo.tar")).ok()
    ours = [p.read_bytes() for p in (tmp_path / "demo.tar", tmp_path / "again.tar")]
    assert ours[0] == ours[1], "an image changed on its way out and in"
    with tarfile.open(tmp_path / "demo.tar") as tar:
        members = {m.name.removeprefix("./").rstrip("/"): m for m in tar}
    assert members["bin/tool"].mode == 0o6755 or members["bin/same"].mode == 0o6755
    assert members["usr/lib/secret"].mode == 0
    assert {(m.uid, m.gid) for m in members.values()} == {(0, 0)}


def test_owners_and_devices_survive_from_archive_to_archive(
    ch_image: world.Tool, tmp_path: Path
) -> None:
    wanted = {"srv": (33, 33), "srv/file": (1234, 50), "srv/link": (7, 8), "null": (0, 6)}
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        for name, (uid, gid) in wanted.items():
            info = tarfile.TarInfo(name)
            info.uid, info.gid, info.mode = uid, gid, 0o755
            info.type = {"srv": tarfile.DIRTYPE, "srv/link": tarfile.SYMTYPE,
                         "null": tarfile.CHRTYPE}.get(name, tarfile.REGTYPE)  # fmt: skip
            info.linkname = "file" if name == "srv/link" else ""
            info.devmajor, info.devminor = (1, 3) if name == "null" else (0, 0)
            tar.addfile(info)
    ch_image("import", tmp_path / "in.tar", "demo").ok()
    ch_image.run("ch-convert", "demo", str(tmp_path / "out.tar")).ok()
    with tarfile.open(tmp_path / "out.tar") as tar:
        found = {m.name.removeprefix("./"): m for m in tar}
    assert {name: (found[name].uid, found[name].gid) for name in wanted} == wanted
    assert found["null"].ischr()
    ch_image.run("ch-convert", "-v", "demo", str(tmp_path / "out")).ok()
    assert not (tmp_path / "out/null").exists(), "a device in an exported directory"


def test_a_directory_around_everything_is_taken_away(ch_image: world.Tool, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(world.tar_of({"top/bin/x": "1", "top/etc/y": "2"}))
    (tmp_path / "b.tar").write_bytes(world.tar_of({"etc/y": "2"}))
    for name, path in (("a", "bin/x"), ("b", "etc/y")):
        ch_image("import", tmp_path / f"{name}.tar", name).ok()
        ch_image.run("ch-convert", name, str(tmp_path / name)).ok()
        assert (tmp_path / name / path).exists()


BAD = {
    "the same format twice": (["a", "b"], 2, "both"),
    "a format that is none": (["demo", "-o", "x", "x.sqfs"], 2, "not known"),
    "an unknown format": (["-o", "zip", "demo", "x"], 2, "not known"),
    "an unknown image": (["nosuch", "./x"], 1, "nosuch"),
    "an absent archive": (["./nosuch.tar", "x"], 1, "nosuch.tar"),
    "a text for an archive": (["-i", "tar", "/etc/passwd", "x"], 1, ""),
    "an empty archive": (["./empty.tar", "x"], 1, "empty"),
    "a directory for an archive": (["-i", "tar", "/etc", "x"], 1, "directory"),
    "a place that is not there": (["demo", "./no/such/x.tar"], 1, "no/such"),
    "an archive in place of a directory": (["demo", "-o", "tar", "."], 1, "directory"),
    "a directory in place of a file": (["demo", "-o", "dir", "file"], 1, "no directory"),
    "one operand": (["demo"], 2, "OUT"),
    "a name that is none": (["./dir", "../x", "-o", "ch-image"], 1, "not an image reference"),
}


@pytest.mark.parametrize(("words", "code", "message"), BAD.values(), ids=BAD.keys())
def test_a_conversion_that_cannot_be_leaves_nothing(
    words: list[str], code: int, message: str, filled: world.Tool, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    (work / "dir/etc").mkdir(parents=True)
    (work / "empty.tar").write_bytes(world.tar_of({}))
    (work / "file").write_text("mine")
    before, listed = sorted(work.rglob("*")), filled("list").ok().out
    done = filled.run("ch-convert", *words, cwd=work)
    assert done.code == code, done
    assert message in done.fault()
    assert sorted(work.rglob("*")) == before
    assert (work / "file").read_text() == "mine"
    assert filled("list").ok().out == listed
    assert os.listdir(filled.storage / "tmp") == []
