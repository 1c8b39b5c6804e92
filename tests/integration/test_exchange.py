"""Images go to and come from every neighbouring tool, and keep what they are."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
import world

pytestmark = [pytest.mark.userns]

DOCKERFILE = """FROM base
RUN echo new > /new && chown 33:33 /new && chmod 4755 /new && mknod /nul c 1 3 \\
 && ln /new /hard && ln -s new /link && chown -h 7:8 /link && mkfifo /pipe && rm /etc/group \\
 && echo x > '/with space' && echo y > /ümlaut
ENV A=b
"""
EPOCH = "1700000000"


@pytest.fixture
def demo(ch_image: world.Tool, base_layout: world.BaseImage, tmp_path: Path) -> world.Tool:
    """A storage with `base`, pulled from a layout, and `demo`, built on it."""
    ch_image("import", base_layout.layout, "base").ok()
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(DOCKERFILE)
    ch_image("build", "-t", "demo:1", context, env={"SOURCE_DATE_EPOCH": EPOCH}).ok()
    return ch_image


def convert(tool: world.Tool, *words: object, cwd: Path) -> None:
    tool.run("ch-convert", *words, cwd=cwd, env={"SOURCE_DATE_EPOCH": EPOCH}).ok()


def digests(tool: world.Tool, name: str) -> dict[str, str]:
    """What `inspect --digests` says: "manifest", "config", "layer 1" ... -> digest."""
    out = tool("inspect", "--digests", name).ok().out
    found = re.findall(r"^(\w+(?: \d+)?)? +(sha256:[0-9a-f]{64})", out, re.M)
    return {label or f"blob {number}": digest for number, (label, digest) in enumerate(found)}


def tool_run(*words: object, cwd: Path) -> str:
    """A neighbour's program, with the network and our home out of its way; what it prints."""
    program = world.program(str(words[0]))
    done = subprocess.run(
        [program, *map(str, words[1:])],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=world.clean_environment(cwd),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


LAYERED = {"oci": "x.oci", "oci-archive": "x.oci.tar", "docker-archive": "x.docker.tar"}


@pytest.mark.parametrize(("kind", "name"), LAYERED.items(), ids=LAYERED.keys())
def test_formats_of_layers_keep_every_digest_both_ways(
    kind: str, name: str, demo: world.Tool, tmp_path: Path
) -> None:
    convert(demo, "-o", kind, "demo:1", name, cwd=tmp_path)
    before = digests(demo, "demo:1")
    other = world.Tool(tmp_path / "other", demo.home)
    other("import", name, "back", cwd=tmp_path).ok()
    assert digests(other, "back") == before
    assert other.run("ch-run", "back", "--", "cat", "/new").ok().out == "new\n"
    convert(other, "back", "again.oci", cwd=tmp_path)
    index = json.loads((tmp_path / "again.oci/index.json").read_text())
    assert index["manifests"][0]["digest"] == before["manifest"]


def test_the_same_build_in_two_storages_has_the_same_digests(
    demo: world.Tool, base_layout: world.BaseImage, tmp_path: Path
) -> None:
    other = world.Tool(tmp_path / "other", demo.home)
    other("import", base_layout.layout, "base").ok()
    env = {"SOURCE_DATE_EPOCH": EPOCH}
    other("build", "--no-cache", "-t", "demo:1", tmp_path / "context", env=env).ok()
    for number, tool in enumerate((demo, other)):
        convert(tool, "-o", "oci-archive", "demo:1", f"{number}.tar", cwd=tmp_path)
    assert (tmp_path / "0.tar").read_bytes() == (tmp_path / "1.tar").read_bytes()
    assert digests(demo, "demo:1") == digests(other, "demo:1")


def looks(path: Path) -> list[tuple[object, ...]]:
    """All that an archive says of its members, but for what tells of history."""
    with tarfile.open(path) as archive:
        return [
            (m.name, m.type, m.mode, m.uid, m.gid, m.mtime, m.linkname, m.devmajor, m.pax_headers)
            for m in archive
        ]


TREES = ["squash", "oci", "oci-archive", "docker-archive"]


@pytest.mark.parametrize("kind", TREES)
def test_owners_devices_and_links_go_through_each_format(
    kind: str, demo: world.Tool, tmp_path: Path
) -> None:
    convert(demo, "demo:1", "direct.tar", cwd=tmp_path)
    convert(demo, "-o", kind, "demo:1", "through", cwd=tmp_path)
    convert(demo, "-i", kind, "through", "-o", "tar", "back.tar", cwd=tmp_path)
    with tarfile.open(tmp_path / "back.tar") as archive:
        members = {m.name.removeprefix("./"): m for m in archive}
    new, link = members["hard"], members["link"]
    assert (new.uid, new.gid, new.mode, new.size) == (33, 33, 0o4755, 4)
    assert (link.uid, link.gid, link.linkname) == (7, 8, "new")
    assert members["new"].linkname == "hard"
    assert (members["nul"].type, members["nul"].devmajor) == (tarfile.CHRTYPE, 1)
    assert (members["home/app"].uid, members["tmp"].mode) == (1234, 0o1777)
    assert "etc/group" not in members
    assert looks(tmp_path / "back.tar") == looks(tmp_path / "direct.tar")


@pytest.mark.parametrize(("kind", "name"), LAYERED.items(), ids=LAYERED.keys())
def test_skopeo_reads_what_we_write_and_we_read_what_it_writes(
    kind: str, name: str, demo: world.Tool, tmp_path: Path
) -> None:
    convert(demo, "-o", kind, "demo:1", name, cwd=tmp_path)
    ours = digests(demo, "demo:1")
    source = f"{kind}:{name}" + (":1" if kind == "oci" else "")
    seen = json.loads(tool_run("skopeo", "inspect", source, cwd=tmp_path))
    assert seen["Env"][-1] == "A=b"
    if kind != "docker-archive":  # whose digests skopeo makes up
        assert seen["Digest"] == ours["manifest"]
    for number, back in enumerate(("oci", "oci-archive", "docker-archive")):
        target = f"{number}.{back}"
        copy = ("skopeo", "--insecure-policy", "copy", source, f"{back}:{target}:demo:2")
        tool_run(*copy, cwd=tmp_path)
        demo("import", target, f"back:{number}", cwd=tmp_path).ok()
        theirs = digests(demo, f"back:{number}")
        if (kind == "docker-archive") == (back == "docker-archive"):  # else it writes another
            assert theirs["config"] == ours["config"], back
        assert theirs["layer 2"] == ours["layer 2"], back


def test_umoci_unpacks_what_we_write_and_we_read_what_it_repacks(
    demo: world.Tool, tmp_path: Path
) -> None:
    convert(demo, "demo:1", "x.oci", cwd=tmp_path)
    tool_run("umoci", "unpack", "--rootless", "--image", "x.oci:1", "bundle", cwd=tmp_path)
    root = tmp_path / "bundle/rootfs"
    assert (root / "new").read_text() == "new\n"
    assert (root / "hard").samefile(root / "new")
    assert not (root / "etc/group").exists()
    (root / "more").write_text("from umoci")
    tool_run("umoci", "repack", "--image", "x.oci:2", "bundle", cwd=tmp_path)
    demo("import", "x.oci:2", "repacked", cwd=tmp_path).ok()
    assert demo.run("ch-run", "repacked", "--", "cat", "/more").ok().out == "from umoci"
    assert digests(demo, "repacked")["layer 1"] == digests(demo, "demo:1")["layer 1"]
    several = demo("import", "x.oci", "which", cwd=tmp_path)
    assert "it holds 1, 2" in several.err  # two images, and none is called that
    demo("import", "x.oci:1", "first", cwd=tmp_path).ok()
    assert digests(demo, "first")["manifest"] == digests(demo, "demo:1")["manifest"]


def test_buildah_builds_from_ours_and_we_take_what_it_pushes(
    demo: world.Tool, tmp_path: Path
) -> None:
    convert(demo, "demo:1", "x.oci", cwd=tmp_path)
    world.program("buildah")
    home = tmp_path / "buildah"
    home.mkdir()
    flags = ("--root", home / "root", "--runroot", home / "run", "--storage-driver", "vfs",
             "--storage-opt", "vfs.ignore_chown_errors=true")  # fmt: skip
    probe = subprocess.run(
        ["buildah", *map(str, flags), "from", "--name", "c", f"oci:{tmp_path}/x.oci:1"],
        capture_output=True,
        text=True,
        env=world.clean_environment(home),
    )
    if probe.returncode and re.search("subuid|newuidmap|lchown|insufficient UIDs", probe.stderr):
        pytest.skip("buildah cannot unpack other owners without subordinate IDs")
    assert probe.returncode == 0, probe.stderr
    tool_run("buildah", *flags, "config", "--env", "C=d", "c", cwd=home)
    tool_run("buildah", *flags, "commit", "--disable-compression", "c",
             f"docker-archive:{home}/out.tar:c:1", cwd=home)  # fmt: skip
    demo("import", home / "out.tar", "from-buildah").ok()
    config = json.loads(demo("inspect", "from-buildah").ok().out)
    assert config["config"]["Env"][-1] == "C=d"
    assert demo.run("ch-run", "from-buildah", "--", "cat", "/new").ok().out == "new\n"


@pytest.mark.parametrize("nested", [False, True], ids=["plain", "compressed"])
def test_archives_of_old_docker_are_read(
    nested: bool, ch_image: world.Tool, base_layout: world.BaseImage, tmp_path: Path
) -> None:
    """docker save before 25: a directory for each layer, plain archives, links between them."""
    raw = base_layout.tar.read_bytes()
    top = world.tar_of({"top": "layer"})
    plain = [raw, top, raw]
    config = {
        "architecture": "amd64", "os": "linux", "config": {"Env": ["A=b"]},
        "rootfs": {"type": "layers", "diff_ids": [world.digest(layer) for layer in plain]},
    }  # fmt: skip
    text = json.dumps(config).encode()
    files = {"0/layer.tar": raw, "1/layer.tar": top, "c.json": text}
    layers = ["0/layer.tar", "1/layer.tar", "2/layer.tar"]
    names = [{"Config": "c.json", "RepoTags": ["old:1", "old:2"], "Layers": layers}]
    files["manifest.json"] = json.dumps(names).encode()
    path = tmp_path / "saved.tar"
    with tarfile.open(path, "w:gz" if nested else "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("2/layer.tar")
        link.type, link.linkname = tarfile.SYMTYPE, "../0/layer.tar"
        archive.addfile(link)
    ch_image("import", "--format", "docker-archive", path, "old").ok()
    found = digests(ch_image, "old")
    assert found["config"] == world.digest(text)
    assert found["layer 3"] == found["layer 1"] == world.digest(raw)
    assert ch_image.run("ch-run", "old", "--", "cat", "/top").ok().out == "layer"
    done = ch_image("import", "--format", "docker-archive", f"{path}:nosuch", "x")
    assert "nosuch" in done.fault()
    assert "old:1" in done.err


BAD = {
    "a layout that lacks a blob": ("oci", "lacks"),
    "a layout with a damaged blob": ("oci", "damage"),
    "an archive that is cut": ("oci-archive", "cut"),
    "a squashfs that is cut": ("squash", "cut"),
    "a squashfs that is text": ("squash", "text"),
}


@pytest.mark.parametrize(("kind", "how"), BAD.values(), ids=BAD.keys())
def test_damaged_images_are_refused_and_leave_nothing(
    kind: str, how: str, demo: world.Tool, tmp_path: Path
) -> None:
    convert(demo, "-o", kind, "demo:1", "x", cwd=tmp_path)
    path = tmp_path / "x"
    if kind == "oci":
        blob = max((path / "blobs/sha256").iterdir(), key=lambda p: p.stat().st_size)
        data = blob.read_bytes()
        blob.unlink() if how == "lacks" else blob.write_bytes(data[:-9] + b"x" * 9)
    elif how == "text":
        path.write_text("no file system")
    else:
        os.truncate(path, path.stat().st_size // 2)
    other = world.Tool(tmp_path / "other", demo.home)
    assert other("import", "--format", kind, "x", "bad", cwd=tmp_path).fault()
    assert other("list").ok().out == ""
    assert os.listdir(other.storage / "tmp") == []


def test_an_archive_cannot_reach_out_of_itself(ch_image: world.Tool, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text('{"architecture":"amd64","os":"linux","rootfs":{"diff_ids":[]}}')
    path = tmp_path / "evil.tar"
    names = json.dumps([{"Config": str(secret), "RepoTags": [], "Layers": []}])
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("c.json")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        archive.addfile(link)
        for config in ("../secret", str(secret), "c.json"):
            text = names.replace(json.dumps(str(secret)), json.dumps(config)).encode()
        member = tarfile.TarInfo("manifest.json")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
    assert "lacks" in ch_image("import", "--format", "docker-archive", path, "x").fault()


def test_docker_and_podman_are_used_through_their_programs(
    demo: world.Tool, tmp_path: Path
) -> None:
    """A stand-in with docker's command line, over a directory: no daemon is needed to show it."""
    bin_dir, kept = tmp_path / "bin", tmp_path / "kept.tar"
    bin_dir.mkdir()
    for name in ("docker", "podman"):
        (bin_dir / name).write_text(
            '#!/bin/sh\n[ "$(id -u)" != 0 ] || exit 7\n'  # they look for root's images then
            f'case $1 in load) cp "$3" {kept};; save) cp {kept} "$3";; '
            "image) exit 1;; *) exit 9;; esac\n"
        )
        (bin_dir / name).chmod(0o755)
        env = {"PATH": f"{bin_dir}:{os.environ['PATH']}", "SOURCE_DATE_EPOCH": EPOCH}
        demo.run("ch-convert", "-o", name, "demo:1", "theirs:1", env=env).ok()
        with tarfile.open(kept) as archive:
            rows = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
        assert rows[0]["RepoTags"] == ["theirs:1"]
        demo.run("ch-convert", "-i", name, "theirs:1", f"from-{name}", env=env).ok()
        assert digests(demo, f"from-{name}") == digests(demo, "demo:1")
        kept.unlink()
    lacking = demo.run("ch-convert", "-o", "podman", "demo:1", "x", env={"PATH": "/nosuch"})
    assert "podman is not installed" in lacking.fault()


def test_podman_itself_takes_and_gives_images(demo: world.Tool, tmp_path: Path) -> None:
    """As an ordinary user without subordinate IDs, whom it lets have one ID."""
    podman = shutil.which("podman")
    if podman is None:
        pytest.skip("podman is not installed")
    place = tmp_path / "containers"
    (demo.home / ".config/containers").mkdir(parents=True)
    (demo.home / ".config/containers/storage.conf").write_text(
        f'[storage]\ndriver = "vfs"\nrunroot = "{place}/run"\ngraphroot = "{place}/graph"\n'
        '[storage.options.vfs]\nignore_chown_errors = "true"\n'
    )
    env = demo.environment()
    demo.run("ch-convert", "-o", "podman", "demo:1", "theirs:1").ok()
    demo.run("ch-convert", "-i", "podman", "theirs:1", "back").ok()
    assert demo.run("ch-run", "back", "--", "cat", "/new").ok().out == "new\n"
    done = demo.run("ch-convert", "--no-clobber", "-o", "podman", "demo:1", "theirs:1")
    assert "podman has an image theirs:1 already" in done.fault()
    listed = subprocess.check_output(
        [podman, "images", "-q", "docker.io/library/theirs:1"], env=env
    )
    assert listed.strip()
    subprocess.run([podman, "unshare", "rm", "-rf", place], env=env, check=True)


def test_no_clobber_and_tags_hold_for_layouts(demo: world.Tool, tmp_path: Path) -> None:
    convert(demo, "demo:1", "x.oci:one", cwd=tmp_path)
    convert(demo, "base", "x.oci:two", cwd=tmp_path)
    index = json.loads((tmp_path / "x.oci/index.json").read_text())
    names = [e["annotations"]["org.opencontainers.image.ref.name"] for e in index["manifests"]]
    assert sorted(names) == ["one", "two"]
    done = demo.run("ch-convert", "--no-clobber", "base", "x.oci:three", cwd=tmp_path)
    assert "exists already" in done.fault()
    for blob in (tmp_path / "x.oci/blobs/sha256").iterdir():
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name


def test_the_names_of_2020_write_into_a_directory(demo: world.Tool, tmp_path: Path) -> None:
    for command, words, ending in (
        ("ch-builder2tar", (), "tar.gz"),
        ("ch-builder2tar", ("--nocompress",), "tar"),
        ("ch-builder2squash", ("-b", "ch-image"), "sqfs"),
    ):
        done = demo.run(command, *words, "demo:1", tmp_path).ok()
        path = tmp_path / f"demo+1.{ending}"
        assert (done.out, done.err) == (f"{path}\n", "")
        demo("import", path, f"from-{command[3:]}").ok()
        assert demo.run("ch-run", f"from-{command[3:]}", "--", "cat", "/new").ok().out == "new\n"
    for command, words, message in (
        ("ch-builder2tar", ("demo:1", "/nosuch"), "no directory: /nosuch"),
        ("ch-builder2tar", ("nosuch", tmp_path), "no image nosuch"),
        ("ch-builder2tar", ("demo:1",), "OUTDIR"),
        ("ch-builder2squash", ("demo:1", tmp_path, "x"), "no options of mksquashfs"),
    ):
        done = demo.run(command, *words)
        assert done.code in (1, 2)
        assert message in done.err, done
        assert "Traceback" not in done.err


def test_pipes_are_read_and_written(demo: world.Tool, tmp_path: Path) -> None:
    argv = demo.argv("ch-convert", "demo:1", "-")
    archive = subprocess.run(argv, capture_output=True, env=demo.environment(), check=True).stdout
    demo.run("ch-convert", "-", "piped", stdin=archive).ok()
    assert demo.run("ch-run", "piped", "--", "cat", "/new").ok().out == "new\n"
    argv = demo.argv("ch-convert", "-o", "oci-archive", "demo:1", "-")
    archive = subprocess.run(argv, capture_output=True, env=demo.environment(), check=True).stdout
    (tmp_path / "x").write_bytes(archive)
    demo("import", tmp_path / "x", "from-oci").ok()
    for words in (
        ("-o", "squash", "demo:1", "-"),
        ("-i", "oci", "-", "x"),
        ("-o", "dir", "base", "-"),
    ):
        done = demo.run("ch-convert", *words)
        assert (done.code, "standard output" in done.fault()) == (2, True), done
    cut = demo.run("ch-convert", "-", "x", stdin=archive[:700])
    assert cut.fault().startswith("-: ")
