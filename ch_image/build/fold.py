"""One instruction folded over the state of its stage: a new state, and at most one effect. Pure.

Signature:

    fold(state, instruction, scope, source) -> Folded(state, effect, parts)

``source`` is the Dockerfile that the instruction stands in (``Step.source``). FROM is folded too,
for it may carry ``--arg``. Faults are DockerfileErrors at their place.

The referee is what BuildKit writes. Differences that are meant: a value given by ``--build-arg``
is shown as ``****`` in the history, and COPY and ADD whose words read such a value keep their
words as written there; a proxy stays out even where an ARG declares it; variables are replaced
in SHELL and RSYNC too (names that are not set stay in SHELL). The words of RUN, CMD, ENTRYPOINT
and HEALTHCHECK are left alone, as Docker documents.
"""

from __future__ import annotations

from collections.abc import Sequence

from ch_image.build.args import EPOCH, PROXIES, Scope
from ch_image.build.state import HIDDEN, BuildState, Folded, with_labels
from ch_image.build.tree_steps import add, copy, rsync, run, workdir
from ch_image.build.wording import (
    exposed_ports,
    healthcheck_text,
    is_signal,
    plain_list,
    quoted_list,
)
from ch_image.build.words import Words
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
    Onbuild,
    Rsync,
    Run,
    Shell,
    Stopsignal,
    User,
    Volume,
    Word,
    Workdir,
)
from ch_image.errors import printable
from ch_image.model.oci import Healthcheck as HealthConfig
from ch_image.typed import assert_never


def fold(state: BuildState, instruction: Instruction, scope: Scope, source: Dockerfile) -> Folded:
    """Carry out ``instruction`` on the config. Raises DockerfileError."""
    folded = _fold(Words(state, scope, source), instruction)
    return folded._replace(kind=type(instruction).__name__.upper())


def _fold(words: Words, instruction: Instruction) -> Folded:
    match instruction:
        case Run():
            return run(words, instruction)
        case Copy():
            return copy(words, instruction)
        case Add():
            return add(words, instruction)
        case Workdir():
            return workdir(words, instruction)
        case Rsync():
            return rsync(words, instruction)
        case Arg():
            pairs = [(name.text, value) for name, value in instruction.names]
            folded, shown = _arguments(words, pairs)
            return folded._replace(state=folded.state.commit(" ".join(["ARG", *shown])))
        case From():
            return _arguments(words, [(p.key.text, p.value) for p in instruction.args])[0]
        case Env():
            return _env(words, instruction)
        case _:
            return _metadata(words, instruction)


def _env(words: Words, node: Env) -> Folded:
    # All words are read before any name is set: ENV a=1 b=$a sees the a of before.
    pairs = [(words.word(pair.key), words.word(pair.value)) for pair in node.pairs]
    state, args, run_config = words.state, dict(words.state.args), words.state.run_config
    for (name, value), pair in zip(pairs, node.pairs, strict=True):
        if not name or "=" in name:
            raise words.fault(pair.key, f'"{printable(name, 100)}" cannot name a variable')
        run_config = run_config.with_env(name, value)
        args.pop(name, None)
    state = state._replace(
        config=state.config._replace(config=run_config),
        args=args,
        hidden=state.hidden & args.keys(),
    )
    state = state.commit(" ".join(["ENV", *(f"{name}={value}" for name, value in pairs)]))
    return Folded(state, None, {f"ENV {name}": value for name, value in pairs})


def _arguments(words: Words, pairs: Sequence[tuple[str, Word | None]]) -> tuple[Folded, list[str]]:
    """ARG: the new state, and each name as the history shows it. Later ones see earlier ones."""
    state, scope = words.state, words.scope
    shown: list[str] = []
    parts: dict[str, object] = {}
    for name, default in pairs:
        value: str | None = None
        secret = False
        if name in PROXIES and name in scope.passed:
            pass  # there already, and no step may depend on it
        elif name in scope.build_args:
            value, secret = scope.build_args[name], name != EPOCH
        elif default is not None:
            words = Words(state, scope, words.source)
            value = words.word(default)
            secret = words.secret
        elif name in scope.global_args:
            value, secret = scope.global_args[name], name in scope.hidden
        hidden = state.hidden - {name}
        args = {key: old for key, old in state.args.items() if key != name}
        if value is None:  # an earlier value stays
            hidden, args = state.hidden, dict(state.args)
        else:
            args[name] = value
            hidden |= {name} if secret else set()
        declared = state.declared if name in state.declared else (*state.declared, name)
        state = state._replace(args=args, declared=declared, hidden=hidden)
        shown.append(name if value is None else f"{name}={HIDDEN if secret else value}")
        proxy = name in PROXIES  # whether the host has one makes no difference
        parts[f"ARG {name}"] = (default and default.text) if proxy else value
    return Folded(state, None, parts), shown


_Metadata = (
    Label
    | User
    | Cmd
    | Entrypoint
    | Shell
    | Expose
    | Volume
    | Healthcheck
    | Stopsignal
    | Maintainer
    | Onbuild
)


def _metadata(words: Words, node: _Metadata) -> Folded:
    """The instructions that touch nothing but the config, and no later word."""
    state = words.state
    match node:
        case Label():
            pairs = [(words.word(pair.key), words.word(pair.value)) for pair in node.pairs]
            state = state.with_config(labels=with_labels(state.run_config.labels, pairs))
            text = " ".join(["LABEL", *(f"{key}={value}" for key, value in pairs)])
            return _done(state, text, {f"LABEL {key}": value for key, value in pairs})
        case User():
            user = words.word(node.user)
            return _done(state.with_config(user=user), f"USER {user}", {"USER": user})
        case Cmd():
            line = _command(state, node)
            extra = {**state.run_config.extra, "ArgsEscaped": True}  # as Docker: for Windows
            state = state.with_config(cmd=line or None, extra=extra)._replace(cmd_here=True)
            return _done(state, f"CMD {quoted_list(line)}", {"CMD": line})
        case Entrypoint():
            line = _command(state, node)
            cmd = state.run_config.cmd if state.cmd_here else None  # an inherited CMD is reset
            state = state.with_config(entrypoint=line or None, cmd=cmd)
            return _done(state, f"ENTRYPOINT {quoted_list(line)}", {"ENTRYPOINT": line})
        case Shell():
            shell = tuple(map(words.shell_word, node.words))
            return _done(
                state.with_config(shell=shell), f"SHELL {plain_list(shell)}", {"SHELL": shell}
            )
        case Expose():
            return _expose(words, node)
        case Volume():
            return _volume(words, node)
        case Healthcheck():
            return _healthcheck(state, node)
        case Stopsignal():
            return _stopsignal(words, node)
        case Maintainer():
            author = node.name.text
            state = state._replace(config=state.config._replace(author=author))
            return _done(state, f"MAINTAINER {author}", {"MAINTAINER": author})
        case Onbuild():
            on_build = (*state.run_config.on_build, node.expression)
            return Folded(state.with_config(on_build=on_build), None, {"ONBUILD": node.expression})
        case _:
            assert_never(node)


def _done(state: BuildState, text: str, parts: dict[str, object]) -> Folded:
    return Folded(state.commit(text), None, parts)


def _command(state: BuildState, node: Cmd | Entrypoint) -> tuple[str, ...]:
    words = tuple(word.text for word in node.words)
    return (*state.shell, " ".join(words)) if node.shell_form else words


def _expose(words: Words, node: Expose) -> Folded:
    ports: list[str] = []
    for word in sorted(node.ports, key=lambda word: word.text):  # as Docker, before expansion
        try:
            ports += exposed_ports(words.words(word))
        except ValueError as error:
            hint = "write PORT, PORT/udp or FIRST-LAST"
            raise words.fault(word, f"EXPOSE: {printable(str(error), 200)}", hint=hint) from None
    kept = words.state.run_config.exposed_ports
    state = words.state.with_config(exposed_ports=tuple(dict.fromkeys((*kept, *ports))))
    return _done(state, f"EXPOSE {plain_list(ports)}", {"EXPOSE": ports})


def _volume(words: Words, node: Volume) -> Folded:
    paths = []
    for word in node.paths:
        path = words.word(word)
        if not path:
            raise words.fault(word, "VOLUME: the path is empty")
        paths.append(path)
    kept = words.state.run_config.volumes
    state = words.state.with_config(volumes=tuple(dict.fromkeys((*kept, *paths))))
    return _done(state, f"VOLUME {plain_list(paths)}", {"VOLUME": paths})


def _healthcheck(state: BuildState, node: Healthcheck) -> Folded:
    test = tuple(word.text for word in node.words)
    test = ("NONE",) if node.none else ("CMD-SHELL" if node.shell_form else "CMD", *test)
    times = (node.interval, node.timeout, node.start_period, node.start_interval)
    check = HealthConfig(test, *times, node.retries)
    text = f"HEALTHCHECK {healthcheck_text(check)}"
    return _done(state.with_config(healthcheck=check), text, {"HEALTHCHECK": check._asdict()})


def _stopsignal(words: Words, node: Stopsignal) -> Folded:
    signal = words.word(node.signal)
    if not is_signal(signal):
        hint = "write a name such as SIGTERM, or a number"
        message = f'STOPSIGNAL: there is no signal "{printable(signal, 60)}"'
        raise words.fault(node.signal, message, hint=hint)
    state = words.state.with_config(stop_signal=signal)
    return _done(state, f"STOPSIGNAL {signal}", {"STOPSIGNAL": signal})
