"""Other builders on this machine, and ours, behind one face: build a context, cold or warm.

Each has a storage directory of its own below the bench's, so nothing of the user's is touched;
docker alone has a daemon, whose images get a tag of ours that is removed at the end.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent.parent


class Peer:
    """A builder. ``base`` is what FROM has to name."""

    name = ""

    def __init__(self, work: Path, base: str) -> None:
        self.work, self.base = work, base
        self.env = dict(os.environ, HOME=str(work), XDG_RUNTIME_DIR=str(work), LC_ALL="C.UTF-8")

    def prepare(self) -> str:
        """Make ready; why it cannot be used, empty when it can."""
        return ""

    def argv(self, context: Path, fresh: bool) -> Sequence[object]:
        """The command that builds ``context``; ``fresh``: without what is in its cache."""
        raise NotImplementedError

    def build(self, context: Path, *, fresh: bool) -> None:
        """Build. Raises CalledProcessError with the end of what it said."""
        words = [str(word) for word in self.argv(context, fresh)]
        subprocess.run(
            words, check=True, env=self.env, stdin=subprocess.DEVNULL, capture_output=True
        )

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
        except OSError as error:
            return str(error)
        except subprocess.CalledProcessError as error:
            lines = error.stderr.decode(errors="replace").strip().splitlines()
            return lines[-1][:100] if lines else f"exit code {error.returncode}"
        return ""


class Ours(Peer):
    """This checkout."""

    name = "ch-image"

    def __init__(self, work: Path, base: str) -> None:
        super().__init__(work, base)
        self.env |= {"CH_IMAGE_STORAGE": str(work / "storage"), "PYTHONPATH": str(CHECKOUT)}

    def _start(self) -> list[object]:
        start = "import sys; from ch_image.cli.main import main; sys.exit(main())"
        return [sys.executable, "-c", start]

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

    def _start(self) -> list[object]:
        return ["podman", "--root", self.work / "root", "--runroot", self.work / "run"]


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
        return ["docker", "build", "-q", *["--no-cache"] * fresh, "-t", tag, context]

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


def found(work: Path, base: str, tree: Path, charliecloud: str) -> tuple[list[Peer], list[str]]:
    """Ours and the peers that work here; and of the others, why they don't."""
    peers: list[Peer] = [Ours(work / "ours", base)]
    for kind in (Buildah, Podman, Docker):
        if shutil.which(kind.name):
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
