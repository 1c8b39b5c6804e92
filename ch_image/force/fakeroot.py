"""``--force=fakeroot``: which profile an image gets, and what it puts into a RUN."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from ch_image.force.profiles import InitStep, Profile
from ch_image.typed import NamedTuple

_BREAKS = re.compile(r"[\s;&|()<>{}`\"'$]+")


class Injection(NamedTuple):
    """What is put into one RUN: init steps before it, a new command in its place."""

    init: tuple[InitStep, ...]
    argv: tuple[str, ...]


def choose(profiles: Iterable[Profile], read: Callable[[str], str | None]) -> Profile | None:
    """The first profile that an image matches; ``read`` gives the text of a file in it."""
    return next((profile for profile in profiles if profile.matches(read)), None)


def needs(profile: Profile, texts: Iterable[str]) -> bool:
    """Whether a RUN, given as the texts that a shell may see, has one of the keywords.

    A keyword counts as a whole word, also with a path before it or an operator around it.
    """
    for text in texts:
        for word in _BREAKS.split(text):
            if word in profile.keywords or word.rpartition("/")[2] in profile.keywords:
                return True
    return False


def inject(profile: Profile, argv: Sequence[str], *, ready: bool) -> Injection:
    """The wrapped command; ``ready`` says that the init steps stand in a layer below."""
    return Injection(() if ready else profile.init, (*profile.wrapper, *argv))
