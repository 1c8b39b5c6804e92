"""How a registry is reached: TLS contexts, certificate directories, proxies, patience.

Takes values and paths, never the environment. Knows no HTTP.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from ch_image.errors import RegistryError
from ch_image.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import ssl

# Where distributions keep the authorities that the machine trusts.
_SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


class Network(NamedTuple):
    """What the user says about the way to a registry. Times in seconds."""

    tls_verify: bool = True
    ca_bundle: str = ""  # a file or a directory of hashed names; empty: the machine's
    cert_dir: str = ""  # *.crt: authorities; NAME.cert with NAME.key: a client certificate
    certs_d: tuple[str, ...] = ()  # directories with such a directory for each HOST[:PORT]
    proxies: Mapping[str, str] = {}  # http_proxy, https_proxy, all_proxy, no_proxy
    connect_timeout: float = 30.0
    read_timeout: float = 60.0  # without a single byte
    tries: int = 5
    backoff: float = 0.5  # the first wait between two tries; each is twice the one before
    user_agent: str = "ch-image"


def is_loopback(host: str) -> bool:
    """Whether ``host`` can only be this machine; names are not looked up."""
    if host.lower() == "localhost" or host.lower().endswith(".localhost"):
        return True
    import ipaddress

    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def context(network: Network, registry: str, with_client_certificate: bool) -> ssl.SSLContext:
    """A TLS context for ``registry``. Raises RegistryError on unusable certificate files."""
    import ssl

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    tls.set_alpn_protocols(["http/1.1"])
    if not network.tls_verify:
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    else:
        _trust(tls, network.ca_bundle or _system_bundle())
    for directory in _directories(network, registry):
        for name in sorted(os.listdir(directory)):
            path = os.path.join(directory, name)
            if name.endswith(".crt") and network.tls_verify:
                _trust(tls, path)
            elif name.endswith(".cert") and with_client_certificate:
                try:
                    tls.load_cert_chain(path, path[: -len(".cert")] + ".key", lambda: "")
                except OSError as error:
                    raise RegistryError(f"client certificate {path}: {error}") from None
    return tls


def _directories(network: Network, registry: str) -> list[str]:
    if network.cert_dir:
        if not os.path.isdir(network.cert_dir):
            raise RegistryError(f"no such directory for certificates: {network.cert_dir}")
        return [network.cert_dir]
    found = (os.path.join(directory, registry) for directory in network.certs_d)
    return [directory for directory in found if os.path.isdir(directory)]


def _trust(tls: ssl.SSLContext, path: str) -> None:
    if not path:
        tls.load_default_certs()
        return
    try:
        if os.path.isdir(path):
            tls.load_verify_locations(capath=path)
        else:
            tls.load_verify_locations(cafile=path)
    except OSError as error:  # ssl.SSLError is one
        why = error.strerror or getattr(error, "reason", "") or "not PEM certificates"
        raise RegistryError(f"cannot use the certificates in {path}: {why}") from None


def _system_bundle() -> str:
    return next((path for path in _SYSTEM_BUNDLES if os.path.exists(path)), "")


def speaks_plain(host: str, port: int, seconds: float) -> bool:
    """Whether what listens there answers a TLS greeting with something that is no TLS.

    Loads no authorities, which takes longer than all else; who listens, and who it is, is for
    others to say.
    """
    import socket
    import ssl

    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname, bare.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection((host, port), seconds) as connection:
            connection.settimeout(seconds)
            bare.wrap_socket(connection).close()
    except ssl.SSLError as error:
        return "ALERT" not in (error.reason or "")  # an alert is TLS
    except OSError:
        pass
    return False


def proxy_for(scheme: str, host: str, port: int, proxies: Mapping[str, str]) -> str:
    """The proxy's URL for a host, or the empty string; loopback is never proxied."""
    proxy = proxies.get(f"{scheme}_proxy") or proxies.get("all_proxy") or ""
    if not proxy or is_loopback(host) or _exempt(host, port, proxies.get("no_proxy", "")):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


def _exempt(host: str, port: int, no_proxy: str) -> bool:
    for item in no_proxy.replace(",", " ").split():
        pattern = item.lower()
        if pattern in ("*", host, f"{host}:{port}"):
            return True
        suffix = pattern.lstrip("*").lstrip(".")
        if suffix and (host.endswith("." + suffix) or f"{host}:{port}".endswith("." + suffix)):
            return True
        if "/" in pattern and _in_network(host, pattern):
            return True
    return False


def _in_network(host: str, pattern: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(pattern, strict=False)
    except ValueError:
        return False
