"""What ``features`` says: the specification's features structure (features.md)."""

from __future__ import annotations

from ch_image.oci import seccomp
from ch_image.oci.spec import CAPABILITIES, NAMESPACES
from ch_image.oci.states import VERSION
from ch_image.sandbox import mountopts
from ch_image.typed import Any

HOOKS = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]


def features() -> dict[str, Any]:
    """The structure, as JSON values."""
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": VERSION,
        "hooks": HOOKS,
        "mountOptions": mountopts.known(),
        "linux": {
            "namespaces": sorted(NAMESPACES),
            "capabilities": [f"CAP_{name}" for name in CAPABILITIES],
            "cgroup": {"v1": False, "v2": True, "systemd": False, "systemdUser": False,
                       "rdma": False},
            "seccomp": seccomp.features(),
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": False}},
        },
        "annotations": {"ch-image.root-emulation": "true"},
    }  # fmt: skip
