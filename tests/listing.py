"""What a tar archive of an image holds, path by path, in a form that can be compared.

As a program: reads a tar from standard input, writes its listing as JSON to standard output.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tarfile
from typing import IO, Any

KINDS = {
    tarfile.REGTYPE: "file",
    tarfile.AREGTYPE: "file",
    tarfile.DIRTYPE: "dir",
    tarfile.SYMTYPE: "symlink",
    tarfile.CHRTYPE: "char",
    tarfile.BLKTYPE: "block",
    tarfile.FIFOTYPE: "pipe",
}
Entry = dict[str, Any]


def listing(stream: IO[bytes]) -> dict[str, Entry]:
    """Path -> type, mode, owner and so on. A hard link is listed as the file it names."""
    out: dict[str, Entry] = {}
    groups: dict[str, list[str]] = {}
    with tarfile.open(fileobj=stream, mode="r|*", errors="surrogateescape") as archive:
        for member in archive:
            path = _clean(member.name)
            if member.islnk():
                target = _clean(member.linkname)
                first = out[target]
                out[path] = first
                groups.setdefault(first["first"], [first["first"]]).append(path)
                continue
            entry: Entry = {
                "type": KINDS.get(member.type, str(member.type)),
                "owner": f"{member.uid}:{member.gid}",
                "xattrs": _attributes(member.pax_headers),
                "first": path,
            }
            if not member.issym():
                entry["mode"] = f"{member.mode & 0o7777:04o}"
            if member.issym():
                entry["target"] = member.linkname
            if member.ischr() or member.isblk():
                entry["device"] = f"{member.devmajor}:{member.devminor}"
            if member.isreg():
                file = archive.extractfile(member)
                assert file is not None
                entry["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
            out[path] = entry
    for paths in groups.values():
        for path in paths:
            out[path] = {**out[path], "links": sorted(paths)}
    return {path: {k: v for k, v in e.items() if k != "first"} for path, e in out.items()}


def _clean(name: str) -> str:
    return name.removeprefix("./").strip("/") or "."


def _attributes(headers: dict[str, str]) -> dict[str, str]:
    """Extended attributes, values as hexadecimal."""
    out = {}
    for key, value in headers.items():
        # ACLs are kept by neither Docker nor buildah: layers do not carry them.
        if key.startswith("SCHILY.xattr.") and "posix_acl" not in key:
            out[key.removeprefix("SCHILY.xattr.")] = value.encode("utf-8", "surrogateescape").hex()
    return out


if __name__ == "__main__":
    json.dump(listing(sys.stdin.buffer), sys.stdout, sort_keys=True)
