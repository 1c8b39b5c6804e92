"""Manifests, blobs and tags from registries that keep to no rule."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from wildserver import RESET, Asked, Reply, Wild, serving

from ch_image.errors import ChError, ImageError, RegistryError
from ch_image.model.digest import digest_of
from ch_image.model.oci import OCI_LAYER, Descriptor
from ch_image.registry.answers import next_link
from ch_image.registry.client import RegistryClient
from ch_image.registry.response import Broken
from ch_image.registry.tls import Network

MANIFEST = b'{"schemaVersion": 2, "layers": []}'
BLOB = bytes(range(256)) * 20_000  # 5 MB


def client(wild: Wild, **options: object) -> RegistryClient:
    return RegistryClient(wild.host, Network(backoff=0, **options))  # type: ignore[arg-type]


def blob(data: bytes = BLOB, size: int | None = None) -> Descriptor:
    return Descriptor(OCI_LAYER, digest_of(data), len(data) if size is None else size)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, MANIFEST),
        Reply(200, MANIFEST, {"Content-Type": "text/html; charset=utf-8"}),
        Reply(200, MANIFEST, {"Content-Type": ""}),
        Reply(200, MANIFEST, length=None),
        Reply(200, MANIFEST, chunked=True),
        Reply(200, MANIFEST, {"Docker-Content-Digest": "nonsense"}),
        Reply(200, MANIFEST, {"Docker-Content-Digest": digest_of(MANIFEST)}),
    ],
)
def test_a_manifest_comes_however_it_is_labelled(reply: Reply) -> None:
    with serving({"/v2/app/manifests/1": reply}) as wild:
        found = client(wild).get_manifest("app", "1")
    assert found.raw == MANIFEST
    assert found.digest == digest_of(MANIFEST)


def test_what_we_take_is_said() -> None:
    with serving({"/v2/app/manifests/1": Reply(200, MANIFEST)}) as wild:
        client(wild).get_manifest("app", "1")
    accept = wild.asked[0].headers["accept"]
    for kind in ("image.index.v1", "image.manifest.v1", "manifest.list.v2", "manifest.v2"):
        assert kind in accept


@pytest.mark.parametrize("reference", ["1", digest_of(b"what was asked for")])
def test_a_manifest_that_is_another_is_refused(reference: str) -> None:
    lying = Reply(200, MANIFEST, {"Docker-Content-Digest": digest_of(b"what was asked for")})
    with serving({f"/v2/app/manifests/{reference}": lying}) as wild, pytest.raises(ImageError):
        client(wild).get_manifest("app", reference)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(404), "not in the registry: 127.0.0.1:PORT/app:1"),
        (Reply(400), "not in the registry"),
        (Reply(401), "unauthorized, or not in the registry"),
        (Reply(403), "denies access"),
        (Reply(418), "answers 418"),
        (Reply(500), "answers 500"),
        (Reply(429), "limits how often"),
        (Reply(404, b'{"errors":[{"code":"NAME_UNKNOWN","message":"no \\u001b[31m such"}]}'),
         r"NAME_UNKNOWN no \\x1b[31m such"),
        (Reply(404, b"<html>"), "not in the registry: 127.0.0.1:PORT/app:1"),
        (Reply(404, b'{"errors": 3}'), "not in the registry"),
        (Reply(404, b"[" * 1000), "not in the registry"),
        (Reply(404, b"x" * 70_000, endless=True), "not in the registry"),
        (Reply(200, b"x" * 65_536, endless=True), "larger than"),
        (Reply(200, b"x" * (5 << 20)), "larger than"),
        (Reply(302), "answers 302"),
    ],
)  # fmt: skip
def test_a_refusal_is_one_clear_line(reply: Reply, message: str) -> None:
    with serving({"/v2/app/manifests/1": reply}) as wild:
        with pytest.raises(RegistryError) as caught:
            client(wild).get_manifest("app", "1")
        text = str(caught.value)
        assert message.replace("\\\\", "\\").replace("PORT", wild.host.split(":")[1]) in text
        assert text.isprintable()


def in_turn(*replies: Reply) -> Callable[[Asked], Reply]:
    left = iter(replies)
    return lambda asked: next(left, replies[-1])


def test_a_manifest_that_is_cut_short_is_asked_for_again() -> None:
    cut = Reply(200, MANIFEST, cut=5)
    with serving({"/v2/app/manifests/1": in_turn(cut, cut, Reply(200, MANIFEST))}) as wild:
        assert client(wild).get_manifest("app", "1").raw == MANIFEST
    with serving({"/v2/app/manifests/1": cut}) as wild, pytest.raises(Broken):
        client(wild).get_manifest("app", "1")


@pytest.mark.parametrize(
    "reply",
    [Reply(404), Reply(405), Reply(200), Reply(401),
     Reply(200, headers={"Docker-Content-Digest": "sha256:../../x"})],
)  # fmt: skip
def test_a_head_that_tells_nothing_is_no_fault(reply: Reply) -> None:
    with serving({"/v2/app/manifests/1": reply}) as wild:
        assert client(wild).head_manifest("app", "1") is None


# -- blobs --

PATH = f"/v2/app/blobs/{digest_of(BLOB)}"


def ranged(asked: Asked, cut: int | None) -> Reply:
    """What a good server says to Range; then the connection is cut."""
    match = re.fullmatch(r"bytes=(\d+)-", asked.headers.get("range", ""))
    start = int(match.group(1)) if match else 0
    headers = {"Content-Range": f"bytes {start}-{len(BLOB) - 1}/{len(BLOB)}"} if start else {}
    return Reply(206 if start else 200, BLOB[start:], headers, cut=cut)


@pytest.mark.parametrize(
    "reply", [Reply(200, BLOB), Reply(200, BLOB, length=None), Reply(200, BLOB, chunked=True),
              Reply(200, BLOB, {"Content-Encoding": "gzip"}), Reply(200, BLOB, endless=True)]
)  # fmt: skip
def test_a_blob_is_the_bytes_on_the_wire(reply: Reply) -> None:
    with serving({PATH: reply}) as wild:
        assert b"".join(client(wild).read_blob("app", blob())) == BLOB


def test_a_blob_goes_on_where_it_was_cut() -> None:
    cuts = iter([2_000_000, 1_500_000, 1_200_000, None])
    with serving({PATH: lambda asked: ranged(asked, next(cuts))}) as wild:
        assert b"".join(client(wild).read_blob("app", blob())) == BLOB
    starts = [int(asked.headers.get("range", "bytes=0-")[6:-1]) for asked in wild.asked]
    assert starts == sorted(starts)
    assert starts[0] == 0 < starts[1] <= 2_000_000


def test_a_blob_goes_on_where_ranges_are_not_known() -> None:
    whole = in_turn(Reply(200, BLOB, cut=3_000_000), Reply(200, BLOB))
    with serving({PATH: whole}) as wild:
        assert b"".join(client(wild).read_blob("app", blob())) == BLOB


def test_a_blob_can_be_begun_in_the_middle() -> None:
    with serving({PATH: lambda asked: ranged(asked, None)}) as wild:
        assert b"".join(client(wild).read_blob("app", blob(), 4_000_000)) == BLOB[4_000_000:]


def test_a_blob_that_is_always_cut_is_given_up() -> None:
    with serving({PATH: lambda asked: ranged(asked, 10)}) as wild, pytest.raises(Broken):
        b"".join(client(wild).read_blob("app", blob()))
    assert len(wild.asked) == 5


@pytest.mark.parametrize("size", [len(BLOB) - 1, len(BLOB) + 1, 1])
def test_a_blob_of_another_size_is_refused_before_it_is_read(size: int) -> None:
    with serving({PATH: Reply(200, BLOB)}) as wild, pytest.raises(ImageError, match="offers"):
        next(client(wild).read_blob("app", blob(size=size)))


def test_a_part_that_was_not_asked_for_is_refused() -> None:
    wrong = Reply(206, BLOB[:9], {"Content-Range": "bytes 4500000-4500008/5120000"})
    with serving({PATH: wrong}) as wild, pytest.raises(ImageError):
        next(client(wild).read_blob("app", blob(), 4_000_000))


def test_an_empty_blob_is_not_asked_for() -> None:
    with serving({}) as wild:
        assert list(client(wild).read_blob("app", blob(b""))) == []
    assert not wild.asked


def test_a_config_is_checked_and_bounded() -> None:
    config = blob(b"{}")
    with serving({f"/v2/app/blobs/{config.digest}": Reply(200, b"[]")}) as wild:
        with pytest.raises(ImageError, match="damaged"):
            client(wild).get_document("app", config, "the config")
        with pytest.raises(ImageError, match="larger than 4 MiB"):
            client(wild).get_document("app", config._replace(size=5 << 20), "the config")
    assert len(wild.asked) == 1


# -- tags --


def test_tags_are_gathered_over_pages() -> None:
    def page(asked: Asked) -> Reply:
        last = int(asked.query.get("last", ["0"])[0])
        body = json.dumps({"name": "app", "tags": [f"v{last}", f"v{last + 1}"]}).encode()
        link = {"Link": f'</v2/app/tags/list?last={last + 2}&n=2>; rel="next"'}
        return Reply(200, body, link if last < 6 else {})

    with serving({"/v2/app/tags/list": page}) as wild:
        assert client(wild).tags("app") == [f"v{n}" for n in range(8)]


@pytest.mark.parametrize("body", [b"{}", b'{"tags": null}', b'{"tags": []}'])
def test_a_repository_may_have_no_tags(body: bytes) -> None:
    with serving({"/v2/app/tags/list": Reply(200, body)}) as wild:
        assert client(wild).tags("app") == []


@pytest.mark.parametrize("link", ["http://127.0.0.1:1/v2/app/tags/list", "//other.example/", "//["])
def test_a_list_of_tags_that_goes_on_elsewhere_is_refused(link: str) -> None:
    reply = Reply(200, b'{"tags": ["a"]}', {"Link": f'<{link}>; rel="next"'})
    with serving({"/v2/app/tags/list": reply}) as wild, pytest.raises(RegistryError):
        client(wild).tags("app")


def test_a_list_of_tags_without_end_ends() -> None:
    reply = Reply(200, b'{"tags": []}', {"Link": '</v2/app/tags/list>; rel="next"'})
    with serving({"/v2/app/tags/list": reply}) as wild:
        assert client(wild).tags("app") == []
    assert len(wild.asked) == 1000


@pytest.mark.parametrize(
    ("header", "target"),
    [("", ""), ('<a>; rel="next"', "a"), ("<a>; rel=next", "a"), ('<a>; rel="prev"', ""),
     ('<a>; rel="prev", <b?x=1,2>; title="t"; rel="next"', "b?x=1,2"), ("garbage", "")],
)  # fmt: skip
def test_the_next_page_is_found(header: str, target: str) -> None:
    assert next_link(header) == target


def test_a_registry_that_never_answers_is_an_error() -> None:
    with Wild(lambda asked: RESET) as wild, pytest.raises(ChError, match="cut the connection"):
        client(wild).get_manifest("app", "1")
    assert len(wild.asked) == 5
