"""Platforms: ``OS/ARCH[/VARIANT]`` as OCI names them, and which satisfies which."""

from __future__ import annotations

import os

from ch_image.errors import UsageError, printable
from ch_image.regex import regex
from ch_image.typed import NamedTuple

# uname -m -> (architecture, variant), after the Go names that registries use.
_MACHINES = {
    "x86_64": ("amd64", ""),
    "amd64": ("amd64", ""),
    "aarch64": ("arm64", "v8"),
    "arm64": ("arm64", "v8"),
    "armv8l": ("arm", "v7"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "armv5l": ("arm", "v5"),
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "ppc64le": ("ppc64le", ""),
    "s390x": ("s390x", ""),
    "riscv64": ("riscv64", ""),
    "mips64": ("mips64le", ""),
    "loongarch64": ("loong64", ""),
}
_ALIASES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "i386": "386", "armhf": "arm"}
# What else will do when the wanted variant is not there, best first.
_ARM_FALLBACK = {"v8": ("v8", "", "v7", "v6", "v5"), "v7": ("v7", "", "v6", "v5")}
_PART = regex(r"(?i)[a-z0-9_.-]+")


class Platform(NamedTuple):
    """A platform an image is for; ``variant`` may be empty."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        parts = [self.os, self.architecture] + ([self.variant] if self.variant else [])
        return "/".join(parts)

    def rank(self, offered: Platform) -> int | None:
        """How well ``offered`` serves this wish: 0 is best, None not at all."""
        if (self.os, self.architecture) != (offered.os, offered.architecture):
            return None
        if self.variant == offered.variant:
            return 0
        if self.architecture == "arm64":  # v8 is the only base variant; empty means it
            return 1 if {self.variant, offered.variant} <= {"", "v8"} else None
        if self.architecture == "arm":
            order = _ARM_FALLBACK.get(self.variant or "v7", (self.variant, ""))
            return order.index(offered.variant) + 1 if offered.variant in order else None
        return 2 if not self.variant or not offered.variant else None


def host_platform() -> Platform:
    """The platform of this machine."""
    machine = os.uname().machine
    architecture, variant = _MACHINES.get(machine, (machine, ""))
    return Platform("linux", architecture, variant)


def parse_platform(text: str) -> Platform:
    """``linux/arm64/v8``, ``arm64/v8``, ``arm64`` or ``x86_64``. Raises UsageError."""
    parts = text.lower().split("/")
    if not all(_PART.fullmatch(part) for part in parts) or len(parts) > 3:
        raise UsageError(
            f"not a platform: {printable(text, 100)!r}",
            hint="write OS/ARCH[/VARIANT], for example linux/arm64/v8",
        )
    if parts[0] not in ("linux", "windows", "darwin", "freebsd") and len(parts) < 3:
        parts = ["linux", *parts]
    parts[1:2] = (
        [_ALIASES.get(parts[1], parts[1])] if len(parts) > 1 else [host_platform().architecture]
    )
    if parts[1] == "arm64" and len(parts) == 2:
        parts.append("v8")
    return Platform(*parts)
