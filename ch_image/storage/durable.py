"""What survives a power failure, and how we know without syncing at every step.

Images are published after one ``syncfs``, so they are always whole. Layers are not synced one by
one: a layer's record carries a stamp (boot, time), and is trusted as long as the machine has not
been restarted since (a killed process loses no page), or if a later ``syncfs`` of the same boot
is on record in ``synced``. A layer that may have lost data is as good as none: it is made again.
"""

from __future__ import annotations

import os
import time

from ch_image.storage.faults import faults
from ch_image.storage.record import Damaged, pack, read_record, write_file
from ch_image.storage.scratch import Scratch
from ch_image.typed import NamedTuple

_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_REMEMBERED = 64  # boots (or hosts that share the directory) whose last sync is kept


class Stamp(NamedTuple):
    """A moment: the boot it belongs to, and nanoseconds since that boot."""

    boot: str
    at: int


class Durability:
    """Takes stamps, syncs, and judges stamps. One for each Storage."""

    def __init__(self, path: str, scratch: Scratch) -> None:
        self._root = path
        self._path = f"{path}/synced"
        self._scratch = scratch
        self._boot = ""
        self._synced: dict[str, int] | None = None
        self._fd = -1

    def watch(self) -> None:
        """Begin to notice write errors: ``sync`` reports those since the first call."""
        if self._fd < 0:
            with faults("open the storage directory"):
                self._fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def stamp(self) -> Stamp:
        """Now."""
        if not self._boot:
            try:
                with open(_BOOT_ID, encoding="ascii") as file:
                    self._boot = file.read().strip()
            except OSError:  # no /proc: nothing is trusted beyond its sync
                self._boot = f"unknown-{os.urandom(8).hex()}"
        return Stamp(self._boot, time.clock_gettime_ns(time.CLOCK_BOOTTIME))

    def sync(self) -> None:
        """Bring everything to disk that was written so far. Raises StorageError.

        One ``syncfs`` (2) of the whole file system: cheaper than an fsync for each file, and the
        only call that also covers directories and what overlayfs wrote.
        """
        from ch_image.sandbox.syscalls import syncfs

        self.watch()
        moment = self.stamp()
        with faults("bring the image to disk"):
            syncfs(self._fd)
            known = self._read()
            known[moment.boot] = moment.at
            latest = list(known.items())[-_REMEMBERED:]
            body = "".join(f"{boot} {at}\n" for boot, at in latest).encode()
            write_file(self._path, pack("synced", (), body), self._scratch)
        self._synced = known

    def trusted(self, stamp: Stamp) -> bool:
        """Whether what was written at ``stamp`` is whole."""
        if stamp.boot == self.stamp().boot:
            return True
        if self._synced is None:
            self._synced = self._read()
        return stamp.at <= self._synced.get(stamp.boot, -1)

    def _read(self) -> dict[str, int]:
        try:
            _, body = read_record(self._path, "synced")
        except (FileNotFoundError, Damaged):  # forgetting it costs work, never truth
            return {}
        out: dict[str, int] = {}
        for line in body.decode().splitlines():
            boot, _, at = line.partition(" ")
            out.pop(boot, None)
            out[boot] = int(at)
        return out

    def close(self) -> None:
        """Close the descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
