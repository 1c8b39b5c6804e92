"""What docs/oci-critique.md claims and no other test holds."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import oci
import pytest
import world

pytestmark = pytest.mark.userns
DOCUMENT = world.CHECKOUT / "docs/oci-critique.md"

# A line each: "path = text", "path/" a directory, "path -> target", "path == other name".
LOWER = """
gone/
gone/file = 1
tree/
tree/sub/
tree/sub/file = 1
opaque/
opaque/old = 1
opaque/sub/
opaque/sub/old = 1
again/
again/file = old
again/other = old
swap/
swap/link -> target
swap/directory/
swap/directory/file = 1
swap/file = 1
links/
links/one = 1
links/two == links/one
links/three == links/one
across/
across/lower = shared
dangling/
dangling/target = 1
dangling/link -> target
kept/
kept/file = 1
"""
UPPER = """
gone/.wh.file =
gone/.wh.never =
kept/.wh.nothing =
.wh.tree =
opaque/.wh..wh..opq =
opaque/new = 2
again/file = new
again/.wh.file =
again/.wh.other =
again/other = new
swap/.wh.link =
swap/link/
swap/link/file = 2
swap/.wh.directory =
swap/directory -> link
swap/.wh.file =
swap/file/
swap/file/in = 2
links/.wh.one =
links/four == links/two
across/upper == across/lower
dangling/.wh.target =
"""
# What is to be seen of each directory; "==" where two names are one file.
SEEN = {
    "gone": [],
    "tree": None,
    "opaque": ["new = 2"],
    "again": ["file = new", "other = new"],
    "swap": ["directory -> link", "file/", "file/in = 2", "link/", "link/file = 2"],
    "links": ["four = 1", "three = 1", "two = 1"],
    "across": ["lower = shared", "upper = shared"],
    "dangling": ["link -> target"],
    "kept": ["file = 1"],
}


def layer(text: str) -> bytes:
    """A tar of the lines, in their order."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for line in text.split("\n")[1:-1]:
            name, kind, rest = (*line.split(" ", 2), "", "")[:3]
            info = tarfile.TarInfo(name.rstrip("/"))
            info.mode = 0o755 if name.endswith("/") else 0o644
            if name.endswith("/"):
                info.type = tarfile.DIRTYPE
            elif kind in ("->", "=="):
                info.type = tarfile.SYMTYPE if kind == "->" else tarfile.LNKTYPE
                info.linkname = rest
            data = rest.encode() if kind == "=" else b""
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def seen(root: Path) -> list[str]:
    """What a directory holds, in the manner of ``SEEN``."""
    out = []
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            out.append(f"{name} -> {os.readlink(path)}")
        elif path.is_dir():
            out.append(f"{name}/")
        else:
            out.append(f"{name} = {path.read_text()}")
    return out


@pytest.fixture(scope="module")
def tool(
    base_layout: world.BaseImage, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[world.Tool]:
    """Storage with ``base``, and ``layered``, whose second layer says all that one can."""
    made = oci.with_base(tmp_path_factory, base_layout)
    top = made.storage.parent
    world.write_layout(top / "layout", [layer(LOWER), layer(UPPER)])
    made("import", top / "layout", "layered").ok()
    made.run("ch-convert", "layered", top / "tree").ok()
    made("oci", "mount", "base", top / "bundle").ok()
    yield made
    made("oci", "umount", top / "bundle").ok()


@pytest.fixture
def bundle(tool: world.Tool) -> Iterator[Path]:
    """The mounted bundle; no container is left in it."""
    yield tool.storage.parent / "bundle"
    oci.forget(tool)


@pytest.mark.parametrize("name", SEEN)
def test_what_a_layer_hides_replaces_and_links(name: str, tool: world.Tool) -> None:
    root = tool.storage.parent / "tree" / name
    if SEEN[name] is None:
        assert not root.exists()
    else:
        assert seen(root) == SEEN[name]


def test_names_of_one_file_stay_that_within_a_layer(tool: world.Tool) -> None:
    tree = tool.storage.parent / "tree/links"
    assert (tree / "two").stat().st_ino == (tree / "three").stat().st_ino


def test_no_marker_is_left_in_what_is_seen_or_made(tool: world.Tool, tmp_path: Path) -> None:
    tree = tool.storage.parent / "tree"
    assert list(tree.rglob(".wh.*")) == []
    tool.run("ch-convert", "layered", tmp_path / "out.tar").ok()
    with tarfile.open(tmp_path / "out.tar") as tar:
        assert not [name for name in tar.getnames() if "/.wh." in f"/{name}"]


def test_each_digest_is_over_what_is_said(
    tool: world.Tool, base_image: str, registry: world.Registry
) -> None:
    tool("pull", base_image).ok()
    lines = tool("inspect", "--digests", base_image).ok().out.splitlines()
    found = {}
    for line in lines:
        digest = re.search(r"sha256:\w{64}", line)
        assert digest, line
        found[line[digest.end() :].strip()] = digest[0]
    manifest = registry.get(
        "busybox/manifests/latest", "application/vnd.oci.image.manifest.v1+json"
    )
    assert found["of the manifest's bytes"] == world.digest(manifest)
    parsed = json.loads(manifest)
    config = registry.get(f"busybox/blobs/{parsed['config']['digest']}")
    assert found["of the config's bytes: the image ID"] == world.digest(config)
    blob = registry.get(f"busybox/blobs/{parsed['layers'][0]['digest']}")
    assert found[f"of the compressed layer, {len(blob)} bytes"] == world.digest(blob)
    plain = gzip.decompress(blob)
    assert found["of the layer's tar: its diff ID"] == world.digest(plain)
    assert json.loads(config)["rootfs"]["diff_ids"] == [world.digest(plain)]


def test_the_environment_is_what_config_json_says_and_no_more(
    tool: world.Tool, bundle: Path
) -> None:
    oci.command(bundle, "env", env=["PATH=/bin", "ONLY=this"])
    told = set(tool("oci", "run", "-b", bundle, "one").ok().out.split())
    assert told == {"ONLY=this", "PATH=/bin", "HOME=/root"}


def test_the_process_that_waits_is_the_one_that_runs(tool: world.Tool, bundle: Path) -> None:
    oci.command(bundle, "sleep", "1000")
    tool("oci", "create", "-b", bundle, "one").ok()
    before = oci.state(tool, "one")["pid"]
    tool("oci", "start", "one").ok()
    assert oci.state(tool, "one")["pid"] == before
    assert Path(f"/proc/{before}/cmdline").read_bytes().split(b"\0")[:2] == [b"sleep", b"1000"]


def test_create_leaves_state_in_one_directory_and_delete_none(
    tool: world.Tool, bundle: Path
) -> None:
    def everything() -> set[str]:
        tops = (tool.home, tool.storage, bundle)
        found = {str(path) for top in tops for path in top.rglob("*")}
        # What is written to the root, mount points first of all, goes with the mounted bundle:
        # it is in storage where that is held, in the bundle where it is a copy.
        roots = (f"{tool.storage}/tmp/", f"{bundle}/rootfs/")
        return {path for path in found if not path.startswith(roots)}

    oci.command(bundle, "sleep", "1000")
    before = everything()
    tool("oci", "create", "-b", bundle, "one").ok()
    tool("oci", "start", "one").ok()
    new = everything() - before
    state = f"{tool.home}/ch-run-oci"
    assert {path for path in new if not path.startswith(state)} == set()
    names = {path.removeprefix(f"{state}/one").strip("/") for path in new}
    # The record and its lock; the door where start knocks; the one where attach does; that of
    # root emulation, for exec.
    assert names - {state.strip("/")} <= {"", "state.json", "lock", "start", "attach", "emulation"}
    tool("oci", "delete", "-f", "one").ok()
    assert everything() - before <= {state}


def test_a_bundle_may_be_called_anything(tool: world.Tool, tmp_path: Path) -> None:
    odd = tmp_path / "a bundle,with:odd=names\\and \N{SNOWMAN}"
    tool("oci", "mount", "base", odd, "--", "echo", "fine").ok()
    assert tool("oci", "run", "-b", odd, "x").ok().out == "fine\n"
    tool("oci", "umount", odd).ok()
    assert not odd.exists()


def test_every_verb_and_option_is_documented() -> None:
    from ch_image.cli.oci import OCI

    text = (world.CHECKOUT / "docs/oci.md").read_text()
    for verb, command in OCI.verbs.items():
        assert f"`{verb} " in text or f"`{verb}`" in text, verb
        for option in command.options:
            assert any(name in text for name in option.names), f"{verb} {option.names}"


def test_every_claim_names_a_test_that_there_is() -> None:
    rows = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| ")]
    rows = [row for row in rows if not row.startswith(("| point", "| ---"))]
    assert len(rows) >= 20
    for row in rows:
        named = re.findall(r"`(\w+(?:/\w+)*\.py)::(test_\w+)`", row)
        assert named, row
        for file, test in named:
            text = (world.CHECKOUT / "tests" / file).read_text()
            assert f"def {test}(" in text, f"{file} has no {test}"
