"""RSYNC: the host's rsync from the context into the image (Charliecloud's extension).

The destination is resolved inside the tree first, so that no link of the image leads rsync out.
"""

from __future__ import annotations

import glob
import os
import shutil
import subprocess

from ch_image.build.context import Context
from ch_image.build.copy import CopySpec, choose
from ch_image.build.digest import digest
from ch_image.build.effects import RsyncEffect
from ch_image.errors import BuildError, printable
from ch_image.fs.tree import Tree

_METADATA = ("-@=-1", "-AHSXpr")
_GROUPS = {
    "m": _METADATA,
    "l": (*_METADATA, "-l", "--safe-links"),
    "u": (*_METADATA, "-l", "--copy-unsafe-links"),
    "z": (),
}
_REFUSED = ("--daemon", "-n", "--dry-run", "--remove-source-files", "--rsh", "-e", "--rsync-path")


def content(effect: RsyncEffect, context: Context) -> dict[str, str]:
    """The digest of what rsync will read. Raises BuildError."""
    sources = tuple(source.strip("/") or "." for source in effect.sources)
    found = digest(context, choose(CopySpec(sources, "/"), context))
    return {" ".join(effect.sources): found}


def carry_out(effect: RsyncEffect, context: Context, root: str) -> dict[str, tuple[int, int]]:
    """Run rsync. Raises BuildError."""
    program = shutil.which("rsync")
    if program is None:
        raise BuildError("RSYNC needs rsync on this machine", hint="install it, or use COPY")
    for option in effect.options:
        if option.partition("=")[0] in _REFUSED:
            raise BuildError(f"RSYNC does not take {printable(option, 60)}")
    sources = [path for source in effect.sources for path in _sources(source, context.root)]
    with Tree(root) as tree:
        inside = tree.resolve(effect.destination)
    target = os.path.join(root, inside) + ("/" if effect.destination.endswith("/") else "")
    argv = [program, *_GROUPS[effect.group], *effect.options, "--", *sources, target]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        reason = printable(said[0]) if said else "it said nothing"
        raise BuildError(f"rsync exited with {done.returncode}: {reason}")
    return {}


def _sources(source: str, root: str) -> list[str]:
    if ":" in source:
        raise BuildError(f"RSYNC copies from the context only: {printable(source, 200)}")
    pattern = os.path.join(glob.escape(root), source.lstrip("/"))
    found = sorted(glob.glob(pattern, include_hidden=True))
    real = os.path.realpath(root)
    for path in found:
        if os.path.commonpath([real, os.path.realpath(path)]) != real:
            raise BuildError(f"{printable(source, 200)} leads out of the build context")
    if not found:
        raise BuildError(f'nothing in the build context matches "{printable(source, 200)}"')
    slash = "/" if source.endswith("/") else ""
    return [path.rstrip("/") + slash for path in found]
