"""config.json: what is accepted, and for every violation a line with its JSON path."""

from __future__ import annotations

import json
from typing import Any

import bundles
import pytest

from ch_image.errors import ChError, ConfigError
from ch_image.oci import spec
from ch_image.oci.config import Rlimit

HUGE = 1 << 70


def parsed(**more: Any) -> Any:
    return spec.parse(json.dumps(bundles.config("true", **more)).encode(), "config.json")


def faults(**more: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parsed(**more)
    return caught.value.faults


@pytest.mark.parametrize(
    "version", ["1.0.0", "1.0.2", "1.0.2-dev", "1.1.0", "1.2.1", "1.3.0", "1.0.0-rc5+x"]
)
def test_known_versions_are_accepted(version: str) -> None:
    assert parsed(ociVersion=version).version == version


@pytest.mark.parametrize("version", ["0.9.0", "1.4.0", "2.0.0", "1.0", "one", "", "1.0.0.0", 1.0])
def test_unknown_versions_are_refused_and_nothing_else_is_said(version: Any) -> None:
    (fault,) = faults(ociVersion=version, root={})
    assert fault.startswith("ociVersion: ")


VIOLATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "no root": ({"root": None}, "root: is missing"),
    "root without path": ({"root": {}}, "root.path: is missing"),
    "root is a string": ({"root": "rootfs"}, "root: must be an object"),
    "readonly is a string": ({"root": {"path": "x", "readonly": "yes"}}, "root.readonly: must be "),
    "no args": ({"process": {"args": []}}, "process.args: is missing or empty"),
    "args with a number": ({"process": {"args": ["a", 1]}}, "process.args[1]: must be a string"),
    "NUL": ({"process": {"args": ["a\0b"]}}, "process.args[0]: contains a NUL"),
    "relative cwd": ({"process": {"cwd": "tmp"}}, "process.cwd: must be an absolute path"),
    "no cwd": ({"process": {"cwd": ""}}, "process.cwd: is empty"),
    "env": ({"process": {"env": {"A": "b"}}}, "process.env: must be an array"),
    "uid below": ({"process": {"user": {"uid": -1, "gid": 0}}}, "process.user.uid: must be"),
    "uid above": ({"process": {"user": {"uid": HUGE}}}, "process.user.uid: must be between"),
    "uid true": ({"process": {"user": {"uid": True}}}, "process.user.uid: must be an integer"),
    "groups": ({"process": {"user": {"additionalGids": ["x"]}}}, "process.user.additionalGids[0]:"),
    "rlimit type": (
        {"process": {"rlimits": [{"type": "RLIMIT_X", "soft": 1, "hard": 1}]}},
        "process.rlimits[0].type: there is no limit 'RLIMIT_X'",
    ),
    "rlimit twice": (
        {"process": {"rlimits": [{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}] * 2}},
        "process.rlimits[1].type: RLIMIT_CPU is given twice",
    ),
    "rlimit upside down": (
        {"process": {"rlimits": [{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}]}},
        "process.rlimits[0].soft: must not be above",
    ),
    "oom": ({"process": {"oomScoreAdj": 1001}}, "process.oomScoreAdj: must be between -1000"),
    "io class": ({"process": {"ioPriority": {"class": "X"}}}, "process.ioPriority.class: must be "),
    "mount without destination": ({"mounts": [{}]}, "mounts[0].destination: is missing"),
    "mount that is none": ({"mounts": ["/proc"]}, "mounts[0]: must be an object"),
    "mount option": ({"mounts": [{"destination": "/a", "options": [1]}]}, "mounts[0].options[0]: "),
    "hook path": ({"hooks": {"poststop": [{"path": "x"}]}}, "hooks.poststop[0].path: must be"),
    "hook timeout": (
        {"hooks": {"prestart": [{"path": "/x", "timeout": 0}]}},
        "hooks.prestart[0].timeout: must be between 1",
    ),
    "annotation": ({"annotations": {"a": 1}}, "annotations.a: must be a string"),
    "namespace": ({"linux": {"namespaces": [{"type": "net"}]}}, "linux.namespaces[0].type: "),
    "namespace twice": (
        {"linux": {"namespaces": [{"type": "pid"}, {"type": "pid"}]}},
        "linux.namespaces[1].type: the pid namespace is given twice",
    ),
    "namespace path": (
        {"linux": {"namespaces": [{"type": "pid", "path": "x"}]}},
        "linux.namespaces[0].path: must be an absolute path",
    ),
    "mapping": (
        {"linux": {"uidMappings": [{"hostID": 1, "size": 1}]}},
        "linux.uidMappings[0].containerID: is missing",
    ),
    "masked": ({"linux": {"maskedPaths": ["proc"]}}, "linux.maskedPaths[0]: must be an absolute"),
    "device": ({"linux": {"devices": [{"path": "/d", "type": "x"}]}}, "linux.devices[0].type: "),
    "propagation": ({"linux": {"rootfsPropagation": "x"}}, "linux.rootfsPropagation: must be"),
    "sysctl": ({"linux": {"sysctl": {"a.b": 1}}}, "linux.sysctl.a.b: must be a string"),
    "clock": ({"linux": {"timeOffsets": {"tai": {}}}}, "linux.timeOffsets.tai: there is no such"),
    "another system": ({"windows": {}}, "windows: this runtime makes Linux containers"),
    "path with controls": ({"annotations": {"a\x1b[2J": 1}}, r"annotations.a\x1b[2J: must be"),
}  # fmt: skip


@pytest.mark.parametrize(("more", "wanted"), VIOLATIONS.values(), ids=VIOLATIONS.keys())
def test_a_violation_is_one_line_with_its_path(more: dict[str, Any], wanted: str) -> None:
    (fault,) = faults(**more)
    assert fault.startswith(wanted)


def test_all_violations_are_found_at_once() -> None:
    found = faults(root={}, mounts=[{}], process={"args": [], "cwd": "x"})
    places = {fault.split(":")[0] for fault in found}
    assert places == {"process.args", "process.cwd", "root.path", "mounts[0].destination"}


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"nul", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_object_is_one_fault(raw: bytes) -> None:
    with pytest.raises(ConfigError) as caught:
        spec.parse(raw, "config.json")
    assert len(caught.value.faults) == 1


def test_unknown_properties_are_ignored() -> None:
    assert parsed(unknown={"x": 1}, process={"new": []}, linux={"later": {}}).root == "rootfs"


def test_unknown_capabilities_are_kept_for_a_warning() -> None:
    found = parsed(process={"capabilities": {"bounding": ["CAP_CHOWN", "CAP_TEST"]}})
    assert found.process.capabilities.sets.bounding == 1
    assert found.process.capabilities.unknown == ("CAP_TEST",)


def test_a_process_is_read_back_as_it_was_written() -> None:
    found = parsed(
        process={
            "user": {"uid": 3, "gid": 4, "umask": 0o27, "additionalGids": [5]},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}],
            "noNewPrivileges": True,
        }
    ).process
    assert found.rlimits == (Rlimit("RLIMIT_NOFILE", 1, 2),)
    assert spec.parse_process(json.loads(json.dumps(spec.written(found)))) == found


def test_a_missing_file_says_what_a_bundle_is(tmp_path: Any) -> None:
    with pytest.raises(ChError, match="config.json: not found"):
        spec.load(str(tmp_path))
