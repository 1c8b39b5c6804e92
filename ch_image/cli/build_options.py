"""The values of ``build``'s options, from text to what the builder takes.

Pure functions of text and environment; each raises UsageError that quotes what cannot be meant.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping

from ch_image.build.options import Secret
from ch_image.errors import UsageError, printable

# Taken from the host for RUN without being asked for; never in a key, never in the image.
PASSED = (
    "HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "FTP_PROXY", "ftp_proxy",
    "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy", "SSH_AUTH_SOCK", "USER",
)  # fmt: skip
MAX_SECRET = 500 << 10  # bytes, BuildKit's limit too
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _refuse(option: str, text: str, why: str, hint: str = "") -> UsageError:
    return UsageError(f"{option} {printable(text, 200)}: {why}", hint=hint)


def infer_name(dockerfile: str, context: str) -> str:
    """The image's name where no ``-t`` gives one.

    From ``Dockerfile.NAME``, ``NAME.df`` or ``NAME.dockerfile``, else the context directory.
    ``context`` is absolute, or empty when there is none. Raises UsageError.
    """
    base = os.path.basename(dockerfile)
    stem, _, extension = base.rpartition(".")
    if stem.lower() == "dockerfile":
        name = extension
    elif stem and extension.lower() in ("df", "dockerfile"):
        name = stem
    else:
        name = os.path.basename(context.rstrip("/")) or ("root" if context else "")
    name = re.sub(r"[^a-z0-9_.-]", "", name.lower())
    name = re.sub(r"([_.-])[_.-]+", r"\1", name).strip("_.-")
    if not name:
        raise UsageError("no name for the image", hint="give it one with -t NAME")
    return name


def pairs(option: str, texts: Iterable[str], *, bare: bool = False) -> dict[str, str]:
    """``KEY=VALUE`` words as a mapping; ``bare`` allows a KEY alone, with an empty value."""
    out = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not (equals or bare):
            raise _refuse(option, text, "not KEY=VALUE")
        out[key] = value
    return out


def build_args(texts: Iterable[str], env: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Arguments, and the names that were to come from the environment and are not there."""
    out: dict[str, str] = {}
    absent = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not _NAME.fullmatch(name):
            raise _refuse("--build-arg", name, "not a variable's name")
        if equals:
            out[name] = value
        elif name in env:
            out[name] = env[name]
        else:
            absent.append(name)
    return out, absent


def binds(texts: Iterable[str], cwd: str) -> tuple[tuple[str, str], ...]:
    """``SRC[:DST]``; the destination is the source's path unless given."""
    out = []
    for text in texts:
        source, _, target = text.partition(":")
        if not source:
            raise _refuse("--bind", text, "no source")
        source = os.path.normpath(os.path.join(cwd, source))
        if not os.path.exists(source):
            raise _refuse("--bind", text, "the source does not exist")
        target = target or source
        if not target.startswith("/"):
            raise _refuse("--bind", text, "the destination is not an absolute path")
        out.append((source, target))
    return tuple(out)


def force_commands(texts: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """``CMD,ARG[,ARG...]``; a backslash keeps a comma in a word."""
    out = []
    for text in texts:
        words = [re.sub(r"\\(.)", r"\1", part) for part in re.findall(r"(?:^|,)((?:\\.|[^,\\])*)",
                                                                     text)]  # fmt: skip
        if len(words) < 2 or not words[0]:
            raise _refuse("--force-cmd", text, "needs CMD,ARG[,ARG...]")
        out.append(tuple(words))
    return tuple(out)


def hosts(texts: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """``NAME:ADDRESS`` or ``NAME=ADDRESS`` as (name, address)."""
    out = []
    for text in texts:
        import ipaddress

        match = re.fullmatch(r"([A-Za-z0-9._-]+)[:=](.+)", text)
        if not match:
            raise _refuse("--add-host", text, "not NAME:ADDRESS")
        name, address = match[1], match[2].removeprefix("[").removesuffix("]")
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise _refuse("--add-host", text, "not an IP address") from None
        out.append((name, address))
    return tuple(out)


def secrets(
    texts: Iterable[str], env: Mapping[str, str], cwd: str
) -> tuple[dict[str, Secret], dict[str, bytes]]:
    """``id=NAME[,src=PATH|,env=VARIABLE]``: where secrets are, and the values of variables.

    With neither, a variable of that name, else a file, is meant.
    """
    out: dict[str, Secret] = {}
    values: dict[str, bytes] = {}
    for text in texts:
        fields = pairs("--secret", text.split(","))
        unknown = fields.keys() - {"id", "src", "source", "env", "type"}
        if unknown:
            raise _refuse("--secret", min(unknown), "not one of id, src, env, type")
        source, variable = fields.get("src") or fields.get("source") or "", fields.get("env", "")
        name = fields.get("id") or os.path.basename(source) or variable
        kind = fields.get("type", "")
        if kind not in ("", "file", "env") or not name or (source and variable):
            raise _refuse("--secret", text, "not id=NAME with src=PATH or env=VARIABLE")
        if kind == "env" and source:  # docker's older way to write env=
            source, variable = "", source
        if not source and not variable:
            variable, source = (name, "") if name in env and kind != "file" else ("", name)
        if variable:
            if variable not in env:
                raise _refuse("--secret", text, f"variable {printable(variable, 100)} is not set")
            values[variable] = os.fsencode(env[variable])
            out[name] = Secret(variable=variable)
        else:
            out[name] = Secret(path=_secret_file(text, os.path.join(cwd, source)))
    return out, values


def _secret_file(text: str, path: str) -> str:
    try:
        size = os.stat(path).st_size
    except OSError as error:
        raise _refuse("--secret", text, f"cannot read its file: {error.strerror}") from None
    if not os.path.isfile(path):
        raise _refuse("--secret", text, "not a regular file")
    if size > MAX_SECRET:
        raise _refuse("--secret", text, f"larger than {MAX_SECRET >> 10} KiB")
    return path


def agents(texts: Iterable[str], env: Mapping[str, str]) -> dict[str, str]:
    """``default`` or ``ID=SOCKET``: the sockets of SSH agents."""
    import stat

    out = {}
    for text in texts:
        name, _, path = text.partition("=")
        path = path or env.get("SSH_AUTH_SOCK", "")
        if not name or not path:
            raise _refuse(
                "--ssh", text, "no agent", hint="start ssh-agent, so that SSH_AUTH_SOCK is set"
            )
        try:
            is_socket = stat.S_ISSOCK(os.stat(path).st_mode)
        except OSError as error:
            raise _refuse("--ssh", text, error.strerror or "cannot be used") from None
        if not is_socket:
            raise _refuse("--ssh", text, "not an agent's socket", hint="add the key to ssh-agent")
        out[name] = os.path.abspath(path)
    return out


def contexts(texts: Iterable[str], cwd: str) -> dict[str, str]:
    """``NAME=VALUE``; a VALUE that is a directory is made absolute."""
    out = {}
    for name, text in pairs("--build-context", texts).items():
        scheme = re.match(r"(?:oci-layout:(?://)?)|([a-z][a-z0-9+.-]*:)", text)
        if not text:
            raise _refuse("--build-context", name, "no value")
        if scheme is None:
            text = os.path.join(cwd, text)
        elif not scheme[1]:
            text = "oci-layout://" + os.path.join(cwd, text[scheme.end() :])
        out[name] = text
    return out


def epoch(env: Mapping[str, str]) -> int | None:
    """SOURCE_DATE_EPOCH in seconds (reproducible-builds.org), None when it is not set."""
    text = env.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise UsageError(f"SOURCE_DATE_EPOCH is not a number of seconds: '{printable(text, 60)}'")
    return int(text)


def number(option: str, text: str) -> int:
    """A number from 1 on."""
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 10_000):
        raise _refuse(option, text, "not a number from 1 on")
    return int(text)
