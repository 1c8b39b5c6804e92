"""The rules of the linter: what each is about, and which of them a file switches off.

``# check=skip=RULE,RULE;experimental=RULE;error=true`` at the top of a file holds for all of it,
the same comment above an instruction for that instruction. ``all`` names every rule.
"""

from __future__ import annotations

from ch_image.dockerfile.ast import Dockerfile, Span
from ch_image.dockerfile.suggest import did_you_mean
from ch_image.errors import UsageError, printable
from ch_image.typed import NamedTuple

EXPLANATIONS = {
    "ConsistentInstructionCasing": "Keywords are easier to see when all are written alike.",
    "CopyIgnoredFile": "COPY and ADD cannot see what the ignore file leaves out of the context.",
    "DuplicateStageName": "A later stage hides an earlier one of the same name.",
    "ExposeInvalidFormat": "EXPOSE names ports of the container; where they appear on the host is "
    "said when it runs.",
    "ExposeProtoCasing": "Protocols are compared as they are written, and written in lowercase.",
    "FromAsCasing": "FROM and AS belong together and should be written alike.",
    "FromPlatformFlagConstDisallowed": "A fixed platform makes the stage useless on any other; "
    "use a variable such as $BUILDPLATFORM, or name the stage after the platform.",
    "InvalidDefaultArgInFrom": "A build without --build-arg should find an image to begin with.",
    "InvalidDefinitionDescription": "A comment right above a stage or an ARG is taken for its "
    "description, which begins with its name; an empty comment line keeps others apart.",
    "JSONArgsRecommended": "In the shell form the program runs below a shell that does not pass "
    "signals on, so it cannot be stopped gently.",
    "LegacyKeyValueFormat": "Without the equals sign there can be one variable only, and all the "
    "rest of the line is its value.",
    "MaintainerDeprecated": "A label says the same and can be read by every tool.",
    "MultipleInstructionsDisallowed": "An image has one command, one entry point and one health "
    "check: each instruction replaces the one before it.",
    "NoEmptyContinuation": "An empty line inside an instruction looks like its end, and will be "
    "an error one day.",
    "RedundantTargetPlatform": "A stage is built for the target platform unless it says otherwise.",
    "ReservedStageName": "scratch and context mean something else where a stage can be named.",
    "SecretsUsedInArgOrEnv": "The values of ARG and ENV can be read from the image and its "
    "history; hand secrets to the one command that needs them with RUN --mount=type=secret.",
    "StageNameCasing": "Stage names are compared in lowercase, so they should be written so.",
    "UndefinedArgInFrom": "FROM sees only what an ARG above the first FROM declares.",
    "UndefinedVar": "A variable that nobody sets is empty.",
    "WorkdirRelativePath": "A relative path begins where the base image left off, which may change "
    "with the image.",
}
GIVEN = "BUILDKIT_DOCKERFILE_CHECK"  # the build argument that stands above the directive
EXPERIMENTAL = ("InvalidDefinitionDescription",)
_TRUE, _FALSE = ("1", "t", "T", "TRUE", "true", "True"), ("0", "f", "F", "FALSE", "false", "False")


class Options(NamedTuple):
    """Which rules are wanted. ``error`` asks that findings fail an ordinary build, too."""

    skip: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    error: bool = False

    def wants(self, rule: str) -> bool:
        """Whether findings of ``rule`` are to be reported."""
        if rule in EXPERIMENTAL:
            return bool(self.experimental & {rule, "all"})
        return not self.skip & {rule, "all"}

    def with_comments(self, comments: tuple[str, ...]) -> Options:
        """These options and what a ``check=`` among the comments above an instruction adds."""
        for comment in comments:
            key, equals, value = comment.partition("=")
            if key.strip().lower() != "check" or not equals:
                continue
            try:
                added = _read(value.strip().split(" ")[0])
            except _BadOption:
                return self  # a remark about checks, it seems
            both = self.experimental | added.experimental
            return Options(self.skip | added.skip, both, self.error)
        return self


class _BadOption(ValueError):
    """A check option that cannot be read: the word that is wrong, and a hint."""

    def __init__(self, word: str, hint: str) -> None:
        super().__init__(word)
        self.word, self.hint = word, hint


def given_options(text: str) -> Options:
    """What ``--build-arg BUILDKIT_DOCKERFILE_CHECK=`` asks for. Raises UsageError."""
    try:
        return _read(text.strip())
    except _BadOption as error:
        shown = printable(error.word, 60)
        raise UsageError(f"--build-arg {GIVEN}: no option of checks: {shown}") from None


def read_options(dockerfile: Dockerfile) -> Options:
    """What the file's ``check`` directive asks for. Raises DockerfileError."""
    text = dockerfile.directives.check
    if text is None:
        return Options()
    value = text.split(" ")[0]
    try:
        return _read(value)
    except _BadOption as error:
        place = Span(1, 1)
        for number, line in enumerate(dockerfile.lines, 1):
            at = line.find(error.word, max(0, line.find(value)))
            if line.lstrip().startswith("#") and value in line and at >= 0:
                place = Span(number, at + 1, max(1, len(error.word)))
                break
        shown = printable(error.word, 60)
        message = f'"{shown}" is no option of the check directive'
        raise dockerfile.fault(place, message, hint=error.hint) from None


def _read(text: str) -> Options:
    options = Options()
    for part in text.split(";", 2) if text else ():
        key, equals, value = part.partition("=")
        key, value = key.strip(), value.strip()
        if key not in ("skip", "experimental", "error") or not equals:
            raise _BadOption(part, did_you_mean(key, ("skip=", "experimental=", "error=")))
        if key == "error":
            if value not in _TRUE + _FALSE:
                raise _BadOption(part, "error is true or false")
            options = options._replace(error=value in _TRUE)
        else:
            rules = frozenset(rule.strip() for rule in value.split(","))
            options = (
                options._replace(skip=rules)
                if key == "skip"
                else options._replace(experimental=rules)
            )
    return options
