"""Differences between an image of ours and root's, outside of a list of paths that must differ.

As a program: compare.py ROOT.json OURS.json prints them, and fails when there are any.
"""

from __future__ import annotations

import fnmatch
import json
import sys
from pathlib import Path
from typing import Any

Listing = dict[str, dict[str, Any]]

# What no two builds have in common, for anybody: only the content, and only of these.
CONTENT = {
    "var/log/*": "times of day",
    "var/cache/ldconfig/aux-cache": "inode numbers and times",
    "etc/machine-id": "random",
    "var/lib/dbus/machine-id": "random",
    "etc/ssh/ssh_host_*_key*": "random keys",
    "etc/ssl/certs/ssl-cert-snakeoil.pem": "a random key",
    "etc/ssl/private/ssl-cert-snakeoil.key": "a random key",
    "etc/ssl/certs/????????.?": "a hash of the random key",
    "etc/shadow": "the day of the last change of a password",
    "etc/shadow-": "the same",
    "var/cache/man/*": "a database with times",
    "var/cache/apt/*.bin": "a database with times",
    "var/lib/systemd/catalog/database": "times",
    "var/cache/debconf/*": "order of packages",
    "etc/resolv.conf": "the host's while a RUN runs",
    "etc/hosts": "the same",
    "etc/hostname": "the same",
    "home/joe/*.tar": "times",
}
# Paths that exist on one side only.
ABSENT = {
    ".": "not in our archives",
    "ch": "what ch-convert adds for Charliecloud",
    "ch/*": "the same",
    "mnt/?": "mount points that ch-convert adds",
}
# What an overlay does, in Docker as in ours, and root's plain directories do not: a hard link to
# a file of a layer below becomes a copy of it.
LINKS = ("t/one", "t/two", "t/three", "t/four")
MODES = {"etc/hosts": "buildah's own"}


def _listed(path: str, patterns: dict[str, str]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def differences(root: Listing, ours: Listing) -> list[str]:
    """One line for each difference that the lists above do not name."""
    out = []
    for path in sorted(root.keys() | ours.keys()):
        a, b = root.get(path), ours.get(path)
        if a is None or b is None:
            if not _listed(path, ABSENT):
                out.append(f"{path}: only {'ours' if a is None else 'root'}: {a or b}")
            continue
        for key in sorted(a.keys() | b.keys()):
            if a.get(key) == b.get(key) or key == "sha256" and _listed(path, CONTENT):
                continue
            if key == "links" and path in LINKS or key == "mode" and path in MODES:
                continue
            out.append(f"{path}: {key}: root {a.get(key)}, ours {b.get(key)}")
    return out


if __name__ == "__main__":
    found = differences(*(json.loads(Path(p).read_text()) for p in sys.argv[1:3]))
    sys.stdout.write("".join(line + "\n" for line in found))
    sys.exit(bool(found))
