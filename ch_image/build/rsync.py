"""RSYNC: the host's rsync from the context into the image (Charliecloud's extension).

rsync runs outside of any container, so nothing that a Dockerfile says may make it read or write
elsewhere: the destination is resolved inside the tree first, options that name other files or
programs are refused, and links that would be followed have to stay in the context.
"""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator

from ch_image.build.context import Context
from ch_image.build.copy import copy as copy_files
from ch_image.build.copyspec import CopySpec, choose
from ch_image.build.digest import digest
from ch_image.build.effects import RsyncEffect
from ch_image.build.select import refuse
from ch_image.errors import BuildError, printable
from ch_image.fs.tree import Tree
from ch_image.storage.store import Storage

_METADATA = ("-@=-1", "-AHSXpr")
_GROUPS = {
    "m": _METADATA,
    "l": (*_METADATA, "-l", "--safe-links"),
    "u": (*_METADATA, "-l", "--copy-unsafe-links"),
    "z": (),
}
_REFUSED = frozenset(
    (
        *("--daemon", "--dry-run", "--remove-source-files", "--rsh", "--rsync-path", "--server"),
        *("--sender", "--remote-option", "--log-file", "--write-batch", "--only-write-batch"),
        *("--read-batch", "--backup-dir", "--temp-dir", "--partial-dir", "--compare-dest"),
        *("--copy-dest", "--link-dest", "--keep-dirlinks", "--config", "--password-file"),
        *("--early-input", "--fake-super", "--super", "--chroot", "--copy-as"),
    )
)
_SHORT_REFUSED = "neTMK"
_WITH_ARGUMENT = "efBTM@"  # short options whose argument is the rest of the word
_FOLLOWING = ("--copy-links", "--copy-unsafe-links", "--copy-dirlinks")
# Who all is root's cannot give files to others; what devices are, only a record could say.
_OURS = ("--no-owner", "--no-group", "--no-devices")


def content(effect: RsyncEffect, context: Context) -> dict[str, str]:
    """The digest of what rsync will read. Raises BuildError."""
    sources = tuple(_digested(source.strip("/"), context.root) for source in effect.sources)
    if _follows(effect) or any("-from=" in option for option in effect.options):
        sources = (".",)  # links may lead to any file of the context
    found = digest(context, choose(CopySpec(sources, "/"), context, refuse))
    return {" ".join(effect.sources): found}


def _digested(source: str, root: str) -> str:
    """What stands for a source: of patterns and links, which COPY reads otherwise, the parent."""
    parent, _, name = source.rpartition("/")
    if set("*?[") & set(name) or os.path.islink(os.path.join(root, source)):
        source = parent
    return source or "."


def carry_out(
    effect: RsyncEffect,
    context: Context,
    root: str,
    storage: Storage,
    tell: Callable[[str], None],
) -> dict[str, tuple[int, int]]:
    """Run rsync on the tree at ``root``; its output goes to ``tell``. Raises BuildError."""
    program = shutil.which("rsync")
    if program is None:
        raise BuildError("RSYNC needs rsync on this machine", hint="install it, or use COPY")
    with storage.scratch() as scratch:
        place = context.root
        if context.rules is not None:  # rsync cannot read them
            place = f"{scratch}/context"
            os.mkdir(place)
            copy_files(CopySpec((".",), "/"), context, place)
        sources = [path for source in effect.sources for path in _sources(source, place)]
        if _follows(effect):
            _check_links(sources, place)
        with Tree(root) as tree:
            options = [_option(option, place, root, tree) for option in effect.options]
            try:
                tree.mkdirs(os.path.dirname(effect.destination.rstrip("/")) or "/", 0o755)
                inside = tree.resolve(effect.destination.rstrip("/") or "/")
            except OSError as error:
                shown = printable(effect.destination, 200)
                raise BuildError(f"cannot make {shown}: {error.strerror}") from None
        target = os.path.join(root, inside) + ("/" if effect.destination.endswith("/") else "")
        argv = [program, *_GROUPS[effect.group], *options, *_OURS, "--", *sources, target]
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            umask=0o022,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        )
    for line in done.stdout.decode("utf-8", "replace").splitlines():
        tell(line)
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        reason = printable(said[0], 300) if said else "it said nothing"
        raise BuildError(f"rsync exited with {done.returncode}: {reason}")
    return {}


def _letters(option: str) -> str:
    """The short options of one word, without an argument at its end."""
    if option.startswith("--"):
        return ""
    for number, letter in enumerate(option[1:], 1):
        if letter in _WITH_ARGUMENT:
            return option[1 : number + 1]
    return option[1:]


def _follows(effect: RsyncEffect) -> bool:
    """Whether links may be replaced by what they lead to."""
    given = any(o in _FOLLOWING or set("Lk") & set(_letters(o)) for o in effect.options)
    return given or effect.group == "u"


def _option(option: str, context: str, root: str, tree: Tree) -> str:
    """An option as rsync gets it: files are in the context, absolute ones in the image."""
    name, equals, value = option.partition("=")
    if name in _REFUSED or set(_SHORT_REFUSED) & set(_letters(name)):
        raise BuildError(f"RSYNC does not take {printable(option, 60)}")
    if not (equals and name.startswith("--") and name.endswith("-from")):
        return option
    if value.startswith("/"):
        return f"{name}={os.path.join(root, tree.resolve(value))}"
    path = os.path.join(context, value)
    if not _is_inside(path, context):
        raise BuildError(f"{printable(option, 200)} leads out of the build context")
    return f"{name}={path}"


def _is_inside(path: str, root: str) -> bool:
    real = os.path.realpath(root)
    return os.path.commonpath([real, os.path.realpath(path)]) == real


def _check_links(sources: list[str], root: str) -> None:
    for path in _links(sources):
        if not _is_inside(path, root):
            shown = printable(os.path.relpath(path, root), 200)
            raise BuildError(
                f"the link {shown} leads out of the build context",
                hint="RSYNC +l leaves such links out",
            )


def _links(sources: list[str]) -> Iterator[str]:
    for source in sources:
        if os.path.islink(source.rstrip("/")):
            yield source.rstrip("/")
        for path, directories, files in os.walk(source):
            for name in (*directories, *files):
                if os.path.islink(f"{path}/{name}"):
                    yield f"{path}/{name}"


def _sources(source: str, root: str) -> list[str]:
    if ":" in source:
        raise BuildError(f"RSYNC copies from the context only: {printable(source, 200)}")
    pattern = os.path.join(glob.escape(root), source.lstrip("/"))
    found = sorted(glob.glob(pattern)) if source.strip("/") else [root]
    for path in found:  # a link by itself is rsync's affair, one that is gone through is not
        if not _is_inside(path if source.endswith("/") else _above(path, root), root):
            raise BuildError(f"{printable(source, 200)} leads out of the build context")
    if not found:
        raise BuildError(f'nothing in the build context matches "{printable(source, 200)}"')
    slash = "/" if source.endswith("/") else ""
    return [path.rstrip("/") + slash for path in found]


def _above(path: str, root: str) -> str:
    return root if path == root else os.path.dirname(path)
