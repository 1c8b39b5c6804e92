"""Pushing: what is sent, what is not, and what a registry's faults do to it."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest
import world
from harbor import Harbor, digest
from wildserver import RESET, Asked, Reply

from ch_image.errors import RegistryError, UsageError
from ch_image.model.oci import OCI_MANIFEST, History, ImageConfig
from ch_image.model.platforms import Platform
from ch_image.model.ref import parse_ref
from ch_image.registry import upload
from ch_image.registry.registries import Registries
from ch_image.registry.tls import Network
from ch_image.report import Detail, Event, Info
from ch_image.storage.images import Image
from ch_image.storage.layers import LayerId
from ch_image.storage.store import Storage, open_storage
from ch_image.transfer.pack import Wishes, parse_compression
from ch_image.transfer.pull import pull
from ch_image.transfer.push import Pushed, push

T = TypeVar("T")
InUserns = Callable[[Callable[[], T]], T]
Body = Callable[[Storage], T]


@pytest.fixture
def harbor() -> Iterator[Harbor]:
    with Harbor() as running:
        yield running


class Desk:
    """Works on a storage directory in a namespace of its own."""

    def __init__(self, path: Path, in_userns: InUserns[Any]) -> None:
        self.path, self._in_userns = path, in_userns
        self.events: list[Event] = []

    def __call__(self, work: Body[T]) -> T:
        def inside() -> T:
            with open_storage(str(self.path)) as storage, storage.lock():
                return work(storage)

        return self._in_userns(inside)  # type: ignore[no-any-return]

    def push(
        self,
        destination: str,
        wishes: Wishes = Wishes(),  # noqa: B008
        local: str = "app",
    ) -> Pushed:
        def work(storage: Storage) -> tuple[Pushed, list[Event]]:
            events: list[Event] = []
            image = storage.images.get(parse_ref(local))
            registries = Registries(Network(backoff=0), report=events.append)
            ref = parse_ref(destination)
            return push(image, ref, storage, registries, wishes, events.append), events

        pushed, self.events = self(work)
        return pushed

    def requests(self) -> list[str]:
        return [e.text.split()[0] for e in self.events if isinstance(e, Detail) and e.level == 2]


@pytest.fixture
def desk(storage: Path, in_userns: InUserns[Any]) -> Desk:
    return Desk(storage, in_userns)


def layer(storage: Storage, files: Mapping[str, bytes], mtime: int = 1_700_000_000) -> LayerId:
    """A layer as a build would leave it: a tree without digests."""
    staged = storage.layers.stage()
    for name, data in files.items():
        path = Path(staged, "t", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (mtime, mtime))
    for directory in sorted(Path(staged, "t").rglob("*"), reverse=True):
        if directory.is_dir():
            os.utime(directory, (mtime, mtime))
    return storage.layers.publish(staged)


def make(*trees: Mapping[str, bytes], name: str = "app", mtime: int = 1_700_000_000) -> Body[None]:
    """An image as a build would leave it."""

    def work(storage: Storage) -> None:
        chain = tuple(layer(storage, tree, mtime) for tree in trees)
        history = tuple(History(created="2024-01-01T00:00:00Z", created_by="x") for _ in chain)
        config = ImageConfig(Platform("linux", "amd64"), created="2024-01-01T00:00:00Z",
                             history=history)  # fmt: skip
        storage.images.put(Image(parse_ref(name), config, chain, None, 0.0))

    return work


NOISE = os.urandom(6 << 20)  # does not shrink


def test_everything_arrives_and_the_manifest_last(harbor: Harbor, desk: Desk) -> None:
    desk(make({"etc/one": b"1"}, {"etc/two": b"2"}))
    pushed = desk.push(f"{harbor.host}/app:1")
    assert digest(harbor.manifests["1"]) == pushed.digest
    value = json.loads(harbor.manifests["1"])
    for blob in (value["config"], *value["layers"]):
        data = harbor.blobs["app", blob["digest"]]
        assert (digest(data), len(data)) == (blob["digest"], blob["size"])
        assert set(blob) == {"mediaType", "digest", "size"}
    config = json.loads(harbor.blobs["app", value["config"]["digest"]])
    unpacked = [gzip.decompress(harbor.blobs["app", d]) for d in harbor.layers()]
    assert config["rootfs"]["diff_ids"] == [digest(raw) for raw in unpacked]
    assert harbor.asked[-1].path == "/v2/app/manifests/1"
    assert (pushed.sent, pushed.present, pushed.mounted) == (3, 0, 0)


def test_an_unchanged_image_costs_one_request(harbor: Harbor, desk: Desk) -> None:
    desk(make({"etc/one": b"1"}))
    desk.push(f"{harbor.host}/app:1")
    del harbor.asked[:]
    assert desk.push(f"{harbor.host}/app:1").unchanged
    assert [asked.method for asked in harbor.asked] == ["HEAD"]
    assert Info(f"unchanged: {harbor.host}/app:1") in desk.events


def test_only_a_new_top_layer_is_sent(harbor: Harbor, desk: Desk) -> None:
    def on_top(storage: Storage) -> None:
        base = storage.images.get(parse_ref("app"))
        history = (*base.config.history, History(created_by="y"))
        top = layer(storage, {"etc/new": b"3"})
        config = base.config._replace(history=history, diff_ids=())
        storage.images.put(Image(base.ref, config, (*base.layers, top), None, 0.0))

    desk(make({"big": NOISE}, {"etc/two": b"2"}))
    desk.push(f"{harbor.host}/app:1")
    before = harbor.layers()
    desk(on_top)
    del harbor.asked[:]
    pushed = desk.push(f"{harbor.host}/app:1")
    assert harbor.layers()[:2] == before
    assert (pushed.sent, pushed.present) == (2, 2)  # the layer and the config
    assert pushed.sent_bytes < 2000
    assert sum(len(asked.body) for asked in harbor.asked) < 10_000


def test_blobs_of_a_neighbour_are_mounted(harbor: Harbor, desk: Desk) -> None:
    def alias(storage: Storage) -> None:
        image = storage.images.get(parse_ref("app"))
        storage.images.put(image._replace(ref=parse_ref(f"{harbor.host}/base:1")))

    desk(make({"big": NOISE}))
    desk.push(f"{harbor.host}/base:1")
    desk(alias)
    pushed = desk.push(f"{harbor.host}/app:2")
    assert (pushed.mounted, pushed.sent) == (2, 0)
    assert {("app", d) for d in harbor.layers("2")} <= set(harbor.blobs)
    assert sum(len(asked.body) for asked in harbor.asked if "app" in asked.path) < 1000


def test_two_storages_give_the_same_digest(
    harbor: Harbor, tmp_path: Path, in_userns: InUserns[Any]
) -> None:
    digests = set()
    for number, mtime in enumerate((1_700_000_000, 1_700_009_999)):
        desk = Desk(tmp_path / str(number), in_userns)
        desk(make({"etc/one": b"1", "etc/a/b": b"x" * 9999}, mtime=mtime))
        pushed = desk.push(f"{harbor.host}/app:{number}", Wishes(epoch=1_600_000_000))
        digests.add(pushed.digest)
        desk(lambda storage: storage.reset())
    assert len(digests) == 1
    config = json.loads(harbor.manifests["0"])["config"]["digest"]
    assert json.loads(harbor.blobs["app", config])["created"] == "2020-09-13T12:26:40Z"


def test_another_wish_makes_another_blob(harbor: Harbor, desk: Desk) -> None:
    desk(make({"etc/one": b"1"}))
    first = desk.push(f"{harbor.host}/app:1")
    other = desk.push(f"{harbor.host}/app:2", Wishes("zstd", 3))
    assert first.digest != other.digest
    assert json.loads(harbor.manifests["2"])["layers"][0]["mediaType"].endswith("tar+zstd")
    again = desk.push(f"{harbor.host}/app:3")
    assert again.digest == first.digest


def test_a_big_blob_is_sent_in_one_piece(harbor: Harbor, desk: Desk) -> None:
    desk(make({"big": NOISE}))
    desk.push(f"{harbor.host}/app:1")
    assert len(harbor.sizes("PATCH")) == 1
    assert harbor.sizes("PATCH")[0] > len(NOISE)


@pytest.mark.parametrize("absolute", [False, True])
def test_an_upload_goes_on_where_it_was_cut(absolute: bool, harbor: Harbor, desk: Desk) -> None:
    harbor.absolute = absolute
    cuts = iter([3_000_000, 1_000_000])

    def fault(asked: Asked) -> Reply | None:
        if asked.method != "PATCH" or (size := next(cuts, None)) is None:
            return None
        harbor.honest(asked._replace(body=asked.body[:size]))
        return RESET

    harbor.fault = fault
    desk(make({"big": NOISE}))
    desk.push(f"{harbor.host}/app:1")
    full, second, third = harbor.sizes("PATCH")
    assert (full - second, second - third) == (3_000_000, 1_000_000)
    ranges = [a.headers.get("content-range") for a in harbor.asked if a.method == "PATCH"]
    assert ranges == [None, f"3000000-{full - 1}", f"4000000-{full - 1}"]


def test_an_upload_that_is_lost_is_begun_anew(harbor: Harbor, desk: Desk) -> None:
    first = iter([True])

    def fault(asked: Asked) -> Reply | None:
        if asked.method == "PATCH" and next(first, False):
            harbor.uploads.clear()
            harbor.uploads["taken"] = b""
            return RESET
        return None

    harbor.fault = fault
    desk(make({"big": NOISE}))
    desk.push(f"{harbor.host}/app:1")
    assert len(harbor.layers()) == 1


def test_a_registry_that_refuses_big_requests_gets_smaller_ones(
    harbor: Harbor, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "PIECE", 1 << 20)
    limit = 2 << 20

    def fault(asked: Asked) -> Reply | None:
        return Reply(413) if len(asked.body) > limit else None

    harbor.fault = fault
    desk(make({"big": NOISE}))
    desk.push(f"{harbor.host}/app:1")
    assert set(harbor.sizes("PATCH")[1:-1]) == {1 << 20}


def test_a_registry_that_takes_less_than_it_is_given_gets_the_rest(
    harbor: Harbor, desk: Desk
) -> None:
    def fault(asked: Asked) -> Reply | None:
        if asked.method == "PATCH" and len(asked.body) > 4_000_000:
            return harbor.honest(asked._replace(body=asked.body[:4_000_000]))
        return None

    harbor.fault = fault
    desk(make({"big": NOISE}))
    desk.push(f"{harbor.host}/app:1")
    assert len(harbor.sizes("PATCH")) == 2


@pytest.mark.parametrize(
    ("method", "status", "message"),
    [("POST", 403, "denies access"), ("POST", 401, "unauthorized"), ("PATCH", 500, "answers 500"),
     ("PUT", 400, "not in the registry"), ("POST", 202, "where to upload")],
)  # fmt: skip
def test_a_refused_push_leaves_the_tag(
    method: str, status: int, message: str, harbor: Harbor, desk: Desk
) -> None:
    harbor.fault = lambda asked: Reply(status) if asked.method == method else None
    desk(make({"big": NOISE}))
    with pytest.raises(RegistryError, match=message):
        desk.push(f"{harbor.host}/app:1")
    assert "1" not in harbor.manifests


def test_an_upload_elsewhere_over_plain_http_is_refused(harbor: Harbor, desk: Desk) -> None:
    away = Reply(202, headers={"Location": "http://thief.example/upload"})
    harbor.fault = lambda asked: away if asked.method == "POST" else None
    desk(make({"etc/one": b"1"}))
    with pytest.raises(RegistryError, match="plain HTTP"):
        desk.push(f"{harbor.host}/app:1")


@pytest.mark.parametrize(
    ("text", "result"),
    [("gzip", ("gzip", 1)), ("zstd", ("zstd", 3)), ("gzip:9", ("gzip", 9)),
     ("zstd:19", ("zstd", 19))],
)  # fmt: skip
def test_compressions_are_read(text: str, result: tuple[str, int]) -> None:
    assert parse_compression(text) == result


@pytest.mark.parametrize("text", ["", "lzma", "gzip:", "gzip:0", "zstd:20", "gzip:x", "zstd:-1"])
def test_other_compressions_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_compression(text)


# -- with a real registry, and skopeo as referee --


@pytest.mark.registry
def test_a_pulled_image_keeps_its_digest_when_pushed(
    registry: world.Registry, base_image: str, desk: Desk
) -> None:
    def work(storage: Storage) -> str:
        image = pull(parse_ref(base_image), storage, Registries())
        storage.images.put(image._replace(ref=parse_ref("app")))
        assert image.manifest is not None
        return image.manifest.digest

    pulled = desk(work)
    pushed = desk.push(f"{registry.host}/pushed/copy:1")
    assert pushed.digest == pulled
    assert pushed.mounted == 2  # from the repository that it was pulled from
    assert digest(registry.get("pushed/copy/manifests/1", OCI_MANIFEST)) == pulled


@pytest.mark.registry
@pytest.mark.parametrize("wishes", [Wishes(), Wishes("zstd", 3)])
def test_skopeo_takes_what_we_push(
    wishes: Wishes, registry: world.Registry, desk: Desk, tmp_path: Path
) -> None:
    desk(make({"big": NOISE + os.urandom(1000)}, {"etc/two": b"2"}))
    name = f"{registry.host}/pushed/{wishes.compression}:1"
    pushed = desk.push(name, wishes)
    layout, nobody = tmp_path / "layout", tmp_path / "auth.json"
    nobody.write_text("{}")
    done = subprocess.run(
        [world.program("skopeo"), "--insecure-policy", "copy", "--src-tls-verify=false",
         f"--authfile={nobody}", f"docker://{name}", f"oci:{layout}:1"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (entry,) = json.loads((layout / "index.json").read_text())["manifests"]
    assert entry["digest"] == pushed.digest
    again = desk.push(name, wishes)
    assert again.unchanged
