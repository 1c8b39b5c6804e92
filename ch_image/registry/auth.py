"""Answers to ``401 Unauthorized``: basic and bearer, as the distribution specification has them.

Starts with nothing, and says only what a challenge asks for. A secret is made for one origin; a
token realm gets a password only over TLS, or where the registry itself stands. Secrets are in no
message and no event.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from urllib.parse import urlencode

from ch_image.errors import RegistryError
from ch_image.registry.response import Response, shown
from ch_image.registry.tls import is_loopback
from ch_image.registry.transport import Origin, Transport, origin_of
from ch_image.typed import NamedTuple

MAX_TOKEN = 1 << 20  # bytes of a token server's answer
MAX_SCOPES = 50  # that a challenge may add to what we want ourselves
_LIFETIME = 60.0  # seconds a token lives when its server doesn't say (distribution's default)
_TOKEN = re.compile(r"[\x21-\x7e]+")
_PARAMETER = re.compile(r'\s*([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))\s*,?')
_SCHEME = re.compile(r"\s*,*\s*([A-Za-z][A-Za-z0-9_-]*)(?=\s|,|$)(?!\s*=)")


class Credential(NamedTuple):
    """Who we are to one registry. At most one of the secrets is set."""

    username: str = ""
    password: str = ""
    identity_token: str = ""  # exchanged for access tokens (OAuth 2 refresh token)
    registry_token: str = ""  # a bearer token, ready to be used
    source: str = ""  # where it was found, for messages

    def __repr__(self) -> str:
        return f"Credential({self.username!r}, from {self.source})"


class Challenge(NamedTuple):
    """One challenge of a ``WWW-Authenticate`` header (RFC 9110, 11.6.1)."""

    scheme: str  # lower case
    parameters: Mapping[str, str]


class _Token(NamedTuple):
    text: str
    scopes: frozenset[str]
    expires: float  # of the monotonic clock


Find = Callable[[bool], Credential | None]  # the argument: what was found before did not do


def parse_challenges(header: str) -> list[Challenge]:
    """The challenges of a header, several headers joined by commas included."""
    found: list[Challenge] = []
    at = 0
    while match := _SCHEME.match(header, at):
        at = match.end()
        parameters: dict[str, str] = {}
        while not _SCHEME.match(header, at) and (item := _PARAMETER.match(header, at)):
            quoted, plain = item.group(2), item.group(3)
            text = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
            parameters.setdefault(item.group(1).lower(), text)
            at = item.end()
        found.append(Challenge(match.group(1).lower(), parameters))
    return found


def basic(username: str, password: str) -> str:
    """The value of an Authorization header (RFC 7617)."""
    pair = f"{username}:{password}".encode("utf-8", "surrogateescape")
    return "Basic " + base64.b64encode(pair).decode()


class Authenticator:
    """The secrets of one registry, for as long as the process lives. Thread-safe."""

    def __init__(
        self,
        transport: Transport,
        find: Find,
        clock: Callable[[], float] = time.monotonic,
        one_time: bool = False,
    ) -> None:
        """``one_time``: passwords serve once; ``find`` is asked for each token anew."""
        self._transport, self._find, self._clock = transport, find, clock
        self._one_time = one_time
        self._lock = threading.Lock()
        self._basic = ""
        self._tokens: list[_Token] = []

    def authorization(self, scopes: frozenset[str]) -> str:
        """The header for a request that needs ``scopes``; empty: say nothing yet."""
        if self._basic:
            return self._basic
        now = self._clock()
        for token in self._tokens:
            if scopes <= token.scopes and now < token.expires:
                return f"Bearer {token.text}"
        return ""

    def answer(
        self, refusal: Response, home: Origin, scopes: frozenset[str], sent: str, attempt: int
    ) -> bool:
        """Whether ``authorization`` now gives something better than ``sent``.

        ``attempt`` counts from 0 the refusals of one request. Raises RegistryError when the token
        server fails or must not be trusted.
        """
        with self._lock:
            current = self.authorization(scopes)
            if current and current != sent:
                return True  # another thread has been here
            challenges = parse_challenges(refusal.header("WWW-Authenticate"))
            bearer = next((c for c in challenges if c.scheme == "bearer"), None)
            was_known = bool(sent) and attempt > 0
            self._tokens = [t for t in self._tokens if f"Bearer {t.text}" != sent]
            if bearer is not None and bearer.parameters.get("realm"):
                return self._bearer(bearer.parameters, home, scopes, was_known)
            if bearer is None and (not challenges or any(c.scheme == "basic" for c in challenges)):
                return self._answer_basic(sent)
            return False

    def _answer_basic(self, sent: str) -> bool:
        self._basic = ""
        credential = self._find(bool(sent))
        if credential is None or not credential.username:
            return False
        self._basic = basic(credential.username, credential.password)
        return self._basic != sent or self._one_time

    def _bearer(
        self, parameters: Mapping[str, str], home: Origin, scopes: frozenset[str], refused: bool
    ) -> bool:
        realm = parameters["realm"]
        origin = self._trusted(realm, home)
        asked = frozenset(parameters.get("scope", "").split()[:MAX_SCOPES])
        wanted = scopes | {scope for scope in asked if len(scope) < 1000}
        credential = self._find(refused)
        if refused and credential is None:
            return False
        service = parameters.get("service", "")
        if credential is not None and credential.registry_token:
            token = _Token(credential.registry_token, wanted, float("inf"))
        else:
            token = self._fetch(realm, origin, service, wanted, credential)
        self._tokens.append(token)
        return True

    def _trusted(self, realm: str, home: Origin) -> Origin:
        """Passwords go to the registry's own origin and to TLS elsewhere, never plain elsewhere."""
        origin = origin_of(realm)
        both_here = is_loopback(origin.host) and is_loopback(home.host) and home.scheme == "http"
        if origin.scheme == "https" or origin == home or both_here:
            return origin
        raise RegistryError(
            f"the registry wants its token fetched without TLS from {origin.host}:{origin.port}, "
            "which could read or change it",
            hint="tell who runs the registry: its token realm has to be an https URL",
        )

    def _fetch(
        self,
        realm: str,
        origin: Origin,
        service: str,
        scopes: frozenset[str],
        credential: Credential | None,
    ) -> _Token:
        query = [("service", service)] if service else []
        headers: dict[str, str] = {}
        secret = ""
        if credential is not None and credential.identity_token:
            form = [("grant_type", "refresh_token"), *query, ("client_id", "ch-image")]
            form += [("scope", " ".join(sorted(scopes)))]
            form += [("refresh_token", credential.identity_token)]
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            body = urlencode(form).encode()
            # A redirect of this POST is never followed to another origin: its body is a secret.
            response = self._transport.send(
                "POST", realm, headers=headers, body=body, again=True, follow=False
            )
        else:
            query += [("scope", scope) for scope in sorted(scopes)]
            if credential is not None:
                query.insert(0, ("account", credential.username))
                secret = basic(credential.username, credential.password)
            url = realm + ("&" if "?" in realm else "?") + urlencode(query) if query else realm
            response = self._transport.send(
                "GET", url, authorize=lambda to: secret if to == origin else ""
            )
        with response:
            return self._read_token(response, realm, scopes, credential)

    def _read_token(
        self,
        response: Response,
        realm: str,
        scopes: frozenset[str],
        credential: Credential | None,
    ) -> _Token:
        raw = response.read(MAX_TOKEN, "the token server's answer")
        if response.status in (401, 403):
            raise RegistryError(
                f"login refused by {shown(realm)}",
                status=response.status,
                hint=f"check the credentials from {credential.source}"
                if credential is not None and credential.source
                else "log in with 'ch-image login', or use --auth",
            )
        if response.status != 200:
            raise RegistryError(
                f"the token server {shown(realm)} answers {response.status}",
                status=response.status,
            )
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise RegistryError(f"the token server {shown(realm)} does not answer in JSON")
        text = value.get("token") or value.get("access_token")
        if not isinstance(text, str) or not _TOKEN.fullmatch(text):
            raise RegistryError(f"the token server {shown(realm)} gives no usable token")
        seconds = value.get("expires_in")
        lifetime = _LIFETIME
        if isinstance(seconds, int | float) and seconds < 1e9:
            lifetime = max(_LIFETIME, float(seconds))
        return _Token(text, scopes, self._clock() + 0.9 * lifetime)
