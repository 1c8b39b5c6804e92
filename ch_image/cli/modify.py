"""modify: an image changed by commands or a script, as a build of a few RUNs.

So the result has a history, hits the build cache when nothing changed (a script counts by its
content), and is as safe as any build: SRC stays as it is, DEST appears when all has succeeded.
"""

from __future__ import annotations

import json
import os
import sys

from ch_image.cli import options
from ch_image.cli.session import Session
from ch_image.errors import UsageError, printable
from ch_image.report import Info

_MAX_SCRIPT = 16 << 20  # bytes
_PLACE = "/ch/modify"  # where a script stands while it runs; nothing stays


def _modify(session: Session) -> int:
    from ch_image.build.executor import build
    from ch_image.build.options import BuildOptions
    from ch_image.cli.build import puller
    from ch_image.cli.processors import processors

    source, target, *more = session.words
    if session.ref(source).canonical == session.ref(target).canonical:
        raise UsageError("modify needs another name for its result", hint=f"not {source} again")
    script = _script(session, more)
    with session.storage.scratch() as scratch:
        if script is not None:
            with open(f"{scratch}/script", "wb") as file:
                file.write(script)
        wanted = BuildOptions(
            dockerfile="modify",
            text=_dockerfile(session, source, script is not None),
            context=scratch if script is not None else None,
            tags=(session.ref(target),),
            pull=puller(session),
            cache=session.cache_mode,
            force=session.parsed.text("force", "seccomp"),
            jobs=processors(),
            snapshotter=session.env.get("CH_IMAGE_SNAPSHOTTER", ""),
            default_registry=session.default_registry(),
            platform=session.platform() if session.names_platform else None,
        )
        session.enter(needed=True)
        with session.locked():
            build(wanted, session.storage, session.report)
    session.report(Info(f"modified image: {target}"))
    return 0


def _script(session: Session, more: list[str]) -> bytes | None:
    """The script's content; None where commands are given instead. Raises UsageError."""
    if session.parsed.has("c"):
        if more:
            raise UsageError("-c and a script exclude each other")
        return None
    if more and more[0] != "-":
        with open(more[0], "rb") as file:
            script = file.read(_MAX_SCRIPT + 1)
    elif sys.stdin is None or (not more and os.isatty(0)):
        raise UsageError(
            "nothing to do: no -c, no script, and standard input is a terminal",
            hint="for example: ch-image modify -c 'apt-get install -y less' SRC DEST",
        )
    else:
        script = sys.stdin.buffer.read(_MAX_SCRIPT + 1)
    if len(script) > _MAX_SCRIPT:
        raise UsageError("the script is longer than 16 MiB")
    if not script.strip():
        raise UsageError("the script is empty")
    return script


def _dockerfile(session: Session, source: str, scripted: bool) -> bytes:
    shell = session.parsed.text("shell", "/bin/sh")
    if not shell.startswith("/"):
        raise UsageError(f"--shell is no absolute path: '{printable(shell, 100)}'")
    lines = [f"FROM {source}"]
    if scripted:
        mount = f"--mount=type=bind,source=script,target={_PLACE}"
        lines.append(f"RUN {mount} {json.dumps([shell, _PLACE])}")
    for command in session.parsed.texts("c"):
        lines.append(f"RUN {json.dumps([shell, '-c', command])}")
    return "".join(f"{line}\n" for line in lines).encode(errors="surrogateescape")


MODIFY = options.Command(
    "modify",
    "SRC DEST [SCRIPT]",
    "Makes DEST of the image SRC by commands (-c), or by SCRIPT, which is run by the shell; without"
    " either, by a script on standard input.",
    (
        options.values("-c", "CMD", "run this command; repeatable"),
        options.value("-S --shell", "SHELL", "the shell, a path in the image (default: /bin/sh)"),
        options.value(
            "--force",
            "MODE",
            "root emulation: seccomp (default), fakeroot or none",
            choices=("seccomp", "fakeroot", "none"),
        ),
    ),
    _modify,
)
