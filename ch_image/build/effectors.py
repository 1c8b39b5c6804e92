"""Carries out effects: a draft of the parent's layers, the effect on it, a committed layer."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import assert_never

from ch_image.build import lookup
from ch_image.build.add import AddSpec, add, identity
from ch_image.build.add import choose as choose_added
from ch_image.build.context import Context
from ch_image.build.copy import CopySpec, Document, choose
from ch_image.build.copy import content as copy_content
from ch_image.build.copy import copy as copy_files
from ch_image.build.effects import (
    AddEffect,
    CopyEffect,
    Effect,
    RsyncEffect,
    RunEffect,
    WorkdirEffect,
)
from ch_image.build.inputs import Inputs
from ch_image.build.key import name_files
from ch_image.build.options import BuildOptions
from ch_image.build.origins import ContextOrigin, Origin
from ch_image.build.plan import Step
from ch_image.build.remote import Remotes, is_remote
from ch_image.build.run import RunSettings
from ch_image.build.run import run as run_command
from ch_image.build.schedule import Cancel
from ch_image.build.source import ImageSource, Source
from ch_image.errors import BuildError
from ch_image.fs import owners as records
from ch_image.fs.tree import Tree
from ch_image.report import Detail, Output, Reporter, Warned
from ch_image.sandbox.launcher import Launcher
from ch_image.sandbox.plan import Plan as Container
from ch_image.storage.layers import Chain, LayerId
from ch_image.storage.snapshots.base import Draft, Snapshotter, merged_owners
from ch_image.storage.store import Storage

Owners = dict[str, tuple[int, int]]
_PATH = "/usr/local/bin:/usr/bin:/bin"  # where git is looked for, on the host


class Effectors:
    """What the effects of one build share. ``carry_out`` may be called from several threads."""

    def __init__(
        self,
        options: BuildOptions,
        storage: Storage,
        snapshotter: Callable[[], Snapshotter],
        inputs: Inputs,
        report: Reporter,
        cancel: Cancel,
    ) -> None:
        self._options, self._storage, self._snapshotter = options, storage, snapshotter
        self._inputs, self._report, self._cancel = inputs, report, cancel
        self._launcher = Launcher()
        self._stack = ExitStack()
        self._fetched: dict[AddEffect, Remotes] = {}
        self._warned = False
        self.notifications = 0

    def close(self) -> None:
        """End the container server."""
        self._launcher.close()
        self._stack.close()

    # -- what an effect reads --

    def content(
        self, effect: Effect, origins: Sequence[Origin | None], chains: Sequence[Chain | None]
    ) -> Mapping[str, str]:
        """Digests of what the effect reads, by the name the user gave it. Raises BuildError."""
        match effect:
            case CopyEffect():
                if not effect.sources:
                    return {}
                source = self._source(origins[0], chains[0])
                owners = chains[0] is not None and not effect.chown
                files = _copy_spec(effect)
                found = copy_content(files, source, owners=owners, memo=self._inputs.memo)
                return {" ".join(effect.sources): found}
            case AddEffect():
                spec = _add_spec(effect)
                context = self._context_if_any(effect)
                chosen_all = choose_added(spec, context)
                found = identity(chosen_all, context, self._remotes(effect))
                return {" ".join(effect.sources): found} if effect.sources else {}
            case RunEffect():
                from ch_image.build.run_mounts import mount_content

                return mount_content(effect, origins, chains, self._source, self._inputs.memo)
            case RsyncEffect():
                from ch_image.build.rsync import content as rsync_content

                return rsync_content(effect, self._inputs.context())
            case WorkdirEffect():
                return {}
            case _:
                assert_never(effect)

    def files(
        self, effect: Effect, origins: Sequence[Origin | None], chains: Sequence[Chain | None]
    ) -> Mapping[str, str]:
        """Inputs for a step's record that name the files behind its ``content``."""
        from ch_image.build.named import named_files

        found: dict[str, str] = {}
        match effect:
            case CopyEffect() if effect.sources:
                source = self._source(origins[0], chains[0])
                if not isinstance(source, ImageSource) or source.contents:
                    found = named_files(source, choose(_copy_spec(effect), source))
            case AddEffect():
                context = self._context_if_any(effect)
                if context is not None:
                    for _, selection in choose_added(_add_spec(effect), context):
                        found |= named_files(context, selection) if selection else {}
            case RunEffect() if effect.mounts:
                from ch_image.build.run_mounts import mount_files

                found = mount_files(effect, origins, chains, self._source)
            case _:
                pass
        return name_files(found)

    def _source(self, origin: Origin | None, chain: Chain | None) -> Source:
        if chain is not None:
            return self._inputs.tree(chain)
        if isinstance(origin, ContextOrigin):
            return self._inputs.named(origin.name)
        return self._inputs.context()

    # -- what an effect does --

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
                source = None
                if effect.sources:
                    source = self._source(step.origins[0], chains[0])
                result = copy_files(_copy_spec(effect), source, draft.root, now=self._now())
                self._lost("this file system keeps no user attributes" * bool(result.unrecorded))
                return result.owners
            case AddEffect():
                spec = _add_spec(effect)
                context = self._context_if_any(effect)
                chosen = choose_added(spec, context)
                at = self._now() or time.time_ns()
                added = add(spec, context, draft.root, chosen, self._remotes(effect), now=at)
                self._lost("this file system keeps no user attributes" * bool(added.unrecorded))
                return added.owners
            case WorkdirEffect():
                return _workdir(effect, draft.root)
            case RsyncEffect():
                from ch_image.build.rsync import carry_out as rsync

                context = self._inputs.context()
                return rsync(effect, context, draft.root, self._storage, self._teller(step))
            case _:
                assert_never(effect)

    def _now(self) -> int | None:
        epoch = self._options.epoch
        return None if epoch is None else epoch * 1_000_000_000

    def _context_if_any(self, effect: AddEffect) -> Context | None:
        if self._options.context is None or all(map(is_remote, effect.sources)):
            return None
        return self._inputs.context()

    def _remotes(self, effect: AddEffect) -> Remotes:
        """What is fetched for the key is there when the step is carried out."""
        found = self._fetched.get(effect)
        if found is None:
            fetch = self._options.fetch or _no_network
            scratch = self._stack.enter_context(self._storage.scratch())
            found = Remotes(
                scratch,
                fetch,
                checksum=effect.checksum,
                keep_git_dir=effect.keep_git_dir,
                environment={"PATH": _PATH, **self._options.passed},
            )
            self._fetched[effect] = found
        return found

    def _run(
        self, effect: RunEffect, step: Step, draft: Draft, chains: Sequence[Chain | None]
    ) -> Owners:
        from ch_image.build.run_mounts import RunMounts

        options = self._options
        settings = RunSettings(
            options.force == "seccomp",
            options.binds,
            options.hosts,
            options.network,
            merged_owners(self._storage.layers, draft.chain),
        )
        mounts = RunMounts(options, self._storage, self._snapshotter, self._source, self._cancel)
        with mounts.prepared(effect, step, chains) as (operations, env):
            if env:
                effect = effect._replace(passed={**effect.passed, **env})
            ran = run_command(
                effect,
                draft.root,
                settings,
                operations,
                self._launcher,
                self._teller(step),
                self._describe,
                self._cancel,
            )
        self.notifications += ran.notifications
        self._lost(ran.lost)
        return ran.owners

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


def _copy_spec(effect: CopyEffect | AddEffect) -> CopySpec:
    documents = tuple(Document(f.path, os.fsencode(f.data)) for f in effect.files)
    return CopySpec(
        effect.sources,
        effect.destination,
        effect.chown,
        effect.chmod,
        effect.link,
        isinstance(effect, CopyEffect) and effect.parents,
        effect.exclude,
        documents,
    )


def _add_spec(effect: AddEffect) -> AddSpec:
    return AddSpec(_copy_spec(effect), effect.checksum, effect.keep_git_dir, effect.unpack)


def _no_network(url: str, sink: Callable[[bytes], object], /) -> str:
    raise BuildError("URLs cannot be fetched here")


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
