"""Carries out effects: a draft of the parent's layers, the effect on it, a committed layer.

What only some effects need is imported there: a build of RUN alone waits for none of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

from ch_image.build import lookup
from ch_image.build.args import SANDBOX_HOSTNAME
from ch_image.build.effectors import Effectors, add_spec
from ch_image.build.effects import (
    AddEffect,
    CopyEffect,
    Effect,
    RsyncEffect,
    RunEffect,
    WorkdirEffect,
)
from ch_image.build.forcing import Forcing, Watch, prepare
from ch_image.build.options import BuildOptions
from ch_image.build.plan import Step
from ch_image.build.run import Ran, RunSettings
from ch_image.build.run import run as run_command
from ch_image.build.schedule import Cancel
from ch_image.errors import BuildError, StepFailed
from ch_image.fs import owners as records
from ch_image.fs.tree import Tree
from ch_image.report import Detail, Output, Reporter, Warned
from ch_image.sandbox.launcher import Launcher
from ch_image.sandbox.mounts import Operation
from ch_image.sandbox.plan import Plan as Container
from ch_image.storage.layers import Chain, LayerId
from ch_image.storage.snapshots.base import Draft, OwnersOfChains, Snapshotter
from ch_image.storage.store import Storage
from ch_image.typed import assert_never

Owners = dict[str, tuple[int, int]]


class Carrier:
    """Carries out the effects of one build; may be used from several threads."""

    def __init__(
        self,
        options: BuildOptions,
        storage: Storage,
        snapshotter: Callable[[], Snapshotter],
        effectors: Effectors,
        report: Reporter,
        cancel: Cancel,
        launcher: Launcher,
    ) -> None:
        self._options, self._storage, self._snapshotter = options, storage, snapshotter
        self._effectors, self._report, self._cancel = effectors, report, cancel
        self._launcher = launcher
        self._owners = OwnersOfChains(storage.layers)
        self._warned = False
        self.notifications = 0

    def carry_out(
        self, effect: Effect, step: Step, chain: Chain, chains: Sequence[Chain | None]
    ) -> LayerId:
        """Make the layer of ``effect`` on ``chain``. Raises what the effect raises."""
        snapshotter = self._snapshotter()
        draft = snapshotter.prepare(chain)
        try:
            owners = self._apply(effect, step, draft, chains)
            return snapshotter.commit(draft, owners)
        finally:
            snapshotter.discard(draft)

    def _apply(
        self, effect: Effect, step: Step, draft: Draft, chains: Sequence[Chain | None]
    ) -> Owners:
        match effect:
            case RunEffect():
                return self._run(effect, step, draft, chains)
            case CopyEffect():
                return self._copy(effect, step, draft, chains)
            case AddEffect():
                return self._add(effect, draft)
            case WorkdirEffect():
                return _workdir(effect, draft.root)
            case RsyncEffect():
                from ch_image.build.rsync import carry_out as rsync

                context = self._effectors.context()
                return rsync(effect, context, draft.root, self._storage, self._teller(step))
            case _:
                assert_never(effect)

    def _copy(
        self, effect: CopyEffect, step: Step, draft: Draft, chains: Sequence[Chain | None]
    ) -> Owners:
        from ch_image.build.copy import copy
        from ch_image.build.copyspec import spec_of

        source = self._effectors.source(step.origins[0], chains[0]) if effect.sources else None
        result = copy(spec_of(effect), source, draft.root, upper=draft.upper, now=self._now())
        self._lost("this file system keeps no user attributes" * bool(result.unrecorded))
        return result.owners

    def _add(self, effect: AddEffect, draft: Draft) -> Owners:
        from ch_image.build.add import add, choose

        spec = add_spec(effect)
        context = self._effectors.context_if_any(effect)
        chosen = choose(spec, context)
        at = self._now() or time.time_ns()
        result = add(spec, context, draft.root, chosen, self._effectors.remotes(effect), now=at)
        self._lost("this file system keeps no user attributes" * bool(result.unrecorded))
        return result.owners

    def _now(self) -> int | None:
        epoch = self._options.epoch
        return None if epoch is None else epoch * 1_000_000_000

    def _run(
        self, effect: RunEffect, step: Step, draft: Draft, chains: Sequence[Chain | None]
    ) -> Owners:
        options = self._options
        settings = RunSettings(
            options.force == "seccomp",
            options.binds,
            options.hosts,
            options.network,
            options.build_args.get(SANDBOX_HOSTNAME, ""),
            self._owners.of(draft.chain),
        )
        watch = Watch(self._teller(step))
        with self._mounts(effect, step, chains) as (operations, env):
            if env:
                effect = effect._replace(passed={**effect.passed, **env})

            def run(what: RunEffect) -> Ran:
                return run_command(
                    what, draft.root, settings, operations, self._launcher, watch, self._describe,
                    self._cancel,
                )  # fmt: skip

            try:
                prepare(effect, run, self._report)
                ran = run(effect)
            except StepFailed as fault:
                forcing = Forcing(options, self._snapshotter, self._report)
                raise forcing.explained(fault, draft.root, watch.seen) from None
        self.notifications += ran.notifications
        self._lost(ran.lost)
        return ran.owners

    def _mounts(
        self, effect: RunEffect, step: Step, chains: Sequence[Chain | None]
    ) -> AbstractContextManager[tuple[list[Operation], Mapping[str, str]]]:
        if not effect.mounts:
            return nullcontext(([], {}))
        from ch_image.build.run_mounts import RunMounts

        mounts = RunMounts(
            self._options, self._storage, self._snapshotter, self._effectors.source, self._cancel
        )
        return mounts.prepared(effect, step, chains)

    def _teller(self, step: Step) -> Callable[[str], None]:
        return lambda line: self._report(Output(step.line, step.stage_name, line))

    def _describe(self, plan: Container) -> None:
        if self._options.verbose:
            self._report(Detail("python3 -m ch_image.sandbox " + _shown(plan), 2))

    def _lost(self, why: str) -> None:
        if why and not self._warned:
            self._warned = True
            self._report(Warned(f"owners other than root are lost: {why}"))


def _shown(plan: Container) -> str:
    """The plan as a shell command; values of variables are left out, they may be secret."""
    import shlex

    words = plan.words()
    for n, word in enumerate(words):
        if word == "--":
            break
        if word in ("--setenv", "--file"):
            words[n + (2 if word == "--setenv" else 3)] = "..."
    return shlex.join(words)


def _workdir(effect: WorkdirEffect, root: str) -> Owners:
    """Make the directory and what is missing above it. Raises BuildError."""
    with Tree(root) as tree:
        uid, gid = lookup.identity(tree, effect.user)[:2] if effect.user else (0, 0)

        def own(fd: int, path: str) -> None:
            if (uid, gid) != (0, 0):
                records.write(fd, records.Recorded(uid, gid, 0o755, "dir"))

        try:
            tree.mkdirs(effect.path, 0o755, own)
        except (NotADirectoryError, FileExistsError):
            raise BuildError(f"{effect.path} is there already, and is no directory") from None
        except OSError as error:
            raise BuildError(f"cannot make {effect.path}: {error.strerror}") from None
    return {}
