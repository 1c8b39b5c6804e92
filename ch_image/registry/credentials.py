"""Where credentials are found: auth files, helper programs, the command line, a prompt.

Reads the files of docker (``config.json``) and of podman (``auth.json``, containers-auth.json(5)).
Takes paths and values, never the environment; what a prompt gives is never stored. Knows no HTTP.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import stat
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

from ch_image.errors import RegistryError, printable
from ch_image.registry.auth import Credential
from ch_image.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import subprocess

MAX_FILE = 4 << 20  # bytes of an auth file
HELPER_TIMEOUT = 60.0  # seconds for a credential helper, which may ask the user
_HELPER = re.compile(r"[A-Za-z0-9_.-]+")
_HUB = "docker.io"
_HUB_NAMES = ("docker.io", "index.docker.io", "registry-1.docker.io")
_HUB_SERVER = "https://index.docker.io/v1/"  # what docker calls its own registry in its file
_DOCKER_TOKEN_USER = "<token>"  # a helper's way to say that the secret is an identity token

Prompt = Callable[[str, str], Credential | None]
Run = Callable[[Sequence[str], bytes, float], "subprocess.CompletedProcess[bytes]"]


class Sources(NamedTuple):
    """What the command line hands down."""

    files: tuple[str, ...] = ()  # auth files, first the one that counts most; may be absent
    username: str = ""  # with ``password``: used where the user asked to log in
    password: str = ""
    login: bool = False  # --auth: log in wherever asked, with the above or by prompt
    one_time: bool = False  # --password-many: ask anew each time, keep nothing
    prompt: Prompt | None = None  # (registry, username) -> what the user types; None: no terminal
    run: Run | None = None  # (words, standard input, seconds): how helpers are run; None: as we are


def registry_key(name: str) -> str:
    """What two spellings of a registry in auth files have in common, a path kept."""
    text = name.strip().lower()
    scheme, found, rest = text.partition("://")
    host, _, path = (rest if found else text).partition("/")
    if found or path in ("v1", "v1/", "v2", "v2/"):
        path = "" if path.rstrip("/") in ("v1", "v2", "") else path
    host = _HUB if host in _HUB_NAMES else host.removesuffix(":443")
    return f"{host}/{path}".rstrip("/")


class Credentials:
    """Finds credentials for registries; remembers what was typed, unless that serves once."""

    def __init__(self, sources: Sources, warn: Callable[[str], None] = lambda text: None) -> None:
        self.sources, self._warn = sources, warn
        self._typed: dict[str, Credential] = {}
        self._asked: dict[str, int] = {}
        self._lock = threading.Lock()

    def find(self, registry: str, repository: str, refused: bool) -> Credential | None:
        """Credentials for a repository, or None to go without.

        ``refused``: what was given before did not do. Raises RegistryError on an unusable file.
        """
        with self._lock:
            wanted = self.sources
            key = registry_key(registry)
            if wanted.login and wanted.username and wanted.password and not refused:
                return Credential(wanted.username, wanted.password, source="the environment")
            if not wanted.one_time:
                typed = self._typed.get(key)
                if not refused:
                    found = typed or self._stored(registry, repository)
                    if found is not None:
                        return found
            if not wanted.login or wanted.prompt is None or self._asked.get(key, 0) >= 3:
                return None
            if refused:
                self._asked[key] = self._asked.get(key, 0) + 1
            answer = wanted.prompt(registry, wanted.username)
            if answer is not None and not wanted.one_time:
                self._typed[key] = answer
            return answer

    def _stored(self, registry: str, repository: str) -> Credential | None:
        for path in self.sources.files:
            value = read_auth_file(path)
            if value is None:
                continue
            found = self._in_file(path, value, registry, repository)
            if found is not None:
                return found
        return None

    def _in_file(
        self, path: str, value: Mapping[str, Any], registry: str, repository: str
    ) -> Credential | None:
        for key in _lookup_order(registry, repository):
            helper = _matching(value.get("credHelpers"), key)
            if isinstance(helper, str):
                return self._ask_helper(helper, key, path)
            entry = _matching(value.get("auths"), key)
            if isinstance(entry, dict) and any(entry.values()):
                _check_private(path)
                return _decode(entry, path)
        store = value.get("credsStore")
        if isinstance(store, str) and store:
            return self._ask_helper(store, registry_key(registry), path)
        return None

    def _ask_helper(self, name: str, key: str, path: str) -> Credential | None:
        """Run ``docker-credential-NAME get`` (docker/docker-credential-helpers)."""
        import subprocess

        if not _HELPER.fullmatch(name):
            shown = printable(name, 100)
            raise RegistryError(f"{path} names an impossible credential helper: {shown!r}")
        program = f"docker-credential-{name}"
        server = _HUB_SERVER if key == _HUB else key
        try:
            done = (self.sources.run or _run)([program, "get"], server.encode(), HELPER_TIMEOUT)
        except FileNotFoundError:
            self._warn(f"{path} asks for {program}, which is not installed; going on without")
            return None
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RegistryError(f"{program} failed: {error}") from None
        text = done.stdout.decode("utf-8", "replace")
        if done.returncode:
            if "not found" in text or "not found" in done.stderr.decode("utf-8", "replace"):
                return None
            raise RegistryError(
                f"{program} ended with code {done.returncode}",
                hint=f"try: echo {server} | {program} get",
            )
        try:
            value = json.loads(text)
            user, secret = str(value["Username"]), str(value["Secret"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise RegistryError(f"{program} does not answer as a credential helper") from None
        if user == _DOCKER_TOKEN_USER:
            return Credential(identity_token=secret, source=program)
        return Credential(user, secret, source=program) if secret else None


def _run(words: Sequence[str], data: bytes, seconds: float) -> subprocess.CompletedProcess[bytes]:
    import subprocess

    return subprocess.run(words, input=data, capture_output=True, timeout=seconds, check=False)


def _lookup_order(registry: str, repository: str) -> Iterable[str]:
    """Keys from the most to the least specific: a namespace's login wins over its registry's."""
    host = registry_key(registry)
    parts = repository.split("/") if repository else []
    for count in range(len(parts), -1, -1):
        yield "/".join([host, *parts[:count]])


def _matching(table: Any, key: str) -> Any:
    if not isinstance(table, dict):
        return None
    return next((value for name, value in table.items() if registry_key(name) == key), None)


def _decode(entry: Mapping[str, Any], path: str) -> Credential | None:
    identity, ready = entry.get("identitytoken"), entry.get("registrytoken")
    if isinstance(identity, str) and identity:
        return Credential(identity_token=identity, source=path)
    if isinstance(ready, str) and ready:
        return Credential(registry_token=ready, source=path)
    text = entry.get("auth")
    if isinstance(text, str) and text:
        try:
            pair = base64.b64decode(text, validate=True).decode("utf-8", "surrogateescape")
        except (binascii.Error, ValueError):
            raise RegistryError(f"an entry of {path} is not base64", hint="log in again") from None
        username, _, password = pair.partition(":")
        return Credential(username, password.rstrip("\0"), source=path)
    user, secret = entry.get("username"), entry.get("password")
    if isinstance(user, str) and isinstance(secret, str):
        return Credential(user, secret, source=path)
    return None


def read_auth_file(path: str) -> dict[str, Any] | None:
    """The JSON object in an auth file; None when there is no such file. Raises RegistryError."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            raw = file.read(MAX_FILE + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RegistryError(f"cannot read {path}: {error.strerror}") from None
    if not raw.strip():
        return {}
    try:
        value = json.loads(raw) if len(raw) <= MAX_FILE else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise RegistryError(f"{path} is not a JSON object", hint="repair or remove it")
    return value


def _check_private(path: str) -> None:
    """A file with secrets that others may read is not used, so that its owner notices."""
    mode = os.stat(path).st_mode
    if mode & 0o077:
        raise RegistryError(
            f"{path} holds credentials but others may read it (mode {mode & 0o777:04o})",
            hint=f"chmod 600 {path}",
        )


def save_login(path: str, registry: str, credential: Credential) -> None:
    """Put a login into an auth file; what else it holds is kept. Raises RegistryError."""
    value = read_auth_file(path) or {}
    auths = _without(value.get("auths"), registry)
    entry: dict[str, str] = {}
    if credential.identity_token:
        entry["identitytoken"] = credential.identity_token
    else:
        pair = f"{credential.username}:{credential.password}"
        entry["auth"] = base64.b64encode(pair.encode("utf-8", "surrogateescape")).decode()
    host = registry_key(registry)
    auths[_HUB_SERVER if host == _HUB and path.endswith("config.json") else host] = entry
    _write(path, value | {"auths": auths})


def remove_login(path: str, registry: str) -> bool:
    """Take a login out of an auth file; whether there was one. Raises RegistryError."""
    value = read_auth_file(path)
    auths = value.get("auths") if value else None
    if not value or not isinstance(auths, dict) or _matching(auths, registry_key(registry)) is None:
        return False
    _write(path, value | {"auths": _without(auths, registry)})
    return True


def _without(auths: Any, registry: str) -> dict[str, Any]:
    entries = auths if isinstance(auths, dict) else {}
    return {k: v for k, v in entries.items() if registry_key(k) != registry_key(registry)}


def _write(path: str, value: Mapping[str, Any]) -> None:
    """Mode 0600 from its first byte on, and whole under its name or not at all."""
    path = os.path.realpath(path)
    temporary = f"{path}.{os.getpid()}.new"
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "wb") as file:
                os.fchmod(fd, 0o600)
                file.write(json.dumps(value, indent="\t").encode() + b"\n")
                file.flush()
                os.fsync(fd)
            os.rename(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise RegistryError(f"cannot write {path}: {error.strerror}") from None
