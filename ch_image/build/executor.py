"""Builds an image: looks each step of the plan up, carries out what is missing, names the result.

A step goes: fold the instruction over the state of its stage (pure), digest what it reads, ask
the cache; on a miss, lend a draft of the parent's layers to the effect and commit it as one layer.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from ch_image.build.args import SANDBOX_HOSTNAME, epoch, make_scope, unused_build_args
from ch_image.build.effectors import Effectors
from ch_image.build.effects import Effect
from ch_image.build.fold import fold
from ch_image.build.forcing import Forced, Forcing
from ch_image.build.inputs import Inputs, identity
from ch_image.build.key import CacheKey, StepKey, base_key, step_key
from ch_image.build.options import BuildOptions, BuildResult, Trail
from ch_image.build.origins import ContextOrigin, ImageOrigin, Origin, ScratchOrigin, StageOrigin
from ch_image.build.placed import placed, warned
from ch_image.build.plan import Plan, Step, plan, with_triggers
from ch_image.build.promised import Broken, Promises, caches_of, recover
from ch_image.build.publish import publish
from ch_image.build.queue import Queue
from ch_image.build.schedule import Agenda, Cancel, Once, Work
from ch_image.build.schedule import run as run_steps
from ch_image.build.state import BuildState, Folded, start_image, start_scratch, start_stage
from ch_image.build.stepcache import StepCache
from ch_image.dockerfile.ast import Dockerfile, From, Run
from ch_image.errors import BuildError, printable
from ch_image.model.platforms import Platform, host_platform
from ch_image.report import Info, Reporter, StepDone, StepFaulted, StepHit, StepStarted, Warned
from ch_image.sandbox import userns
from ch_image.storage.cache import CacheRecord
from ch_image.storage.images import Image
from ch_image.storage.layers import Chain, LayerId
from ch_image.storage.store import Storage
from ch_image.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ch_image.build.remote_cache import Remote, RemoteCaches


class Outcome(NamedTuple):
    """Where a stage stands after a step."""

    state: BuildState
    chain: Chain
    parent: CacheKey
    made: float = 0.0  # when the newest of its steps was carried out, Unix time; 0: none was
    forced: Forced = Forced()


class Pulled(NamedTuple):
    """The image that a FROM waited for."""

    image: Image
    reference: str


def build(options: BuildOptions, storage: Storage, report: Reporter) -> BuildResult:
    """Build ``options.target`` and name it. The storage's lock is held by the caller.

    Raises DockerfileError and the like at the first fault; then no tag has changed.
    """
    dockerfile = _parse(options, storage)
    for name in unused_build_args(dockerfile, options.build_args):
        report(
            Warned(f"--build-arg {printable(name, 100)}: no ARG of the Dockerfile has this name")
        )
    scope = make_scope(
        dockerfile,
        build_args=options.build_args,
        passed=options.passed,
        platform=options.platform,
        target=options.target,
    )
    options = options._replace(epoch=epoch(scope))
    todo = plan(dockerfile, scope, target=options.target, contexts=frozenset(options.contexts))
    userns.enter()
    caches = caches_of(options, storage, report)
    while True:
        builder = _Build(options, storage, report, todo, caches)
        try:
            agenda: Agenda[Outcome | Pulled] = builder
            run_steps(agenda, options.jobs, builder.cancel)
            return builder.finish()
        except Broken as broken:
            recover(broken, caches, report)
        finally:
            builder.close()


def _parse(options: BuildOptions, storage: Storage) -> Dockerfile:
    from ch_image.build.parsed import parse_cached

    name = os.path.basename(options.dockerfile) if options.dockerfile != "-" else "Dockerfile"
    return parse_cached(options.text, name, storage.context_digests)


class _Build:
    """One build under way; an `Agenda`."""

    def __init__(
        self,
        options: BuildOptions,
        storage: Storage,
        report: Reporter,
        todo: Plan,
        caches: RemoteCaches | None,
    ) -> None:
        self._options, self._storage, self._report, self._plan = options, storage, report, todo
        self.cancel = Cancel()
        snapshotter = Once(lambda: storage.snapshotter(options.snapshotter))
        self._promises = Promises(caches)
        self._inputs = Inputs(options, storage, snapshotter, report, self._promises)
        self._effectors = Effectors(
            options, storage, snapshotter, self._inputs, report, self.cancel
        )
        self._forcing = Forcing(options, snapshotter, report)
        self._cache = StepCache(options, storage, report)
        self._trail: list[Trail] = []
        self._queue = Queue(todo)
        self._done: dict[int, Outcome] = {}
        self._executed = 0
        self._runs = 0

    def close(self) -> None:
        """End containers, unmount, keep what was learnt."""
        self._effectors.close()
        self._inputs.close()
        self.cancel.close()

    # -- the agenda --

    def ready(self) -> list[int]:
        """See `Agenda`."""
        return self._queue.take()

    def done(self, step: int, result: Outcome | Pulled) -> None:
        """See `Agenda`."""
        if isinstance(result, Pulled):  # may change the plan, so not in the thread that pulled
            at = self._plan.step(step)
            with placed(at, self._plan):
                result = self._based(at, *result, hit=False)
            self._report(StepDone(at.line, at.stage_name, 0.0))
        self._done[step] = result
        self._queue.done(step)

    def look(self, number: int) -> Outcome | Pulled | Work[Outcome | Pulled]:
        """See `Agenda`."""
        step = self._plan.step(number)
        with placed(step, self._plan):
            if isinstance(step.instruction, From):
                return self._from(step)
            return self._instruction(step)

    # -- FROM --

    def _from(self, step: Step) -> Outcome | Work[Outcome | Pulled]:
        origin = step.origins[0]
        match origin:
            case StageOrigin(stage):
                before = self._done[self._plan.stages[stage].last]
                state = start_stage(before.state)
                self._hit(step)
                return self._started(step, before._replace(state=state))
            case ImageOrigin(reference):
                platform = self._plan.stages[step.stage].platform
                image = self._inputs.present(reference, platform)
                if image is None:
                    key = f"image {reference} {platform or ''}"
                    return Work(key, lambda: self._pull(step, reference, platform))
                return self._based(step, image, reference)
            case ContextOrigin(name) if not self._inputs.is_scratch(name):
                named = self._inputs.named_image(name)
                if named is None:
                    raise BuildError(
                        f'the build context "{printable(name, 60)}" is a directory, not an image',
                        hint="COPY --from it onto FROM scratch",
                    )
                return self._based(step, named, self._options.contexts[name])
            case _:
                wanted = self._stage_platform(step)
                made = base_key("scratch", str(wanted))
                self._cache.based(step, made, "scratch")
                self._hit(step)
                return self._started(step, Outcome(start_scratch(wanted), (), made.chain))

    def _stage_platform(self, step: Step) -> Platform:
        stage = self._plan.stages[step.stage]
        return stage.platform or self._options.platform or host_platform()

    def _pull(self, step: Step, reference: str, platform: Platform | None) -> Pulled:
        self._start(step)
        with self._told(step), placed(step, self._plan):
            always = self._options.always_pull
            return Pulled(self._inputs.image(reference, platform, always=always), reference)

    def _based(self, step: Step, image: Image, reference: str, *, hit: bool = True) -> Outcome:
        if hit:
            self._hit(step)
        what = image.manifest.digest if image.manifest else identity(image)
        key = base_key(what, str(image.config.platform))
        self._cache.based(step, key, reference)
        outcome = Outcome(start_image(image.config), image.layers, key.chain)
        outcome = outcome._replace(forced=self._forcing.based(image.layers))
        triggers = image.config.config.on_build
        if triggers:
            count = len(triggers)
            self._report(Info(f"running {count} ONBUILD trigger{'s' * (count > 1)} of the base"))
            self._plan = with_triggers(self._plan, step.stage, triggers)
            self._queue.replan(self._plan)
        return self._started(step, outcome)

    def _started(self, step: Step, outcome: Outcome) -> Outcome:
        """FROM may set ARGs of its own (Charliecloud's ``--arg``)."""
        folded = fold(outcome.state, step.instruction, self._plan.scope, step.source)
        return outcome._replace(state=folded.state)

    # -- all others --

    def _instruction(self, step: Step) -> Outcome | Work[Outcome | Pulled]:
        before = self._before(step)
        folded = fold(before.state, step.instruction, self._plan.scope, step.source)
        effect = folded.effect
        chains = [self._chain_of(origin) for origin in step.origins]
        content: Mapping[str, str] = {}
        if effect is not None:
            content = self._effectors.content(
                effect, step.origins, chains, lambda e: self._report(warned(e, step))
            )
        made = self._forcing.apply(effect, before.forced)
        forced = self._forcing.after(effect, made, before.forced)
        key = step_key(
            folded,
            parent=before.parent,
            platform=str(before.state.platform),
            content=content,
            options={**self._run_options(), **self._forcing.inputs(effect, made)},
        )
        record = self._cache.find(step, key, before.chain)
        if record is not None:
            self._hit(step)
            return self._landed(_after(before, folded, key, record, forced), record)
        if made is None:
            self._cache.explain(step, key, dict)
            self._start(step)
            if self._options.dry_run:
                return before._replace(state=folded.state, parent=key.chain)
            record = self._cache.keep(step, key, (), None, {}, 0.0)
            self._report(StepDone(step.line, step.stage_name, 0.0))
            return _after(before, folded, key, record, forced)
        files = self._effectors.files(made, step.origins, chains)
        work = _Miss(step, before, folded, made, key, chains, files, forced)
        if self._cache.may_read(step) and not self._options.dry_run:
            remote = self._promises.find(key.key, before.chain)
            if remote is not None:
                return self._promised(work, remote)
        self._cache.explain(step, key, lambda: files)
        if self._options.dry_run:
            self._start(step)
            return before._replace(state=folded.state, parent=key.chain, forced=forced)
        return Work(key.key, lambda: self._execute(work))

    def _execute(self, miss: _Miss) -> Outcome:
        step = miss.step
        before = miss.before._replace(chain=self._promises.settle(miss.before.chain))
        chains = [chain and self._promises.settle(chain) for chain in miss.chains]
        began = time.monotonic()
        self._start(step)
        with self._told(step), placed(step, self._plan):
            self._forcing.tell(miss.folded.effect, miss.effect)
            layer = self._effectors.carry_out(miss.effect, step, before.chain, chains)
            seconds = time.monotonic() - began
            record = self._cache.keep(step, miss.key, before.chain, layer, miss.files, seconds)
        self._report(StepDone(step.line, step.stage_name, seconds))
        return self._landed(_after(before, miss.folded, miss.key, record, miss.forced), record)

    def _promised(self, miss: _Miss, remote: Remote) -> Outcome:
        """Take it that the step's layer can be had from where another has put it."""
        step, key = miss.step, miss.key

        def keep(below: Chain, layer: LayerId | None) -> CacheRecord:
            seconds = remote.seconds
            return self._cache.keep(step, key, below, layer, miss.files, seconds, shared=True)

        self._hit(step)
        layer = self._promises.make(remote, keep)
        record = self._cache.record(step, key, miss.before.chain, layer, {}, remote.seconds)
        return self._landed(_after(miss.before, miss.folded, key, record, miss.forced), record)

    def _landed(self, outcome: Outcome, record: CacheRecord) -> Outcome:
        if record.layer is not None:
            self._trail.append(Trail(record, outcome.chain))
        return outcome

    def _before(self, step: Step) -> Outcome:
        """The outcome that ``step`` continues: its stage's step before it."""
        return self._done[self._queue.before(step)]

    def _chain_of(self, origin: Origin | None) -> Chain | None:
        """The layers of a stage or image; None: a context."""
        match origin:
            case StageOrigin(stage):
                return self._done[self._plan.stages[stage].last].chain
            case ImageOrigin(reference):
                image = self._inputs.present(reference) or self._inputs.image(reference)
                return image.layers
            case ScratchOrigin():
                return ()
            case ContextOrigin(name):
                named = self._inputs.named_image(name)
                return named.layers if named else None
            case _:
                return None

    def _run_options(self) -> dict[str, str]:
        options = self._options
        out = {"--force": options.force}
        if options.network != "default":
            out["--network"] = options.network
        for source, target in options.binds:
            out[f"--bind {target}"] = source
        for name, address in options.hosts:
            out[f"--add-host {name}"] = address
        if SANDBOX_HOSTNAME in options.build_args:
            out[SANDBOX_HOSTNAME] = options.build_args[SANDBOX_HOSTNAME]
        if options.force_cmds:
            out["--force-cmd"] = repr(options.force_cmds)
        return out

    # -- what is told --

    @contextmanager
    def _told(self, step: Step) -> Iterator[None]:
        try:
            yield
        except Exception:
            if not self.cancel.is_raised():  # else another step's fault is what the user reads of
                self._report(StepFaulted(step.line, step.stage_name))
            raise

    def _text(self, step: Step) -> str:
        text = " ".join(step.instruction.text.split())
        if isinstance(step.instruction, Run):
            letter = {"seccomp": "S", "fakeroot": "F"}.get(self._options.force, "N")
            word, _, rest = text.partition(" ")
            return f"{word.upper()}.{letter} {rest}"
        return text

    def _hit(self, step: Step) -> None:
        self._report(StepHit(step.line, step.stage_name, self._text(step)))

    def _start(self, step: Step) -> None:
        self._executed += 1
        self._runs += isinstance(step.instruction, Run)
        self._report(StepStarted(step.line, step.stage_name, self._text(step)))

    def finish(self) -> BuildResult:
        """Name what was built. Raises StorageError."""
        count = len(self._plan.steps)
        notifications = self._effectors.notifications
        if self._options.dry_run:
            return BuildResult(None, count, self._executed, self._runs, notifications)
        final = self._done[self._plan.stages[self._plan.target].last]
        promises = self._promises
        chain = promises.settle(final.chain)
        for step in self._trail if self._options.fetch_all else ():
            promises.settle(step.chain)
        image = publish(self._options, self._storage, final.state, chain, final.made)
        result = BuildResult(image, count, self._executed, self._runs, notifications)
        trail = tuple(map(promises.landed, self._trail))
        result = result._replace(trail=trail, epoch=self._options.epoch)
        return result._replace(contents=self._inputs.seen, promised=promises.open())


class _Miss(NamedTuple):
    """A step that has to be carried out."""

    step: Step
    before: Outcome
    folded: Folded
    effect: Effect
    key: StepKey
    chains: Sequence[Chain | None]
    files: Mapping[str, str]
    forced: Forced


def _after(
    before: Outcome, folded: Folded, key: StepKey, record: CacheRecord, forced: Forced
) -> Outcome:
    chain = before.chain if record.layer is None else (*before.chain, record.layer)
    return Outcome(folded.state, chain, key.chain, max(before.made, record.created), forced)
