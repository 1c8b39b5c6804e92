"""ADD: archives by their contents, URLs, git repositories, and what it shares with COPY."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trees
import world

from ch_image.build.add import AddSpec, add, choose, identity
from ch_image.build.context import Context
from ch_image.build.copy import CopyResult
from ch_image.build.copyspec import CopySpec
from ch_image.build.gitref import GitRef, parse_git
from ch_image.build.remote import Remotes, is_remote, name_of
from ch_image.errors import BuildError, ImageError

URLS = {
    "http://127.0.0.1/f.txt": (b"hello", "Wed, 21 Oct 2015 07:28:00 GMT"),
    "http://127.0.0.1/d/f.txt?x=1#y": (b"hello", ""),
    "http://127.0.0.1/": (b"index", "nonsense"),
    "http://127.0.0.1/%C3%A4%20b": (b"named", ""),
}


def tar(*members: tuple[str, str | None], uid: int = 0) -> bytes:
    """An archive of files (name, text) and directories (name, None)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, text in members:
            info = tarfile.TarInfo(name)
            info.mtime, info.uid, info.gid = 1_500_000_000, uid, uid
            info.mode = 0o750 if text is None else 0o640
            info.type = tarfile.DIRTYPE if text is None else tarfile.REGTYPE
            info.size = len(text or "")
            archive.addfile(info, io.BytesIO((text or "").encode()))
    return out.getvalue()


def zstd(data: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor().compress(data)


class Web:
    """Stands for the network: counts what is fetched."""

    def __init__(self) -> None:
        self.urls = {**URLS, "http://127.0.0.1/a.tar": (tar(("x/y", "1")), "")}
        self.fetched: list[str] = []

    def __call__(self, url: str, sink: Callable[[bytes], object], /) -> str:
        self.fetched.append(url)
        data, modified = self.urls[url]
        sink(data[:2])
        sink(data[2:])
        return modified


def carry_out(tmp: Path, text: str, web: Web | None = None, **options: Any) -> CopyResult:
    *sources, destination = text.split(" ")
    spec = AddSpec(
        CopySpec(
            tuple(sources),
            destination,
            **{k: v for k, v in options.items() if k in CopySpec._fields},
        ),
        **{k: v for k, v in options.items() if k in AddSpec._fields},
    )
    (tmp / "image").mkdir(exist_ok=True)
    (tmp / "context").mkdir(exist_ok=True)
    scratch = tmp / "scratch"
    scratch.mkdir(exist_ok=True)
    remotes = Remotes(
        str(scratch), web or Web(), checksum=spec.checksum, keep_git_dir=spec.keep_git_dir
    )
    context = Context(str(tmp / "context"))
    chosen = choose(spec, context)
    assert len(identity(chosen, context, remotes)) == 64
    return add(spec, context, str(tmp / "image"), chosen, remotes)


@pytest.mark.parametrize(
    "pack", [bytes, gzip.compress, bz2.compress, lzma.compress, zstd], ids=lambda f: f.__name__
)
def test_a_local_archive_is_unpacked_whatever_its_name(
    pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    (tmp_path / "context").mkdir()
    (tmp_path / "context/archive").write_bytes(pack(tar(("d", None), ("d/f", "1"), uid=7)))
    done = carry_out(tmp_path, "archive /x")
    assert trees.read(tmp_path / "image") == ["x/", "x/d/ 750 @7:7", "x/d/f 640 @7:7 = 1"]
    assert (tmp_path / "image/x/d/f").stat().st_mtime == 1_500_000_000
    assert done.files == 2


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text",
        bytes(10240),
        gzip.compress(b"no archive", mtime=0),
        bz2.compress(b""),
        tar(("f", "1"))[:300],
        b"\x1f\x8b" + bytes(600),
        b"\xfd7zXZ\0" + bytes(9),
    ],
)
def test_what_is_no_archive_is_copied(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "context").mkdir()
    (tmp_path / "context/a.tar.gz").write_bytes(data)
    carry_out(tmp_path, "a.tar.gz /x/")
    assert (tmp_path / "image/x/a.tar.gz").read_bytes() == data


ARCHIVES = [
    ("a.tar /", {}, "d/ 750\nd/f 640 = 1", ""),
    ("a.tar /x", {}, "x/\nx/d/ 750\nx/d/f 640 = 1", ""),
    ("a.tar /x/", {"unpack": False}, "x/\nx/a.tar", ""),
    ("a.tar b /x/", {}, "x/\nx/b = 2\nx/d/ 750\nx/d/f 640 = 1", ""),
    ("*.tar /x", {}, "x/\nx/d/ 750\nx/d/f 640 = 1\nx/g 640 = 3", ""),
    ("sub /x/", {}, "x/\nx/c.tar", ""),  # not in a directory
    ("l /x/", {}, "x/\nx/d/ 750\nx/d/f 640 = 1", ""),  # through a link
    ("a.tar /x", {"chown": "5:6"}, "x/ @5:6\nx/d/ 750 @5:6\nx/d/f 640 @5:6 = 1", ""),
    ("a.tar /x", {"chmod": "600"}, "x/\nx/d/ 750\nx/d/f 640 = 1", ""),
    ("a.tar /l", {}, "l -> t\nt/\nt/d/ 750\nt/d/f 640 = 1", "l -> t"),
    ("a.tar /", {}, "d/ 750\nd/f 640 = 1\nd/g = 0", "d/g = 0"),
    ("a.tar /", {}, "d/ 750\nd/f 640 = 1\nf = 0", "f = 0\nd/f -> ../f"),
]


@pytest.mark.parametrize(("text", "options", "expected", "image"), ARCHIVES)
def test_adding_archives(
    text: str, options: dict[str, Any], expected: str, image: str, tmp_path: Path
) -> None:
    context = trees.plant(tmp_path / "context", "b = 2\nl -> a.tar\nsub/")
    (context / "a.tar").write_bytes(tar(("d", None), ("d/f", "1")))
    (context / "b.tar").write_bytes(tar(("g", "3")))
    (context / "sub/c.tar").write_bytes(tar(("g", "3")))
    trees.plant(tmp_path / "image", image)
    carry_out(tmp_path, text, **options)
    found = [
        line.split(" = ")[0] if ".tar" in line else line for line in trees.read(tmp_path / "image")
    ]
    assert found == [line.removesuffix(" =") if ".tar" in line else line
                     for line in trees.same(expected)]  # fmt: skip


def test_an_archive_onto_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "context").mkdir()
    (tmp_path / "context/a.tar").write_bytes(tar(("f", "1")))
    trees.plant(tmp_path / "image", "x = 1")
    with pytest.raises(BuildError, match="cannot unpack into /x"):
        carry_out(tmp_path, "a.tar /x")


def test_an_archive_leads_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "context").mkdir()
    outside = trees.plant(tmp_path / "outside", "f = 0")
    trees.plant(tmp_path / "image", f"x/l -> {outside}")
    (tmp_path / "context/a.tar").write_bytes(tar(("l/f", "evil")))
    carry_out(tmp_path, "a.tar /x")
    (tmp_path / "context/a.tar").write_bytes(tar(("../../outside/f", "evil")))
    with pytest.raises(ImageError, match="names a file outside"):
        carry_out(tmp_path, "a.tar /x")
    assert trees.read(outside) == ["f = 0"]


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("http://127.0.0.1/f.txt /x", {}, "x 600 = hello"),
        ("http://127.0.0.1/f.txt /x/", {}, "x/\nx/f.txt 600 = hello"),
        ("http://127.0.0.1/d/f.txt?x=1#y /", {}, "f.txt 600 = hello"),
        ("http://127.0.0.1/%C3%A4%20b /", {}, "ä\xa0b 600 = named"),
        ("http://127.0.0.1/ /x", {}, "x 600 = index"),
        ("http://127.0.0.1/f.txt /x", {"chmod": "755", "chown": "3:4"}, "x 755 @3:4 = hello"),
        ("http://127.0.0.1/a.tar /x", {"unpack": True}, "x/\nx/x/\nx/x/y 640 = 1"),
        ("http://127.0.0.1/f.txt /x", {"unpack": True}, "x 600 = hello"),
        ("http://127.0.0.1/f.txt f /x/", {}, "x/\nx/f = 1\nx/f.txt 600 = hello"),
    ],
)
def test_adding_urls(text: str, options: dict[str, Any], expected: str, tmp_path: Path) -> None:
    trees.plant(tmp_path / "context", "f = 1")
    web = Web()
    carry_out(tmp_path, text, web, **options)
    found = [line.replace("ä b", "ä\xa0b") for line in trees.read(tmp_path / "image")]
    assert found == expected.split("\n")
    assert len(web.fetched) == 1


def test_the_time_of_a_url_is_its_last_modification(tmp_path: Path) -> None:
    carry_out(tmp_path, "http://127.0.0.1/f.txt /x")
    assert (tmp_path / "image/x").stat().st_mtime_ns == 1_445_412_480_000_000_000
    carry_out(tmp_path, "http://127.0.0.1/ /y")
    assert (tmp_path / "image/y").stat().st_mtime_ns == 0


def test_a_checksum_pins_a_url_without_fetching_it(tmp_path: Path) -> None:
    good = "sha256:" + hashlib.sha256(b"hello").hexdigest()
    url, web = "http://127.0.0.1/f.txt", Web()
    spec = AddSpec(CopySpec((url,), "/x"), checksum=good)
    remotes = Remotes(str(tmp_path), web, checksum=good)
    pinned = identity(choose(spec, None), None, remotes)
    assert web.fetched == []
    plain = AddSpec(CopySpec((url,), "/x"))
    assert identity(choose(plain, None), None, Remotes(str(tmp_path), web)) == pinned
    assert carry_out(tmp_path, f"{url} /x", checksum=good).files == 1
    with pytest.raises(BuildError, match="has the digest sha256:2cf24dba"):
        carry_out(tmp_path, f"{url} /x", checksum=good[:-1] + "0")
    assert trees.read(tmp_path / "image") == ["x 600 = hello"]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("http://127.0.0.1/ /x/", {}, "ends in no file name"),
        ("f /x", {"checksum": "sha256:" + "0" * 64}, "--checksum is for a URL"),
        ("f http://127.0.0.1/f.txt /x/", {"checksum": "sha256:" + "0" * 64}, "one source"),
        ("http://127.0.0.1/f.txt /x", {"checksum": "md5:1"}, '"md5:1" is no digest'),
        ("g /x", {}, 'no "g" in the build context'),
        ("http://127.0.0.1/x.git?nonsense=1 /x", {}, "nonsense means nothing"),
    ],
)
def test_what_cannot_be_added_is_said(
    text: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    trees.plant(tmp_path / "context", "f = 1")
    with pytest.raises(BuildError, match=message):
        carry_out(tmp_path, text, **options)


def test_no_context_means_no_files(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="this build has no context"):
        choose(AddSpec(CopySpec(("a",), "/x")), None)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("https://example.com/a/b.git", GitRef("https://example.com/a/b.git")),
        ("https://example.com/b.git#v1", GitRef("https://example.com/b.git", "v1")),
        ("https://example.com/b.git#v1:d/e", GitRef("https://example.com/b.git", "v1", "d/e")),
        ("https://example.com/b.git#:../d", GitRef("https://example.com/b.git", "", "d")),
        ("git@example.com:a/b.git#x", GitRef("git@example.com:a/b.git", "x")),
        ("git@example.com:a/b", GitRef("git@example.com:a/b")),
        ("git://example.com/b", GitRef("git://example.com/b")),
        ("ssh://git@example.com/b", GitRef("ssh://git@example.com/b")),
        (
            "https://example.com/b.git?tag=v1&subdir=d&checksum=abc&keep-git-dir",
            GitRef("https://example.com/b.git", "refs/tags/v1", "d", "abc", True),
        ),
        (
            "https://example.com/b.git?branch=m&submodules=false",
            GitRef("https://example.com/b.git", "refs/heads/m", submodules=False),
        ),
        ("https://example.com/b", None),
        ("https://example.com/b.git/x", None),
        ("./a.git", None),
        ("a.git", None),
        ("file:///a.git", None),
        ("ext::sh -c x", None),
    ],
)
def test_git_sources(source: str, expected: GitRef | None) -> None:
    assert parse_git(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        "https://example.com/b.git?tag=a&branch=b",
        "https://example.com/b.git?ref=a&ref=b",
        "https://example.com/b.git?ref=",
        "https://example.com/b.git?keep-git-dir=maybe",
        "https://example.com/b.git?ref=--upload-pack=x",
        "git@example.com:b#-x",
    ],
)
def test_bad_git_sources(source: str) -> None:
    with pytest.raises(BuildError):
        parse_git(source)


def test_remote_or_not_and_names() -> None:
    assert [is_remote(s) for s in ["a", "http://x/", "https://x/y", "git@x:y", "http:/x"]] == [
        False, True, True, True, False,
    ]  # fmt: skip
    names = [name_of(u) for u in ["http://x/a/b", "http://x/a/", "http://x", "http://x/..?q#f"]]
    assert names == ["b", "", "", ""]


@pytest.fixture
def repository(tmp_path: Path) -> str:
    """A repository that git serves on a loopback port; returns its URL."""
    world.program("git")
    work = trees.plant(tmp_path / "served/repo.git", "f = 1\ns/run 755 = 2\ns/l -> ../f")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}

    def git(*args: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
        command = ["git", *identity, "-C", str(work), *args]
        return subprocess.run(
            command, env=environment, check=True, capture_output=True, text=True
        ).stdout

    git("init", "-q", "-b", "main")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    git("tag", "-a", "v1", "-m", "v1")
    (work / "f").write_text("changed")
    git("commit", "-q", "-am", "two")
    port = world.free_port()
    argv = ["git", "daemon", "--export-all", f"--base-path={tmp_path}/served", "--reuseaddr"]
    server = subprocess.Popen(
        [*argv, "--listen=127.0.0.1", f"--port={port}"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    url = f"git://127.0.0.1:{port}/repo.git"
    try:
        for _ in range(100):
            probe = subprocess.run(
                ["git", "ls-remote", url], env=environment, capture_output=True, timeout=20
            )
            if probe.returncode == 0:
                break
        yield url  # type: ignore[misc]
    finally:
        os.killpg(server.pid, 15)
        server.wait()


def test_adding_a_repository(repository: str, tmp_path: Path) -> None:
    carry_out(tmp_path, f"{repository} /x")
    assert trees.read(tmp_path / "image") == [
        "x/", "x/f = changed", "x/s/", "x/s/l -> ../f", "x/s/run 755 = 2",
    ]  # fmt: skip
    carry_out(tmp_path, f"{repository}#v1:s /y", chown="3:4")
    lines = [line for line in trees.read(tmp_path / "image") if line.startswith("y")]
    assert lines == ["y/ @3:4", "y/l -> ../f", "y/run 755 @3:4 = 2"]
    carry_out(tmp_path, f"{repository}#v1 /z", keep_git_dir=True)
    assert (tmp_path / "image/z/f").read_text() == "1"
    assert (tmp_path / "image/z/.git/HEAD").exists()
    for text, message in [
        (f"{repository}#nothing /q", 'no branch, tag or commit "nothing"'),
        (f"{repository}#v1:nothing /q", 'no directory "nothing"'),
        (f"{repository}-none /q", "git ls-remote failed"),
    ]:
        with pytest.raises(BuildError, match=message):
            carry_out(tmp_path, text)


def test_a_repository_is_known_by_its_commit(repository: str, tmp_path: Path) -> None:
    def ask(source: str, checksum: str = "") -> str:
        remotes = Remotes(str(tmp_path), Web(), checksum=checksum)
        return remotes.identity(source)

    commit = ask(f"{repository}#v1").split(":")[1]
    assert len(commit) == 40
    assert ask(f"{repository}#{commit}") == ask(f"{repository}#v1", commit[:7])
    assert ask(f"{repository}#main") != ask(f"{repository}#v1")
    with pytest.raises(BuildError, match=f"the commit is {commit}, not 0000"):
        ask(f"{repository}#v1", "0000")
