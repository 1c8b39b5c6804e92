"""What a build is asked to do, and what it gives back. Plain values, made by the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ch_image.model.digest import DiffId
from ch_image.model.platforms import Platform
from ch_image.model.ref import DefaultRegistry, ImageRef
from ch_image.storage.cache import CacheRecord
from ch_image.storage.images import Image
from ch_image.storage.layers import Chain, LayerId
from ch_image.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ch_image.build.context import Context
    from ch_image.build.remote import Fetch
    from ch_image.build.remote_cache import Location

# (reference, platform or None for the host's, ask the registry even when it is in storage)
Puller = Callable[[ImageRef, Platform | None, bool], Image]


class Secret(NamedTuple):
    """``--secret``: where its value is read when a RUN asks for it; exactly one is set."""

    path: str = ""  # of the host
    variable: str = ""  # of ch-image's own environment: its value, taken by the command line


class BuildOptions(NamedTuple):
    """A build. Host paths are absolute; references are complete."""

    dockerfile: str  # its path, for messages and FILE.dockerignore; "-" for standard input
    text: bytes  # its content
    context: str | None  # a directory; None: there is no context
    tags: tuple[ImageRef, ...]
    pull: Puller
    build_args: Mapping[str, str] = {}
    passed: Mapping[str, str] = {}  # proxies and the like, for RUN's environment only
    target: str = ""
    platform: Platform | None = None
    force: str = "seccomp"  # seccomp, fakeroot or none
    force_cmds: tuple[tuple[str, ...], ...] = ()
    profiles: str = ""  # directory of the user's own fakeroot profiles
    cache: str = "enabled"  # enabled, rebuild or disabled
    no_cache_stages: frozenset[str] = frozenset()
    binds: tuple[tuple[str, str], ...] = ()  # (source, target) of every RUN
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    secrets: Mapping[str, Secret] = {}
    secret_values: Mapping[str, bytes] = {}  # of Secrets that are variables, by variable
    ssh: Mapping[str, str] = {}  # id -> path of an agent's socket
    contexts: Mapping[str, str] = {}  # --build-context NAME=VALUE, as given
    hosts: tuple[tuple[str, str], ...] = ()  # (name, address)
    network: str = "default"  # default, host or none
    jobs: int = 1
    always_pull: bool = False
    epoch: int | None = None  # SOURCE_DATE_EPOCH, seconds; from the scope of the build
    snapshotter: str = ""  # forced by name, for tests
    default_registry: DefaultRegistry = DefaultRegistry()
    dry_run: bool = False
    fetch: Fetch | None = None  # for ADD of URLs
    verbose: bool = False  # explain misses
    cache_from: Callable[[], Sequence[Location]] | None = None  # caches of others
    opened: Context | None = None  # the context, where it is open already; the caller closes it
    fetch_all: bool = False  # also the layers of steps that the target does not need


class Trail(NamedTuple):
    """A step of a build that has a layer, and the chain that ends with it."""

    record: CacheRecord
    chain: Chain


class Seen(NamedTuple):
    """The ``digest`` of what a COPY took of ``chain``; ``what`` stands for the rest it says."""

    chain: Chain
    what: str
    digest: str


class BuildResult(NamedTuple):
    """What was built; ``image`` is the record under the first tag, None after a dry run."""

    image: Image | None
    instructions: int
    executed: int  # steps that were carried out, not found in the cache
    run_steps: int  # RUNs among them
    notifications: int  # calls that root emulation answered
    trail: tuple[Trail, ...] = ()  # the steps that have layers
    epoch: int | None = None  # SOURCE_DATE_EPOCH, seconds
    contents: tuple[Seen, ...] = ()
    promised: Mapping[LayerId, DiffId] = {}  # layers of the trail that were never fetched
