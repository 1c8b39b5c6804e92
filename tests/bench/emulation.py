"""What root emulation costs: commands as an ordinary user's RUN, and as root in a chroot.

    python tests/bench/emulation.py --user NAME --base TAR --work DIRECTORY [WORKLOAD...]

To be run as root, from a checkout with a .venv that NAME can read. TAR is a root file system of
Debian (tests/integration/as-root leaves one). Both sides stand on the same tree, in overlays on the
same file system, and take turns at being first, so that a machine that becomes slower favours none.
Packages and sources are fetched beforehand. DIRECTORY keeps the tree, so a second call only
measures. What the rounds made is deleted after the last one: ext4 without a journal is slow to make
files where others were deleted in the last minutes.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

CHECKOUT = Path(__file__).resolve().parent.parent.parent
PACKAGES = (
    "openssh-server sudo dbus systemd udev cron at exim4-base man-db iputils-ping "
    "wireshark-common libcap2-bin acl rsync postgresql mariadb-server redis nginx apache2 munge "
    "slurm-wlm openmpi-bin rabbitmq-server texinfo python3-venv nodejs"
)
INSTALL = "apt-get install -y --no-install-recommends"
WORKLOADS = {
    "servers": f"{INSTALL} postgresql nginx redis openssh-server man-db dbus sudo",
    "all": f"{INSTALL} {PACKAGES}",
    "make": "cd /src/grep-3.8 && make -j2 MAKEINFO=: AUTOMAKE=: ACLOCAL=: AUTOCONF=: AUTOHEADER=:",
}
SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENV = f"DEBIAN_FRONTEND=noninteractive PATH={SEARCH}"
BASE = f"""\
FROM scratch
ADD base.tar /
ENV {ENV}
RUN printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d && chmod 755 /usr/sbin/policy-rc.d
RUN rm -f /etc/apt/apt.conf.d/docker-clean && \\
    sed 's/^deb /deb-src /' /etc/apt/sources.list > /etc/apt/sources.list.d/source.list && \\
    apt-get update && {INSTALL} build-essential && mkdir /src && cd /src && apt-get source grep
RUN cd /src/grep-3.8 && ./configure > /dev/null
RUN {INSTALL} --download-only {PACKAGES}
"""
CHROOT = """\
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/up,workdir=$2/work" "$2/m"
mount -t proc proc "$2/m/proc" && mount --bind /dev "$2/m/dev" && mount --bind /sys "$2/m/sys"
exec chroot "$2/m" env -i $4 bash -c "$3"
"""


class Bench:
    """A directory of the user's, with a storage directory and the same tree as root has it."""

    def __init__(self, work: Path, user: str) -> None:
        self.work, self.user = work, user
        self._tags: list[str] = []
        self._scratch: list[Path] = []

    def tool(self, program: str, *args: object) -> str:
        """The output of one of our programs, run as the user."""
        env = {"HOME": str(self.work), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
        done = subprocess.run(
            ["setpriv", "--reuid", self.user, "--regid", self.user, "--clear-groups",
             str(CHECKOUT / ".venv/bin" / program), *map(str, args)],
            check=True, capture_output=True, text=True,
            env=env | {"CH_IMAGE_STORAGE": str(self.work / "storage")},
        )  # fmt: skip
        return done.stdout + done.stderr

    def prepare(self, base: Path) -> None:
        """Make the image, and root's copy of it."""
        tree = self.work / "tree"
        if tree.exists():
            return
        self.work.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", base, self.work / "base.tar"], check=True)
        (self.work / "Dockerfile").write_text(BASE)
        subprocess.run(["chown", "-R", f"{self.user}:", self.work], check=True)
        self.tool("ch-image", "build", "-t", "layers", self.work)
        self.tool("ch-convert", "layers", self.work / "bench.tar")
        # One layer, as root's tree is one: what layers cost is another question.
        self.tool("ch-image", "import", self.work / "bench.tar", "bench")
        self.tool("ch-image", "delete", "layers")
        tree.mkdir()
        subprocess.run(
            ["tar", "-C", tree, "-xpf", self.work / "bench.tar", "--numeric-owner", "--xattrs",
             "--xattrs-include=*"], check=True
        )  # fmt: skip
        (self.work / "bench.tar").unlink()

    def emulated(self, command: str) -> tuple[Took, str]:
        """What the command took in a RUN, and how many calls were answered."""
        with tempfile.TemporaryDirectory(dir=self.work) as name:
            context = Path(name)
            start = f'FROM bench\nENV {ENV}\nSHELL ["/bin/bash", "-c"]\n'
            dockerfile = f"{start}RUN {timed(command)}\n"
            (context / "Dockerfile").write_text(dockerfile)
            context.chmod(0o755)
            self._tags.append(f"out{len(self._tags)}")
            out = self.tool("ch-image", "build", "-v", "--rebuild", "-t", self._tags[-1], context)
        calls = re.search(r"answered (\d+) calls", out)
        return took(out), calls[1] if calls else "0"

    def native(self, command: str) -> Took:
        """What the command took as root, in a chroot without a filter."""
        scratch = Path(tempfile.mkdtemp(dir=self.work))
        self._scratch.append(scratch)
        for name in ("up", "work", "m"):
            (scratch / name).mkdir()
        done = subprocess.run(
            ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "bash",
             "-ec", CHROOT, "bash", self.work / "tree", scratch, timed(command), ENV],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        return took(done.stdout + done.stderr)

    def clean(self) -> None:
        """Delete what the rounds made."""
        subprocess.run(["rm", "-rf", *self._scratch], check=True)
        if self._tags:
            self.tool("ch-image", "delete", *self._tags)
        self._scratch, self._tags = [], []


def timed(command: str) -> str:
    """The command, telling how long it took, and what CPU: its own, and that of process 1."""
    return (
        f'TIMEFORMAT="took %R %U %S"; time {{ {command}; }} > /tmp/log 2>&1 || '
        "{ cat /tmp/log; exit 1; }; "
        'read -a p < /proc/1/stat; echo "first ${p[13]} ${p[14]}"'
    )


class Took(NamedTuple):
    """Seconds of a command: by the clock, of CPU, and of the supervisor's CPU beside it."""

    wall: float
    cpu: float
    supervisor: float


def took(out: str) -> Took:
    """What `timed` told."""
    times = re.search(r"^took ([\d.]+) ([\d.]+) ([\d.]+)", out, re.M)
    first = re.search(r"^first (\d+) (\d+)", out, re.M)
    if not times or not first:
        sys.exit(f"the command failed:\n{out[-2000:]}")
    wall, user, system = map(float, times.groups())
    supervisor = sum(map(int, first.groups())) / os.sysconf("SC_CLK_TCK")
    return Took(wall, user + system, supervisor)


def main() -> None:
    """Measure the workloads that were named, or all."""
    parser = argparse.ArgumentParser(description="Measure what root emulation costs.")
    parser.add_argument("--user", required=True, help="the ordinary user")
    parser.add_argument("--base", type=Path, help="a tar file of Debian")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3, help="0 only prepares")
    parser.add_argument("workloads", nargs="*", help=", ".join(WORKLOADS))
    options = parser.parse_args()
    os.umask(0o022)
    bench = Bench(options.work, options.user)
    bench.prepare(options.base)
    for name in (options.workloads or WORKLOADS) if options.rounds else ():
        pairs, calls = [], ""
        for turn in range(options.rounds):
            native = bench.native(WORKLOADS[name]) if turn % 2 else None
            emulated, calls = bench.emulated(WORKLOADS[name])
            native = native or bench.native(WORKLOADS[name])
            pairs.append((emulated, native))
            print(f"  {emulated.wall:.2f} s, CPU {emulated.cpu:.2f} + {emulated.supervisor:.2f}; "
                  f"root {native.wall:.2f} s, CPU {native.cpu:.2f}", flush=True)  # fmt: skip
        report(name, pairs, calls)
    bench.clean()


def report(name: str, pairs: list[tuple[Took, Took]], calls: str) -> None:
    """One line: medians by the clock, the ratio and its middle half, that of the least CPU."""
    ours, roots = (
        statistics.median(took.wall for took in side) for side in zip(*pairs, strict=True)
    )
    ratios = sorted(a.wall / b.wall for a, b in pairs)
    ratio, quarter = statistics.median(ratios), len(ratios) // 4
    cpu = min(a.cpu + a.supervisor for a, _ in pairs) / min(b.cpu for _, b in pairs)
    print(
        f"{name:8} {ours:8.2f} s, root {roots:8.2f} s: {ratio:.3f} "
        f"({ratios[quarter]:.3f} to {ratios[-1 - quarter]:.3f}), CPU {cpu:.3f}  ({calls} calls)"
    )


if __name__ == "__main__":
    main()
