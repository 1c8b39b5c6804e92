"""Advice about a Dockerfile that is right but may not do what is meant.

The rules and their names are those of ``docker build --check`` where the rule is the same. All is
read from the syntax tree: no image is asked, so of the variables that a base image brings only
those are known that the caller names. InvalidBaseImagePlatform, which needs the image, is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from ch_image.dockerfile.ast import (
    Add,
    Arg,
    Cmd,
    Copy,
    Dockerfile,
    Entrypoint,
    Env,
    Expose,
    From,
    Healthcheck,
    Instruction,
    Label,
    Maintainer,
    Shell,
    Span,
    Word,
    Workdir,
)
from ch_image.dockerfile.expand import ExpandError, expand
from ch_image.dockerfile.expanded import expanded_words
from ch_image.dockerfile.ignore import Ignore
from ch_image.dockerfile.lint_rules import EXPLANATIONS, Options, read_options
from ch_image.dockerfile.suggest import nearest
from ch_image.errors import ChError, printable
from ch_image.model.platforms import parse_platform
from ch_image.model.ref import parse_ref
from ch_image.typed import NamedTuple, TypeAlias

_SECRET = re.compile(
    r"(?i)(?:_|^)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)"
)
_NO_SECRET = re.compile(r"(?i)(?:_|^)(?:public|file|version)(?:_|$)")
_TARGET = re.compile(r"\$(?:TARGETPLATFORM|\{TARGETPLATFORM\})\Z")
_DEFAULTED = re.compile(r"\$\{\w+:?[-+?]")
_PREDEFINED = [
    *(part + name for part in ("TARGET", "BUILD") for name in ("PLATFORM", "OS", "ARCH")),
    *("TARGETOSVERSION", "TARGETVARIANT", "BUILDOSVERSION", "BUILDVARIANT", "TARGETSTAGE"),
]
# Come from the host without an ARG.
_FROM_HOST = {"SSH_AUTH_SOCK", "USER", "HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY"}
_RESERVED = ("context", "scratch")

# What an image of this name sets, as names; None when nobody knows.
BaseEnv: TypeAlias = Callable[[str], Iterable[str] | None]


class Finding(NamedTuple):
    """One piece of advice: the rule's name, what it found, where, and what the rule is about."""

    rule: str
    message: str
    span: Span
    explanation: str


class _Stage:
    """What an instruction of a stage can see; a value is None where it is not known."""

    def __init__(self, base: _Stage | None, env: Mapping[str, str | None], known: bool) -> None:
        self.env: dict[str, str | None] = dict(base.env if base else env)
        self.declared: set[str] = set(base.declared) if base else set()
        # Whether nothing else is set by the base image.
        self.complete: bool = base.complete if base else known
        self.shell: bool = base.shell if base else False
        self.workdir: bool = base.workdir if base else False
        self.last: dict[type[Instruction], Span] = {}


def lint(
    dockerfile: Dockerfile,
    *,
    ignore: Ignore | None = None,
    base_env: BaseEnv | None = None,
    options: Options | None = None,
) -> tuple[Finding, ...]:
    """All findings, in the order of their places.

    ``ignore`` is the context's ``.dockerignore``; ``base_env`` tells which variables an image
    sets. Where that is unknown, an undefined variable is reported only if it looks like a
    misspelt one; ``options`` take the place of the file's ``# check=`` directive. Raises
    DockerfileError for one that cannot be read.
    """
    wanted = options or read_options(dockerfile)
    return _Linter(dockerfile, ignore, base_env, wanted).run()


class _Linter:
    def __init__(
        self,
        dockerfile: Dockerfile,
        ignore: Ignore | None,
        base_env: BaseEnv | None,
        options: Options,
    ) -> None:
        self.dockerfile, self.ignore, self.base_env = dockerfile, ignore, base_env
        self.found: list[Finding] = []
        self.options = options
        self.local = self.options
        self.stages: dict[str, _Stage] = {}
        self.stage: _Stage | None = None
        self.globals: dict[str, str | None] = dict.fromkeys(_PREDEFINED)

    def run(self) -> tuple[Finding, ...]:
        previous = 0
        for span in self.dockerfile.empty_continuations:
            if span.line != previous + 1:
                self.report("NoEmptyContinuation", "there is an empty line in an instruction", span)
            previous = span.line
        self.check_casing()
        for node, comments in zip(
            self.dockerfile.instructions, self.dockerfile.comments, strict=True
        ):
            self.local = self.options.with_comments(comments)
            self.check_description(node, comments)
            if isinstance(node, From):
                self.check_from(node)
            elif self.stage is None:
                self.declare_global(node)
            else:
                self.check(node, self.stage)
        return tuple(sorted(self.found, key=lambda finding: finding.span[:2]))

    def report(self, rule: str, message: str, span: Span, options: Options | None = None) -> None:
        if (options or self.local).wants(rule):
            self.found.append(Finding(rule, message, span, EXPLANATIONS[rule]))

    def check_casing(self) -> None:
        """All keywords but those of global ARGs are written alike, as most of them are."""
        nodes = self.dockerfile.instructions
        first = next((i for i, node in enumerate(nodes) if isinstance(node, From)), 0)
        names = [node.text.split(None, 1)[0] for node in nodes]
        counted = names[first:]
        lower = sum(name == name.lower() for name in counted)
        upper = sum(name == name.upper() for name in counted)
        want, style = (str.lower, "lowercase") if lower > upper else (str.upper, "uppercase")
        for node, name, comments in zip(
            nodes[first:], counted, self.dockerfile.comments[first:], strict=True
        ):
            if name != want(name):
                message = f"{name} should be {want(name)}, as most keywords are {style}"
                span = node.span._replace(length=len(name))
                local = self.options.with_comments(comments)
                self.report("ConsistentInstructionCasing", message, span, local)

    def check_description(self, node: Instruction, comments: tuple[str, ...]) -> None:
        names = [default.name.text for default in node.names] if isinstance(node, Arg) else []
        if isinstance(node, From) and node.alias:
            names = [node.name]
        if not comments or not names or comments[-1].split(" ")[0] in names:
            return
        kind = "ARG" if isinstance(node, Arg) else "FROM"
        message = f"the comment above {kind} should be of the form: # {names[0]} DESCRIPTION"
        self.report("InvalidDefinitionDescription", message, node.span)

    def check_from(self, node: From) -> None:
        alias, keyword = node.alias, node.keyword
        if alias and alias.text != alias.text.lower():
            message = f'the name of the stage should be lowercase: "{alias.text.lower()}"'
            self.report("StageNameCasing", message, alias.span)
        written = node.text.split(None, 1)[0]
        if keyword and written in (written.lower(), written.upper()):
            want = keyword.text.lower() if written == written.lower() else keyword.text.upper()
            if keyword.text != want:
                message = f"{keyword.text} should be {want}, as {written} is written"
                self.report("FromAsCasing", message, keyword.span)
        if alias and node.name in _RESERVED:
            message = f'"{node.name}" has a meaning of its own and should not name a stage'
            self.report("ReservedStageName", message, alias.span)
        if alias and node.name in self.stages:
            message = f'there is a stage named "{node.name}" already'
            self.report("DuplicateStageName", message, alias.span)
        self.check_from_args(node)
        image = self.value(node.image, self.globals)
        if "$" in node.image.text and image is not None and not _is_image(image):
            shown = printable(image, 60)
            message = f'without build arguments this is no image: "{shown}"'
            self.report("InvalidDefaultArgInFrom", message, node.image.span)
        base = self.stages.get((image or "").lower())
        env: dict[str, str | None] = {"PATH": None}
        known = image == "scratch"
        if base is None and image and not known and self.base_env is not None:
            names = self.base_env(image)
            known = names is not None
            env.update(dict.fromkeys(names or ()))
        self.stage = _Stage(base, env, known)
        if node.name:
            self.stages[node.name] = self.stage

    def check_from_args(self, node: From) -> None:
        for word in (node.image, node.platform):
            for name, span in self.undefined(word, self.globals) if word else ():
                near = nearest(name, self.globals)
                hint = f"; did you mean {near}?" if near else ""
                message = f"{name} is not declared by an ARG in front of the first FROM{hint}"
                self.report("UndefinedArgInFrom", message, span)
        platform = node.platform
        if platform and _TARGET.match(platform.text):
            message = f"--platform={platform.text} is what FROM does anyway"
            self.report("RedundantTargetPlatform", message, platform.span)
        elif platform and "$" not in platform.text:
            try:
                parsed = parse_platform(platform.text)
            except ChError:
                return
            if parsed.os not in node.name and parsed.architecture not in node.name:
                message = f'the platform "{platform.text}" is fixed'
                self.report("FromPlatformFlagConstDisallowed", message, platform.span)

    def declare_global(self, node: Instruction) -> None:
        for name, default in node.names if isinstance(node, Arg) else ():
            if default is not None:
                self.globals[name.text] = self.value(default, self.globals)
            else:
                self.globals.setdefault(name.text, "")

    def check(self, node: Instruction, stage: _Stage) -> None:
        """The rules for an instruction inside a stage, and what it changes there."""
        for word in expanded_words(node):
            self.check_word(word, stage)
        match node:
            case Maintainer():
                message = "MAINTAINER is deprecated; use LABEL org.opencontainers.image.authors="
                self.report("MaintainerDeprecated", message, node.span)
            case Shell():
                stage.shell = True
            case Workdir():
                self.check_workdir(node, stage)
            case Cmd() | Entrypoint() | Healthcheck():
                self.check_command(node, stage)
            case Env() | Label():
                self.check_pairs(node, stage)
            case Arg():
                self.check_arg(node, stage)
            case Expose():
                self.check_expose(node)
            case Copy() | Add():
                self.check_sources(node)
            case _:
                pass

    def check_word(self, word: Word, stage: _Stage) -> None:
        for name, span in self.undefined(word, stage.env):
            if name in stage.declared or name.upper() in _FROM_HOST:
                continue
            near = nearest(name, stage.env)
            if near or stage.complete:
                hint = f"; did you mean ${near}?" if near else ""
                self.report("UndefinedVar", f"${name} is not set here{hint}", span)

    def check_workdir(self, node: Workdir, stage: _Stage) -> None:
        path = self.value(node.path, stage.env, stage.complete)
        if not stage.workdir and path is not None and not path.startswith("/"):
            message = f'"{printable(path, 60)}" depends on the WORKDIR of the base image'
            self.report("WorkdirRelativePath", message, node.path.span)
        stage.workdir = True

    def check_command(self, node: Cmd | Entrypoint | Healthcheck, stage: _Stage) -> None:
        name = type(node).__name__.upper()
        before = stage.last.get(type(node))
        if before:
            message = f"only the last {name} of a stage has an effect; there is another one below"
            self.report("MultipleInstructionsDisallowed", message, before)
        stage.last[type(node)] = node.span
        if node.shell_form and not isinstance(node, Healthcheck) and not stage.shell:
            message = f'{name} in the shell form hides signals; write {name} ["...", "..."]'
            self.report("JSONArgsRecommended", message, node.span)

    def check_pairs(self, node: Env | Label, stage: _Stage) -> None:
        kind = type(node).__name__.upper()
        if node.legacy:
            key = node.pairs[0].key
            message = f"write {kind} {printable(key.text, 60)}=VALUE, with the equals sign"
            self.report("LegacyKeyValueFormat", message, key.span)
        if isinstance(node, Label):
            return
        after = {}
        for key, value in node.pairs:
            name = self.value(key, stage.env, stage.complete) or key.text
            self.check_secret(kind, name, key.span)
            after[name] = self.value(value, stage.env, stage.complete)
        stage.env.update(after)

    def check_arg(self, node: Arg, stage: _Stage) -> None:
        for name, default in node.names:
            self.check_secret("ARG", name.text, name.span)
            if default is not None:
                self.check_word(default, stage)
                stage.env[name.text] = self.value(default, stage.env, stage.complete)
            elif name.text in self.globals:
                stage.env[name.text] = self.globals[name.text]
            stage.declared.add(name.text)

    def check_secret(self, kind: str, name: str, span: Span) -> None:
        if _SECRET.search(name) and not _NO_SECRET.search(name):
            message = f"{kind} {printable(name, 60)} looks like a secret, and stays in the image"
            self.report("SecretsUsedInArgOrEnv", message, span)

    def check_expose(self, node: Expose) -> None:
        for word in node.ports:
            port, _, protocol = word.text.partition("/")
            if "$" in word.text:
                continue
            if protocol != protocol.lower():
                message = f'the protocol "{printable(protocol, 60)}" should be lowercase'
                self.report("ExposeProtoCasing", message, word.span)
            if ":" in port:
                message = f'an address or a host port means nothing here: "{printable(port, 60)}"'
                self.report("ExposeInvalidFormat", message, word.span)

    def check_sources(self, node: Copy | Add) -> None:
        rules = self.ignore
        from_context = not (isinstance(node, Copy) and node.from_)
        if rules is None or rules.has_exceptions or not from_context:
            return
        for word in node.sources:
            path = word.text.strip("/").removeprefix("./")
            if "$" in path or "://" in path or path.startswith("git@"):
                continue
            # The root itself is never left out, but a rule may leave out all that is in it.
            if rules.excluded(path if path not in ("", ".") else "any name"):
                rule = rules.explain(path if path not in ("", ".") else "any name")
                where = f" by {rule.file}, line {rule.number}" if rule else ""
                message = f'"{printable(word.text, 60)}" is left out{where}'
                self.report("CopyIgnoredFile", message, word.span)

    def undefined(self, word: Word, env: Mapping[str, str | None]) -> Iterable[tuple[str, Span]]:
        """The names in ``word`` that nobody sets and that have no default there."""
        if "$" not in word.text:
            return
        try:
            result = expand(
                word.text,
                lambda name: "x" if name in env else None,
                self.dockerfile.directives.escape,
            )
        except ExpandError:
            return
        seen = set()
        for name, offset in result.unset:
            if name not in seen and not _DEFAULTED.match(word.text, offset):
                seen.add(name)
                braces = 2 * word.text.startswith("{", offset + 1)
                yield name, word.at(offset, len(name) + 1 + braces)

    def value(self, word: Word, env: Mapping[str, str | None], complete: bool = True) -> str | None:
        """What ``word`` is for certain; None when it hangs on something unknown."""
        unknown = []

        def lookup(name: str) -> str | None:
            value = env.get(name)
            if value is None and (name in env or not complete):
                unknown.append(name)
            return value

        try:
            result = expand(word.text, lookup, self.dockerfile.directives.escape)
        except ExpandError:
            return None
        return None if unknown else result.text


def _is_image(text: str) -> bool:
    try:
        parse_ref(text)
    except ChError:
        return False
    return True
