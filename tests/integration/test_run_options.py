"""Every option of ch-run: what it does, seen from inside, and what it says to a bad value.

Two tables with a row for each way an option is used. A test compares them with the table of the
program, so an option without a row is a failure.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import world

from ch_image.cli.run import OPTIONS

pytestmark = pytest.mark.userns
SH = ("sh", "-c")


class Case:
    """Words, with {t} for a directory of the test's, and what standard output is then."""

    def __init__(
        self, options: str, script: str, out: str, *, err: str = "", code: int = 0, **env: str
    ) -> None:
        self.options, self.script, self.out = options.split(), script, out
        self.err, self.code, self.env = err, code, env


GOOD: dict[str, list[Case]] = {
    "bind": [
        Case("-b {t}/dir:/mnt/x", "cat /mnt/x/file", "in dir\n"),
        Case("--bind={t}/dir", "cat {t}/dir/file", "in dir\n"),
        Case("-b {t}/dir/file:/new/name", "cat /new/name", "in dir\n"),
        Case("-b {t}/dir:/a -b {t}/other:/a", "ls /a", "another\n"),
        Case("-b {t}/dir:/a:ro", "(: >> /a/file) 2> /dev/null || cat /a/file", "in dir\n"),
        Case("-b {t}/dir:/a:rw", "touch /a/file && echo yes", "yes\n"),
    ],
    "cd": [Case("-c /etc", "pwd", "/etc\n"), Case("--cd=/home/../etc", "pwd", "/etc\n")],
    "device": [
        Case("--device acme.com/gpu=0", "echo $ACME", "zero\n", CDI_SPEC_DIRS="{t}/cdi"),
        Case("--device=acme.com/gpu=all", "echo $ACME", "zero\n", CDI_SPEC_DIRS="{t}/cdi"),
    ],
    "env-no-expand": [
        Case("--set-env=A=$X --env-no-expand --set-env=B=$X", "echo $A,$B", "1,$X\n", X="1")
    ],
    "feature": [Case("--feature=seccomp", "", ""), Case("--feature overlayfs", "", "")],
    "gid": [Case("-g 77", "id -g", "77\n"), Case("--gid=0", "id -g", "0\n")],
    "home": [Case("--home", "cat $HOME/mine; touch /x", "mine\n")],
    "inject": [Case("--inject {t}/list", "cat /etc/injected", "in dir\n")],
    "join": [
        Case("--join", "echo in", "in\n", SLURM_CPUS_ON_NODE="1"),
        Case("-j", "echo in", "in\n", OMPI_COMM_WORLD_LOCAL_SIZE="1"),
    ],
    "join-ct": [Case("--join-ct=1", "echo in", "in\n")],
    "join-pid": [Case("--join-pid={pid}", "cat /tmp/place", "there\n")],
    "join-tag": [Case("--join-tag=a-tag --join-ct 1", "echo in", "in\n")],
    "mount": [Case("-m {t}", "echo in", "in\n", err="--mount is for SquashFS")],
    "no-passwd": [Case("--no-passwd", "grep -c app: /etc/passwd", "1\n")],
    "quiet": [
        Case("-q", "nosuch", "", err="nosuch", code=127),
        Case("-qq -m {t}", "echo in", "in\n"),
        Case("-qqq", "exec /nosuch", "", code=127, err="/nosuch"),
    ],
    "storage": [Case("-s {t}/storage", "echo in", "in\n"), Case("--storage={t}/s", ":", "")],
    "seccomp": [Case("--seccomp -W -u0 -g0", "chown 5:5 /etc/group && echo done", "done\n")],
    "private-tmp": [
        Case("-t", "ls -A /tmp; touch /tmp/x", "", TMPDIR="{t}"),
        Case("--private-tmp", "ls -A /tmp", ""),
    ],
    "set-env": [
        Case("--set-env=A=b", "echo $A", "b\n"),
        Case("--set-env={t}/env", "echo $FROM_FILE", "two words\n"),
        Case("--set-env", "echo $OF_IMAGE", "yes\n"),
    ],
    "set-env0": [
        Case("--set-env0={t}/env0", 'echo "$NUL"', "a\nb\n"),
        Case("--set-env0=A=b", "echo $A", "b\n"),
    ],
    "uid": [Case("-u 4321", "id -u", "4321\n"), Case("--uid=0", "whoami", "root\n")],
    "unset-env": [
        Case("--unset-env=A*", "echo $AB,$B", ",2\n", AB="1", B="2"),
        Case("--unset-env=!(B|PATH)", "echo $AB,$B", ",2\n", AB="1", B="2"),
    ],
    "verbose": [Case("-v --set-env=A=b", "echo in", "in\n", err="environment: A=b")],
    "write": [Case("-w", "echo x > /kept; cat /kept; rm /kept", "x\n")],
    "write-fake": [
        Case("-W", "echo x > /new; cat /new", "x\n"),
        Case("-W5m", "df -k / | awk 'END { print $2 }'", "5120\n"),
        Case("--write-fake=5%", "echo x > /new; cat /new", "x\n"),
        Case("--write-fake=64k", "head -c 1000000 /dev/zero > /x || echo full", "full\n"),
    ],
    "debug": [Case("--debug", "echo in", "in\n")],
    "usage": [Case("--usage", "", "usage: ch-run [OPTION...] IMAGE -- CMD [ARG...]\n")],
    "help": [Case("--help", "", "usage:"), Case("-h", "", "usage:"), Case("-?", "", "usage:")],
    "version": [Case("--version", "", "0."), Case("-V", "", "0.")],
}  # fmt: skip
# option -> [(words, exit code, what is said)]
BAD: dict[str, list[tuple[str, int, str]]] = {
    "bind": [
        ("-b", 64, "needs a value"),
        ("--bind=", 31, "no source"),
        ("-b :/mnt", 31, "no source"),
        ("-b {t}:", 31, "no destination"),
        ("-b {t}:mnt", 31, "must be absolute"),
        ("-b {t}:/", 31, "can't be /"),
        ("-b {t}:/..", 31, "can't be /"),
        ("-b {t}:/etc/..", 31, "can't be /"),
        ("-b {t}:/root-link", 31, "the image's root"),
        ("-b /nosuch", 31, "source not found: /nosuch"),
        ("-b {t}:/etc/group/x", 31, "Not a directory"),
        ("-b {t}:/etc/group", 31, "/etc/group in the image is not"),
        ("-b {t}/list:/etc", 31, "/etc in the image is a directory"),
        ("-b {t}:/proc/new", 31, "destination not found: /proc/new"),
    ],
    "cd": [("-c", 64, "needs a value"), ("--cd=/nosuch", 31, "can't cd to /nosuch"),
           ("--cd=/etc/group", 31, "Not a directory"), ("--cd=", 31, "can't cd")],
    "device": [("--device", 64, "needs a value"), ("--device=gpu", 31, "VENDOR/CLASS=NAME")],
    "env-no-expand": [("--env-no-expand=yes", 64, "takes no value")],
    "feature": [("--feature=fast", 64, "unknown feature"), ("--feature=", 64, "unknown feature")],
    "gid": [("-g wheel", 64, "a number"), ("--gid=-1", 64, "a number"), ("--gid=", 64, "a number"),
            ("--gid=4294967295", 64, "a number"), ("--gid=" + "9" * 5000, 64, "a number")],
    "home": [("--home=/x", 64, "takes no value")],
    "inject": [("--inject=", 31, "takes a file or a command"), ("--inject=/nosuch", 31, "neither")],
    "join": [("--join", 31, "no valid peer group size"), ("--join=2", 64, "takes no value")],
    "join-ct": [("--join-ct=", 31, "no digits"), ("--join-ct=x", 31, "no digits")],
    "join-pid": [("--join-pid=x", 31, "no digits"), ("--join-pid=2147483647", 31, "no PID")],
    "join-tag": [("--join-tag= --join-ct=1", 31, "cannot be empty")],
    "mount": [("--mount=", 31, "empty")],
    "no-passwd": [("--no-passwd=1", 64, "takes no value")],
    "quiet": [("-q -v", 64, "exclude"), ("--quiet=3", 64, "takes no value")],
    "storage": [("-s", 64, "needs a value"), ("--storage=", 64, "names no directory")],
    "seccomp": [("--seccomp=on", 64, "takes no value")],
    "private-tmp": [("--private-tmp=/x", 64, "takes no value")],
    "set-env": [("--set-env=/nosuch", 31, "/nosuch"), ("--set-env={t}/bad", 31, "bad:2"),
                ("--set-env==x", 31, "empty name"), ("--set-env={t}", 31, "directory")],
    "set-env0": [("--set-env0=/nosuch", 31, "/nosuch"), ("--set-env0={t}/list", 31, "no delim")],
    "uid": [("-u root", 64, "a number"), ("--uid=", 64, "a number"), ("--uid=1.5", 64, "a number")],
    "unset-env": [("--unset-env", 64, "needs a value"), ("--unset-env=", 31, "empty")],
    "verbose": [("--verbose=9", 64, "takes no value")],
    "write": [("--write=x", 64, "takes no value")],
    "write-fake": [("-W=", 31, "no size"), ("-W=much", 31, "no size"), ("-W=-1", 31, "no size"),
                   ("--write-fake=1x", 31, "no size"), ("--write-fake=%", 31, "no size")],
    "debug": [("--debug=1", 64, "takes no value")],
    "usage": [("--usage=1", 64, "takes no value")],
    "help": [("--help=run", 64, "takes no value")],
    "version": [("--version=1", 64, "takes no value")],
}  # fmt: skip
NEITHER = {"feature", "usage", "help", "version"}  # asked without an image


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory, base_layout: world.BaseImage) -> Path:
    """A directory of the test's own."""
    root = tmp_path_factory.mktemp("options") / "image"
    subprocess.run(["cp", "-a", base_layout.tree, root], check=True)
    (root / "ch").mkdir()
    (root / "ch/environment").write_text("OF_IMAGE=yes\n")
    (root / "root-link").symlink_to("/")
    return root


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """What the tables mean by {t}."""
    for name, text in {
        "dir/file": "in dir\n", "other/another": "", "home/mine": "mine\n", "place": "there\n",
        "env": "FROM_FILE='two words'\n", "env0": "NUL=a\nb\0", "bad": "A=b\nno delimiter\n",
        "list": f"{tmp_path}/dir/file:/etc/injected\n",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    edits = {"containerEdits": {"env": ["ACME=zero"]}}
    spec = {"cdiVersion": "0.6.0", "kind": "acme.com/gpu", "devices": [{"name": "0"} | edits]}
    (tmp_path / "cdi").mkdir()
    (tmp_path / "cdi/acme.json").write_text(json.dumps(spec))
    return tmp_path


def test_every_option_has_a_row_in_both_tables() -> None:
    dests = {option.dest for option in OPTIONS}
    assert set(GOOD) == dests
    assert set(BAD) == dests
    for option in OPTIONS:
        words = [word for case in GOOD[option.dest] for word in case.options]
        words += [word for row in BAD[option.dest] for word in row[0].split()]
        for name in option.names:
            spelt = any(w == name or w.startswith(f"{name}=") or w == name * 2 for w in words)
            assert spelt or name in ("-q", "-v"), f"{name} is in no row"


@pytest.mark.parametrize("dest", GOOD)
def test_an_option_does_what_it_says(
    dest: str, ch_image: world.Tool, image: Path, files: Path
) -> None:
    values = {"t": str(files), "pid": "0"}
    peer = _started(ch_image, image, files) if dest == "join-pid" else None
    values["pid"] = str(peer.pid) if peer else "0"
    for case in GOOD[dest]:
        words = [word.replace("{t}", values["t"]).replace("{pid}", values["pid"])
                 for word in case.options]  # fmt: skip
        rest = [] if dest in NEITHER else [image, "--", *SH, case.script.replace("{t}", str(files))]
        env = {name: text.replace("{t}", str(files)) for name, text in case.env.items()}
        done = ch_image.run("ch-run", *words, *rest, env={"HOME": str(files / "home")} | env)
        assert done.code == case.code, (words, done)
        same = done.out.startswith(case.out) if dest in NEITHER else done.out == case.out
        assert same, (words, done)
        if case.err:
            assert case.err in done.err, (words, done)
        else:
            assert not done.err or dest == "write-fake", (words, done)
    if peer:
        peer.communicate("\n", timeout=20)


def _started(tool: world.Tool, image: Path, files: Path) -> subprocess.Popen[str]:
    """A container whose /tmp is ``files``, running until it gets a line."""
    process = subprocess.Popen(
        tool.argv("ch-run", image, "--", *SH, "echo; read line"),
        env=tool.environment(TMPDIR=str(files)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


@pytest.mark.parametrize("dest", BAD)
def test_a_bad_value_is_told(dest: str, ch_image: world.Tool, image: Path, files: Path) -> None:
    for text, code, message in BAD[dest]:
        words = text.replace("{t}", str(files)).split()
        rest = [] if dest in NEITHER or code == 64 and "needs" in message else [image, "--", "true"]
        done = ch_image.run("ch-run", *words, *rest)
        assert done.code == code, (text, done)
        assert message in done.fault(), (text, done)
        assert done.out == ""
    assert not os.listdir(image / "proc")
