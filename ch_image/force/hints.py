"""Output of a failing RUN that tells what it lacked: an identity that one mapped ID cannot have."""

from __future__ import annotations

import re

_SIGNS = re.compile(
    "|".join((
        r"(chown|chgrp|lchown|fchown(at)?|setgroups|set(e|re|res)?[ug]ids?|mknod|chroot)\b.*"
        r"(Operation not permitted|Invalid argument|not permitted|failed)",
        r"(Operation not permitted|Invalid argument).*\b(chown|chgrp|owner|mknod|setgroups)\b",
        r"(changing|set|preserve|change) (the )?(ownership|owner|group)\b",
        r"Cannot (change ownership|mknod)",
        r"cpio: (chown|lchown|mknod|cap_set_file)",
        r"unpacking of archive failed",
        r"error setting ownership of",
        r"seteuid \d+ failed",
        r"unable to (set|change) (ownership|gid|uid|user|group)",
        r"(initgroups|setgid|setuid|cannot set groups|cannot set user id)\b.*(permitted|argument)",
    )),
    re.IGNORECASE,
)  # fmt: skip


def is_sign(line: str) -> bool:
    """Whether this line of output is about owners, identities or devices that were refused."""
    return bool(_SIGNS.search(line))
