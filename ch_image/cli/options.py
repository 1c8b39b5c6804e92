"""A command line as a table: what each option is called, takes and means.

One table makes the parser, the help text and the check for misspelt options. Options may stand
before, between and after the operands; short flags may be bundled (``-lu``); a value follows its
option in the next word, after ``=``, or right after a short name.

This stands in for argparse, which costs 10 ms of the 40 that ``ch-image list`` may take, and
cannot take an optional value only after ``=`` (``--force[=MODE]``). ``ch-run`` uses it before it
has imported anything else, so nothing is imported here that is not needed to parse.
"""

from __future__ import annotations

from ch_image.errors import UsageError, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from ch_image.typed import Any

_FLAG, _COUNT, _VALUE, _VALUES, _MAYBE = "flag", "count", "value", "values", "maybe"
_WIDTH = 79  # columns of a help text, whatever the terminal: it is quoted in documents


class Option:
    """One option. Use the functions below to make one."""

    __slots__ = ("choices", "const", "dest", "help", "kind", "metavar", "names")

    def __init__(
        self,
        kind: str,
        names: str,
        about: str,
        *,
        metavar: str = "",
        const: str = "",
        dest: str = "",
        choices: tuple[str, ...] = (),
    ) -> None:
        self.kind, self.names, self.help = kind, tuple(names.split()), about
        self.metavar, self.const, self.choices = metavar, const, choices
        self.dest = dest or self.names[-1].lstrip("-")

    @property
    def takes_value(self) -> bool:
        """Whether the option needs a value."""
        return self.kind in (_VALUE, _VALUES)

    def check(self, name: str, text: str) -> str:
        """``text`` if the option may have it. Raises UsageError."""
        if self.choices and text not in self.choices:
            raise UsageError(
                f"{name} cannot be '{printable(text, 100)}'",
                hint=near(text, self.choices) or f"choose from {', '.join(self.choices)}",
            )
        return text


def flag(names: str, about: str, *, dest: str = "", const: str = "") -> Option:
    """An option without a value. Those that share a ``dest`` exclude each other by ``const``."""
    return Option(_FLAG, names, about, dest=dest, const=const)


def count(names: str, about: str) -> Option:
    """A flag whose repetitions count."""
    return Option(_COUNT, names, about)


def value(names: str, metavar: str, about: str, *, choices: tuple[str, ...] = ()) -> Option:
    """An option with a value; the last one counts."""
    return Option(_VALUE, names, about, metavar=metavar, choices=choices)


def values(names: str, metavar: str, about: str) -> Option:
    """An option with a value that may be given several times."""
    return Option(_VALUES, names, about, metavar=metavar)


def maybe(
    names: str, metavar: str, const: str, about: str, *, choices: tuple[str, ...] = ()
) -> Option:
    """An option whose value may be left out (then it is ``const``) and else follows ``=``.

    A number may also follow the short name at once (``-W2g``), for no flag is a digit.
    """
    return Option(_MAYBE, names, about, metavar=metavar, const=const, choices=choices)


class Parsed:
    """What was given. Asking for an option that no table declares is a KeyError."""

    __slots__ = ("_counts", "_declared", "_texts", "_written", "given", "words")

    def __init__(self, table: Iterable[Option]) -> None:
        self._declared = {option.dest: option for option in table}
        self._texts: dict[str, list[str]] = {}
        self._counts: dict[str, int] = {}
        self._written: dict[str, str] = {}  # how a flag that excludes others was spelt
        self.words: list[str] = []
        self.given: list[tuple[str, str]] = []  # (dest, value) in the order of the command line

    def take(self, option: Option, name: str, text: str) -> None:
        """Note one occurrence of ``option``, written as ``name``."""
        dest = option.dest
        if option.kind == _FLAG and option.const:
            before = self._written.setdefault(dest, name)
            if self.text(dest, option.const) != option.const:
                raise UsageError(f"{before} and {name} exclude each other")
        if option.kind == _VALUES:
            self._texts.setdefault(dest, []).append(text)
        else:
            self._texts[dest] = [text]
        self._counts[dest] = self._counts.get(dest, 0) + 1
        self.given.append((dest, text))

    def _known(self, dest: str) -> str:
        if dest not in self._declared:
            raise KeyError(dest)
        return dest

    def has(self, dest: str) -> bool:
        """Whether the option was given at all."""
        return self._known(dest) in self._counts

    def count(self, dest: str) -> int:
        """How often the option was given."""
        return self._counts.get(self._known(dest), 0)

    def text(self, dest: str, default: str = "") -> str:
        """The option's last value."""
        found = self._texts.get(self._known(dest))
        return found[-1] if found else default

    def texts(self, dest: str) -> tuple[str, ...]:
        """All of the option's values."""
        return tuple(self._texts.get(self._known(dest), ()))

    def onto(self, before: Parsed) -> Parsed:
        """This after ``before`` as if both were one line: counts add, lists join."""
        for dest, texts in before._texts.items():
            mine = self._texts.get(dest, [])
            many = self._declared[dest].kind == _VALUES
            self._texts[dest] = texts + mine if many else mine or texts
            self._counts[dest] = before._counts[dest] + self._counts.get(dest, 0)
        self.given = before.given + self.given
        return self

    def over(self, before: Parsed) -> Parsed:
        """This on top of what stood ``before`` the sub-command: the later replaces the earlier."""
        for dest, texts in before._texts.items():
            if dest not in self._counts:
                self._texts[dest] = texts
                self._counts[dest] = before._counts[dest]
        self._declared = before._declared | self._declared
        self.given = before.given + self.given
        return self


def near(word: str, known: Iterable[str]) -> str:
    """``did you mean ...?`` when something like ``word`` is known, else an empty string."""
    from difflib import get_close_matches

    found = get_close_matches(word, list(known), 1, 0.6)
    return f"did you mean {found[0]}?" if found else ""


def parse(
    words: Sequence[str], table: Sequence[Option], *, until_operand: bool = False
) -> tuple[Parsed, list[str]]:
    """What ``words`` say, and the words that are left.

    With ``until_operand`` the first operand ends the options and is the first word left; without,
    operands are gathered in ``Parsed.words`` and nothing is left. ``--`` ends the options either
    way. Of two options with one name the first in ``table`` has it: a command's own stand before
    those that all share. Raises UsageError.
    """
    by_name = {name: option for option in reversed(table) for name in option.names}
    parsed = Parsed(table)
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            parsed.words += rest
            return parsed, rest if until_operand else []
        if len(word) < 2 or word[0] != "-":
            if until_operand:
                return parsed, [word, *rest]
            parsed.words.append(word)
        elif word.startswith("--"):
            _long(word, by_name, parsed, rest)
        else:
            _bundle(word, by_name, parsed, rest)
    return parsed, []


def _unknown(name: str, by_name: dict[str, Option]) -> UsageError:
    if name in by_name:  # written with one dash
        return UsageError(f"unknown option {name[1:]}", hint=f"did you mean {name}?")
    hint = near(name, [known for known in by_name if known.startswith("--")])
    return UsageError(f"unknown option {printable(name, 100)}", hint=hint or "see --help")


def _long(word: str, by_name: dict[str, Option], parsed: Parsed, rest: list[str]) -> None:
    name, equals, text = word.partition("=")
    option = by_name.get(name)
    if option is None:
        raise _unknown(name, by_name)
    if option.takes_value:
        parsed.take(option, name, option.check(name, text if equals else _next(name, option, rest)))
    elif option.kind == _MAYBE:
        parsed.take(option, name, option.check(name, text) if equals else option.const)
    elif equals:
        raise UsageError(f"{name} takes no value")
    else:
        parsed.take(option, name, option.const)


def _bundle(word: str, by_name: dict[str, Option], parsed: Parsed, rest: list[str]) -> None:
    at = 1
    while at < len(word):
        name = "-" + word[at]
        at += 1
        option = by_name.get(name)
        if option is None:
            raise _unknown(f"-{word}" if f"-{word}" in by_name else name, by_name)
        if option.takes_value:
            text = word[at:].removeprefix("=") if at < len(word) else _next(name, option, rest)
            parsed.take(option, name, option.check(name, text))
            return
        if option.kind == _MAYBE and word[at : at + 1] in tuple("=0123456789"):
            parsed.take(option, name, option.check(name, word[at:].removeprefix("=")))
            return
        parsed.take(option, name, option.const)


def _next(name: str, option: Option, rest: list[str]) -> str:
    if not rest or rest[0] == "--":
        raise UsageError(f"{name} needs a value: {name} {option.metavar}")
    return rest.pop(0)


class Command:
    """A program or sub-command: its table, and the function that carries it out.

    ``operands`` is the synopsis of what is not an option: ``NAME`` is needed, ``[NAME]`` may be
    left out, ``NAME...`` stands for one or more and ``[NAME...]`` for any number. A command with
    ``verbs`` is a family: its first operand names one of them. With ``foreign`` all behind the
    first operand is another program's command line, and left as it is.
    """

    __slots__ = ("about", "foreign", "name", "operands", "options", "run", "verbs")

    def __init__(
        self,
        name: str,
        operands: str,
        about: str,
        options: Sequence[Option],
        run: Callable[[Any], int],
        *,
        verbs: Sequence[Command] = (),
        foreign: bool = False,
    ) -> None:
        self.name, self.operands, self.about = name, operands, about
        self.options, self.run = tuple(options), run
        self.verbs = {verb.name.rpartition(" ")[2]: verb for verb in verbs}
        self.foreign = foreign

    def parse(self, words: Sequence[str], common: Sequence[Option]) -> tuple[Command, Parsed]:
        """The command itself or the verb that ``words`` name, and what they say to it.

        Raises UsageError.
        """
        table = (*self.options, *common)
        if not self.verbs:
            parsed, rest = parse(words, table, until_operand=self.foreign)
            if self.foreign:
                first, behind = rest[:1], rest[1:]
                parsed.words = first + behind[behind[:1] == ["--"] :]
            return self, parsed
        before, rest = parse(words, table, until_operand=True)
        if not rest:
            return self, before
        if rest[0] not in self.verbs:
            hint = near(rest[0], self.verbs) or f"there is {', '.join(self.verbs)}"
            raise UsageError(f"{self.name} has no '{printable(rest[0], 60)}'", hint=hint)
        verb, parsed = self.verbs[rest[0]].parse(rest[1:], common)
        return verb, parsed.over(before)

    def check_operands(self, words: Sequence[str]) -> None:
        """Raises UsageError when there are too few or too many."""
        specs = self.operands.split()
        needed = [spec.removesuffix("...") for spec in specs if not spec.startswith("[")]
        program = "" if self.name.startswith("ch-") else "ch-image "
        usage = f"usage: {program}{self.name} {self.operands}".rstrip()
        if len(words) < len(needed):
            raise UsageError(f"{self.name} needs {needed[len(words)]}", hint=usage)
        if len(words) > len(specs) and "..." not in self.operands:
            raise UsageError(
                f"{self.name} cannot use '{printable(words[len(specs)], 100)}'", hint=usage
            )


def help_text(
    program: str,
    command: Command,
    *,
    common: Sequence[Option] = (),
    more: Sequence[tuple[str, Sequence[tuple[str, str]]]] = (),
) -> str:
    """The text of ``--help``; ``more`` are further sections of (term, meaning) lines."""
    lines = [f"usage: {program} [OPTION...] {command.operands}".rstrip(), ""]
    for paragraph in command.about.split("\n\n"):
        lines += [*_wrap(paragraph, _WIDTH), ""]
    taken = {name for option in command.options for name in option.names}
    sections = [
        *more,
        ("Options", [(_spelling(o), o.help) for o in command.options]),
        ("Common options", [(_spelling(o, taken), o.help) for o in common]),
    ]
    for title, entries in sections:
        if entries:
            lines.append(f"{title}:")
            for term, meaning in entries:
                lines += _entry(term, meaning)
            lines.append("")
    return "\n".join(lines[:-1])


def _spelling(option: Option, taken: Collection[str] = ()) -> str:
    short = [name for name in option.names if not name.startswith("--") and name not in taken]
    long = [name for name in option.names if name.startswith("--")]
    indent = "" if short or not long else "    "
    metavar = option.metavar
    if option.kind == _MAYBE:
        metavar = f"[={metavar}]"
    elif metavar:
        metavar = f"={metavar}" if long else f" {metavar}"
    return indent + ", ".join(short + long) + metavar


def _entry(term: str, meaning: str) -> list[str]:
    column = 28
    wrapped = _wrap(meaning, _WIDTH - column)
    first = f"  {term}"
    if len(first) + 2 > column:
        lines = [first]
    else:
        lines = [f"{first:<{column}}{wrapped.pop(0)}" if wrapped else first]
    return lines + [" " * column + line for line in wrapped]


def _wrap(text: str, width: int) -> list[str]:
    lines: list[str] = []
    line = ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line] if line else lines
