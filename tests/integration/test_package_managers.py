"""rpm, dnf, zypper and pacman install a package that asks for all that root can.

The programs are Debian's, the repositories are made in the image: files of other users,
capabilities, a device, scriptlets with useradd, chown, setfacl and su.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import conftest
import listing
import pytest
import world

pytestmark = [pytest.mark.userns, pytest.mark.registry, pytest.mark.slow]

DATA = Path(__file__).parent.parent / "data/packages"
FAMILIES = {
    "fedora": "mkdir -p /etc/yum.repos.d; echo 'Fedora release 40 (Forty)' > /etc/fedora-release",
    "suse": """echo 'ID_LIKE="suse opensuse"' > /etc/os-release""",
    "arch": "echo ID=arch > /etc/os-release",
}
MANAGERS = {"rpm": "fedora", "dnf": "fedora", "zypper": "suse", "pacman": "arch"}
# Path -> owner, mode; as the package and its scriptlets say.
EXPECTED = {
    "etc/keeper": ("0:0", "0755"),
    "etc/keeper/conf": ("640:640", "0640"),
    "etc/keeper/late": ("640:8", "0664"),
    "usr/bin/keeper": ("0:8", "2755"),
    "usr/bin/keeper-link": ("0:8", None),
    "usr/bin/keeper-ping": ("0:0", "0755"),
    "var/lib/keeper": ("640:640", "0750"),
    "var/lib/keeper/spool": ("640:8", "2770"),
    "var/lib/keeper/spool/made": ("640:8", "0644"),
    "var/lib/keeper/null": ("0:0", "0666"),
}
CAP_NET_RAW = "0100000200200000000000000000000000000000"  # struct vfs_cap_data, revision 2


@pytest.fixture(scope="module")
def tool(debian_base: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[world.Tool]:
    work = tmp_path_factory.mktemp("managers")
    made = world.Tool(work / "storage", work)
    base = f"BASE={debian_base}"
    made("build", "-t", "families", "--build-arg", base, "-f", DATA / "base.Dockerfile", DATA).ok()
    for name, command in FAMILIES.items():
        (work / name).write_text(f"FROM families\nRUN {command}\n")
        made("build", "-t", f"{name}-like", "-f", work / name, work).ok()
    yield made
    conftest.remove_tree(work / "storage")


@pytest.mark.parametrize("manager", MANAGERS)
def test_a_package_is_installed_as_root_would(tool: world.Tool, manager: str) -> None:
    tool("build", "-t", manager, "-f", DATA / f"use-{manager}.Dockerfile", DATA).ok()
    tar = tool.home / f"{manager}.tar"
    tool.run("ch-convert", manager, tar).ok()
    found = listing.listing(io.BytesIO(tar.read_bytes()))
    assert {path: (found[path]["owner"], found[path].get("mode")) for path in EXPECTED} == EXPECTED
    null = found["var/lib/keeper/null"]
    assert (null["type"], null["device"]) == ("char", "1:3")
    assert found["usr/bin/keeper-ping"]["xattrs"] == {"security.capability": CAP_NET_RAW}
    tar.unlink()


@pytest.mark.parametrize("manager", MANAGERS)
def test_a_package_is_installed_by_fakeroot(tool: world.Tool, manager: str) -> None:
    file = DATA / f"use-{manager}.Dockerfile"
    done = tool("build", "--force", "-t", f"{manager}-f", "-f", file, DATA).ok()
    assert f"will use --force=fakeroot: {MANAGERS[manager]}: " in done.out + done.err
    tar = tool.home / f"{manager}.tar"
    tool.run("ch-convert", f"{manager}-f", tar).ok()
    with tarfile.open(tar) as archive:
        names = {member.name.removeprefix("./").rstrip("/") for member in archive}
    assert EXPECTED.keys() - {"var/lib/keeper/null"} <= names
    tar.unlink()
