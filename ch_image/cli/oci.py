"""oci: bundles and containers, with the verbs of Apptainer's ``oci`` commands."""

from __future__ import annotations

from ch_image.cli import oci_change, oci_mount, oci_run, options
from ch_image.cli.session import Session
from ch_image.errors import UsageError


def _none(_session: Session) -> int:
    raise UsageError("oci needs a verb", hint="ch-image oci --help lists them")


OCI = options.Command(
    "oci",
    "VERB ...",
    "Runs images as an OCI runtime does, with no privilege: mount makes a bundle of an image, the"
    " others create, start and end containers of a bundle.",
    (),
    _none,
    verbs=(
        oci_mount.MOUNT,
        oci_mount.UMOUNT,
        oci_mount.LIST,
        oci_run.RUN,
        oci_run.CREATE,
        oci_run.START,
        oci_run.STATE,
        oci_run.ATTACH,
        oci_run.EXEC,
        oci_run.KILL,
        oci_run.DELETE,
        oci_change.PAUSE,
        oci_change.RESUME,
        oci_change.UPDATE,
    ),
)
