"""What an instruction does to a tree, with every word of it resolved. Plain values.

At most one effect comes of an instruction; metadata has none. Paths are absolute inside the image
unless said otherwise, and not yet resolved against any tree. Where files come from is told by
`ch_image.build.plan.Step.origins`.
"""

from __future__ import annotations

from collections.abc import Mapping

from ch_image.dockerfile.mounts import ResolvedMount
from ch_image.typed import NamedTuple, TypeAlias


class InlineFile(NamedTuple):
    """A document of the Dockerfile that becomes a file of permissions ``mode``."""

    path: str  # for COPY and ADD a bare name
    data: str
    mode: int = 0o644


class RunEffect(NamedTuple):
    """A command to run.

    The environment is ``passed`` overlaid with ``env``; what is in ``passed`` alone must not be
    kept anywhere. ``files`` have to be there, read-only, while the command runs. ``mounts``
    stand in the order of ``Step.origins``.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    passed: Mapping[str, str]
    cwd: str
    user: str  # as USER has it; empty: root
    shell_form: bool
    files: tuple[InlineFile, ...] = ()
    mounts: tuple[ResolvedMount, ...] = ()
    network: str = "default"
    security: str = "sandbox"
    devices: tuple[str, ...] = ()
    init: tuple[tuple[str, str], ...] = ()  # (check, command): what --force does before, as root


class CopyEffect(NamedTuple):
    """Files to copy; ``destination`` keeps its trailing slash or ``/.``."""

    sources: tuple[str, ...]  # relative to the root of where they come from; may be patterns
    files: tuple[InlineFile, ...]
    destination: str
    from_: str | None  # as written; None: the build context
    chown: str
    chmod: str  # octal or symbolic; empty: as the source has it
    link: bool
    parents: bool
    exclude: tuple[str, ...]


class AddEffect(NamedTuple):
    """As `CopyEffect`, but sources may be URLs and git repositories, and archives are unpacked."""

    sources: tuple[str, ...]
    files: tuple[InlineFile, ...]
    destination: str
    chown: str
    chmod: str
    link: bool
    exclude: tuple[str, ...]
    checksum: str
    keep_git_dir: bool | None
    unpack: bool | None


class WorkdirEffect(NamedTuple):
    """A directory to make, parents too, owned by ``user`` (empty: root) when it is not there."""

    path: str
    user: str


class RsyncEffect(NamedTuple):
    """A run of the host's rsync into the tree; ``group`` names Charliecloud's option set."""

    group: str
    options: tuple[str, ...]
    sources: tuple[str, ...]
    destination: str


Effect: TypeAlias = RunEffect | CopyEffect | AddEffect | WorkdirEffect | RsyncEffect
