"""gestalt and completion: what this installation can do, for scripts and shells."""

from __future__ import annotations

import os

from ch_image.cli import options
from ch_image.cli.session import COMMON, Session, emit
from ch_image.errors import ChError, UsageError, printable

_ANSWERS = {
    "bucache": "whether there is a build cache: exit code 0",
    "bucache-dot": "whether the build cache can be drawn: exit code 0",
    "python-path": "where the Python is that runs this",
    "storage-path": "where images are stored",
    "logging": "one line of each kind, to see what -q and -v leave; --fail: and an error",
}


def _gestalt(session: Session) -> int:
    selector = session.words[0] if session.words else "list"
    if selector == "list":
        emit(f"{name:<14}{about}" for name, about in _ANSWERS.items())
    elif selector == "python-path":
        import sys

        emit([sys.executable])
    elif selector == "storage-path":
        emit([session.storage_path])
    elif selector == "logging":
        return _logging(session)
    elif selector not in _ANSWERS:
        raise UsageError(
            f"gestalt knows nothing of '{printable(selector, 60)}'",
            hint=options.near(selector, _ANSWERS) or f"it knows {', '.join(_ANSWERS)}",
        )
    return 0


def _logging(session: Session) -> int:
    from ch_image.report import Detail, Info, Warned

    for level, name in ((3, "trace"), (2, "debug"), (1, "verbose")):
        session.report(Detail(name, level))
    session.report(Info("info"))
    session.report(Warned("warning"))
    if session.parsed.has("fail"):
        raise ChError("the program failed, as it was asked to")
    return 0


GESTALT = options.Command(
    "gestalt",
    "[SELECTOR]",
    "Answers a question about this installation, on standard output or by exit code 0. Without"
    " SELECTOR, lists what may be asked.",
    (options.flag("--fail", "with logging: end with an error"),),
    _gestalt,
)


def _tables() -> dict[str, list[str]]:
    """The options of each sub-command that there is."""
    from ch_image.cli.main import COMMANDS, find

    out = {}
    for name, (module, _, _) in COMMANDS.items():
        if module:
            command = find(name)
            own = [option for verb in command.verbs.values() for option in verb.options]
            table = (*command.options, *own, *COMMON)
            words = [text for option in table for text in option.names]
            out[name] = list(dict.fromkeys([*command.verbs, *words]))
    return out


_BASH = """\
_ch_image() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} sub= i
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${{COMP_WORDS[i]}} in {commands}) sub=${{COMP_WORDS[i]}}; break;; esac
    done
    case $sub in
    '') COMPREPLY=($(compgen -W '{words} {common}' -- "$word"));;
{cases}
    esac
    if [[ $word != -* && -n $sub ]]; then
        COMPREPLY=($(compgen -W "$(ch-image list 2>/dev/null)" -- "$word") \\
                   $(compgen -f -- "$word"))
    fi
}}
_ch_run() {{
    local word=${{COMP_WORDS[COMP_CWORD]}}
    case $word in
    -*) COMPREPLY=($(compgen -W '{run}' -- "$word"));;
    *) COMPREPLY=($(compgen -W "$(ch-image list 2>/dev/null)" -- "$word") \\
                  $(compgen -f -- "$word"));;
    esac
}}
complete -o filenames -F _ch_image ch-image
complete -o filenames -F _ch_run ch-run
"""


def _bash() -> str:
    from ch_image.cli import run

    tables = _tables()
    cases = [
        f"    {name}) COMPREPLY=($(compgen -W '{' '.join(words)}' -- \"$word\"));;"
        for name, words in tables.items()
    ]
    return _BASH.format(
        commands="|".join(tables),
        words=" ".join(tables),
        common=" ".join(name for option in COMMON for name in option.names),
        cases="\n".join(cases),
        run=" ".join(name for option in run.OPTIONS for name in option.names),
    )


def _fish() -> str:
    lines = ["complete -c ch-image -f -a '(ch-image list 2>/dev/null)'"]
    for name, words in _tables().items():
        lines.append(f"complete -c ch-image -n __fish_use_subcommand -a {name}")
        for word in words:
            kind, text = ("l", word[2:]) if word.startswith("--") else ("o", word[1:])
            if not word.startswith("-"):
                kind, text = "a", word
            seen = f"'__fish_seen_subcommand_from {name}'"
            lines.append(f"complete -c ch-image -n {seen} -{kind} '{text}'")
    return "\n".join(lines) + "\n"


def _completion(session: Session) -> int:
    shell = os.path.basename(session.words[0])
    scripts = {
        "bash": _bash,
        "zsh": lambda: "autoload -U bashcompinit && bashcompinit\n" + _bash(),
        "fish": _fish,
    }
    if shell not in scripts:
        raise UsageError(
            f"no completion for '{printable(shell, 60)}'", hint="there is bash, zsh, fish"
        )
    emit([scripts[shell]().rstrip("\n")])
    return 0


COMPLETION = options.Command(
    "completion",
    "SHELL",
    "Prints a script that completes our commands in bash, zsh or fish. For bash:"
    " source <(ch-image completion bash)",
    (),
    _completion,
)
