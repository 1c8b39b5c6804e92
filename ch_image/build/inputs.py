"""Where the files of COPY, ADD and mounts come from: contexts, stages, images.

Opened when first asked for and kept for the build, for a walk over a context and a view of an
image serve every step that reads them.
"""

from __future__ import annotations

import os
import posixpath
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from ch_image.build.options import BuildOptions
from ch_image.errors import BuildError, UsageError, printable
from ch_image.model.digest import digest_of
from ch_image.model.oci import canonical_json, config_json
from ch_image.model.platforms import Platform
from ch_image.model.ref import parse_ref
from ch_image.report import Reporter
from ch_image.storage.images import Image
from ch_image.storage.layers import Chain
from ch_image.storage.store import Storage
from ch_image.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from ch_image.build.context import Context
    from ch_image.build.options import Seen
    from ch_image.build.promised import Promises
    from ch_image.build.source import ImageSource, Source
    from ch_image.build.statindex import Memo
    from ch_image.storage.snapshots.base import Snapshotter

_PREFIXES = ("docker-image://", "image:")
_LAYOUT = ("oci-layout://", "oci-layout:")


class Inputs:
    """The sources of one build. May be used from several threads."""

    def __init__(
        self,
        options: BuildOptions,
        storage: Storage,
        snapshotter: Callable[[], Snapshotter],
        report: Reporter,
        promises: Promises,
    ) -> None:
        self._options = options
        self._report = report
        self._promises = promises
        self._storage = storage
        self._snapshotter = snapshotter
        self._digests = storage.context_digests
        self._lock = threading.Lock()
        self._open = ExitStack()
        self._contexts: dict[str, Context] = {}
        self._trees: dict[Chain, ImageSource] = {}
        self._images: dict[tuple[str, Platform | None], Image] = {}
        self._memo: Memo | None = None

    @property
    def memo(self) -> Memo:
        """What is known of the digests of files in images."""
        from ch_image.build.statindex import Memo

        if self._memo is None:
            self._memo = Memo(self._digests, self._promises.content)
        return self._memo

    @property
    def seen(self) -> tuple[Seen, ...]:
        """What was asked about files in images."""
        return self._promises.seen(self._memo.asked) if self._memo else ()

    def close(self) -> None:
        """Keep what was learnt about contexts and unmount views."""
        for context in self._contexts.values():
            try:
                context.save()
            except OSError:  # the next build hashes again
                pass
            context.close()
        for tree in self._trees.values():
            tree.close()
        self._open.close()

    def context(self) -> Context:
        """The build context. Raises BuildError when there is none."""
        root = self._options.context
        if root is None:
            raise BuildError(
                "there is no build context to copy from",
                hint="give a directory as CONTEXT, and the Dockerfile with -f",
            )
        if self._options.opened is not None:
            with self._lock:
                return self._contexts.setdefault("", self._options.opened)
        return self._context("", root, self._options.dockerfile)

    def named(self, name: str) -> Source:
        """The directory that ``--build-context NAME=`` gives. Raises BuildError, UsageError."""
        value = self._options.contexts[name]
        if not os.path.isdir(value):
            raise UsageError(
                f"--build-context {printable(name, 60)}: no directory {printable(value, 300)}",
                hint="write NAME=DIRECTORY, NAME=docker-image://IMAGE or NAME=oci-layout://DIRECTORY",
            )
        return self._context(name, value, "")

    def _context(self, name: str, root: str, dockerfile: str) -> Context:
        from ch_image.build.context import open_context

        with self._lock:
            found = self._contexts.get(name)
            if found is None:
                what = f'the build context "{name}"' if name else "the build context"
                found = open_context(root, dockerfile, self._digests, what)
                self._contexts[name] = found
            return found

    def is_scratch(self, name: str) -> bool:
        """Whether ``--build-context NAME=`` stands for the empty image."""
        return self._options.contexts[name] in [f"{prefix}scratch" for prefix in _PREFIXES]

    def named_image(self, name: str) -> Image | None:
        """The image that ``--build-context NAME=`` gives, None when it is a directory."""
        value = self._options.contexts[name]
        for prefix in _PREFIXES:
            if value.startswith(prefix):
                return self.image(value[len(prefix) :])
        if value.startswith(_LAYOUT):
            return self._layout(value)
        return None

    def _layout(self, value: str) -> Image:
        """``oci-layout://PATH[:TAG|@DIGEST]``. Raises ImageError."""
        from ch_image.transfer.layout import load

        wanted = self._options.platform
        found = self._images.get((value, wanted))
        if found is None:
            path = value[max(len(prefix) for prefix in _LAYOUT if value.startswith(prefix)) :]
            path, at, name = path.partition("@")
            if not at and ":" in posixpath.basename(path):
                path, _, name = path.rpartition(":")
            found = load(path, name, self._storage, wanted, self._report)
            self._images[value, wanted] = found
        return found

    def image(
        self, reference: str, platform: Platform | None = None, *, always: bool = False
    ) -> Image:
        """An image by reference, pulled when it is not in storage. Raises what a pull raises.

        ``platform``: the one of ``FROM --platform``; else the build's, or any.
        """
        wanted = platform or self._options.platform
        ref = parse_ref(reference, self._options.default_registry)
        image = self._options.pull(ref, wanted, always)
        self._images[reference, wanted] = image
        return image

    def present(self, reference: str, platform: Platform | None = None) -> Image | None:
        """An image that needs no pull; ``platform`` as for `image`."""
        wanted = platform or self._options.platform
        found = self._images.get((reference, wanted))
        if found is not None or self._options.always_pull:
            return found
        ref = parse_ref(reference, self._options.default_registry)
        found = self._storage.images.find(ref)
        if found is None or (wanted and wanted.rank(found.config.platform) is None):
            return None
        self._images[reference, wanted] = found
        return found

    def tree(self, chain: Chain) -> ImageSource:
        """The files of a stage or image, mounted for reading when they are looked at."""
        from ch_image.build.source import ImageSource
        from ch_image.storage.snapshots.base import merged_owners

        with self._lock:
            found = self._trees.get(chain)
            if found is None:

                def owners() -> dict[str, tuple[int, int]]:
                    return merged_owners(self._storage.layers, self._promises.settle(chain))

                found = ImageSource(partial(self._mounted, chain), owners, " ".join(chain))
                self._trees[chain] = found
            return found

    def _mounted(self, chain: Chain) -> str:
        settled = self._promises.settle(chain)
        with self._lock:
            return self._open.enter_context(self._snapshotter().view(settled))


def identity(image: Image) -> str:
    """What an image that was built or imported here is: its layers and its config."""
    meaning = [list(image.layers), config_json(image.config._replace(created="", history=()))]
    return digest_of(canonical_json(meaning))
