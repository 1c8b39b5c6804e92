"""ch-image: finds the sub-command, hands it a session, turns what happens into an exit code.

A sub-command's module is imported when it is chosen, for start-up is a budget.
"""

from __future__ import annotations

import gc
import os
import sys

from ch_image import __version__
from ch_image.cli import options
from ch_image.cli.faults import Frame, run_program
from ch_image.cli.log import Log
from ch_image.cli.session import COMMON, Session, carry_out
from ch_image.errors import UsageError, printable

# sub-command -> (module of cli/, name in it, what it does); no module: not built yet
COMMANDS = {
    "build": ("build", "BUILD", "build an image from a Dockerfile"),
    "pull": ("transfer", "PULL", "copy an image from a registry into storage"),
    "push": ("push", "PUSH", "copy an image from storage to a registry"),
    "list": ("images", "LIST", "list the images in storage"),
    "inspect": ("inspect", "INSPECT", "show an image's configuration"),
    "delete": ("images", "DELETE", "take images from storage"),
    "undelete": ("images", "UNDELETE", "bring a deleted image back"),
    "tag": ("images", "TAG", "give an image another name"),
    "import": ("importing", "IMPORT", "make an image of a directory or archive"),
    "modify": ("modify", "MODIFY", "change an image with commands"),
    "history": ("inspect", "HISTORY", "show how an image was made"),
    "diff": ("diff", "DIFF", "compare two images"),
    "build-cache": ("storage", "BUILD_CACHE", "show, clean or empty the build cache"),
    "storage-path": ("storage", "STORAGE_PATH", "print where storage is"),
    "reset": ("storage", "RESET", "remove everything from storage"),
    "verify": ("verify", "VERIFY", "check storage and repair it"),
    "gestalt": ("gestalt", "GESTALT", "answer a question about this installation"),
    "login": ("login", "LOGIN", "store credentials for a registry"),
    "logout": ("login", "LOGOUT", "forget credentials for a registry"),
    "manifest": ("manifest", "MANIFEST", "put several platforms under one name"),
    "oci": ("oci", "OCI", "run images as an OCI runtime does"),
    "completion": ("gestalt", "COMPLETION", "print a completion script for a shell"),
}
ABOUT = "Builds, exchanges and runs container images with no privilege at all."


def main() -> int:
    """The program ``ch-image``; its exit code."""
    # Start-up makes many objects and no garbage; looking for some takes a tenth of it.
    gc.set_threshold(50_000, 20, 20)
    return run_program(lambda frame: ch_image(sys.argv[1:], dict(os.environ), frame))


def ch_image(argv: list[str], env: dict[str, str], frame: Frame) -> int:
    """Carry out a command line. Raises what goes wrong."""
    before, rest = options.parse(argv, COMMON, until_operand=True)
    frame.debug = before.has("debug")
    if before.has("version"):
        print(__version__)
        return 0
    if before.has("help"):
        print(overview())
        return 0
    if not rest and before.has("dependencies"):
        return dependencies()
    if not rest:
        print(overview(), file=sys.stderr)
        raise UsageError("no sub-command given", hint="for example: ch-image build -t demo .")
    command = find(rest[0])
    command, after = command.parse(rest[1:], COMMON)
    parsed = after.over(before)
    frame.debug = parsed.has("debug")
    if parsed.has("help"):
        verbs = [(name, verb.about) for name, verb in command.verbs.items()]
        more = [("Verbs", verbs)]
        print(options.help_text(f"ch-image {command.name}", command, common=COMMON, more=more))
        return 0
    if parsed.has("version"):
        print(__version__)
        return 0
    frame.log = log = Log(env, quiet=parsed.count("quiet"))
    session = Session(parsed, env, log)
    command.check_operands(parsed.words)
    if parsed.has("profile"):
        return carry_out(lambda one: profiled(command, one), session)
    return carry_out(command.run, session)


def find(name: str) -> options.Command:
    """The sub-command of that name. Raises UsageError with a near one."""
    if name not in COMMANDS:
        hint = options.near(name, COMMANDS) or "ch-image --help lists the sub-commands"
        raise UsageError(f"unknown sub-command '{printable(name, 100)}'", hint=hint)
    module, attribute, _ = COMMANDS[name]
    if not module:
        raise UsageError(
            f"{name} is not built yet in this version",
            hint="ch-image --help lists what there is",
        )
    path = f"ch_image.cli.{module}"
    __import__(path)  # importlib would bring warnings with it
    found = getattr(sys.modules[path], attribute)
    assert isinstance(found, options.Command)
    return found


def overview() -> str:
    """The text of ``ch-image --help``."""
    top = options.Command("ch-image", "SUBCOMMAND ...", ABOUT, (), lambda _: 0)
    lines = [(n, about if at else f"{about} (not yet)") for n, (at, _, about) in COMMANDS.items()]
    return options.help_text("ch-image", top, common=COMMON, more=[("Sub-commands", lines)])


def profiled(command: options.Command, session: Session) -> int:
    """Run under the profiler and show the thirty most expensive functions."""
    import cProfile
    import io
    import pstats

    profile = cProfile.Profile()
    try:
        return int(profile.runcall(command.run, session))
    finally:
        out = io.StringIO()
        pstats.Stats(profile, stream=out).sort_stats("cumulative").print_stats(30)
        for line in out.getvalue().splitlines():
            session.log.line(line)


def dependencies() -> int:
    """Say what is missing on standard output, nothing when all is there."""
    from importlib.util import find_spec

    missing = []
    if sys.version_info < (3, 11):  # noqa: UP036  (pip may be told to ignore it)
        missing.append("Python 3.11 or newer")
    needed = ("lark", "requests", "yaml", "rich", "zstandard", "isal")
    missing += [f"Python package {name}" for name in needed if find_spec(name) is None]
    for name in missing:
        print(f"missing: {name}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
