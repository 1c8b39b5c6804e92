"""Root emulation, end to end: what a RUN did as "root" stands in the exported image.

One image is built from a script of commands as package scripts make them; each case then looks
at the tar that `ch-convert` made of it, which is read with tarfile.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import conftest
import pytest
import world

pytestmark = [pytest.mark.userns, pytest.mark.registry, pytest.mark.slow]

DOCKERFILE = """\
FROM {base}
RUN <<EOF
set -eux
useradd -m joe
mkdir /t && cd /t
touch plain && chown 33:12 plain
touch back && chown 33:12 back && chown root:root back
touch group && chgrp mail group
install -o joe -g mail -m 2755 /bin/true setgid
touch fd && python=no && exec 9>fd && chown 7:7 /proc/self/fd/9 && exec 9>&-
ln -s nowhere link && chown -h 5:6 link
ln -s gone replaced && chown -h 5:6 replaced && rm replaced && ln -s new replaced
mkfifo pipe && chown 8:9 pipe
mknod null c 1 3 && mknod disk b 8 1 && chown 0:6 disk && chmod 660 disk
touch moved && chown 33:33 moved && mkdir into && mv moved into/there
touch one && chown 40:41 one && ln one two
cp -a plain copied
touch gone && chown 99:99 gone && rm gone && touch again
cp /bin/true suid && chmod 4755 suid && chown 33:33 suid
su -s /bin/sh man -c 'umask 027; touch /tmp/mans; mkdir /tmp/mand; ln -s x /tmp/manl; id' > id
test "$(su -s /bin/sh man -c 'id -u')" = 6
test "$(setpriv --reuid 33 --regid 33 --init-groups id -un)" = www-data
test "$(stat -c %u:%g plain)" = 33:12
test "$(find . -user 33 -name plain)" = ./plain
limits=$(find . -user 33 -exec sh -c 'ulimit -s' \\; | sort -u) && test "$limits" = "$(ulimit -s)"
sed -i s/a/b/ plain && test -O back
mkdir shared && chown root:mail shared && chmod 2770 shared
su -s /bin/sh man -c 'touch /t/shared/inherits' || true
setcap cap_net_raw+ep setgid 2>/dev/null || true
if su -s /bin/sh man -c 'chown root /tmp/mans'; then exit 1; fi
mkdir /t/deep && chown 20:20 /t/deep
(cd / && tar -cf - t/plain) | (mkdir /u && cd /u && tar -xpf -)
EOF
RUN chown root /t/into/there && touch /t/later
RUN chmod 700 /t/plain && echo more >> /t/copied && mv /t/deep /t/deeper
USER joe
WORKDIR /home/joe/work
RUN id -un > /tmp/who && mkdir -p a/b && touch a/b/c && ln -s c a/b/l
RUN echo "$HOME" > /tmp/home
FROM {base}
COPY --from=0 /t /copied
COPY --from=0 --chown=33:34 /t/plain /chowned
COPY --from=0 / /all/
"""

OWNERS = {
    "all/t/plain": (33, 12, 0o700),
    "all/t/back": (0, 0, 0o644),
    "all/t/group": (0, 8, 0o644),
    "all/t/setgid": (1000, 8, 0o2755),
    "all/t/fd": (7, 7, 0o644),
    "all/t/link": (5, 6, 0o777),
    "all/t/replaced": (0, 0, 0o777),
    "all/t/pipe": (8, 9, 0o644),
    "all/t/null": (0, 0, 0o644),
    "all/t/disk": (0, 6, 0o660),
    "all/t/into/there": (0, 33, 0o644),
    "all/t/one": (40, 41, 0o644),
    "all/t/two": (40, 41, 0o644),
    "all/t/copied": (33, 12, 0o644),
    "all/t/again": (0, 0, 0o644),
    "all/t/suid": (33, 33, 0o755),
    "all/t/shared/inherits": (6, 8, 0o644),
    "all/t/later": (0, 0, 0o644),
    "all/t/deeper": (20, 20, 0o755),
    "all/tmp/mans": (6, 12, 0o640),
    "all/tmp/mand": (6, 12, 0o750),
    "all/tmp/manl": (6, 12, 0o777),
    "all/home/joe": (1000, 1000, 0o755),
    "all/home/joe/.profile": (1000, 1000, 0o644),
    "all/home/joe/work": (1000, 1000, 0o755),
    "all/home/joe/work/a": (1000, 1000, 0o755),
    "all/home/joe/work/a/b/c": (1000, 1000, 0o644),
    "all/home/joe/work/a/b/l": (1000, 1000, 0o777),
    "all/tmp/who": (1000, 1000, 0o644),
    "all/etc/shadow": (0, 42, 0o640),
    "copied/plain": (33, 12, 0o700),
    "copied/link": (5, 6, 0o777),
    "copied/deeper": (20, 20, 0o755),
    "chowned": (33, 34, 0o700),
}
DEVICES = {
    "all/t/null": (tarfile.CHRTYPE, 1, 3),
    "all/t/disk": (tarfile.BLKTYPE, 8, 1),
    "copied/null": (tarfile.CHRTYPE, 1, 3),
}


class Exported(NamedTuple):
    """The members of the exported tar, and a way to read one."""

    members: dict[str, tarfile.TarInfo]
    contents: dict[str, str]


@pytest.fixture(scope="module")
def exported(debian_base: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    work = tmp_path_factory.mktemp("emulation")
    (work / "Dockerfile").write_text(DOCKERFILE.format(base=debian_base))
    tool = world.Tool(work / "storage", work)
    tool("build", "-t", "emulated", work).ok()
    tar = work / "image.tar"
    tool.run("ch-convert", "emulated", tar).ok()
    with tarfile.open(tar) as archive:
        members = {m.name.removeprefix("./").rstrip("/"): m for m in archive}
        wanted = ("all/t/id", "all/tmp/who", "all/tmp/home")
        contents = {n: _text(archive, members[n]) for n in wanted}
    yield Exported(members, contents)
    conftest.remove_tree(work / "storage")


def _text(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = archive.extractfile(member)
    assert file is not None
    return file.read().decode()


@pytest.mark.parametrize("path", OWNERS)
def test_owner_and_mode_are_what_root_would_have_made(exported: Exported, path: str) -> None:
    found = exported.members[path]
    uid, gid, mode = OWNERS[path]
    assert (found.uid, found.gid) == (uid, gid)
    if not found.issym():
        assert oct(found.mode & 0o7777) == oct(mode)


@pytest.mark.parametrize("path", DEVICES)
def test_devices_are_devices_again(exported: Exported, path: str) -> None:
    found = exported.members[path]
    assert (found.type, found.devmajor, found.devminor) == DEVICES[path]


def test_processes_saw_the_identity_they_took(exported: Exported) -> None:
    assert "uid=6(man) gid=12(man)" in exported.contents["all/t/id"]
    assert exported.contents["all/tmp/who"] == "joe\n"
    assert exported.contents["all/tmp/home"] == "/home/joe\n"


def test_nothing_of_the_container_stays_in_the_image(exported: Exported, tmp_path: Path) -> None:
    names = {n for n in exported.members if n.startswith(("all/dev/", "all/proc/", "all/sys/"))}
    of_the_base = {f"all/{n}" for n in exported.members if n.startswith("dev/")}
    assert names <= of_the_base, "mount points of a RUN were left behind"
    for name, member in exported.members.items():
        assert not any("user.containers" in key for key in member.pax_headers), name
