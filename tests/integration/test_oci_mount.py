"""ch-image oci mount: a bundle of an image, the process that holds it, and what is left of both."""

from __future__ import annotations

import os
import signal
import time
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
    """Storage with the images ``base`` and ``app``."""
    top = tmp_path_factory.mktemp("oci")
    for name in ("home", "context"):
        (top / name).mkdir()
    made = world.Tool(top / "storage", top / "home")
    oci.make_images(made, base_layout, top / "context")
    yield made
    for one in oci.mounted(made):
        os.kill(one["pid"], signal.SIGKILL)


@pytest.fixture
def bundle(tool: world.Tool, tmp_path: Path) -> Iterator[Path]:
    """Where a bundle may be made; it is unmounted afterwards."""
    path = tmp_path / "bundle"
    yield path
    if path.exists():
        tool("oci", "umount", path)


def ends(pid: int) -> None:
    """Wait for a process to be gone."""
    end = time.monotonic() + 20
    while not oci.is_gone(pid) and time.monotonic() < end:
        time.sleep(0.01)
    assert oci.is_gone(pid)


def test_the_root_is_the_image_and_can_be_written_to(tool: world.Tool, bundle: Path) -> None:
    tool("oci", "mount", "app", bundle).ok()
    held = oci.holder(tool, bundle)
    root = bundle / "rootfs"
    if held:
        assert [one["image"] for one in oci.mounted(tool)] == ["app"]
        assert list(root.iterdir()) == []  # from outside of the holder's namespaces
    oci.inside(held, "touch", root / "new")
    assert {"bin", "new", "data", "srv"} <= set(oci.inside(held, "ls", root).split())

    tool("oci", "umount", bundle).ok()

    assert not bundle.exists()
    assert not held or oci.is_gone(held)
    assert oci.leftovers(tool) == []
    tool("oci", "mount", "app", bundle).ok()  # what was written is forgotten
    assert "new" not in oci.inside(oci.holder(tool, bundle), "ls", root).split()


@pytest.mark.parametrize("how", [(), ("--copy",)], ids=["held", "copied"])
def test_config_json_says_what_the_image_says(
    how: tuple[str, ...], tool: world.Tool, bundle: Path
) -> None:
    tool("oci", "mount", *how, "app", bundle).ok()
    found = oci.config(bundle)
    process = found["process"]
    assert process["args"] == ["/bin/sh", "-c", "id -u; pwd; echo $COLOUR $HOME"]
    assert process["cwd"] == "/srv/work"
    assert process["user"] == {"uid": 1234, "gid": 1234}
    env = dict(item.split("=", 1) for item in process["env"])
    assert (env["COLOUR"], env["HOME"]) == ("green", "/home/app")
    assert process["noNewPrivileges"]
    assert not process["terminal"]
    assert process["capabilities"]["effective"] == []
    assert found["annotations"] == found["annotations"] | {
        "org.example.kind": "test",
        "org.opencontainers.image.stopSignal": "SIGUSR1",
        "org.opencontainers.image.exposedPorts": "80/tcp",
        "org.opencontainers.image.os": "linux",
    }
    # Inside the holder's namespace we are 0.
    outer = os.getuid() if how or oci.COPIED else 0
    assert found["linux"]["uidMappings"] == [{"containerID": 1234, "hostID": outer, "size": 1}]
    assert found["root"] == {"path": "rootfs", "readonly": False}
    destinations = {mount["destination"] for mount in found["mounts"]}
    assert {"/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys"} <= destinations


def test_what_the_command_line_says_wins(tool: world.Tool, bundle: Path) -> None:
    tool("oci", "mount", "-t", "--read-only", "app", bundle, "--", "ls", "-l").ok()
    found = oci.config(bundle)
    assert found["process"]["args"] == ["ls", "-l"]
    assert found["process"]["terminal"]
    assert "TERM=xterm" in found["process"]["env"]
    assert found["root"]["readonly"]


def test_a_copy_needs_no_process(tool: world.Tool, bundle: Path) -> None:
    tool("oci", "mount", "--copy", "app", bundle).ok()
    assert oci.mounted(tool) == []
    assert oci.leftovers(tool) == []
    assert (bundle / "rootfs/bin/busybox").exists()
    assert (bundle / "rootfs/data").is_dir()
    (bundle / "rootfs/closed").mkdir(0o000)
    tool("oci", "umount", bundle).ok()
    assert not bundle.exists()


@oci.needs_holder
def test_a_killed_holder_leaves_nothing_that_stays(tool: world.Tool, bundle: Path) -> None:
    tool("oci", "mount", "base", bundle).ok()
    (held,) = oci.mounted(tool)
    os.kill(held["pid"], signal.SIGKILL)
    ends(held["pid"])

    assert oci.mounted(tool) == []
    tool("oci", "mount", "base", bundle).ok()  # over what is left of the directory
    assert len(oci.leftovers(tool)) == 1  # the new holder's
    tool("oci", "umount", bundle).ok()
    assert not bundle.exists()
    assert oci.leftovers(tool) == []


@oci.needs_holder
def test_a_bundle_whose_holder_is_dead_is_unmounted(tool: world.Tool, bundle: Path) -> None:
    tool("oci", "mount", "base", bundle).ok()
    (held,) = oci.mounted(tool)
    os.kill(held["pid"], signal.SIGKILL)
    ends(held["pid"])
    tool("oci", "umount", bundle).ok()
    assert not bundle.exists()
    tool("tag", "base", "other").ok()  # the next who writes to storage sweeps it
    assert oci.leftovers(tool) == []


@oci.needs_holder
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_holder_that_is_asked_to_end_tidies_up(
    number: int, tool: world.Tool, bundle: Path
) -> None:
    tool("oci", "mount", "base", bundle).ok()
    (held,) = oci.mounted(tool)
    os.kill(held["pid"], number)
    ends(held["pid"])
    assert oci.leftovers(tool) == []


@oci.needs_holder
def test_a_mount_that_is_killed_leaves_no_holder(tool: world.Tool, tmp_path: Path) -> None:
    for delay in (0.0, 0.05, 0.1, 0.15):
        started = tool.start("oci", "mount", "base", tmp_path / f"bundle{delay}")
        time.sleep(delay)
        started.kill()
        started.communicate()
    end = time.monotonic() + 20
    while time.monotonic() < end:
        # Those that were ready before are whole, the others are gone.
        held = {one["bundle"] for one in oci.mounted(tool)}
        if len(oci.leftovers(tool)) == len(held):
            break
        time.sleep(0.05)
    assert len(oci.leftovers(tool)) == len(held)
    for path in held:
        tool("oci", "umount", path).ok()
    assert oci.leftovers(tool) == []


def test_a_copy_that_is_killed_can_be_removed_or_made_again(
    tool: world.Tool, tmp_path: Path
) -> None:
    killed = set()
    for delay in (0.0, 0.04, 0.06, 0.1):
        bundle = tmp_path / f"bundle{delay}"
        started = tool.start("oci", "mount", "--copy", "base", bundle)
        time.sleep(delay)
        started.kill()
        started.communicate()
        killed.add(started.returncode)
        again = tool("oci", "mount", "--copy", "base", bundle)
        if again.code:  # part of a root is there, or the whole
            assert "a bundle is there already" in again.fault()
            tool("oci", "umount", bundle).ok()
            assert not bundle.exists()
            tool("oci", "mount", "--copy", "base", bundle).ok()
        assert (bundle / "rootfs/bin/busybox").exists()
        tool("oci", "umount", bundle).ok()
        assert not bundle.exists()
    assert -signal.SIGKILL in killed
    tool("tag", "base", "other").ok()  # the next who writes to storage sweeps it
    assert oci.leftovers(tool) == []


def test_an_image_may_go_while_a_bundle_of_it_is_mounted(
    tool: world.Tool, bundle: Path, base_layout: world.BaseImage
) -> None:
    (base_layout.tree / "etc/os-release").touch()
    tool("import", base_layout.tree, "passing").ok()
    tool("oci", "mount", "passing", bundle).ok()
    held = oci.holder(tool, bundle)
    tool("delete", "passing").ok()
    cleaning = tool.start("build-cache", "--gc")
    if held:  # by its layers
        line = cleaning.stderr.readline()  # type: ignore[union-attr]
        assert "using the storage directory; waiting" in line
    else:
        assert cleaning.wait(60) == 0
    assert "busybox" in oci.inside(held, "ls", bundle / "rootfs/bin").split()
    tool("oci", "umount", bundle).ok()
    assert cleaning.wait(60) == 0
    cleaning.communicate()


MISTAKES = {
    "no such image": (["mount", "nothing", "BUNDLE"], "no image nothing"),
    "a directory that is not empty": (["mount", "base", "/etc"], "not empty"),
    "a bundle in storage": (["mount", "base", "STORAGE/x"], "in storage"),
    "a bundle around storage": (["mount", "base", "STORAGE/.."], "in storage"),
    "no bundle to unmount": (["umount", "BUNDLE"], "no such bundle"),
    "another directory to unmount": (["umount", "/etc"], "not a mounted bundle"),
    "no verb": ([], "oci needs"),
    "an unknown verb": (["mout", "base", "BUNDLE"], "no 'mout'"),
}


@pytest.mark.parametrize(("words", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_are_one_line(
    words: list[str], message: str, tool: world.Tool, tmp_path: Path
) -> None:
    places = {"BUNDLE": tmp_path / "bundle", "STORAGE": tool.storage}
    full = [word.replace(name, str(places[name])) for word in words
            for name in ("STORAGE" if "STORAGE" in word else "BUNDLE",)]  # fmt: skip
    done = tool("oci", *full)
    assert done.code in (1, 2)
    assert message in done.fault()
    assert list(tmp_path.iterdir()) == []
    assert oci.leftovers(tool) == []


def test_an_unknown_user_is_said(tool: world.Tool, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM base\nUSER nobodyknows\n")
    tool("build", "-t", "strange", tmp_path).ok()
    done = tool("oci", "mount", "strange", tmp_path / "bundle")
    assert 'no user "nobodyknows"' in done.fault()
    assert not (tmp_path / "bundle").exists()
    assert oci.leftovers(tool) == []


def test_one_bundle_is_mounted_once(tool: world.Tool, bundle: Path) -> None:
    racing = [tool.start("oci", "mount", "base", bundle) for _ in range(4)]
    results = [one.communicate()[1] for one in racing]
    assert sorted(one.returncode for one in racing) == [0, 2, 2, 2]
    assert all("already" in text for text in results if text)
    assert len(oci.mounted(tool)) == (0 if oci.COPIED else 1)
    root = bundle / "rootfs/bin"
    assert "busybox" in oci.inside(oci.holder(tool, bundle), "ls", root).split()
