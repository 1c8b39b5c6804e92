"""Measures ch-image against the budgets of its design; prints a table, writes JSON with --json.

    python tests/bench/run.py [--json FILE] [WORKLOAD...]

Each workload is timed beside a yardstick in the same run, both as medians, since machines differ
and a ratio says more than a number. Nothing here fails: budgets are for people to look at.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import conftest
import dockerfiles
import world


class Figure(NamedTuple):
    """Milliseconds: what ours took, what the yardstick took, and the budget (0: none)."""

    workload: str
    ours: float
    yardstick: float
    what: str
    budget: float
    note: str = ""


class Bench:
    """A storage directory with a busybox image in it, made once for all workloads."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.base = world.make_base_image(work / "base")
        self.tool = world.Tool(work / "storage", work)
        context = work / "import"
        context.mkdir()
        (context / "layer.tar").write_bytes(self.base.tar.read_bytes())
        # What a RUN mounts on is there, as in a distribution; else each makes it for itself.
        lines = ("FROM scratch", "ADD layer.tar /", "COPY hosts resolv.conf /etc/", "WORKDIR /sys")
        (context / "hosts").touch()
        (context / "resolv.conf").touch()
        (context / "Dockerfile").write_text("\n".join((*lines, "WORKDIR /", "ENV PATH=/bin", "")))
        self.tool("build", "-t", "busybox", context).ok()

    def context(self, name: str, dockerfile: str) -> Path:
        """A build context with only a Dockerfile."""
        path = self.work / name
        path.mkdir(exist_ok=True)
        (path / "Dockerfile").write_text(dockerfile)
        return path

    def build(self, context: Path, *options: str) -> float:
        """Milliseconds of one build."""
        return timed(lambda: self.tool("build", "-t", context.name, *options, context).ok())


def timed(work: Callable[[], object]) -> float:
    """Milliseconds that `work` took."""
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1000


def median(work: Callable[[], object], times: int = 5) -> float:
    """The median of several runs, in milliseconds, after one that warms up."""
    work()
    return statistics.median(timed(work) for _ in range(times))


def empty_python() -> float:
    """What starting and ending Python costs here."""
    return median(lambda: subprocess.run([sys.executable, "-I", "-c", "pass"], check=True))


def run_overhead(bench: Bench) -> Figure:
    """100 x `RUN true`: milliseconds a step, against fork and exec of the same program."""
    steps = 100
    lines = "".join(f'RUN ["/bin/true", "{n}"]\n' for n in range(steps))
    none = bench.context("none", "FROM busybox\nENV X=1\n")
    many = bench.context("many", "FROM busybox\nENV X=1\n" + lines)
    floor = min(bench.build(none, "--rebuild") for _ in range(3))
    each = (min(bench.build(many, "--rebuild") for _ in range(2)) - floor) / steps
    true = str(bench.base.tree / "bin/true")
    plain = median(lambda: subprocess.run([true], check=True), 50)
    return Figure("RUN true, each of 100", each, plain, "fork+exec true", plain + 10)


def parsed(bench: Bench) -> Figure:
    """`--parse-only` of 1,000 instructions, whole process: Python, lark and the grammar too."""
    context = bench.context("long", dockerfiles.long(1000))
    ours = median(lambda: bench.tool("build", "--parse-only", context).ok())
    return Figure("parse 1,000 instructions", ours, empty_python(), "empty Python", 300)


def no_op(bench: Bench, instructions: int, budget: float) -> Figure:
    """A build with nothing to do, whole process."""
    lines = "".join(f"RUN echo {n} > /f{n % 7}\n" for n in range(instructions // 2))
    lines += "".join(f"ENV N{n}={n}\n" for n in range(instructions - instructions // 2 - 1))
    context = bench.context(f"noop{instructions}", "FROM busybox\n" + lines)
    ours = median(lambda: bench.build(context))
    return Figure(f"no-op rebuild, {instructions}", ours, empty_python(), "empty Python", budget)


def many_files(bench: Bench) -> Figure:
    """A build with nothing to do over a context of 20,000 files."""
    context = bench.context("files", "FROM busybox\nCOPY . /srv\n")
    for n in range(200):
        (context / f"d{n}").mkdir()
        for m in range(100):
            (context / f"d{n}/f{m}").write_text(f"{n} {m}")
    ours = median(lambda: bench.build(context))
    find = median(lambda: subprocess.run(
        ["find", str(context), "-printf", "%p %s %T@\n"], stdout=subprocess.DEVNULL, check=True
    ))  # fmt: skip
    return Figure("no-op rebuild, COPY of 20,000", ours, find, "find -printf", 2 * find)


def commit(bench: Bench) -> Figure:
    """A RUN that writes 500 MB, against the same shell command on the host."""
    command = "dd if=/dev/zero of={} bs=1M count=500 2>/dev/null"
    context = bench.context("big", f"FROM busybox\nRUN {command.format('/big')}\n")
    ours = min(bench.build(context, "--rebuild") for _ in range(3))
    target = bench.work / "big-plain"
    plain = min(
        timed(lambda: subprocess.run(command.format(target), shell=True, check=True))
        for _ in range(3)
    )
    return Figure("RUN that writes 500 MB", ours, plain, "the command alone", plain + 150)


def pulled(bench: Bench) -> Figure:
    """A pull from a local registry, against skopeo and GNU tar on the same blobs."""
    source = world.write_layout
    tree = bench.context("tree", "")
    for n in range(100):
        (tree / f"d{n}").mkdir()
        for m in range(60):
            (tree / f"d{n}/f{m}").write_bytes(os.urandom(4096) * 4)
    tar = subprocess.check_output(["tar", "-C", str(tree), "-c", "."])
    layout = bench.work / "pull-layout"
    source(layout, [tar])
    with world.running_registry(bench.work / "registry") as registry:
        ref = registry.push(f"oci:{layout}:latest", "big:latest")
        blob = max((layout / "blobs/sha256").iterdir(), key=lambda p: p.stat().st_size)

        def pull() -> float:
            tool = world.Tool(bench.work / f"pull{time.monotonic_ns()}", bench.work)
            took = timed(lambda: tool("pull", ref).ok())
            conftest.remove_tree(tool.storage)
            return took

        def untar() -> float:
            out = bench.work / f"untar{time.monotonic_ns()}"
            out.mkdir()
            return timed(lambda: subprocess.run(["tar", "-C", out, "-xzf", blob], check=True))

        ours, plain = (statistics.median(f() for _ in range(3)) for f in (pull, untar))
    return Figure("pull, 6,000 files, 100 MB", ours, plain, "tar -xzf of the blob", 0)


def small(bench: Bench, *words: str) -> Figure:
    """A command that only reads records, whole process."""
    ours = median(lambda: bench.tool(*words).ok(), 15)
    return Figure(" ".join(words), ours, empty_python(), "empty Python", 40)


def in_image(bench: Bench) -> Figure:
    """`ch-run IMAGE -- true`, whole process."""
    ours = median(lambda: bench.tool.run("ch-run", "busybox", "--", "/bin/true").ok(), 15)
    return Figure("ch-run -- true", ours, empty_python(), "empty Python", 0)


WORKLOADS: dict[str, Callable[[Bench], Figure]] = {
    "storage-path": lambda bench: small(bench, "storage-path"),
    "list": lambda bench: small(bench, "list"),
    "ch-run": in_image,
    "run": run_overhead,
    "parse": parsed,
    "noop20": lambda bench: no_op(bench, 20, 80),
    "noop100": lambda bench: no_op(bench, 100, 120),
    "files": many_files,
    "commit": commit,
    "pull": pulled,
}


def show(figure: Figure) -> str:
    """One line of the table."""
    over = " OVER" if figure.budget and figure.ours > figure.budget else ""
    budget = f"{figure.budget:9.1f}" if figure.budget else "        -"
    return (
        f"{figure.workload:30} {figure.ours:9.1f} {budget} {figure.yardstick:9.1f} "
        f"{figure.what}{over}{figure.note}"
    )


def main() -> None:
    """Run the workloads that were named, or all."""
    parser = argparse.ArgumentParser(description="Measure ch-image against its budgets.")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("workloads", nargs="*", help=", ".join(WORKLOADS))
    arguments = parser.parse_args()
    figures = []
    with tempfile.TemporaryDirectory(prefix="ch-bench", ignore_cleanup_errors=True) as directory:
        bench = Bench(Path(directory))
        print(f"{'milliseconds':30} {'ours':>9} {'budget':>9} {'yardstick':>9}")
        for name in arguments.workloads or WORKLOADS:
            figures.append(WORKLOADS[name](bench))
            print(show(figures[-1]), flush=True)
        conftest.remove_tree(bench.work / "storage")
    if arguments.json:
        arguments.json.write_text(json.dumps([f._asdict() for f in figures], indent=1) + "\n")


if __name__ == "__main__":
    main()
