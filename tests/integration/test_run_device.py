"""Devices by CDI and injected files: what a vendor's file asks for is there inside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import world

pytestmark = pytest.mark.userns


@pytest.fixture
def image(base_layout: world.BaseImage) -> str:
    """A directory with busybox in it."""
    return str(base_layout.tree)


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    """What a vendor would install on the host."""
    path = tmp_path / "driver"
    path.mkdir()
    (path / "libacme.so.1").write_text("library")
    (path / "acme-smi").write_text("#!/bin/sh\necho acme here\n")
    (path / "acme-smi").chmod(0o755)
    (path / "settings").write_text("fast\n")
    return path


def spec(driver: Path) -> dict[str, Any]:
    """A specification as vendors write them."""
    library = {
        "hostPath": f"{driver}/libacme.so.1",
        "containerPath": "/usr/lib/acme/libacme.so.1",
        "options": ["ro", "nosuid", "nodev", "bind"],
    }
    hooks = [
        {
            "hookName": "createContainer",
            "path": "/usr/bin/acme-ctk",
            "args": ["acme-ctk", "hook", "create-symlinks", "--link",
                     "libacme.so.1::/usr/lib/acme/libacme.so"],
        },
        {
            "hookName": "createContainer",
            "path": "/usr/bin/acme-ctk",
            "args": ["acme-ctk", "hook", "update-ldcache", "--folder", "/usr/lib/acme"],
        },
        {"hookName": "createContainer", "path": "/usr/bin/acme-ctk", "args": ["x", "chmod"]},
    ]  # fmt: skip
    node = [{"path": "/dev/null"}]
    devices = [
        {
            "name": "0",
            "containerEdits": {"env": ["ACME=0"], "deviceNodes": node},
        },
        {"name": "1", "containerEdits": {"env": ["ACME1=1"]}},
        {"name": "gone", "containerEdits": {"deviceNodes": [{"path": "/dev/nosuch"}]}},
    ]
    edits = {"env": ["ACME_ALL=yes"], "mounts": [library], "hooks": hooks}
    return {"cdiVersion": "0.6.0", "kind": "acme.com/gpu", "devices": devices,
            "containerEdits": edits}  # fmt: skip


def places(tmp_path: Path, **files: str) -> dict[str, str]:
    """The environment that makes us look for ``files`` only."""
    (tmp_path / "cdi").mkdir(exist_ok=True)
    for name, text in files.items():
        (tmp_path / "cdi" / name.replace("_", ".")).write_text(text)
    return {"CDI_SPEC_DIRS": f"{tmp_path}/nosuch:{tmp_path}/cdi"}


SCRIPT = "cat /usr/lib/acme/libacme.so; echo; echo $ACME,$ACME1,$ACME_ALL,$LD_LIBRARY_PATH"


def test_a_device_brings_mounts_links_variables_and_libraries(
    ch_image: world.Tool, image: str, driver: Path, tmp_path: Path
) -> None:
    env = places(tmp_path, acme_json=json.dumps(spec(driver))) | {"LD_LIBRARY_PATH": "/mine"}
    words = ["--device", "acme.com/gpu=0", image, "--", "sh", "-c", SCRIPT]
    done = ch_image.run("ch-run", *words, env=env)
    assert done.out == "library\n0,,yes,/usr/lib/acme:/mine\n"
    assert done.err.count("chmod") >= 1, "what is not done must be told"
    script = "echo x > /usr/lib/acme/libacme.so.1"
    done = ch_image.run("ch-run", *words[:2], "-W", image, "--", "sh", "-c", script, env=env)
    assert (done.code, (driver / "libacme.so.1").read_text()) == (1, "library")


def test_yaml_is_read_and_later_options_of_the_user_win(
    ch_image: world.Tool, image: str, driver: Path, tmp_path: Path
) -> None:
    import yaml

    env = places(tmp_path, acme_yaml=yaml.safe_dump(spec(driver)))
    words = ["--device=acme.com/gpu=0", "--device=acme.com/gpu=1", "--set-env=ACME=mine"]
    done = ch_image.run("ch-run", *words, image, "--", "sh", "-c", SCRIPT, env=env)
    assert done.out.endswith("mine,1,yes,/usr/lib/acme\n")


def test_all_devices_of_a_kind(
    ch_image: world.Tool, image: str, driver: Path, tmp_path: Path
) -> None:
    value = spec(driver)
    del value["devices"][2]
    env = places(tmp_path, acme_json=json.dumps(value))
    words = ["--device=acme.com/gpu=all", image, "--", "sh", "-c", SCRIPT]
    assert ch_image.run("ch-run", *words, env=env).out.endswith("0,1,yes,/usr/lib/acme\n")


def test_a_damaged_file_of_another_vendor_is_told_and_in_nobodys_way(
    ch_image: world.Tool, image: str, driver: Path, tmp_path: Path
) -> None:
    value = spec(driver)
    value["containerEdits"] |= {"hooks": [], "additionalGids": [44], "intelRdt": {}}
    env = places(tmp_path, acme_json=json.dumps(value), other_yaml="kind: [")
    (tmp_path / "cdi/closed.json").touch(mode=0)
    words = ["--device=acme.com/gpu=1", image, "--", "sh", "-c", "echo $ACME1"]
    done = ch_image.run("ch-run", *words, env=env).ok()
    assert done.out == "1\n"
    warned = [line for line in done.err.splitlines() if line.startswith("warning: ")]
    assert len(warned) == 3, done.err
    for word in ("other.yaml", "closed.json", "additionalGids"):
        assert any(word in line for line in warned), done.err


def test_nothing_outside_the_image_is_made_for_a_hostile_link(
    ch_image: world.Tool, image: str, driver: Path, tmp_path: Path
) -> None:
    value = spec(driver)
    outside = tmp_path / "outside"
    link = f"x::/../../../../../..{outside}/link"
    value["containerEdits"]["hooks"][0]["args"][4] = link
    outside.mkdir()
    env = places(tmp_path, acme_json=json.dumps(value))
    ch_image.run("ch-run", "--device=acme.com/gpu=0", image, "--", "true", env=env)
    assert list(outside.iterdir()) == []


WRONG = {
    "no kind": ("gpu0", "{}", "VENDOR/CLASS=NAME"),
    "no name": ("acme.com/gpu=", "{}", "VENDOR/CLASS=NAME"),
    "an unknown device": ("acme.com/gpu=9", None, "acme.com/gpu=0"),
    "an unknown kind": ("other.com/gpu=0", None, "acme.com/gpu"),
    "a node that is not there": ("acme.com/gpu=gone", None, "/dev/nosuch"),
    "no JSON": ("acme.com/gpu=0", "{", "no CDI specification"),
    "a list": ("acme.com/gpu=0", "[]", "no CDI specification"),
    "deep": ("acme.com/gpu=0", "[" * 100000, "no CDI specification"),
    "devices that are text": (
        "acme.com/gpu=0", '{"kind": "acme.com/gpu", "devices": "x"}', "no CDI specification"),
    "variables that are numbers": (
        "acme.com/gpu=0",
        '{"kind": "acme.com/gpu", "devices": [{"name": "0", "containerEdits": {"env": [5]}}]}',
        "no CDI specification"),
    "a mount that is absent": (
        "acme.com/gpu=0",
        '{"kind": "acme.com/gpu", "devices": [{"name": "0", "containerEdits": {"mounts":'
        ' [{"hostPath": "/nosuch", "containerPath": "/x"}]}}]}',
        "/nosuch"),
}  # fmt: skip


@pytest.mark.parametrize(("device", "text", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_given_is_told(
    device: str,
    text: str | None,
    message: str,
    ch_image: world.Tool,
    image: str,
    driver: Path,
    tmp_path: Path,
) -> None:
    env = places(tmp_path, acme_json=json.dumps(spec(driver)) if text is None else text)
    done = ch_image.run("ch-run", "--device", device, image, "--", "true", env=env)
    assert (done.code, message in done.err) == (31, True), done
    assert "Traceback" not in done.err


def test_files_are_injected_by_a_list_or_a_command(
    ch_image: world.Tool, image: str, driver: Path, tmp_path: Path
) -> None:
    (tmp_path / "list").write_text(
        f"# driver\n{driver}/libacme.so.1\n\n{driver}/settings:/etc/acme\n"
    )
    words = [f"--inject={tmp_path}/list", f"--inject=echo {driver}/acme-smi", image, "--"]
    script = "cat $LD_LIBRARY_PATH/libacme.so.1; cat /etc/acme; acme-smi"
    done = ch_image.run("ch-run", *words, "sh", "-c", script).ok()
    assert done.out == "libraryfast\nacme here\n"


BAD_LISTS = {
    "nothing": ("", "takes a file or a command"),
    "neither": ("/nosuch/list", "neither a file nor a command"),
    "a failing command": ("false", "exit code 1"),
    "a relative path": ("echo lib.so", "no absolute path"),
    "an absent file": ("echo /nosuch.so", "/nosuch.so"),
}


@pytest.mark.parametrize(("text", "message"), BAD_LISTS.values(), ids=BAD_LISTS.keys())
def test_a_bad_list_is_told(text: str, message: str, ch_image: world.Tool, image: str) -> None:
    done = ch_image.run("ch-run", f"--inject={text}", image, "--", "true")
    assert (done.code, message in done.fault()) == (31, True), done
