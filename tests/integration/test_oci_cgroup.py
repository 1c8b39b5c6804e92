"""linux.resources: in a cgroup where one is delegated to the user, and with a warning where not.

To see the first, delegate one and start the tests in it, as root, on a machine with cgroup v2 at G:

    mkdir -p $G/boxes/tests && chown -R USER $G/boxes
    echo +pids > $G/cgroup.subtree_control  # or whatever controller there is
    echo $$ > $G/boxes/tests/cgroup.procs   # and become USER
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import bundles
import pytest
import world

from ch_image.oci import limits

pytestmark = pytest.mark.userns
SETTINGS = {"pids": "pids.max", "memory": "memory.max", "hugetlb": "hugetlb.2MB.max"}


@pytest.fixture(scope="module")
def runtime(
    tmp_path_factory: pytest.TempPathFactory, base_layout: world.BaseImage
) -> Iterator[bundles.Runtime]:
    yield from bundles.lasting(tmp_path_factory.mktemp("oci"), base_layout.tree)


@pytest.fixture
def delegated() -> Path:
    """The cgroup that is the user's, above the tests' own."""
    own = limits.group_of("self")
    above = Path(own).parent if own else Path("/")
    if not os.access(above / "cgroup.procs", os.W_OK) or os.geteuid() == 0:
        pytest.skip("no cgroup is delegated to this user")
    return above


def test_a_container_is_in_a_cgroup_of_its_own(runtime: bundles.Runtime, delegated: Path) -> None:
    controllers = (delegated / "cgroup.controllers").read_text().split()
    setting = next(SETTINGS[name] for name in controllers if name in SETTINGS)
    amount = str(64 << 20)
    before = sorted(delegated.iterdir())
    resources = {"unified": {setting: amount}, "devices": [{"allow": False}]}
    runtime.write("sleep", "60", linux={"resources": resources})
    assert runtime.create("c").ok().err == ""
    pid = json.loads(runtime("state", "c").out)["pid"]
    group = Path(limits.group_of(pid))
    assert group == delegated / "ch-run-oci-c"
    assert (group / setting).read_text().strip() == amount
    assert (group / "cgroup.procs").read_text().split() == [str(pid)]
    runtime("start", "c").ok()
    inside = runtime("exec", "c", "cat", "/proc/self/cgroup").ok().out.splitlines()
    assert [line for line in inside if line.startswith("0::")][0].endswith("/ch-run-oci-c")
    runtime("delete", "--force", "c").ok()
    assert sorted(delegated.iterdir()) == before


def test_a_path_is_made_and_taken_away(runtime: bundles.Runtime, delegated: Path) -> None:
    path = f"/{delegated.relative_to(limits.hierarchy())}/one/two"
    runtime.write("grep", "-o", "one/two", "/proc/self/cgroup", linux={"cgroupsPath": path})
    assert "one/two" in runtime.run().ok().out
    assert not (delegated / "one").exists()


UNDELEGATED: dict[str, tuple[dict[str, object], str]] = {
    "a limit": (
        {"resources": {"memory": {"limit": 1 << 30}, "pids": {"limit": 0}}},
        "warning: linux.resources: no cgroup is delegated to this user; left out: memory.max\n",
    ),
    "what there is no cgroup setting for": (
        {"resources": {"devices": [{"allow": False}], "memory": {"swappiness": 3}}}, "",
    ),
    "a path": ({"cgroupsPath": "/not/there"}, ""),
    "a path as systemd has them": ({"cgroupsPath": "user.slice:a:b"}, ""),
    "a path that leads out": ({"cgroupsPath": "/../../tmp/x"}, ""),
}  # fmt: skip


@pytest.mark.parametrize(("linux", "said"), UNDELEGATED.values(), ids=UNDELEGATED.keys())
def test_without_one_the_container_runs_all_the_same(
    linux: dict[str, object], said: str, runtime: bundles.Runtime
) -> None:
    own = limits.group_of("self")
    if os.geteuid() == 0 or (own and os.access(f"{own}/cgroup.procs", os.W_OK)):
        pytest.skip("a cgroup is delegated to this user")
    runtime.write("echo", "runs", linux=linux)
    done = runtime.run().ok()
    assert (done.out, done.err) == ("runs\n", said)


@pytest.mark.parametrize(
    ("resources", "fault"),
    [
        ({"memory": {"limit": "much"}}, "linux.resources.memory.limit: is not a number"),
        ({"pids": 7}, "linux.resources.pids: is not an object"),
        ({"unified": {"cgroup.procs": "1"}}, "linux.resources.unified: 'cgroup.procs' is no"),
        ({"unified": {"../x.y": "1"}}, "linux.resources.unified: '../x.y' is no setting"),
    ],
)
def test_settings_that_are_none(
    resources: dict[str, object], fault: str, runtime: bundles.Runtime
) -> None:
    runtime.write("true", linux={"resources": resources})
    assert fault in runtime.create("c").fault()
    assert runtime.leftovers() == []
