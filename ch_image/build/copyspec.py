"""What a COPY says, which files it means, and the digest of what they hold.

Apart from `ch_image.build.copy`, for a build that finds its COPY in the cache copies nothing.
"""

from __future__ import annotations

import os

from ch_image.build.digest import digest
from ch_image.build.effects import AddEffect, CopyEffect
from ch_image.build.select import Lacking, Selection, lack, select
from ch_image.build.source import ImageSource, Source
from ch_image.build.statindex import Memo
from ch_image.typed import NamedTuple


class Document(NamedTuple):
    """A heredoc: a file that the Dockerfile holds."""

    name: str
    data: bytes


class CopySpec(NamedTuple):
    """What a COPY says, expanded."""

    sources: tuple[str, ...]
    destination: str
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()
    documents: tuple[Document, ...] = ()


def spec_of(effect: CopyEffect | AddEffect) -> CopySpec:
    """What the instruction says about copying."""
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


def choose(spec: CopySpec, source: Source, lacking: Lacking | None = None) -> Selection:
    """What the sources of ``spec`` mean in ``source``. Raises BuildError when they are missing.

    ``lacking`` is told when they are wildcards that match nothing, so that nothing is copied.
    """
    selection = select(source, spec.sources, parents=spec.parents, exclude=spec.exclude)
    if lacking is not None and not spec.documents:
        lack(source, selection, lacking)
    return selection


def content(
    spec: CopySpec,
    source: Source,
    *,
    owners: bool = False,
    memo: Memo | None = None,
    lacking: Lacking | None = None,
) -> str:
    """The digest (64 hexadecimal digits) of what the sources of ``spec`` hold in ``source``.

    ``owners``: owners count, for an image whose files keep theirs. ``memo`` is asked and told
    about images with an identity; if it knows, the image is not looked at. ``lacking`` is as for
    `choose`. Raises BuildError.
    """

    def compute() -> str:
        return digest(source, choose(spec, source, lacking), owners=owners)

    if memo is None or not isinstance(source, ImageSource) or not source.identity:
        return compute()
    meaning = ("spec", source.identity, owners, spec.sources, spec.parents, spec.exclude)
    return memo.recall(meaning, compute)
