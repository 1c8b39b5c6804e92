"""Measures ch-image beside other builders of this machine, in interleaved rounds.

    python tests/bench/compare.py [--rounds N] [--charliecloud PATH] [--json FILE] [--plot FILE.svg]

See README.md beside this file.
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
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import conftest
import peers
import plot
import world

Times = dict[str, list[float]]  # peer -> milliseconds of each round
GROWTH = (1, 5, 10, 20, 40, 80)


def dockerfile(context: Path, peer: peers.Peer, body: str) -> Path:
    """``context`` with a Dockerfile for that peer."""
    context.mkdir(exist_ok=True)
    (context / "Dockerfile").write_text(f"FROM {peer.base}\n{body}")
    return context


def runs(count: int) -> str:
    """So many RUNs that do nearly nothing."""
    return "".join(f"RUN touch /file{n}\n" for n in range(count))


def mixed(count: int) -> str:
    """Instructions of which half are RUNs."""
    return runs(count // 2) + "".join(f"ENV N{n}={n}\n" for n in range(count - count // 2 - 1))


def timed(work: Callable[[], object]) -> float:
    """Milliseconds that ``work`` took."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def rounds(count: int, tools: Sequence[peers.Peer], one: Callable[[peers.Peer], float]) -> Times:
    """Each in turn, so many times: what disturbs the machine disturbs all alike."""
    out: Times = {tool.name: [] for tool in tools}
    for _ in range(count):
        for tool in tools:
            out[tool.name].append(one(tool))
    return out


class Comparison:
    """Contexts in ``work``, one for each peer and workload."""

    def __init__(self, work: Path, tools: Sequence[peers.Peer], count: int) -> None:
        self.work, self.tools, self.count = work, tools, count

    def _context(self, tool: peers.Peer, name: str, body: str) -> Path:
        return dockerfile(self.work / f"{tool.name}-{name}", tool, body)

    def cold(self, name: str, body: str) -> Times:
        """Builds in which nothing is found."""
        return rounds(self.count, self.tools, lambda tool: self._cold(tool, name, body))

    def _cold(self, tool: peers.Peer, name: str, body: str) -> float:
        context = self._context(tool, name, body)
        return timed(lambda: tool.build(context, fresh=True))

    def warm(self, name: str, body: str, fill: Callable[[Path], None] | None = None) -> Times:
        """Builds in which all is found."""
        for tool in self.tools:
            context = self._context(tool, name, body)
            if fill:
                fill(context)
            for _ in range(2):
                tool.build(context, fresh=False)
        return rounds(self.count, self.tools, lambda tool: self._warm(tool, name))

    def _warm(self, tool: peers.Peer, name: str) -> float:
        context = self.work / f"{tool.name}-{name}"
        return timed(lambda: tool.build(context, fresh=False))

    def copied(self, name: str, fill: Callable[[Path], None]) -> Times:
        """COPY of many files into an image, and ``cp -a`` of them."""
        for tool in self.tools:
            fill(self._context(tool, name, "COPY . /srv\n"))
        out = rounds(self.count, self.tools, lambda tool: self._cold(tool, name, "COPY . /srv\n"))
        source = self.work / f"{self.tools[0].name}-{name}"
        out["cp -a"] = [timed(lambda: self._cp(source)) for _ in range(self.count)]
        return out

    def _cp(self, source: Path) -> None:
        target = self.work / f"cp-{time.monotonic_ns()}"
        subprocess.run(["cp", "-a", source, target], check=True)

    def listing(self) -> Times:
        """The list of images."""

        def one(tool: peers.Peer) -> float:
            words = [str(word) for word in tool.listing()]
            return timed(
                lambda: subprocess.run(words, check=True, env=tool.env, capture_output=True)
            )

        return rounds(self.count * 3, self.tools, one)

    def stages(self) -> Times:
        """Two stages that sleep; who runs them at once needs 3 s."""
        name, out = "stages", {}
        for tool in self.tools:
            body = (
                f"RUN sleep 3; :>/a\nFROM {tool.base}\nRUN sleep 3; :>/b\n"
                f"FROM {tool.base}\nCOPY --from=0 /a /\nCOPY --from=1 /b /\n"
            )
            out[tool.name] = [self._cold(tool, name, body)]
        return out


def small_files(context: Path) -> None:
    """20,000 files of about 1 KiB."""
    for n in range(200):
        (context / f"d{n}").mkdir(exist_ok=True)
        for m in range(100):
            (context / f"d{n}/f{m}").write_text(f"{n} {m} " * 128)


def table(name: str, times: Times) -> list[str]:
    """A line for each: median, and how many times as long as ours it took."""
    ours = statistics.median(times["ch-image"])
    lines = []
    for tool, values in times.items():
        middle = statistics.median(values)
        lines.append(f"{name:28} {tool:14} {middle:10.1f} {middle / ours:8.2f}")
    return lines


def main() -> None:
    """Run everything and show it."""
    parser = argparse.ArgumentParser(description="Measure ch-image beside other builders.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--charliecloud", default="", help="path of Charliecloud's ch-image")
    parser.add_argument("--json", type=Path, help="write all times here")
    parser.add_argument("--plot", type=Path, help="write the growth curves here, as SVG")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ch-bench", ignore_cleanup_errors=True) as name:
        work = Path(name)
        base = world.make_base_image(work / "base")
        with world.running_registry(work / "registry") as registry:
            ref = registry.push(base.source, "busybox:latest")
            tools, others = peers.found(work / "peers", ref, base.tree, arguments.charliecloud)
            for why in others:
                print(f"left out, {why}")
            results, growth = measure(Comparison(work, tools, arguments.rounds))
            for tool in tools:
                tool.close()
        conftest.remove_tree(work / "peers")
    if arguments.json:
        machine = {"processors": os.cpu_count(), "kernel": os.uname().release}
        value = {"machine": machine, "milliseconds": results, "growth": growth}
        arguments.json.write_text(json.dumps(value, indent=1) + "\n")
    if arguments.plot:
        arguments.plot.write_text(plot.curves(growth, "RUN steps, cold", "seconds"))


def measure(comparison: Comparison) -> tuple[dict[str, Times], dict[str, list[list[float]]]]:
    """All times in milliseconds, and per tool [steps, seconds] of cold builds."""
    workloads: dict[str, Callable[[], Times]] = {
        "list": comparison.listing,
        "no-op rebuild, 20": lambda: comparison.warm("noop20", mixed(20)),
        "no-op rebuild, 100": lambda: comparison.warm("noop100", mixed(100)),
        "no-op, COPY of 20,000 files": lambda: comparison.warm(
            "files", "COPY . /srv\n", small_files
        ),
        "30 x RUN touch, cold": lambda: comparison.cold("runs", runs(30)),
        "COPY of 20,000 files, cold": lambda: comparison.copied("copy", small_files),
        "two stages of sleep 3": comparison.stages,
    }
    print(f"{'median milliseconds':28} {'tool':14} {'time':>10} {'x ours':>8}")
    results = {}
    for name, work in workloads.items():
        results[name] = work()
        print("\n".join(table(name, results[name])), flush=True)
    growth: dict[str, list[list[float]]] = {tool.name: [] for tool in comparison.tools}
    for steps in GROWTH:
        for tool, values in comparison.cold(f"grow{steps}", runs(steps)).items():
            growth[tool].append([steps, statistics.median(values) / 1000])
    return results, growth


if __name__ == "__main__":
    main()
