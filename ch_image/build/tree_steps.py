"""The instructions that touch a tree, RUN to RSYNC, resolved into effects. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

from ch_image.build.args import PROXIES
from ch_image.build.effects import (
    AddEffect,
    CopyEffect,
    InlineFile,
    RsyncEffect,
    RunEffect,
    WorkdirEffect,
)
from ch_image.build.state import HIDDEN, Folded, destination, joined
from ch_image.build.words import Words
from ch_image.dockerfile.ast import Add, Copy, Mount, Rsync, Run, Word, Workdir
from ch_image.dockerfile.mounts import ResolvedMount, resolve_mount
from ch_image.errors import printable
from ch_image.regex import regex

SCRIPTS = "/dev/pipes/"  # where Docker's builder puts a heredoc that names its interpreter
_LONE_HEREDOC = regex(r"\s*[0-9]*<<-?[^<\s]+\s*")
_MODE = regex(r"0*[0-7]{1,4}")
_URL = regex(r"https?://")


def run(words: Words, node: Run) -> Folded:
    """RUN."""
    state = words.state
    command, files = _script(node)
    argv = (*state.shell, " ".join(command)) if node.shell_form else command
    mounts = tuple(_mount(words, mount) for mount in node.mounts)
    effect = RunEffect(
        argv=argv,
        env=state.environment(),
        passed=words.scope.passed,
        cwd=state.workdir,
        user=state.user,
        shell_form=node.shell_form,
        files=files,
        mounts=mounts,
        network=node.network,
        security=node.security,
        devices=tuple(words.word(device) for device in node.devices),
    )
    parts: dict[str, object] = {"RUN": [command, [(f.path, f.data) for f in files]]}
    if node.shell_form:
        parts["SHELL"] = state.shell
    parts |= {f"ENV {name}": value for name, value in state.run_config.environment().items()}
    parts |= {f"ARG {name}": value for name, value in state.args.items() if name not in PROXIES}
    parts |= {"WORKDIR": state.workdir, "USER": state.user}
    parts |= {"RUN --network": node.network, "RUN --security": node.security}
    if effect.devices:
        parts["RUN --device"] = effect.devices
    for mount in mounts:
        parts[f"RUN --mount {mount.type} {mount.target or mount.id}"] = _meaning(
            mount, "span", "from_"
        )
    text = " ".join(["RUN", *_shown_args(words), *argv, "# buildkit"])
    return Folded(state.commit(text, layer=True), effect, parts)


def _script(node: Run) -> tuple[tuple[str, ...], tuple[InlineFile, ...]]:
    """The command of a RUN, its heredocs put where Docker's builder puts them."""
    command = tuple(word.text for word in node.words)
    if not node.heredocs:
        return command, ()
    first = node.heredocs[0]
    if len(command) == 1 and _LONE_HEREDOC.fullmatch(command[0]):
        if first.data.startswith("#!"):
            path = SCRIPTS + first.name
            return (path,), (InlineFile(path, first.data, 0o755),)
        return (first.data,), ()
    # The shell has to understand them: the line, then each document with its end.
    documents = (f"\n{heredoc.content}{heredoc.name}" for heredoc in node.heredocs)
    return (" ".join(command) + "".join(documents),), ()


def _shown_args(words: Words) -> list[str]:
    """The ARGs in front of a command in the history: ``|2 A=1 B=2``."""
    state = words.state
    values = state.environment()
    shown = [
        f"{name}={HIDDEN if name in state.hidden else values.get(name, '')}"
        for name in state.declared
        if name not in PROXIES
    ]
    return [f"|{len(shown)}", *shown] if shown else []


def _mount(words: Words, mount: Mount) -> ResolvedMount:
    """A mount with what it leaves out filled in; its target is absolute."""
    found = resolve_mount(words.source, mount, words.word)
    if found.type == "secret":
        name = found.source or found.id or posixpath.basename(found.target)
        target = found.target
        if not target and found.env is None:
            target = f"/run/secrets/{posixpath.basename(name)}"
        target = joined(words.state.workdir, target) if target else ""
        return found._replace(id=name, source="", target=target)
    if found.type == "ssh":
        if found.source:
            raise words.fault(found.span, "an ssh mount takes no source")
        target = joined(words.state.workdir, found.target) if found.target else ""
        return found._replace(id=found.id or "default", target=target)
    target = joined(words.state.workdir, found.target)
    if not target.strip("/"):
        hint = "name a directory with target=PATH"
        raise words.fault(found.span, "nothing can be mounted over /", hint=hint)
    if found.type == "cache":
        name = found.id or posixpath.normpath(found.target or ".")
        return found._replace(target=target, id=name, sharing=found.sharing or "shared")
    return found._replace(target=target)


def copy(words: Words, node: Copy) -> Folded:
    """COPY."""
    effect = CopyEffect(
        sources=tuple(map(words.word, node.sources)),
        files=_files(words, node),
        destination=destination(words.state.workdir, words.word(node.destination)),
        from_=node.from_.text if node.from_ else None,
        chown=words.word(node.chown),
        chmod=_chmod(words, node.chmod),
        link=node.link,
        parents=node.parents,
        exclude=tuple(word.text for word in node.exclude),
    )
    for word, source in zip(node.sources, effect.sources, strict=True):
        if _URL.match(source):
            raise words.fault(word, "COPY takes no URL", hint="ADD does")
    flags = {"parents": node.parents, "chown": effect.chown, "chmod": effect.chmod}
    text = _copy_text(words, node, "COPY", flags, effect.sources)
    # The name after --from says nothing: what is copied has its own digests in the key.
    parts = {"COPY": _meaning(effect, "from_", "files")}
    return _with_files(words, parts | _documents(effect.files), text, effect)


def add(words: Words, node: Add) -> Folded:
    """ADD."""
    effect = AddEffect(
        sources=tuple(map(words.word, node.sources)),
        files=_files(words, node),
        destination=destination(words.state.workdir, words.word(node.destination)),
        chown=words.word(node.chown),
        chmod=_chmod(words, node.chmod),
        link=node.link,
        exclude=tuple(word.text for word in node.exclude),
        checksum=words.word(node.checksum),
        keep_git_dir=node.keep_git_dir,
        unpack=node.unpack,
    )
    if node.checksum and len(effect.sources) != 1:
        raise words.fault(node.checksum, "--checksum goes with one source")
    text = _copy_text(
        words, node, "ADD", {"chown": effect.chown, "chmod": effect.chmod}, effect.sources
    )
    parts = {"ADD": _meaning(effect, "files")}
    return _with_files(words, parts | _documents(effect.files), text, effect)


def _with_files(
    words: Words, parts: dict[str, object], text: str, effect: CopyEffect | AddEffect
) -> Folded:
    return Folded(words.state.commit(f"{text} # buildkit", layer=True), effect, parts)


def _meaning(
    value: CopyEffect | AddEffect | RsyncEffect | ResolvedMount, *without: str
) -> dict[str, object]:
    """The fields of ``value`` that count for the cache key."""
    return {name: field for name, field in value._asdict().items() if name not in without}


def _documents(files: Sequence[InlineFile]) -> dict[str, object]:
    return {f"<<{file.path}": file.data for file in files}


def _files(words: Words, node: Copy | Add) -> tuple[InlineFile, ...]:
    return tuple(InlineFile(h.name, words.document(h)) for h in node.heredocs)


def _copy_text(
    words: Words, node: Copy | Add, name: str, flags: dict[str, object], sources: Sequence[str]
) -> str:
    """The line of COPY or ADD in the history."""
    target = words.word(node.destination)
    if words.secret:
        flags = {key: value and _raw(getattr(node, key)) for key, value in flags.items()}
        sources, target = [word.text for word in node.sources], node.destination.text
    shown = [
        f"--{key}" if value is True else f"--{key}={value}" for key, value in flags.items() if value
    ]
    documents = [f"<<{heredoc.name}" for heredoc in node.heredocs]
    return " ".join([name, *shown, *sources, *documents, target])


def _raw(value: Word | bool | None) -> str | bool:
    return value.text if isinstance(value, Word) else bool(value)


def _chmod(words: Words, word: Word | None) -> str:
    mode = words.word(word)
    if word is not None and mode.isdecimal() and not _MODE.fullmatch(mode):
        message = f"--chmod: {printable(mode, 60)} is no octal mode up to 7777"
        raise words.fault(word, message)
    return mode


def workdir(words: Words, node: Workdir) -> Folded:
    """WORKDIR: a directory to make, unless it is the root."""
    state = words.state
    path = joined(state.workdir, words.word(node.path) or ".")
    effect = WorkdirEffect(path, state.user) if path != "/" else None
    parts: dict[str, object] = {"WORKDIR": path, "USER": state.user}
    state = state.with_config(working_dir=path)
    return Folded(state.commit(f"WORKDIR {path}", layer=effect is not None), effect, parts)


def rsync(words: Words, node: Rsync) -> Folded:
    """RSYNC, NSYNC."""
    effect = RsyncEffect(
        group=node.group,
        options=tuple(map(words.word, node.options)),
        sources=tuple(map(words.word, node.sources)),
        destination=destination(words.state.workdir, words.word(node.destination)),
    )
    shown = (
        node.text
        if words.secret
        else " ".join(
            [
                "RSYNC",
                f"+{node.group}",
                *effect.options,
                *effect.sources,
                words.word(node.destination),
            ]
        )
    )
    return Folded(words.state.commit(shown, layer=True), effect, {"RSYNC": _meaning(effect)})
