"""Where files of an image may come from: URLs, git, archives, images, named contexts, rsync."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import os
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import conftest
import pytest
import world
from language import Bench

pytestmark = [pytest.mark.userns, pytest.mark.registry]

PAGE = b"from the web\n"
DIGEST = "sha256:" + hashlib.sha256(PAGE).hexdigest()
MODIFIED = 1_580_601_600


def archive(kind: str) -> bytes:
    """A tar with one file of user 7, compressed as `kind` says."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=f"w:{kind}") as tar:  # type: ignore[call-overload]
        member = tarfile.TarInfo("in/f")
        member.size, member.uid, member.gid, member.mode = 3, 7, 8, 0o640
        tar.addfile(member, io.BytesIO(b"in\n"))
    return out.getvalue()


class Served(NamedTuple):
    """What the tests' servers on loopback serve."""

    web: str
    git: str


class _Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", "/page")
            self.end_headers()
        elif self.path == "/cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"too short")
        else:
            super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("served")
    (root / "page").write_bytes(PAGE)
    os.utime(root / "page", (MODIFIED, MODIFIED))
    (root / "a.tar.gz").write_bytes(archive("gz"))
    (root / "only.df").write_text("FROM scratch\nCOPY <<EOF /f\nhere\nEOF\n")
    whole = {"Dockerfile": "FROM scratch\nCOPY f /\n", "f": "1", "o.df": "FROM scratch\nADD . /\n"}
    with tarfile.open(root / "context.tar.gz", "w:gz") as tar:
        for name, text in whole.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(text), 0o644
            tar.addfile(member, io.BytesIO(text.encode()))
    handler = functools.partial(_Handler, directory=str(root))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    daemon, url = _git_daemon(root / "git")
    yield Served(f"http://127.0.0.1:{server.server_port}", url)
    server.shutdown()
    thread.join(10)
    server.server_close()
    daemon.terminate()
    daemon.wait(10)


def _git_daemon(root: Path) -> tuple[subprocess.Popen[bytes], str]:
    """A server of one repository: two commits, the first tagged v1."""
    git = world.program("git")
    repository = root / "repo.git"
    repository.mkdir(parents=True)
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.com")

    def run(*words: str) -> None:
        subprocess.run([git, *identity, *words], cwd=repository, check=True, capture_output=True)

    run("init", "-q", "-b", "main")
    (repository / "sub").mkdir()
    (repository / "sub/f").write_text("1\n")
    (repository / "run").write_text("#!/bin/sh\n")
    (repository / "run").chmod(0o755)
    run("add", ".")
    run("commit", "-q", "-m", "one")
    run("tag", "v1")
    (repository / "sub/f").write_text("2\n")
    run("commit", "-q", "-a", "-m", "two")
    run("checkout", "-q", "-b", "built", "v1")
    (repository / "Dockerfile").write_text("FROM scratch\nCOPY run /\n")
    (repository / "sub/Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    (repository / "link").symlink_to("sub")
    (repository / "out").symlink_to("/")
    (repository / "out.df").symlink_to("/etc/passwd")
    run("add", ".")
    run("commit", "-q", "-m", "built")
    run("checkout", "-q", "main")
    port = world.free_port()
    daemon = subprocess.Popen(
        [git, "daemon", "--listen=127.0.0.1", f"--port={port}", "--export-all",
         f"--base-path={root}", str(root)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    end = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            assert time.monotonic() < end, "git daemon does not start"
            time.sleep(0.02)
    return daemon, f"git://127.0.0.1:{port}/repo.git"


@pytest.fixture(scope="module")
def bench(base_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    work = tmp_path_factory.mktemp("sources")
    tool = world.Tool(work / "storage", work)
    tool("pull", base_image).ok()
    yield Bench(tool, base_image, work)
    conftest.remove_tree(work / "storage")


def places(bench: Bench, prefix: str = "") -> dict[str, str]:
    """Files of the image below ``prefix``: mode and owner, or where a link leads."""
    return {
        path: f"{entry['mode']} {entry['owner']}" if "mode" in entry else entry["target"]
        for path, entry in bench.tree().items()
        if path.startswith(prefix) and entry["type"] != "dir" and path != "."
    }


# lines behind FROM scratch -> what is there then
REMOTE = {
    "ADD @WEB@/page /": {"page": "0600 0:0"},
    "ADD @WEB@/page /d/": {"d/page": "0600 0:0"},
    "ADD @WEB@/page /named": {"named": "0600 0:0"},
    "ADD @WEB@/moved /named": {"named": "0600 0:0"},
    "ADD @WEB@/page?query=1 /": {"page": "0600 0:0"},
    "ADD --chmod=644 --chown=5:6 @WEB@/page /": {"page": "0644 5:6"},
    "ADD --checksum=@DIGEST@ @WEB@/page /": {"page": "0600 0:0"},
    "ADD @WEB@/a.tar.gz /": {"a.tar.gz": "0600 0:0"},
    "ADD --unpack @WEB@/a.tar.gz /": {"in/f": "0640 7:8"},
    "ADD --unpack=false @WEB@/a.tar.gz /x": {"x": "0600 0:0"},
    "ADD --link @WEB@/page /d/": {"d/page": "0600 0:0"},
    "ADD @GIT@ /": {"run": "0755 0:0", "sub/f": "0644 0:0"},
    "ADD @GIT@#v1 /r": {"r/run": "0755 0:0", "r/sub/f": "0644 0:0"},
    "ADD @GIT@#main:sub /": {"f": "0644 0:0"},
    "ADD @GIT@?tag=v1&subdir=sub /": {"f": "0644 0:0"},
    "ADD --chown=5 --exclude=run @GIT@ /": {"sub/f": "0644 5:5"},
}


@pytest.mark.parametrize("line", REMOTE)
def test_add_takes_urls_and_repositories(line: str, bench: Bench, served: Served) -> None:
    text = line.replace("@WEB@", served.web).replace("@GIT@", served.git)
    bench.build(f"FROM scratch\n{text.replace('@DIGEST@', DIGEST)}\n").ok()
    assert places(bench) == REMOTE[line]


SUB = {"Dockerfile": "0644 0:0", "f": "0644 0:0"}
# what stands for CONTEXT, and options -> what is in the image then
CONTEXTS = {
    "@GIT@#built": {"run": "0755 0:0"},
    "@GIT@?branch=built&subdir=sub": SUB,
    "@GIT@#built:sub": SUB,
    "@GIT@#built:link": SUB,
    "@GIT@#built:out": {"run": "0755 0:0"},  # links lead nowhere but into the repository
    "@GIT@#built -f sub/Dockerfile --build-arg BUILDKIT_CONTEXT_KEEP_GIT_DIR=1": None,
    "@WEB@/context.tar.gz": {"f": "0644 0:0"},
    "@WEB@/context.tar.gz -f o.df": {
        "Dockerfile": "0644 0:0", "f": "0644 0:0", "o.df": "0644 0:0"
    },
    "@WEB@/only.df": {"f": "0644 0:0"},
}  # fmt: skip


@pytest.mark.parametrize("line", CONTEXTS)
def test_a_context_may_be_a_url(line: str, bench: Bench, served: Served) -> None:
    words = line.replace("@WEB@", served.web).replace("@GIT@", served.git).split()
    bench.tool("build", "-t", "x", *words).ok()
    expected = CONTEXTS[line]
    if expected is None:
        assert {".git/HEAD", "run", "sub/f"} <= bench.tree().keys()
    else:
        assert places(bench) == expected
    assert not list((bench.work / "storage/tmp").glob("*/url-*"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("@GIT@#main", "cannot read the Dockerfile"),
        ("@GIT@#nosuch", "no branch, tag or commit"),
        ("@GIT@#built:nosuch", "no directory"),
        ("@GIT@#built -f out.df", "cannot read the Dockerfile"),
        ("@GIT@#built -f ../../../../etc/passwd", "cannot read the Dockerfile"),
        ("@WEB@/nosuch", "404"),
        ("@WEB@/only.df -f other", "is no archive"),
    ],
)
def test_a_url_that_is_no_context_is_refused(
    line: str, message: str, bench: Bench, served: Served
) -> None:
    words = line.replace("@WEB@", served.web).replace("@GIT@", served.git).split()
    done = bench.tool("build", "-t", "x", *words)
    assert done.code in (1, 2)
    assert message in done.fault(), done.err


def test_a_fetched_file_has_the_time_that_the_server_says(bench: Bench, served: Served) -> None:
    bench.build(f"FROM @BASE@\nADD {served.web}/page /\nRUN stat -c %Y /page > /time\n").ok()
    text = f"FROM x\nRUN grep -x {MODIFIED} /time\n"
    bench.tool("build", "-t", "y", bench.context(text, name="time")).ok()


def test_a_repository_keeps_its_records_only_when_asked(bench: Bench, served: Served) -> None:
    bench.build(f"FROM scratch\nADD --keep-git-dir=true {served.git}#v1 /\n").ok()
    assert ".git/HEAD" in bench.tree()
    bench.build(f"FROM scratch\nADD {served.git}#v1 /\n").ok()
    assert not [path for path in bench.tree() if ".git" in path]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ADD @WEB@/nothing /", "the server answers 404"),
        ("ADD @WEB@/cut /", "cut the connection"),
        ("ADD http://127.0.0.1:1/f /", "nothing listens on 127.0.0.1:1"),
        ("ADD --checksum=sha256:" + "0" * 64 + " @WEB@/page /", "has the digest"),
        ("ADD --checksum=md5:0 @WEB@/page /", "is no digest"),
        ("ADD @WEB@/ /d/", "ends in no file name"),
        ("ADD @GIT@#nothing /", 'no branch, tag or commit "nothing"'),
        ("ADD @GIT@#v1:nothing /", 'no directory "nothing"'),
        ("COPY @WEB@/page /", "COPY takes no URL"),
    ],
)
def test_what_cannot_be_fetched_is_told_with_its_line(
    line: str, message: str, bench: Bench, served: Served
) -> None:
    text = line.replace("@WEB@", served.web).replace("@GIT@", served.git)
    fault = bench.build(f"FROM scratch\n\n{text}\n").fault()
    assert fault.startswith("Dockerfile:3: ")
    assert message in fault


@pytest.mark.parametrize("kind", ["", "gz", "bz2", "xz"])
def test_add_unpacks_archives_of_the_context(kind: str, bench: Bench) -> None:
    bench.build("FROM scratch\nADD a /d/\nADD --unpack=false a /\n", {"a": archive(kind)}).ok()
    assert places(bench) == {"a": "0644 0:0", "d/in/f": "0640 7:8"}


def test_add_unpacks_zstd_and_copies_what_only_has_the_name(bench: Bench) -> None:
    packed = subprocess.run(
        [world.program("zstd"), "-q"], input=archive(""), capture_output=True, check=True
    ).stdout
    bench.build("FROM scratch\nADD a b.tar.gz /d/\n", {"a": packed, "b.tar.gz": "none"}).ok()
    assert places(bench) == {"d/in/f": "0640 7:8", "d/b.tar.gz": "0644 0:0"}


def test_copy_takes_from_stages_images_and_named_contexts(
    bench: Bench, base_layout: world.BaseImage, tmp_path: Path
) -> None:
    (tmp_path / "e").write_text("e")
    (tmp_path / "hidden").write_text("h")
    (tmp_path / ".dockerignore").write_text("hidden\n.dockerignore\n")
    text = """FROM @BASE@ AS One
        RUN echo > /made && chown app: /made
        FROM scratch
        COPY --from=one /made /a
        COPY --from=0 /made /b
        COPY --from=@BASE@ /home /home
        COPY --from=ext . /ext/
        COPY --from=img /etc/group /g
        COPY --from=lay /etc/passwd /p
        COPY --from=tagged /etc/passwd /q
        """
    text = "\n".join(line.strip() for line in text.splitlines())
    options = (
        *("--build-context", f"ext={tmp_path}", "--build-context", f"img=docker-image://{bench.base}"),
        *("--build-context", f"lay=oci-layout://{base_layout.layout}"),
        *("--build-context", f"tagged=oci-layout://{base_layout.layout}:latest"),
    )  # fmt: skip
    bench.build(text, None, *options).ok()
    assert places(bench) == {
        "a": "0644 1234:1234", "b": "0644 1234:1234", "ext/e": "0644 0:0",
        "g": "0644 0:0", "p": "0644 0:0", "q": "0644 0:0",
    }  # fmt: skip
    assert bench.tree()["home/app"]["owner"] == "1234:1234"


def test_a_named_context_stands_in_for_an_image_of_that_name(
    bench: Bench, base_layout: world.BaseImage, tmp_path: Path
) -> None:
    layout = f"--build-context=alpine=oci-layout://{base_layout.layout}"
    bench.build("FROM alpine\nRUN grep app /etc/passwd\n", None, layout).ok()
    done = bench.build("FROM alpine\n", None, f"--build-context=alpine={tmp_path}")
    assert 'the build context "alpine" is a directory' in done.fault()
    done = bench.build("FROM alpine\n", None, f"--build-context=alpine=oci-layout://{tmp_path}")
    assert "not an OCI layout" in done.fault()
    done = bench.build("FROM alpine\n", None, f"{layout}:nothing")
    assert 'no image "nothing"' in done.fault()
    assert "latest" in done.err.rpartition("hint:")[2]


def test_triggers_run_in_the_child_and_not_in_the_grandchild(bench: Bench) -> None:
    parent = (
        "FROM @BASE@\nONBUILD COPY f /on/\n"
        "ONBUILD RUN <<EOF\ngrep child /on/f\ndate > /on/made\nEOF\n"
        "ONBUILD ENV ON=1\nONBUILD USER app\nRUN ! test -e /on\n"
    )
    bench.build(parent, {"f": "parent"}, "-t", "parent").ok()
    assert bench.config("parent")["config"]["OnBuild"][0] == "COPY f /on/"
    child = "FROM parent\nRUN test $ON = 1 && test $(id -un) = app\n"
    bench.tool("build", "-t", "child", bench.context(child, {"f": "child"})).ok()
    config = bench.config("child")["config"]
    assert "OnBuild" not in config or not config["OnBuild"]
    assert config["User"] == "app"
    grandchild = "FROM child\nRUN test -e /on/made\n"
    done = bench.tool("build", "-t", "grandchild", bench.context(grandchild, {"f": "grand"})).ok()
    assert "ONBUILD" not in done.err


LINKS = {"t/a": "a\n", "t/.hid": "h\n", "t/sub/s": "s\n", "b": "b\n", "list": "sub\n"}

# lines behind FROM; "target" is a link of the image's that leads out -> files of /d
RSYNC = {
    "RSYNC /t /d": {"t/a", "t/.hid", "t/sub/s", "t/in", "t/up"},
    "RSYNC t/ /d/": {"a", ".hid", "sub/s", "in"},
    "NSYNC t/ /d/": {"a", ".hid", "sub/s", "in"},
    "RSYNC +m t/ /d/": {"a", ".hid", "sub/s"},
    "RSYNC +z t/ /d/": set(),
    "RSYNC +z -r t/ /d/": {"a", ".hid", "sub/s"},
    "RSYNC -a t/ /d/": {"a", ".hid", "sub/s", "in"},
    "RSYNC t/* /d/": {"a", "sub/s", "in"},
    "RSYNC --exclude=sub t/ /d/": {"a", ".hid", "in"},
    "RSYNC --exclude-from=list t/ /d/": {"a", ".hid", "in"},
    "WORKDIR /d\nRSYNC b .": {"b"},
    "RUN ln -s /d /l\nRSYNC b /l/": {"b"},
    "RUN ln -s ../../../../../../d /l\nRSYNC b /l/": {"b"},
    "RSYNC b /d/deep/": {"deep/b"},
    "ARG W=b\nRSYNC $W /d/": {"b"},
}


@pytest.mark.parametrize("line", RSYNC)
def test_rsync_copies_as_the_hosts_rsync_does(line: str, bench: Bench) -> None:
    world.program("rsync")
    context = bench.context(f"FROM @BASE@\nRUN mkdir -p /d\n{line}\n", LINKS, "rsync")
    for link, target in (("in", "a"), ("up", "../b"), ("out", "/etc/hostname")):
        (context / "t" / link).symlink_to(target)
    bench.tool("build", "-t", "x", context).ok()
    found = places(bench, "d/")
    assert {path.removeprefix("d/") for path in found} == RSYNC[line]
    assert {owner.split()[1] for owner in found.values() if " " in owner} <= {"0:0"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("RSYNC +u t/ /d/", "the link t/out leads out of the build context"),
        ("RSYNC -L t/ /d/", "the link t/out leads out of the build context"),
        ("RSYNC t/out/ /d/", "leads out of the build context"),
        ("RSYNC ../x /d/", 'no "../x" in the build context'),
        ("RSYNC t/n* /d/", 'nothing in the build context matches "t/n*"'),
        ("RSYNC --log-file=/tmp/log b /d/", "does not take --log-file"),
        ("RSYNC -vK b /d/", "does not take -vK"),
        ("RSYNC --backup-dir=/tmp b /d/", "does not take --backup-dir"),
        ("RSYNC --exclude-from=../../list t /d/", "leads out of the build context"),
        ("RSYNC --nosuch b /d/", "rsync exited with 1"),
        ("RSYNC --dry-run b /d/", "--dry-run"),
        ("RSYNC host:b /d/", "does not reach other hosts"),
    ],
)
def test_rsync_reads_and_writes_nothing_elsewhere(line: str, message: str, bench: Bench) -> None:
    context = bench.context(f"FROM @BASE@\n{line}\n", LINKS, "rsync-bad")
    (context / "t/out").symlink_to("/etc")
    fault = bench.tool("build", "-t", "x", context).fault()
    assert fault.startswith("Dockerfile:2: ")
    assert message in fault


def test_from_arg_sets_an_argument_of_the_stage(bench: Bench) -> None:
    text = (
        "FROM --arg=A=1 --arg=B=two @BASE@ AS one\nRUN test $A$B = 1two\n"
        'FROM @BASE@\nARG A\nRUN test -z "$A"\nCOPY --from=one /etc/passwd /p\n'
    )
    bench.build(text).ok()
