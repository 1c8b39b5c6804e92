"""The operations on containers, as functions; two command lines share them.

Every function takes the ``Store`` first and raises ChError with one line for what it cannot do.

``create`` may be called by an ordinary user, by root, and by uid 0 of a user namespace that
someone else made (rootless buildah and podman do, and so does a holder of mounts): it then uses
what power it has there. The bundle's tree need only be visible to the caller, so a bundle whose
root is mounted in a holder's namespaces is created by a process that has entered them
(``setns``); from then on the container has its own mount namespace, and everything else works from
outside, for the caller's user owns the container's namespaces.

The container's first process is the caller's child's child: it is reparented to the next
subreaper (prctl(2), PR_SET_CHILD_SUBREAPER), which gets its exit status by wait(2), or to init.
Who wants the exit status calls ``become_reaper`` first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ch_image.errors import ChError
from ch_image.oci.config import Process, Spec
from ch_image.oci.states import Record, Store


class Wishes(NamedTuple):
    """What a caller may say beside the bundle.

    ``stdio`` are the descriptors that become the program's 0, 1 and 2 unless it has a terminal of
    its own; they stay the caller's. For a process with a terminal the master side is sent
    (SCM_RIGHTS) over ``console``, a connected Unix socket, or to the listening socket whose path is
    ``console_socket``. ``emulate`` is root emulation (docs/emulation.md); None: where only one ID
    is mapped. ``owners`` are (path, uid, gid) of symlinks, FIFOs and sockets for it.
    """

    console_socket: str = ""
    console: int = -1
    pid_file: str = ""
    stdio: tuple[int, int, int] = (0, 1, 2)
    preserve_fds: int = 0
    emulate: bool | None = None
    owners: tuple[tuple[str, int, int], ...] = ()
    more: Mapping[str, Any] = {}  # kept in Record.more
    warn: Callable[[str], None] = lambda _text: None


NO_WISHES = Wishes()


def create(
    store: Store, ident: str, bundle: str, wishes: Wishes = NO_WISHES, spec: Spec | None = None
) -> Record:
    """Make the container of ``bundle`` up to the point where only ``start`` is missing.

    ``spec`` replaces the bundle's config.json. When this fails nothing is left behind.
    """
    raise ChError("not built yet")


def start(store: Store, ident: str, warn: Callable[[str], None] = lambda _: None) -> Record:
    """Let a created container's first process become its program."""
    raise ChError("not built yet")


def state(store: Store, ident: str) -> dict[str, Any]:
    """The state as the specification's JSON has it (``ociVersion``, ``id``, ``status``, ...)."""
    raise ChError("not built yet")


def kill(store: Store, ident: str, number: int, *, everyone: bool = False) -> None:
    """Send signal ``number`` to the first process; ``everyone``: to all in its PID namespace."""
    raise ChError("not built yet")


def delete(
    store: Store, ident: str, *, force: bool = False, warn: Callable[[str], None] = lambda _: None
) -> None:
    """Forget a stopped container; with ``force`` kill it first, and an unknown one is fine."""
    raise ChError("not built yet")


def execute(store: Store, ident: str, process: Process, wishes: Wishes = NO_WISHES) -> int:
    """Start another process in a running container; its PID, of a child of this process.

    The caller waits for it (``os.waitpid``). Raises ChError when it cannot be started.
    """
    raise ChError("not built yet")


def processes(store: Store, ident: str) -> list[int]:
    """PIDs, as the caller sees them, of all processes in the container, its first one first."""
    raise ChError("not built yet")


def become_reaper() -> None:
    """Make this process the parent of the containers it creates (PR_SET_CHILD_SUBREAPER)."""
    raise ChError("not built yet")
