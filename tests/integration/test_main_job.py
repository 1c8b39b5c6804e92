"""The main job: an ordinary user builds a real Debian image from a real registry.

The base is debootstrapped and pushed with skopeo; the Dockerfile is tests/data/demo. Owners are
compared with root's `buildah build --isolation chroot` of the same files where root has left its
listing (tests/integration/as-root), and with the image's own /etc/passwd everywhere.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import conftest
import debian
import pytest
import world

pytestmark = [pytest.mark.userns, pytest.mark.slow, pytest.mark.registry]
DEMO = world.CHECKOUT / "tests/data/demo"


class Entry(NamedTuple):
    """One line of `tar -tv --numeric-owner`."""

    kind: str
    mode: str
    owner: str


def listing(text: str) -> dict[str, Entry]:
    """`tar -tv` output by path, "./" and a directory's last slash left out."""
    found = {}
    for line in text.splitlines():
        mode, owner, rest = line.split(maxsplit=2)
        match = re.match(r"(?:\d+,\s*\d+|\d+) \S+ \S+ (.*)", rest.strip())
        assert match, line
        path = re.split(r" -> | link to ", match[1])[0].removeprefix("./").rstrip("/")
        found[path] = Entry(mode[0], mode[1:], owner)
    return found


class Built(NamedTuple):
    """The main job, done once for the tests of this file."""

    tool: world.Tool
    context: Path
    first: world.Done
    tar: Path


@pytest.fixture(scope="module")
def built(debian_base: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    work = tmp_path_factory.mktemp("demo")
    context = work / "context"
    shutil.copytree(DEMO, context)
    dockerfile = context / "Dockerfile"
    dockerfile.write_text(dockerfile.read_text().replace("@BASE@", debian_base))
    tool = world.Tool(work / "storage", work)
    first = tool("build", "-t", "demo", context)
    first.ok()
    tar = work / "demo.tar"
    tool.run("ch-convert", "demo", tar).ok()
    yield Built(tool, context, first, tar)
    conftest.remove_tree(work / "storage")


@pytest.fixture(scope="module")
def entries(built: Built) -> dict[str, Entry]:
    command = ["tar", "-tv", "--numeric-owner", "--quoting-style=escape", "-f", str(built.tar)]
    return listing(subprocess.check_output(command, text=True))


def steps(done: world.Done) -> list[str]:
    """The lines of numbered instructions, from wherever progress is told."""
    return re.findall(r"^ *\d+[.*] .*", done.out + done.err, re.M)


def test_an_ordinary_user_builds_debian_packages_into_an_image(built: Built) -> None:
    work = [line for line in steps(built.first) if re.search(r"\b(RUN|COPY)\b", line)]
    assert len(work) == 7
    assert all("." in line.split()[0] for line in work), "a hit on an empty cache"
    assert "demo" in built.tool("list").ok().out.split()


def test_the_second_build_is_all_hits_and_changes_nothing(built: Built) -> None:
    before = built.tool("list", "-l").ok().out
    again = built.tool("build", "-t", "demo", built.context).ok()
    lines = steps(again)
    assert lines
    assert [line for line in lines if "*" not in line.split()[0]] == []
    assert "Get:" not in again.out + again.err
    assert built.tool("list", "-l").ok().out.split()[:2] == before.split()[:2]


def test_a_changed_source_misses_from_its_copy_on(built: Built, tmp_path: Path) -> None:
    context = tmp_path / "context"
    shutil.copytree(built.context, context)
    (context / "files/run.sh").write_text("#!/bin/sh\necho changed\n")
    lines = steps(built.tool("build", "-t", "changed", context).ok())
    hits = ["*" in line.split()[0] for line in lines]
    copy = next(n for n, line in enumerate(lines) if "COPY files/" in line)
    assert all(hits[:copy]), lines
    assert not hits[copy], lines
    ran = next(n for n, line in enumerate(lines) if "useradd" in line)
    assert not hits[ran], "a RUN after a changed COPY was taken from the cache"


def test_owners_are_those_that_root_and_buildah_give(entries: dict[str, Entry]) -> None:
    theirs_file = debian.peer("demo.list")
    if theirs_file is None:
        pytest.skip("root has left no listing of buildah's build (tests/integration/as-root)")
    theirs = listing(theirs_file.read_text())
    both = {path for path in entries.keys() & theirs.keys() if path}
    assert len(both) > 5000
    owners = {p: (entries[p].owner, theirs[p].owner) for p in both}
    different = {p: pair for p, pair in sorted(owners.items()) if pair[0] != pair[1]}
    assert not different, f"{len(different)} of {len(both)}, ours first"
    kinds = {p: (entries[p].kind, theirs[p].kind) for p in both}
    hard = {p: pair for p, pair in kinds.items() if pair[0] != pair[1] and "h" not in pair}
    assert not hard, "types differ, ours first"
    assert len(theirs.keys() - entries.keys()) < 20, sorted(theirs.keys() - entries.keys())[:40]
    assert len(entries.keys() - theirs.keys()) < 20, sorted(entries.keys() - theirs.keys())[:40]


# path: user, group and mode, by the names that the image's own files give them.
SPECIAL = {
    "etc/shadow": ("root", "shadow", 0o640),
    "usr/bin/ssh-agent": ("root", "_ssh", 0o2755),
    "usr/bin/passwd": ("root", "root", 0o4755),
    "usr/lib/dbus-1.0/dbus-daemon-launch-helper": ("root", "messagebus", 0o4754),
    "var/cache/man": ("man", "man", 0o755),
    "var/lib/demo": ("demo", "www-data", 0o2750),
    "var/lib/demo/greeting": ("demo", "www-data", 0o644),
    "var/lib/demo/link": ("man", "man", 0o777),
    "home/demo": ("demo", "demo", 0o755),
    "home/demo/.bashrc": ("demo", "demo", 0o644),
    "etc/demo": ("www-data", "www-data", 0o640),  # an octal --chmod makes new parents too
    "etc/demo/config.ini": ("www-data", "www-data", 0o640),
    "copied": ("root", "root", 0o755),
    "copied/greeting": ("demo", "www-data", 0o644),
    "copied/link": ("man", "man", 0o777),
    "srv/demo/run.sh": ("root", "root", 0o755),
    "usr/local/bin/demo": ("root", "root", 0o755),
}


@pytest.fixture(scope="module")
def members(built: Built) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(built.tar) as tar:
        return {m.name.removeprefix("./"): m for m in tar}


def numbers(built: Built, name: str) -> dict[str, int]:
    """Names to IDs, from the image's /etc/passwd or /etc/group."""
    with tarfile.open(built.tar) as tar:
        names = {n.removeprefix("./"): n for n in tar.getnames()}
        stream = tar.extractfile(names[name])
        assert stream
        lines = stream.read().decode().split()
    return {line.split(":")[0]: int(line.split(":")[2]) for line in lines if line.count(":") >= 3}


def test_special_owners_are_what_the_packages_ask_for(
    built: Built, members: dict[str, tarfile.TarInfo]
) -> None:
    users, groups = numbers(built, "etc/passwd"), numbers(built, "etc/group")
    wanted = {p: (users[user], groups[group], mode) for p, (user, group, mode) in SPECIAL.items()}
    found = {p: (members[p].uid, members[p].gid, members[p].mode) for p in SPECIAL}
    # An export may drop set-ID bits and raise an owner's, so that it is safe to unpack.
    assert {p: v[:2] for p, v in found.items()} == {p: v[:2] for p, v in wanted.items()}
    lost = {p: (oct(found[p][2]), oct(wanted[p][2])) for p in SPECIAL
            if found[p][2] & 0o777 != wanted[p][2] & 0o777 and "link" not in p}  # fmt: skip
    assert not lost, "modes, found and wanted"


def test_what_the_steps_wrote_is_there(built: Built) -> None:
    def read(path: str) -> str:
        return subprocess.check_output(
            ["tar", "-xOf", str(built.tar), "--no-anchored", "--wildcards", f"*{path}"], text=True
        )

    assert read("copied/greeting") == "good day 3\n"
    assert read("srv/demo/id").startswith("uid=0(root) gid=0(root)")
    assert read("srv/demo/deep/file") == "deep\n"


def test_the_image_runs_straight_from_storage(built: Built) -> None:
    done = built.tool.run("ch-run", "demo", "--set-env", "--", "/usr/local/bin/demo")
    done = done if done.code == 0 else built.tool.run("ch-run", "--set-env", "demo", "--", "demo")
    assert done.ok().out == "demo: good day\n"


def test_dpkg_is_content_with_what_was_installed(built: Built) -> None:
    done = built.tool.run("ch-run", "demo", "--", "dpkg", "--audit")
    assert done.ok().out == ""
    listed = built.tool.run("ch-run", "demo", "--", "dpkg-query", "-W", "openssh-client", "dbus")
    assert listed.ok().out.count("\n") == 2


def test_no_process_and_no_mount_is_left_behind(built: Built) -> None:
    storage = str(built.tool.storage)
    assert storage not in Path("/proc/self/mounts").read_text()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            root = (process / "root").readlink()
            words = (process / "cmdline").read_bytes()
        except OSError:
            continue
        assert not str(root).startswith(storage), words
        assert storage.encode() not in words, words
