"""Requests: what is tried again, followed, refused, bounded and kept to oneself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from wildserver import RESET, Asked, Reply, Wild, certificate

from ch_image.errors import RegistryError
from ch_image.registry.response import Broken
from ch_image.registry.tls import Network, is_loopback, proxy_for, speaks_plain
from ch_image.registry.transport import NotTLS, Origin, Transport, origin_of, retry_after
from ch_image.report import Detail, Event


class Waits:
    """Stands for the clock's sleep: notes how long, and doesn't."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.fixture
def waits() -> Waits:
    return Waits()


def transport(wild: Wild, waits: Waits, **options: object) -> Transport:
    return Transport(Network(**options), wild.host, sleep=waits)  # type: ignore[arg-type]


def in_turn(*replies: Reply) -> Callable[[Asked], Reply]:
    """Each reply once, the last one for ever."""
    left: Iterator[Reply] = iter(replies)
    last = replies[-1]
    return lambda asked: next(left, last)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificate(tmp_path_factory.mktemp("keys"))


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again_with_growing_waits(status: int, waits: Waits) -> None:
    with Wild(in_turn(Reply(status), Reply(status), Reply(200, b"at last"))) as wild:
        answer = transport(wild, waits).send("GET", wild.url)
        assert answer.read(100, "it") == b"at last"
    assert waits.seconds == [0.5, 1.0]


def test_a_server_that_stays_busy_is_asked_five_times(waits: Waits) -> None:
    with Wild(in_turn(Reply(503))) as wild:
        assert transport(wild, waits).send("GET", wild.url).status == 503
    assert len(wild.asked) == 5


def test_a_reset_connection_is_tried_again(waits: Waits) -> None:
    with Wild(in_turn(RESET, RESET, Reply(200, b"yes"))) as wild:
        assert transport(wild, waits).send("GET", wild.url).read(100, "it") == b"yes"
    assert len(wild.asked) == 3


def test_a_post_is_sent_once(waits: Waits) -> None:
    with Wild(in_turn(RESET)) as wild, pytest.raises(Broken):
        transport(wild, waits).send("POST", wild.url, body=b"order")
    assert [asked.body for asked in wild.asked] == [b"order"]
    with Wild(in_turn(Reply(503))) as wild:
        transport(wild, waits).send("POST", wild.url, body=b"order")
    assert len(wild.asked) == 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7", 7), ("3600", 60), ("0", 0), ("", None), ("soon", None), ("-3", None), ("٣", None),
     ("Thu, 01 Jan 1970 00:16:50 GMT", 10), ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
     ("Fri, 31 Dec 9999 23:59:59 GMT", 60), ("9" * 5000, 60)],
)  # fmt: skip
def test_retry_after_is_read_and_capped(text: str, seconds: float | None) -> None:
    assert retry_after(text, now=1000) == seconds


def test_the_wait_is_the_one_asked_for(waits: Waits) -> None:
    with Wild(in_turn(Reply(429, headers={"Retry-After": "9999"}), Reply(200))) as wild:
        transport(wild, waits).send("GET", wild.url)
    assert waits.seconds == [60]


def test_silence_ends_a_request_after_two_tries(waits: Waits) -> None:
    def slow(asked: Asked) -> Reply:
        time.sleep(1)
        return Reply()

    with Wild(slow) as wild, pytest.raises(RegistryError, match="did not answer within 0.1 s"):
        transport(wild, waits, read_timeout=0.1).send("GET", wild.url)
    assert len(wild.asked) == 2


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_drips_is_given_up(chunked: bool, waits: Waits) -> None:
    """Each byte comes in time, and all of them never would."""
    body = bytes(200)
    with Wild(lambda asked: Reply(200, body, drip=0.02, length=None if chunked else -1)) as wild:
        answer = transport(wild, waits, read_timeout=0.2).send("GET", wild.url)
        with pytest.raises(Broken, match="next to nothing"):
            answer.read(1000, "it")


def test_five_redirects_are_followed_and_no_more(waits: Waits) -> None:
    def lead(asked: Asked) -> Reply:
        number = int(asked.path[1:])
        return Reply(200) if number == 0 else Reply(307, headers={"Location": f"/{number - 1}"})

    with Wild(lead) as wild:
        assert transport(wild, waits).send("GET", f"{wild.url}/5").status == 200
        with pytest.raises(RegistryError, match="more than 5 redirects"):
            transport(wild, waits).send("GET", f"{wild.url}/6")
    assert len(wild.asked) == 12


def test_authorization_stays_with_its_origin(waits: Waits) -> None:
    with Wild(in_turn(Reply(200))) as other:
        away = Reply(307, headers={"Location": f"{other.url}/blob?signed=1"})
        with Wild(lambda asked: away) as wild:
            home = origin_of(wild.url)
            transport(wild, waits).send(
                "GET", wild.url, authorize=lambda to: "Bearer secret" if to == home else ""
            )
    assert wild.asked[0].headers["authorization"] == "Bearer secret"
    assert "authorization" not in other.asked[0].headers
    assert other.asked[0].query == {"signed": ["1"]}


@pytest.mark.parametrize(
    "place",
    ["http://registry.example/x", "ftp://registry.example/x", "file:///etc/passwd",
     "https://user:word@registry.example/", "//", "http://[::1", "https://host:99999/"],
)  # fmt: skip
def test_a_redirect_to_elsewhere_is_refused(place: str, waits: Waits) -> None:
    with (
        Wild(in_turn(Reply(302, headers={"Location": place}))) as wild,
        pytest.raises(RegistryError),
    ):
        transport(wild, waits).send("GET", wild.url)


def test_a_redirect_never_leaves_tls(keys: Path, waits: Waits) -> None:
    with Wild(in_turn(Reply(200))) as plain:
        away = Reply(302, headers={"Location": plain.url})
        with (
            Wild(lambda asked: away, tls=keys) as wild,
            pytest.raises(RegistryError, match="plain HTTP"),
        ):
            transport(wild, waits, ca_bundle=str(keys / "ca.crt")).send("GET", wild.url)
    assert not plain.asked


def test_plain_http_is_for_loopback(waits: Waits) -> None:
    remote = Transport(Network(), "registry.example")
    with pytest.raises(RegistryError, match="plain HTTP") as caught:
        remote.send("GET", "http://registry.example/v2/")
    assert "--tls-no-verify" in caught.value.hint


@pytest.mark.parametrize("limit", [0, 10, 70_000])
def test_an_endless_body_is_read_to_the_limit(limit: int, waits: Waits) -> None:
    with Wild(in_turn(Reply(200, b"x" * 65536, endless=True))) as wild:
        answer = transport(wild, waits).send("GET", wild.url)
        with pytest.raises(RegistryError, match="larger than"):
            answer.read(limit, "it")
        answer = transport(wild, waits).send("GET", wild.url)
        assert sum(map(len, answer.chunks(limit))) == limit
        answer.close()


def test_an_endless_redirect_is_not_read(waits: Waits) -> None:
    def lead(asked: Asked) -> Reply:
        if asked.path == "/there":
            return Reply(200, b"here")
        return Reply(302, b"x" * 65536, {"Location": "/there"}, endless=True)

    with Wild(lead) as wild:
        assert transport(wild, waits).send("GET", f"{wild.url}/").read(9, "it") == b"here"


def test_a_header_without_end_is_an_error(waits: Waits) -> None:
    with (
        Wild(in_turn(Reply(200, headers={"X": "y" * 200_000}))) as wild,
        pytest.raises(RegistryError),
    ):
        transport(wild, waits).send("GET", wild.url)


def test_a_short_body_is_noticed(waits: Waits) -> None:
    with Wild(in_turn(Reply(200, b"x" * 1000, cut=500))) as wild:
        answer = transport(wild, waits).send("GET", wild.url)
        with pytest.raises(Broken, match="in the middle"):
            list(answer.chunks(1000))


def test_a_compressed_document_is_bounded_too(waits: Waits) -> None:
    import gzip

    bomb = Reply(200, gzip.compress(b"x" * 10_000_000), {"Content-Encoding": "gzip"})
    with Wild(in_turn(bomb)) as wild:
        assert len(transport(wild, waits).send("GET", wild.url).read(1 << 24, "it")) == 10_000_000
        with pytest.raises(RegistryError, match="larger than 1024 KiB"):
            transport(wild, waits).send("GET", wild.url).read(1 << 20, "it")


def test_connections_are_used_again(waits: Waits) -> None:
    ports: set[int] = set()
    with Wild(in_turn(Reply(200, b"x"))) as wild:
        serve = wild.serve
        wild.serve = lambda h: (ports.add(h.client_address[1]), serve(h))  # type: ignore
        client = transport(wild, waits)
        for method in ("GET", "HEAD", "GET", "PUT", "GET"):
            with client.send(method, wild.url, body=b"" if method == "PUT" else None) as answer:
                answer.read(10, "it")
        with client.send("HEAD", wild.url):
            pass
        client.send("GET", wild.url).drain()
    assert len(ports) == 1


def test_queries_are_in_no_event() -> None:
    events: list[Event] = []
    with Wild(in_turn(Reply(200))) as wild:
        Transport(Network(), wild.host, events.append).send("GET", f"{wild.url}/a?token=secret")
    assert [e.text for e in events if isinstance(e, Detail)] == [f"GET {wild.url}/a: 200"]


def test_an_untrusted_certificate_is_refused_with_a_hint(keys: Path, waits: Waits) -> None:
    with Wild(in_turn(Reply(200)), tls=keys) as wild:
        with pytest.raises(RegistryError, match="is not trusted") as caught:
            transport(wild, waits).send("GET", wild.url)
        assert "--cert-dir" in caught.value.hint
        assert not wild.asked
        assert transport(wild, waits, tls_verify=False).send("GET", wild.url).status == 200


def test_authorities_come_from_a_file_or_a_directory(
    keys: Path, waits: Waits, tmp_path: Path
) -> None:
    with Wild(in_turn(Reply(200)), tls=keys) as wild:
        (tmp_path / wild.host).mkdir()
        (tmp_path / wild.host / "a.crt").write_bytes((keys / "ca.crt").read_bytes())
        for options in (
            {"ca_bundle": str(keys / "ca.crt")},
            {"cert_dir": str(tmp_path / wild.host)},
            {"certs_d": ("/nonexistent", str(tmp_path))},
        ):
            assert transport(wild, waits, **options).send("GET", wild.url).status == 200


def test_a_client_certificate_is_shown_to_the_registry_only(
    keys: Path, waits: Waits, tmp_path: Path
) -> None:
    import ssl

    certificate(keys, "client")
    for old, new in (("ca.crt", "ca.crt"), ("client.crt", "me.cert"), ("client.key", "me.key")):
        (tmp_path / new).write_bytes((keys / old).read_bytes())
    with Wild(in_turn(Reply(200)), tls=keys) as picky, Wild(in_turn(Reply(200)), tls=keys) as other:
        picky.context.verify_mode = ssl.CERT_REQUIRED
        picky.context.load_verify_locations(keys / "ca.crt")
        home = transport(picky, waits, cert_dir=str(tmp_path))
        assert home.send("GET", picky.url).status == 200
        elsewhere = transport(other, waits, cert_dir=str(tmp_path))
        with pytest.raises(RegistryError):
            elsewhere.send("GET", picky.url, again=False).read(10, "it")


def test_a_plain_server_is_told_from_one_with_tls(waits: Waits) -> None:
    with Wild(in_turn(Reply(200))) as wild, pytest.raises(NotTLS):
        transport(wild, waits).send("GET", f"https://{wild.host}/")


@pytest.mark.parametrize(
    ("host", "yes"),
    [("localhost", True), ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("[::1]", True),
     ("x.localhost", True), ("localhost.example", False), ("127.0.0.1.example", False),
     ("0.0.0.0", False), ("10.0.0.1", False)],
)  # fmt: skip
def test_loopback_is_told_without_asking_anybody(host: str, yes: bool) -> None:
    assert is_loopback(host) is yes


@pytest.mark.parametrize(
    ("host", "no_proxy", "used"),
    [("registry.example", "", True), ("registry.example", "*", False),
     ("registry.example", "example", False), ("registry.example", ".example", False),
     ("registry.example", "*.example", False), ("registry.example", "stry.example", True),
     ("registry.example", "registry.example:443", False),
     ("registry.example", "registry.example:5000", True),
     ("registry.example", "a.example, registry.example", False),
     ("10.1.2.3", "10.0.0.0/8", False), ("11.1.2.3", "10.0.0.0/8", True),
     ("127.0.0.1", "", False)],
)  # fmt: skip
def test_proxies_are_used_but_for_exceptions(host: str, no_proxy: str, used: bool) -> None:
    proxies = {"https_proxy": "proxy.example:3128", "no_proxy": no_proxy}
    expected = "http://proxy.example:3128" if used else ""
    assert proxy_for("https", host, 443, proxies) == expected
    assert proxy_for("http", host, 443, proxies) == ""


def test_a_proxy_is_asked_for_the_whole_url(waits: Waits) -> None:
    with Wild(in_turn(Reply(200, b"by proxy"))) as wild:
        network = Network(tls_verify=False, proxies={"http_proxy": wild.host})
        client = Transport(network, "registry.example", sleep=waits)
        answer = client.send("GET", "http://registry.example/v2/")
        assert answer.read(100, "it") == b"by proxy"
    assert wild.asked[0].headers["host"] == "registry.example"


def test_origins_tell_ports_and_schemes_apart() -> None:
    assert origin_of("https://Registry.example/x") == Origin("https", "registry.example", 443)
    assert origin_of("http://[::1]:5000/") == Origin("http", "::1", 5000)


def test_plain_servers_are_known_by_their_answer_to_a_greeting(keys: Path) -> None:
    with Wild(lambda asked: Reply()) as plain, Wild(lambda asked: Reply(), tls=keys) as secure:
        ports = [int(wild.host.partition(":")[2]) for wild in (plain, secure)]
        assert [speaks_plain("127.0.0.1", port, 5) for port in ports] == [True, False]
    assert not speaks_plain("127.0.0.1", ports[0], 5)  # nobody listens any more
