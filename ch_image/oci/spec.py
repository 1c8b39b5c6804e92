"""Reads config.json (runtime-spec 1.0 to 1.3) and checks it: every violation with its JSON path.

Properties that the specification does not know are ignored, as it demands.
"""

from __future__ import annotations

import os

from ch_image.errors import ChError, ConfigError, printable
from ch_image.oci import config, quickjson
from ch_image.oci.nodes import Node
from ch_image.typed import Any

CONFIG = "config.json"
MAX_CONFIG = 16 << 20  # bytes
NAMESPACES = ("pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time")
PROPAGATIONS = ("shared", "slave", "private", "unbindable")
_CAPABILITIES = """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
    NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO
    SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME
    SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG
    WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""  # by number, linux/capability.h
_RLIMITS = """
    CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK AS LOCKS SIGPENDING MSGQUEUE NICE RTPRIO
    RTTIME
"""  # by number, asm-generic/resource.h
CAPABILITIES = _CAPABILITIES.split()
RLIMITS = {f"RLIMIT_{name}": number for number, name in enumerate(_RLIMITS.split())}
_NUMBERS = {f"CAP_{name}": number for number, name in enumerate(CAPABILITIES)}
_IO_CLASSES = ("IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE")
_COMMON = ("1.0.0", "1.0.1", "1.0.2", "1.0.2-dev", "1.1.0", "1.2.0", "1.2.1", "1.3.0")
_VERSION = r"(\d{1,4})\.(\d{1,4})\.(\d{1,4})(?:[-+][0-9A-Za-z.+-]*)?"
_REFUSED = ("intelRdt", "netDevices", "memoryPolicy")
_MAX_ID = 0xFFFFFFFE
_MAX_LIMIT = 0xFFFFFFFFFFFFFFFF
_HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


def load(bundle: str) -> config.Spec:
    """The bundle's config.json. Raises ConfigError, ChError when it cannot be read."""
    path = os.path.join(bundle, CONFIG)
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_CONFIG + 1)
    except FileNotFoundError:
        raise ChError(
            f"{printable(path)}: not found", hint="a bundle is a directory with a config.json"
        ) from None
    except OSError as error:
        raise ChError(f"{printable(path)}: {error.strerror}") from None
    return parse(raw, path)


def parse(raw: bytes, path: str) -> config.Spec:
    """The same for what was read already; ``path`` is what faults are said to be in."""
    faults: list[str] = []
    top = Node(_object(raw, path), "", faults)
    version = _version(top)
    if faults:  # what another version means by its fields is anyone's guess
        raise ConfigError(printable(path), faults)
    spec = _spec(top, version)
    if faults:
        raise ConfigError(printable(path), faults)
    return spec


def load_process(path: str) -> config.Process:
    """A process as ``exec --process`` gives it: the ``process`` object alone, in a file."""
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_CONFIG + 1)
    except OSError as error:
        raise ChError(f"{printable(path)}: {error.strerror}") from None
    return parse_process(_object(raw, path), path)


def parse_process(fields: dict[str, Any], path: str = "process") -> config.Process:
    """A process from its JSON object. Raises ConfigError."""
    faults: list[str] = []
    found = _process(Node(fields, "process", faults))
    if faults:
        raise ConfigError(printable(path), faults)
    return found


def written(process: config.Process) -> dict[str, Any]:
    """A process as config.json writes it: what ``parse_process`` reads back."""
    out: dict[str, Any] = {
        "args": process.args,
        "cwd": process.cwd,
        "env": process.env,
        "user": {
            "uid": process.user.uid,
            "gid": process.user.gid,
            "umask": process.user.umask,
            "additionalGids": process.user.groups,
        },
        "rlimits": [{"type": r.kind, "soft": r.soft, "hard": r.hard} for r in process.rlimits],
        "noNewPrivileges": process.no_new_privileges,
        "oomScoreAdj": process.oom_score_adj,
        "apparmorProfile": process.apparmor_profile,
        "selinuxLabel": process.selinux_label,
    }
    if process.capabilities:
        names = {
            kind: [f"CAP_{name}" for bit, name in enumerate(CAPABILITIES) if mask >> bit & 1]
            for kind, mask in process.capabilities.sets._asdict().items()
        }
        out["capabilities"] = names
    return out


def _object(raw: bytes, path: str) -> dict[str, Any]:
    if len(raw) > MAX_CONFIG:
        raise ConfigError(printable(path), [f"is larger than {MAX_CONFIG >> 20} MiB"])
    try:
        value = quickjson.loads(raw)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        raise ConfigError(printable(path), [f"not JSON: {reason}"]) from None
    if not isinstance(value, dict):
        raise ConfigError(printable(path), ["must be a JSON object"])
    return value


def _version(top: Node) -> str:
    version = top.text("ociVersion", required=True)
    if version in _COMMON:
        return version
    import re

    match = re.fullmatch(_VERSION, version)
    if version and not match:
        top.fault("ociVersion", f"'{printable(version, 60)}' is no version (MAJOR.MINOR.PATCH)")
    elif match and (int(match[1]) != 1 or int(match[2]) > 3):
        top.fault("ociVersion", f"version {version} is unknown, only 1.0 to 1.3 are known")
    return version


def _spec(top: Node, version: str) -> config.Spec:
    root = top.object("root", required=True)
    process, hooks, linux = top.object("process"), top.object("hooks"), top.object("linux")
    for name in ("solaris", "windows", "vm", "zos"):
        if top.fields.get(name) is not None:
            top.fault(name, "this runtime makes Linux containers")
    return config.Spec(
        version=version,
        root=root.text("path", required=True) if root else "",
        root_readonly=root.flag("readonly") if root else False,
        process=_process(process) if process else None,
        hostname=top.text("hostname"),
        domainname=top.text("domainname"),
        mounts=tuple(_mount(item) for item in top.objects("mounts")),
        hooks=_hooks(hooks) if hooks else config.Hooks(),
        annotations=top.mapping("annotations"),
        linux=_linux(linux) if linux else config.Linux(),
    )


def _process(node: Node) -> config.Process:
    args = node.texts("args")
    if not args and not any(f.startswith(node.at("args")) for f in node.faults):
        node.fault("args", "is missing or empty")
    capabilities, size = node.object("capabilities"), node.object("consoleSize")
    priority = node.object("ioPriority")
    user = node.object("user")
    return config.Process(
        args=args,
        cwd=node.path_text("cwd", required=True) or "/",
        env=node.texts("env"),
        user=_user(user) if user else config.User(),
        terminal=node.flag("terminal"),
        console_size=(size.number("height", 0, 65535), size.number("width", 0, 65535))
        if size
        else None,
        rlimits=_rlimits(node),
        capabilities=_capabilities(capabilities) if capabilities else None,
        no_new_privileges=node.flag("noNewPrivileges"),
        oom_score_adj=node.number("oomScoreAdj", -1000, 1000, None),
        io_priority=_io_priority(priority) if priority else None,
        apparmor_profile=node.text("apparmorProfile"),
        selinux_label=node.text("selinuxLabel"),
    )


def _user(node: Node) -> config.User:
    return config.User(
        uid=node.number("uid", 0, _MAX_ID),
        gid=node.number("gid", 0, _MAX_ID),
        umask=node.number("umask", 0, 0o7777, None),
        groups=node.numbers("additionalGids", _MAX_ID),
    )


def _rlimits(node: Node) -> tuple[config.Rlimit, ...]:
    out: list[config.Rlimit] = []
    for item in node.objects("rlimits"):
        kind = item.text("type", required=True)
        soft = item.number("soft", 0, _MAX_LIMIT, required=True)
        hard = item.number("hard", 0, _MAX_LIMIT, required=True)
        if kind and kind not in RLIMITS:
            item.fault("type", f"there is no limit '{printable(kind, 60)}'")
        elif kind in (limit.kind for limit in out):
            item.fault("type", f"{kind} is given twice")
        elif soft > hard:
            item.fault("soft", f"must not be above the hard limit {hard}")
        else:
            out.append(config.Rlimit(kind, soft, hard))
    return tuple(out)


def _capabilities(node: Node) -> config.Capabilities:
    masks = []
    unknown: dict[str, None] = {}  # to be warned of, says the specification, and no fault
    for name in config.CAPABILITY_SETS:
        mask = 0
        for text in node.texts(name):
            if text in _NUMBERS:
                mask |= 1 << _NUMBERS[text]
            else:
                unknown[printable(text, 60)] = None
        masks.append(mask)
    return config.Capabilities(config.Sets(*masks), tuple(unknown))


def _io_priority(node: Node) -> tuple[int, int]:
    kind = node.choice("class", _IO_CLASSES, required=True)
    number = _IO_CLASSES.index(kind) + 1 if kind else 0
    return number, node.number("priority", 0, 7)


def _mount(node: Node) -> config.Mount:
    # Version 1.0 let relative destinations pass; they are meant from the root.
    destination = node.text("destination", required=True)
    return config.Mount(
        destination="/" + destination.lstrip("/"),
        type=node.text("type"),
        source=node.text("source"),
        options=node.texts("options"),
    )


def _hooks(node: Node) -> config.Hooks:
    return config.Hooks(*(tuple(_hook(item) for item in node.objects(name)) for name in _HOOKS))


def _hook(node: Node) -> config.Hook:
    path = node.path_text("path", required=True)
    timeout = node.number("timeout", 1, 1 << 31, 0)
    return config.Hook(path, node.texts("args"), node.texts("env"), timeout)


def _linux(node: Node) -> config.Linux:
    personality = node.object("personality")
    return config.Linux(
        namespaces=_namespaces(node),
        uid_mappings=tuple(_mapping(item) for item in node.objects("uidMappings")),
        gid_mappings=tuple(_mapping(item) for item in node.objects("gidMappings")),
        devices=tuple(_device(item) for item in node.objects("devices")),
        sysctl=node.mapping("sysctl"),
        masked_paths=node.texts("maskedPaths", absolute=True),
        readonly_paths=node.texts("readonlyPaths", absolute=True),
        rootfs_propagation=node.choice("rootfsPropagation", PROPAGATIONS),
        mount_label=node.text("mountLabel"),
        cgroups_path=node.text("cgroupsPath"),
        resources=node.raw("resources"),
        seccomp=node.raw("seccomp"),
        personality=personality.choice("domain", ("LINUX", "LINUX32"), required=True)
        if personality
        else "",
        time_offsets=_time_offsets(node),
        refused=tuple(name for name in _REFUSED if node.raw(name)),
    )


def _namespaces(node: Node) -> tuple[config.Namespace, ...]:
    out: list[config.Namespace] = []
    for item in node.objects("namespaces"):
        kind = item.choice("type", NAMESPACES, required=True)
        path = item.path_text("path")
        if kind and kind in (one.kind for one in out):
            item.fault("type", f"the {kind} namespace is given twice")
        elif kind:
            out.append(config.Namespace(kind, path))
    return tuple(out)


def _mapping(node: Node) -> config.IdMapping:
    return config.IdMapping(
        node.number("containerID", 0, _MAX_ID, required=True),
        node.number("hostID", 0, _MAX_ID, required=True),
        node.number("size", 1, 0xFFFFFFFF, 1, required=True),
    )


def _device(node: Node) -> config.Device:
    kind = node.choice("type", ("c", "b", "u", "p"), required=True)
    numbered = kind in ("c", "b", "u")
    return config.Device(
        path=node.path_text("path", required=True),
        type=kind,
        major=node.number("major", 0, 0xFFF, required=numbered),
        minor=node.number("minor", 0, 0xFFFFF, required=numbered),
        mode=node.number("fileMode", 0, 0o177777, None),
        uid=node.number("uid", 0, _MAX_ID),
        gid=node.number("gid", 0, _MAX_ID),
    )


def _time_offsets(node: Node) -> tuple[tuple[str, int, int], ...]:
    found = node.object("timeOffsets")
    out = []
    for clock in found.fields if found else ():
        if found and clock not in ("monotonic", "boottime"):
            found.fault(clock, "there is no such clock")
        elif found and (item := found.object(clock)):
            seconds = item.number("secs", -(1 << 62), 1 << 62)
            out.append((clock, seconds, item.number("nanosecs", 0, 999_999_999)))
    return tuple(out)
