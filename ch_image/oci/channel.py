"""Messages between the command that creates a container and the processes inside.

A message is a list of words; the first says what it is. A closed channel means that the other side
is gone, and whoever is left gives up: so a killed ``create`` leaves no process behind.
"""

from __future__ import annotations

import _socket
import os

_MOST = 1 << 16  # bytes of a message


class Channel:
    """One end."""

    def __init__(self, end: _socket.socket) -> None:
        self.end = end

    @staticmethod
    def pair() -> tuple[Channel, Channel]:
        """Both ends."""
        one, other = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        return Channel(one), Channel(other)

    def send(self, *words: str) -> None:
        """Send a message; to nobody is no fault, for receiving will tell."""
        try:
            self.end.send(b"\0".join(os.fsencode(word) for word in words)[:_MOST])
        except (BrokenPipeError, ConnectionResetError):
            pass

    def receive(self) -> list[str]:
        """A message; empty when the other side is gone."""
        try:
            data = self.end.recv(_MOST)
        except ConnectionResetError:
            return []
        return [os.fsdecode(word) for word in data.split(b"\0")] if data else []

    def close(self) -> None:
        """Give up this end."""
        self.end.close()
