"""--force=fakeroot with every profile, command by command, and its neighbours among the options.

The distributions cannot be had here: each is a small image with the files that tell it, and stub
package tools that keep a log and, asked for fakeroot, "install" a stub of that.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import world

pytestmark = [pytest.mark.userns, pytest.mark.registry]

TOOL = """\
#!/bin/sh
echo "${0##*/} $*" >> /log
case "$*" in *fakeroot*) ln -sf /stub/fakeroot /usr/bin/fakeroot ;; esac
"""
FAKEROOT = """\
#!/bin/sh
echo "fakeroot[$FAKEROOTDONTTRYCHOWN] $*" >> /log
exec "$@"
"""


class Family(NamedTuple):
    """A distribution: the file that tells it, its tool, what the init steps call in order."""

    file: str
    content: str
    tool: str
    calls: tuple[str, ...]


EPEL7 = (
    "https://archives.fedoraproject.org/pub/archive/epel/7/x86_64/Packages/e/"
    "epel-release-7-14.noarch.rpm"
)
EPEL = "https://dl.fedoraproject.org/pub/epel/epel-release-latest-{}.noarch.rpm"


def _rhel(tool: str, url: str) -> tuple[str, ...]:
    fakeroot, away = f"{tool} install -y fakeroot", f"{tool} remove -y epel-release"
    return f"{tool} install -y {url}", fakeroot, away


APT = ("apt-get update", "apt-get install -y --no-install-recommends fakeroot")
OS, RED = "/etc/os-release", "/etc/redhat-release"
FAMILIES = {
    "rhel7": Family(RED, "CentOS Linux release 7.9.2009 (Core)", "yum", _rhel("yum", EPEL7)),
    "rhel8": Family(RED, "Rocky Linux release 8.9 (Green)", "dnf", _rhel("dnf", EPEL.format(8))),
    "rhel9": Family(RED, "CentOS Stream release 9", "dnf", _rhel("dnf", EPEL.format(9))),
    "rhel10": Family(RED, "AlmaLinux release 10.0 (X)", "dnf", _rhel("dnf", EPEL.format(10))),
    "fedora": Family(
        "/etc/fedora-release", "Fedora release 40 (Forty)", "dnf", ("dnf install -y fakeroot",)
    ),
    "suse": Family(
        OS,
        'ID="opensuse-leap"\nID_LIKE="suse opensuse"',
        "zypper",
        (
            "zypper --non-interactive refresh",
            "zypper --non-interactive install fakeroot /usr/bin/getopt",
        ),
    ),
    "debian9": Family(OS, 'PRETTY_NAME="Debian GNU/Linux 9 (stretch)"\nID=debian', "apt-get", APT),
    "debian10plus": Family(
        OS, 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian', "apt-get", APT
    ),
    "ubuntu": Family(OS, 'PRETTY_NAME="Ubuntu 22.04"\nID=ubuntu\nID_LIKE=debian', "apt-get", APT),
    "alpine": Family("/etc/alpine-release", "3.20.1", "apk", ("apk update", "apk add fakeroot")),
    "arch": Family(OS, "ID=arch", "pacman", ("pacman -Sy --noconfirm fakeroot",)),
    "amazon": Family(OS, 'NAME="Amazon Linux"\nID="amzn"', "dnf", ("dnf install -y fakeroot",)),
}
DOCKERFILE = """\
FROM distribution
RUN echo other
RUN {tool} first
RUN true&&{tool} second
RUN ["/usr/bin/{tool}", "third"]
RUN cat /log
"""


def _distribution(ch_image: world.Tool, base: str, family: Family, context: Path) -> None:
    stub = context / "stub"
    stub.mkdir()
    for name, text in ((family.tool, TOOL), ("fakeroot", FAKEROOT)):
        (stub / name).write_text(text)
        (stub / name).chmod(0o755)
    (context / "told").write_text(family.content + "\n")
    (context / "Dockerfile").write_text(
        f"FROM {base}\nRUN rm -f /etc/os-release /bin/{family.tool}\nCOPY stub /stub\n"
        f"COPY stub/{family.tool} /usr/bin/\nCOPY told {family.file}\n"
        "RUN mkdir -p /etc/apt/apt.conf.d /etc/yum.repos.d && echo _apt: >> /etc/passwd\n"
    )
    ch_image("build", "-t", "distribution", context).ok()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_profile_is_found_prepared_once_and_put_around(
    ch_image: world.Tool, base_image: str, tmp_path: Path, name: str
) -> None:
    family = FAMILIES[name]
    context = tmp_path / "context"
    context.mkdir()
    _distribution(ch_image, base_image, family, context)
    file = tmp_path / "Dockerfile"
    file.write_text(DOCKERFILE.format(tool=family.tool))
    done = ch_image("build", "--force", "-t", "forced", "-f", file, context).ok()
    said = done.out + done.err
    assert f"will use --force=fakeroot: {name}: " in said
    wrapped = "fakeroot[1] "
    shell = "/bin/sh -c "
    log = [
        *family.calls,
        f"{wrapped}{shell}{family.tool} first",
        f"{family.tool} first",
        f"{wrapped}{shell}true&&{family.tool} second",
        f"{family.tool} second",
        f"{wrapped}/usr/bin/{family.tool} third",
        f"{family.tool} third",
    ]
    assert [line for line in said.splitlines() if line in log] == log
    assert said.count("--force=fakeroot: RUN: new command: ['env', ") == 3
    assert "RUN.F init 1: checking: $ " in said
    assert "RUN.F echo other" in said
    again = ch_image("build", "--force", "-t", "forced", "-f", file, context).ok()
    assert "new command" not in again.out + again.err, "a hit repeats nothing"


def test_the_users_own_profile_comes_first(
    ch_image: world.Tool, base_image: str, tmp_path: Path
) -> None:
    own = tmp_path / "config/ch-image/fakeroot"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text(
        "id: mine\nname: My own\nmatch: {file: /etc/passwd, regex: ^root}\n"
        "init: [{check: 'false', command: echo prepared > /prepared}]\n"
        "keywords: [needy]\nwrapper: [env, WRAPPED=yes]\n"
    )
    file = tmp_path / "Dockerfile"
    file.write_text(f"FROM {base_image}\nRUN : needy; echo wrapped=$WRAPPED; cat /prepared\n")
    config = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    done = ch_image("build", "--force", "-t", "x", "-f", file, tmp_path, env=config)
    assert "will use --force=fakeroot: mine: My own" in done.ok().out + done.err
    assert "wrapped=yes" in done.out + done.err
    (own / "mine.yaml").write_text((own / "mine.yaml").read_text().replace("yes", "no"))
    done = ch_image("build", "--force", "-t", "x", "-f", file, tmp_path, env=config)
    assert "wrapped=no" in done.ok().out + done.err, "the profile is part of the cache key"


def test_an_image_that_no_profile_fits_is_refused_with_the_way_out(
    ch_image: world.Tool, base_image: str, tmp_path: Path
) -> None:
    file = tmp_path / "Dockerfile"
    file.write_text(f"FROM {base_image}\nRUN true\n")
    done = ch_image("build", "--force=fakeroot", "-t", "x", "-f", file, tmp_path)
    assert done.code == 1
    assert "no profile matches this image" in done.err
    assert "--force=seccomp works with any image" in done.err


def test_arguments_are_put_behind_a_command(
    ch_image: world.Tool, base_image: str, tmp_path: Path
) -> None:
    file = tmp_path / "Dockerfile"
    file.write_text(f'FROM {base_image}\nRUN echo a; echo b\nRUN ["echo", "c"]\n')
    command = "echo,-n,x y"
    done = ch_image("build", "--force-cmd", command, "-t", "x", "-f", file, tmp_path).ok()
    said = done.out + done.err
    assert """new command: ['/bin/sh', '-c', "echo -n 'x y' a; echo -n 'x y' b"]""" in said
    assert "x y c" in said


@pytest.mark.parametrize(
    ("command", "hinted"),
    [("chown 33:33 /bin/busybox", True), ("mknod /n c 1 3", True), ("cat /nowhere", False)],
)
def test_without_emulation_a_failure_for_want_of_root_says_what_would_help(
    ch_image: world.Tool, base_image: str, tmp_path: Path, command: str, hinted: bool
) -> None:
    file = tmp_path / "Dockerfile"
    file.write_text(f"FROM {base_image}\nRUN {command}\n")
    done = ch_image("build", "--force=none", "-t", "x", "-f", file, tmp_path)
    assert done.code != 0
    assert ("--force=seccomp" in done.err) == hinted
