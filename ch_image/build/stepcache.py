"""Steps in the build cache: whether one is there, what is kept of it, and why another is not.

A record counts only on the layer that its own layer was made on: where the step before was
carried out again (``--no-cache-filter``, two builds at once), what follows is, too. So no chain
ever holds layers that were not made on each other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from ch_image.build.key import StepKey, explain
from ch_image.build.options import BuildOptions
from ch_image.dockerfile.ast import Add, Copy
from ch_image.errors import printable
from ch_image.model.sha256 import sha256
from ch_image.report import Detail, Reporter
from ch_image.storage.cache import CacheRecord
from ch_image.storage.layers import Chain, LayerId
from ch_image.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from ch_image.build.plan import Step
    from ch_image.storage.store import Storage

_SHOWN = 5  # changed inputs that an explanation names


class StepCache:
    """The cache as one build may use it. ``keep`` may be called from several threads."""

    def __init__(self, options: BuildOptions, storage: Storage, report: Reporter) -> None:
        self._options, self._storage, self._report = options, storage, report
        self._fresh: dict[str, CacheRecord] = {}  # of this build: good in every mode
        self._skipped = frozenset(name.lower() for name in options.no_cache_stages)
        self._explained: set[int] = set()

    def find(self, step: Step, key: StepKey, chain: Chain) -> CacheRecord | None:
        """The record of ``step`` on top of ``chain``, if it may be used."""
        found = self._fresh.get(key.key)
        if found is None and self.may_read(step):
            found = self._storage.cache.get(key.key)
        return found if found is not None and _fits(found, chain) else None

    def may_read(self, step: Step) -> bool:
        """Whether steps of its stage may be taken from a cache."""
        return self._options.cache == "enabled" and step.stage_name.lower() not in self._skipped

    def keep(
        self,
        step: Step,
        key: StepKey,
        chain: Chain,
        layer: LayerId | None,
        files: Mapping[str, str],
        seconds: float,
        *,
        shared: bool = False,
    ) -> CacheRecord:
        """Note what a step that was carried out on ``chain`` gave; the record that counts.

        Should another build have been quicker with the same step, its result is taken, so that
        both go on from one layer. ``shared``: the layer may be that of others too. Raises
        StorageError.
        """
        cache = self._storage.cache
        if layer is not None and self.may_read(step):
            other = cache.get(key.key)
            if other is not None and other.layer is not None and _fits(other, chain):
                if not shared and layer != other.layer:
                    self._storage.layers.remove(layer)
                self._fresh[key.key] = other
                return other
        record = self.record(step, key, chain, layer, files, seconds)
        if self._options.cache != "disabled":
            cache.put(record)
        self._fresh[key.key] = record
        return record

    def record(
        self,
        step: Step,
        key: StepKey,
        chain: Chain,
        layer: LayerId | None,
        files: Mapping[str, str],
        seconds: float,
    ) -> CacheRecord:
        """What there is to note of a step that was carried out now, without noting it."""
        now = time.time()
        text = printable(" ".join(step.instruction.text.split()), 200)
        inputs = {**key.inputs, **files}
        below = chain[-1] if chain and layer is not None else None
        return CacheRecord(
            key.key, key.slot, text, layer, inputs, now, now, seconds, below, step.stage_name
        )

    def based(self, step: Step, key: StepKey, reference: str) -> None:
        """Note what a stage begins with, so that another base can be told of later."""
        if self._options.cache == "disabled" or self._options.dry_run:
            return
        cache = self._storage.cache
        now = time.time()
        text = printable(" ".join(step.instruction.text.split()), 200)
        record = CacheRecord(
            key.key, key.slot, text, None, key.inputs, now, now, 0.0, stage=step.stage_name
        )
        if cache.get(key.key) is None:
            cache.put(record)
        # Several names may mean one image; what a name meant last has a record of its own.
        slot = sha256(reference.encode("utf-8", "surrogateescape")).hexdigest()[:32] + "-FROM"
        before = cache.get(slot)
        if before is None or before.inputs != key.inputs:
            if self.may_read(step):
                self._explain(step, key._replace(slot=slot), dict, quiet=True)
            cache.put(record._replace(key=slot, parent=slot))

    def explain(self, step: Step, key: StepKey, files: Callable[[], Mapping[str, str]]) -> None:
        """Say, once a stage, why its first step that is not in the cache is not.

        ``files``: inputs that name single files, made only when they are needed.
        """
        if self.may_read(step):
            self._explain(step, key, files)

    def _explain(
        self,
        step: Step,
        key: StepKey,
        files: Callable[[], Mapping[str, str]],
        *,
        quiet: bool = False,
    ) -> None:
        if not self._options.verbose or step.stage in self._explained:
            return
        old = self._storage.cache.by_parent(key.slot)
        if old is None and quiet:
            return
        self._explained.add(step.stage)
        if old is None:
            why = ["no such step on this parent in the cache"]
        elif old.key == key.key:
            gone = old.layer is not None and not self._storage.layers.has(old.layer)
            why = ["its layer is gone"] if gone else ["a step before it was carried out again"]
        else:
            why = explain(old.inputs, {**key.inputs, **files()})
        more = f" and {len(why) - _SHOWN} more" if len(why) > _SHOWN else ""
        shown = printable(", ".join(why[:_SHOWN]), 400) + more
        self._report(Detail(f"line {step.line}: {_label(step)} misses: {shown}"))


def _fits(record: CacheRecord, chain: Chain) -> bool:
    return record.layer is None or record.below == (chain[-1] if chain else None)


def _label(step: Step) -> str:
    """``COPY src/``: the instruction with what it reads."""
    word = step.instruction.text.split()[0].upper()
    if isinstance(step.instruction, Copy | Add):
        names = [source.text for source in step.instruction.sources]
        if isinstance(step.instruction, Copy) and step.instruction.from_:
            names.insert(0, f"--from={step.instruction.from_.text}")
        return printable(" ".join([word, *names]), 100)
    return word
