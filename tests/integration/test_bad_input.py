"""Bad input of every kind: one `error:` line, a hint, the right exit code, storage intact.

"Intact" is shown by use: the image that was there still lists, inspects alike and builds from the
cache, and nothing is left in tmp/.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import conftest
import pytest
import world

pytestmark = [pytest.mark.userns, pytest.mark.registry]


class Bad(NamedTuple):
    """A Dockerfile (None: there is none) and how its fault is told; `{base}` is an image."""

    dockerfile: str | None
    error: str  # a regular expression, searched in the error line
    hint: str = ""  # likewise, in the hint line
    code: int = 1
    shows: str = ""  # a regular expression, searched in all of stderr


BAD = {
    "no Dockerfile": Bad(None, r"Dockerfile", "."),
    "an unknown instruction": Bad("FROM {base}\nRUM true\n", r"Dockerfile:2:.*RUM", "RUN"),
    "a syntax fault": Bad(
        'FROM {base}\nCOPY --chmod a\n', r"Dockerfile:2", shows=r"COPY --chmod a\n.*\^"
    ),
    "no instruction at all": Bad("# nothing\n", r"Dockerfile.*(no|empty)"),
    "an instruction before FROM": Bad("RUN true\nFROM {base}\n", r"Dockerfile:1:.*FROM"),
    "an unknown flag": Bad("FROM {base}\nRUN --nosuch=1 true\n", r"Dockerfile:2.*--nosuch"),
    "an absent COPY source": Bad("FROM {base}\nCOPY nosuch /x\n", r"Dockerfile:2.*nosuch", "."),
    "a COPY source outside": Bad("FROM {base}\nCOPY ../../etc/passwd /x\n", r"Dockerfile:2"),
    "an absent file of a stage": Bad(
        "FROM {base} AS a\nFROM {base}\nCOPY --from=a /nosuch /x\n", r"Dockerfile:3.*nosuch"
    ),
    "a stage that does not exist": Bad("FROM {base}\nCOPY --from=7 /a /b\n", r"7"),
    "a failing RUN": Bad("FROM {base}\nRUN echo words; exit 7\n", r"Dockerfile:2.*\b7\b",
                         shows=r"words"),
    "a RUN killed by a signal": Bad("FROM {base}\nRUN kill -9 $$\n", r"Dockerfile:2.*(137|KILL|9)"),
    "a program that is not there": Bad('FROM {base}\nRUN ["/nosuch"]\n', r"Dockerfile:2.*/nosuch"),
    "an unknown image": Bad("FROM {host}/nosuch:1\n", r"nosuch", "."),
    "an unreachable registry": Bad("FROM 127.0.0.1:1/x\n", r"127\.0\.0\.1:1", "."),
    "an image name that is none": Bad("FROM ../../etc\n", r"\.\./\.\./etc"),
    "an unset variable as image": Bad("ARG X\nFROM ${{X}}\n", r"Dockerfile:2"),
}  # fmt: skip


@pytest.fixture(scope="module")
def used(base_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[world.Tool]:
    """A storage directory in use: it holds an image `good` and its cache."""
    work = tmp_path_factory.mktemp("used")
    tool = world.Tool(work / "storage", work)
    context = work / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(f"FROM {base_image}\nRUN echo good > /good\n")
    tool("build", "-t", "good", context).ok()
    yield tool
    conftest.remove_tree(work / "storage")


def check_intact(tool: world.Tool, before: str) -> None:
    """The storage directory still serves, and nothing half-made is in it."""
    assert tool("inspect", "good").ok().out == before
    listed = tool("list").ok().out.split()
    assert "good" in listed
    assert "bad" not in listed
    again = tool("build", "-t", "good", tool.home / "context").ok()
    assert re.findall(r"^ *\d+\. ", again.out + again.err, re.M) == [], "the cache was lost"
    left = [p for p in os.listdir(tool.storage / "tmp") if not p.startswith(".")]
    assert left == []


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_a_fault_is_told_in_one_line_and_harms_nothing(
    bad: Bad, used: world.Tool, base_image: str, registry: world.Registry, tmp_path: Path
) -> None:
    before = used("inspect", "good").ok().out
    if bad.dockerfile is not None:
        text = bad.dockerfile.format(base=base_image, host=registry.host)
        (tmp_path / "Dockerfile").write_text(text)

    done = used("build", "-t", "bad", tmp_path, timeout=60)

    assert re.search(bad.error, done.fault()), done.err
    assert done.code == bad.code, done.err
    if bad.hint:
        hints = re.findall(r"^hint: (.*)", done.err, re.M)
        assert any(re.search(bad.hint, hint) for hint in hints), done.err
    assert re.search(bad.shows, done.err), done.err
    check_intact(used, before)


USAGE = {
    "no command": [],
    "an unknown command": ["nosuch"],
    "an unknown option": ["build", "--nosuch", "."],
    "no context": ["build"],
    "an option without its value": ["build", "-t"],
}


@pytest.mark.parametrize("words", USAGE.values(), ids=USAGE.keys())
def test_wrong_usage_exits_2_and_makes_no_storage(words: list[str], ch_image: world.Tool) -> None:
    done = ch_image(*words)
    assert done.code == 2, done.err
    assert done.out == ""
    assert "Traceback" not in done.err
    assert not ch_image.storage.exists()


NOT_THERE = {
    "delete": ["delete", "nosuch"],
    "inspect": ["inspect", "nosuch"],
    "a name with a path in it": ["delete", "../images"],
}


@pytest.mark.parametrize("words", NOT_THERE.values(), ids=NOT_THERE.keys())
def test_an_image_that_is_not_there_is_said_to_be_missing(
    words: list[str], used: world.Tool
) -> None:
    before = used("inspect", "good").ok().out
    done = used(*words)
    assert done.fault()
    assert done.code == 1
    check_intact(used, before)


class Liar(BaseHTTPRequestHandler):
    """A registry that serves a layout, one blob of it with other bytes of the same length."""

    layout: Path
    lie_about: str

    def do_GET(self) -> None:
        """Manifests by tag or digest, blobs by digest."""
        kind, reference = self.path.rsplit("/", 2)[-2:]
        if self.path == "/v2/":
            return self.answer(b"{}", "application/json")
        if kind == "manifests" and not reference.startswith("sha256:"):
            index = json.loads((self.layout / "index.json").read_text())
            reference = index["manifests"][0]["digest"]
        path = self.layout / "blobs/sha256" / reference.removeprefix("sha256:")
        if not path.exists():
            return self.answer(b"{}", "application/json", 404)
        data = path.read_bytes()
        if reference == self.lie_about:
            data = data[:-1] + bytes([data[-1] ^ 1])
        types = {"manifests": "application/vnd.oci.image.manifest.v1+json"}
        return self.answer(data, types.get(kind, "application/octet-stream"))

    do_HEAD = do_GET

    def answer(self, data: bytes, media_type: str, status: int = 200) -> None:
        """One whole answer."""
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: pytest shows what a test needs."""


@pytest.mark.parametrize("lie", ["config", "layer"])
def test_bytes_that_are_not_those_of_their_digest_are_refused(
    lie: str, base_layout: world.BaseImage, used: world.Tool
) -> None:
    before = used("inspect", "good").ok().out
    blobs = base_layout.layout / "blobs/sha256"
    index = json.loads((base_layout.layout / "index.json").read_text())
    top = index["manifests"][0]["digest"].removeprefix("sha256:")
    manifest = json.loads((blobs / top).read_text())
    wrong = manifest["config" if lie == "config" else "layers"]
    digest = wrong["digest"] if lie == "config" else wrong[0]["digest"]
    members = {"layout": base_layout.layout, "lie_about": digest}
    used("build-cache", "--gc")
    tool = world.Tool(used.home / f"storage-{lie}", used.home)  # where no blob is known yet
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Lying", (Liar,), members)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        ref = f"127.0.0.1:{server.server_port}/busybox:latest"
        done = tool("pull", ref)
        server.shutdown()
    assert done.code == 1
    assert "digest" in done.fault() or digest in done.fault(), done.err
    assert tool("list").ok().out.split() == []
    check_intact(used, before)


def limited(words: list[str]) -> list[str]:
    """`words` where user namespaces exist but none may be made: their number is limited to 0."""
    script = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    return [*unshare, "sh", "-c", script, "sh", *words]


def test_without_user_namespaces_the_error_names_the_sysctl(
    used: world.Tool, base_image: str, tmp_path: Path
) -> None:
    before = used("inspect", "good").ok().out
    (tmp_path / "Dockerfile").write_text(f"FROM {base_image}\nRUN echo new > /new\n")
    words = limited(used.argv("ch-image", "build", "-t", "bad", tmp_path))
    raw = subprocess.run(words, capture_output=True, text=True, env=used.environment())
    done = world.Done(raw.returncode, raw.stdout, raw.stderr)
    assert "namespace" in done.fault()
    assert re.search(r"^hint: .*max_user_namespaces", done.err, re.M), done.err
    assert done.code == 1
    check_intact(used, before)


@pytest.mark.parametrize("words", [["list"], ["storage-path"], ["delete", "copy"]])
def test_without_user_namespaces_what_needs_none_works(words: list[str], used: world.Tool) -> None:
    used("build", "-t", "copy", used.home / "context").ok()
    argv = limited(used.argv("ch-image", *words))
    raw = subprocess.run(argv, capture_output=True, text=True, env=used.environment())
    assert raw.returncode == 0, raw.stderr


def _inside_a_file(path: Path) -> None:
    path.write_text("a file")


def _of_somebody_else(path: Path) -> None:
    path.mkdir()
    (path / "thesis.txt").write_text("years of work")


def _newer(path: Path, tool: Callable[..., world.Done]) -> None:
    tool("list").ok()
    (path / "version").write_text("999\n")


PLACES = {
    "a file": _inside_a_file,
    "a directory of other things": _of_somebody_else,
}


@pytest.mark.skipif(os.getuid() == 0, reason="root writes anywhere")
@pytest.mark.parametrize("make", PLACES.values(), ids=PLACES.keys())
def test_storage_that_cannot_be_ours_is_refused_untouched(
    make: Callable[[Path], None], base_image: str, ch_image: world.Tool
) -> None:
    make(ch_image.storage)
    state = functools.partial(snapshot, ch_image.storage)
    before = state()
    done = ch_image("pull", base_image)
    assert str(ch_image.storage) in done.fault()
    assert re.search(r"^hint: ", done.err, re.M), done.err
    assert done.code == 1
    assert state() == before


@pytest.mark.skipif(os.getuid() == 0, reason="root writes anywhere")
def test_storage_where_nothing_can_be_made_is_told_with_its_path(
    base_image: str, ch_image: world.Tool
) -> None:
    place = "/usr/lib/nobodys/storage"
    done = ch_image("pull", base_image, env={"CH_IMAGE_STORAGE": place})
    assert place in done.fault() or "/usr/lib" in done.fault()
    assert re.search(r"^hint: ", done.err, re.M), done.err
    assert done.code == 1


def test_storage_on_a_read_only_filesystem_still_lists(used: world.Tool, tmp_path: Path) -> None:
    before = used("inspect", "good").ok().out
    script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'
    read_only = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]

    def run(*words: object) -> world.Done:
        argv = [*read_only, str(used.storage), *used.argv("ch-image", *words)]
        raw = subprocess.run(argv, capture_output=True, text=True, env=used.environment())
        return world.Done(raw.returncode, raw.stdout, raw.stderr)

    assert "good" in run("list").ok().out.split()
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    done = run("build", "-t", "bad", tmp_path)
    assert "read-only" in done.fault().lower(), done.err
    assert done.code == 1
    check_intact(used, before)


def snapshot(path: Path) -> list[tuple[str, int, str]]:
    """All names, modes and texts at and below `path`."""
    here = [path, *sorted(path.rglob("*"))]
    return [(str(p), p.stat().st_mode, p.read_text() if p.is_file() else "") for p in here]


def test_storage_of_a_newer_version_is_refused_untouched(ch_image: world.Tool) -> None:
    _newer(ch_image.storage, ch_image)
    before = snapshot(ch_image.storage)
    done = ch_image("list")
    assert "999" in done.fault() or "newer" in done.fault()
    assert done.code == 1
    assert [entry for entry in snapshot(ch_image.storage) if "/lock" not in entry[0]] == [
        entry for entry in before if "/lock" not in entry[0]
    ]
