"""oci mount, umount, list: bundles of images in storage."""

from __future__ import annotations

import os
from contextlib import suppress

from ch_image.cli import options
from ch_image.cli.oci_run import store_of
from ch_image.cli.session import Session, emit
from ch_image.errors import BuildError, ChError, ImageError, UsageError, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ch_image.oci.bundle import Host, User
    from ch_image.storage.images import Image
    from ch_image.typed import Any


def _mount(session: Session) -> int:
    from ch_image.oci import holder
    from ch_image.oci.bundle import Host

    image = session.storage.images.get(session.ref(session.words[0]))
    bundle = _outside(session, session.words[1])
    with holder.claimed(bundle, make=True):
        holder.check_free(bundle)
        if session.parsed.has("copy") or session.env.get("CH_IMAGE_SNAPSHOTTER") == "copy":
            _copy(session, image, bundle)
            return 0

        def configure(root: str) -> dict[str, Any]:
            return _config(session, image, root, Host(0, 0))

        path = session.storage.path
        holder.mount(bundle, str(image.ref), image.layers, path, configure)
    return 0


def _outside(session: Session, word: str) -> str:
    bundle = os.path.realpath(word)
    storage = os.path.realpath(session.storage.path)
    if os.path.commonpath([bundle, storage]) in (bundle, storage):
        raise UsageError("the bundle would lie in storage, or around it")
    return bundle


def _copy(session: Session, image: Image, bundle: str) -> None:
    """A bundle with a plain tree, which stays until it is removed."""
    from ch_image.fs.copy import copy_tree
    from ch_image.fs.remove import remove_tree
    from ch_image.oci import holder
    from ch_image.oci.bundle import ROOTFS, Host

    host = Host(os.geteuid(), os.getegid())
    os.symlink(holder.COPY, f"{bundle}/{holder.MARKER}")
    try:
        session.enter(needed=True)
        with session.locked(), session.snapshotter().view(image.layers) as tree:
            source = os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            target = os.open(bundle, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                copy_tree(source, ".", target, ROOTFS)
            finally:
                os.close(source)
                os.close(target)
        holder.write_config(bundle, _config(session, image, f"{bundle}/{ROOTFS}", host))
    except BaseException:
        remove_tree(f"{bundle}/{ROOTFS}")
        holder.clear(bundle)
        raise


def _config(session: Session, image: Image, root: str, host: Host) -> dict[str, Any]:
    """The bundle's config.json; the root gets the directories that it needs."""
    from ch_image.fs.tree import Tree
    from ch_image.oci import bundle

    with Tree(root) as tree:
        for path in (bundle.working_directory(image.config), *image.config.config.volumes):
            try:
                tree.mkdirs(path)
            except OSError as error:
                shown = printable(path, 300)
                raise ImageError(f"can't make {shown} in the image: {error.strerror}") from None
        user = _user(tree, image.config.config.user)
    found = [path for path in host.files if os.path.exists(path)]
    return bundle.config_json(
        image.config,
        user,
        host._replace(files=found),
        command=session.words[2:],
        terminal=session.parsed.has("terminal"),
        read_only=session.parsed.has("read-only"),
    )


def _user(tree: Any, text: str) -> User:
    from ch_image.build import lookup
    from ch_image.oci.bundle import User

    try:
        found = lookup.identity(tree, text or "0")
    except BuildError as error:
        raise ImageError(f"the image's USER: {error}", hint=error.hint) from None
    return User(found.uid, found.gid, found.home)


MOUNT = options.Command(
    "oci mount",
    "IMAGE BUNDLE [CMD...]",
    "Makes the directory BUNDLE an OCI bundle of an image in storage: config.json, and the root,"
    " which may be written to, until umount. A process holds the mount. CMD (behind --) is run"
    " instead of the image's own.",
    (
        options.flag("--copy", "copy the image instead: no process is needed, and any runtime"
                     " sees the root"),
        options.flag("--read-only", "config.json says that the root is not to be written to"),
        options.flag("-t --terminal", "config.json asks for a terminal"),
    ),
    _mount,
)  # fmt: skip


def bundle_path(session: Session, word: str) -> str:
    """The bundle that the user means. Raises ChError when ``mount`` has not made it."""
    from ch_image.oci import holder

    path = os.path.realpath(word)
    if not holder.is_ours(path):
        what = "not a mounted bundle" if os.path.isdir(path) else "no such bundle"
        raise ChError(
            f"{what}: {printable(word, 300)}", hint="ch-image oci list shows those of this storage"
        )
    return path


def _umount(session: Session) -> int:
    from ch_image.oci import holder

    bundle = bundle_path(session, session.words[0])
    with holder.claimed(bundle):
        bundle_path(session, bundle)  # it may have been unmounted while we waited
        _refuse_used(session, bundle)
        if os.readlink(f"{bundle}/{holder.MARKER}") == holder.COPY:
            from ch_image.fs.remove import remove_tree
            from ch_image.oci.bundle import ROOTFS

            session.enter()
            remove_tree(f"{bundle}/{ROOTFS}")
        holder.unmount(bundle)
        holder.clear(bundle)
        with suppress(OSError):  # something else is in it
            os.rmdir(bundle)
    return 0


def _refuse_used(session: Session, bundle: str) -> None:
    """Raises ChError while a container of the bundle has not ended."""
    store = store_of(session)
    for record in store.list():
        if record.bundle == bundle and store.status(record) != "stopped":
            raise ChError(
                f"the bundle is in use by container {record.id}",
                hint=f"end it first: ch-image oci delete --force {record.id}",
            )


UMOUNT = options.Command(
    "oci umount",
    "BUNDLE",
    "Ends the process that holds BUNDLE and removes what mount made there. What was written to the"
    " root is lost.",
    (),
    _umount,
)


def _list(session: Session) -> int:
    from ch_image.oci import holder

    bundles = [
        {"bundle": one.bundle, "image": one.image, "pid": one.pid, "since": one.since}
        for one in holder.all_held(session.storage.path)
    ]
    store = store_of(session)
    containers = [
        {"id": one.id, "status": store.shown(one), "pid": one.pid, "bundle": one.bundle}
        for one in store.list()
    ]
    if session.parsed.text("format") == "json":
        import json

        emit([json.dumps({"bundles": bundles, "containers": containers}, indent=2)])
        return 0
    for bundle in bundles:
        text = f"bundle     {bundle['bundle']}  of {bundle['image']}, held by {bundle['pid']}"
        emit([printable(text, 5000)])
    for one in containers:
        emit([printable(f"container  {one['id']}  {one['status']}  of {one['bundle']}", 5000)])
    return 0


LIST = options.Command(
    "oci list",
    "",
    "Lists the bundles of this storage that are mounted, and your containers.",
    (options.value("--format", "FORMAT", "text or json", choices=("text", "json")),),
    _list,
)
