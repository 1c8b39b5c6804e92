"""What a bundle's config.json says, checked and typed (runtime-spec 1.0 to 1.3, Linux).

Field names are the specification's where Python allows. What only some kernels or privileges can
apply is kept as it stands (``seccomp``, ``resources``): who applies it reads it.
"""

from __future__ import annotations

from ch_image.typed import Any, NamedTuple

CAPABILITY_SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")


class User(NamedTuple):
    """Who the process is. ``umask`` is None where nothing is said."""

    uid: int = 0
    gid: int = 0
    umask: int | None = None
    groups: tuple[int, ...] = ()


class Rlimit(NamedTuple):
    """A limit by its kernel name (``RLIMIT_NOFILE``)."""

    kind: str
    soft: int
    hard: int


class Sets(NamedTuple):
    """Capability sets as masks, as in capget(2)."""

    bounding: int = 0
    effective: int = 0
    inheritable: int = 0
    permitted: int = 0
    ambient: int = 0


class Capabilities(NamedTuple):
    """Which capabilities are wanted; ``unknown`` are names that no kernel knows."""

    sets: Sets = Sets()
    unknown: tuple[str, ...] = ()


class Process(NamedTuple):
    """A process to run: the container's first, or another by ``exec``."""

    args: tuple[str, ...]
    cwd: str = "/"
    env: tuple[str, ...] = ()
    user: User = User()
    terminal: bool = False
    console_size: tuple[int, int] | None = None  # (height, width) in characters
    rlimits: tuple[Rlimit, ...] = ()
    capabilities: Capabilities | None = None  # None: whatever the kernel gives
    no_new_privileges: bool = False
    oom_score_adj: int | None = None
    io_priority: tuple[int, int] | None = None  # (class, priority) as ioprio_set(2) has them
    apparmor_profile: str = ""
    selinux_label: str = ""


class Mount(NamedTuple):
    """A mount; ``source`` is absolute for bind mounts. Order counts."""

    destination: str
    type: str = ""
    source: str = ""
    options: tuple[str, ...] = ()


class Hook(NamedTuple):
    """A program that the runtime calls; ``timeout`` in seconds, 0 for none."""

    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int = 0


class Hooks(NamedTuple):
    """The hooks of each time, in order."""

    prestart: tuple[Hook, ...] = ()
    create_runtime: tuple[Hook, ...] = ()
    create_container: tuple[Hook, ...] = ()
    start_container: tuple[Hook, ...] = ()
    poststart: tuple[Hook, ...] = ()
    poststop: tuple[Hook, ...] = ()


class Namespace(NamedTuple):
    """A namespace by the specification's name (``pid``, ``network``, ...), new or joined."""

    kind: str
    path: str = ""


class IdMapping(NamedTuple):
    """``size`` IDs from ``inner`` on are those from ``outer`` on where the runtime is."""

    inner: int
    outer: int
    size: int


class Device(NamedTuple):
    """A device node: ``type`` is c, u, b or p; ``mode`` None where nothing is said."""

    path: str
    type: str
    major: int = 0
    minor: int = 0
    mode: int | None = None
    uid: int = 0
    gid: int = 0


class Linux(NamedTuple):
    """The part of config.json that is about Linux."""

    namespaces: tuple[Namespace, ...] = ()
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()
    devices: tuple[Device, ...] = ()
    sysctl: tuple[tuple[str, str], ...] = ()
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    rootfs_propagation: str = ""
    mount_label: str = ""
    cgroups_path: str = ""
    resources: dict[str, Any] | None = None
    seccomp: dict[str, Any] | None = None
    personality: str = ""
    time_offsets: tuple[tuple[str, int, int], ...] = ()  # (clock, seconds, nanoseconds)
    refused: tuple[str, ...] = ()  # properties that only root could apply, and must not be lost


class Spec(NamedTuple):
    """A whole config.json. ``root`` is as written there: relative to the bundle, or absolute."""

    version: str
    root: str
    root_readonly: bool = False
    process: Process | None = None
    hostname: str = ""
    domainname: str = ""
    mounts: tuple[Mount, ...] = ()
    hooks: Hooks = Hooks()
    annotations: tuple[tuple[str, str], ...] = ()
    linux: Linux = Linux()
