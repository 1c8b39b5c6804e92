"""RUN: a container over a draft tree, its output line by line, its result."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Mapping, Sequence

from ch_image.build import lookup
from ch_image.build.effects import RunEffect
from ch_image.build.schedule import Cancel
from ch_image.errors import BuildError, StepFailed
from ch_image.fs.tree import Tree
from ch_image.sandbox import container
from ch_image.sandbox.launcher import Container, Launcher, Result
from ch_image.sandbox.mounts import Bind, File, Operation, remove_stubs
from ch_image.sandbox.plan import Identity, Plan
from ch_image.typed import NamedTuple

_MAX_LINE = 1 << 16  # bytes of one line of output before it is broken


class Cancelled(Exception):
    """The build ends for another reason; this step's own fate does not matter."""


class RunSettings(NamedTuple):
    """What the command line says about every RUN."""

    emulate: bool
    binds: Sequence[tuple[str, str]] = ()
    hosts: Sequence[tuple[str, str]] = ()
    network: str = "default"
    hostname: str = ""
    owners: Mapping[str, tuple[int, int]] = {}  # of links, FIFOs and sockets in the layers below


class Ran(NamedTuple):
    """How a RUN that succeeded went; ``owners`` are those of links, FIFOs and sockets."""

    owners: dict[str, tuple[int, int]]
    notifications: int
    lost: str  # why owners could not be recorded, empty when they were


def run(
    effect: RunEffect,
    root: str,
    settings: RunSettings,
    mounts: Sequence[Operation],
    launcher: Launcher,
    tell: Callable[[str], None],
    describe: Callable[[Plan], None],
    cancel: Cancel,
) -> Ran:
    """Run the command in the tree at ``root``. Raises StepFailed, SandboxError, Cancelled.

    ``tell`` is called with each line of output, ``describe`` with the plan before it starts.
    """
    plan = plan_of(effect, root, settings)
    plan.operations += mounts
    describe(plan)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    nothing = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    try:
        started = launcher.launch(plan, nothing, writer, writer)
    finally:
        os.close(writer)
        os.close(nothing)
    try:
        result = _follow(started, reader, tell, cancel)
    finally:
        started.kill()
        os.close(reader)
    remove_stubs(root, result.made)
    if result.problem is not None:
        raise result.problem
    if result.code:
        raise _failure(result.code)
    return Ran(result.owners, result.notifications, result.lost)


def plan_of(effect: RunEffect, root: str, settings: RunSettings) -> Plan:
    """The container that ``effect`` asks for, without its own mounts. Raises BuildError."""
    plan = Plan(root, list(effect.argv))
    network = effect.network if effect.network != "default" else settings.network
    if network == "none":
        plan.namespaces.append("net")
    plan.hostname = settings.hostname or container.HOSTNAME
    plan.operations = container.operations(
        hosts=list(settings.hosts), network=network != "none", hostname=plan.hostname
    )
    plan.operations += [Bind(source, target) for source, target in settings.binds]
    plan.operations += [File(f.path, f.data, f.mode) for f in effect.files]
    plan.cwd = effect.cwd
    plan.emulate = settings.emulate
    plan.owners = [(path, *owner) for path, owner in settings.owners.items()]
    who = _who(root, effect.user)
    plan.identity = Identity(who.uid, who.gid, (who.gid, *who.groups))
    if not settings.emulate and (who.uid, who.gid) != (0, 0):
        raise BuildError(f"USER {effect.user} needs root emulation", hint="leave out --force=none")
    plan.env = {"HOME": who.home if effect.user else "/root", **effect.passed, **effect.env}
    return plan


def _who(root: str, user: str) -> lookup.Identity:
    """Whom the command runs as; root too is in the groups that the image lists it in."""
    with Tree(root) as tree:
        try:
            return lookup.identity(tree, user)
        except BuildError:
            if user:
                raise
            return lookup.Identity(0, 0)  # files that cannot be read matter only to USER


def _failure(code: int) -> StepFailed:
    if code < 0:
        return StepFailed(f"RUN command was killed by signal {-code}", code=128 - code)
    hint = ""
    if code == 127:
        hint = "127 from a shell means: command not found"
    elif code == 126:
        hint = "126 from a shell means: found, but not executable"
    return StepFailed(f"RUN command exited with {code}", code=code, hint=hint)


def _follow(started: Container, reader: int, tell: Callable[[str], None], cancel: Cancel) -> Result:
    """Read output and result as they come, so that neither pipe ever fills up."""
    lines = _Lines(tell)
    poll = select.poll()
    for fd in (reader, started.reader, cancel.fd):
        poll.register(fd, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == cancel.fd:
                raise Cancelled
            if fd == reader:
                data = os.read(reader, 1 << 16)
                if data:
                    lines.feed(data)
                else:
                    poll.unregister(reader)
            elif started.read_some():
                for rest in iter(lambda: os.read(reader, 1 << 16), b""):
                    lines.feed(rest)
                lines.end()
                return started.result()


class _Lines:
    """Cuts a stream of bytes into lines of text; a carriage return starts its line anew."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Tell the lines that are complete."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            self._one(line)
        while len(self._rest) > _MAX_LINE:
            self._one(self._rest[:_MAX_LINE])
            self._rest = self._rest[_MAX_LINE:]

    def end(self) -> None:
        """Tell what has no line end."""
        if self._rest:
            self._one(self._rest)
            self._rest = b""

    def _one(self, line: bytes) -> None:
        text = line.rstrip(b"\r").rpartition(b"\r")[2]
        self._tell(text.decode("utf-8", "replace"))
