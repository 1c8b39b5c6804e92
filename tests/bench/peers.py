"""Other builders on this machine, and ours, behind one face: build a context, cold or warm.

Each has a storage directory of its own below the bench's, so nothing of the user's is touched;
docker alone has a daemon, whose images get a tag of ours that is removed at the end.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent.parent


class Peer:
    """A builder. ``base`` is what FROM has to name."""

    name = ""

    def __init__(self, work: Path, base: str) -> None:
        self.work, self.base = work, base
        self.env = dict(os.environ, HOME=str(work), XDG_RUNTIME_DIR=str(work), LC_ALL="C.UTF-8")
        # Of the commands since somebody set them to nothing:
        self.peak = 0  # bytes that the largest process held
        self.cpu: list[float] = []  # milliseconds of processor time of each, without a daemon's

    def prepare(self) -> str:
        """Make ready; why it cannot be used, empty when it can."""
        return ""

    def argv(self, context: Path, fresh: bool) -> Sequence[object]:
        """The command that builds ``context``; ``fresh``: without what is in its cache."""
        raise NotImplementedError

    def build(self, context: Path, *, fresh: bool) -> None:
        """Build. Raises RuntimeError with the end of what it said."""
        self.run(self.argv(context, fresh))

    def run(self, argv: Sequence[object]) -> None:
        """Run to its end, and note how much memory the process needed."""
        words = [str(word) for word in argv]
        null = subprocess.DEVNULL
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(words, env=self.env, stdin=null, stdout=null, stderr=said)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            self.peak = max(self.peak, usage.ru_maxrss << 10)
            self.cpu.append((usage.ru_utime + usage.ru_stime) * 1000)
            if process.returncode:
                said.seek(0)
                text = said.read().decode(errors="replace").strip()
                raise RuntimeError(f"{self.name} exits with {process.returncode}: {text[-400:]}")

    def stored(self) -> int:
        """Bytes that its storage takes on disk; 0: it is not ours to see."""
        done = subprocess.run(["du", "-s", "-B1", self.work], capture_output=True)
        return int(done.stdout.split()[0])

    def listing(self) -> Sequence[object]:
        """The command that lists the images."""
        raise NotImplementedError

    def close(self) -> None:
        """Take away what was made outside of the bench's directory."""

    def trial(self) -> str:
        """Why not even a build of one RUN works here; empty when it does."""
        context = self.work / "trial"
        context.mkdir(parents=True, exist_ok=True)
        (context / "Dockerfile").write_text(f"FROM {self.base}\nRUN true\n")
        try:
            self.build(context, fresh=True)
        except (OSError, RuntimeError) as error:
            return str(error).splitlines()[-1][:200]
        return ""


class Ours(Peer):
    """This checkout."""

    name = "ch-image"

    def __init__(self, work: Path, base: str) -> None:
        super().__init__(work, base)
        self.env |= {"CH_IMAGE_STORAGE": str(work / "storage"), "PYTHONPATH": str(CHECKOUT)}

    def _start(self) -> list[object]:
        installed = Path(sys.executable).with_name("ch-image")
        start = "import sys; from ch_image.cli.main import main; sys.exit(main())"
        return [installed] if installed.exists() else [sys.executable, "-c", start]

    def argv(self, context: Path, fresh: bool) -> Sequence[object]:
        return [*self._start(), "build", *["--rebuild"] * fresh, "-t", context.name, context]

    def listing(self) -> Sequence[object]:
        return [*self._start(), "list"]


class Buildah(Peer):
    """buildah, rootless where we are."""

    name = "buildah"

    def _start(self) -> list[object]:
        return ["buildah", "--root", self.work / "root", "--runroot", self.work / "run"]

    def argv(self, context: Path, fresh: bool) -> Sequence[object]:
        options = ["--isolation=chroot", "--tls-verify=false", "--layers"]
        options += ["--no-cache"] * fresh
        return [*self._start(), "build", *options, "-t", context.name, context]

    def listing(self) -> Sequence[object]:
        return [*self._start(), "images"]


class Podman(Buildah):
    """podman, whose builder is buildah."""

    name = "podman"
    _run = ""

    def _start(self) -> list[object]:
        if not self._run:  # which has 50 characters at most
            self._run = tempfile.mkdtemp(prefix="chb", dir="/tmp")
        return ["podman", "--root", self.work / "root", "--runroot", self._run]

    def close(self) -> None:
        if self._run:
            shutil.rmtree(self._run, ignore_errors=True)


class Docker(Peer):
    """docker with its daemon running."""

    name = "docker"

    def __init__(self, work: Path, base: str) -> None:
        super().__init__(work, base)
        self.env["HOME"] = os.environ.get("HOME", "/")
        self._tags: set[str] = set()

    def argv(self, context: Path, fresh: bool) -> Sequence[object]:
        tag = f"ch-image-bench-{context.name}"
        self._tags.add(tag)
        options = ["-q", "--network=host", *["--no-cache"] * fresh]
        return ["docker", "build", *options, "-t", tag, context]

    def stored(self) -> int:
        return 0  # the daemon's directory holds what others have built, too

    def listing(self) -> Sequence[object]:
        return ["docker", "images"]

    def close(self) -> None:
        subprocess.run(["docker", "rmi", "-f", *self._tags], check=False, capture_output=True)


class Charliecloud(Peer):
    """Charliecloud's ch-image, by path, for its name is ours."""

    name = "charliecloud"

    def __init__(self, work: Path, base: str, path: str, tree: Path) -> None:
        super().__init__(work, "busybox")
        self._path, self._tree = path, tree

    def _start(self) -> list[object]:
        return [self._path, "-s", self.work / "storage"]

    def prepare(self) -> str:
        words = [str(word) for word in [*self._start(), "import", self._tree, self.base]]
        done = subprocess.run(words, env=self.env, capture_output=True)
        return done.stderr.decode(errors="replace")[-100:] if done.returncode else ""

    def argv(self, context: Path, fresh: bool) -> Sequence[object]:
        options = ["--rebuild"] * fresh
        return [*self._start(), "build", *options, "-t", context.name, context]

    def listing(self) -> Sequence[object]:
        return [*self._start(), "list"]


def found(
    work: Path, base: str, tree: Path, charliecloud: str, without: Sequence[str]
) -> tuple[list[Peer], list[str]]:
    """Ours and the peers that work here; and of the others, why they don't."""
    peers: list[Peer] = [Ours(work / "ours", base)]
    for kind in (Buildah, Podman, Docker):
        if shutil.which(kind.name) and kind.name not in without:
            peers.append(kind(work / kind.name, base))
    if charliecloud:
        peers.append(Charliecloud(work / "charliecloud", base, charliecloud, tree))
    good, bad = [], []
    for peer in peers:
        peer.work.mkdir(parents=True, exist_ok=True)
        reason = peer.prepare() or peer.trial()
        if reason:
            bad.append(f"{peer.name}: {reason}")
            peer.close()
        else:
            good.append(peer)
    return good, bad
