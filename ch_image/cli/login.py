"""login, logout: credentials in the auth file that podman, skopeo and buildah read too."""

from __future__ import annotations

import sys

from ch_image.cli import options
from ch_image.cli.session import Session, emit
from ch_image.errors import RegistryError, UsageError, printable
from ch_image.report import Info

_MAX_PASSWORD = 64 << 10  # bytes


def _login(session: Session) -> int:
    from ch_image.cli.network import ask, registries
    from ch_image.registry.auth import Credential
    from ch_image.registry.credentials import Sources, save_login
    from ch_image.registry.registries import Registries

    host = _host(session, session.words[0])
    path = _file(session)
    username = session.parsed.text("username") or session.env.get("CH_IMAGE_USERNAME", "")
    if session.parsed.has("password-stdin"):
        password = sys.stdin.buffer.read(_MAX_PASSWORD).decode("utf-8", "surrogateescape")
        credential = Credential(username, password.rstrip("\r\n"), source="standard input")
    elif username and session.env.get("CH_IMAGE_PASSWORD"):
        credential = Credential(username, session.env["CH_IMAGE_PASSWORD"], source="environment")
    else:
        if not (sys.stdin is not None and sys.stdin.isatty()):
            raise UsageError(
                "there is no terminal to ask for a password",
                hint="give it with --username and --password-stdin",
            )
        typed = ask(host, username)
        if typed is None:
            raise UsageError("no user name given")
        credential = typed
    if not (credential.username and credential.password):
        raise UsageError("user name and password must not be empty", hint="give --username")
    sources = Sources(username=credential.username, password=credential.password, login=True)
    found = registries(session)
    client = Registries(found.network, sources, session.report).client(host)
    with client.request("GET", "", "", scopes=frozenset()) as response:
        if response.status == 401:
            raise RegistryError(f"{printable(host)} does not accept this login", status=401)
        client.expect(response, (200,), host)
    save_login(path, host, credential)
    session.report(Info(f"logged in to {host}; the password is in {path}"))
    return 0


def _host(session: Session, text: str) -> str:
    """``HOST[:PORT]``, as a name of an image begins. Raises UsageError."""
    bare = text.partition("://")[2] or text
    bare = bare.rstrip("/")
    if "/" in bare or not bare:
        raise UsageError(f"not a registry: {printable(text, 200)}", hint="write HOST or HOST:PORT")
    if bare in ("docker.io", "index.docker.io"):
        return session.ref("docker.io/library/x").registry
    return session.ref(f"{bare}/x").registry if "." in bare or ":" in bare else bare


def _file(session: Session) -> str:
    """The auth file to write: ``--authfile``, ``$REGISTRY_AUTH_FILE``, or podman's."""
    from ch_image.cli.environment import auth_files

    given = session.parsed.text("authfile")
    if given:
        return given
    known = auth_files(session.env)
    if not known:
        raise UsageError("neither HOME nor XDG_RUNTIME_DIR is set", hint="give --authfile")
    return known[0]


_AUTHFILE = options.value(
    "--authfile", "FILE", "the auth file, instead of REGISTRY_AUTH_FILE or podman's"
)
LOGIN = options.Command(
    "login",
    "REGISTRY",
    "Checks user name and password with a registry and stores them, unencrypted, in the auth file"
    " (mode 0600) that podman, buildah and skopeo use too. Nothing is stored without this command.",
    (
        options.value("-u --username", "NAME", "the user name; asked for otherwise"),
        options.flag("--password-stdin", "read the password from standard input"),
        _AUTHFILE,
    ),
    _login,
)


def _logout(session: Session) -> int:
    from ch_image.cli.environment import auth_files
    from ch_image.registry.credentials import remove_login

    host = _host(session, session.words[0])
    given = session.parsed.text("authfile")
    files = (given,) if given else auth_files(session.env)
    left = [path for path in files if remove_login(path, host)]
    for path in left:
        session.report(Info(f"removed the login for {host} from {path}"))
    if not left:
        emit([f"not logged in to {printable(host)}"])
    return 0


LOGOUT = options.Command(
    "logout",
    "REGISTRY",
    "Removes the login for a registry from the auth files.",
    (_AUTHFILE,),
    _logout,
)
