"""What `compare.py` times: contexts made for each tool, then builds in interleaved rounds."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import conftest
import peers

MB = 1 << 20
MANY, BIG = 20_000, 1024 * MB
Fill = Callable[[Path], None]
EMPTY = ("/usr/bin/python3", "-IS", "-c", "pass")  # what milliseconds are worth on this machine


class Outcome(NamedTuple):
    """``times``: tool -> milliseconds of each round. ``yardstick`` is one of the tools.

    ``bar`` is what ours may take: so many times the yardstick, or milliseconds without one.
    """

    times: dict[str, list[float]]
    bar: float = 0
    yardstick: str = ""
    unit: str = "ms"
    busy: dict[str, list[float]] = {}  # processor time of the yardstick


class Command:
    """A yardstick: a command whose time is taken, and its processor time, too."""

    def __init__(self, *words: object) -> None:
        self.words = [str(word) for word in words]
        self.busy: list[float] = []

    def __call__(self) -> float:
        before = _children()
        took = timed(lambda: subprocess.run(self.words, check=True, stdout=subprocess.DEVNULL))
        self.busy.append((_children() - before) * 1000)
        return took


def _python() -> dict[str, Callable[[], float]]:
    return {"empty Python": Command(*EMPTY)}


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def timed(work: Callable[[], object]) -> float:
    """Milliseconds that ``work`` took."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def runs(count: int) -> str:
    """So many RUNs that do nearly nothing."""
    return "".join(f"RUN touch /file{n}\n" for n in range(count))


def mixed(count: int) -> str:
    """Instructions of which half are RUNs."""
    return runs(count // 2) + "".join(f"ENV N{n}={n}\n" for n in range(count - count // 2 - 1))


def small_files(context: Path) -> None:
    """20,000 files of about 1 KiB."""
    for n in range(200):
        (context / f"d{n}").mkdir(exist_ok=True)
        for m in range(MANY // 200):
            (context / f"d{n}/f{m}").write_text(f"{n} {m} " * 128)


def big_files(context: Path) -> None:
    """1 GiB in 20 files."""
    for n in range(20):
        with open(context / f"b{n}", "wb") as file:
            left = BIG // 20
            while left > 0:
                left -= file.write(os.urandom(min(left, MB)))


class Bench:
    """Contexts in ``work``, one for each tool and workload."""

    def __init__(self, work: Path, tools: Sequence[peers.Peer], rounds: int) -> None:
        self.work, self.tools, self.rounds = work, tools, rounds

    def context(self, tool: peers.Peer, name: str, body: str) -> Path:
        """A context with a Dockerfile for that tool."""
        path = self.work / f"{tool.name}-{name}"
        path.mkdir(exist_ok=True)
        (path / "Dockerfile").write_text(f"FROM {tool.base}\n{body}")
        return path

    def in_turn(
        self, one: Callable[[peers.Peer], float], rounds: int = 0, **others: Callable[[], float]
    ) -> dict[str, list[float]]:
        """Each once a round: what disturbs the machine disturbs all alike.

        What others left to be written is on disk before ours begins, which ends with a sync of the
        file system, and would pay for it.
        """
        out: dict[str, list[float]] = {tool.name: [] for tool in self.tools}
        out |= {name: [] for name in others}
        for _ in range(rounds or self.rounds):
            for tool in self.tools:
                out[tool.name].append(one(tool))
                if not isinstance(tool, peers.Ours):
                    os.sync()
            for name, other in others.items():
                out[name].append(other())
            if "cp" in others:
                os.sync()
        return out

    def build(self, tool: peers.Peer, name: str, *, fresh: bool) -> float:
        """Milliseconds of one build."""
        return timed(lambda: tool.build(self.work / f"{tool.name}-{name}", fresh=fresh))

    def listing(self) -> Outcome:
        """The list of ten images."""
        for tool in self.tools:
            for n in range(10):
                tool.build(self.context(tool, f"image{n}", f"ENV N={n}\n"), fresh=False)
        times = self.in_turn(
            lambda t: timed(lambda: t.run(t.listing())), self.rounds * 3, **_python()
        )
        return Outcome(times, 1, "buildah") if "buildah" in times else Outcome(times)

    def no_op(self, count: int, bar: float) -> Outcome:
        """All of so many instructions are in the cache."""
        self._warm(f"noop{count}", mixed(count))
        times = self.in_turn(lambda t: self.build(t, f"noop{count}", fresh=False), **_python())
        return Outcome(times, bar)

    def no_op_copy(self, name: str, fill: Fill) -> Outcome:
        """A COPY of many bytes that have not changed, beside a look at the files' times."""
        self._warm(name, "COPY . /srv\n", fill)
        source = self.work / f"{self.tools[0].name}-{name}"
        find = Command("find", source, "-printf", "%s %T@")
        times = self.in_turn(lambda t: self.build(t, name, fresh=False), find=find)
        # Of few files, what starting Python takes is all there is to see.
        return Outcome(times, 3 * (fill is small_files), "find", busy={"find": find.busy})

    def _warm(self, name: str, body: str, fill: Fill | None = None) -> None:
        for tool in self.tools:
            context = self.context(tool, name, body)
            if fill:
                fill(context)
            for _ in range(2):
                tool.build(context, fresh=False)

    def cold(self, name: str, body: str, bar: float = 0) -> Outcome:
        """Nothing is found."""
        for tool in self.tools:
            self.context(tool, name, body)
        others = _python() if bar else {}
        return Outcome(self.in_turn(lambda t: self.build(t, name, fresh=True), **others), bar)

    def cold_copy(self, name: str, fill: Fill, bar: float) -> Outcome:
        """A COPY without the steps in the cache, whose files were read before, and ``cp -a``."""
        self._warm(name, "COPY . /srv\n", fill)
        source = self.work / f"{self.tools[0].name}-{name}"

        target = self.work / "cp"
        copy = Command("cp", "-a", source, target)

        def cp() -> float:
            took = copy()
            conftest.remove_tree(target)
            return took

        times = self.in_turn(lambda t: self.build(t, name, fresh=True), cp=cp)
        return Outcome(times, bar, "cp", busy={"cp": copy.busy})

    def stages(self) -> Outcome:
        """Two stages that sleep; who runs them at once needs 3 s."""
        for tool in self.tools:
            body = (
                f"RUN sleep 3; :>/a\nFROM {tool.base}\nRUN sleep 3; :>/b\n"
                f"FROM {tool.base}\nCOPY --from=0 /a /\nCOPY --from=1 /b /\n"
            )
            self.context(tool, "stages", body)
        return Outcome(self.in_turn(lambda t: self.build(t, "stages", fresh=True), 1), 3300)

    def last_copy(self, size: int) -> Outcome:
        """The last COPY on an image of ``size`` bytes changes each time."""
        name = self._with_last_copy(size)

        def one(tool: peers.Peer) -> float:
            (self.work / f"{tool.name}-{name}" / "f").write_text(str(time.time_ns()))
            return self.build(tool, name, fresh=False)

        return Outcome(self.in_turn(one, self.rounds * 2))

    def _with_last_copy(self, size: int) -> str:
        name = f"change{size // MB}"
        body = f"RUN head -c {size} /dev/urandom > /big\nCOPY f /f\n"
        for tool in self.tools:
            (self.context(tool, name, body) / "f").write_text("0")
            tool.build(self.work / f"{tool.name}-{name}", fresh=False)
        return name

    def storage_growth(self) -> Outcome:
        """Bytes that five rebuilds add, each with another file of 4 KiB on an image of 500 MB."""
        name = self._with_last_copy(500 * MB)
        out: dict[str, list[float]] = {}
        for tool in self.tools:
            before = tool.stored()
            for _ in range(5 * bool(before)):
                context = self.work / f"{tool.name}-{name}"
                (context / "f").write_bytes(os.urandom(4096))
                tool.build(context, fresh=False)
            if before:
                out[tool.name] = [float(tool.stored() - before)]
        return Outcome(out, 5 * 4096 + MB, unit="bytes")


def table(
    name: str, outcome: Outcome, peaks: dict[str, int], busy: dict[str, list[float]]
) -> list[str]:
    """A line for each: median, ratio to ours, processor time, memory; ours is judged."""
    busy = busy | outcome.busy
    ours = statistics.median(outcome.times["ch-image"])
    lines = []
    for tool, values in outcome.times.items():
        middle = statistics.median(values)
        memory = f"{peaks[tool] >> 20:5d} MB" if peaks.get(tool) else ""
        times = f"{middle / ours:8.2f}" if ours else " " * 8
        cpu = f"{statistics.median(busy[tool]):9.1f}" if busy.get(tool) else " " * 9
        lines.append(f"{name:28} {tool:14} {middle:10.1f} {times} {cpu} {memory:9} ")
        if tool == "ch-image" and outcome.bar:
            lines[-1] += _verdict(outcome, ours)
    return lines


def _verdict(outcome: Outcome, ours: float) -> str:
    if not outcome.yardstick:
        ratio, what = ours / outcome.bar, f"{outcome.bar:g} {outcome.unit}"
    else:
        pairs = zip(outcome.times["ch-image"], outcome.times[outcome.yardstick], strict=True)
        ratio = statistics.median(a / b for a, b in pairs) / outcome.bar
        what = f"{outcome.bar:g} x {outcome.yardstick} ({ratio * outcome.bar:.2f})"
    return f"{'OVER' if ratio > 1 else 'within'} {what}"
