"""Steps that a cache of others has, and whose layers nobody has needed yet.

Such a step stands in a chain under a name that no layer can have. Whoever needs the files below
it settles the chain: all that it lacks is fetched at once, and noted in the cache here. A stage
that others only copy from, the same as ever, is never fetched at all.

A promise may not be kept: the registry fails, a blob is not what its digest says, or the cache has
the step but not its layer (``mode=min``). Then the build begins again without what promised it;
what it has carried out and fetched by then, it finds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from ch_image.build.options import BuildOptions, Seen, Trail
from ch_image.errors import ImageError, RegistryError
from ch_image.model.sha256 import sha256
from ch_image.report import Detail, Reporter, Warned
from ch_image.storage.cache import CacheRecord
from ch_image.storage.layers import Chain, LayerId
from ch_image.storage.scratch import random_name
from ch_image.storage.store import Storage
from ch_image.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ch_image.build.remote_cache import Remote, RemoteCaches
    from ch_image.model.digest import DiffId

Keep = Callable[[Chain, LayerId], CacheRecord]  # (below, the step's layer)
Meaning = tuple[object, ...]


class _Promise(NamedTuple):
    remote: Remote
    keep: Keep


class Broken(Exception):
    """A promise that cannot be kept; without ``error`` the cache never had the layer."""

    def __init__(self, remote: Remote, error: Exception | None = None) -> None:
        super().__init__(str(error))
        self.remote, self.error = remote, error


class Promises:
    """The promises of one build; may be used from several threads."""

    def __init__(self, caches: RemoteCaches | None) -> None:
        self._caches = caches
        self._made: dict[LayerId, _Promise] = {}
        self._kept: dict[LayerId, CacheRecord] = {}
        self._lock = threading.Lock()

    def find(self, key: str, chain: Chain) -> Remote | None:
        """The step with that key that somebody has made on what ``chain`` is."""
        if self._caches is None:
            return None
        real = self.real(chain)
        promised = {name: made.remote.diff_ids[-1] for name, made in self._made.items()}
        return self._caches.find(key, real, promised)

    def make(self, remote: Remote, keep: Keep) -> LayerId:
        """The name that stands for the step's layer until it is settled."""
        name = LayerId(f"+{random_name()}")
        self._made[name] = _Promise(remote, keep)
        return name

    def real(self, chain: Chain) -> Chain:
        """The chain with the layers that were fetched meanwhile."""
        kept = self._kept
        return tuple((kept[x].layer or x) if x in kept else x for x in chain) if kept else chain

    def settle(self, chain: Chain) -> Chain:
        """The chain of layers that are in storage. Raises Broken."""
        if not self._made or not any(layer in self._made for layer in chain):
            return chain
        assert self._caches is not None
        with self._lock:  # a layer that two stages want is fetched once
            out = self.real(chain)
            lacking = [layer for layer in out if layer in self._made]
            if not lacking:
                return out
            for layer in lacking:
                if not self._made[layer].remote.kept:
                    raise Broken(self._made[layer].remote)
            last = self._made[lacking[-1]].remote
            try:
                found = self._caches.fetch(last)
            except (RegistryError, ImageError) as error:
                raise Broken(last, error) from error
            for place, layer in enumerate(out):
                if layer in self._made:
                    record = self._made[layer].keep(self.real(out[:place]), found[place])
                    self._kept = {**self._kept, layer: record}
            return self.real(out)

    def content(self, meaning: Meaning) -> str | None:
        """What the cache says that files of a promised chain hold; see `Memo.recall`."""
        chain = _chain_of(meaning)
        if self._caches is None or not any(layer in self._made for layer in self.real(chain)):
            return None
        promised = {name: made.remote.diff_ids[-1] for name, made in self._made.items()}
        return self._caches.content(self.real(chain), promised, _what(meaning))

    def landed(self, step: Trail) -> Trail:
        """The step as it is in the end."""
        layer = step.record.layer
        record = self._kept.get(layer, step.record) if layer else step.record
        return Trail(record, self.real(step.chain))

    def open(self) -> Mapping[LayerId, DiffId]:
        """What was never settled, and what stands for it in a cache."""
        return {
            name: made.remote.diff_ids[-1]
            for name, made in self._made.items()
            if name not in self._kept
        }

    def seen(self, asked: Mapping[Meaning, str]) -> tuple[Seen, ...]:
        """What this build learnt of files in images, for a cache."""
        return tuple(
            Seen(self.real(_chain_of(meaning)), _what(meaning), digest)
            for meaning, digest in asked.items()
        )


def _chain_of(meaning: Meaning) -> Chain:
    """The second of what `Memo.recall` is asked for are the layers."""
    return tuple(LayerId(name) for name in str(meaning[1]).split())


def _what(meaning: Meaning) -> str:
    rest = (meaning[0], *meaning[2:])
    return sha256(repr(rest).encode("utf-8", "surrogatepass")).hexdigest()


def caches_of(options: BuildOptions, storage: Storage, report: Reporter) -> RemoteCaches | None:
    """The caches that the build may take steps from; nothing is read yet."""
    if options.cache_from is None:
        return None
    from ch_image.build.remote_cache import RemoteCaches

    return RemoteCaches(options.cache_from, storage, report)


def recover(broken: Broken, caches: RemoteCaches | None, report: Reporter) -> None:
    """See to it that the next attempt goes without what could not be kept."""
    assert caches is not None
    if broken.error is None:
        report(Detail("--cache-from: files are needed that the cache lists, but does not hold"))
        caches.only_kept = True
    else:
        report(Warned(f"--cache-from: {broken.error}; the build goes on without this cache"))
        caches.drop(broken.remote.place)
