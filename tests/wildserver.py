"""An HTTP server that answers as badly as it is told to, and notes what it was asked.

A test gives it a function from a request to a reply. It speaks plain HTTP on a loopback port, or
TLS with a certificate of `certificate`.
"""

from __future__ import annotations

import contextlib
import http.server
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import world


class Asked(NamedTuple):
    """A request as it came; `path` without the query."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]  # names in lower case
    body: bytes


class Reply(NamedTuple):
    """What to answer, and what to do wrong."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = {}
    length: int | None = -1  # Content-Length; -1: the true one, None: none at all
    cut: int | None = None  # send only so many bytes of the body, then close the connection
    endless: bool = False  # repeat the body until nobody listens
    chunked: bool = False
    drip: float = 0.0  # seconds between two bytes of the body


RESET = Reply(status=0)  # no answer at all


class Wild:
    """A running server; `asked` grows. Use it in a `with`."""

    def __init__(self, answer: Callable[[Asked], Reply], tls: Path | None = None) -> None:
        wild = self
        self.asked: list[Asked] = []
        self.answer = answer

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_: object) -> None:
                pass

            def answer(self) -> None:
                wild.serve(self)

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = answer

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def get_request(self) -> tuple[socket.socket, Any]:
                connection, address = super().get_request()
                if tls is not None:
                    connection = wild.context.wrap_socket(
                        connection, server_side=True, do_handshake_on_connect=False
                    )
                return connection, address

            def handle_error(self, *_: Any) -> None:
                pass  # clients that hang up are what these tests are about

        if tls is not None:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(tls / "server.crt", tls / "server.key")
        self._server = Server(("127.0.0.1", 0), Handler)
        self.scheme = "https" if tls else "http"
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"{self.scheme}://{self.host}"

    def __enter__(self) -> Wild:
        loop = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        loop.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def paths(self, method: str = "") -> list[str]:
        """The paths asked for, in order."""
        return [a.path for a in self.asked if method in ("", a.method)]

    def serve(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        parts = urlsplit(handler.path)
        headers = {name.lower(): value for name, value in handler.headers.items()}
        body = handler.rfile.read(int(headers.get("content-length", 0)))
        asked = Asked(handler.command, parts.path, parse_qs(parts.query), headers, body)
        self.asked.append(asked)
        reply = self.answer(asked)
        if not reply.status:
            _reset(handler)
            return
        handler.send_response(reply.status)
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        if reply.chunked:
            handler.send_header("Transfer-Encoding", "chunked")
        elif reply.length is not None and not reply.endless:
            size = len(reply.body) if reply.length < 0 else reply.length
            handler.send_header("Content-Length", str(size))
        else:
            handler.close_connection = True
        handler.end_headers()
        if asked.method == "HEAD":
            return
        if reply.chunked:
            handler.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(reply.body), reply.body))
            return
        for at in range(len(reply.body) if reply.drip else 0):
            handler.wfile.write(reply.body[at : at + 1])
            handler.wfile.flush()
            time.sleep(reply.drip)
        if reply.drip:
            return
        handler.wfile.write(reply.body if reply.cut is None else reply.body[: reply.cut])
        while reply.endless:
            handler.wfile.write(reply.body)
        handler.close_connection = handler.close_connection or reply.cut is not None


def _reset(handler: http.server.BaseHTTPRequestHandler) -> None:
    """Close as a crashed server does, with RST."""
    linger = struct.pack("ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.connection.close()
    handler.close_connection = True


def certificate(directory: Path, name: str = "server") -> Path:
    """An authority `ca.crt` and, signed by it for 127.0.0.1, `NAME.crt` and `NAME.key`."""
    directory.mkdir(parents=True, exist_ok=True)

    def openssl(*words: str) -> None:
        done = subprocess.run(
            [world.program("openssl"), *words], cwd=directory, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    if not (directory / "ca.crt").exists():
        openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-days", "30",
                "-subj", "/CN=authority of tests")  # fmt: skip
    openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
    (directory / "san").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key",
            "-CAcreateserial", "-out", f"{name}.crt", "-days", "30", "-extfile", "san")  # fmt: skip
    return directory


@contextlib.contextmanager
def serving(replies: Mapping[str, Reply | Callable[[Asked], Reply]]) -> Iterator[Wild]:
    """A server with one reply for each path; 404 for the rest."""

    def answer(asked: Asked) -> Reply:
        found = replies.get(asked.path, Reply(404))
        return found if isinstance(found, Reply) else found(asked)

    with Wild(answer) as wild:
        yield wild
