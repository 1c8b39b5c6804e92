"""What the grammar found in one line, turned into a node of the syntax tree.

Here are the rules that a grammar cannot state: which flags an instruction knows, how many
arguments it wants, what a time or a stage name looks like. Values that hold variables stay as
they are, but their quotes and braces are checked, so that a slip is found before a build begins.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ch_image.dockerfile import ast
from ch_image.dockerfile.ast import Heredoc, Instruction, Word
from ch_image.dockerfile.durations import nanoseconds
from ch_image.dockerfile.expand import ExpandError
from ch_image.dockerfile.flags import MANY, ONE, SWITCH, Flags
from ch_image.dockerfile.given import Given, Part, bare
from ch_image.dockerfile.lines import Reader, cut, heredoc_name, stripped
from ch_image.dockerfile.mounts import read_mount, resolve_mount, static
from ch_image.dockerfile.rsync import read_rsync
from ch_image.errors import printable

_STAGE_NAME = re.compile(r"[a-z][a-z0-9-_.]*\Z")
_BLANKS = re.compile(r"[\t\v\f\r ]+")
_RETRIES = re.compile(r"[+-]?[0-9]{1,12}\Z")
_COPY_FLAGS = {"chown": ONE, "chmod": ONE, "link": SWITCH, "exclude": MANY}


def build(reader: Reader, line: Word, part: Part) -> Instruction:
    """The node for one matched instruction. Raises DockerfileError."""
    return _BUILDERS[part.name](Given(reader, line, part))


def _from(given: Given) -> ast.From:
    image = given.args[0]
    alias = keyword = None
    if len(given.args) == 3:
        keyword, alias = given.args[1:]
        if not _STAGE_NAME.match(alias.text.lower()):
            message = f'"{printable(alias.text, 60)}" cannot be the name of a stage'
            hint = "a name begins with a letter; then come letters, digits, - _ and ."
            raise given.fault(alias.span, message, hint=hint)
    flags = given.read_flags(platform=ONE, arg=MANY)
    pairs = []
    for word in flags.many("arg"):
        equals = word.text.find("=")
        if equals < 1:
            raise given.fault(word.span, "--arg needs a name and a value", hint="write --arg=K=V")
        pairs.append(_pair(word, equals))
        given.check(*pairs[-1])
    platform = flags.one("platform")
    given.check(image, platform)
    return ast.From(given.span, given.text, image, alias, keyword, platform, tuple(pairs))


def _run(given: Given) -> ast.Run:
    flags = given.read_flags(mount=MANY, network=ONE, security=ONE, device=MANY)
    mounts = tuple(read_mount(given.reader, word) for word in flags.many("mount"))
    for mount in mounts:
        if static(mount):
            resolve_mount(given.reader, mount, lambda word: word.text)
    return ast.Run(
        given.span,
        given.text,
        given.command(),
        not given.exec,
        given.heredocs(),
        mounts,
        flags.choice("network", ("default", "none", "host"), "default"),
        flags.choice("security", ("sandbox", "insecure"), "sandbox"),
        flags.many("device"),
    )


def _sources(given: Given) -> tuple[tuple[Word, ...], Word, tuple[Heredoc, ...]]:
    """Sources, destination and heredoc sources of COPY and ADD."""
    words = given.command()
    written = {document.name: document for document in given.heredocs()}
    if len(words) < 2:
        usage = f"{given.name} SOURCE... DESTINATION"
        raise given.missing("a destination" if words else "a source and a destination", usage)
    sources, documents = [], []
    for word in words:
        try:
            begin = heredoc_name(word.text) if "<<" in word.text else None
        except ExpandError:
            begin = None
        if begin is None:
            sources.append(word)
            continue
        if word is words[-1]:
            hint = "write the destination behind it"
            raise given.fault(word.span, "a heredoc cannot be the destination", hint=hint)
        # In the JSON form nothing is read below the line; the document is empty there.
        nothing = Heredoc(begin.name, "", True, False, 0, word.span, word.span.line)
        document = written.get(begin.name, nothing)
        documents.append(document._replace(expand=begin.expand, chomp=begin.chomp))
        given.check_document(documents[-1])
    destination = sources.pop()
    given.check(*sources, destination)
    return tuple(sources), destination, tuple(documents)


def _copy(given: Given) -> ast.Copy:
    flags = given.read_flags(**_COPY_FLAGS, from_=ONE, parents=SWITCH)
    sources, destination, documents = _sources(given)
    chown, chmod = flags.one("chown"), flags.one("chmod")
    given.check(chown, chmod)
    return ast.Copy(
        given.span,
        given.text,
        sources,
        destination,
        documents,
        flags.one("from"),
        chown,
        chmod,
        bool(flags.switch("link")),
        bool(flags.switch("parents")),
        flags.many("exclude"),
    )


def _add(given: Given) -> ast.Add:
    flags = given.read_flags(**_COPY_FLAGS, checksum=ONE, keep_git_dir=SWITCH, unpack=SWITCH)
    sources, destination, documents = _sources(given)
    chown, chmod, checksum = flags.one("chown"), flags.one("chmod"), flags.one("checksum")
    given.check(chown, chmod, checksum)
    return ast.Add(
        given.span,
        given.text,
        sources,
        destination,
        documents,
        chown,
        chmod,
        bool(flags.switch("link")),
        flags.many("exclude"),
        checksum,
        flags.switch("keep-git-dir"),
        flags.switch("unpack"),
    )


def _pair(word: Word, equals: int) -> ast.Pair:
    return ast.Pair(cut(word, 0, equals), cut(word, equals + 1, len(word.text)))


def _pairs(given: Given) -> tuple[tuple[ast.Pair, ...], bool]:
    """``K=V...``, or the old form: a name, blanks, and the rest as its value."""
    given.read_flags()
    usage = f"{given.name} NAME=VALUE"
    if not given.args:
        raise given.missing("a name and a value", usage)
    if given.kinds[0] == "LEGACY":
        word = given.args[0]
        blank = _BLANKS.search(word.text)
        if not blank:
            raise given.missing(f"a value for {printable(word.text, 60)}", usage)
        value = cut(word, blank.end(), len(word.text))
        pair = ast.Pair(cut(word, 0, blank.start()), value)
        given.check(*pair)
        return (pair,), True
    pairs = []
    for arg in given.args:
        word = bare(arg, given.reader.escape)
        equals = word.text.find("=")
        if equals < 0:
            message = f"there is no = in {printable(word.text, 60)}"
            hint = "write NAME=VALUE; a value with blanks goes into quotes"
            raise given.fault(word.span, message, hint=hint)
        if equals == 0:
            raise given.fault(word.span, "there is no name in front of =", hint=f"write {usage}")
        pairs.append(_pair(word, equals))
        given.check(*pairs[-1])
    return tuple(pairs), False


def _env(given: Given) -> ast.Env:
    return ast.Env(given.span, given.text, *_pairs(given))


def _label(given: Given) -> ast.Label:
    return ast.Label(given.span, given.text, *_pairs(given))


def _arg(given: Given) -> ast.Arg:
    # Flags of ARG are dropped unread, as BuildKit does.
    if not given.args:
        raise given.missing("a name", "ARG NAME or ARG NAME=DEFAULT")
    names = []
    for arg in given.args:
        word = bare(arg, given.reader.escape)
        equals = word.text.find("=")
        if equals == 0:
            raise given.fault(word.span, "there is no name in front of =")
        pair = _pair(word, equals) if equals > 0 else None
        # The default is not checked: a --build-arg may take its place, and all is well then.
        names.append(ast.Default(pair.key, pair.value) if pair else ast.Default(word, None))
    return ast.Arg(given.span, given.text, tuple(names))


def _text(given: Given, what: str, usage: str) -> Word:
    """The only argument: all that stands behind the keyword."""
    if not given.args:
        raise given.missing(what, usage)
    return given.args[0]


def _workdir(given: Given) -> ast.Workdir:
    given.read_flags()
    path = _text(given, "a path", "WORKDIR PATH")
    given.check(path)
    return ast.Workdir(given.span, given.text, path)


def _user(given: Given) -> ast.User:
    given.read_flags()
    user = _text(given, "a user", "USER NAME or USER NAME:GROUP")
    given.check(user)
    return ast.User(given.span, given.text, user)


def _cmd(given: Given) -> ast.Cmd:
    given.read_flags()
    return ast.Cmd(given.span, given.text, given.command(), not given.exec)


def _entrypoint(given: Given) -> ast.Entrypoint:
    given.read_flags()
    return ast.Entrypoint(given.span, given.text, given.command(), not given.exec)


def _shell(given: Given) -> ast.Shell:
    given.read_flags()
    words = given.command()
    usage = 'SHELL ["/bin/bash", "-c"]'
    if not words:
        raise given.missing("a command", usage)
    if not given.exec:
        hint = f"write {usage}, with double quotes"
        raise given.fault(words[0].span, "SHELL takes a JSON array of strings", hint=hint)
    return ast.Shell(given.span, given.text, words)


def _expose(given: Given) -> ast.Expose:
    given.read_flags()
    if not given.args:
        raise given.missing("a port", "EXPOSE PORT or EXPOSE PORT/udp")
    given.check(*given.args)
    return ast.Expose(given.span, given.text, tuple(given.args))


def _volume(given: Given) -> ast.Volume:
    given.read_flags()
    paths = tuple(stripped(word) for word in given.command())
    if not paths:
        raise given.missing("a path", 'VOLUME PATH or VOLUME ["PATH"]')
    for path in paths:
        if not path.text:
            raise given.fault(path.span._replace(length=1), "the path of a VOLUME cannot be empty")
    given.check(*paths)
    return ast.Volume(given.span, given.text, paths)


def _healthcheck(given: Given) -> ast.Healthcheck:
    if given.kinds[0] == "NONE":
        return ast.Healthcheck(given.span, given.text, True)
    flags = given.read_flags(
        interval=ONE, timeout=ONE, start_period=ONE, start_interval=ONE, retries=ONE
    )
    given.drop_first()
    words = given.command()
    if not words:
        raise given.missing("a command behind CMD", "HEALTHCHECK CMD COMMAND")
    return ast.Healthcheck(
        given.span,
        given.text,
        False,
        words,
        not given.exec,
        _time(given, flags, "interval"),
        _time(given, flags, "timeout"),
        _time(given, flags, "start-period"),
        _time(given, flags, "start-interval"),
        _retries(given, flags),
    )


def _time(given: Given, flags: Flags, name: str) -> int:
    word = flags.one(name)
    if word is None:
        return 0
    time = nanoseconds(word.text)
    shown = printable(word.text, 60)
    if time is None:
        hint = "write a number and its unit, as in 30s or 1m30s"
        raise given.fault(word.span, f'--{name} cannot be "{shown}"', hint=hint)
    if time and time < 1_000_000:
        raise given.fault(word.span, f"--{name} is at least 1ms")
    return time


def _retries(given: Given, flags: Flags) -> int:
    word = flags.one("retries")
    if word is None:
        return 0
    count = int(word.text) if _RETRIES.match(word.text) else -1
    if not 0 <= count < 1 << 31:
        message = f'--retries is a count, not "{printable(word.text, 60)}"'
        raise given.fault(word.span, message)
    return count


def _stopsignal(given: Given) -> ast.Stopsignal:
    # Flags of STOPSIGNAL are dropped unread, as BuildKit does.
    signal = _text(given, "a signal", "STOPSIGNAL SIGTERM")
    given.check(signal)
    return ast.Stopsignal(given.span, given.text, signal)


def _maintainer(given: Given) -> ast.Maintainer:
    given.read_flags()
    return ast.Maintainer(given.span, given.text, _text(given, "a name", "MAINTAINER NAME"))


def _onbuild(given: Given) -> ast.Onbuild:
    given.read_flags()
    inner = given.parts[0]
    if inner.name == "maintainer":
        start, stop = inner.tokens[0][1:]
        place = given.line.at(start, stop - start)
        raise given.fault(place, "MAINTAINER cannot be a trigger of ONBUILD")
    trigger = Given(given.reader, given.line, inner)
    node = _BUILDERS[inner.name](trigger)
    expression = node.text
    for document in trigger.taken:
        expression += f"\n{document.content}{document.name}"
    return ast.Onbuild(given.span, given.text, expression, node)


_BUILDERS: dict[str, Callable[[Given], Instruction]] = {
    "from": _from,
    "run": _run,
    "copy": _copy,
    "add": _add,
    "env": _env,
    "label": _label,
    "arg": _arg,
    "workdir": _workdir,
    "user": _user,
    "cmd": _cmd,
    "entrypoint": _entrypoint,
    "shell": _shell,
    "expose": _expose,
    "volume": _volume,
    "healthcheck": _healthcheck,
    "stopsignal": _stopsignal,
    "maintainer": _maintainer,
    "rsync": read_rsync,
    "onbuild": _onbuild,
}
