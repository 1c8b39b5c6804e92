"""What a sub-command of ch-image gets: options, environment, storage, reporter.

Everything is opened when a command first asks for it, so that each pays only for what it uses.
"""

from __future__ import annotations

import os

from ch_image.cli import options
from ch_image.cli.environment import auth_files, storage_path, switched_on
from ch_image.errors import ChError, UsageError, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from subprocess import CompletedProcess

    from ch_image.cli.console import Console
    from ch_image.cli.log import Log
    from ch_image.cli.outside import Outside
    from ch_image.model.platforms import Platform
    from ch_image.model.ref import DefaultRegistry, ImageRef
    from ch_image.report import Reporter
    from ch_image.storage.snapshots.base import Snapshotter
    from ch_image.storage.store import Storage

COMMON = (
    options.flag("-h --help", "show what can be done, or what a sub-command takes"),
    options.value("-s --storage", "DIR", "storage directory (CH_IMAGE_STORAGE)"),
    options.value("-a --arch", "ARCH", "architecture: host, yolo (any), or a name like arm64/v8"),
    options.value("--platform", "OS/ARCH", "platform, written OS/ARCH[/VARIANT]"),
    options.flag("--auth", "log in for every registry request (CH_IMAGE_AUTH)"),
    options.flag("--password-many", "ask for the password each time one is needed"),
    options.flag("--tls-no-verify", "accept any TLS certificate, and plain HTTP"),
    options.value(
        "--cert-dir", "DIR", "*.crt: authorities to trust; NAME.cert, NAME.key: who we are"
    ),
    options.flag("--always-download", "fetch again what is in storage already"),
    options.flag("--cache", "use the build cache (CH_IMAGE_CACHE)", dest="cache", const="enabled"),
    options.flag("--no-cache", "neither read nor write it", dest="cache", const="disabled"),
    options.flag("--rebuild", "carry out all steps again", dest="cache", const="rebuild"),
    options.flag("--xattrs", "keep extended attributes (default)", dest="xattrs", const="yes"),
    options.flag("--no-xattrs", "leave them out (CH_XATTRS=no)", dest="xattrs", const="no"),
    options.flag("--no-lock", "don't lock the storage directory"),
    options.flag("--profile", "say on standard error where the time went"),
    options.flag("--debug", "say everything; show where an error comes from"),
    options.count("-q --quiet", "say less; repeatable"),
    options.count("-v --verbose", "say more; repeatable"),
    options.flag("--version", "print the version"),
    options.flag("--dependencies", "check that all needed is installed; say what is missing"),
)
_CACHE_MODES = ("enabled", "disabled", "rebuild")


class Session:
    """One run of a sub-command. ``parsed`` holds all its options and operands."""

    def __init__(self, parsed: options.Parsed, env: Mapping[str, str], log: Log) -> None:
        self.parsed, self.env, self.log = parsed, env, log
        self.words = parsed.words
        self.verbosity = verbosity(parsed, log)
        self.storage_path = storage_path(parsed, env)
        self.progress = "auto"
        self._console: Console | None = None
        self._storage: Storage | None = None
        self._outside: Outside | None = None

    @property
    def auth(self) -> bool:
        """Whether to log in for every request."""
        return self.parsed.has("auth") or switched_on(self.env, "CH_IMAGE_AUTH")

    @property
    def cache_mode(self) -> str:
        """``enabled``, ``disabled`` or ``rebuild``. Raises UsageError."""
        return self.parsed.text("cache") or _cache_mode(self.env)

    @property
    def xattrs(self) -> bool:
        """Whether extended attributes are kept."""
        return self.parsed.text("xattrs", _xattrs(self.env)) == "yes"

    @property
    def report(self) -> Reporter:
        """Where the engine's events go."""
        if self._console is None:
            from ch_image.cli.console import Console

            self._console = Console(self.log, verbosity=self.verbosity, style=self.progress)
        return self._console

    @property
    def storage(self) -> Storage:
        """The storage directory, opened."""
        if self._storage is None:
            from ch_image.storage.store import open_storage

            self._storage = open_storage(self.storage_path)
        return self._storage

    def locked(self, *, exclusive: bool = False) -> AbstractContextManager[None]:
        """Hold the storage directory, unless ``--no-lock`` leaves that to the caller."""
        from contextlib import nullcontext

        if self.parsed.has("no-lock"):
            return nullcontext()
        return self.storage.lock(exclusive=exclusive, on_wait=self._say_wait)

    def enter(self, *, needed: bool = False, programs: bool = False) -> bool:
        """Become root of a user namespace; to be called before any thread starts.

        ``programs``: other people's will be run, for which ``run_outside`` is there; credential
        helpers are among them, where an auth file names one.

        Where the kernel refuses: raises SandboxError if that is ``needed``, else returns False
        and works on with the caller's own rights.
        """
        from ch_image.cli.faults import end_on_signals
        from ch_image.errors import SandboxError
        from ch_image.report import Detail
        from ch_image.sandbox import userns

        if programs and not self._outside and not userns.entered():
            from ch_image.cli.outside import Outside

            self._outside = Outside()
        end_on_signals()
        try:
            userns.enter()
        except SandboxError as error:
            if needed:
                raise
            self.report(Detail(f"{error}; going on without"))
            return False
        return True

    def names_helpers(self) -> bool:
        """Whether a login may be in the hands of a credential helper."""
        files = auth_files(self.env)
        if not any(os.path.exists(path) for path in files):
            return False
        from ch_image.cli.outside import names_helpers

        return names_helpers(files)

    def run_outside(
        self, words: Sequence[str], data: bytes = b"", timeout: float | None = None
    ) -> CompletedProcess[bytes]:
        """Run a program as the user, not as root of our namespace: see ``Outside.run``."""
        from ch_image.cli.outside import run

        return (self._outside.run if self._outside else run)(words, data, timeout)

    def snapshotter(self) -> Snapshotter:
        """How trees are made here; ``CH_IMAGE_SNAPSHOTTER`` forces ``overlay`` or ``copy``."""
        return self.storage.snapshotter(self.env.get("CH_IMAGE_SNAPSHOTTER", ""))

    @property
    def names_platform(self) -> bool:
        """Whether the user asks for a platform; otherwise it is this machine's, or any."""
        return self.parsed.has("platform") or self.parsed.text("arch", "yolo") != "yolo"

    def platform(self) -> Platform:
        """The platform asked for, this machine's by default. Raises UsageError."""
        from ch_image.model.platforms import host_platform, parse_platform

        if text := self.parsed.text("platform"):
            return parse_platform(text)
        arch = self.parsed.text("arch", "host")
        return host_platform() if arch == "host" else parse_platform(arch)

    def ref(self, text: str) -> ImageRef:
        """A reference as the user writes it. Raises ImageError."""
        from ch_image.model.ref import parse_ref

        return parse_ref(text, self.default_registry())

    def default_registry(self) -> DefaultRegistry:
        """Where names without a host lead."""
        return default_registry(self.env)

    def failure_tail(self) -> list[str]:
        """What a failed RUN said last, where that was not shown."""
        return self._console.failure_tail() if self._console else []

    def close(self) -> None:
        """Take the display away and remove scratch."""
        if self._console is not None:
            self._console.close()
        if self._storage is not None:
            self._storage.close()

    def _say_wait(self, text: str) -> None:
        from ch_image.report import Info

        self.report(Info(text))


def default_registry(env: Mapping[str, str]) -> DefaultRegistry:
    """Where names without a host lead (``CH_REGY_DEFAULT_HOST`` and its kin). Raises UsageError."""
    from ch_image.model.ref import DefaultRegistry

    host = env.get("CH_REGY_DEFAULT_HOST", "")
    prefix = env.get("CH_REGY_PATH_PREFIX", "").strip("/")
    if not host:
        return DefaultRegistry()._replace(**({"prefix": prefix} if prefix else {}))
    port = env.get("CH_REGY_DEFAULT_PORT", "")
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise UsageError(f"CH_REGY_DEFAULT_PORT is not a port: '{printable(port, 60)}'")
    return DefaultRegistry(f"{host}:{port}" if port not in ("", "443") else host, prefix)


def verbosity(parsed: options.Parsed, log: Log) -> int:
    """-3 (``-qqq``) to 3 (``-vvv``); a log file is at least verbose. Raises UsageError."""
    quiet, verbose = parsed.count("quiet"), parsed.count("verbose")
    if quiet and verbose:
        raise UsageError("--quiet and --verbose exclude each other")
    if quiet:
        return -min(quiet, 3)
    level = max(verbose, 2 if parsed.has("debug") else 0)
    return max(level, 1) if log.is_file else level


def carry_out(run: Callable[[Session], int], session: Session) -> int:
    """Run a command in its session, which is closed whatever happens."""
    try:
        return run(session)
    except ChError:
        tail = session.failure_tail()
        session.close()
        for line in tail:
            session.log.line(line)
        raise
    finally:
        session.close()


def emit(lines: Iterable[str]) -> None:
    """Results: the only thing that goes to standard output."""
    for line in lines:
        print(line)


def _cache_mode(env: Mapping[str, str]) -> str:
    mode = env.get("CH_IMAGE_CACHE", "") or "enabled"
    if mode not in _CACHE_MODES:
        raise UsageError(
            f"CH_IMAGE_CACHE cannot be '{printable(mode, 60)}'",
            hint=f"set it to one of {', '.join(_CACHE_MODES)}",
        )
    return mode


def _xattrs(env: Mapping[str, str]) -> str:
    return "yes" if "CH_XATTRS" not in env or switched_on(env, "CH_XATTRS") else "no"


def working_directory() -> str:
    """Where the caller stands. Raises UsageError when that directory is gone."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        raise UsageError(
            "the working directory does not exist any more", hint="cd to another one"
        ) from None
