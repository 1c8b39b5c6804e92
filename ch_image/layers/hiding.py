"""Whiteouts of a layer's archive, and what they mean for the tree it is unpacked into.

OCI image layout, "layer.md": ``.wh.NAME`` hides NAME of lower layers, ``.wh..wh..opq`` all that
its directory has there. Neither touches what its own layer has, wherever in the archive it stands.
"""

from __future__ import annotations

import os
import stat

from ch_image.errors import ImageError
from ch_image.fs import whiteouts
from ch_image.layers.lower import root_names
from ch_image.layers.places import Hidden, Places, shown


class Hiding:
    """Takes whiteouts out of an archive, in any order with its other members."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._root = False

    def take(self, path: bytes) -> bool:
        """Carry out ``path`` if it is a whiteout; False when it is an ordinary name.

        aufs's own bookkeeping (``.wh..wh.*``) is taken and dropped. ImageError: a whiteout that
        can mean nothing, such as one of the root or of "..".
        """
        parts = path.split(b"/")
        marked = [part for part in parts if part.startswith(whiteouts.PREFIX)]
        if not marked:
            return False
        directory, name = b"/".join(parts[:-1]), parts[-1]
        if name == whiteouts.OPAQUE_NAME and len(marked) == 1:
            self._opaque(directory)
            return True
        if any(part.startswith(b".wh..wh.") for part in marked):
            return True
        hidden = name[len(whiteouts.PREFIX) :]
        if len(marked) > 1 or marked[0] is not name or hidden in (b"", b".", b".."):
            raise ImageError(f"the layer has a whiteout that means nothing: {shown(path)}")
        try:
            dir_fd, directory = self._places.parent(directory, over_whiteouts=False)
        except Hidden:
            return True  # all of that directory is gone anyway
        try:
            whiteouts.make_whiteout(dir_fd, hidden)
        except FileExistsError:
            self._hide_below(directory, hidden)
        return True

    def finish(self) -> None:
        """Carry out what had to wait until all names of the layer are known."""
        if not self._root:
            return
        places = self._places
        for name in sorted(root_names(places.lower)):
            places.used_lower = True
            try:
                whiteouts.make_whiteout(places.directories.root, name)
            except FileExistsError:
                self._hide_below(b"", name)

    def _opaque(self, directory: bytes) -> None:
        if not directory:
            # Overlayfs merges roots whatever they say: each name is hidden by itself, later.
            self._root = True
            self._places.opaque.add(b"")
            return
        fd, real = self._places.parent(directory)
        self._places.make_opaque(real, fd)

    def _hide_below(self, directory: bytes, name: bytes) -> None:
        """Hide ``name`` of lower layers where this layer has one of its own, which stays."""
        places = self._places
        real = directory + b"/" + name if directory else name
        state = os.stat(name, dir_fd=places.directories.get(directory), follow_symlinks=False)
        if stat.S_ISDIR(state.st_mode):
            places.make_opaque(real, places.directories.get(real))
