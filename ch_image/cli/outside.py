"""A process that stays outside of our user namespace, and runs other people's programs there.

Inside of it we are root and they would be too: podman would look for root's images, and a
credential helper be refused by the user's key ring. So it is started before we go in. It ends
with us, whatever ends us.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ch_image.typed import Any, NoReturn

    Ran = subprocess.CompletedProcess[bytes]

_WORDS = (b'"credHelpers"', b'"credsStore"')
_MAX_FILE = 4 << 20  # bytes of an auth file


def names_helpers(files: Sequence[str]) -> bool:
    """Whether one of the auth files names a credential helper; what cannot be read does not."""
    for path in files:
        try:
            with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                raw = file.read(_MAX_FILE)
        except OSError:
            continue
        if any(word in raw for word in _WORDS):
            return True
    return False


class Outside:
    """The process. Start it while there is one thread. ``run`` may be called by several."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        ours, theirs = socket.socketpair()
        parent = os.getpid()
        pid = os.fork()
        if not pid:
            ours.close()
            _serve(theirs, parent)
        theirs.close()
        self._socket = ours

    def run(self, words: Sequence[str], data: bytes = b"", timeout: float | None = None) -> Ran:
        """Run a program to its end; ``data`` is its standard input, ``timeout`` in seconds.

        Raises OSError where it cannot be started, subprocess.TimeoutExpired.
        """
        with self._lock:
            _send(self._socket, {"words": list(words), "data": data.hex(), "timeout": timeout})
            answer = _receive(self._socket)
        if answer is None:
            raise ConnectionResetError("the process that runs programs outside has ended")
        if "errno" in answer:
            raise OSError(answer["errno"], os.strerror(answer["errno"]), words[0])
        if "code" not in answer:
            raise subprocess.TimeoutExpired(list(words), timeout or 0)
        out, err = bytes.fromhex(answer["out"]), bytes.fromhex(answer["err"])
        return subprocess.CompletedProcess(list(words), answer["code"], out, err)


def run(words: Sequence[str], data: bytes = b"", timeout: float | None = None) -> Ran:
    """As ``Outside.run``, in this process's namespace."""
    return subprocess.run(list(words), input=data, capture_output=True, timeout=timeout)


def _serve(connection: socket.socket, parent: int) -> NoReturn:
    """The process's main function: run what is asked for until nobody asks any more."""
    from ch_image.sandbox.syscalls import die_with

    try:
        # Ctrl-C reaches the programs too; a handler, unlike ignoring it, does not outlive exec.
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        die_with(parent)
        while (asked := _receive(connection)) is not None:
            _send(connection, _answer(asked))
    finally:
        os._exit(0)


def _answer(asked: Mapping[str, Any]) -> dict[str, Any]:
    try:
        done = run(asked["words"], bytes.fromhex(asked["data"]), asked["timeout"])
    except subprocess.TimeoutExpired:
        return {}
    except OSError as error:
        return {"errno": error.errno}
    return {"code": done.returncode, "out": done.stdout.hex(), "err": done.stderr.hex()}


def _send(connection: socket.socket, value: Mapping[str, Any]) -> None:
    import json

    connection.sendall(json.dumps(value).encode() + b"\n")


def _receive(connection: socket.socket) -> dict[str, Any] | None:
    """The next message, a line of JSON; None when the other side is gone."""
    import json

    raw = bytearray()
    while not raw.endswith(b"\n"):
        try:
            part = connection.recv(1 << 20)
        except ConnectionError:
            return None
        if not part:
            return None
        raw += part
    value: dict[str, Any] = json.loads(raw)
    return value
