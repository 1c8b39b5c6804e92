"""Fakeroot profiles as files: what is accepted, and what each refusal says."""

from __future__ import annotations

from pathlib import Path

import pytest

from ch_image.errors import BuildError
from ch_image.force.profiles import Profile, load, read
from ch_image.resources import resource

GOOD = """\
id: mine
name: My own
match: {file: /etc/os-release, regex: '^ID=mine$'}
init:
  - {check: command -v fakeroot, command: install fakeroot}
keywords: [get]
wrapper: [fakeroot, --]
"""
WRONG = {
    "not YAML": ("id: [", "not YAML"),
    "a tag that would run code": ("!!python/object/apply:os.getcwd []", "not YAML"),
    "not a mapping": ("- id", "expected a mapping with the keys id, name, match"),
    "empty": ("", "expected a mapping"),
    "an unknown key": (GOOD + "extra: 1\n", "extra: expected one of the keys"),
    "a key left out": (GOOD.replace("name: My own\n", ""), "name: expected this key to be there"),
    "a number for a text": (GOOD.replace("My own", "7"), "name: expected a text"),
    "an id with blanks": (GOOD.replace("mine\n", "my own\n", 1), "id: expected lower-case letters"),
    "a relative path": (GOOD.replace("/etc/os", "etc/os"), "match.file: expected an absolute path"),
    "a bad expression": (GOOD.replace("^ID", "(ID"), "match.regex: expected a regular expression"),
    "no expression": (GOOD.replace(", regex: '^ID=mine$'", ""), "match.regex: expected this key"),
    "init as a text": (GOOD.replace("  - {check: command -v fakeroot, command: install fakeroot}",
                                    "  install"), "init: expected a list of steps"),
    "a step without check": (GOOD.replace("check: command -v fakeroot, ", ""),
                             "init[0].check: expected this key"),
    "keywords as a text": (GOOD.replace("[get]", "get"), "keywords: expected a list"),
    "an empty wrapper": (GOOD.replace("[fakeroot, --]", "[]"), "wrapper: expected a list of at"),
    "a hole in a list": (GOOD.replace("[get]", "[get, '']"), "keywords[1]: expected a text"),
    "too much": (GOOD + "#" * 70_000, "larger than 65536 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_refused_by_name_key_and_what_is_expected(
    tmp_path: Path, case: str
) -> None:
    text, expected = WRONG[case]
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(BuildError) as caught:
        read(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_directories_are_read_in_order_and_the_first_of_an_id_wins(tmp_path: Path) -> None:
    for name, title in (("a", "first"), ("b", "second")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.yaml").write_text(GOOD.replace("My own", title))
        (tmp_path / name / "README.md").write_text("not a profile")
    found = load([str(tmp_path / "missing"), str(tmp_path / "a"), str(tmp_path / "b")])
    assert [profile.name for profile in found] == ["first"]


@pytest.fixture(scope="module")
def shipped() -> list[Profile]:
    return load([resource("fakeroot")])


RED, OS = "/etc/redhat-release", "/etc/os-release"
RELEASES = {
    "CentOS 7": (RED, "CentOS Linux release 7.9.2009 (Core)", "rhel7"),
    "RHEL 7": (RED, "Red Hat Enterprise Linux Server release 7.6 (Maipo)", "rhel7"),
    "Alma 8": (RED, "AlmaLinux release 8.10 (Cerulean Leopard)", "rhel8"),
    "Stream 8": (RED, "CentOS Stream release 8", "rhel8"),
    "Oracle 9": (RED, "Red Hat Enterprise Linux release 9.4 (Plow)", "rhel9"),
    "Rocky 10": (RED, "Rocky Linux release 10.0 (Red Quartz)", "rhel10"),
    "CentOS 6": (RED, "CentOS release 6.10 (Final)", None),
    "Fedora 8 is no RHEL 8": (RED, "Fedora release 8 (Werewolf)", None),
    "Fedora 24": ("/etc/fedora-release", "Fedora release 24 (Twenty Four)", "fedora"),
    "Fedora 101": ("/etc/fedora-release", "Fedora release 101 (X)", "fedora"),
    "Fedora 23": ("/etc/fedora-release", "Fedora release 23 (X)", None),
    "Leap": (OS, 'ID="opensuse-leap"\nID_LIKE="suse opensuse"', "suse"),
    "SLES": (OS, 'ID="sles"\nID_LIKE="suse"', "suse"),
    "Tumbleweed": (OS, 'ID="opensuse-tumbleweed"', "suse"),
    "Debian 8": (OS, 'PRETTY_NAME="Debian GNU/Linux 8 (jessie)"\nID=debian', None),
    "Debian 9": (OS, 'PRETTY_NAME="Debian GNU/Linux 9 (stretch)"\nID=debian', "debian9"),
    "Debian 10": (OS, 'PRETTY_NAME="Debian GNU/Linux 10 (buster)"\nID=debian', "debian10plus"),
    "sid": (OS, 'PRETTY_NAME="Debian GNU/Linux trixie/sid"\nID=debian', "debian10plus"),
    "Raspbian": (OS, 'PRETTY_NAME="Raspbian GNU/Linux 11"\nID_LIKE=debian', "debian10plus"),
    "Ubuntu": (OS, 'PRETTY_NAME="Ubuntu 24.04 LTS"\nID=ubuntu\nID_LIKE=debian', "ubuntu"),
    "Mint": (OS, 'ID=linuxmint\nID_LIKE="ubuntu debian"', "ubuntu"),
    "Alpine": ("/etc/alpine-release", "3.19.0\n", "alpine"),
    "Arch": (OS, "ID=arch", "arch"),
    "Manjaro": (OS, "ID=manjaro\nID_LIKE=arch", "arch"),
    "Amazon 2": (OS, 'ID="amzn"\nID_LIKE="centos rhel fedora"', "amazon"),
    "Gentoo": (OS, "ID=gentoo", None),
}


@pytest.mark.parametrize("release", RELEASES)
def test_each_release_gets_its_family_and_no_other(shipped: list[Profile], release: str) -> None:
    file, text, expected = RELEASES[release]
    found = [p.id for p in shipped if p.matches(lambda path: text if path == file else None)]
    assert found == ([expected] if expected else [])
