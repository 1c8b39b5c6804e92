"""``RUN --mount``: what each mount reads for the cache key, and what it is in the container.

A bind mount that may be written is a draft of the stage or image, or a copy of the context's files
in scratch, and is thrown away; so is one whose context has ignore rules. Others are the files
themselves, read-only. Cache mounts live in the storage directory's ``mounts/``. Secrets exist in
memory only.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from ch_image.build.copy import copy as copy_files
from ch_image.build.copyspec import CopySpec, choose, content
from ch_image.build.effects import RunEffect
from ch_image.build.named import named_files
from ch_image.build.options import BuildOptions
from ch_image.build.origins import Origin
from ch_image.build.plan import Step
from ch_image.build.rows import MODE
from ch_image.build.run import Cancelled
from ch_image.build.schedule import Cancel
from ch_image.build.select import refuse
from ch_image.build.source import Source
from ch_image.build.statindex import Memo
from ch_image.dockerfile.mounts import ResolvedMount
from ch_image.errors import BuildError, printable
from ch_image.fs import owners as records
from ch_image.model.sha256 import sha256
from ch_image.sandbox.mounts import Bind, File, Operation, Tmpfs
from ch_image.storage.layers import Chain
from ch_image.storage.snapshots.base import Snapshotter
from ch_image.storage.store import Storage

SourceOf = Callable[[Origin | None, Chain | None], Source]
_MAX_SECRET = 500 << 10  # bytes, as Docker's builder has it
_AGENT = "/run/buildkit/ssh_agent.{}"
_POLL = 0.05  # seconds between two looks at a cache that another RUN has locked


def mount_content(
    effect: RunEffect,
    origins: Sequence[Origin | None],
    chains: Sequence[Chain | None],
    source_of: SourceOf,
    memo: Memo | None = None,
) -> dict[str, str]:
    """Digests of the trees that bind mounts show. Raises BuildError."""
    out: dict[str, str] = {}
    for mount, origin, chain in zip(effect.mounts, origins, chains, strict=True):
        if mount.type == "bind":
            source = source_of(origin, chain)
            found = content(
                _spec(mount), source, owners=chain is not None, memo=memo, lacking=refuse
            )
            out[f"--mount {mount.target}"] = found
    return out


def mount_files(
    effect: RunEffect,
    origins: Sequence[Origin | None],
    chains: Sequence[Chain | None],
    source_of: SourceOf,
) -> dict[str, str]:
    """What `named_files` gives for the trees that bind mounts show from contexts."""
    out: dict[str, str] = {}
    for mount, origin, chain in zip(effect.mounts, origins, chains, strict=True):
        if mount.type == "bind" and chain is None:
            source = source_of(origin, chain)
            out |= named_files(source, choose(_spec(mount), source))
    return out


def _spec(mount: ResolvedMount) -> CopySpec:
    path = mount.source.strip("/")
    return CopySpec((path or ".",), "/")


class RunMounts:
    """Prepares the mounts of one RUN."""

    def __init__(
        self,
        options: BuildOptions,
        storage: Storage,
        snapshotter: Callable[[], Snapshotter],
        source_of: SourceOf,
        cancel: Cancel,
    ) -> None:
        self._options, self._storage, self._source_of = options, storage, source_of
        self._snapshotter, self._cancel = snapshotter, cancel

    @contextmanager
    def prepared(
        self, effect: RunEffect, step: Step, chains: Sequence[Chain | None]
    ) -> Iterator[tuple[list[Operation], Mapping[str, str]]]:
        """Mount operations, and variables to set, for the time of the block.

        Raises BuildError, StorageError.
        """
        with ExitStack() as stack:
            operations: list[Operation] = []
            env: dict[str, str] = {}
            origins = step.origins or (None,) * len(effect.mounts)
            given = chains or (None,) * len(effect.mounts)
            for number, mount in enumerate(effect.mounts):
                operations += self._one(stack, mount, origins[number], given[number], number, env)
            yield operations, env

    def _one(
        self,
        stack: ExitStack,
        mount: ResolvedMount,
        origin: Origin | None,
        chain: Chain | None,
        number: int,
        env: dict[str, str],
    ) -> list[Operation]:
        match mount.type:
            case "tmpfs":
                size = f",size={mount.size}" if mount.size else ""
                return [Tmpfs(mount.target, f"mode=1777{size}")]
            case "cache":
                return [self._cache(stack, mount, origin, chain)]
            case "secret":
                return self._secret(mount, env)
            case "ssh":
                return self._agent(mount, number, env)
            case _:
                return [self._bind(stack, mount, self._source_of(origin, chain), chain)]

    def _bind(
        self, stack: ExitStack, mount: ResolvedMount, source: Source, chain: Chain | None
    ) -> Operation:
        path = mount.source.strip("/")
        found = source.resolve(path)
        if found is None:
            choose(_spec(mount), source, refuse)  # raises, saying what is near
            raise BuildError(f"--mount: there is no {printable(mount.source)}")
        if mount.readonly and source.rules is None:
            return Bind(os.path.join(source.root, found), mount.target, readonly=True)
        if chain is not None:
            snapshotter = self._snapshotter()
            draft = snapshotter.prepare(chain)
            stack.callback(snapshotter.discard, draft)
            return Bind(os.path.join(draft.root, found), mount.target)
        scratch = stack.enter_context(self._storage.scratch())
        copied = f"{scratch}/copy"
        os.mkdir(copied)
        if source.is_dir(path):
            copy_files(_spec(mount), source, copied)
            row = source.row(found) if found else None
            os.chmod(copied, stat.S_IMODE(row[MODE]) if row else 0o755)
            return Bind(copied, mount.target, readonly=mount.readonly)
        copy_files(_spec(mount)._replace(destination="/file"), source, copied)
        return Bind(f"{copied}/file", mount.target, readonly=mount.readonly)

    # -- cache --

    def _cache(
        self, stack: ExitStack, mount: ResolvedMount, origin: Origin | None, chain: Chain | None
    ) -> Operation:
        name = sha256(mount.id.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        base = os.path.join(self._storage.path, "mounts")
        for number in range(1000):
            path = os.path.join(base, f"{name}.{number}" if number else name)
            lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, lock)
            if not self._locked(lock, mount.sharing):
                continue
            if not os.path.isdir(path):
                self._new_cache(path, mount, origin, chain)
            return Bind(path, mount.target, readonly=mount.readonly)
        raise BuildError(f"--mount=type=cache,id={printable(mount.id, 100)}: too many in use")

    def _locked(self, lock: int, sharing: str) -> bool:
        """Take the lock; False: another RUN has this one, a private one has to take the next.

        Waits by looking again and again, so that a build that ends is never held up here.
        """
        how = fcntl.LOCK_SH if sharing == "shared" else fcntl.LOCK_EX
        while True:
            try:
                fcntl.flock(lock, how | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if sharing == "private":
                    return False
            if self._cancel.is_raised():
                raise Cancelled
            time.sleep(_POLL)

    def _new_cache(
        self, path: str, mount: ResolvedMount, origin: Origin | None, chain: Chain | None
    ) -> None:
        """Made in scratch, filled from ``from=`` when that is given, and renamed."""
        with self._storage.scratch() as scratch:
            new = f"{scratch}/cache"
            os.mkdir(new)
            if origin is not None:
                copy_files(_spec(mount), self._source_of(origin, chain), new)
            mode = 0o755 if mount.mode is None else mount.mode
            os.chmod(new, mode)
            if mount.uid or mount.gid:
                owner = records.Recorded(mount.uid or 0, mount.gid or 0, mode, "dir")
                records.write(new, owner)
            try:
                os.rename(new, path)
            except OSError:  # another RUN made it first
                if not os.path.isdir(path):
                    raise

    # -- secrets --

    def _secret(self, mount: ResolvedMount, env: dict[str, str]) -> list[Operation]:
        secret = self._options.secrets.get(mount.id)
        if secret is None:
            if mount.required:
                raise BuildError(
                    f'this step needs the secret "{printable(mount.id, 100)}"',
                    hint=f"give it with --secret id={printable(mount.id, 100)},src=FILE",
                )
            return []
        value = self._options.secret_values.get(secret.variable) if secret.variable else None
        if value is None:
            value = _read_secret(secret.path, mount.id)
        if mount.env is not None:
            if b"\0" in value:
                raise BuildError(f"the secret {printable(mount.id, 100)} holds a NUL byte")
            env[mount.env or mount.id] = os.fsdecode(value)
        if not mount.target:
            return []
        mode = 0o400 if mount.mode is None else mount.mode
        owner = mount.uid or 0, mount.gid or 0
        return [File(mount.target, os.fsdecode(value), mode, owner)]

    def _agent(self, mount: ResolvedMount, number: int, env: dict[str, str]) -> list[Operation]:
        path = self._options.ssh.get(mount.id)
        if path is None:
            if mount.required:
                raise BuildError(
                    f'this step needs the SSH agent "{printable(mount.id, 100)}"',
                    hint="give it with --ssh default, while SSH_AUTH_SOCK is set",
                )
            return []
        target = mount.target or _AGENT.format(number)
        env["SSH_AUTH_SOCK"] = target
        return [Bind(path, target)]


def _read_secret(path: str, name: str) -> bytes:
    try:
        with open(path, "rb") as file:
            value = file.read(_MAX_SECRET + 1)
    except OSError as error:
        raise BuildError(
            f"cannot read the secret {printable(name, 100)}: {error.strerror}"
        ) from None
    if len(value) > _MAX_SECRET:
        raise BuildError(f"the secret {printable(name, 100)} is larger than 500 KiB")
    return value
