"""Where ch-convert writes: what it refuses before any work, never destroys, and never leaves half.

Mounts are made in namespaces of the test's own, as an ordinary user may.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import world

pytestmark = pytest.mark.userns
BEHIND_MOUNT = 'mount -t tmpfs -o "size=$1" none "$2"; touch "$2/mine"; shift 2; '


@pytest.fixture
def stored(ch_image: world.Tool, base_layout: world.BaseImage) -> world.Tool:
    """A storage with an image `base`."""
    ch_image("import", base_layout.layout, "base").ok()
    return ch_image


def behind_mount(
    tool: world.Tool, place: Path, script: str, *words: object, size: str = "50m"
) -> world.Done:
    """`ch-convert WORDS`, then `script`, where a file system with the file `mine` is at `place`."""
    place.mkdir(exist_ok=True, parents=True)
    argv = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c",
            BEHIND_MOUNT + f'cd "{place}"; "$@"; code=$?; {script}; exit $code', "sh", size,
            str(place), *tool.argv("ch-convert", *words)]  # fmt: skip
    done = subprocess.run(argv, capture_output=True, text=True, env=tool.environment())
    return world.Done(done.returncode, done.stdout, done.stderr)


# target -> what is said; the image to convert does not exist, which nobody comes to see
REFUSED = {
    "{tmp}/nodir/x.tar": "no such directory: {tmp}/nodir",
    "{tmp}/nodir/x": "no such directory: {tmp}/nodir",
    "{tmp}/nodir/x.oci": "no such directory: {tmp}/nodir",
    "{tmp}/nodir/x.oci.tar": "no such directory: {tmp}/nodir",
    "{tmp}/nodir/x.sqfs": "no such directory: {tmp}/nodir",
    "/x.docker.tar": "you cannot write to the directory /",
    "/x": "you cannot write to the directory /",
    "{tmp}/x.tar.lz": "no such compression",
    "{tmp}/there": "does not look like an image",
    "{tmp}/full.tar": "cannot replace a directory by an archive",
    "base@sha256:" + "0" * 64: "an image cannot be given a digest",
    "Bad": "not an image reference",
}


@pytest.mark.skipif(os.getuid() == 0, reason="root may write to /")
def test_a_target_that_cannot_be_is_refused_before_any_work(
    ch_image: world.Tool, tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there/file").touch()
    (tmp_path / "full.tar").mkdir()
    for target, message in REFUSED.items():
        kind = () if "/" in target else ("-o", "ch-image")
        source = ("-i", "dir", "./nosuch") if kind else ("-i", "ch-image", "nosuch")
        done = ch_image.run("ch-convert", *kind, *source, target.format(tmp=tmp_path))
        assert message.format(tmp=tmp_path) in done.fault(), target


def test_no_clobber_is_said_before_any_work(stored: world.Tool, tmp_path: Path) -> None:
    for name in ("image", "x.tar", "x.sqfs", "x.oci", "x.oci.tar"):
        stored.run("ch-convert", "base", f"./{name}", cwd=tmp_path).ok()
        done = stored.run("ch-convert", "--no-clobber", "nosuch", f"./{name}", cwd=tmp_path)
        assert "it exists already" in done.fault(), name
    done = stored.run("ch-convert", "--no-clobber", "./nosuch.tar", "base", cwd=tmp_path)
    assert "there is an image base already" in done.fault()


def test_an_empty_directory_is_used_also_without_clobbering(
    stored: world.Tool, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    stored.run("ch-convert", "--no-clobber", "base", tmp_path / "empty").ok()
    assert (tmp_path / "empty/bin/sh").exists()


def test_what_is_mounted_in_an_image_is_not_removed_with_it(
    stored: world.Tool, tmp_path: Path
) -> None:
    image = tmp_path / "image"
    stored.run("ch-convert", "base", image).ok()
    done = behind_mount(stored, image / "mnt/0", "ls", "base", image)
    assert f"is mounted in what would be replaced: {image}/mnt/0" in done.fault()
    assert done.out == "mine\n"
    assert sorted(os.listdir(tmp_path)) == ["home", "image", "storage"]


def test_a_mount_point_is_filled(stored: world.Tool, tmp_path: Path) -> None:
    """Scratch space that a batch system mounts cannot be replaced by a rename."""
    place = tmp_path / "scratch"
    script = "ls -A; stat -c %a ."
    done = behind_mount(stored, place, script, "base", place)
    assert "does not look like an image" in done.fault()
    assert done.out.split() == ["mine", "1777"]
    argv = ["sh", "-c", f'rm mine; exec "$@" base {place}', "sh"]
    tool = world.Tool(stored.storage, stored.home)
    tool.argv = lambda *_: [*argv, *stored.argv("ch-convert")]  # type: ignore[method-assign]
    done = behind_mount(tool, place, script).ok()
    assert {"bin", "ch", "home", "mnt"} <= set(done.out.split())
    assert done.out.split()[-1] == "755"
    assert ".part" not in done.out
    assert os.listdir(place) == []


@pytest.mark.parametrize("name", ["x", "x.tar", "x.sqfs", "x.oci", "x.oci.tar", "x.docker.tar"])
def test_no_space_names_the_target_and_leaves_nothing(
    name: str, stored: world.Tool, tmp_path: Path
) -> None:
    place = tmp_path / "small"
    done = behind_mount(stored, place, "ls -A", "base", f"{place}/{name}", size="200k")
    assert done.fault() == f"{place}/{name}: No space left on device"
    assert done.out == "mine\n"


def test_what_a_killed_conversion_left_goes_with_the_next(
    stored: world.Tool, tmp_path: Path
) -> None:
    place = tmp_path / "out"
    place.mkdir()
    (place / ".x.tar.mine.part").touch()
    argv = stored.argv("ch-convert", "-o", "tar", "base", "x.tar")
    script = """
import os, signal, sys
from ch_image.formats.unfinished import beside
with beside(sys.argv[1]) as path:
    open(path, "w").close()
    print(path, flush=True)
    signal.pause()
"""
    words = [sys.executable, "-c", script, str(place / "x.tar")]
    busy, dead = (
        subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=stored.environment())
        for _ in range(2)
    )
    assert busy.stdout is not None
    assert dead.stdout is not None
    theirs = Path(busy.stdout.readline().strip()), Path(dead.stdout.readline().strip())
    assert all(path.exists() for path in theirs)
    dead.kill()
    dead.communicate()
    subprocess.run(argv, cwd=place, env=stored.environment(), check=True)
    assert [path.exists() for path in theirs] == [True, False]
    busy.terminate()
    busy.communicate()
    subprocess.run(argv, cwd=place, env=stored.environment(), check=True)
    assert sorted(os.listdir(place)) == [".x.tar.mine.part", "x.tar"]


def test_an_interrupted_layout_can_be_written_again(stored: world.Tool, tmp_path: Path) -> None:
    layout = tmp_path / "x.oci"
    (layout / "blobs/sha256").mkdir(parents=True)
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    stored.run("ch-convert", "base", layout).ok()
    assert stored.run("ch-run", layout, "--", "echo", "runs").ok().out == "runs\n"
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".part")]


def test_a_squashfs_file_that_is_cut_short_is_called_so(stored: world.Tool, tmp_path: Path) -> None:
    whole = tmp_path / "whole.sqfs"
    stored.run("ch-convert", "base", whole).ok()
    cut = tmp_path / "cut.sqfs"
    cut.write_bytes(whole.read_bytes()[:5000])
    expected = "the SquashFS file is cut short, at 5000 of "
    for words in (("ch-convert", cut, "x"), ("ch-image", "import", cut, "x")):
        assert stored.run(*map(str, words)).fault().startswith(expected)
    bare = tmp_path / "bare.sqfs"
    bare.write_text("no file system")
    done = stored.run("ch-convert", "-i", "squash", bare, "x")
    assert done.fault() == f"not a SquashFS file: {bare}"


def test_an_image_does_not_hold_itself(stored: world.Tool, tmp_path: Path) -> None:
    stored.run("ch-convert", "base", tmp_path / "image").ok()
    for name in ("x.tar", "home/x.sqfs", "x.oci:1", "x.docker.tar"):
        done = stored.run("ch-convert", "./image", f"./image/{name}", cwd=tmp_path)
        assert (done.code, done.fault()[:16]) == (2, "OUT lies in IN, "), name
    stored.run("ch-convert", "./image", "./image.tar", cwd=tmp_path).ok()


def test_storage_is_neither_replaced_nor_written_to(stored: world.Tool, tmp_path: Path) -> None:
    for name, what in (("/", "contains"), ("..", "contains"), ("./x", "would lie in")):
        done = stored.run("ch-convert", "-o", "dir", "base", name, cwd=stored.storage)
        assert (done.code, what in done.fault()) == (2, True), done


HINTS = {
    "base docker://app": "-o docker app",
    "docker://app ./out": "-i docker app",
    "containers-storage:app ./out": "-i podman app",
    "docker-daemon:app:1 x.tar": "-i docker app:1",
    "base base:2": "ch-image tag gives an image another name",
    "x.tar y.tar.gz": "what stays as it is, cp copies",
}


def test_names_as_other_tools_write_them_are_answered(ch_image: world.Tool) -> None:
    for words, hint in HINTS.items():
        done = ch_image.run("ch-convert", *words.split())
        assert (done.code, hint in done.err.partition("hint: ")[2]) == (2, True), done
    done = ch_image.run("ch-convert", "docker:24", "./out")
    assert "no image docker:24 in storage" in done.fault()


def test_what_is_no_archive_is_called_so(ch_image: world.Tool, tmp_path: Path) -> None:
    for name, data in {"short": b"text\n", "long": b"some text 1\n" * 500}.items():
        (tmp_path / name).write_bytes(data)
        done = ch_image("import", tmp_path / name, "x")
        assert done.fault() == f"{tmp_path}/{name}: this is no tar archive, or it is damaged"
