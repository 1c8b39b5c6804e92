"""ch-run of OCI layouts and archives: as they lie there, by tag, many at once, bad ones."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import world

pytestmark = pytest.mark.userns


def run(tool: world.Tool, *args: object) -> world.Done:
    return tool.run("ch-run", *args)


@pytest.fixture
def layout(base_layout: world.BaseImage, tmp_path: Path) -> Path:
    """A layout of two images, `latest` and `other`, which differ in a file and a variable."""
    path = tmp_path / "images"
    shutil.copytree(base_layout.layout, path)
    first = (path / "index.json").read_text()
    world.write_layout(
        path,
        [base_layout.tar.read_bytes(), world.tar_of({"which": "other\n"})],
        {"Env": ["WHICH=other", "PATH=/bin"]},
        tag="other",
    )
    second = (path / "index.json").read_text()
    merged = first[: first.rindex("]}")] + ", " + second[second.index("[") + 1 :]
    (path / "index.json").write_text(merged)
    return path


def archived(layout: Path, name: str) -> Path:
    subprocess.run(["tar", "-cf", layout.parent / name, "-C", layout, "."], check=True)
    return layout.parent / name


@pytest.mark.parametrize("kind", ["layout", "archive"])
def test_an_image_is_run_as_it_lies_there(ch_image: world.Tool, layout: Path, kind: str) -> None:
    image = layout if kind == "layout" else archived(layout, "images.tar")
    for _ in range(2):  # unpacked, then remembered
        done = run(
            ch_image, "--set-env", f"{image}:other", "--", "sh", "-c", "cat /which; echo $WHICH"
        )
        assert done.ok().out == "other\nother\n"
    assert run(ch_image, f"{image}:latest", "--", "ls", "/which").code != 0
    run(ch_image, "-W", f"{image}:other", "--", "touch", "/x").ok()
    assert run(ch_image, "-w", f"{image}:other", "--", "touch", "/x").code == 31
    assert ch_image("list").ok().out == ""  # nothing gets a name by being run
    ch_image("verify").ok()
    ch_image("build-cache", "--gc").ok()
    assert run(ch_image, f"{image}:other", "--", "cat", "/which").ok().out == "other\n"


def test_what_changed_there_is_run_as_it_is_now(
    ch_image: world.Tool, base_layout: world.BaseImage, tmp_path: Path
) -> None:
    for text in ("one", "two"):
        layers = [base_layout.tar.read_bytes(), world.tar_of({"which": text})]
        world.write_layout(tmp_path / "l", layers)
        assert run(ch_image, tmp_path / "l", "--", "cat", "/which").ok().out == text


def test_an_archive_of_docker_save_runs(ch_image: world.Tool, layout: Path, tmp_path: Path) -> None:
    ch_image.run("ch-convert", f"{layout}:other", tmp_path / "x.docker.tar").ok()
    assert run(ch_image, tmp_path / "x.docker.tar", "--", "cat", "/which").ok().out == "other\n"


def test_many_start_at_once_from_a_fresh_layout(ch_image: world.Tool, layout: Path) -> None:
    argv = ch_image.argv("ch-run", f"{layout}:other", "--", "cat", "/which")
    running = [
        subprocess.Popen(argv, env=ch_image.environment(), stdout=subprocess.PIPE)
        for _ in range(16)
    ]
    assert [process.communicate(timeout=60)[0] for process in running] == [b"other\n"] * 16
    layers = [name for name in os.listdir(ch_image.storage / "layers") if name[0] != "."]
    assert len(layers) == 2  # unpacked once


BAD = {
    "no such tag": ("{l}:nosuch", "nosuch"),
    "no such path": ("{l}-none:x", "can't find image"),
    "no image": ("{t}/words", "no image that is known"),
    "damaged": ("{t}/bad", "is damaged"),
    "empty": ("{t}/empty", "index.json"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_image_is_one_error(
    ch_image: world.Tool, layout: Path, tmp_path: Path, case: str
) -> None:
    (tmp_path / "words").write_text("just words")
    shutil.copytree(layout, tmp_path / "bad")
    for blob in (tmp_path / "bad/blobs/sha256").iterdir():
        blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    name, said = BAD[case]
    done = run(ch_image, name.format(l=layout, t=tmp_path), "--", "true")
    assert done.code == 31
    assert said in done.fault()
