"""oci create, run, start, state, attach, exec, kill, delete: containers of bundles."""

from __future__ import annotations

import os

from ch_image.cli import options
from ch_image.cli.environment import containers_path
from ch_image.cli.session import Session, emit
from ch_image.errors import ChError, UsageError, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ch_image.oci.attach import Attachment
    from ch_image.oci.keeper import Order
    from ch_image.oci.states import Record, Store
    from ch_image.typed import Any

_SIGKILL, _SIGMAX = 9, 64


def store_of(session: Session) -> Store:
    """Where states are kept; the same for ``ch-run-oci``."""
    from ch_image.oci.states import Store

    return Store(containers_path("", session.env))


def _order(session: Session, *, owner: int = -1, direct: bool = False) -> Order:
    from ch_image.oci.keeper import Order

    parsed = session.parsed
    here = os.path.abspath  # the keeper stands elsewhere
    return Order(
        owner,
        direct,
        here(parsed.text("pid-file")) if parsed.has("pid-file") else "",
        here(parsed.text("log-path")) if parsed.has("log-path") else "",
        parsed.text("log-format", "kubernetes"),
    )


def _bundle(session: Session) -> str:
    if not session.parsed.has("bundle"):
        raise UsageError(
            "no bundle given", hint="-b BUNDLE: what ch-image oci mount made, or another one"
        )
    path = os.path.realpath(session.parsed.text("bundle"))
    if not os.path.isdir(path):
        raise ChError(f"no such bundle: {printable(session.parsed.text('bundle'), 300)}")
    return path


def _create(session: Session) -> int:
    from ch_image.oci import keeper

    keeper.create(
        store_of(session), session.words[0], _bundle(session), _order(session), session.log.warning
    )
    return 0


_CREATION = (
    options.value("-b --bundle", "BUNDLE", "the bundle's directory (needed)"),
    options.value("-l --log-path", "FILE", "note what the container says in FILE"),
    options.value("--log-format", "FORMAT", "basic, kubernetes (default) or json",
                  choices=("basic", "kubernetes", "json")),
    options.value("--pid-file", "FILE", "write the number of the container's process to FILE"),
)  # fmt: skip
CREATE = options.Command(
    "oci create",
    "ID",
    "Creates the container ID of a bundle: all is made, and its process waits for start. What it"
    " says then is kept for attach.",
    _CREATION,
    _create,
)


def _run(session: Session) -> int:
    from ch_image.oci import container, keeper, talk

    store, ident = store_of(session), session.words[0]
    guard, owner = os.pipe2(os.O_CLOEXEC)  # when our end goes, however, the container goes
    order = _order(session, owner=guard, direct=True)
    keeper.create(store, ident, _bundle(session), order, session.log.warning)
    os.close(guard)
    stays = False
    try:
        line = talk.call(store, ident)
        if line is None:
            raise ChError(f"the process that keeps container {ident} was killed")
        record = store.read(ident)
        # What is not a terminal is the container's own already.
        code = _attachment(store, record, line, watch=not _is_terminal(record)).follow(
            lambda: container.start(store, ident, session.log.warning)
        )
        if code is None:
            line.setblocking(True)
            line.send(talk.FREE)
            stays = True
            session.log.line("detached; the container runs on")
        return code or 0
    finally:
        if not stays:
            container.delete(store, ident, force=True, warn=session.log.warning)
        os.close(owner)


def _is_terminal(record: Record) -> bool:
    from ch_image.oci.keeper import TERMINAL

    return bool(record.more.get(TERMINAL))


def _attachment(store: Store, record: Record, line: Any, *, watch: bool) -> Attachment:
    """Our descriptors as the container's; signals go to it."""
    from ch_image.oci import container
    from ch_image.oci.attach import Attachment

    line.setblocking(False)

    def signalled(number: int) -> None:
        container.kill(store, record.id, number)

    return Attachment(line, signalled, terminal=_is_terminal(record), watch=watch)


RUN = options.Command(
    "oci run",
    "ID",
    "Creates the container ID of a bundle, starts it, waits for it and deletes it. The exit code"
    " is the container's. At a terminal, Ctrl-P Ctrl-Q leaves it running.",
    _CREATION,
    _run,
)


def _start(session: Session) -> int:
    from ch_image.oci import container

    container.start(store_of(session), session.words[0], session.log.warning)
    return 0


START = options.Command("oci start", "ID", "Starts a created container.", (), _start)


def _state(session: Session) -> int:
    import json

    from ch_image.oci import container
    from ch_image.oci.keeper import EXIT

    store, ident = store_of(session), session.words[0]
    found = container.state(store, ident)
    record = store.read(ident)
    if EXIT in record.more:
        found["exitCode"] = record.more[EXIT]
    emit([json.dumps(found, indent=2)])
    return 0


STATE = options.Command(
    "oci state",
    "ID",
    "Prints the container's state as JSON, as the runtime-spec has it; with exitCode when it is"
    " known.",
    (),
    _state,
)


def _attach(session: Session) -> int:
    from ch_image.oci import talk
    from ch_image.oci.attach import write_all
    from ch_image.oci.keeper import EXIT

    store, ident = store_of(session), session.words[0]
    record = store.read(ident)
    line = talk.call(store, ident)
    if line is not None:
        code = _attachment(store, record, line, watch=session.parsed.has("no-stdin")).follow()
        if code is None:
            session.log.line("detached; the container runs on")
        return code or 0
    record = store.read(ident)
    if EXIT in record.more:
        for kind, data in talk.saved(f"{talk.directory(store, ident)}/{talk.OUTPUT}"):
            write_all(2 if kind == talk.ERR else 1, data)
        return int(record.more[EXIT])
    raise ChError(
        f"container {ident} cannot be attached to: nobody keeps its output",
        hint="only what ch-image oci create made can be attached to",
    )


ATTACH = options.Command(
    "oci attach",
    "ID",
    "Shows what a container says, from what it said last on, and passes input and signals to it."
    " Ends with the container, with its exit code; at a terminal also by Ctrl-P Ctrl-Q.",
    (options.flag("--no-stdin", "pass no input; else its end is the end of the container's"),),
    _attach,
)


def _exec(session: Session) -> int:
    import socket

    from ch_image.oci import container
    from ch_image.oci.attach import Attachment, OwnChild, OwnTerminal, received

    store, ident, parsed = store_of(session), session.words[0], session.parsed
    terminal = parsed.has("terminal")
    process = container.template(store, ident)._replace(
        args=tuple(session.words[1:]), terminal=terminal, console_size=None
    )
    if parsed.has("cwd"):
        process = process._replace(cwd=parsed.text("cwd"))
    process = process._replace(env=_with(process.env, parsed.texts("env")))
    wishes = container.Wishes(warn=session.log.warning)
    if not terminal:
        pid = container.execute(store, ident, process, wishes)
        line = OwnChild(pid)
    else:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            wishes = wishes._replace(console=theirs.fileno())
            pid = container.execute(store, ident, process, wishes)
            line = OwnTerminal(pid, received(ours))
    attachment = Attachment(
        line, lambda number: os.kill(pid, number), terminal=terminal, watch=not terminal
    )
    return attachment.follow() or 0


def _with(env: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    """The variables with some set, or set anew. Raises UsageError."""
    for item in more:
        if not item.partition("=")[0] or "=" not in item:
            raise UsageError(f"--env takes NAME=VALUE, not '{printable(item, 100)}'")
    names = {item.partition("=")[0] for item in more}
    return (*(item for item in env if item.partition("=")[0] not in names), *more)


EXEC = options.Command(
    "oci exec",
    "ID CMD...",
    "Runs a further command in a running container; the exit code is the command's. Options stand"
    " before ID.",
    (
        options.flag("-t --terminal", "give it a terminal"),
        options.values("-e --env", "NAME=VALUE", "set a variable; repeatable"),
        options.value("--cwd", "DIR", "start it there"),
    ),
    _exec,
    foreign=True,
)


def _kill(session: Session) -> int:
    from ch_image.oci import container

    store, ident, parsed = store_of(session), session.words[0], session.parsed
    text = session.words[1] if len(session.words) > 1 else parsed.text("signal", "TERM")
    number = _SIGKILL if parsed.has("force") else signal_number(text)
    wait = _seconds(parsed.text("timeout"))
    container.kill(store, ident, number, everyone=parsed.has("all"))
    if wait and not _ends(store, store.read(ident), wait):
        container.kill(store, ident, _SIGKILL)
    return 0


def _seconds(text: str) -> int:
    if text and not (text.isascii() and text.isdigit() and len(text) < 9):
        raise UsageError(f"--timeout takes seconds, not '{printable(text, 60)}'")
    return int(text or "0")


def _ends(store: Store, record: Record, seconds: int) -> bool:
    """Whether the container ends within that time."""
    import select

    from ch_image.sandbox import syscalls as kernel

    try:
        pidfd = kernel.pidfd_open(record.pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return store.status(record) == "stopped" or bool(poll.poll(seconds * 1000))
    finally:
        os.close(pidfd)


def signal_number(text: str) -> int:
    """A signal by number or name. Raises UsageError."""
    import signal

    if text.isascii() and text.isdigit() and 0 < int(text[:9]) <= _SIGMAX:
        return int(text)
    name = text.upper().removeprefix("SIG")
    known = {one.name.removeprefix("SIG"): int(one) for one in signal.Signals}
    if name not in known:
        hint = options.near(name, known) or "kill -l lists signals"
        raise UsageError(f"no signal is called '{printable(text, 60)}'", hint=hint)
    return known[name]


KILL = options.Command(
    "oci kill",
    "ID [SIGNAL]",
    "Sends a signal to the container's first process: SIGTERM unless another is named.",
    (
        options.value("-s --signal", "SIGNAL", "this one, by name or number"),
        options.flag("-f --force", "SIGKILL"),
        options.flag("-a --all", "to all processes of the container"),
        options.value("-t --timeout", "SECONDS", "wait so long for it to end, then send SIGKILL"),
    ),
    _kill,
)


def _delete(session: Session) -> int:
    from ch_image.oci import container

    force = session.parsed.has("force")
    container.delete(store_of(session), session.words[0], force=force, warn=session.log.warning)
    return 0


DELETE = options.Command(
    "oci delete",
    "ID",
    "Forgets a container that has ended.",
    (options.flag("-f --force", "kill it first if it has not; no fault if there is none"),),
    _delete,
)
