"""The attribute security.capability, as layers carry it.

A file capability set inside a user namespace is stored with the namespace's root user (version
3, linux/capability.h ``struct vfs_ns_cap_data``). That number means nothing elsewhere, so layers
carry version 2, which the kernel takes for the root of whoever unpacks.
"""

from __future__ import annotations

from ch_image.typed import Final

_SIZE_2: Final = 20
_SIZE_3: Final = 24


def as_version_2(value: bytes) -> bytes:
    """``value`` without a root user; a value of another version or a malformed one as it is."""
    if len(value) == _SIZE_3 and value[3] == 3:
        return value[:3] + b"\x02" + value[4:_SIZE_2]
    return value
