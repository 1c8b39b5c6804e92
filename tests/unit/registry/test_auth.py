"""Logging in: what a challenge gets, where secrets go, and where they never go."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from wildserver import Asked, Reply, Wild, certificate

from ch_image.errors import RegistryError
from ch_image.registry.auth import Credential, parse_challenges
from ch_image.registry.client import RegistryClient
from ch_image.registry.credentials import (
    Credentials,
    Sources,
    registry_key,
    remove_login,
    save_login,
)
from ch_image.registry.tls import Network
from ch_image.report import Event

FAST = Network(backoff=0)
PASSWORD = "opensesame"
BASIC = "Basic " + base64.b64encode(b"ali:" + PASSWORD.encode()).decode()
MANIFEST = b'{"schemaVersion":2}'


def client(
    wild: Wild, sources: Sources | None = None, network: Network = FAST
) -> tuple[RegistryClient, list[Event]]:
    events: list[Event] = []
    credentials = Credentials(sources or Sources())
    return RegistryClient(wild.host, network, credentials, events.append), events


ALI = Sources(username="ali", password=PASSWORD, login=True)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('Bearer realm="https://a/t",service="s",scope="repository:x:pull,push"',
         [("bearer", {"realm": "https://a/t", "service": "s", "scope": "repository:x:pull,push"})]),
        ("Basic realm=plain", [("basic", {"realm": "plain"})]),
        ('Basic realm="a \\"quoted\\" word"', [("basic", {"realm": 'a "quoted" word'})]),
        ('Basic realm="x", Bearer realm="y", service="z"',
         [("basic", {"realm": "x"}), ("bearer", {"realm": "y", "service": "z"})]),
        ("Negotiate, Basic realm=x", [("negotiate", {}), ("basic", {"realm": "x"})]),
        ("BEARER REALM=x", [("bearer", {"realm": "x"})]),
        ("", []),
        ("=,=,=", []),
        ('Basic realm=x, Bearer realm="never closed', None),
    ],
)  # fmt: skip
def test_challenges_are_read_as_servers_write_them(
    header: str, expected: list[tuple[str, dict[str, str]]] | None
) -> None:
    found = [tuple(one) for one in parse_challenges(header)]
    assert found == expected if expected is not None else found[0] == ("basic", {"realm": "x"})


def test_basic_is_sent_when_asked_for_and_then_at_once() -> None:
    def answer(asked: Asked) -> Reply:
        if asked.headers.get("authorization") == BASIC:
            return Reply(200, MANIFEST)
        return Reply(401, headers={"WWW-Authenticate": 'Basic realm="here"'})

    with Wild(answer) as wild:
        one, events = client(wild, ALI)
        one.get_manifest("app", "1")
        one.get_manifest("app", "2")
    assert len(wild.asked) == 3
    assert PASSWORD not in repr(events)
    assert BASIC not in repr(events)


def test_the_environments_password_is_kept_back_unless_one_logs_in() -> None:
    refusal = Reply(401, headers={"WWW-Authenticate": 'Basic realm="here"'})
    with Wild(lambda asked: refusal) as wild:
        one, _ = client(wild, ALI._replace(login=False))
        with pytest.raises(RegistryError, match="unauthorized, or not in the registry") as caught:
            one.get_manifest("app", "1")
    assert "--auth" in caught.value.hint
    assert all("authorization" not in asked.headers for asked in wild.asked)


def test_a_wrong_password_is_not_sent_again_and_again() -> None:
    refusal = Reply(401, headers={"WWW-Authenticate": 'Basic realm="here"'})
    with Wild(lambda asked: refusal) as wild, pytest.raises(RegistryError):
        client(wild, ALI)[0].get_manifest("app", "1")
    assert len(wild.asked) <= 3


class TokenServer:
    """Registry and token server in one; tokens name their scopes and their number."""

    def __init__(self, lifetime: int | None = None, key: str = "token") -> None:
        self.lifetime, self.key = lifetime, key
        self.valid: set[str] = set()
        self.realm = ""

    def __call__(self, asked: Asked) -> Reply:
        if asked.path == "/token":
            scopes = asked.query.get("scope") or parse_qs(asked.body.decode()).get("scope", [])
            token = f"{len(self.valid)}-{'+'.join(scopes)}"
            self.valid.add(token)
            value: dict[str, object] = {self.key: token}
            if self.lifetime is not None:
                value["expires_in"] = self.lifetime
            return Reply(200, json.dumps(value).encode())
        if asked.headers.get("authorization", "").removeprefix("Bearer ") in self.valid:
            return Reply(200, MANIFEST)
        want = f'Bearer realm="{self.realm}",service="me",scope="repository:app:pull"'
        return Reply(401, headers={"WWW-Authenticate": want})


@pytest.mark.parametrize("key", ["token", "access_token"])
def test_a_token_is_fetched_once_for_a_scope(key: str) -> None:
    server = TokenServer(key=key)
    with Wild(server) as wild:
        server.realm = f"{wild.url}/token"
        one, events = client(wild)
        for tag in "123":
            one.get_manifest("app", tag)
    assert wild.paths().count("/token") == 1
    assert len(wild.asked) == 5
    assert "authorization" not in wild.asked[1].headers  # anonymous
    assert wild.asked[1].query == {"service": ["me"], "scope": ["repository:app:pull"]}
    assert "0-repository" not in repr(events)


def test_a_token_that_is_no_longer_taken_is_renewed() -> None:
    server = TokenServer()
    with Wild(server) as wild:
        server.realm = f"{wild.url}/token"
        one, _ = client(wild)
        one.get_manifest("app", "1")
        server.valid = {"something", "else"}
        one.get_manifest("app", "2")
    assert wild.paths().count("/token") == 2


def test_a_larger_scope_gets_a_token_of_its_own() -> None:
    server = TokenServer()
    with Wild(server) as wild:
        server.realm = f"{wild.url}/token"
        one, _ = client(wild, ALI)
        one.get_manifest("app", "1")
        write = frozenset({"repository:app:pull,push"})
        one.request("POST", "app/blobs/uploads/", "app", scopes=write, body=b"")
    tokens = [asked for asked in wild.asked if asked.path == "/token"]
    assert [t.headers.get("authorization") for t in tokens] == [BASIC, BASIC]
    assert "repository:app:pull,push" in tokens[1].query["scope"]


def test_an_identity_token_is_exchanged_by_post(tmp_path: Path) -> None:
    server = TokenServer(key="access_token")
    with Wild(server) as wild:
        server.realm = f"{wild.url}/token"
        path = tmp_path / "auth.json"
        path.write_text(json.dumps({"auths": {wild.host: {"identitytoken": "refresh"}}}))
        path.chmod(0o600)
        client(wild, Sources(files=(str(path),)))[0].get_manifest("app", "1")
    (exchange,) = (asked for asked in wild.asked if asked.path == "/token")
    assert exchange.method == "POST"
    form = parse_qs(exchange.body.decode())
    assert form["grant_type"] == ["refresh_token"]
    assert form["refresh_token"] == ["refresh"]
    assert form["scope"] == ["repository:app:pull"]


def test_a_token_server_without_tls_elsewhere_gets_nothing(tmp_path: Path) -> None:
    keys = certificate(tmp_path)
    with Wild(TokenServer()) as thief:
        want = {"WWW-Authenticate": f'Bearer realm="{thief.url}/token"'}
        with Wild(lambda asked: Reply(401, headers=want), tls=keys) as wild:
            network = FAST._replace(ca_bundle=str(keys / "ca.crt"))
            with pytest.raises(RegistryError, match="without TLS"):
                client(wild, ALI, network)[0].get_manifest("app", "1")
    assert not thief.asked


def test_a_token_server_with_tls_elsewhere_may_have_the_password(tmp_path: Path) -> None:
    keys = certificate(tmp_path)
    server = TokenServer()
    with Wild(server, tls=keys) as tokens, Wild(server, tls=keys) as wild:
        server.realm = f"{tokens.url}/token"
        network = FAST._replace(ca_bundle=str(keys / "ca.crt"))
        client(wild, ALI, network)[0].get_manifest("app", "1")
    assert [asked.headers.get("authorization") for asked in tokens.asked] == [BASIC]


def test_a_token_server_that_redirects_does_not_pass_the_password_on() -> None:
    server = TokenServer()
    with Wild(server) as thief:

        def answer(asked: Asked) -> Reply:
            if asked.path == "/token":
                return Reply(307, headers={"Location": f"{thief.url}/token"})
            return server(asked)

        with Wild(answer) as wild:
            server.realm = f"{wild.url}/token"
            client(wild, ALI)[0].get_manifest("app", "1")
    assert [asked.headers.get("authorization") for asked in thief.asked] == [None]


def test_an_upload_elsewhere_is_not_told_the_token() -> None:
    server = TokenServer()
    with Wild(server) as wild, Wild(lambda asked: Reply(201)) as thief:
        server.realm = f"{wild.url}/token"
        one, _ = client(wild, ALI)
        one.get_manifest("app", "1")
        assert one.request("PUT", f"{thief.url}/upload", "app", body=b"x").status == 201
    assert "authorization" not in thief.asked[0].headers


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b"nonsense", b'{"token": 7}', b'{"token": ""}', b"[" * 100_000,
     b'{"token": "two words"}', b'{"token": "line\\nInjected: yes"}', b'{"token": "\xff"}',
     b'{"token": "' + b"x" * (1 << 21) + b'"}'],
)  # fmt: skip
def test_a_useless_token_is_an_error(body: bytes) -> None:
    server = TokenServer()

    def answer(asked: Asked) -> Reply:
        return Reply(200, body) if asked.path == "/token" else server(asked)

    with Wild(answer) as wild:
        server.realm = f"{wild.url}/token"
        with pytest.raises(RegistryError):
            client(wild)[0].get_manifest("app", "1")


def test_one_time_passwords_are_asked_for_each_time() -> None:
    server = TokenServer()
    given: list[str] = []

    def prompt(registry: str, username: str) -> Credential:
        given.append(registry)
        return Credential("ali", str(len(given)))

    with Wild(server) as wild:
        server.realm = f"{wild.url}/token"
        one, _ = client(wild, Sources(login=True, one_time=True, prompt=prompt))
        one.get_manifest("app", "1")
        server.valid = {"another"}
        one.get_manifest("app", "2")
    sent = [asked.headers["authorization"] for asked in wild.asked if asked.path == "/token"]
    pairs = [base64.b64decode(text.removeprefix("Basic ")) for text in sent]
    assert pairs == [b"ali:1", b"ali:2"]
    assert given == [wild.host, wild.host]


# -- where credentials are found --


@pytest.mark.parametrize(
    ("one", "other"),
    [("docker.io", "https://index.docker.io/v1/"), ("registry-1.docker.io", "docker.io"),
     ("https://r.example", "r.example"), ("https://r.example/v2/", "r.example"),
     ("R.example:5000", "r.example:5000"), ("r.example:443", "r.example")],
)  # fmt: skip
def test_spellings_of_one_registry_agree(one: str, other: str) -> None:
    assert registry_key(one) == registry_key(other)


def auth_file(path: Path, **auths: str) -> Path:
    entries = {
        name.replace("__", "/").replace("_", "."): {
            "auth": base64.b64encode(pair.encode()).decode()
        }
        for name, pair in auths.items()
    }
    path.write_text(json.dumps({"auths": entries}))
    path.chmod(0o600)
    return path


def test_a_namespaces_login_wins_over_its_registrys(tmp_path: Path) -> None:
    path = auth_file(tmp_path / "a", r_example="all:x", r_example__team="team:y:z")
    find = Credentials(Sources(files=("/nonexistent", str(path)))).find
    team = find("r.example", "team/app", False)
    assert team is not None
    assert (team.username, team.password) == ("team", "y:z")
    for repository in ("teams/app", "other"):
        found = find("r.example", repository, False)
        assert found is not None
        assert found.username == "all"
    assert find("r.example.evil", "team/app", False) is None


def test_a_file_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    path = auth_file(tmp_path / "a", r_example="all:x")
    path.chmod(0o644)
    found = Credentials(Sources(files=(str(path),)))
    assert found.find("other.example", "x", False) is None
    with pytest.raises(RegistryError, match="others may read it") as caught:
        found.find("r.example", "x", False)
    assert caught.value.hint == f"chmod 600 {path}"


@pytest.mark.parametrize("text", ["[]", "{", "nul", '{"auths": {"r.example": {"auth": "%%%"}}}'])
def test_a_damaged_auth_file_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(RegistryError, match="config.json"):
        Credentials(Sources(files=(str(path),))).find("r.example", "x", False)


@pytest.mark.parametrize("text", ["", " \n", "{}", '{"auths": {"r.example": {}}}', '{"auths": 3}'])
def test_an_empty_auth_file_is_no_fault(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    assert Credentials(Sources(files=(str(path),))).find("r.example", "x", False) is None


HELPER = """#!/bin/sh
[ "$1" = get ] || exit 3
read server
case $server in
    r.example) echo '{"ServerURL":"r.example","Username":"ali","Secret":"s3cret"}';;
    https://index.docker.io/v1/) echo '{"Username":"<token>","Secret":"identity"}';;
    broken.example) echo nonsense;;
    angry.example) echo no >&2; exit 1;;
    *) echo 'credentials not found in native keychain'; exit 1;;
esac
"""


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "docker-credential-test"
    program.write_text(HELPER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    config = tmp_path / "config.json"
    config.write_text('{"credsStore": "test", "credHelpers": {"own.example": "absent"}}')
    return config


def test_helper_programs_are_asked(helper: Path) -> None:
    warnings: list[str] = []
    find = Credentials(Sources(files=(str(helper),)), warnings.append).find
    assert find("r.example", "x", False) == Credential(
        "ali", "s3cret", source="docker-credential-test"
    )
    hub = find("registry-1.docker.io", "library/x", False)
    assert hub is not None
    assert hub.identity_token == "identity"
    assert find("nobody.example", "x", False) is None
    assert find("own.example", "x", False) is None
    assert "docker-credential-absent" in warnings[0]
    for bad in ("broken.example", "angry.example"):
        with pytest.raises(RegistryError, match="docker-credential-test"):
            find(bad, "x", False)


def test_a_helper_has_a_plain_name(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"credsStore": "../../bin/sh"}')
    with pytest.raises(RegistryError, match="impossible"):
        Credentials(Sources(files=(str(config),))).find("r.example", "x", False)


def test_a_login_is_kept_private_beside_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "config.json"
    save_login(str(path), "r.example", Credential("ali", "s3cret"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    value = json.loads(path.read_text())
    path.write_text(json.dumps(value | {"psFormat": "x"}))
    save_login(str(path), "docker.io", Credential("bob", "b"))
    save_login(str(path), "https://r.example", Credential("eve", "e"))
    value = json.loads(path.read_text())
    assert sorted(value["auths"]) == ["https://index.docker.io/v1/", "r.example"]
    assert value["psFormat"] == "x"
    found = Credentials(Sources(files=(str(path),))).find("r.example", "x", False)
    assert found is not None
    assert found.username == "eve"
    assert remove_login(str(path), "r.example:443")
    assert not remove_login(str(path), "r.example")
    assert sorted(json.loads(path.read_text())["auths"]) == ["https://index.docker.io/v1/"]
    assert list(path.parent.iterdir()) == [path]


def test_a_credential_does_not_show_its_secret() -> None:
    assert PASSWORD not in repr(Credential("ali", PASSWORD))
    assert PASSWORD not in f"{Credential('ali', PASSWORD)!s}"
