"""What the tests stand on: real registries, real base images, real processes.

Nothing here knows a module of ours but the namespace that `in_namespace` enters: images are made
with Debian's own tools and with `tarfile`, so that a fault of ours cannot hide itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import importlib.util
import io
import json
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import tarfile
import time
import traceback
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

import pytest

T = TypeVar("T")
CHECKOUT = Path(__file__).resolve().parent.parent
PLACES = [str(CHECKOUT), sysconfig.get_path("purelib")]  # as `quickstart` installs the commands
MIRROR = "http://deb.debian.org/debian"
PASSED_ON = re.compile(r"(CH_IMAGE_SNAPSHOTTER|(https?|no)_proxy)", re.I)


def lacking(reason: str) -> NoReturn:
    """Skip for want of something on this machine; a fault where CH_TEST_REQUIRE is set (CI)."""
    if os.environ.get("CH_TEST_REQUIRE"):
        pytest.fail(f"this machine is meant to have everything: {reason}", pytrace=False)
    pytest.skip(reason)


def program(name: str) -> str:
    """The path of a program of Debian's that a test needs."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    return path or lacking(f"{name} is not installed")


def missing_module(name: str) -> bool:
    """Whether Python cannot import `name` here."""
    return importlib.util.find_spec(name) is None


def clean_environment(home: Path, **more: str) -> dict[str, str]:
    """The environment of a program under test: nothing of the developer's leaks in."""
    kept = {k: v for k, v in os.environ.items() if PASSED_ON.fullmatch(k)}
    base = {
        "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(home),  # credentials of podman's are looked for here
        "USER": "tester",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "PYTHONPATH": str(CHECKOUT),
    }
    return base | kept | more


class Done(NamedTuple):
    """A program that has ended; `err` is its stderr."""

    code: int
    out: str
    err: str

    def ok(self) -> Done:
        """Itself, if it ended well."""
        assert self.code == 0, f"exit code {self.code}\n{self.out}\n{self.err}"
        return self

    def fault(self) -> str:
        """The message of its one `error:` line, after checking that it failed as promised."""
        assert "Traceback" not in self.err, self.err
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, f"exit code {self.code}, not one error line:\n{self.err}"
        return lines[0].removeprefix("error: ")


class Tool:
    """Our commands as a user runs them, each in a fresh process over one storage directory."""

    def __init__(self, storage: Path, home: Path) -> None:
        self.storage, self.home = storage, home

    def argv(self, command: str, *args: object) -> list[str]:
        """How `command` (ch-image, ch-run, ch-convert) is started from this checkout."""
        known = {
            "ch-image": "main:main",
            "ch-builder2tar": "builder2:tar",
            "ch-builder2squash": "builder2:squash",
        }
        name = command.removeprefix("ch-").replace("-", "_")
        module, _, main = known.get(command, f"{name}:main").partition(":")
        start = (
            f"import sys; sys.argv[0] = {command!r}; sys.path += {PLACES!r}\n"
            f"from ch_image.cli.{module} import {main} as main; sys.exit(main())"
        )
        return [sys.executable, "-ISc", start, *map(str, args)]

    def environment(self, **more: str) -> dict[str, str]:
        """What the program sees; `more` wins."""
        return clean_environment(self.home) | {"CH_IMAGE_STORAGE": str(self.storage)} | more

    def run(
        self,
        command: str,
        *args: object,
        stdin: str | bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = 300,
    ) -> Done:
        """Run one of our commands to its end; times in seconds."""
        data = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            self.argv(command, *args),
            input=data,
            stdin=subprocess.DEVNULL if data is None else None,
            capture_output=True,
            env=self.environment(**(env or {})),
            cwd=cwd,
            timeout=timeout,
        )
        texts = (text.decode("utf-8", "backslashreplace") for text in (done.stdout, done.stderr))
        return Done(done.returncode, *texts)

    def __call__(self, *args: object, **options: Any) -> Done:
        """`ch-image ARGS`."""
        return self.run("ch-image", *args, **options)

    def start(self, *args: object, **more: str) -> subprocess.Popen[str]:
        """`ch-image ARGS` in the background, for tests that interrupt it."""
        return subprocess.Popen(
            self.argv("ch-image", *args),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment(**more),
            start_new_session=True,
        )


def kernel_refuses_namespaces() -> str:
    """The kernel's reason not to give an ordinary user a namespace; "" when it gives one."""
    done = subprocess.run(
        [program("unshare"), "--user", "--map-root-user", "--mount", "true"],
        capture_output=True,
        text=True,
    )
    return done.stderr.strip() if done.returncode else ""


def child_is_left() -> bool:
    """Whether this process, a fork of ours, has a child, running or not waited for."""
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


def children() -> set[int]:
    """The children of this process, running or not waited for; servers of fixtures among them."""
    out = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[1]) == os.getpid():
            out.add(int(path.parent.name))
    return out


def in_namespace(work: Callable[[], T]) -> T:
    """What `work` returns, run in a forked child that has entered our namespace.

    Its result must pickle. What it raises is raised here, with the child's traceback as a note.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the child is alone: fork is safe
        pid = os.fork()
    if pid == 0:
        os.close(reader)
        _child(work, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        raw = stream.read()
    _, status = os.waitpid(pid, 0)
    if not raw:
        raise AssertionError(f"the child ended with status {status} and said nothing")
    good, value, trace = pickle.loads(raw)
    if good:
        return value  # type: ignore[no-any-return]
    value.add_note("in the namespace:\n" + trace)
    raise value


def _child(work: Callable[[], object], writer: int) -> NoReturn:
    code = 1
    try:
        try:
            from ch_image.sandbox import userns

            userns.enter()
            answer: tuple[bool, object, str] = (True, work(), "")
        except BaseException as error:
            answer = (False, error, traceback.format_exc())
        try:
            raw = pickle.dumps(answer)
            pickle.loads(raw)  # some exceptions pickle well and cannot be read back
        except Exception:
            raw = pickle.dumps((False, AssertionError(repr(answer[1])), answer[2]))
        with os.fdopen(writer, "wb") as stream:
            stream.write(raw)
        sys.stdout.flush()
        sys.stderr.flush()
        code = 0
    finally:
        os._exit(code)


class Registry(NamedTuple):
    """A running docker-registry: `host` is 127.0.0.1:PORT, `root` its directory."""

    host: str
    root: Path

    def ref(self, name: str) -> str:
        """The full name of an image here."""
        return f"{self.host}/{name}"

    def push(self, source: str, name: str) -> str:
        """Copy `source` (a skopeo name such as oci:DIR:TAG) here; its name as we would pull it."""
        done = subprocess.run(
            [program("skopeo"), "--insecure-policy", "copy", "--all", "--dest-tls-verify=false",
             "--dest-no-creds", source, f"docker://{self.host}/{name}"],
            capture_output=True,
            text=True,
            env=clean_environment(self.root),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return self.ref(name)

    def get(self, path: str, accept: str = "*/*") -> bytes:
        """The body of a GET below /v2/."""
        request = urllib.request.Request(f"http://{self.host}/v2/{path}")
        request.add_header("Accept", accept)
        with urllib.request.urlopen(request, timeout=30) as answer:
            body: bytes = answer.read()
        return body


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextlib.contextmanager
def running_registry(directory: Path) -> Iterator[Registry]:
    """Debian's docker-registry on a free loopback port; it ends with this process."""
    binary = program("docker-registry")
    directory.mkdir(parents=True, exist_ok=True)
    host = f"127.0.0.1:{free_port()}"
    config = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(directory / "data")},
            "delete": {"enabled": True},
        },
        "http": {"addr": host},
    }
    (directory / "config.yml").write_text(json.dumps(config))  # JSON is YAML
    with (directory / "log").open("wb") as log:
        server = subprocess.Popen(
            [program("setpriv"), "--pdeathsig", "TERM", binary, "serve",
             str(directory / "config.yml")],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        _wait_for(host, server, directory / "log")
        yield Registry(host, directory)
    finally:
        server.terminate()
        server.wait(10)


def _wait_for(host: str, server: subprocess.Popen[bytes], log: Path, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"http://{host}/v2/", timeout=1):
                return
        except OSError:
            time.sleep(0.02)
    raise AssertionError(f"docker-registry did not start:\n{log.read_text(errors='replace')}")


class BaseImage(NamedTuple):
    """A small image of busybox: its tree on disk, its OCI layout, its layer's tar file."""

    tree: Path
    layout: Path
    tar: Path

    @property
    def source(self) -> str:
        """Its name for skopeo."""
        return f"oci:{self.layout}:latest"


PASSWD = "root:x:0:0:root:/root:/bin/sh\napp:x:1234:1234:app:/home/app:/bin/sh\n"
GROUP = "root:x:0:\napp:x:1234:\nstaff:x:50:app\n"


def make_base_image(directory: Path) -> BaseImage:
    """Debian's static busybox with its applets, /etc/passwd with user app, and /tmp."""
    busybox = program("busybox")
    with Path(busybox).open("rb") as stream:
        if b"GLIBC_2." in stream.read() and subprocess.run(
            ["ldd", busybox], capture_output=True
        ).returncode == 0:  # fmt: skip
            lacking("/bin/busybox is not static (package busybox-static)")
    tree = directory / "tree"
    for name in ("bin", "etc", "home/app", "root", "tmp", "usr/bin", "var/tmp", "dev", "proc"):
        (tree / name).mkdir(parents=True)
    shutil.copy(busybox, tree / "bin/busybox")
    applets = subprocess.check_output([busybox, "--list"], text=True).split()
    for applet in applets:
        if applet != "busybox":
            (tree / "bin" / applet).symlink_to("busybox")
    (tree / "etc/passwd").write_text(PASSWD)
    (tree / "etc/group").write_text(GROUP)
    (tree / "etc/os-release").write_text('ID=busybox\nPRETTY_NAME="busybox for tests"\n')
    for sticky in ("tmp", "var/tmp"):
        (tree / sticky).chmod(0o1777)
    (tree / "root").chmod(0o700)
    tar = directory / "layer.tar"
    with tarfile.open(tar, "w", format=tarfile.PAX_FORMAT) as out:
        out.add(tree, ".", filter=_owned)
    layout = directory / "layout"
    write_layout(layout, [tar.read_bytes()])
    return BaseImage(tree, layout, tar)


def _owned(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 1234 if "home/app" in member.name else 0
    member.uname = member.gname = ""
    member.mtime = 1_700_000_000
    return member


def digest(data: bytes) -> str:
    """sha256 as OCI writes it."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def write_layout(
    layout: Path,
    layers: list[bytes],
    config: Mapping[str, Any] | None = None,
    tag: str = "latest",
    *,
    history: bool = False,
) -> str:
    """An OCI layout of one image made of tar `layers`; the digest of its manifest."""
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True, exist_ok=True)

    def put(data: bytes, media_type: str) -> dict[str, Any]:
        (blobs / digest(data).removeprefix("sha256:")).write_bytes(data)
        return {"mediaType": media_type, "digest": digest(data), "size": len(data)}

    kind = "application/vnd.oci.image."
    packed = [put(gzip.compress(raw, 1, mtime=0), kind + "layer.v1.tar+gzip") for raw in layers]
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    image: dict[str, Any] = {
        "architecture": machine,
        "os": "linux",
        "config": dict(config or {"Env": ["PATH=/bin:/usr/bin"], "Cmd": ["/bin/sh"]}),
        "rootfs": {"type": "layers", "diff_ids": [digest(raw) for raw in layers]},
    }
    if history:
        image["history"] = [{"created_by": f"layer {n}"} for n, _ in enumerate(layers)]
    manifest = {
        "schemaVersion": 2,
        "mediaType": kind + "manifest.v1+json",
        "config": put(json.dumps(image).encode(), kind + "config.v1+json"),
        "layers": packed,
    }
    top = put(json.dumps(manifest).encode(), kind + "manifest.v1+json")
    entry = top | {"annotations": {"org.opencontainers.image.ref.name": tag}}
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return str(top["digest"])


def tar_of(members: Mapping[str, str | tarfile.TarInfo]) -> bytes:
    """A tar of text files (and of ready TarInfo without data) for hand-made layers."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name) if isinstance(content, str) else content
            data = content.encode() if isinstance(content, str) else b""
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


@contextlib.contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Keep other test processes out while something shared is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
