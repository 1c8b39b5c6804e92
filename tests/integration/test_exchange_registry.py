"""Pushes to Debian's docker-registry: what is sent, counted on the wire, and what is there then."""

from __future__ import annotations

import http.client
import http.server
import json
import random
import re
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import conftest
import pytest
import world

pytestmark = [pytest.mark.userns, pytest.mark.registry]

EPOCH = {"SOURCE_DATE_EPOCH": "1700000000"}


class Request(NamedTuple):
    """One request that went by, and how many bytes its body had."""

    method: str
    path: str
    size: int
    status: int


class Proxy:
    """Stands before a registry and counts; `host` is where to reach it."""

    def __init__(self, behind: str) -> None:
        self.seen: list[Request] = []
        seen = self.seen

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def forward(self) -> None:
                body = self._body()
                there = http.client.HTTPConnection(behind, timeout=60)
                headers = {k: v for k, v in self.headers.items() if k != "Transfer-Encoding"}
                there.request(self.command, self.path, body, headers)
                answer = there.getresponse()
                data = answer.read()
                there.close()
                seen.append(Request(self.command, self.path, len(body), answer.status))
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name not in ("Transfer-Encoding", "Connection", "Date", "Server"):
                        self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = forward

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.host = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take(self) -> list[Request]:
        """What went by since the last time."""
        found = list(self.seen)
        self.seen.clear()
        return found


@pytest.fixture
def proxy(registry: world.Registry) -> Iterator[Proxy]:
    running = Proxy(registry.host)
    yield running
    running.server.shutdown()
    running.server.server_close()


def manifest(registry: world.Registry, name: str, tag: str = "latest") -> bytes:
    kinds = ("image.manifest.v1+json", "image.index.v1+json")
    accept = ", ".join(f"application/vnd.oci.{kind}" for kind in kinds)
    accept += ", application/vnd.docker.distribution.manifest.v2+json"
    return registry.get(f"{name}/manifests/{tag}", accept)


def build(tool: world.Tool, base: str, directory: Path, text: str, tag: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / "data").write_bytes(text.encode() + random.Random(text).randbytes(100_000))
    (directory / "Dockerfile").write_text(f"FROM {base}\nRUN echo same > /s\nCOPY data /data\n")
    tool("build", "-t", tag, directory, env=EPOCH).ok()


@pytest.mark.parametrize("kind", ["oci", "v2s2"])
def test_what_is_pulled_and_pushed_is_the_same_byte_for_byte(
    kind: str,
    ch_image: world.Tool,
    registry: world.Registry,
    base_layout: world.BaseImage,
    tmp_path: Path,
) -> None:
    subprocess.run(
        [world.program("skopeo"), "--insecure-policy", "copy", "--format", kind,
         "--dest-tls-verify=false", "--dest-no-creds", base_layout.source,
         f"docker://{registry.host}/exact-{kind}:1"],
        check=True, capture_output=True, env=world.clean_environment(tmp_path),
    )  # fmt: skip
    ch_image("pull", registry.ref(f"exact-{kind}:1"), "mine").ok()
    ch_image("push", "mine", registry.ref(f"again-{kind}:1")).ok()
    before = manifest(registry, f"exact-{kind}", "1")
    assert manifest(registry, f"again-{kind}", "1") == before


def test_a_new_top_layer_is_all_that_is_sent(
    ch_image: world.Tool, base_image: str, proxy: Proxy, tmp_path: Path
) -> None:
    build(ch_image, base_image, tmp_path / "context", "one", "app")
    ch_image("push", "app", f"{proxy.host}/counted:1", env=EPOCH).ok()
    proxy.take()
    build(ch_image, base_image, tmp_path / "context", "two", "app")
    ch_image("push", "app", f"{proxy.host}/counted:1", env=EPOCH).ok()
    asked = proxy.take()
    raw = ch_image("inspect", "--digests", "app").ok().out
    sizes = [int(n) for n in re.findall(r"(\d+) bytes", raw)]
    sent = [a.size for a in asked if "/uploads/" in a.path and a.method == "PUT"]
    assert len(sent) == 2  # the layer and the config
    assert sizes[-1] in sent
    assert sum(a.size for a in asked) < sizes[-1] + 4000
    puts = [a for a in asked if "/manifests/" in a.path and a.method == "PUT"]
    assert len(puts) == 1
    assert asked[-1] is puts[0]  # last of all
    assert len(asked) <= 12


def test_an_unchanged_image_costs_one_request_each_way(
    ch_image: world.Tool, base_image: str, proxy: Proxy, tmp_path: Path
) -> None:
    build(ch_image, base_image, tmp_path / "context", "x", "app")
    name = f"{proxy.host}/unchanged:1"
    ch_image("push", "app", name).ok()
    proxy.take()
    assert "unchanged" in ch_image("push", "app", name).ok().err
    assert [a.method for a in proxy.take()] == ["HEAD"]
    ch_image("pull", name).ok()
    proxy.take()
    ch_image("pull", name).ok()
    assert [a.method for a in proxy.take()] == ["HEAD"]


def test_two_storages_push_the_same_manifest(
    ch_image: world.Tool, base_image: str, registry: world.Registry, tmp_path: Path
) -> None:
    found = set()
    for number in range(2):
        tool = world.Tool(tmp_path / f"storage{number}", ch_image.home)
        build(tool, base_image, tmp_path / f"context{number}", "same", "app")
        tool("push", "app", registry.ref(f"same{number}"), env=EPOCH).ok()
        found.add(manifest(registry, f"same{number}"))
    assert len(found) == 1


WISHES = {
    "gzip": ([], "gzip", 3),
    "gzip 9": (["--compression", "gzip:9"], "gzip", 3),
    "zstd": (["--compression", "zstd:5"], "zstd", 3),
    "one layer": (["--flatten"], "gzip", 1),
}


@pytest.mark.parametrize(("more", "kind", "count"), WISHES.values(), ids=WISHES.keys())
def test_layers_are_made_as_wished_and_others_stay(
    more: list[str],
    kind: str,
    count: int,
    ch_image: world.Tool,
    base_image: str,
    registry: world.Registry,
    tmp_path: Path,
) -> None:
    build(ch_image, base_image, tmp_path / "context", "x", "app")
    before = ch_image("inspect", "app").ok().out
    ch_image("push", *more, "app", registry.ref("wished")).ok()
    layers = json.loads(manifest(registry, "wished"))["layers"]
    assert len(layers) == count
    assert layers[-1]["mediaType"].endswith(kind)
    base = json.loads(manifest(registry, "busybox"))["layers"]
    assert (layers[0] == base[0]) == (count > 1)
    back = world.Tool(tmp_path / "back", ch_image.home)
    back("pull", registry.ref("wished"), "app").ok()
    assert back.run("ch-run", "app", "--", "cat", "/s").ok().out == "same\n"
    assert json.loads(before)["config"] == json.loads(ch_image("inspect", "app").ok().out)["config"]
    assert ch_image("list").ok().out.count("\n") == 2


def test_a_directory_is_pushed_without_being_an_image(
    ch_image: world.Tool, registry: world.Registry, tmp_path: Path
) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/hello").write_text("hello")
    ch_image("push", "--image", tmp_path / "d", registry.ref("plain")).ok()
    assert ch_image("list").ok().out == ""
    ch_image("pull", registry.ref("plain"), "./out", cwd=tmp_path).ok()
    assert (tmp_path / "out/hello").read_text() == "hello"


def test_an_index_gives_each_platform_its_image(
    ch_image: world.Tool, base_image: str, registry: world.Registry, tmp_path: Path
) -> None:
    for arch in ("amd64", "arm64"):
        build(ch_image, base_image, tmp_path / "context", arch, f"app:{arch}")
    ch_image("manifest", "create", "all:1", "app:amd64", "--arch", "amd64").ok()
    ch_image("manifest", "add", "all:1", "app:arm64").ok()
    ch_image("manifest", "annotate", "all:1", "app:arm64", "--arch", "arm64/v8",
             "--annotation", "a=b").ok()  # fmt: skip
    shown = ch_image("manifest", "inspect", "all:1").ok().out.splitlines()
    assert [line.split()[0] for line in shown] == ["linux/amd64", "linux/arm64/v8"]
    ch_image("manifest", "push", "all:1", registry.ref("multi:1"), env=EPOCH).ok()
    index = json.loads(manifest(registry, "multi", "1"))
    assert [e["platform"]["architecture"] for e in index["manifests"]] == ["amd64", "arm64"]
    assert index["manifests"][1]["annotations"] == {"a": "b"}
    listed = ch_image("list", registry.ref("multi:1")).ok().out
    assert "linux/arm64/v8" in listed
    out = ch_image("inspect", "--digests", "-a", "arm64", registry.ref("multi:1")).ok().out
    assert index["manifests"][1]["digest"] in out
    assert world.digest(manifest(registry, "multi", "1")) in out
    back = world.Tool(tmp_path / "back", ch_image.home)
    back("pull", "-a", "arm64", registry.ref("multi:1"), "app").ok()
    assert back.run("ch-run", "app", "--", "head", "-c", "5", "/data").ok().out == "arm64"
    assert "already" in ch_image("manifest", "create", "all:1").fault()
    ch_image("manifest", "rm", "all:1").ok()
    assert "no index" in ch_image("manifest", "push", "all:1").fault()


def test_neighbours_take_what_we_push(
    ch_image: world.Tool, base_image: str, registry: world.Registry, tmp_path: Path
) -> None:
    build(ch_image, base_image, tmp_path / "context", "x", "app")
    ch_image("push", "app", registry.ref("for-all:1"), env=EPOCH).ok()
    done = subprocess.run(
        [world.program("skopeo"), "--insecure-policy", "copy", "--src-tls-verify=false",
         "--src-no-creds", f"docker://{registry.host}/for-all:1", "oci:copied:1"],
        cwd=tmp_path, capture_output=True, text=True, env=world.clean_environment(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    index = json.loads((tmp_path / "copied/index.json").read_text())
    assert index["manifests"][0]["digest"] == world.digest(manifest(registry, "for-all", "1"))


def test_a_login_is_kept_for_others_and_removed(
    ch_image: world.Tool, registry: world.Registry
) -> None:
    done = ch_image("login", "-u", "me", "--password-stdin", registry.host, stdin="s3cret\n").ok()
    assert "s3cret" not in done.err + done.out
    path = ch_image.home / "containers/auth.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(path.read_text())["auths"][registry.host]["auth"] == "bWU6czNjcmV0"
    ch_image("logout", registry.host).ok()
    assert json.loads(path.read_text())["auths"] == {}
    assert "not logged in" in ch_image("logout", registry.host).ok().out
    assert "terminal" in ch_image("login", registry.host).fault()


OWNED = """FROM {base}
RUN echo new > /new && chown 33:34 /new && chmod 4755 /new && mknod /nul c 1 3 \\
 && ln -s new /link && chown -h 7:8 /link && ln -s new /gone && chown -h 7:8 /gone \\
 && mkfifo /pipe && chown 5:6 /pipe && mkdir /d && chown 70000:70000 /d && chmod 2750 /d
"""
LATER = "FROM {there}\nRUN mv /link /moved && rm /gone && ln -s x /gone && touch /d/handed\n"


def test_owners_and_devices_come_back_from_a_registry_and_go_on(
    ch_image: world.Tool, base_image: str, registry: world.Registry, tmp_path: Path
) -> None:
    there = registry.ref("owned:1")
    for name, text in ("owned", OWNED.format(base=base_image)), ("later", LATER):
        (tmp_path / name).mkdir()
        (tmp_path / name / "Dockerfile").write_text(text.format(there=there))
    ch_image("build", "-t", "owned", tmp_path / "owned").ok()
    ch_image("push", "owned", there).ok()
    other = world.Tool(tmp_path / "other", tmp_path)
    try:
        other("build", "-t", "later", tmp_path / "later").ok()
        other.run("ch-convert", "later", tmp_path / "later.tar").ok()
    finally:
        conftest.remove_tree(other.storage)
    with tarfile.open(tmp_path / "later.tar") as archive:
        found = {m.name.removeprefix("./"): (m.uid, m.gid, m.mode, m.type) for m in archive}
    assert found["new"] == (33, 34, 0o4755, tarfile.REGTYPE)
    assert found["nul"] == (0, 0, 0o644, tarfile.CHRTYPE)
    assert found["moved"] == (7, 8, 0o777, tarfile.SYMTYPE)
    assert found["gone"] == (0, 0, 0o777, tarfile.SYMTYPE)
    assert found["pipe"] == (5, 6, 0o644, tarfile.FIFOTYPE)
    assert found["d"] == (70000, 70000, 0o2750, tarfile.DIRTYPE)
    assert found["d/handed"] == (0, 70000, 0o644, tarfile.REGTYPE)
    assert "link" not in found


def test_the_tags_of_a_repository_are_listed(
    ch_image: world.Tool, base_image: str, registry: world.Registry
) -> None:
    ch_image("pull", base_image, "mine").ok()
    for tag in ("1", "2.0", "latest"):
        ch_image("push", "mine", registry.ref(f"tagged:{tag}")).ok()
    name = registry.ref("tagged")
    assert ch_image("list", "--tags", name).ok().out.split() == ["1", "2.0", "latest"]
    assert json.loads(ch_image("list", "--tags", "--format", "json", name).ok().out)[0] == "1"
    assert "not in the registry" in ch_image("list", "--tags", registry.ref("nosuch")).fault()
    assert ch_image("list", "--tags").code == 2
