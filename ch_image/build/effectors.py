"""What effects read, for their keys; and the way to those who carry them out.

What carries them out is imported with the first step that is not in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

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
from ch_image.build.schedule import Cancel, Once
from ch_image.errors import BuildError
from ch_image.report import Reporter
from ch_image.storage.layers import Chain, LayerId
from ch_image.storage.store import Storage
from ch_image.typed import TYPE_CHECKING, assert_never

if TYPE_CHECKING:
    from ch_image.build.add import AddSpec
    from ch_image.build.carry import Carrier
    from ch_image.build.context import Context
    from ch_image.build.remote import Remotes
    from ch_image.build.select import Lacking
    from ch_image.build.source import Source
    from ch_image.sandbox.launcher import Launcher
    from ch_image.storage.snapshots.base import Snapshotter

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
        self._options, self._storage, self._inputs = options, storage, inputs
        self._stack = ExitStack()
        self._fetched: dict[AddEffect, Remotes] = {}

        def launcher() -> Launcher:
            from ch_image.sandbox.launcher import Launcher

            made = Launcher()
            self._stack.callback(made.close)
            return made

        def carrier() -> Carrier:
            from ch_image.build.carry import Carrier

            return Carrier(options, storage, snapshotter, self, report, cancel, self._launcher())

        self._launcher = Once(launcher)
        self._carrier = Once(carrier)

    @property
    def notifications(self) -> int:
        """Calls that root emulation answered."""
        return self._carrier().notifications if self._carrier.is_made else 0

    def close(self) -> None:
        """End the container server."""
        self._stack.close()

    def carry_out(
        self, effect: Effect, step: Step, chain: Chain, chains: Sequence[Chain | None]
    ) -> LayerId:
        """Make the layer of ``effect`` on ``chain``. Raises what the effect raises."""
        if isinstance(effect, RunEffect):  # the server starts while the rest is imported here
            self._launcher().start()
        return self._carrier().carry_out(effect, step, chain, chains)

    def content(
        self,
        effect: Effect,
        origins: Sequence[Origin | None],
        chains: Sequence[Chain | None],
        lacking: Lacking,
    ) -> Mapping[str, str]:
        """Digests of what the effect reads, by the name the user gave it. Raises BuildError.

        ``lacking`` is told of wildcards of COPY and ADD that match nothing.
        """
        match effect:
            case CopyEffect():
                if not effect.sources:
                    return {}
                from ch_image.build.copyspec import content, spec_of

                source = self.source(origins[0], chains[0])
                owners = chains[0] is not None and not effect.chown
                spec, memo = spec_of(effect), self._inputs.memo
                found = content(spec, source, owners=owners, memo=memo, lacking=lacking)
                return {" ".join(effect.sources): found}
            case AddEffect():
                from ch_image.build.add import choose, identity

                context = self.context_if_any(effect)
                chosen = choose(add_spec(effect), context, lacking)
                found = identity(chosen, context, self.remotes(effect))
                return {" ".join(effect.sources): found} if effect.sources else {}
            case RunEffect():
                if not effect.mounts:
                    return {}
                from ch_image.build.run_mounts import mount_content

                return mount_content(effect, origins, chains, self.source, self._inputs.memo)
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
        found: dict[str, str] = {}
        match effect:
            case CopyEffect() if effect.sources:
                from ch_image.build.copyspec import choose, spec_of
                from ch_image.build.named import named_files

                source = self.source(origins[0], chains[0])
                if chains[0] is None or source.contents:
                    found = named_files(source, choose(spec_of(effect), source))
            case AddEffect():
                from ch_image.build.add import choose as choose_added
                from ch_image.build.named import named_files

                context = self.context_if_any(effect)
                if context is not None:
                    for _, selection in choose_added(add_spec(effect), context):
                        found |= named_files(context, selection) if selection else {}
            case RunEffect() if effect.mounts:
                from ch_image.build.run_mounts import mount_files

                found = mount_files(effect, origins, chains, self.source)
            case _:
                pass
        return name_files(found)

    def source(self, origin: Origin | None, chain: Chain | None) -> Source:
        """The files that a step reads: of a stage or image, of a context."""
        if chain is not None:
            return self._inputs.tree(chain)
        if isinstance(origin, ContextOrigin):
            return self._inputs.named(origin.name)
        return self._inputs.context()

    def context(self) -> Context:
        """The build context. Raises BuildError when there is none."""
        return self._inputs.context()

    def context_if_any(self, effect: AddEffect) -> Context | None:
        """The build context, None where there is none or nothing local is added."""
        from ch_image.build.remote import is_remote

        if self._options.context is None or all(map(is_remote, effect.sources)):
            return None
        return self._inputs.context()

    def remotes(self, effect: AddEffect) -> Remotes:
        """What is fetched for the key is there when the step is carried out."""
        from ch_image.build.remote import Remotes

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


def add_spec(effect: AddEffect) -> AddSpec:
    """What an ADD says."""
    from ch_image.build.add import AddSpec
    from ch_image.build.copyspec import spec_of

    return AddSpec(spec_of(effect), effect.checksum, effect.keep_git_dir, effect.unpack)


def _no_network(url: str, sink: Callable[[bytes], object], /) -> str:
    raise BuildError("URLs cannot be fetched here")
