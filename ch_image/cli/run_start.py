"""From ch-run's options to the running command.

Order matters: the image is found and the environment settled with the host's eyes; then one user
namespace in which we may mount, the image's root with the host's directories in it, a second user
namespace that has the IDs asked for and no power over those mounts; then the command.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal itself costs an import of enum
import os

from ch_image.cli.environment import user_name
from ch_image.cli.run_env import adjusted, edited
from ch_image.cli.run_host import Who, binds, furniture, home_inside, settled
from ch_image.cli.run_image import find
from ch_image.errors import ChError, SandboxError, UsageError, printable
from ch_image.sandbox import syscalls as kernel
from ch_image.sandbox import userns
from ch_image.sandbox.furnish import furnish
from ch_image.sandbox.mounts import Bind, Link
from ch_image.sandbox.plan import Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ch_image.cli.log import Log
    from ch_image.cli.options import Parsed
    from ch_image.cli.run_join import Group
    from ch_image.typed import NoReturn

_SEARCH = "/bin:/usr/bin"  # where execvp(3) looks without a PATH
_MAX_ENVIRONMENT = 4 << 20  # bytes of a file of variables
# Stands among the edits where --set-env asks for the image's variables, not known yet.
_IMAGES_OWN: tuple[str, list[str], str] = ("own", [], "")


class CommandMissing(ChError):
    """There is no such command in the image, or it cannot be executed."""


def start(parsed: Parsed, command: list[str], host: Mapping[str, str], log: Log) -> NoReturn:
    """Become ``command`` in the image. Raises ChError, OSError."""
    uid = identity("--uid", parsed, os.getuid())
    gid = identity("--gid", parsed, os.getgid())
    who = Who(uid, gid, user_name(host), uid == os.getuid())
    operations = binds(parsed.texts("bind"))
    edits = environment_edits(parsed)
    guest = find(parsed.words[0], parsed, host, log)
    writing = parsed.has("write") and not parsed.has("write-fake")
    if writing and guest.is_stored:
        raise ChError(
            "an image in storage cannot be written to",
            hint="use -W for writes that are forgotten, or ch-convert it to a directory first",
        )
    extras = _extras(parsed, host, log)
    say = _speaker(log) if parsed.count("verbose") else _silent
    emulation = _filter() if parsed.has("seccomp") else b""  # nothing can be imported inside
    peer = _joined(parsed, host, say)
    plan = Plan("/", command)
    plan.namespaces, plan.emulate, plan.new_privileges = [], parsed.has("seccomp"), False
    if peer is None or peer.is_first:
        userns.enter()
        size = parsed.text("write-fake", "12%") if _fakes(parsed) else ""
        plan.root = guest.mount(size, writable=writing)
        wanted = [*furniture(parsed, host, who, say), *operations, *extras.binds]
        plan.operations = [*extras.links, *settled(plan.root, wanted)]  # links in the image alone
    own = []
    if _IMAGES_OWN in edits:
        own = [("set", guest.environment(plan.root), "/ch/environment")]
    plan.env = edited(
        extras.known(adjusted(host, home_inside(parsed, plan.root.rstrip("/"), who.user))),
        [edit for one in edits for edit in (own if one == _IMAGES_OWN else [one])],
        say,
    )
    if "PATH" not in host:
        log.warning("$PATH not set")
    plan.cwd = parsed.text("cd", "/")
    if peer is None or peer.is_first:
        if parsed.count("verbose"):
            # Without the caller's environment, which may hold what is for no log.
            log.line("plan: " + " ".join(map(printable, plan.words(env=False))))
        _furnish(plan, writable=writing or bool(size))
        _take_identity(uid, gid)
    if peer is not None:
        peer.keep()
    say("executing: " + " ".join(map(printable, command)))
    _become(plan, emulation, host)


class Extras:
    """What devices and injected files add to a container."""

    def __init__(self) -> None:
        self.binds: list[Bind] = []
        self.links: list[Link] = []
        self.env: list[str] = []
        self.libraries: list[str] = []  # directories that the linker shall look at first

    def known(self, env: dict[str, str]) -> dict[str, str]:
        """``env`` with the variables added."""
        env.update(item.partition("=")[::2] for item in self.env)
        if self.libraries:
            old = env.get("LD_LIBRARY_PATH", "")
            env["LD_LIBRARY_PATH"] = ":".join(
                [*dict.fromkeys(self.libraries), *filter(None, [old])]
            )
        return env


def _extras(parsed: Parsed, host: Mapping[str, str], log: Log) -> Extras:
    out = Extras()
    if parsed.has("device"):
        from ch_image.cli import run_device

        edits = run_device.edits(parsed.texts("device"), run_device.directories(host))
        for source, target, readonly in edits.mounts:
            if not os.path.exists(source):
                raise ChError(f"--device: not found on this host: {printable(source, 300)}")
            out.binds.append(Bind(source, target, readonly=readonly))
        out.links = [Link(to, path) for path, to in edits.links]
        out.env, out.libraries = edits.env, edits.libraries
        for text in edits.ignored:
            log.warning(f"--device: not done: {printable(text, 300)}")
    if parsed.has("inject"):
        from ch_image.cli.run_inject import LIBRARIES, injected

        found = injected(parsed.texts("inject"))
        out.binds += [Bind(source, target, readonly=True) for source, target in found]
        if any(target.startswith(f"{LIBRARIES}/") for _, target in found):
            out.libraries.append(LIBRARIES)
    return out


def _filter() -> bytes:
    from ch_image.sandbox import seccomp

    return seccomp.program(notify=False)


def _silent(_text: str) -> None:
    pass


def _speaker(log: Log) -> Callable[[str], None]:
    prefix = f"ch-run[{os.getpid()}]: "
    return lambda text: log.line(prefix + text)


def _joined(parsed: Parsed, host: Mapping[str, str], say: Callable[[str], None]) -> Group | None:
    """The group we belong to, once it is clear who makes the namespaces; we may be in them."""
    if not any(parsed.has(name) for name in ("join", "join-ct", "join-pid", "join-tag")):
        say("join: 0 0 (null) 0")
        return None
    from ch_image.cli import run_join

    return run_join.joined(parsed, host, say)


def _fakes(parsed: Parsed) -> bool:
    return parsed.has("write-fake") or parsed.has("home")


def identity(option: str, parsed: Parsed, default: int) -> int:
    """A user or group number. Raises UsageError."""
    if not parsed.has(option[2:]):
        return default
    text = parsed.text(option[2:])
    if not (text.isascii() and text.isdigit() and len(text) < 11 and int(text) < 0xFFFFFFFF):
        raise UsageError(f"{option} takes a number, not '{printable(text, 60)}'")
    return int(text)


def environment_edits(parsed: Parsed) -> list[tuple[str, list[str], str]]:
    """``--set-env`` and its kin in their order."""
    edits: list[tuple[str, list[str], str]] = []
    for option, text in parsed.given:
        if option == "env-no-expand":
            edits.append(("no-expand", [], ""))
        elif option == "unset-env":
            edits.append(("unset", [text], ""))
        elif option in ("set-env", "set-env0"):
            if not text:
                edits.append(_IMAGES_OWN)
            elif "=" in text:
                edits.append(("set", [text], ""))
            else:
                edits.append(("set", _read_variables(text, option == "set-env0"), text))
    return edits


def _read_variables(path: str, nul: bool) -> list[str]:
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_ENVIRONMENT)
    except OSError as error:
        raise ChError(f"can't open: {printable(path, 300)}: {error.strerror}") from None
    return [os.fsdecode(line) for line in data.split(b"\0" if nul else b"\n")]


def _furnish(plan: Plan, *, writable: bool) -> None:
    try:
        root = furnish(plan)
        if not writable:
            kernel.mount_setattr(root.fd, "", kernel.AT_EMPTY_PATH, kernel.MOUNT_ATTR_RDONLY)
    except OSError as error:
        about = f"{error.filename}: " if error.filename else ""
        raise SandboxError(f"can't set up the container: {about}{error.strerror}") from None


def _take_identity(uid: int, gid: int) -> None:
    try:
        kernel.unshare(kernel.CLONE_NEWUSER)
        userns.map_ids(0, 0, uid, gid)
    except OSError as error:
        raise SandboxError(f"can't become user {uid} inside: {error.strerror}") from None


def _become(plan: Plan, emulation: bytes, host: Mapping[str, str]) -> NoReturn:
    """In the furnished root: drop all power, and execute the command."""
    try:
        os.chdir(plan.cwd)
    except OSError as error:
        raise ChError(f"can't cd to {printable(plan.cwd, 300)}: {error.strerror}") from None
    for number in (_signal.SIGPIPE, _signal.SIGXFSZ):  # Python ignores them; a command must not
        _signal.signal(number, _signal.SIG_DFL)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    if emulation:
        kernel.seccomp_filter(emulation)
    _close_all_but(_pmi(host))
    program = plan.argv[0]
    if not program:
        raise _missing("", FileNotFoundError(2, os.strerror(2)))
    found: tuple[str, OSError] = program, FileNotFoundError(2, os.strerror(2))
    for path in _candidates(program, plan.env.get("PATH", _SEARCH)):
        try:
            os.execve(path, plan.argv, plan.env)
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            # As execvp(3), the search goes on; what is there and cannot be executed is told.
            if path == program or (found[0] == program and os.path.exists(path)):
                found = path, error
        except OSError as error:
            raise _missing(program, error) from None
    raise _missing(*found)


def _pmi(host: Mapping[str, str]) -> int:
    """The socket on which MPICH's launcher talks to a rank (PMI-1, ``PMI_FD``); 0 for none."""
    text = host.get("PMI_FD", "")
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 7 else 0
    try:
        return number if number > 2 and os.fstat(number).st_mode & 0o170000 == 0o140000 else 0
    except OSError:
        return 0


def _close_all_but(kept: int) -> None:
    """Close every descriptor but 0 to 2 and ``kept``."""
    if kept > 3:
        kernel.close_range(3, kept - 1)
    kernel.close_range(kept + 1 if kept else 3)


def _candidates(program: str, path: str) -> list[str]:
    if "/" in program:
        return [program]
    return [f"{directory or '.'}/{program}" for directory in path.split(":")]


def _missing(program: str, error: OSError) -> CommandMissing:
    """In the container: nothing can be imported any more."""
    hint = ""
    if not program:
        program, hint = "''", "the command is an empty word: is a variable of yours unset?"
    elif error.errno == 2 and " " in program:
        hint = f"a command line is for a shell: -- sh -c '{printable(program, 100)}'"
    elif error.errno == 2 and "/" in program and os.path.exists(program):
        hint = "it is there; its interpreter (its first line) or its loader is not in the image"
    elif error.errno == 8:
        hint = "a script begins with a line such as #!/bin/sh; a program fits one architecture only"
    return CommandMissing(
        f"can't execve(2): {printable(program, 300)}: {error.strerror}", hint=hint
    )
