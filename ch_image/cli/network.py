"""How registries are reached, as the environment and the command line say.

Auth files, certificates, proxies and mirrors are looked for where docker and podman look, so that
who has logged in with one of them need not do so again.
"""

from __future__ import annotations

import sys

from ch_image.cli.environment import auth_files
from ch_image.cli.session import Session
from ch_image.errors import UsageError, printable
from ch_image.registry.auth import Credential
from ch_image.registry.credentials import Sources
from ch_image.registry.mirrors import Mirrors, parse_mirror_variable, parse_registries_conf
from ch_image.registry.registries import Registries
from ch_image.registry.tls import Network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_MAX_CONF = 4 << 20  # bytes of registries.conf


def registries(session: Session) -> Registries:
    """The registries of one command; connections and what was typed are shared."""
    env = session.env
    terminal = sys.stdin is not None and sys.stdin.isatty()
    sources = Sources(
        files=auth_files(env),
        username=env.get("CH_IMAGE_USERNAME", ""),
        password=env.get("CH_IMAGE_PASSWORD", ""),
        login=session.auth,
        one_time=session.parsed.has("password-many"),
        prompt=ask if terminal else None,
        run=session.run_outside,
    )
    return Registries(network(session), sources, session.report, mirrors(env))


def network(session: Session) -> Network:
    """Certificates and proxies."""
    from ch_image import __version__

    env = session.env
    home = env.get("HOME", "")
    bundles = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
    return Network(
        tls_verify=not session.parsed.has("tls-no-verify"),
        ca_bundle=next((env[name] for name in bundles if env.get(name)), ""),
        cert_dir=session.parsed.text("cert-dir") or env.get("DOCKER_CERT_PATH", ""),
        certs_d=(
            *((f"{home}/.config/containers/certs.d",) if home else ()),
            "/etc/containers/certs.d",
            "/etc/docker/certs.d",
        ),
        proxies={n: v for n in _PROXIES if (v := env.get(n) or env.get(n.upper(), ""))},
        user_agent=f"ch-image/{__version__}",
    )


def mirrors(env: Mapping[str, str]) -> Mirrors:
    """The first registries.conf that there is. Raises UsageError when it cannot be read."""
    if text := env.get("CH_IMAGE_REGISTRY_MIRROR"):
        return parse_mirror_variable(text)
    home = env.get("HOME", "")
    given = env.get("CONTAINERS_REGISTRIES_CONF", "")
    own = f"{home}/.config/containers/registries.conf" if home else ""
    for path in (given,) if given else (own, "/etc/containers/registries.conf"):
        try:
            if path:
                with open(path, encoding="utf-8") as file:
                    return parse_registries_conf(file.read(_MAX_CONF), path)
        except FileNotFoundError:
            if given:
                raise UsageError(f"CONTAINERS_REGISTRIES_CONF: no file {printable(path)}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read {printable(path)}: {error}") from None
    return Mirrors()


def ask(registry: str, username: str) -> Credential | None:
    """Ask on the terminal; an empty name goes without."""
    import getpass

    try:
        if not username:
            print(f"username for {printable(registry)}: ", end="", file=sys.stderr, flush=True)
            username = input()
        if not username:
            return None
        prompt = f"password for {printable(username, 100)}: "
        return Credential(username, getpass.getpass(prompt, stream=sys.stderr), source="prompt")
    except EOFError:
        return None
