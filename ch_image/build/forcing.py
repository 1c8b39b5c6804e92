"""What ``--force`` does to a stage's RUNs: which profile, which commands, and what is told."""

from __future__ import annotations

from collections.abc import Callable

from ch_image.build.effects import Effect, RunEffect
from ch_image.build.options import BuildOptions
from ch_image.errors import BuildError, StepFailed
from ch_image.report import Info, Reporter
from ch_image.storage.layers import Chain
from ch_image.storage.snapshots.base import Snapshotter
from ch_image.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ch_image.force.profiles import Profile

_MAX_FILE = 1 << 16  # bytes of a file that tells a distribution


class Forced(NamedTuple):
    """Where a stage stands: its profile, and whether the init steps are in its layers."""

    profile: Profile | None = None
    ready: bool = False


class Forcing:
    """What one build's options say of ``--force``. May be used from several threads."""

    def __init__(
        self, options: BuildOptions, snapshotter: Callable[[], Snapshotter], report: Reporter
    ) -> None:
        self._options, self._snapshotter, self._report = options, snapshotter, report
        self._profiles: list[Profile] | None = None

    def based(self, chain: Chain) -> Forced:
        """After FROM: choose the image's profile, and say so. Raises BuildError."""
        if self._options.force != "fakeroot":
            return Forced()
        with self._snapshotter().view(chain) as root:
            profile = self.profile(root)
        if profile is not None:
            self._report(Info(f"will use --force=fakeroot: {profile.id}: {profile.name}"))
        return Forced(profile)

    def profile(self, root: str) -> Profile | None:
        """The profile of the image whose tree lies at ``root``. Raises BuildError."""
        from ch_image.force.fakeroot import choose
        from ch_image.force.profiles import load
        from ch_image.fs.tree import Tree
        from ch_image.resources import resource

        if self._profiles is None:
            own = self._options.profiles
            self._profiles = load([*([own] if own else []), resource("fakeroot")])
        with Tree(root) as tree:

            def read(path: str) -> str | None:
                try:
                    return tree.read_bytes(path, _MAX_FILE).decode("utf-8", "replace")
                except (OSError, BuildError):
                    return None

            return choose(self._profiles, read)

    def apply(self, effect: Effect | None, forced: Forced) -> Effect | None:
        """The effect with what is put into it. Raises BuildError where no profile fits."""
        if not isinstance(effect, RunEffect):
            return effect
        if self._options.force_cmds and self._options.force == "seccomp":
            from ch_image.force.commands import add_arguments

            return effect._replace(argv=add_arguments(effect.argv, self._options.force_cmds))
        if self._options.force != "fakeroot":
            return effect
        from ch_image.force.fakeroot import inject, needs

        if forced.profile is None:
            raise BuildError(
                "--force=fakeroot: no profile matches this image",
                hint="the default --force=seccomp works with any image; a profile of your own "
                "goes to ~/.config/ch-image/fakeroot/",
            )
        if not needs(forced.profile, [*effect.argv, *(file.data for file in effect.files)]):
            return effect
        injection = inject(forced.profile, effect.argv, ready=forced.ready)
        return effect._replace(argv=injection.argv, init=injection.init)

    def inputs(self, effect: Effect | None, made: Effect | None) -> dict[str, str]:
        """What of it belongs into the cache key of a step."""
        if not isinstance(effect, RunEffect) or not isinstance(made, RunEffect) or made is effect:
            return {}
        if self._options.force != "fakeroot":  # --force-cmd is an input of its own
            return {}
        words = made.argv[: len(made.argv) - len(effect.argv)]
        return {"--force profile": repr((words, made.init))}

    def after(self, effect: Effect | None, made: Effect | None, forced: Forced) -> Forced:
        """Where the stage stands after this step."""
        if self._options.force == "fakeroot" and made is not effect:
            return forced._replace(ready=True)
        return forced

    def tell(self, effect: Effect | None, made: Effect | None) -> None:
        """Say which command takes the place of the Dockerfile's."""
        if isinstance(made, RunEffect) and made != effect:
            self._report(Info(f"--force={self._options.force}: RUN: new command: {[*made.argv]}"))

    def explained(self, fault: StepFailed, root: str, seen: bool) -> StepFailed:
        """The failure of a RUN without emulation, with a hint if that was the cause."""
        if self._options.force != "none" or not seen:
            return fault
        found = self.profile(root)
        text = "--force=seccomp, the default, answers calls that need root"
        if found:
            text += f"; available --force=fakeroot: {found.id}: {found.name}"
        return StepFailed(str(fault), code=fault.code, hint=text)


class Watch:
    """Passes lines of output on, and looks for signs that root was missing."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self.seen = False

    def __call__(self, line: str) -> None:
        if not self.seen:
            from ch_image.force.hints import is_sign

            self.seen = is_sign(line)
        self._tell(line)


def prepare(effect: RunEffect, run: Callable[[RunEffect], object], report: Reporter) -> None:
    """Carry out the effect's init steps whose checks fail, as root. Raises StepFailed."""
    for number, (check, command) in enumerate(effect.init, 1):
        step = effect._replace(user="", cwd="/", mounts=(), files=(), init=())
        report(Info(f"RUN.F init {number}: checking: $ {check}"))
        try:
            run(step._replace(argv=("/bin/sh", "-c", check)))
            continue
        except StepFailed:  # it is needed
            report(Info(f"RUN.F init {number}: $ {command}"))
        try:
            run(step._replace(argv=("/bin/sh", "-c", command)))
        except StepFailed as fault:
            raise StepFailed(
                f"--force=fakeroot: init step {number} exited with {fault.code}",
                code=fault.code,
                hint="the default --force=seccomp needs no program in the image",
            ) from None
