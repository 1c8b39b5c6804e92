"""A Dockerfile as data: what the parser makes and the builder folds.

Nodes are frozen and keep their words as written, quotes and ``$`` included. Nothing here expands
a variable, reads a file, or knows that images exist. A place is a `Span`, counted from 1 in the
characters of the file; the file's name and lines are in the `Dockerfile`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ch_image.errors import DockerfileError
from ch_image.typed import NamedTuple, TypeAlias


class Span(NamedTuple):
    """A place in the source: ``length`` characters of one physical line, counted from 1."""

    line: int
    column: int
    length: int = 1


class Word(NamedTuple):
    """Text that may still hold quotes, escapes and variables, and where it was written.

    ``breaks`` lists (offset in ``text``, line, column) wherever the next character of the text
    is not the next character of the source: after a continuation line, an unwrapped quote or a
    JSON escape.
    """

    text: str
    span: Span
    breaks: tuple[tuple[int, int, int], ...] = ()

    def at(self, offset: int, length: int = 1) -> Span:
        """The place of ``text[offset]``; an offset at the end is the place just behind it."""
        start, line, column = 0, self.span.line, self.span.column
        for broken, next_line, next_column in self.breaks:
            if broken > offset or broken >= len(self.text):
                break
            start, line, column = broken, next_line, next_column
        return Span(line, column + offset - start, length)


class Pair(NamedTuple):
    """``key=value`` of ENV, LABEL and ``FROM --arg``; both are expanded by the builder."""

    key: Word
    value: Word


class Default(NamedTuple):
    """One name of an ARG, with the default it may carry."""

    name: Word
    value: Word | None


class Heredoc(NamedTuple):
    """A document behind an instruction, as written, line ends included.

    ``name`` is the delimiter without quotes, ``expand`` tells that it had none. ``span`` is the
    place of ``<<NAME``, ``line`` the number of the first line of the document.
    """

    name: str
    content: str
    expand: bool
    chomp: bool  # <<- : leading tabs do not count
    descriptor: int  # the number before <<, 0 when there is none
    span: Span
    line: int

    @property
    def data(self) -> str:
        """The document with the leading tabs of each line removed where ``<<-`` asks for it."""
        return re.sub(r"(?m)^\t+", "", self.content) if self.chomp else self.content


class MountOption(NamedTuple):
    """``key=value`` or a bare ``key`` of a mount; the key in lower case, the value unexpanded."""

    key: str
    value: Word | None
    span: Span


class Mount(NamedTuple):
    """One ``--mount`` of RUN as written; `ch_image.dockerfile.mounts` gives it its meaning."""

    span: Span
    options: tuple[MountOption, ...]


class From(NamedTuple):
    """``FROM [--platform=P] [--arg=K=V]... IMAGE [AS NAME]``."""

    span: Span
    text: str
    image: Word
    alias: Word | None = None  # as written; stage names are compared in lower case
    keyword: Word | None = None  # the AS as written
    platform: Word | None = None
    args: tuple[Pair, ...] = ()

    @property
    def name(self) -> str:
        """The stage's name in lower case; empty when it has none."""
        return self.alias.text.lower() if self.alias else ""


class Run(NamedTuple):
    """``RUN make`` (shell form: one word, left to the shell) or ``RUN ["make", "-j"]``."""

    span: Span
    text: str
    words: tuple[Word, ...]
    shell_form: bool
    heredocs: tuple[Heredoc, ...] = ()
    mounts: tuple[Mount, ...] = ()
    network: str = "default"  # default, none or host
    security: str = "sandbox"  # sandbox or insecure
    devices: tuple[Word, ...] = ()


class Copy(NamedTuple):
    """``COPY [flags] SOURCE... DESTINATION``; heredocs are sources too."""

    span: Span
    text: str
    sources: tuple[Word, ...]
    destination: Word  # not a path type: a trailing slash means "into this directory"
    heredocs: tuple[Heredoc, ...] = ()
    from_: Word | None = None  # None: the build context
    chown: Word | None = None
    chmod: Word | None = None
    link: bool = False
    parents: bool = False
    exclude: tuple[Word, ...] = ()


class Add(NamedTuple):
    """``ADD [flags] SOURCE... DESTINATION``; None where a flag is not given."""

    span: Span
    text: str
    sources: tuple[Word, ...]
    destination: Word
    heredocs: tuple[Heredoc, ...] = ()
    chown: Word | None = None
    chmod: Word | None = None
    link: bool = False
    exclude: tuple[Word, ...] = ()
    checksum: Word | None = None
    keep_git_dir: bool | None = None
    unpack: bool | None = None


class Env(NamedTuple):
    """``ENV K=V...``, or with ``legacy`` the old ``ENV K V``: its value is the rest of the line."""

    span: Span
    text: str
    pairs: tuple[Pair, ...]
    legacy: bool = False


class Label(NamedTuple):
    """``LABEL K=V...``, or with ``legacy`` the old ``LABEL K V``."""

    span: Span
    text: str
    pairs: tuple[Pair, ...]
    legacy: bool = False


class Arg(NamedTuple):
    """``ARG NAME[=DEFAULT]...``."""

    span: Span
    text: str
    names: tuple[Default, ...]


class Workdir(NamedTuple):
    """``WORKDIR PATH``; the path is the whole rest of the line."""

    span: Span
    text: str
    path: Word


class User(NamedTuple):
    """``USER NAME[:GROUP]``."""

    span: Span
    text: str
    user: Word


class Cmd(NamedTuple):
    """``CMD command`` (shell form: at most one word) or ``CMD ["word", ...]``."""

    span: Span
    text: str
    words: tuple[Word, ...]
    shell_form: bool


class Entrypoint(NamedTuple):
    """``ENTRYPOINT command`` (shell form: at most one word) or ``ENTRYPOINT ["word", ...]``."""

    span: Span
    text: str
    words: tuple[Word, ...]
    shell_form: bool


class Shell(NamedTuple):
    """``SHELL ["word", ...]``."""

    span: Span
    text: str
    words: tuple[Word, ...]


class Expose(NamedTuple):
    """``EXPOSE PORT[-PORT][/PROTOCOL]...`` in the order written."""

    span: Span
    text: str
    ports: tuple[Word, ...]


class Volume(NamedTuple):
    """``VOLUME PATH...`` or ``VOLUME ["path", ...]``."""

    span: Span
    text: str
    paths: tuple[Word, ...]


class Healthcheck(NamedTuple):
    """``HEALTHCHECK NONE`` (``none``) or ``HEALTHCHECK [options] CMD ...``.

    Times are nanoseconds; 0 means "not given", for ``retries`` too.
    """

    span: Span
    text: str
    none: bool
    words: tuple[Word, ...] = ()
    shell_form: bool = True
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class Stopsignal(NamedTuple):
    """``STOPSIGNAL SIGNAL``."""

    span: Span
    text: str
    signal: Word


class Maintainer(NamedTuple):
    """``MAINTAINER NAME``, deprecated; the name is taken as it is, never expanded."""

    span: Span
    text: str
    name: Word


class Rsync(NamedTuple):
    """``RSYNC [+m|+l|+u|+z] [OPTION]... SOURCE... DESTINATION`` (also spelt NSYNC).

    ``group`` is the letter behind the plus sign, ``l`` when none is given.
    """

    span: Span
    text: str
    group: str
    options: tuple[Word, ...]
    sources: tuple[Word, ...]
    destination: Word


class Onbuild(NamedTuple):
    """``ONBUILD INSTRUCTION``: ``expression`` is what the image config records for the trigger.

    The expression holds the heredocs of the instruction, each behind the line, so that it can be
    parsed again by itself.
    """

    span: Span
    text: str
    expression: str
    instruction: Instruction


# A closed set: a new instruction is a class here, and mypy names every match that must learn it.
Instruction: TypeAlias = (
    From
    | Run
    | Copy
    | Add
    | Env
    | Label
    | Arg
    | Workdir
    | User
    | Cmd
    | Entrypoint
    | Shell
    | Expose
    | Volume
    | Healthcheck
    | Stopsignal
    | Maintainer
    | Rsync
    | Onbuild
)


class Directives(NamedTuple):
    """The parser directives at the top of the file; None where one is not given."""

    escape: str = "\\"
    syntax: str | None = None
    check: str | None = None


class Dockerfile(NamedTuple):
    """A whole file: its instructions in order, and all that a message about one may need."""

    file: str
    directives: Directives
    instructions: tuple[Instruction, ...]
    lines: tuple[str, ...]  # the physical lines, without line ends
    comments: tuple[tuple[str, ...], ...]  # for each instruction, the comment lines above it
    empty_continuations: tuple[Span, ...] = ()  # blank lines inside an instruction

    def fault(self, span: Span, message: str, *, hint: str = "") -> DockerfileError:
        """An error to raise that points at ``span`` of this file."""
        return fault_at(self.file, self.lines, span, message, hint=hint)


def fault_at(
    file: str, lines: Sequence[str], span: Span, message: str, *, hint: str = ""
) -> DockerfileError:
    """An error to raise that points at ``span`` of the file with these lines."""
    text = lines[span.line - 1] if 0 < span.line <= len(lines) else ""
    where = (file, span.line, span.column)
    # What goes on in the next physical line is not marked there.
    width = max(1, min(span.length, len(text) - span.column + 1))
    return DockerfileError(message, where=where, text=text, width=width, hint=hint)
