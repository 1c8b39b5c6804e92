"""ch-run-oci: not built yet, and it says so."""

from __future__ import annotations

import sys

from ch_image.cli.faults import Frame, run_program
from ch_image.errors import UsageError


def main() -> int:
    """The program ``ch-run-oci``; its exit code."""
    return run_program(_refuse)


def _refuse(_frame: Frame) -> int:
    raise UsageError(
        "ch-run-oci is not built yet in this version", hint="use ch-run to run an image"
    )


if __name__ == "__main__":
    sys.exit(main())
