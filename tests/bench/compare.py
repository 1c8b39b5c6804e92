"""Measures ch-image beside other builders of this machine, in interleaved rounds.

    python tests/bench/compare.py [--rounds N] [--charliecloud PATH] [--json FILE]
                                  [--plot FILE.svg] [WORKLOAD...]

See README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing import Process
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import conftest
import peers
import plot
import workloads
import world
from workloads import MB, Bench, Outcome

GROWTH = (1, 5, 10, 20, 40, 80)
WORKLOADS: dict[str, tuple[str, Callable[[Bench], Outcome]]] = {
    "list": ("list of 10 images", lambda b: b.listing()),
    "noop20": ("no-op rebuild, 20", lambda b: b.no_op(20, 80)),
    "noop100": ("no-op rebuild, 100", lambda b: b.no_op(100, 120)),
    "runs": (
        "30 x RUN touch, cold",
        lambda b: b.cold("runs", workloads.runs(30), 30 * 15),
    ),
    "small": (
        "no-op, COPY of 20,000 files",
        lambda b: b.no_op_copy("small", workloads.small_files),
    ),
    "small-cold": (
        "COPY of 20,000 files, cold",
        lambda b: b.cold_copy("small", workloads.small_files, 1.5),
    ),
    "big": ("no-op, COPY of 1 GiB", lambda b: b.no_op_copy("big", workloads.big_files)),
    "big-cold": (
        "COPY of 1 GiB, cold",
        lambda b: b.cold_copy("big", workloads.big_files, 1.2),
    ),
    "stages": ("two stages of sleep 3", lambda b: b.stages()),
    "change5": ("last COPY on 5 MB", lambda b: b.last_copy(5 * MB)),
    "change500": ("last COPY on 500 MB", lambda b: b.last_copy(500 * MB)),
    "growth": ("storage of 5 rebuilds, bytes", lambda b: b.storage_growth()),
}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure ch-image beside other builders.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--base", type=Path, help="a tar file to build on, instead of busybox")
    parser.add_argument("--charliecloud", default="", help="path of Charliecloud's ch-image")
    parser.add_argument("--without", default="", help="tools to leave out, with commas between")
    parser.add_argument("--json", type=Path, help="write all times here")
    parser.add_argument("--plot", type=Path, help="write the growth curves here, as SVG")
    parser.add_argument("workloads", nargs="*", help=", ".join(WORKLOADS))
    return parser.parse_args()


def main() -> None:
    """Run everything and show it."""
    given = arguments()
    with tempfile.TemporaryDirectory(prefix="ch-bench", ignore_cleanup_errors=True) as name:
        work = Path(name)
        tree = given.base or world.make_base_image(work / "base").tree
        tar = given.base or work / "base/layer.tar"
        with world.running_registry(work / "registry") as registry:
            # In a process of its own: a command never seems to need less than who starts it.
            layout = Process(target=_write_layout, args=(work / "layout", tar))
            layout.start()
            layout.join()
            ref = registry.push(f"oci:{work / 'layout'}:latest", "busybox:latest")
            without = given.without.split(",")
            tools, others = peers.found(work / "peers", ref, tree, given.charliecloud, without)
            for why in others:
                print(f"left out, {why}")
            try:
                bench = Bench(work, tools, given.rounds)
                results = measure(bench, given.workloads or list(WORKLOADS))
                growth = grown(bench) if given.plot else {}
            finally:
                for tool in tools:
                    tool.close()
        conftest.remove_tree(work / "peers")
    if given.json:
        machine = {"processors": os.cpu_count(), "kernel": os.uname().release}
        value = {"machine": machine, "results": results, "growth": growth}
        given.json.write_text(json.dumps(value, indent=1) + "\n")
    if given.plot:
        given.plot.write_text(plot.curves(growth, "RUN steps, cold", "seconds"))


def _write_layout(path: Path, tar: Path) -> None:
    # buildah counts layers by the history.
    world.write_layout(path, [tar.read_bytes()], history=True)


def measure(bench: Bench, names: Sequence[str]) -> dict[str, object]:
    """All workloads of ``names``: their times, and the memory of each tool's largest process."""
    print(
        f"{'median milliseconds':28} {'tool':14} {'time':>10} {'x ours':>8} {'cpu':>9} {'memory':9}"
    )
    results: dict[str, object] = {}
    for name in names:
        title, work = WORKLOADS[name]
        for tool in bench.tools:
            tool.peak, tool.cpu = 0, []
        outcome = work(bench)
        peaks = {tool.name: tool.peak for tool in bench.tools}
        busy = {tool.name: tool.cpu[-len(outcome.times[tool.name]) :] for tool in bench.tools}
        results[title] = {**outcome._asdict(), "peak bytes": peaks, "processor": busy}
        print("\n".join(workloads.table(title, outcome, peaks, busy)), flush=True)
    return results


def grown(bench: Bench) -> dict[str, list[list[float]]]:
    """Per tool [steps, seconds] of cold builds."""
    growth: dict[str, list[list[float]]] = {tool.name: [] for tool in bench.tools}
    for steps in GROWTH:
        outcome = bench.cold(f"grow{steps}", workloads.runs(steps))
        for tool, values in outcome.times.items():
            growth[tool].append([steps, statistics.median(values) / 1000])
    return growth


if __name__ == "__main__":
    main()
