"""verify: everything in storage is looked at, and repaired as far as can be."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ch_image.cli import options
from ch_image.cli.session import Session, emit
from ch_image.report import Info

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ch_image.model.digest import Digest
    from ch_image.storage.images import Image
    from ch_image.storage.store import Storage
    from ch_image.storage.verify import Finding


class _Tally:
    """Says findings as they come, and counts them."""

    def __init__(self, *, fix: bool) -> None:
        self._fix = fix
        self.mended = self.left = 0

    def __call__(self, finding: Finding) -> None:
        if finding.done == "left alone":
            pass
        elif finding.done and self._fix:
            self.mended += 1
        else:
            self.left += 1
        would = "" if self._fix or not finding.done else "would be "
        emit([f"{finding.what}: {would}{finding.done}" if finding.done else finding.what])
        if finding.hint and not finding.done:
            emit([f"  {finding.hint}"])


def _verify(session: Session) -> int:
    from ch_image.storage import verify
    from ch_image.transfer.verify import layers

    fix = not session.parsed.has("dry-run")
    storage, tally = session.storage, _Tally(fix=fix)
    session.enter(needed=True)
    before = _scratch(storage)
    with session.locked(exclusive=True):
        if gone := before - _scratch(storage):
            emit([f"left over by {len(gone)} dead processes: removed"])
        bad_blobs: set[Digest] = set()
        for finding in verify.blobs(storage, bad_blobs, fix=fix):
            tally(finding)
        images, faults = verify.images(storage)
        for finding in faults:
            tally(finding)
        checked = layers(storage, images, bad_blobs, tally, fix=fix)
        for part in (verify.deleted, verify.cache):
            for finding in part(storage, checked.bad, fix=fix):
                tally(finding)
        for finding in verify.indexes(storage, lambda name: _has(session, name)):
            tally(finding)
        for finding in _memos(storage, images, fix=fix):
            tally(finding)
        if fix:
            verify.lists(storage, checked.bad)
            storage.sync()
        counts = f"{len(images)} images, {len(storage.blobs.all())} blobs"
    known = f"{checked.compared} layers compared, {checked.read} only read (never packed)"
    session.report(Info(f"verified: {counts}; {known}"))
    emit([f"{tally.mended} repaired, {tally.left} {'damaged' if fix else 'found'}"])
    return 1 if tally.left else 0


def _scratch(storage: Storage) -> set[str]:
    """What lies in ``tmp/`` and is not ours."""
    return {name for name in os.listdir(f"{storage.path}/tmp") if not storage.tmp.endswith(name)}


def _has(session: Session, name: str) -> bool:
    from ch_image.errors import ChError

    try:
        return session.storage.images.find(session.ref(name)) is not None
    except ChError:
        return True  # there, and its own fault has been told


def _memos(storage: Storage, images: list[Image], *, fix: bool) -> Iterator[Finding]:
    """What ch-run keeps of images must be what their records say."""
    from ch_image.cli.run_memo import disagrees
    from ch_image.storage.verify import Finding

    place = f"{storage.path}/running"
    said = {
        f"images/{image.ref.file_name}": (
            [f"layers/{layer}/t" for layer in reversed(image.layers)],
            [item for item in image.config.config.env if "=" in item],
        )
        for image in images
    }
    for name in sorted(os.listdir(place)):
        if name.startswith("%") and fix:  # of an OCI layout, which is elsewhere: looked up again
            os.unlink(f"{place}/{name}")
        elif disagrees(f"{place}/{name}", storage.path, said):
            if fix:
                os.unlink(f"{place}/{name}")
            yield Finding(f"what ch-run noted of {name.replace('%', '/')}: damaged", "removed")


VERIFY = options.Command(
    "verify",
    "",
    "Checks all that is in storage, which takes as long as reading it: blobs by their digests,"
    " records by their checksums, layers by their blobs or diff IDs. What can be had again is"
    " repaired or removed, one line each; what stays damaged is named, and the exit code is 1.",
    (options.flag("-n --dry-run", "change nothing; exit 1 if there is something to repair"),),
    _verify,
)
