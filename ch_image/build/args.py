"""What a build is given from outside its Dockerfile: arguments, platforms, proxies.

Pure. Signatures:

    scope = make_scope(dockerfile, build_args=..., passed=..., platform=..., target=...)
    unused_build_args(dockerfile, build_args) -> names to warn about

Rules are those of the Dockerfile reference, "Understand how ARG and FROM interact", "Predefined
ARGs" and "Automatic platform ARGs". Values of ``--build-arg`` are *hidden*: whoever writes
history, cache records or logs must not write them.
"""

from __future__ import annotations

from collections.abc import Mapping

from ch_image.dockerfile.ast import Arg, Dockerfile, From
from ch_image.dockerfile.expand import Expander
from ch_image.errors import BuildError, printable
from ch_image.model.platforms import Platform, host_platform
from ch_image.typed import NamedTuple

PROXIES = frozenset(
    name
    for upper in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
    for name in (upper, upper.lower())
)
PASSED = PROXIES | {"SSH_AUTH_SOCK", "USER"}  # reach RUN without an ARG, and nothing else
# Arguments that Docker's builder itself understands: no Dockerfile needs to declare them.
EPOCH = "SOURCE_DATE_EPOCH"
SANDBOX_HOSTNAME = "BUILDKIT_SANDBOX_HOSTNAME"  # what a RUN finds as its host's name
_BUILDER = frozenset({EPOCH} | {
    f"BUILDKIT_{name}"
    for name in ("BUILD_NAME", "CACHE_MOUNT_NS", "CONTEXT_KEEP_GIT_DIR", "DOCKERFILE_CHECK",
                 "INLINE_CACHE", "MULTI_PLATFORM", "SANDBOX_HOSTNAME", "SYNTAX")
})  # fmt: skip


class Scope(NamedTuple):
    """What the instructions of one build may see from outside the Dockerfile."""

    build_args: Mapping[str, str] = {}  # from --build-arg, proxies left out
    global_args: Mapping[str, str] = {}  # the ARGs before the first FROM, and the platforms'
    hidden: frozenset[str] = frozenset()  # those of global_args that tell a --build-arg
    passed: Mapping[str, str] = {}  # for the environment of RUN only: never keyed, never kept


class Reader:
    """A lookup that remembers what it was asked for."""

    __slots__ = ("_values", "seen")

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self.seen: set[str] = set()

    def __call__(self, name: str) -> str | None:
        """The value of ``name``, None when it has none."""
        self.seen.add(name)
        return self._values.get(name)


def platform_args(target: Platform, build: Platform, stage: str) -> dict[str, str]:
    """The arguments that are there without being declared, in the global scope only."""
    out: dict[str, str] = {}
    for prefix, platform in (("BUILD", plain(build)), ("TARGET", plain(target))):
        out[f"{prefix}PLATFORM"] = str(platform)
        out[f"{prefix}OS"] = platform.os
        out[f"{prefix}OSVERSION"] = ""
        out[f"{prefix}ARCH"] = platform.architecture
        out[f"{prefix}VARIANT"] = platform.variant
    return out | {"TARGETSTAGE": stage or "default"}


def plain(platform: Platform) -> Platform:
    """``platform`` as Docker spells it: v8 is what arm64 means anyway."""
    if (platform.architecture, platform.variant) == ("arm64", "v8"):
        return platform._replace(variant="")
    return platform


def make_scope(
    dockerfile: Dockerfile,
    *,
    build_args: Mapping[str, str] | None = None,
    passed: Mapping[str, str] | None = None,
    platform: Platform | None = None,
    build_platform: Platform | None = None,
    target: str = "",
) -> Scope:
    """Evaluate the ARGs before the first FROM.

    ``passed`` is what the host offers of `PASSED`; a proxy given as a build argument takes its
    place, in upper case and in lower case. Raises DockerfileError at the place of a fault.
    """
    given = dict(build_args or {})
    outside = {name: value for name, value in (passed or {}).items() if name in PASSED}
    proxies = {name: given.pop(name) for name in PROXIES & given.keys()}
    outside |= {name.swapcase(): value for name, value in proxies.items()} | proxies
    build = build_platform or host_platform()
    stage = target or _last_stage(dockerfile)
    values = platform_args(platform or build, build, stage)
    hidden = values.keys() & given.keys()
    values |= {name: given[name] for name in hidden}
    for instruction in dockerfile.instructions:
        if not isinstance(instruction, Arg):
            break
        for name, default in instruction.names:
            if name.text in given:
                values[name.text] = given[name.text]
                hidden |= {name.text} - {EPOCH}
            elif default is not None:
                reader = Reader(values)
                values[name.text] = Expander(dockerfile, reader).word(default)
                (hidden.add if reader.seen & hidden else hidden.discard)(name.text)
    return Scope(given, values, frozenset(hidden), outside)


def epoch(scope: Scope) -> int | None:
    """SOURCE_DATE_EPOCH in seconds: from outside, or of an ARG before the first FROM.

    Raises BuildError when it is no number; newer BuildKits take the name of a source there.
    """
    text = scope.build_args.get(EPOCH, scope.global_args.get(EPOCH, ""))
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise BuildError(
            f'{EPOCH} is not a number of seconds: "{printable(text, 60)}"',
            hint="a value such as $(git log -1 --format=%ct) is what is meant",
        )
    return int(text)


def unused_build_args(dockerfile: Dockerfile, build_args: Mapping[str, str]) -> tuple[str, ...]:
    """Names given by ``--build-arg`` that no ARG of the file declares: most often misspelt."""
    here = host_platform()
    declared = set(PROXIES | _BUILDER | platform_args(here, here, "").keys())
    for instruction in dockerfile.instructions:
        if isinstance(instruction, Arg):
            declared |= {name.text for name, _ in instruction.names}
        elif isinstance(instruction, From):
            declared |= {pair.key.text for pair in instruction.args}
    return tuple(name for name in build_args if name not in declared)


def _last_stage(dockerfile: Dockerfile) -> str:
    stages = [node for node in dockerfile.instructions if isinstance(node, From)]
    return stages[-1].name if stages else ""
