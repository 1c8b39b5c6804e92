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

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ch_image.build.options import BuildOptions

_MAX_SCRIPT = 16 << 20  # bytes
_PLACE = "/ch/modify"  # where a script stands while it runs; nothing stays


def _modify(session: Session) -> int:
    from ch_image.build.executor import build

    source, target, *more = session.words
    if session.ref(source).canonical == session.ref(target).canonical:
        raise UsageError("modify needs another name for its result", hint=f"not {source} again")
    if _by_hand(session, more):
        return _interactive(session, source, target)
    script = _script(session, more)
    with session.storage.scratch() as scratch:
        if script is not None:
            with open(f"{scratch}/script", "wb") as file:
                file.write(script)
        wanted = _options(session, target)._replace(
            text=_dockerfile(session, source, script is not None),
            context=scratch if script is not None else None,
        )
        session.enter(needed=True)
        with session.locked():
            build(wanted, session.storage, session.report)
    session.report(Info(f"modified image: {target}"))
    return 0


def _options(session: Session, target: str) -> BuildOptions:
    from ch_image.build.options import BuildOptions
    from ch_image.cli.build import puller
    from ch_image.cli.build_options import epoch
    from ch_image.cli.processors import processors

    return BuildOptions(
        dockerfile="modify",
        text=b"",
        context=None,
        tags=(session.ref(target),),
        pull=puller(session),
        cache=session.cache_mode,
        force=session.parsed.text("force", "seccomp"),
        jobs=processors(),
        epoch=epoch(session.env),
        snapshotter=session.env.get("CH_IMAGE_SNAPSHOTTER", ""),
        default_registry=session.default_registry(),
        platform=session.platform() if session.names_platform else None,
    )


def _by_hand(session: Session, more: list[str]) -> bool:
    """Whether a shell is wanted: by -i, or at a terminal where nothing else is given."""
    if session.parsed.has("i"):
        if session.parsed.has("c"):
            raise UsageError("-i and -c exclude each other")
        if more:
            raise UsageError("-i and a script exclude each other")
        return True
    return not more and not session.parsed.has("c") and sys.stdin is not None and os.isatty(0)


def _interactive(session: Session, source: str, target: str) -> int:
    from ch_image.build.interactive import by_hand
    from ch_image.cli.modify_shell import attend

    options = _options(session, target)
    if options.force == "fakeroot":
        raise UsageError("-i and --force=fakeroot exclude each other", hint="--force=seccomp does")
    ref, passed = session.ref(source), {}
    if "TERM" in session.env:
        passed["TERM"] = session.env["TERM"]
    session.enter(needed=True)
    with session.locked():
        image = session.storage.images.find(ref) or options.pull(ref, options.platform, False)
        options = options._replace(passed=passed)
        shell = (_shell(session),)
        by_hand(options, session.storage, image, shell, attend, session.report)
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
    elif sys.stdin is None:
        raise UsageError(
            "nothing to do: no -c, no script, and no standard input",
            hint="for example: ch-image modify -c 'apt-get install -y less' SRC DEST",
        )
    else:
        script = sys.stdin.buffer.read(_MAX_SCRIPT + 1)
    if len(script) > _MAX_SCRIPT:
        raise UsageError("the script is longer than 16 MiB")
    if not script.strip():
        raise UsageError("the script is empty")
    return script


def _shell(session: Session) -> str:
    shell = session.parsed.text("shell", "/bin/sh")
    if not shell.startswith("/"):
        raise UsageError(f"--shell is no absolute path: '{printable(shell, 100)}'")
    return shell


def _dockerfile(session: Session, source: str, scripted: bool) -> bytes:
    shell = _shell(session)
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
    " either, by a script on standard input, or by hand in a shell where that is a terminal. What"
    " is done by hand never comes from the build cache; a shell that is killed leaves no image.",
    (
        options.values("-c", "CMD", "run this command; repeatable"),
        options.flag("-i", "a shell to work in, whatever standard input is"),
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
