"""ch-run-oci: an OCI runtime for whoever starts it, such as Buildah or Podman.

The commands and their options are those that callers of runc and crun use. Modules are imported
when they are needed: a build starts this program five times for a RUN.
"""

from __future__ import annotations

import os
import sys

from ch_image import __version__
from ch_image.cli import options
from ch_image.cli.faults import Frame, run_program
from ch_image.cli.options import Command
from ch_image.errors import UsageError, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ch_image.cli.oci_log import OciLog
    from ch_image.cli.options import Parsed
    from ch_image.oci.states import Store
    from ch_image.oci.wishes import Wishes

NAME = "ch-run-oci"
GLOBAL = (
    options.value("--root", "DIR", "where states are kept (default: in XDG_RUNTIME_DIR)"),
    options.value("--log", "FILE", "append errors and warnings to FILE too"),
    options.value("--log-format", "FORMAT", "of that file: text or json", choices=("text", "json")),
    options.value("--log-level", "LEVEL", "debug shows where an error comes from"),
    options.value("--emulate", "WHEN", "root emulation: auto (where one ID is mapped), yes, no",
                  choices=("auto", "yes", "no")),
    options.count("-v --verbose", "say more"),
    options.flag("--debug", "show where an error comes from"),
    options.flag("--systemd-cgroup", "accepted: the file system is used"),
    options.value("--cgroup-manager", "NAME", "accepted: the file system is used"),
    options.value("--rootless", "WHEN", "accepted: it is found out"),
    options.value("--criu", "PATH", "accepted: there are no checkpoints"),
    options.flag("-h -? --help", "show this text"),
    options.flag("-V --version", "print the version"),
)  # fmt: skip
_CONNECT = (
    options.value("--console-socket", "PATH", "send the terminal's master side to this socket"),
    options.value("--pid-file", "FILE", "write the process's number to FILE"),
    options.value("--preserve-fds", "N", "hand on N descriptors after standard error"),
)
_CREATE = (
    options.value("-b --bundle", "DIR", "the bundle (default: the working directory)"),
    *_CONNECT,
    options.flag("--no-new-keyring", "keep the session keyring"),
    options.flag("--no-pivot", "accepted: the root is always pivoted"),
    options.flag("--no-subreaper", "accepted: nothing is reaped but the container"),
)
_EXEC = (
    *_CONNECT,
    options.value("-p --process", "FILE", "the process, as the specification's JSON"),
    options.flag("-d --detach", "do not wait for it"),
    options.flag("-t --tty", "give it a terminal"),
    options.value("--cwd", "DIR", "start in this directory"),
    options.values("-e --env", "VAR=VALUE", "set a variable; repeatable"),
    options.value("-u --user", "UID[:GID]", "be this user"),
    options.flag("--no-new-privs", "let it gain no privilege"),
)
COMMANDS: dict[str, tuple[str, str, tuple[options.Option, ...]]] = {
    "create": ("ID", "make a container up to where only start is missing", _CREATE),
    "start": ("ID", "let a created container run its program", ()),
    "run": ("ID", "create, start, wait and delete; the program's exit code", _CREATE),
    "state": ("ID", "print a container's state as JSON", ()),
    "kill": ("ID [SIGNAL]", "send a signal (default: TERM) to a container's first process", (
        options.flag("-a --all", "to all of its processes"),
        options.value("-s --signal", "SIGNAL", "the same as the operand"),
    )),
    "delete": ("ID", "forget a stopped container", (
        options.flag("-f --force", "kill it first; an unknown one is no fault"),
    )),
    "exec": ("ID [CMD...]", "run another process in a container", _EXEC),
    "pause": ("ID", "stop all processes of a container", ()),
    "resume": ("ID", "let them go on", ()),
    "list": ("", "list containers", (
        options.flag("-q --quiet", "only IDs"),
        options.value("-f --format", "FORMAT", "table or json", choices=("table", "json")),
    )),
    "ps": ("ID", "print the numbers of a container's processes", (
        options.value("-f --format", "FORMAT", "table or json", choices=("table", "json")),
    )),
    "features": ("", "print what this runtime knows, as the specification's JSON", ()),
}  # fmt: skip
ABOUT = (
    "An OCI runtime (runtime-spec 1.0 to 1.3) that needs no privilege: for Buildah"
    " (--runtime=ch-run-oci), Podman, and whoever has bundles."
)


def main() -> int:
    """The program ``ch-run-oci``; its exit code."""
    return run_program(lambda frame: ch_run_oci(sys.argv[1:], dict(os.environ), frame))


def ch_run_oci(argv: list[str], env: dict[str, str], frame: Frame) -> int:
    """Carry out a command line. Raises what goes wrong."""
    given, rest = options.parse(argv, GLOBAL, until_operand=True)
    frame.debug = given.has("debug") or given.text("log-level") == "debug"
    if given.has("help") or (not rest and not given.has("version")):
        return _help(bool(given.has("help")))
    if given.has("version"):
        print(f"{NAME} version {__version__}\nspec: 1.3.0")
        return 0
    name, words = rest[0], rest[1:]
    from ch_image.cli.oci_log import OciLog

    frame.log = log = OciLog(env, given.text("log"), given.text("log-format", "text"))
    if name not in COMMANDS:
        raise UsageError(
            f"there is no command '{printable(name, 60)}'",
            hint=options.near(name, COMMANDS) or f"there is {', '.join(COMMANDS)}",
        )
    operands, about, table = COMMANDS[name]
    help_option = (options.flag("-h -? --help", "show this text"),)
    # The first operand of exec ends the options: what follows it is the command's own.
    if name == "exec":
        parsed, behind = options.parse(words, (*table, *help_option), until_operand=True)
        parsed.words = behind
    else:
        parsed, _ = options.parse(words, (*table, *help_option))
    command = Command(f"{NAME} {name}", operands, about, table, lambda _: 0)
    if parsed.has("help"):
        print(options.help_text(f"{NAME} {name}", command, common=GLOBAL))
        return 0
    command.check_operands(parsed.words)
    _hang(name, env)
    return _RUN[name](parsed, Given(given, env, log))


def _help(asked: bool) -> int:
    program = Command(NAME, "COMMAND [ARG...]", ABOUT, GLOBAL, lambda _: 0)
    if not asked:
        raise UsageError("no command given", hint=f"see {NAME} --help")
    terms = [(name, about) for name, (_, about, _) in COMMANDS.items()]
    print(options.help_text(NAME, program, more=[("Commands", terms)]))
    return 0


def _hang(name: str, env: Mapping[str, str]) -> None:
    """For those who look for the place where a caller waits: stop there."""
    if env.get("CH_RUN_OCI_HANG") == name:
        import time

        while True:
            time.sleep(3600)


class Given:
    """What stood before the command, and the environment."""

    def __init__(self, parsed: Parsed, env: Mapping[str, str], log: OciLog) -> None:
        self.parsed, self.env, self.log = parsed, env, log

    def store(self) -> Store:
        """Where states are."""
        from ch_image.cli.environment import containers_path
        from ch_image.oci.states import Store

        return Store(containers_path(self.parsed.text("root"), self.env))

    def warn(self, text: str) -> None:
        """Tell of something that could not be had."""
        self.log.warning(printable(text))

    def wishes(self, options_: Parsed, *, keyring: bool = True) -> Wishes:
        """What options say about a process."""
        from ch_image.cli.environment import switched_on
        from ch_image.oci.wishes import Wishes

        when = self.parsed.text("emulate", "auto")
        return Wishes(
            console_socket=options_.text("console-socket"),
            pid_file=options_.text("pid-file"),
            preserve_fds=_count("--preserve-fds", options_.text("preserve-fds", "0")),
            keyring=keyring,
            emulate=None if when == "auto" else when == "yes",
            records="CH_XATTRS" not in self.env or switched_on(self.env, "CH_XATTRS"),
            warn=self.warn,
        )


def _count(option: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        raise UsageError(f"{option} takes a number, not '{printable(text, 60)}'")
    return int(text)


def _create(parsed: Parsed, given: Given) -> int:
    from ch_image.oci import container

    store, bundle = given.store(), _bundle(parsed)
    wishes = given.wishes(parsed, keyring=not parsed.has("no-new-keyring"))
    container.create(store, parsed.words[0], bundle, wishes)
    return 0


def _bundle(parsed: Parsed) -> str:
    """The bundle's directory. Of one that ``ch-image oci mount`` made we enter the namespaces."""
    bundle = os.path.realpath(parsed.text("bundle", "."))
    if os.path.islink(f"{bundle}/.ch-image"):
        from ch_image.oci import holder

        here = os.getcwd()
        holder.enter(bundle)
        os.chdir(here)
    return bundle


def _start(parsed: Parsed, given: Given) -> int:
    from ch_image.oci import container

    container.start(given.store(), parsed.words[0], given.warn)
    return 0


def _run(parsed: Parsed, given: Given) -> int:
    from ch_image.oci import foreground

    store, bundle = given.store(), _bundle(parsed)
    wishes = given.wishes(parsed, keyring=not parsed.has("no-new-keyring"))
    return foreground.run(store, parsed.words[0], bundle, wishes)


def _state(parsed: Parsed, given: Given) -> int:
    from ch_image.oci import container, quickjson

    print(quickjson.pretty(container.state(given.store(), parsed.words[0])))
    return 0


def _kill(parsed: Parsed, given: Given) -> int:
    from ch_image.oci import container

    text = parsed.text("signal") or (parsed.words[1] if len(parsed.words) > 1 else "TERM")
    number = signal_number(text)
    container.kill(given.store(), parsed.words[0], number, everyone=parsed.has("all"))
    return 0


def signal_number(text: str) -> int:
    """A signal by number or name, with or without SIG. Raises UsageError."""
    import signal

    if text.isascii() and text.isdigit() and 0 < int(text) <= 64:
        return int(text)
    name = text.upper()
    found = getattr(signal, name if name.startswith("SIG") else f"SIG{name}", None)
    if not isinstance(found, signal.Signals):
        raise UsageError(f"there is no signal '{printable(text, 60)}'")
    return int(found)


def _delete(parsed: Parsed, given: Given) -> int:
    from ch_image.oci import container

    force = parsed.has("force")
    container.delete(given.store(), parsed.words[0], force=force, warn=given.warn)
    return 0


def _exec(parsed: Parsed, given: Given) -> int:
    from ch_image.cli.oci_exec import execute

    return execute(parsed, given.store(), given.wishes(parsed))


def _pause(parsed: Parsed, given: Given) -> int:
    from ch_image.oci import freeze

    freeze.pause(given.store(), parsed.words[0])
    return 0


def _resume(parsed: Parsed, given: Given) -> int:
    from ch_image.oci import freeze

    freeze.resume(given.store(), parsed.words[0])
    return 0


def _list(parsed: Parsed, given: Given) -> int:
    store = given.store()
    records = store.list()
    if parsed.text("format", "table") == "json":
        import json

        print(json.dumps([record.state(store.shown(record)) for record in records]))
        return 0
    if parsed.has("quiet"):
        for record in records:
            print(record.id)
        return 0
    rows = [("ID", "PID", "STATUS", "BUNDLE", "CREATED")]
    for one in records:
        status = store.shown(one)
        pid = "0" if status == "stopped" else str(one.pid)
        rows.append((one.id, pid, status, printable(one.bundle, 300), one.created))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    return 0


def _ps(parsed: Parsed, given: Given) -> int:
    from ch_image.oci import container

    found = container.processes(given.store(), parsed.words[0])
    if parsed.text("format", "table") == "json":
        print(found)
    else:
        print("\n".join(["PID", *map(str, found)]))
    return 0


def _features(_parsed: Parsed, _given: Given) -> int:
    import json

    from ch_image.oci.features import features

    print(json.dumps(features(), indent=2))
    return 0


_RUN: dict[str, Callable[[Parsed, Given], int]] = {
    "create": _create, "start": _start, "run": _run, "state": _state, "kill": _kill,
    "delete": _delete, "exec": _exec, "pause": _pause, "resume": _resume,
    "list": _list, "ps": _ps, "features": _features,
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
