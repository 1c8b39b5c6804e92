"""What of config.json's resources a cgroup takes, and who may change it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ch_image.errors import ChError
from ch_image.oci import limits

SETTINGS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "memory": ({"memory": {"limit": 100, "reservation": 50}},
               {"memory.max": "100", "memory.low": "50"}),
    "no limit": ({"memory": {"limit": -1}}, {"memory.max": "max"}),
    "swap is memory and swap there": ({"memory": {"limit": 100, "swap": 150}},
                                      {"memory.max": "100", "memory.swap.max": "50"}),
    "shares, least": ({"cpu": {"shares": 2}}, {"cpu.weight": "1"}),
    "shares, usual": ({"cpu": {"shares": 1024}}, {"cpu.weight": "39"}),
    "shares, most": ({"cpu": {"shares": 262144}}, {"cpu.weight": "10000"}),
    "quota": ({"cpu": {"quota": 50000}}, {"cpu.max": "50000 100000"}),
    "period": ({"cpu": {"quota": -1, "period": 1000}}, {"cpu.max": "max 1000"}),
    "processors": ({"cpu": {"cpus": "0-1", "mems": "0"}},
                   {"cpuset.cpus": "0-1", "cpuset.mems": "0"}),
    "processes": ({"pids": {"limit": 7}}, {"pids.max": "7"}),
    "processes without limit": ({"pids": {"limit": 0}}, {"pids.max": "max"}),
    "by their own names": ({"unified": {"memory.high": "9"}}, {"memory.high": "9"}),
    "nothing": ({}, {}),
}  # fmt: skip


@pytest.mark.parametrize(("given", "wanted"), SETTINGS.values(), ids=SETTINGS.keys())
def test_resources_become_files(given: dict[str, Any], wanted: dict[str, str]) -> None:
    assert limits.settings(given) == wanted


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "devices": ({"devices": {}}, "devices cannot be changed"),
    "what cgroup v2 has not": ({"memory": {"kernel": 5}}, "memory.kernel cannot be changed"),
    "text": ({"memory": {"limit": "1G"}}, "memory.limit: is not a number"),
    "a list": ({"cpu": []}, "cpu: is not an object"),
    "a way out": ({"unified": {"../x.y": "1"}}, "is no setting"),
    "the group itself": ({"unified": {"cgroup.procs": "1"}}, "is no setting"),
}


@pytest.mark.parametrize(("given", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_has_no_place_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ChError, match=message):
        limits.settings(given)


@pytest.fixture
def cgroups(tmp_path: Path) -> Path:
    """A directory that stands for the hierarchy of cgroup v2, with ours in it."""
    with open("/proc/self/cgroup") as file:
        found = [line.rstrip("\n")[3:] for line in file if line.startswith("0::")]
    if not found:
        pytest.skip("there is no cgroup v2 here")
    (tmp_path / found[0].lstrip("/")).mkdir(parents=True, exist_ok=True)
    return tmp_path / found[0].lstrip("/")


def test_only_a_group_of_its_own_is_changed(cgroups: Path, tmp_path: Path) -> None:
    with pytest.raises(ChError, match="no cgroup of its own"):
        limits.own_cgroup([os.getpid()], str(tmp_path))
    (cgroups / "cgroup.procs").write_text(f"{os.getpid()}\n1\n")
    with pytest.raises(ChError, match="no cgroup of its own"):
        limits.own_cgroup([os.getpid()], str(tmp_path))
    (cgroups / "cgroup.procs").write_text(f"{os.getpid()}\n")
    found = limits.own_cgroup([os.getpid()], str(tmp_path))
    (cgroups / "memory.max").write_text("max")
    limits.apply(found, {"memory.max": "100"})
    assert (cgroups / "memory.max").read_text() == "100"
    with pytest.raises(ChError, match="cannot set cpu.max to 1"):
        limits.apply(found, {"cpu.max": "1"})
