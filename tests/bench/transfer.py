"""Measures pull and push through a registry on loopback, beside the tools that do the same work.

    python tests/bench/transfer.py [--rounds N] [--megabytes N] [--work DIR] [--json FILE]
                                   [WORKLOAD...]

See README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import conftest
import world

LAYERS = 3
EPOCH = "1700000000"
SOURCES = ("/usr/lib", "/usr/share", "/usr/bin")  # what images are full of
Work = Callable[[int], Callable[[], object]]  # round -> what to time; what comes before is not


def real_files() -> Iterator[tuple[Path, int]]:
    """Files of this machine that anybody may read, each with its size in bytes."""
    for top in SOURCES:
        for directory, below, names in os.walk(top):
            below.sort()
            for name in sorted(names):
                path = Path(directory, name)
                if path.is_file() and not path.is_symlink() and os.access(path, os.R_OK):
                    yield path, path.stat().st_size


def gather(files: Iterator[tuple[Path, int]], directory: Path, size: int) -> None:
    """Copy the next of the files, ``size`` bytes of them, below ``directory``."""
    left = size
    while left > 0:
        path, length = next(files, (None, 0))
        if path is None:
            raise SystemExit(f"{', '.join(SOURCES)} hold too little to make an image of")
        target = directory / str(path).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        left -= length


def tar(directory: Path) -> bytes:
    """A directory as a layer: root's, whoever we are."""
    return subprocess.check_output(
        ["tar", "-C", directory, "--sort=name", "--owner=0", "--group=0", "-c", "."]
    )


def timed(work: Callable[[], object]) -> float:
    """Seconds that ``work`` took; what others have written is on the disk before it begins."""
    os.sync()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


class Bench:
    """A registry with a big image and busybox in it, and what the tools need."""

    def __init__(self, work: Path, registry: world.Registry, megabytes: int) -> None:
        self.work, self.registry = work, registry
        self.big, self.base = registry.ref("big"), registry.ref("busybox")
        self.tool = world.Tool(work / "storage", work)
        self.context = work / "context"
        if not (work / "ready").exists():
            self.prepare(megabytes << 20)
            (work / "ready").touch()
        (self.context / "Dockerfile").write_text(f"FROM {self.base}\nCOPY data /data\n")
        manifest = json.loads((work / "manifest.json").read_text())
        blobs = work / "registry/data/docker/registry/v2/blobs/sha256"
        digests = [layer["digest"].partition(":")[2] for layer in manifest["layers"]]
        self.blobs = [blobs / digest[:2] / digest / "data" for digest in digests]

    def prepare(self, size: int) -> None:
        """Make the images and the context, out of ``size`` bytes and some more."""
        files = real_files()
        layers = []
        for number in range(LAYERS):
            tree = self.work / f"layer{number}"
            gather(files, tree, size // LAYERS)
            layers.append(tar(tree))
            conftest.remove_tree(tree)
        world.write_layout(self.work / "layout", layers)
        self.registry.push(f"oci:{self.work}/layout:latest", "big")
        kind = "application/vnd.oci.image.manifest.v1+json"
        (self.work / "manifest.json").write_bytes(self.registry.get("big/manifests/latest", kind))
        conftest.remove_tree(self.work / "layout")
        self.registry.push(world.make_base_image(self.work / "base").source, "busybox")
        gather(files, self.context / "data", size * 3 // 5)

    def fresh(self, name: str) -> Path:
        """An empty directory, whatever was there."""
        path = self.work / name
        if path.exists():
            subprocess.run(["chmod", "-R", "u+rwX", path], check=True)
            shutil.rmtree(path)
        path.mkdir()
        return path

    def pull(self, _: int) -> Callable[[], object]:
        """Our pull, into an empty storage directory."""
        tool = world.Tool(self.fresh("pulled") / "storage", self.work)
        return lambda: tool("pull", self.big).ok()

    def untar(self, _: int) -> Callable[[], object]:
        """The same blobs by pigz and tar, one after the other."""
        tree = self.fresh("untarred")

        def work() -> None:
            for blob in self.blobs:
                script = f"pigz -dc {blob} | tar -C {tree} -x"
                subprocess.run(["sh", "-c", script], check=True)

        return work

    def other_pull(self, words: list[str], name: str) -> Work:
        """Another tool's pull, into an empty storage directory of its own."""

        def prepare(_: int) -> Callable[[], object]:
            subprocess.run([*words, "rmi", "-af"], check=False, capture_output=True, env=self.env())
            return lambda: subprocess.run(
                [*words, "pull", "-q", "--tls-verify=false", f"docker://{self.big}"],
                check=True, capture_output=True, env=self.env(),
            )  # fmt: skip

        (self.work / name).mkdir(exist_ok=True)
        return prepare

    def env(self) -> Mapping[str, str]:
        """An environment in which nothing of the user's is found or touched."""
        return world.clean_environment(self.work, SOURCE_DATE_EPOCH=EPOCH)

    def built(self, number: int) -> None:
        """Build ``app`` anew, with a layer that nobody has seen."""
        (self.context / "data/round").write_text(f"{number} {time.time_ns()}\n")
        self.tool("build", "-t", "app", self.context).ok()

    def push(self, number: int) -> Callable[[], object]:
        """Our push of an image with one new layer."""
        self.built(number)
        return lambda: self.tool("push", "app", self.registry.ref(f"app:{number}")).ok()

    def pigz(self, _: int) -> Callable[[], object]:
        """`pigz -1` over a tar of the same files."""
        plain = self.work / "plain.tar"
        if not plain.exists():
            plain.write_bytes(tar(self.context / "data"))
        script = f"pigz -1 < {plain} > {plain}.gz"
        return lambda: subprocess.run(["sh", "-c", script], check=True)

    def again(self, *words: str) -> Callable[[], object]:
        """One of our commands."""
        return lambda: self.tool(*words).ok()


def rootless(name: str, bench: Bench) -> dict[str, Work]:
    """buildah (or podman), with overlay where this user can mount it."""
    if not shutil.which(name):
        return {}
    home = bench.work / name
    words = [name, "--root", f"{home}/root", "--runroot", f"{home}/run",
             "--storage-driver", "overlay"]  # fmt: skip
    work = bench.other_pull(words, name)
    try:
        work(0)()
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines() or ["fails"]
        print(f"{name} pull: {said[-1]}")
        return {}
    return {f"{name} pull": work}


def rounds(count: int, tools: Mapping[str, Work]) -> dict[str, list[float]]:
    """Each in turn, so many times, after one round that warms up."""
    out: dict[str, list[float]] = {name: [] for name in tools}
    for number in range(count + 1):
        for name, prepare in tools.items():
            took = timed(prepare(number))
            print(f"  {name}: {took:.3f} s", file=sys.stderr, flush=True)
            if number:
                out[name].append(took)
    return out


def pulls(bench: Bench, count: int) -> dict[str, list[float]]:
    """An image that is not in storage."""
    tools: dict[str, Work] = {"pull": bench.pull, "pigz -dc | tar -x": bench.untar}
    tools |= rootless("buildah", bench)
    return rounds(count, tools)


def pushes(bench: Bench, count: int) -> dict[str, list[float]]:
    """An image whose top layer is new."""
    return rounds(count, {"push": bench.push, "pigz -1": bench.pigz})


def unchanged(bench: Bench, count: int) -> dict[str, list[float]]:
    """Where nothing is to be done, each way."""
    bench.tool("pull", bench.big).ok()
    name = bench.registry.ref("again")
    bench.tool("push", bench.big, name).ok()
    empty = [sys.executable, "-I", "-c", "pass"]
    return rounds(4 * count, {
        "unchanged pull": lambda _: bench.again("pull", bench.big),
        "unchanged push": lambda _: bench.again("push", bench.big, name),
        "an empty Python": lambda _: lambda: subprocess.run(empty, check=True),
    })  # fmt: skip


WORKLOADS = {"pull": pulls, "push": pushes, "unchanged": unchanged}


def show(times: Mapping[str, list[float]]) -> None:
    """Medians, and each as a multiple: ours divided by it."""
    ours = statistics.median(next(iter(times.values())))
    for name, found in times.items():
        middle = statistics.median(found)
        ratio = f"ours is {ours / middle:.2f} x that" if middle != ours else ""
        spread = f"{min(found):.2f} to {max(found):.2f}"
        print(f"{name:20} {middle:8.3f} s  ({spread}) {ratio}".rstrip(), flush=True)


def main() -> None:
    """Run the workloads that were named, or all."""
    parser = argparse.ArgumentParser(description="Measure pull and push against other tools.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=500, help="of the image to pull")
    parser.add_argument("--work", type=Path, help="a directory to work in and to use again")
    parser.add_argument("--json", type=Path, help="also write the seconds of each round here")
    parser.add_argument("workloads", nargs="*", help=", ".join(WORKLOADS))
    arguments = parser.parse_args()
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="ch-bench", ignore_cleanup_errors=True) as directory:
        work = arguments.work or Path(directory)
        work.mkdir(exist_ok=True)
        with world.running_registry(work / "registry") as registry:
            bench = Bench(work, registry, arguments.megabytes)
            for name in arguments.workloads or WORKLOADS:
                times = WORKLOADS[name](bench, arguments.rounds)
                show(times)
                found |= times
        subprocess.run(["chmod", "-R", "u+rwX", directory], check=False, capture_output=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
