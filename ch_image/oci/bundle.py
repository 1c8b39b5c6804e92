"""The config.json of an image: what the OCI runtime-spec needs to know to run it.

Follows the image-spec's "conversion to OCI runtime configuration": words, variables and working
directory are the image's, its labels and what else a runtime cannot use become annotations. One
ID is mapped, the one that the image's user has; the network is the host's, for an ordinary user
cannot connect another one.
"""

from __future__ import annotations

from ch_image.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ch_image.model.oci import ImageConfig

OCI_VERSION = "1.0.2"  # nothing newer is used, so that older runtimes take it
ROOTFS = "rootfs"  # where in the bundle the root lies
STOP_SIGNAL = "org.opencontainers.image.stopSignal"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What containers have everywhere else; in a namespace of one ID it is power over that ID's own.
_CAPABILITIES = (
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD",
    "NET_BIND_SERVICE", "NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
)  # fmt: skip
_MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
    "/sys/devices/virtual/powercap",
)  # fmt: skip
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


class User(NamedTuple):
    """Whom the image's process runs as, as the image's own files say; no supplementary groups,
    for one mapped ID can have none."""

    uid: int = 0
    gid: int = 0
    home: str = "/"


class Host(NamedTuple):
    """What of the host goes into the bundle: the IDs to map as a runtime will see them (0 inside
    a holder's namespace), and the files that name machines."""

    uid: int
    gid: int
    files: Sequence[str] = ("/etc/hosts", "/etc/resolv.conf")


def config_json(
    image: ImageConfig,
    user: User,
    host: Host,
    *,
    command: Sequence[str] = (),
    terminal: bool = False,
    read_only: bool = False,
) -> dict[str, Any]:
    """The config.json for a bundle of ``image``; ``command`` instead of the image's own."""
    namespaces = ("pid", "ipc", "uts", "mount", "user")
    return {
        "ociVersion": OCI_VERSION,
        "process": _process(image, user, command, terminal),
        "root": {"path": ROOTFS, "readonly": read_only},
        "hostname": "ch-image",
        "mounts": _mounts(host),
        "annotations": notes(image),
        "linux": {
            "uidMappings": [{"containerID": user.uid, "hostID": host.uid, "size": 1}],
            "gidMappings": [{"containerID": user.gid, "hostID": host.gid, "size": 1}],
            "namespaces": [{"type": kind} for kind in namespaces],
            "maskedPaths": list(_MASKED),
            "readonlyPaths": list(_READ_ONLY),
        },
    }


def _process(
    image: ImageConfig, user: User, command: Sequence[str], terminal: bool
) -> dict[str, Any]:
    config = image.config
    own = [*(config.entrypoint or ()), *(config.cmd or ())]
    known = config.environment()
    env = [item for item in config.env if "=" in item]
    for name, value in (("PATH", _PATH), ("HOME", user.home), ("TERM", "xterm")):
        if name not in known and (name != "TERM" or terminal):
            env.append(f"{name}={value}")
    powers = [f"CAP_{name}" for name in _CAPABILITIES]
    return {
        "terminal": terminal,
        "user": {"uid": user.uid, "gid": user.gid},
        "args": list(command) or own or ["/bin/sh"],
        "env": env,
        "cwd": working_directory(image),
        "capabilities": {
            "bounding": powers,
            "effective": powers if user.uid == 0 else [],
            "permitted": powers if user.uid == 0 else [],
        },
        "noNewPrivileges": True,
    }


def working_directory(image: ImageConfig) -> str:
    """Where its process starts, an absolute path."""
    return "/" + image.config.working_dir.strip("/")


def _mounts(host: Host) -> list[dict[str, Any]]:
    safe = ["nosuid", "noexec", "nodev"]
    return [
        _mount("/proc", "proc", "proc", safe),
        _mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _mount("/dev/pts", "devpts", "devpts",
               ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
        _mount("/dev/shm", "tmpfs", "shm", [*safe, "mode=1777", "size=65536k"]),
        _mount("/dev/mqueue", "mqueue", "mqueue", safe),
        # A sysfs belongs to a network namespace, and that is the host's: its /sys is bound.
        _mount("/sys", "bind", "/sys", ["rbind", *safe, "ro"]),
        *(_mount(path, "bind", path, ["bind", "nosuid", "nodev", "ro"]) for path in host.files),
    ]  # fmt: skip


def _mount(destination: str, kind: str, source: str, options: list[str]) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": options}


def notes(image: ImageConfig) -> dict[str, str]:
    """The image's labels over what the conversion derives from its other fields."""
    config, platform = image.config, image.platform
    derived = {
        "os": platform.os,
        "architecture": platform.architecture,
        "variant": platform.variant,
        "author": image.author,
        "created": image.created,
        "stopSignal": config.stop_signal,
        "exposedPorts": ",".join(sorted(config.exposed_ports)),
    }
    named = {f"org.opencontainers.image.{name}": text for name, text in derived.items() if text}
    return named | dict(config.labels)
