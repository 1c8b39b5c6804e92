"""``python3 -m ch_image.sandbox WORDS``: run a container plan as ``build -v`` prints it."""

from __future__ import annotations

import os
import sys

from ch_image.sandbox.plan import parse
from ch_image.sandbox.start import spawn
from ch_image.sandbox.userns import enter


def main(words: list[str]) -> int:
    """Run the plan in the foreground; its exit code, 31 when the container cannot start."""
    try:
        plan = parse(words)
    except (ValueError, IndexError) as error:
        os.write(2, f"error: {error}\n".encode())
        return 2
    enter()
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = spawn(plan, (0, 1, 2, writer))
    os.close(writer)
    data = b""
    while chunk := os.read(reader, 65536):
        data += chunk
    os.waitpid(pid, 0)
    result = os.fsdecode(data).split("\0")
    if result[0] != "exit":
        os.write(2, f"error: {' '.join(result)}\n".encode())
        return 31
    code = int(result[1])
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
