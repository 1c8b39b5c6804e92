"""pull from a real registry, and what `list` says of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import world

pytestmark = [pytest.mark.userns, pytest.mark.registry]


def test_an_image_is_pulled_under_its_name_and_under_another(
    ch_image: world.Tool, base_image: str
) -> None:
    done = ch_image("pull", base_image).ok()
    assert done.out == ""
    ch_image("pull", base_image, "mine:1").ok()
    names = [line.split()[0] for line in ch_image("list").ok().out.splitlines()]
    assert names == [base_image, "mine:1"]
    config = json.loads(ch_image("inspect", "mine:1").ok().out)
    assert config["config"]["Cmd"] == ["/bin/sh"]
    assert ch_image.run("ch-run", "mine:1", "--", "echo", "runs").ok().out == "runs\n"
    digests = ch_image("inspect", "--digests", "mine:1").ok().out
    assert len(set(re.findall(r"sha256:[0-9a-f]{64}", digests))) == 4


def test_a_pull_can_unpack_a_directory(
    ch_image: world.Tool, base_image: str, tmp_path: Path
) -> None:
    ch_image("pull", base_image, "./out", cwd=tmp_path).ok()
    assert (tmp_path / "out/bin/busybox").exists()
    assert (tmp_path / "out/ch/environment").read_text() == "PATH=/bin:/usr/bin\n"


def test_a_directory_that_cannot_be_made_is_told_before_anything_is_fetched(
    ch_image: world.Tool, tmp_path: Path
) -> None:
    done = ch_image("pull", "127.0.0.1:9/nothing", "./nodir/tree", cwd=tmp_path)
    assert done.fault() == f"no such directory: {tmp_path}/nodir"


def test_details_tell_what_is_here_and_there(ch_image: world.Tool, base_image: str) -> None:
    def fields(name: str) -> dict[str, str]:
        lines = ch_image("list", name).ok().out.splitlines()
        return {line[:22].strip(" :"): line[22:].strip() for line in lines}

    before = fields(base_image)
    assert before["in local storage"] == "no"
    assert before["available remotely"] == "yes"
    ch_image("pull", base_image).ok()
    assert fields(base_image)["in local storage"].startswith("yes (linux/")
    nowhere = fields("127.0.0.1:1/nosuch")
    assert nowhere["available remotely"].startswith("no: ")


def test_parse_only_touches_nothing(ch_image: world.Tool) -> None:
    out = ch_image("pull", "--parse-only", "example.com:5000/a/b:c").ok().out
    assert re.search(r"^registry: +example\.com:5000$", out, re.M)
    assert re.search(r"^tag: +c$", out, re.M)
    assert not ch_image.storage.exists()


def test_the_default_registry_can_be_another(
    ch_image: world.Tool, base_image: str, registry: world.Registry
) -> None:
    host, _, port = registry.host.partition(":")
    env = {"CH_REGY_DEFAULT_HOST": host, "CH_REGY_DEFAULT_PORT": port}
    ch_image("pull", "busybox", env=env).ok()
    assert ch_image("list").ok().out.startswith("busybox (")


def test_the_first_layers_can_be_pulled_alone(ch_image: world.Tool, base_image: str) -> None:
    ch_image("pull", "--last-layer", "1", base_image, "part").ok()
    assert ch_image.run("ch-run", "part", "--", "true").code == 0
    assert ch_image("pull", "--last-layer", "0", base_image).code == 2


FAULTS = {
    "an unknown image": (["{host}/nosuch:1"], "nosuch"),
    "an unreachable registry": (["127.0.0.1:1/x"], "127.0.0.1:1"),
    "a name that is none": (["../etc"], "../etc"),
    "a digest as the name here": (["{base}", "x@sha256:" + "0" * 64], "digest"),
}


@pytest.mark.parametrize(("words", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_a_pull_that_fails_leaves_no_image(
    words: list[str],
    message: str,
    ch_image: world.Tool,
    base_image: str,
    registry: world.Registry,
) -> None:
    filled = [word.format(host=registry.host, base=base_image) for word in words]
    done = ch_image("pull", *filled)
    assert done.code in (1, 2)
    assert message in done.fault()
    assert ch_image("list").ok().out == ""
