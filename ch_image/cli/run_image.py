"""The image that ch-run is given: what it is, and how its root is mounted.

A thin overlay in memory over the image takes the mount points that the image lacks, so that a
missing one is no error and the image stays as it is. Where the kernel cannot do that, the image's
directory is mounted as it is.
"""

from __future__ import annotations

import os

from ch_image.cli.environment import storage_path
from ch_image.errors import ChError, NotFound, SandboxError, printable
from ch_image.sandbox import syscalls as kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ch_image.cli.log import Log
    from ch_image.cli.options import Parsed
    from ch_image.cli.run_memo import Memo
    from ch_image.storage.layers import Chain
    from ch_image.storage.store import Storage

_OPEN = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_MAX_ENVIRONMENT = 4 << 20  # bytes of /ch/environment
_SQUASHFS = b"hsqs"


class Guest:
    """An image to run; ``is_stored`` when it lies in storage."""

    is_stored = False

    def mount(self, size: str, *, writable: bool) -> str:
        """Mount the root in our mount namespace; where it is then.

        ``size``: how much may be written and forgotten, as tmpfs(5) takes it; empty for a few
        mount points only. ``writable``: the image itself is written to. Raises SandboxError.
        """
        raise NotImplementedError

    def environment(self, root: str) -> list[str]:
        """The image's variables, as lines NAME=VALUE. Raises ChError."""
        raise NotImplementedError


class DirectoryGuest(Guest):
    """A directory of the host."""

    def __init__(self, path: str) -> None:
        self.path = os.path.realpath(path)
        if self.path == "/":  # nothing can be mounted over it
            raise ChError("the host's own root cannot be run as an image")

    def mount(self, size: str, *, writable: bool) -> str:
        """See ``Guest``."""
        if writable:
            return self.path
        image = os.open(self.path, _OPEN)
        try:
            return mount_overlay([f"/proc/self/fd/{image}"], self.path, size)
        except OSError as error:
            if size:
                raise no_overlay(error) from None
            kernel.umount2(self.path, kernel.MNT_DETACH)
            return self._as_it_is()
        finally:
            os.close(image)

    def _as_it_is(self) -> str:
        """Read-only before anything is mounted in it: a mount point that is missing stays so."""
        kernel.mount(self.path, self.path, None, kernel.MS_BIND | kernel.MS_REC)
        fd = os.open(self.path, _OPEN)
        kernel.mount_setattr(fd, "", kernel.AT_EMPTY_PATH, kernel.MOUNT_ATTR_RDONLY)
        os.close(fd)
        return self.path

    def environment(self, root: str) -> list[str]:
        """From /ch/environment."""
        return read_environment(root)


def read_environment(root: str) -> list[str]:
    """The lines of /ch/environment, found inside the image whatever links it holds."""
    top = bottom(root)
    try:
        flags = os.O_RDONLY | os.O_NONBLOCK
        fd = kernel.openat2(top, "ch/environment", flags, 0, kernel.RESOLVE_IN_ROOT)
        with open(fd, "rb") as file:
            data = file.read(_MAX_ENVIRONMENT)
    except OSError as error:
        raise ChError(f"can't open: /ch/environment: {error.strerror}") from None
    finally:
        os.close(top)
    return [os.fsdecode(line) for line in data.split(b"\n") if line]


def bottom(path: str) -> int:
    """A descriptor of the directory ``path``, which stays good when something is mounted there."""
    return os.open(path, _OPEN)


class StoredGuest(Guest):
    """An image in storage, mounted straight from its layers.

    ``trees``: theirs, topmost first, relative to the storage directory ``path``.
    """

    is_stored = True

    def __init__(self, path: str, trees: list[str], env: list[str]) -> None:
        self._path, self.trees, self._env = path, trees, env
        self.later: Callable[[], list[str]] | None = None  # makes them, once we may

    def mount(self, size: str, *, writable: bool) -> str:
        """See ``Guest``."""
        trees = self.later() if self.later else self.trees
        top = bottom(self._path)
        try:
            # An image may have a layer twice; the upper one hides the lower wholly.
            lowers = [f"/proc/self/fd/{top}/{tree}" for tree in dict.fromkeys(trees)]
            return mount_overlay(lowers, f"{self._path}/tmp", size)
        except OSError as error:
            raise no_overlay(error) from None
        finally:
            os.close(top)

    def environment(self, root: str) -> list[str]:
        """From the image's configuration."""
        return self._env


def mount_overlay(lowers: list[str], place: str, size: str) -> str:
    """Mount memory at ``place`` and in it an overlay of ``lowers`` (topmost first)."""
    kernel.mount("none", place, "tmpfs", kernel.MS_NODEV, f"mode=0755,size={size or '4m'}")
    for name in ("upper", "work", "root"):
        os.mkdir(f"{place}/{name}", 0o755)
    below = os.stat(lowers[0])
    os.chmod(f"{place}/upper", below.st_mode & 0o7777)
    memory = os.open(place, _OPEN)
    try:
        base = f"/proc/self/fd/{memory}"
        options = f"userxattr,lowerdir={':'.join(lowers)},upperdir={base}/upper,workdir={base}/work"
        kernel.mount("overlay", f"{place}/root", "overlay", 0, options)
    finally:
        os.close(memory)
    return f"{place}/root"


def no_overlay(error: OSError) -> SandboxError:
    """What to say where the kernel mounts no overlay."""
    return SandboxError(
        f"can't mount an overlay: {error.strerror}",
        hint="this needs Linux 5.11; ch-convert the image to a directory and run that",
    )


def find(name: str, parsed: Parsed, env: Mapping[str, str], log: Log) -> Guest:
    """The image called ``name``: in storage, else a path. Raises ChError."""
    _check_write_fake(parsed)
    is_directory = os.path.isdir(name)
    stored = _in_storage(name, storage_path(parsed, env), env)
    if stored is not None:
        if is_directory:
            log.warning(f"{printable(name, 200)} is in storage and a directory: taking storage")
        return stored
    if parsed.has("mount"):
        if not parsed.text("mount"):
            raise ChError("--mount: the mount point can't be the empty string")
        if not os.path.isfile(name):
            log.warning("--mount is for SquashFS files only: ignored")
    if is_directory and not os.path.isfile(f"{name}/oci-layout"):
        return DirectoryGuest(name)
    if os.path.isfile(name):
        with open(name, "rb") as file:
            is_squash = file.read(4) == _SQUASHFS
        if is_squash:
            from ch_image.cli.run_squash import SquashGuest

            return SquashGuest(name, parsed.text("mount"), env.get("PATH", ""))
    path = name if os.path.lexists(name) else name.partition(":")[0]
    if path and os.path.exists(path):
        return _layered(name, path, parsed, env)
    raise _not_found(name, parsed, env)


def _not_found(name: str, parsed: Parsed, env: Mapping[str, str]) -> NotFound:
    """Why there is no such image, as far as can be told."""
    shown = printable(name, 300)
    meant = _meant(name, parsed)
    if meant:
        return NotFound(f"can't find image: {shown}", hint=meant)
    if "/" in name:
        try:
            os.stat(name)
        except PermissionError:
            return NotFound(f"can't find image: {shown}: Permission denied")
        except OSError:
            pass
    bare = name.partition("://")[2]
    if bare:
        return NotFound(
            f"can't find image: {shown}",
            hint=f"pull it: ch-image pull {printable(bare, 200)}, and run it by that name",
        )
    if name.startswith(("/", ".")):
        return NotFound(f"can't find image: {shown}: there is no such file or directory")
    path = storage_path(parsed, env)
    if parsed.has("storage") and not os.path.isdir(path):
        hint = f"there is no storage directory {printable(path, 200)}"
    else:
        near = _near(name, path, env) or "ch-image list shows those in storage"
        hint = f"{near}; ch-image pull {shown} fetches it"
    return NotFound(f"can't find image: {shown}", hint=hint)


def _meant(name: str, parsed: Parsed) -> str:
    """A hint where ``name`` was to be the value of the option before it."""
    shown = printable(name, 100)
    if ("write-fake", "12%") in parsed.given and _is_size(name):
        return f"a size follows at once: --write-fake={shown}"
    for option in ("set-env", "set-env0"):
        if (option, "") in parsed.given and ("=" in name or os.path.isfile(name)):
            return f"its value follows at once: --{option}={shown}"
    return ""


def _near(name: str, path: str, env: Mapping[str, str]) -> str:
    """What the storage has that is called alike, as a hint."""
    from ch_image.cli.session import default_registry
    from ch_image.model.ref import parse_ref
    from ch_image.storage.store import open_storage

    try:
        if os.path.exists(f"{path}/version"):
            open_storage(path).images.get(parse_ref(name, default_registry(env)))
    except ChError as error:
        return error.hint if error.hint.startswith("there is ") else ""
    return ""


def _layered(name: str, path: str, parsed: Parsed, env: Mapping[str, str]) -> Guest:
    """An OCI layout, or an archive of one or of docker save; ``name`` is ``path[:TAG]``."""
    from ch_image.formats.recognise import recognise

    kind = recognise(path)
    if kind not in ("oci", "oci-archive", "docker-archive"):
        raise ChError(
            f"{printable(name, 300)} is no image that is known",
            hint=_meant(name, parsed)
            or "ch-image import it, or unpack it to a directory, and run that",
        )
    from ch_image.cli.run_layout import layout_guest

    storage = storage_path(parsed, env)
    return layout_guest(kind, name, storage, env, parsed.count("verbose"))


def _check_write_fake(parsed: Parsed) -> None:
    """Refuse a SIZE that tmpfs(5) would not understand. Raises ChError."""
    size = parsed.text("write-fake", "12%")
    if not _is_size(size):
        raise ChError(
            f"--write-fake: no size: '{printable(size, 60)}'",
            hint="write a number of bytes, or with k, m, g, or % of the memory: --write-fake=2g",
        )


def _is_size(text: str) -> bool:
    number = text[:-1] if text[-1:] in "%kKmMgGtTpPeE" else text
    return number.isascii() and number.isdigit()


def _in_storage(name: str, path: str, env: Mapping[str, str]) -> StoredGuest | None:
    """The image in storage, without importing what that needs where there can be none."""
    if name.startswith(("/", ".")) or not os.path.exists(f"{path}/version"):
        return None
    from ch_image.cli.run_memo import Memo

    memo = Memo(path, name, env)
    found = memo.recall()
    return StoredGuest(path, *found) if found else _look_up(name, path, env, memo)


def _look_up(name: str, path: str, env: Mapping[str, str], memo: Memo) -> StoredGuest | None:
    """The image through the storage's own records."""
    from ch_image.cli.session import default_registry
    from ch_image.errors import ImageError
    from ch_image.model.ref import parse_ref
    from ch_image.storage.snapshots.merge import PLAIN
    from ch_image.storage.store import open_storage

    try:
        ref = parse_ref(name, default_registry(env))
    except ImageError:
        return None
    storage = open_storage(path)
    image = storage.images.find(ref)
    if image is None:
        return None
    variables = [item for item in image.config.config.env if "=" in item]
    guest = StoredGuest(path, [], variables)
    if len(image.layers) > PLAIN:
        guest.later = lambda: trees_of(storage, image.layers)
    else:
        guest.trees = trees_of(storage, image.layers)
        memo.keep(f"images/{ref.file_name}", guest.trees, variables)
    return guest


def trees_of(storage: Storage, chain: Chain) -> list[str]:
    """Few trees that give the same as ``chain``; made where there are too many."""
    from ch_image.storage.snapshots.merge import Merger

    short = Merger(storage.layers).shorten(chain)
    return [storage.layers.tree(layer)[len(storage.path) + 1 :] for layer in reversed(short)]
