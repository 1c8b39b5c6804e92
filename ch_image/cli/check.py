"""build --check: advice about a Dockerfile, as lines or as JSON; nothing is built."""

from __future__ import annotations

from ch_image.build.context import read_rules
from ch_image.cli.build_options import build_args
from ch_image.cli.faults import describe
from ch_image.cli.session import Session, emit
from ch_image.dockerfile.ast import Dockerfile
from ch_image.dockerfile.lint import Finding, lint
from ch_image.dockerfile.lint_rules import GIVEN, Options, given_options, read_options
from ch_image.errors import ChError, printable


def check(session: Session, dockerfile: Dockerfile, path: str, context: str | None) -> int:
    """Print what there is to say; 1 when there is something, else 0."""
    findings = _findings(session, dockerfile, path, context)
    if session.parsed.text("format") == "json":
        import json

        emit([json.dumps([_value(dockerfile, one) for one in findings], indent=2)])
    else:
        for one in findings:
            emit(_lines(dockerfile, one))
        many = "" if len(findings) == 1 else "s"
        emit([f"{len(findings)} finding{many}"] if findings else [])
    return 1 if findings else 0


def enforce(session: Session, dockerfile: Dockerfile, path: str, context: str | None) -> None:
    """Refuse to build what ``# check=error=true`` finds. Raises DockerfileError."""
    if not _options(session, dockerfile).error:
        return
    findings = _findings(session, dockerfile, path, context)
    if findings:
        one, more = findings[0], len(findings) - 1
        hint = "the check directive asks for error=true; build --check shows all"
        message = f"{one.rule}: {one.message}" + f" ({more} more)" * bool(more)
        raise dockerfile.fault(one.span, message, hint=hint)


def _options(session: Session, dockerfile: Dockerfile) -> Options:
    given, _ = build_args(session.parsed.texts("build-arg"), session.env)
    if GIVEN in given:
        return given_options(given[GIVEN])
    return read_options(dockerfile)


def _findings(
    session: Session, dockerfile: Dockerfile, path: str, context: str | None
) -> tuple[Finding, ...]:
    rules = read_rules(context, "" if path == "-" else path) if context else None

    def base_env(name: str) -> list[str] | None:
        try:
            image = session.storage.images.find(session.ref(name))
        except ChError:  # no name, or damaged: then its variables are not known
            return None
        return list(image.config.config.environment()) if image else None

    ignore = rules[1] if rules else None
    options = _options(session, dockerfile)
    return lint(dockerfile, ignore=ignore, base_env=base_env, options=options)


def _lines(dockerfile: Dockerfile, one: Finding) -> list[str]:
    error = dockerfile.fault(one.span, f"{one.rule}: {one.message}")
    message, _, more = describe(error)
    return [message, *more, f"     = {printable(one.explanation)}", ""]


def _value(dockerfile: Dockerfile, one: Finding) -> dict[str, object]:
    return {
        "rule": one.rule,
        "message": one.message,
        "explanation": one.explanation,
        "file": dockerfile.file,
        "line": one.span.line,
        "column": one.span.column,
        "length": one.span.length,
    }
