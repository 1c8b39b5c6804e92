"""RSYNC and NSYNC: an extension of Charliecloud's, read as its manual describes it.

Options take their argument behind ``=`` only. What would reach the network, delete sources, or
do nothing at all is refused; running rsync is the builder's affair.
"""

from __future__ import annotations

from ch_image.dockerfile.ast import Rsync, Word
from ch_image.dockerfile.given import Given
from ch_image.dockerfile.suggest import did_you_mean
from ch_image.errors import printable

GROUPS = ("m", "l", "u", "z")
_REFUSED = ("--daemon", "--dry-run", "--remove-source-files")


def read_rsync(given: Given) -> Rsync:
    """``[+m|+l|+u|+z] [OPTION]... SOURCE... DESTINATION``. Raises DockerfileError."""
    group, options, paths = "l", [], []
    ended = False
    for index, word in enumerate(given.args):
        text = word.text
        if index == 0 and text.startswith("+"):
            group = text[1:]
            if group not in GROUPS:
                message = f"there is no option group {printable(text, 60)}"
                hint = did_you_mean(group, GROUPS, "+")
                raise given.fault(word.span, message, hint=hint)
        elif ended or not text.startswith("-") or text == "-":
            paths.append(word)
        elif text == "--":
            ended = True
        else:
            _check_option(given, word)
            options.append(word)
    for path in paths[:-1]:
        colon = path.text.find(":")
        if colon >= 0:
            hint = "sources are paths in the build context"
            raise given.fault(path.at(colon), "RSYNC does not reach other hosts", hint=hint)
    if len(paths) < 2:
        usage = f"{given.name} [+GROUP] [OPTION]... SOURCE... DESTINATION"
        raise given.missing("a destination" if paths else "a source and a destination", usage)
    given.check(*options, *paths)
    text = given.text
    return Rsync(given.span, text, group, tuple(options), tuple(paths[:-1]), paths[-1])


def _check_option(given: Given, word: Word) -> None:
    name, equals, value = word.text.partition("=")
    dry = not name.startswith("--") and "n" in name
    if name in _REFUSED or dry:
        shown = "-n" if dry else name
        raise given.fault(word.span, f"RSYNC cannot be used with {shown}")
    if equals and name.startswith("--") and name.endswith("-from") and value:
        if value == "-":
            raise given.fault(word.span, f"{name} cannot read standard input here")
        if ":" in value:
            raise given.fault(word.span, "RSYNC does not reach other hosts")
