"""Uploads by the distribution specification: how requests must look, what may be answered."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
from harbor import Harbor, digest
from wildserver import Asked, Reply

from ch_image.errors import ChError, ImageError, RegistryError
from ch_image.model.digest import digest_of
from ch_image.model.oci import OCI_INDEX, OCI_MANIFEST, Descriptor, parse_manifest
from ch_image.registry import referrers, upload
from ch_image.registry.client import RegistryClient
from ch_image.registry.tls import Network
from ch_image.registry.upload import Sent, Uploader
from ch_image.report import Event, Warned

SMALL = b"small"
MIDDLE = os.urandom(1 << 20)
BIG = os.urandom(5 << 20)


class Quay:
    """An uploader to `app` of the harbor, and what was reported."""

    def __init__(self, harbor: Harbor) -> None:
        self.harbor = harbor
        self.events: list[Event] = []
        self.client = RegistryClient(harbor.host, Network(backoff=0), report=self.events.append)
        self.uploader = Uploader(self.client, "app")

    def send(self, data: bytes, *mounts: str) -> Sent:
        def source(start: int) -> Generator[bytes, None, None]:
            for at in range(start, len(data), 1 << 18):
                yield data[at : at + (1 << 18)]

        blob = Descriptor("", digest_of(data), len(data))
        sent = self.uploader.blob(blob, source, mounts)
        assert self.harbor.blobs["app", digest(data)] == data
        return sent

    def asked(self, method: str) -> list[Asked]:
        return [asked for asked in self.harbor.asked if asked.method == method]

    def warned(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Warned)]


@pytest.fixture
def quay() -> Iterator[Quay]:
    with Harbor() as harbor:
        yield Quay(harbor)


def first(method: str, reply: Reply) -> Callable[[Asked], Reply | None]:
    """Answer the first such request with `reply`."""
    left = [reply]
    return lambda asked: left.pop() if asked.method == method and left else None


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("data", [SMALL, MIDDLE, BIG], ids=["small", "middle", "big"])
def test_requests_are_as_the_specification_writes_them(
    data: bytes, absolute: bool, quay: Quay
) -> None:
    quay.harbor.absolute = absolute
    assert quay.send(data) == Sent("sent", len(data))
    post, *_ = quay.asked("POST")
    assert int(post.headers["content-length"]) == (len(data) if data is SMALL else 0)
    assert post.path == "/v2/app/blobs/uploads/"
    put, *_ = quay.asked("PUT")
    assert put.query == {"state": ["x"], "digest": [digest(data)]}  # the Location's query is kept
    for asked in [post, put, *quay.asked("PATCH")]:
        assert asked.headers["content-type"] == "application/octet-stream"
        assert int(asked.headers["content-length"]) == len(asked.body)
    assert [len(asked.body) for asked in quay.asked("PATCH")] == (
        [len(data)] if data is BIG else []
    )


def test_pieces_come_in_order_and_say_where_they_belong(
    quay: Quay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "PIECE", 2_000_000)
    quay.harbor.fault = first("PATCH", Reply(413))
    quay.send(BIG)
    ranges = [asked.headers.get("content-range", "") for asked in quay.asked("PATCH")][1:]
    assert ranges == ["0-1999999", "2000000-3999999", "4000000-5242879"]
    assert not quay.asked("PUT")[0].body


def test_a_registrys_least_piece_is_kept_to(quay: Quay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "PIECE", 1_000_000)
    too_big = first("PATCH", Reply(413))

    def fault(asked: Asked) -> Reply | None:
        if asked.method == "POST":
            answer = quay.harbor.honest(asked)
            return answer._replace(headers={**answer.headers, "OCI-Chunk-Min-Length": "3000000"})
        return too_big(asked)

    quay.harbor.fault = fault
    quay.send(BIG)
    assert [len(asked.body) for asked in quay.asked("PATCH")][1:] == [3_000_000, 2_242_880]


def test_where_states_differ_the_registry_is_asked_where_it_stands(
    quay: Quay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """416 to a piece that it has taken already: the GET tells, and the rest follows."""
    monkeypatch.setattr(upload, "PIECE", 2_000_000)
    seen = 0

    def fault(asked: Asked) -> Reply | None:
        nonlocal seen
        if asked.method != "PATCH":
            return None
        seen += 1
        if seen == 1:
            return Reply(413)
        if seen == 3:
            quay.harbor.honest(asked)
            return Reply(416)
        return None

    quay.harbor.fault = fault
    quay.send(BIG)
    assert len(quay.asked("GET")) == 1
    assert quay.asked("PATCH")[-1].headers["content-range"] == "4000000-5242879"


def test_a_registry_that_never_agrees_is_given_up(quay: Quay) -> None:
    quay.harbor.fault = lambda asked: Reply(416) if asked.method == "PATCH" else None
    with pytest.raises(RegistryError, match="expects another part"):
        quay.send(BIG)
    assert len(quay.asked("PATCH")) <= 25


def test_a_lost_upload_is_begun_anew(quay: Quay) -> None:
    quay.harbor.fault = first("PATCH", Reply(404))
    quay.send(BIG)
    assert len(quay.asked("POST")) == 2


def test_an_upload_that_is_given_up_is_cancelled(quay: Quay) -> None:
    quay.harbor.fault = lambda asked: Reply(403) if asked.method == "PUT" else None
    with pytest.raises(RegistryError, match="denies access"):
        quay.send(MIDDLE)
    assert len(quay.asked("DELETE")) == 1
    assert quay.harbor.uploads == {}


def test_that_cancelling_fails_is_no_fault(quay: Quay) -> None:
    quay.harbor.fault = lambda a: Reply(403) if a.method in ("PUT", "DELETE") else None
    with pytest.raises(RegistryError, match="denies access"):
        quay.send(MIDDLE)


def test_a_blob_that_is_there_is_not_sent(quay: Quay) -> None:
    quay.harbor.blobs["app", digest(SMALL)] = SMALL
    assert quay.send(SMALL) == Sent("present", 0)
    assert [asked.method for asked in quay.harbor.asked] == ["HEAD"]


def test_a_mount_names_digest_and_neighbour(quay: Quay) -> None:
    quay.harbor.blobs["other/one", digest(SMALL)] = SMALL
    assert quay.send(SMALL, "other/one") == Sent("mounted", 0)
    assert quay.asked("POST")[0].query == {"mount": [digest(SMALL)], "from": ["other/one"]}


@pytest.mark.parametrize("data", [SMALL, BIG], ids=["small", "big"])
def test_a_mount_that_begins_an_upload_is_gone_on_with(data: bytes, quay: Quay) -> None:
    assert quay.send(data, "other", "another") == Sent("sent", len(data))
    assert len(quay.asked("POST")) == 2
    assert len(quay.asked("DELETE")) == 1  # the first of the two uploads is not needed
    assert quay.harbor.uploads == {}


def test_a_mount_after_an_upload_was_begun_leaves_none(quay: Quay) -> None:
    quay.harbor.blobs["another", digest(SMALL)] = SMALL
    assert quay.send(SMALL, "other", "another") == Sent("mounted", 0)
    assert quay.harbor.uploads == {}


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 500])
def test_a_refused_mount_is_no_fault(status: int, quay: Quay) -> None:
    quay.harbor.fault = lambda asked: Reply(status) if "mount" in asked.query else None
    assert quay.send(SMALL, "other") == Sent("sent", len(SMALL))


def manifest(**more: object) -> bytes:
    def about(data: bytes, kind: str) -> dict[str, object]:
        return {"mediaType": kind, "digest": digest(data), "size": len(data)}

    return json.dumps({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": about(SMALL, "application/vnd.example.config"), "layers": [], **more,
    }).encode()  # fmt: skip


def test_a_manifest_is_put_as_what_it_says_it_is(quay: Quay) -> None:
    quay.uploader.manifest("1", manifest(), OCI_MANIFEST)
    put = quay.asked("PUT")[0]
    assert put.path == "/v2/app/manifests/1"
    assert put.headers["content-type"] == OCI_MANIFEST
    assert put.body == manifest()


def test_what_is_manifest_and_index_at_once_is_refused() -> None:
    raw = manifest(manifests=[])
    for kind in (OCI_MANIFEST, OCI_INDEX):
        with pytest.raises(ImageError, match="an index as well"):
            parse_manifest(raw, kind)


SUBJECT = {"mediaType": OCI_MANIFEST, "digest": digest(b"subject"), "size": 7}
TAG = digest(b"subject").replace(":", "-")


def note(quay: Quay, raw: bytes) -> list[dict[str, Any]]:
    """Note a manifest that was pushed; what is listed then."""
    referrers.note(quay.client, "app", raw, OCI_MANIFEST, quay.events.append)
    listed: list[dict[str, Any]] = json.loads(quay.harbor.manifests[TAG])["manifests"]
    return listed


def test_a_manifest_about_another_is_listed_where_the_registry_does_not(quay: Quay) -> None:
    one = manifest(subject=SUBJECT, annotations={"a": "b"})
    two = manifest(subject=SUBJECT, artifactType="x/y")
    assert note(quay, one) == [{
        "mediaType": OCI_MANIFEST, "digest": digest(one), "size": len(one),
        "artifactType": "application/vnd.example.config", "annotations": {"a": "b"},
    }]  # fmt: skip
    assert [entry["artifactType"] for entry in note(quay, two)][1] == "x/y"
    assert len(note(quay, one)) == 2  # never twice
    puts = quay.asked("PUT")
    assert len(puts) == 2
    assert puts[0].headers["content-type"] == OCI_INDEX


def test_an_impostor_under_the_tag_of_referrers_is_left_alone(quay: Quay) -> None:
    quay.harbor.manifests[TAG] = manifest()
    referrers.note(quay.client, "app", manifest(subject=SUBJECT), OCI_MANIFEST, quay.events.append)
    assert "left alone" in quay.warned()[0]
    assert quay.harbor.manifests[TAG] == manifest()


@pytest.mark.parametrize("subject", [None, [], {}, {"digest": "../../x"}, {"digest": 7}])
def test_a_subject_that_is_none_is_passed_over(subject: object, quay: Quay) -> None:
    referrers.note(quay.client, "app", manifest(subject=subject), OCI_MANIFEST, quay.events.append)
    assert quay.harbor.asked == []


def test_warnings_are_told_once_and_do_nothing_else(quay: Quay) -> None:
    header = '299 - "going \\"away\\" soon", 299 - "and \x1b[31mred"'
    quay.harbor.fault = lambda asked: quay.harbor.honest(asked)._replace(
        headers={**quay.harbor.honest(asked).headers, "Warning": header}
    ) if asked.method == "HEAD" else None  # fmt: skip
    quay.send(SMALL)
    quay.send(MIDDLE)
    host = quay.harbor.host
    assert quay.warned() == [
        f'{host} says: going "away" soon', f"{host} says: and \\x1b[31mred"
    ]  # fmt: skip


def test_names_and_ranges_have_the_form_that_is_asked_for() -> None:
    assert re.fullmatch(
        r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", referrers.tag_of("sha512:" + "f" * 128)
    )
    assert referrers.tag_of("no digest") == ""


@pytest.mark.parametrize("where", ["", "http://example.com/x", "ftp://x/", "//[", "http://u:p@x/"])
def test_a_place_for_uploads_that_cannot_be_is_refused(where: str, quay: Quay) -> None:
    headers = {"Location": where} if where else {}
    quay.harbor.fault = lambda a: Reply(202, headers=headers) if a.method == "POST" else None
    with pytest.raises(ChError):
        quay.send(MIDDLE)
    assert quay.harbor.uploads == {}
