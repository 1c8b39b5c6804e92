"""Debian's docker-registry with TLS and a password."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import world
from wildserver import certificate

# bcrypt of "opensesame", the only hash that the registry takes
HTPASSWD = "ali:$2b$04$abcdefghijklmnopqrstuuFuhxWRTXIsURoluSTZ1N4tYaWGn9oOi\n"
USER, PASSWORD = "ali", "opensesame"


@contextlib.contextmanager
def guarded_registry(directory: Path) -> Iterator[tuple[str, Path]]:
    """HOST:PORT of a registry with TLS and a password, and the certificate of its authority."""
    keys = certificate(directory / "keys")
    host = f"127.0.0.1:{world.free_port()}"
    (directory / "htpasswd").write_text(HTPASSWD)
    config = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(directory / "data")}},
        "auth": {"htpasswd": {"realm": "tests", "path": str(directory / "htpasswd")}},
        "http": {
            "addr": host,
            "tls": {"certificate": str(keys / "server.crt"), "key": str(keys / "server.key")},
        },
    }
    (directory / "config.yml").write_text(json.dumps(config))
    with (directory / "log").open("wb") as log:
        server = subprocess.Popen(
            [world.program("setpriv"), "--pdeathsig", "TERM", world.program("docker-registry"),
             "serve", str(directory / "config.yml")],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        time.sleep(0.2)
        yield host, keys / "ca.crt"
    finally:
        server.terminate()
        server.wait(10)


class Guarded:
    """The running registry, and the image in it."""

    def __init__(self, host: str, authority: Path) -> None:
        self.host, self.authority = host, authority
        self.image = f"{host}/team/busybox:latest"

    def environment(self, **more: str) -> dict[str, str]:
        return {"REQUESTS_CA_BUNDLE": str(self.authority), **more}
