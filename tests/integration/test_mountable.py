"""Images that are one SquashFS file in a registry: push --squashfs, and pull."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import world

pytestmark = pytest.mark.userns
ACCEPT = "application/vnd.oci.image.manifest.v1+json"
DOCKERFILE = """\
FROM {base}
RUN echo hello > /s && chown app:staff /s && mkdir /d && ln -s ../s /d/link && rm -r /root
ENV COLOUR=green
CMD ["cat", "/s"]
"""


@pytest.fixture
def pushed(ch_image: world.Tool, base_image: str, registry: world.Registry, tmp_path: Path) -> str:
    """The name of such an image in the registry."""
    world.program("mksquashfs")
    world.program("unsquashfs")
    (tmp_path / "context").mkdir()
    (tmp_path / "context/Dockerfile").write_text(DOCKERFILE.format(base=base_image))
    ch_image("build", "-t", "app", tmp_path / "context").ok()
    name = registry.ref("mountable:1")
    ch_image("push", "--squashfs", "app", name).ok()
    return name


def test_an_image_goes_through_a_registry_as_one_file(
    pushed: str, ch_image: world.Tool, registry: world.Registry, tmp_path: Path
) -> None:
    raw = registry.get("mountable/manifests/1", ACCEPT)
    manifest = json.loads(raw)
    (layer,) = manifest["layers"]
    assert layer["mediaType"] == "application/vnd.oci.image.layer.squashfs"
    (tmp_path / "file").write_bytes(registry.get(f"mountable/blobs/{layer['digest']}"))
    listed = subprocess.run(
        [world.program("unsquashfs"), "-lln", str(tmp_path / "file")],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    (line,) = [line for line in listed.splitlines() if line.endswith("squashfs-root/s")]
    assert "1234/50" in line
    assert "squashfs-root/root\n" not in listed
    config = json.loads(registry.get(f"mountable/blobs/{manifest['config']['digest']}"))
    assert config["rootfs"]["diff_ids"] == [layer["digest"]]

    other = world.Tool(tmp_path / "other", ch_image.home)
    other("pull", pushed, "back").ok()

    script = "cat /s /d/link; echo $COLOUR"
    done = other.run("ch-run", "--set-env", "back", "--", "sh", "-c", script)
    assert done.ok().out == "hello\nhello\ngreen\n"
    mine, theirs = (json.loads(t("inspect", n).ok().out)["config"]
                    for t, n in ((ch_image, "app"), (other, "back")))  # fmt: skip
    assert mine == theirs
    other("push", "back", registry.ref("mountable:2")).ok()
    assert registry.get("mountable/manifests/2", ACCEPT) == raw


def test_one_can_build_on_it_once_it_is_pulled(
    pushed: str, ch_image: world.Tool, registry: world.Registry, tmp_path: Path
) -> None:
    other = world.Tool(tmp_path / "other", ch_image.home)
    (tmp_path / "context/Dockerfile").write_text(f"FROM {pushed}\nRUN cat /s > /t\n")
    failed = other("build", "-t", "more", tmp_path / "context")
    assert "the image is a SquashFS file" in failed.fault()
    other("pull", pushed).ok()
    other("build", "-t", "more", tmp_path / "context").ok()
    other("push", "more", registry.ref("more:1")).ok()
    layers = json.loads(registry.get("more/manifests/1", ACCEPT))["layers"]
    assert [layer["mediaType"].endswith("tar+gzip") for layer in layers] == [True, True]
    other("pull", registry.ref("more:1"), "again").ok()
    assert other.run("ch-run", "again", "--", "cat", "/t").ok().out == "hello\n"
