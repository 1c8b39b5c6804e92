"""A shell in an image, by hand: what it leaves behind becomes one layer, and no cache entry."""

from __future__ import annotations

import time
from collections.abc import Callable

from ch_image.build.effects import RunEffect
from ch_image.build.options import BuildOptions
from ch_image.build.publish import publish
from ch_image.build.run import RunSettings, plan_of
from ch_image.build.state import start_image
from ch_image.errors import StepFailed
from ch_image.report import Warned
from ch_image.sandbox.launcher import Container, Launcher
from ch_image.sandbox.mounts import remove_stubs
from ch_image.sandbox.plan import Plan
from ch_image.storage.images import Image
from ch_image.storage.snapshots.base import merged_owners
from ch_image.storage.store import Storage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ch_image.report import Reporter


def by_hand(
    options: BuildOptions,
    storage: Storage,
    source: Image,
    argv: tuple[str, ...],
    attend: Callable[[Launcher, Plan], Container],
    report: Reporter,
) -> Image:
    """The image that ``argv`` leaves of ``source``, under the tags of ``options``.

    ``attend`` starts the container with descriptors of its choice, stays with it and hands it
    back when it has ended. The exit code doesn't matter: a shell's is that of its last command.
    Raises StepFailed when a signal ended it, SandboxError, StorageError.
    """
    state = start_image(source.config)
    effect = RunEffect(
        argv, state.environment(), options.passed, state.workdir, state.user, shell_form=False
    )
    snapshotter = storage.snapshotter(options.snapshotter)
    owners = merged_owners(storage.layers, source.layers)
    settings = RunSettings(options.force == "seccomp", options.binds, owners=owners)
    launcher = Launcher()
    draft = snapshotter.prepare(source.layers)
    try:
        plan = plan_of(effect, draft.root, settings)
        result = attend(launcher, plan).result()
        remove_stubs(draft.root, result.made)
        if result.problem is not None:
            raise result.problem
        if result.code is not None and result.code < 0:
            raise StepFailed(
                f"the shell was killed by signal {-result.code}; nothing was kept",
                code=128 - result.code,
            )
        if result.lost:
            report(Warned(f"owners other than root are lost: {result.lost}"))
        layer = snapshotter.commit(draft, result.owners)
    finally:
        snapshotter.discard(draft)
        launcher.close()
    state = state.commit(f"modify -i {' '.join(argv)}", layer=True)
    return publish(options, storage, state, (*source.layers, layer), time.time())
