"""The root of a container, mounted as its plan says and made the process's own.

Apart from what starts and watches a container, for ch-run needs only this.
"""

from __future__ import annotations

import os

from ch_image.sandbox import syscalls as kernel
from ch_image.sandbox.mounts import Root, loopback_up

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ch_image.sandbox.plan import Plan


def furnish(plan: Plan) -> Root:
    """In a fresh mount namespace: mount what the plan says and make its root ours.

    Raises OSError with the path it was about.
    """
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount(plan.root, plan.root, None, kernel.MS_BIND | kernel.MS_REC)
    root = Root(plan.root)
    for operation in plan.operations:
        operation.apply(root)
    os.fchdir(root.fd)
    kernel.pivot_root(".", ".")
    kernel.umount2(".", kernel.MNT_DETACH)
    os.chdir("/")
    if plan.hostname:
        kernel.sethostname(plan.hostname)
    if "net" in plan.namespaces:
        loopback_up()
    return root
