"""ch-run-oci exec: another process in a container."""

from __future__ import annotations

import os

from ch_image.errors import UsageError, printable
from ch_image.oci import container, foreground, spec
from ch_image.oci.config import Process, User

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ch_image.cli.options import Parsed
    from ch_image.oci.states import Store
    from ch_image.oci.wishes import Wishes


def execute(parsed: Parsed, store: Store, wishes: Wishes) -> int:
    """The process's exit code; 0 at once with ``--detach``."""
    ident, args = parsed.words[0], list(parsed.words[1:])
    if args[:1] == ["--"]:
        args = args[1:]
    if parsed.has("process"):
        process = spec.load_process(parsed.text("process"))
    else:
        process = _adjusted(container.template(store, ident), parsed, args)
    return foreground.execute(store, ident, process, wishes, detach=parsed.has("detach"))


def _adjusted(process: Process, parsed: Parsed, args: list[str]) -> Process:
    if not args:
        raise UsageError("exec needs a command", hint="exec ID CMD [ARG...], or --process FILE")
    user = process.user
    if parsed.has("user"):
        user = _user(parsed.text("user"), user)
    cwd = parsed.text("cwd", process.cwd)
    if not os.path.isabs(cwd):
        raise UsageError("--cwd must be an absolute path")
    return process._replace(
        args=tuple(args),
        cwd=cwd,
        env=process.env + parsed.texts("env"),
        user=user,
        terminal=parsed.has("tty"),
        no_new_privileges=process.no_new_privileges or parsed.has("no-new-privs"),
    )


def _user(text: str, before: User) -> User:
    uid, _, gid = text.partition(":")
    if not uid.isdecimal() or (gid and not gid.isdecimal()):
        raise UsageError(f"--user takes numbers, UID[:GID], not '{printable(text, 60)}'")
    return User(int(uid), int(gid) if gid else before.gid, before.umask, before.groups)
