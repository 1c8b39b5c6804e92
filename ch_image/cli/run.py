"""ch-run: a command in an image, in user and mount namespaces of its own, with the host's rest.

The options and their meaning are Charliecloud's. The program replaces itself by the command, so
it is the command's exit code that the caller sees, or 31 when it could not be started, 49 when
there is no such command, 64 for a wrong command line, 87 for a feature that is not there. Modules
are imported when they are needed: this program starts a thousand times at once.
"""

from __future__ import annotations

import os
import sys

from ch_image import __version__
from ch_image.cli import options
from ch_image.cli.faults import Frame, run_program
from ch_image.cli.log import Log
from ch_image.errors import ChError, UsageError, printable

FAULT, NO_COMMAND, WRONG_USAGE, NO_FEATURE = 31, 49, 64, 87
FEATURES = {"extglob": True, "seccomp": True, "overlayfs": True}
OPTIONS = (
    options.values("-b --bind", "SRC[:DST[:ro]]", "mount SRC at DST (default: the same path)"),
    options.value("-c --cd", "DIR", "start in this directory of the image"),
    options.values("--device", "KIND=NAME", "a device by its CDI specification, such as"
                   " nvidia.com/gpu=all; repeatable"),
    options.flag("--env-no-expand", "don't expand $VAR in --set-env that follow"),
    options.value("--feature", "FEAT", "exit 0 if there is this feature, else 87"),
    options.value("-g --gid", "GID", "be this group inside"),
    options.flag("--home", "mount your home directory at /home/$USER; implies -W"),
    options.values("--inject", "FILE|CMD", "files of the host that FILE lists, or CMD's output;"
                   " repeatable"),
    options.flag("-j --join", "share the container with the other peers on this node"),
    options.value("--join-ct", "N", "so many peers share it (default: as MPI or Slurm say)"),
    options.value("--join-pid", "PID", "enter the container that process PID is in"),
    options.value("--join-tag", "TAG", "what the peers call their group (default: as Slurm says,"
                  " else the parent process)"),
    options.value("-m --mount", "DIR", "where to mount a SquashFS image, inside only"),
    options.flag("--no-passwd", "leave /etc/passwd and /etc/group as they are in the image"),
    options.count("-q --quiet", "say less; repeatable"),
    options.value("-s --storage", "DIR", "storage directory (CH_IMAGE_STORAGE)"),
    options.flag("--seccomp", "let calls succeed that only root may make"),
    options.flag("-t --private-tmp", "a /tmp of its own instead of the host's"),
    options.maybe("--set-env", "X", "", "set variables: VAR=VALUE, or a file of such lines;"
                  " without X those of the image"),
    options.maybe("--set-env0", "X", "", "the same, for a file separated by NUL"),
    options.value("-u --uid", "UID", "be this user inside"),
    options.value("--unset-env", "GLOB", "remove the variables that match"),
    options.count("-v --verbose", "say more; repeatable"),
    options.flag("-w --write", "mount the image for writing"),
    options.maybe("-W --write-fake", "SIZE", "12%", "let writes succeed and forget them; they may"
                  " take SIZE of memory"),
    options.flag("--debug", "show where an error comes from"),
    options.flag("--usage", "show the synopsis"),
    options.flag("-h -? --help", "show this text"),
    options.flag("-V --version", "print the version"),
)  # fmt: skip
ABOUT = (
    "Runs CMD in an image: a name in ch-image's storage, a directory, a SquashFS file, an OCI"
    " layout or an archive of one (PATH[:TAG]; unpacked into storage at the first run). The host's"
    " /dev, /proc, /sys, /tmp and network names are there; everything else is the image's, and"
    " read-only unless -w or -W is given."
)


# What users of docker and Apptainer write -> what it is here.
FOREIGN = {
    ("--env", "-e"): "variables are set with --set-env=NAME=VALUE; the host's are there already",
    ("--env-file",): "a file of variables is read by --set-env=FILE",
    ("--volume", "--mount-bind", "-B"): "directories are mounted with --bind SRC:DST",
    ("--workdir", "--pwd"): "the directory to start in is given by --cd DIR",
    ("--user",): "numbers are given by --uid and --gid; without, you are yourself inside",
    ("--gpus", "--nv", "--rocm"): "GPUs are given by --device nvidia.com/gpu=all",
    ("--rm", "-i", "-it", "--interactive", "--tty"): "leave it out: that is how ch-run works",
    ("--read-only", "--readonly"): "leave it out: images are read-only unless -w or -W is given",
    ("--writable",): "-w writes to a directory's image, -W forgets what is written",
    ("--writable-tmpfs",): "-W lets writes succeed and forgets them",
    ("--contain", "--containall", "-C"): "-t gives an own /tmp; $HOME is not there unless --home",
    ("--cleanenv",): "--unset-env='*' --set-env leaves the image's variables alone",
    ("--network", "--net", "-p", "--publish"): "leave it out: the network is the host's",
    ("--name", "--detach", "-d"): "nothing runs in the background: use the shell's &, or Slurm",
    ("--entrypoint",): "write the command after --",
}  # fmt: skip


class FeatureMissing(ChError):
    """Something that Charliecloud's ch-run can do and this one cannot, or not here."""


def main() -> int:
    """The program ``ch-run``; its exit code where it has not become the command."""
    return run_program(
        lambda frame: ch_run(sys.argv[1:], dict(os.environ), frame),
        usage_code=WRONG_USAGE,
        fault_code=FAULT,
    )


def ch_run(argv: list[str], env: dict[str, str], frame: Frame) -> int:
    """Carry out a command line. Raises what goes wrong; returns only without a command."""
    parsed, command = split(argv)
    frame.debug = parsed.has("debug")
    if frame.debug:
        import traceback  # noqa: F401  # in the container it could not be found any more
    program = options.Command("ch-run", "IMAGE -- CMD [ARG...]", ABOUT, OPTIONS, lambda _: 0)
    if parsed.has("help"):
        print(options.help_text("ch-run", program))
        return 0
    if parsed.has("usage"):
        print("usage: ch-run [OPTION...] IMAGE -- CMD [ARG...]")
        return 0
    if parsed.has("version"):
        print(__version__)
        return 0
    if parsed.has("feature"):
        return 0 if has_feature(parsed.text("feature")) else NO_FEATURE
    if parsed.count("quiet") and parsed.count("verbose"):
        raise UsageError("--quiet and --verbose exclude each other")
    if not command or not parsed.words[0]:
        what = "no command given" if parsed.words and parsed.words[0] else "no image given"
        raise UsageError(what, hint="usage: ch-run [OPTION...] IMAGE -- CMD [ARG...]")
    frame.log = log = Log(env, quiet=parsed.count("quiet"))
    from ch_image.cli.run_start import CommandMissing, start

    try:
        start(parsed, command, env, log)
    except CommandMissing as error:
        if parsed.count("quiet") < 3:  # it is the caller's command that failed
            log.error(printable(str(error)), printable(error.hint))
        return NO_COMMAND


def split(argv: list[str]) -> tuple[options.Parsed, list[str]]:
    """The options with IMAGE as their only word, and the command.

    Options may stand before and after IMAGE; ``--`` or the next word begins the command, whose
    own options are then its own.
    """
    try:
        return _split(argv)
    except UsageError as error:
        unknown = str(error).removeprefix("unknown option ")
        for names, hint in FOREIGN.items():
            if unknown in names:
                error.hint = hint
        raise


def _split(argv: list[str]) -> tuple[options.Parsed, list[str]]:
    parsed, rest = options.parse(argv, OPTIONS, until_operand=True)
    parsed.words.clear()  # what stood behind a "--" is in rest as well
    if not rest:
        return parsed, []
    image, behind = rest[0], rest[1:]
    after, command = options.parse(behind, OPTIONS, until_operand=True)
    after.words.clear()
    merged = after.onto(parsed)
    merged.words = [image]
    return merged, command


def has_feature(name: str) -> bool:
    """Whether there is the feature. Raises UsageError for one that nobody has."""
    if name == "tmpfs-xattrs":
        release = os.uname().release.split(".")
        return (int(release[0]), int(release[1].partition("-")[0])) >= (6, 6)
    if name == "squash":
        from ch_image.cli.run_squash import usable

        return usable(os.environ.get("PATH", ""))
    if name not in FEATURES:
        raise UsageError(
            f"unknown feature '{printable(name, 60)}'",
            hint=f"there is {', '.join([*FEATURES, 'squash', 'tmpfs-xattrs'])}",
        )
    return FEATURES[name]


if __name__ == "__main__":
    sys.exit(main())
