"""Files of the host for one container: drivers and programs that an image cannot bring itself.

A list names them, one a line: a path, or ``SRC:DST``. Libraries come together in a directory of
their own that the linker looks at first, programs into /usr/bin, all else where the host has it.
The list is a file, or what a command on the host prints, such as ``nvidia-container-cli list``.
Nothing is written to the image, and no linker cache has to be made at each of a thousand starts.
"""

from __future__ import annotations

import os

from ch_image.errors import ChError, printable

LIBRARIES = "/usr/lib/ch-inject"
_MAX = 1 << 20  # bytes of a list


def injected(texts: tuple[str, ...]) -> list[tuple[str, str]]:
    """(source, target) of all that the lists name. Raises ChError."""
    out: dict[str, str] = {}
    for text in texts:
        for line in _lines(text):
            source, _, target = line.partition(":")
            if not source.startswith("/"):
                raise ChError(f"--inject: no absolute path: {printable(line, 200)}")
            if not os.path.exists(source):
                raise ChError(f"--inject: not found on this host: {printable(source, 300)}")
            out[target or _place(source)] = source
    return [(source, target) for target, source in out.items()]


def _place(source: str) -> str:
    name = os.path.basename(source.rstrip("/"))
    if os.path.isdir(source) or source.startswith("/dev/"):
        return source
    if name.endswith(".so") or ".so." in name:
        return f"{LIBRARIES}/{name}"
    return f"/usr/bin/{name}" if os.access(source, os.X_OK) else source


def _lines(text: str) -> list[str]:
    if not text.strip():
        raise ChError("--inject takes a file or a command that lists files")
    if os.path.isfile(text) and not os.access(text, os.X_OK):
        with open(text, "rb") as file:
            data = file.read(_MAX + 1)
    else:
        data = _output(text)
    if len(data) > _MAX:
        raise ChError(f"--inject: the list is too long: {printable(text, 200)}")
    lines = (os.fsdecode(line).strip() for line in data.split(b"\n"))
    return [line for line in lines if line and line[0] != "#"]


def _output(command: str) -> bytes:
    import subprocess

    words = command.split()
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=60)
    except OSError as error:
        raise ChError(
            f"--inject: neither a file nor a command: {printable(command, 200)}: {error.strerror}"
        ) from None
    except subprocess.TimeoutExpired:
        raise ChError(f"--inject: no end after 60 seconds: {printable(command, 200)}") from None
    if done.returncode:
        raise ChError(
            f"--inject: failed with exit code {done.returncode}: {printable(command, 200)}"
        )
    return done.stdout
