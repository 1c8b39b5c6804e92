"""The tree of errors: what a user, a server or a machine can do wrong.

    ChError
    |- UsageError        the command line itself is wrong (exit 2)
    |- DockerfileError   a fault at a known place of a Dockerfile
    |- BuildError        a build step that cannot be carried out
    |  `- StepFailed     a RUN command ended with a non-zero code
    |- StorageError      the storage directory: not ours, full, damaged, unwritable
    |- ImageError        an image, layer or manifest that is refused
    |  `- NotFound       no image of that name
    |- ConfigError       a document (config.json) that breaks its rules, each with its place
    |- RegistryError     what a registry answered, or that it did not
    `- SandboxError      the kernel refused a namespace, a mount or a filter

A message says what is wrong and where, in the user's words, on one line; the hint says what to
do. Nothing below ``cli/`` prints or exits.
"""

from __future__ import annotations


class ChError(Exception):
    """A fault that is reported as one ``error:`` line, with a ``hint:`` line where one helps."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(ChError):
    """The command line asks for something that cannot be meant."""

    exit_code = 2


class DockerfileError(ChError):
    """A fault at a known place; ``where`` is (file, line, column), both counted from 1.

    ``text`` is the physical line as written, ``width`` how many characters the caret marks.
    """

    def __init__(
        self,
        message: str,
        *,
        where: tuple[str, int, int],
        text: str,
        width: int = 1,
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.where, self.text, self.width = where, text, width

    def __str__(self) -> str:
        file, line, column = self.where
        margin = f"{line:4} | "
        before = self.text[: column - 1]
        pad = "".join("\t" if c == "\t" else " " for c in before)
        marker = " " * len(margin) + pad + "^" * max(1, self.width)
        return f"{file}:{line}: {self.args[0]}\n{margin}{self.text}\n{marker}"


class BuildError(ChError):
    """A step of a build cannot be carried out."""


class StepFailed(BuildError):
    """A RUN command ended with ``code`` (128+N when signal N ended it)."""

    def __init__(self, message: str, *, code: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code


class StorageError(ChError):
    """The storage directory cannot be used as it is."""


class ImageError(ChError):
    """An image, layer or manifest is refused, and why."""


class NotFound(ImageError):
    """No image, layer or file of that name."""


class RegistryError(ChError):
    """What a registry answered; ``status`` is the HTTP status, 0 when there was no answer."""

    def __init__(self, message: str, *, status: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status


class ConfigError(ChError):
    """A document breaks its rules; ``faults`` says where and how, a line each.

    ``file`` is where it was read from, safe to show.
    """

    def __init__(self, file: str, faults: list[str], *, hint: str = "") -> None:
        first = f": {faults[0]}" if len(faults) == 1 else f" has {len(faults)} faults"
        super().__init__(file + first, hint=hint)
        self.faults = faults


class SandboxError(ChError):
    """The kernel refused what a container needs."""


def printable(text: str, limit: int = 1000) -> str:
    """``text`` from outside, safe for a terminal: control characters escaped, length cut."""
    out = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return out if len(out) <= limit else out[: limit - 3] + "..."
