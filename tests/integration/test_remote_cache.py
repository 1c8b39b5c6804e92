"""Steps that go through a registry or a directory from one storage directory to another."""

from __future__ import annotations

import json
import re
from pathlib import Path

import conftest
import pytest
import world

pytestmark = [pytest.mark.userns, pytest.mark.registry]

RANDOM = "/proc/sys/kernel/random/uuid"


@pytest.fixture
def other(tmp_path: Path) -> world.Tool:
    """Another machine: nothing in common but the registry."""
    home = tmp_path / "other"
    home.mkdir()
    return world.Tool(home / "storage", home)


@pytest.fixture
def context(tmp_path: Path, base_image: str) -> Path:
    """Two stages; what RUN gives cannot be had twice."""
    made = tmp_path / "context"
    (made / "src").mkdir(parents=True)
    (made / "src/a").write_text("a")
    (made / "Dockerfile").write_text(
        f"FROM {base_image} AS tools\nRUN cat {RANDOM} > /tool; chown 5:6 /tool\n"
        f"FROM {base_image}\nENV A=1\nCOPY src /src\nRUN cat {RANDOM} > /id; rm -rf /home\n"
        "COPY --from=tools /tool /tool\nRUN ln /id /same; mkfifo /pipe\n"
    )
    return made


def marks(done: world.Done) -> dict[int, str]:
    """Line -> ``*`` or ``.``, of instructions that make layers."""
    found = re.findall(r"^ *(\d+)([.*]) (?:RUN|COPY)", done.ok().err, re.M)
    return {int(line): mark for line, mark in found}


def ids(tool: world.Tool) -> list[str]:
    script = "cat /id /tool; stat -c %u:%g:%h /tool /id; ls -d /home /pipe 2> /dev/null"
    out = tool.run("ch-run", "x", "--", "sh", "-c", script).out
    return out.splitlines()


def layers(tool: world.Tool) -> int:
    return len([n for n in (tool.storage / "layers").iterdir() if n.name != ".diff"])


def places(kind: str, registry: world.Registry, tmp_path: Path) -> tuple[str, str]:
    """Values of --cache-to and --cache-from."""
    if kind == "local":
        return f"type=local,dest={tmp_path}/cache", f"type=local,src={tmp_path}/cache"
    ref = registry.ref(f"cache-{tmp_path.name.lower().strip('_')}:main")
    return f"type=registry,ref={ref}", ref


@pytest.mark.parametrize("kind", ["registry", "local"])
def test_another_machine_takes_the_steps(
    kind: str,
    ch_image: world.Tool,
    other: world.Tool,
    context: Path,
    registry: world.Registry,
    tmp_path: Path,
) -> None:
    to, source = places(kind, registry, tmp_path)
    try:
        ch_image("build", "--cache-to", f"{to},mode=max", "-t", "x", context).ok()
        done = other("build", "--cache-from", source, "-t", "x", context)
        assert set(marks(done).values()) == {"*"}
        assert ids(other) == ids(ch_image)
        again = other("build", "-t", "x", context, "--cache-from", source)
        assert set(marks(again).values()) == {"*"}, "what was taken is not in the cache"
        assert layers(other) == 5, "the base's, four steps', and not the stage's of COPY --from"

        (context / "src/a").write_text("b")
        conftest.remove_tree(other.storage)
        done = other("build", "--cache-from", source, "-t", "x", context)
        assert marks(done) == {2: "*", 5: ".", 6: ".", 7: ".", 8: "."}
    finally:
        conftest.remove_tree(other.storage)


def test_only_what_the_target_needs_is_fetched(
    ch_image: world.Tool,
    other: world.Tool,
    context: Path,
    registry: world.Registry,
    tmp_path: Path,
) -> None:
    to, source = places("registry", registry, tmp_path)
    try:
        ch_image("build", "--cache-to", f"{to},mode=max", "-t", "x", context).ok()
        other("build", "--target", "tools", "--cache-from", source, "-t", "x", context).ok()
        rows = json.loads(other("build-cache", "--json").ok().out)
        assert [row["instruction"][:8] for row in rows if row["layer"]] == ["RUN cat "]
        assert layers(other) == 2, "the base's layer and the step's"
    finally:
        conftest.remove_tree(other.storage)


def test_the_least_cache_knows_stages_that_it_does_not_hold(
    ch_image: world.Tool,
    other: world.Tool,
    context: Path,
    registry: world.Registry,
    tmp_path: Path,
) -> None:
    to, source = places("registry", registry, tmp_path)
    try:
        ch_image("build", "--cache-to", to, "-t", "x", context).ok()
        # What one machine has taken and never fetched, it can hand on.
        given = ("--cache-from", source, "--cache-to", f"type=local,dest={tmp_path}/handed")
        for source_of in (given, ("--cache-from", f"type=local,src={tmp_path}/handed")):
            done = other("build", *source_of, "-t", "x", context)
            assert set(marks(done).values()) == {"*"}
            assert ids(other) == ids(ch_image)
            assert layers(other) == 5
            conftest.remove_tree(other.storage)

        dockerfile = context / "Dockerfile"
        dockerfile.write_text(dockerfile.read_text() + "COPY --from=tools /etc/passwd /new\n")
        done = other("build", "--cache-from", source, "-t", "x", context)
        assert marks(done)[2] == ".", "its files are needed now, so it has to be carried out"
        assert marks(done)[5] == marks(done)[6] == "*"
        assert marks(done)[7] == marks(done)[9] == "."
    finally:
        conftest.remove_tree(other.storage)


def test_a_stage_is_fetched_when_something_else_of_it_is_copied(
    ch_image: world.Tool, other: world.Tool, context: Path, tmp_path: Path
) -> None:
    try:
        cache = f"{tmp_path}/cache"
        ch_image(
            "build", "--cache-to", f"type=local,dest={cache},mode=max", "-t", "x", context
        ).ok()
        dockerfile = context / "Dockerfile"
        more = (
            "COPY --from=tools /tool /again\n"
            "RUN --mount=type=bind,from=tools,target=/t cmp /again /t/tool\n"
        )
        dockerfile.write_text(dockerfile.read_text() + more)
        done = other("build", "--cache-from", f"type=local,src={cache}", "-t", "x", context)
        assert marks(done) == {2: "*", 5: "*", 6: "*", 7: "*", 8: "*", 9: ".", 10: "."}
        assert ids(other) == ids(ch_image)
        again = other("build", "-t", "x", context)
        assert set(marks(again).values()) == {"*"}
    finally:
        conftest.remove_tree(other.storage)


def test_a_layer_that_was_tampered_with_is_refused_and_made_here(
    ch_image: world.Tool, other: world.Tool, context: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    try:
        ch_image("build", "--cache-to", f"type=local,dest={cache}", "-t", "x", context).ok()
        index = json.loads((cache / "index.json").read_bytes())
        top = index["manifests"][0]["digest"].partition(":")[2]
        manifest = json.loads((cache / "blobs/sha256" / top).read_bytes())
        for layer in manifest["layers"]:
            path = cache / "blobs/sha256" / layer["digest"].partition(":")[2]
            raw = bytearray(path.read_bytes())
            raw[len(raw) // 2] ^= 1
            path.write_bytes(raw)
        done = other("build", "--cache-from", f"type=local,src={cache}", "-t", "x", context)
        assert set(marks(done).values()) == {"."}
        assert "warning: --cache-from:" in done.err
    finally:
        conftest.remove_tree(other.storage)


@pytest.mark.parametrize(
    "list_", [b"", b"{}", b'{"format":2}', b'{"format":1,"chains":[[7,"x",0]]}']
)
def test_a_cache_that_makes_no_sense_stops_no_build(
    list_: bytes, ch_image: world.Tool, base_image: str, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    (cache / "blobs/sha256").mkdir(parents=True)

    def put(data: bytes, kind: str) -> dict[str, object]:
        digest = world.digest(data)
        (cache / "blobs/sha256" / digest.partition(":")[2]).write_bytes(data)
        return {"mediaType": kind, "digest": digest, "size": len(data)}

    config = put(list_, "application/vnd.ch-image.build-cache.v1+json")
    kind = "application/vnd.oci.image.manifest.v1+json"
    value = {"schemaVersion": 2, "mediaType": kind, "config": config, "layers": []}
    entry = put(json.dumps(value).encode(), kind)
    (cache / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    name = {"org.opencontainers.image.ref.name": "latest"}
    (cache / "index.json").write_text(
        json.dumps({"schemaVersion": 2, "manifests": [entry | {"annotations": name}]})
    )
    (tmp_path / "Dockerfile").write_text(f"FROM {base_image}\nRUN true\n")
    done = ch_image("build", "--cache-from", f"type=local,src={cache}", "-t", "x", tmp_path).ok()
    assert "warning: --cache-from" in done.err
    assert "Traceback" not in done.err


def test_a_cache_that_is_not_there_yet_is_no_fault(
    ch_image: world.Tool, registry: world.Registry, context: Path, tmp_path: Path
) -> None:
    sources = [registry.ref("nobody/wrote:this"), f"type=local,src={tmp_path}/nothing"]
    options = [word for source in sources for word in ("--cache-from", source)]
    assert ch_image("build", *options, "-t", "x", context).ok().err.count("warning: --cache-fr") > 1


@pytest.mark.parametrize(
    "spec",
    [
        "type=gha",
        "type=local",
        "type=registry",
        "type=local,src=x,ref=y",
        "mode=some,ref=x",
        "ref=",
    ],
)
def test_what_names_no_cache_is_refused_before_anything_is_done(
    spec: str, ch_image: world.Tool, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    assert ch_image("build", "--cache-from", spec, "-t", "x", tmp_path).code == 2
