"""Pulling: what arrives in storage, what is refused, and what a refusal leaves behind."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest
import world
from wildserver import RESET, Asked, Reply, Wild

from ch_image.errors import ChError, ImageError, RegistryError
from ch_image.model.oci import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from ch_image.model.platforms import Platform, host_platform, parse_platform
from ch_image.model.ref import parse_ref
from ch_image.registry.mirrors import Mirrors, parse_registries_conf
from ch_image.registry.registries import Registries
from ch_image.registry.tls import Network
from ch_image.report import Event, Progress, Warned
from ch_image.storage.images import Image
from ch_image.storage.store import Storage, open_storage
from ch_image.transfer import fill
from ch_image.transfer.pull import pull

T = TypeVar("T")
InUserns = Callable[[Callable[[], T]], T]
KIND = "application/vnd.oci.image."


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Hub(Wild):
    """A registry held in memory; `faults` replaces the reply for a path."""

    def __init__(self) -> None:
        super().__init__(self._reply)
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[bytes, str]] = {}
        self.faults: dict[str, Callable[[Asked], Reply | None]] = {}

    def _reply(self, asked: Asked) -> Reply:
        fault = self.faults.get(asked.path)
        if fault is not None and (reply := fault(asked)) is not None:
            return reply
        _, _, name, kind, last = asked.path.split("/", 4)
        if kind == "manifests" and last in self.manifests:
            raw, media_type = self.manifests[last]
            headers = {"Content-Type": media_type, "Docker-Content-Digest": digest(raw)}
            return Reply(200, raw, headers)
        if kind == "blobs" and last in self.blobs:
            return Reply(200, self.blobs[last])
        return Reply(404)

    def blob(self, data: bytes, media_type: str) -> dict[str, Any]:
        self.blobs[digest(data)] = data
        return {"mediaType": media_type, "digest": digest(data), "size": len(data)}

    def manifest(self, value: Any, media_type: str, *names: str) -> dict[str, Any]:
        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
        for name in (*names, digest(raw)):
            self.manifests[name] = (raw, media_type)
        return {"mediaType": media_type, "digest": digest(raw), "size": len(raw)}

    def image(
        self,
        *layers: bytes,
        tag: str = "1",
        diff_ids: list[str] | None = None,
        platform: Platform | None = None,
        change: Callable[[dict[str, Any]], None] = lambda manifest: None,
        pack: Callable[[bytes], bytes] = gzip.compress,
    ) -> dict[str, Any]:
        """Add an image of tar layers; its manifest's descriptor."""
        wish = platform or host_platform()
        config = {
            "architecture": wish.architecture,
            "os": wish.os,
            "config": {"Env": ["A=b"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids or [digest(raw) for raw in layers]},
        }
        if wish.variant:
            config["variant"] = wish.variant
        value = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": self.blob(json.dumps(config).encode(), KIND + "config.v1+json"),
            "layers": [self.blob(pack(raw), KIND + "layer.v1.tar+gzip") for raw in layers],
        }
        change(value)
        return self.manifest(value, str(value["mediaType"]), tag)

    def blob_requests(self) -> list[str]:
        return [path for path in self.paths() if "/blobs/" in path]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        yield running


ONE = world.tar_of({"etc/one": "1\n", "etc/both": "below\n"})
TWO = world.tar_of({"etc/two": "2\n", "etc/both": "above\n"})


class Puller:
    """Pulls from a hub into a storage directory, in a namespace of its own each time."""

    def __init__(self, hub: Hub, path: Path, in_userns: InUserns[Any]) -> None:
        self.hub, self.path, self._in_userns = hub, path, in_userns
        self.mirrors: Mirrors | None = None

    def __call__(
        self,
        name: str = "app:1",
        platform: str = "",
        look: Callable[[Storage, Image], Any] = lambda storage, image: None,
        **options: Any,
    ) -> Any:
        """Pull; what `look` sees."""

        def work() -> Any:
            events: list[Event] = []
            with open_storage(str(self.path)) as storage, storage.lock():
                image = pull(
                    parse_ref(f"{self.hub.host}/{name}"),
                    storage,
                    Registries(Network(backoff=0), mirrors=self.mirrors),
                    parse_platform(platform) if platform else None,
                    events.append,
                    always=True,
                    **options,
                )
                return look(storage, image), events, image

        seen, self.events, self.image = self._in_userns(work)
        return seen

    def refused(self, *args: Any, **options: Any) -> ChError:
        """Pull in vain; checks that nothing but scratch was written and that is gone."""
        with pytest.raises(ChError) as caught:
            self(*args, **options)
        assert str(caught.value).isprintable()
        assert not self.names()
        assert not os.listdir(self.path / "tmp")
        return caught.value

    def names(self) -> list[str]:
        with open_storage(str(self.path)) as storage:
            return [summary.name for summary in storage.images.list()]


@pytest.fixture
def puller(hub: Hub, storage: Path, in_userns: InUserns[Any]) -> Puller:
    return Puller(hub, storage, in_userns)


def files(storage: Storage, image: Image) -> list[dict[str, str]]:
    """The text files of each layer."""
    out = []
    for layer in image.layers:
        tree = Path(storage.layers.tree(layer))
        found = (p for p in tree.rglob("*") if p.is_file())
        out.append({str(p.relative_to(tree)): p.read_text() for p in found})
    return out


LAYERS = [{"etc/one": "1\n", "etc/both": "below\n"}, {"etc/two": "2\n", "etc/both": "above\n"}]


def test_an_image_arrives_whole(hub: Hub, puller: Puller) -> None:
    descriptor = hub.image(ONE, TWO)
    assert puller(look=files) == LAYERS
    image = puller.image
    assert image.manifest.digest == descriptor["digest"]
    assert image.config.config.env == ("A=b",)
    assert puller.names() == [f"{hub.host}/app:1"]
    assert Progress("layer 1/2", *[hub_size(hub, ONE)] * 2) in puller.events


def hub_size(hub: Hub, raw: bytes) -> int:
    return next(len(b) for b in hub.blobs.values() if b[:2] == b"\x1f\x8b"
                and gzip.decompress(b) == raw)  # fmt: skip


def test_blobs_are_kept_as_they_came(hub: Hub, puller: Puller) -> None:
    hub.image(ONE, TWO)
    stored = puller(look=lambda s, image: {d: s.blobs.read(d, 1 << 20) for d in s.blobs.all()})
    raw, _ = hub.manifests["1"]
    assert stored == hub.blobs | {digest(raw): raw}


def test_processes_unpack_what_is_not_small(
    hub: Hub, puller: Puller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fill, "SMALL", 0)
    big = world.tar_of({f"data/{n}": str(n) * 10_000 for n in range(300)})
    hub.image(ONE, TWO, big, pack=lambda raw: raw)
    seen = puller(look=files)
    assert seen[:2] == LAYERS
    assert seen[2]["data/299"] == "299" * 10_000


@pytest.mark.parametrize("small", [0, 1 << 20])
def test_layers_see_those_below_where_they_need_to(
    small: int, hub: Hub, puller: Puller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fill, "SMALL", small)
    link = tarfile.TarInfo("again")
    link.type, link.linkname = tarfile.LNKTYPE, "etc/one"
    hub.image(ONE, TWO, world.tar_of({"again": link}))
    assert puller(look=files)[2]["again"] == "1\n"
    assert puller(look=lambda s, image: s.layers.get(image.layers[2]).lower == image.layers[:2])


def test_zstd_and_plain_layers_are_taken_whatever_their_label(hub: Hub, puller: Puller) -> None:
    import zstandard

    compress = zstandard.ZstdCompressor().compress
    hub.image(ONE, TWO, pack=lambda raw: compress(raw) if raw == ONE else raw)
    assert puller(look=files) == LAYERS


def test_an_unchanged_tag_costs_one_request(hub: Hub, puller: Puller) -> None:
    hub.image(ONE)
    puller()
    del hub.asked[:]
    puller()
    assert [(asked.method, asked.path) for asked in hub.asked] == [("HEAD", "/v2/app/manifests/1")]


def test_an_unchanged_index_costs_one_request(hub: Hub, puller: Puller) -> None:
    entry = hub.image(ONE, tag="one") | {"platform": {"os": "linux", "architecture": "riscv64"}}
    hub.manifest({"schemaVersion": 2, "manifests": [entry]}, OCI_INDEX, "1")
    puller(platform="riscv64")
    del hub.asked[:]
    puller(platform="riscv64")
    assert len(hub.asked) == 1


def test_a_digest_that_is_there_costs_none(hub: Hub, puller: Puller) -> None:
    name = f"app@{hub.image(ONE)['digest']}"
    puller(name)
    del hub.asked[:]
    puller(name)
    assert hub.asked == []


def test_a_moved_tag_fetches_only_what_is_new(hub: Hub, puller: Puller) -> None:
    hub.image(ONE)
    puller()
    first = puller.image.layers
    del hub.asked[:]
    hub.image(ONE, TWO)
    assert puller(look=files) == LAYERS
    assert puller.image.layers[:1] == first
    assert len(hub.blob_requests()) == 2  # the config and the second layer


def test_the_same_layer_twice_is_fetched_once(hub: Hub, puller: Puller) -> None:
    hub.image(ONE, TWO, ONE)
    assert puller(look=files) == [*LAYERS, LAYERS[0]]
    assert len(hub.blob_requests()) == 3


def test_a_pull_may_give_another_name(hub: Hub, puller: Puller) -> None:
    hub.image(ONE)
    puller(into=parse_ref("mine"))
    assert puller.names() == ["mine"]


def test_an_image_without_layers_is_an_image(hub: Hub, puller: Puller) -> None:
    hub.image()
    assert puller(look=files) == []


# -- platforms --


def index(hub: Hub, platforms: Mapping[str, str], media_type: str = OCI_INDEX) -> None:
    """Tag 1: an index with an image, of one file that tells it, for each of `platforms`."""
    entries: list[dict[str, Any]] = []
    for number, (name, kind) in enumerate(platforms.items()):
        os_name, architecture, *variant = name.split("/")
        where = Platform(os_name, architecture, *variant)
        entry = hub.image(world.tar_of({"name": name}), tag=f"one{number}", platform=where)
        place = {"os": os_name, "architecture": architecture}
        entry["platform"] = place | ({"variant": variant[0]} if variant else {})
        if kind:
            entry["annotations"] = {"vnd.docker.reference.type": kind}
        entries.append(entry)
    hub.manifest({"schemaVersion": 2, "manifests": entries}, media_type, "1")


PLATFORMS = {"linux/arm/v6": "", "linux/arm/v7": "", "linux/amd64": "", "linux/arm64/v8": "",
             "windows/amd64": "", "unknown/unknown": "attestation-manifest"}  # fmt: skip


@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_LIST])
@pytest.mark.parametrize(
    ("asked", "given"),
    [("amd64", "linux/amd64"), ("linux/arm64", "linux/arm64/v8"), ("arm64/v8", "linux/arm64/v8"),
     ("linux/arm/v7", "linux/arm/v7"), ("linux/arm/v6", "linux/arm/v6"), ("arm", "linux/arm/v7")],
)  # fmt: skip
def test_the_platform_asked_for_is_taken(
    asked: str, given: str, media_type: str, hub: Hub, puller: Puller
) -> None:
    index(hub, PLATFORMS, media_type)
    assert puller(platform=asked, look=files) == [{"name": given}]


def test_a_missing_platform_lists_what_there_is(hub: Hub, puller: Puller) -> None:
    index(hub, PLATFORMS)
    fault = puller.refused(platform="s390x")
    assert "not made for linux/s390x" in str(fault)
    assert "linux/amd64, linux/arm/v6" in fault.hint
    assert "unknown" not in fault.hint


def test_indexes_may_be_nested(hub: Hub, puller: Puller) -> None:
    index(hub, {"linux/riscv64": ""})
    raw, _ = hub.manifests["1"]
    for _ in range(3):
        entry = {"mediaType": OCI_INDEX, "digest": digest(raw), "size": len(raw)}
        hub.manifest({"schemaVersion": 2, "manifests": [entry]}, OCI_INDEX, "1")
        raw, _ = hub.manifests["1"]
    assert puller(platform="riscv64", look=files) == [{"name": "linux/riscv64"}]


def test_indexes_may_not_be_nested_without_end(hub: Hub, puller: Puller) -> None:
    index(hub, {"linux/riscv64": ""})
    for _ in range(10):
        raw, _ = hub.manifests["1"]
        entry = {"mediaType": OCI_INDEX, "digest": digest(raw), "size": len(raw)}
        hub.manifest({"schemaVersion": 2, "manifests": [entry]}, OCI_INDEX, "1")
    assert "nested" in str(puller.refused(platform="riscv64"))


def test_another_platforms_image_is_taken_with_a_warning(hub: Hub, puller: Puller) -> None:
    hub.image(ONE, platform=Platform("linux", "s390x"))
    puller(platform="riscv64")
    (warning,) = (e.text for e in puller.events if isinstance(e, Warned))
    assert "made for linux/s390x, not for linux/riscv64" in warning


# -- what is refused --


def drop_layer(manifest: dict[str, Any]) -> None:
    del manifest["layers"][0]


def set_first(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        manifest["layers"][0][key] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_layer, "no container image"),
        (set_first("mediaType", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"),
         "layer 1 is foreign"),
        (set_first("mediaType", KIND + "layer.nondistributable.v1.tar"), "layer 1 is foreign"),
        (set_first("mediaType", KIND + "layer.v1.tar+gzip+encrypted"), "encrypted"),
        (set_first("digest", "sha256:../../../etc/passwd"), "not a sha256 digest"),
        (set_first("digest", "sha512:" + "0" * 128), "not a sha256 digest"),
        (set_first("size", -1), "no valid size"),
        (set_first("size", 1 << 70), "no valid size"),
        (set_first("size", "7"), "no valid size"),
        (set_first("size", 7), "offers"),
        (set_first("size", 1 << 50), "offers"),
        (lambda m: m.update(layers=[m["layers"][0]] * 10_001), "more than 10000 layers"),
        (lambda m: m.update(layers=None), "neither layers"),
        (lambda m: m.update(schemaVersion=1), "schema 1"),
        (lambda m: m["config"].update(digest=m["layers"][0]["digest"]), "offers"),
        (lambda m: m["config"].update(size=5 << 20), "larger than 4 MiB"),
    ],
)  # fmt: skip
def test_a_manifest_that_cannot_be_meant_is_refused(
    change: Callable[[dict[str, Any]], None], message: str, hub: Hub, puller: Puller
) -> None:
    hub.image(ONE, TWO, change=change)
    assert message in str(puller.refused())


@pytest.mark.parametrize(
    "raw",
    [b"", b"null", b"[]", b"{}", b"<html>", b'{"manifests": 7}', b"[" * 4000, b"\xff\xfe",
     b'{"schemaVersion":2,"config":{},"layers":[]}', b'{"manifests":[{}]}'],
)  # fmt: skip
def test_a_manifest_that_is_none_is_refused(raw: bytes, hub: Hub, puller: Puller) -> None:
    hub.manifest(raw, OCI_MANIFEST, "1")
    assert isinstance(puller.refused(), ImageError)


@pytest.mark.parametrize("raw", [b"", b"[]", b"nonsense", b"{}", b'{"rootfs": {"diff_ids": [1]}}'])
def test_a_config_that_is_none_is_refused(raw: bytes, hub: Hub, puller: Puller) -> None:
    hub.image(ONE, change=lambda m: m.update(config=hub.blob(raw, KIND + "config.v1+json")))
    assert isinstance(puller.refused(), ImageError)


@pytest.mark.parametrize("small", [0, 1 << 20])
def test_a_wrong_diff_id_is_refused(
    small: int, hub: Hub, puller: Puller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fill, "SMALL", small)
    hub.image(ONE, TWO, diff_ids=[digest(ONE), digest(b"other")])
    assert "layer 2/2: a layer does not unpack" in str(puller.refused())


@pytest.mark.parametrize("small", [0, 1 << 20])
@pytest.mark.parametrize(
    "layer",
    [b"\x1f\x8bnonsense", gzip.compress(ONE)[:-20], gzip.compress(b"no tar" * 999)],
    ids=["nonsense", "cut", "no tar"],  # the bytes tell the time, and each process another
)
def test_a_layer_that_is_no_archive_is_refused(
    layer: bytes, small: int, hub: Hub, puller: Puller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fill, "SMALL", small)
    hub.image(ONE, layer, pack=lambda raw: raw)
    puller.refused()


@pytest.mark.parametrize("name", ["../../escape", "a/../../../escape", ".wh.", ".wh..."])
def test_a_layer_that_reaches_out_is_refused(
    name: str, hub: Hub, puller: Puller, tmp_path: Path
) -> None:
    hub.image(ONE, world.tar_of({name: "out"}))
    puller.refused()
    assert not list(tmp_path.rglob("escape"))


def test_a_layer_with_other_bytes_is_refused_after_a_second_try(hub: Hub, puller: Puller) -> None:
    hub.image(ONE, TWO)
    second = next(d for d, b in hub.blobs.items() if b[:2] == b"\x1f\x8b" and len(b) and
                  gzip.decompress(b) == TWO)  # fmt: skip
    forged = b"\0" * len(hub.blobs[second])
    hub.faults[f"/v2/app/blobs/{second}"] = lambda asked: Reply(200, forged)
    assert "layer 2/2 is damaged" in str(puller.refused())
    assert hub.paths().count(f"/v2/app/blobs/{second}") == 2


@pytest.mark.parametrize("small", [0, 1 << 20])
def test_a_layer_that_arrives_damaged_once_is_fetched_again(
    small: int, hub: Hub, puller: Puller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fill, "SMALL", small)
    hub.image(ONE)
    (layer,) = (d for d, b in hub.blobs.items() if b[:2] == b"\x1f\x8b")
    damaged = bytearray(hub.blobs[layer])
    damaged[len(damaged) // 2] ^= 1
    first = iter([Reply(200, bytes(damaged))])
    hub.faults[f"/v2/app/blobs/{layer}"] = lambda asked: next(first, None)
    assert puller(look=files) == LAYERS[:1]


def test_an_older_image_of_that_name_stays_when_a_pull_fails(hub: Hub, puller: Puller) -> None:
    hub.image(ONE)
    puller()
    before = puller.image
    hub.image(ONE, TWO, diff_ids=[digest(ONE), digest(b"other")])
    with pytest.raises(ImageError):
        puller()
    with open_storage(str(puller.path)) as storage:
        assert storage.images.get(before.ref).layers == before.layers
    hub.image(ONE, TWO)
    assert puller(look=files) == LAYERS


def test_connections_that_break_all_the_time_do_not_stop_a_pull(hub: Hub, puller: Puller) -> None:
    hub.image(ONE, TWO)

    def unreliable(asked: Asked) -> Reply | None:
        turn = hub.paths().count(asked.path) % 4
        return (None, RESET, Reply(503), Reply(429, headers={"Retry-After": "0"}))[turn]

    for path in [*hub.manifests, *hub.blobs]:
        kind = "blobs" if path in hub.blobs else "manifests"
        hub.faults[f"/v2/app/{kind}/{path}"] = unreliable
    assert puller(look=files) == LAYERS


def test_a_damaged_record_is_mended_by_a_pull(hub: Hub, puller: Puller) -> None:
    hub.image(ONE)
    puller()
    (record,) = (puller.path / "images").iterdir()
    record.write_bytes(b"nonsense")
    assert puller(look=files) == LAYERS[:1]
    assert any(isinstance(e, Warned) for e in puller.events)


def test_foreign_urls_are_never_asked(hub: Hub, puller: Puller) -> None:
    with Wild(lambda asked: Reply(200)) as other:
        hub.image(ONE, change=set_first("urls", [f"{other.url}/layer"]))
        puller()
    assert other.asked == []


# -- mirrors --


def conf(host: str, mirror: str, more: str = "") -> Mirrors:
    text = (
        f'[[registry]]\nlocation = "{host}"\n{more}\n[[registry.mirror]]\nlocation = "{mirror}"\n'
    )
    return parse_registries_conf(text, "registries.conf")


def test_a_mirror_is_asked_first(hub: Hub, puller: Puller) -> None:
    hub.image(ONE)
    with Hub() as mirror:
        mirror.blobs, mirror.manifests = hub.blobs, hub.manifests
        puller.mirrors = conf(hub.host, f"{mirror.host}")
        assert puller(look=files) == LAYERS[:1]
        assert mirror.asked
    assert not hub.asked
    assert puller.names() == [f"{hub.host}/app:1"]


def test_a_mirror_that_fails_is_passed_over(hub: Hub, puller: Puller) -> None:
    hub.image(ONE)
    with Hub() as mirror:
        mirror.manifests = hub.manifests  # but no blobs
        puller.mirrors = conf(hub.host, mirror.host)
        assert puller(look=files) == LAYERS[:1]
    puller.mirrors = conf(hub.host, "127.0.0.1:1")
    assert puller(look=files) == LAYERS[:1]


def test_a_blocked_registry_is_not_asked(hub: Hub, puller: Puller) -> None:
    puller.mirrors = conf(hub.host, hub.host, "blocked = true")
    with pytest.raises(RegistryError, match="blocks"):
        puller()
    assert not hub.asked


def test_a_layer_without_a_byte_is_empty(hub: Hub, puller: Puller) -> None:
    hub.image(ONE, b"")
    assert puller(look=files) == [LAYERS[0], {}]


def test_docker_manifests_are_images_too(hub: Hub, puller: Puller) -> None:
    def docker(manifest: dict[str, Any]) -> None:
        manifest["mediaType"] = DOCKER_MANIFEST
        manifest["layers"][0]["mediaType"] = "application/vnd.docker.image.rootfs.diff.tar.gzip"

    hub.image(ONE, change=docker)
    assert puller(look=files) == LAYERS[:1]
    assert puller.image.manifest.media_type == DOCKER_MANIFEST


def test_modes_and_times_are_exact(hub: Hub, puller: Puller) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, mode in (("secret", 0o000), ("setuid", 0o4755), ("odd", 0o1642)):
            info = tarfile.TarInfo(name)
            info.mode, info.mtime = mode, 1_234_567_890.125
            info.pax_headers = {"mtime": "1234567890.125"}
            tar.addfile(info)
    hub.image(out.getvalue())

    def look(storage: Storage, image: Image) -> dict[str, tuple[int, int]]:
        tree = Path(storage.layers.tree(image.layers[0]))
        return {p.name: (p.stat().st_mode & 0o7777, p.stat().st_mtime_ns) for p in tree.iterdir()}

    at = 1_234_567_890_125_000_000
    assert puller(look=look) == {"secret": (0, at), "setuid": (0o4755, at), "odd": (0o1642, at)}
