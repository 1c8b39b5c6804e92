"""Mount points that a root lacked: made for a container, and gone with the last one of that root.

To take one away unmounts what other containers have mounted there (rename(2) and rmdir(2) of mount
points of other namespaces), so it must stay while any has the same root. Who goes first leaves
what it made to one of them, in a file of that one's directory.
"""

from __future__ import annotations

import json
import os

from ch_image.errors import ChError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ch_image.oci.states import Record, Store

_LEFT = "stubs-"  # what the names of such files begin with


def settle(store: Store, record: Record) -> None:
    """Remove a container's mount points, or leave them to another; the store's lock is held."""
    made = [*record.stubs, *_left(f"{store.path}/{record.id}")]
    if not made:
        return
    heir = _other(store, record)
    if heir:
        with open(f"{store.path}/{heir}/{_LEFT}{os.urandom(8).hex()}", "x") as file:
            json.dump(made, file)
        return
    from ch_image.sandbox import mounts

    made.sort(key=lambda stub: stub[0].count("/"))  # the last are removed first
    try:
        mounts.remove_stubs(record.rootfs, made)
    except OSError:  # the tree is gone, or lies in another mount namespace
        pass


def _left(directory: str) -> list[tuple[str, int]]:
    out = []
    for name in os.listdir(directory):
        if name.startswith(_LEFT):
            with open(f"{directory}/{name}") as file:
                out += [(path, at) for path, at in json.load(file)]
    return out


def _other(store: Store, record: Record) -> str:
    """Another container of the same root; one that is just being made is one, too."""
    for name in os.listdir(store.path):
        if name.startswith(".") or name == record.id:
            continue
        try:
            if store.read(name).rootfs == record.rootfs:
                return name
        except ChError:
            continue
    return ""
