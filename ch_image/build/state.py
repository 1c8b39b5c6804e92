"""What a stage is between two instructions: the image config so far, and the ARGs. Pure.

Signatures:

    start_scratch(platform) / start_image(config) / start_stage(state) -> BuildState
    finish(state, created=..., labels=..., platform=...) -> ImageConfig

Start a stage with one of the ``start_`` functions, then fold its instructions over the state, one
by one (`ch_image.build.fold`). The triggers that an image has for its children are
``config.config.on_build`` of the image; they are gone in the state that starts from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ch_image.build.args import plain
from ch_image.build.effects import Effect
from ch_image.model.oci import History, ImageConfig, RunConfig
from ch_image.model.platforms import Platform
from ch_image.typed import Any, NamedTuple

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SHELL = ("/bin/sh", "-c")
HIDDEN = "****"
_COMMENT = "buildkit.dockerfile.v0"  # the format of the history that is written here


class BuildState(NamedTuple):
    """A stage after some of its instructions."""

    config: ImageConfig
    args: Mapping[str, str] = {}  # values of ARGs; they win over ENV until ENV is set again
    declared: tuple[str, ...] = ()  # names of ARGs, in order
    hidden: frozenset[str] = frozenset()  # those of args that tell a --build-arg
    cmd_here: bool = False  # CMD was set in this stage, not inherited
    inherited: int = 0  # how many lines of the history are the base image's

    @property
    def platform(self) -> Platform:
        """What the stage is built for."""
        return self.config.platform

    @property
    def run_config(self) -> RunConfig:
        """The part of the config that tells how a container starts."""
        return self.config.config

    @property
    def shell(self) -> tuple[str, ...]:
        """What runs a command in shell form."""
        return self.config.config.shell or DEFAULT_SHELL

    @property
    def workdir(self) -> str:
        """The absolute working directory."""
        return self.config.config.working_dir or "/"

    @property
    def user(self) -> str:
        """USER as written; empty: root."""
        return self.config.config.user

    def environment(self) -> dict[str, str]:
        """What RUN finds set, proxies and their like left out."""
        return self.config.config.environment() | dict(self.args)

    def with_config(self, **changes: Any) -> BuildState:
        """A state whose run config has these fields replaced."""
        run = self.config.config._replace(**changes)
        return self._replace(config=self.config._replace(config=run))

    def commit(self, text: str, *, layer: bool = False) -> BuildState:
        """A state whose history has one more line."""
        line = History(created_by=text, comment=_COMMENT, empty_layer=not layer)
        return self._replace(config=self.config._replace(history=(*self.config.history, line)))

    def without_layer(self) -> BuildState:
        """A state whose last line of history tells that no layer came of it."""
        *before, last = self.config.history
        history = (*before, last._replace(empty_layer=True))
        return self._replace(config=self.config._replace(history=history))


def start_scratch(platform: Platform) -> BuildState:
    """The state after ``FROM scratch``."""
    run = RunConfig(env=(f"PATH={DEFAULT_PATH}",), working_dir="/")
    return BuildState(ImageConfig(plain(platform), run))


def start_image(config: ImageConfig) -> BuildState:
    """The state after ``FROM`` of an image with ``config``; its triggers do not carry over."""
    run = config.config._replace(on_build=())
    if "PATH" not in run.environment():
        run = run._replace(env=(*run.env, f"PATH={DEFAULT_PATH}"))
    if run.working_dir:
        run = run._replace(working_dir=joined("/", run.working_dir))
    based = config._replace(config=run, created="")
    return BuildState(based, inherited=len(config.history))


def start_stage(base: BuildState) -> BuildState:
    """The state after ``FROM`` of an earlier stage: its ARGs are inherited, its triggers not."""
    return base.with_config(on_build=())._replace(cmd_here=False)


class Folded(NamedTuple):
    """What folding one instruction of ``kind`` ("RUN") gives.

    ``parts`` is its meaning for the cache key: named in the user's words, of JSON values. It
    holds the values of arguments, so it is to be hashed, never stored.
    """

    state: BuildState
    effect: Effect | None
    parts: Mapping[str, object]
    kind: str = ""


def finish(
    state: BuildState,
    *,
    created: str,
    labels: Mapping[str, str] | None = None,
    platform: Platform | None = None,
) -> ImageConfig:
    """The config to publish. ``created`` (RFC 3339) dates it and the lines of its own history.

    ``labels`` come from the command line and win; ``platform`` is the one asked for, if any.
    """
    config = state.config
    history = tuple(
        line if n < state.inherited or line.created else line._replace(created=created)
        for n, line in enumerate(config.history)
    )
    run = config.config._replace(
        labels=with_labels(config.config.labels, (labels or {}).items()),
    )
    wanted = plain(platform or config.platform)
    return config._replace(config=run, created=created, history=history, platform=wanted)


def with_labels(
    labels: tuple[tuple[str, str], ...], more: Iterable[tuple[str, str]]
) -> tuple[tuple[str, str], ...]:
    """``labels`` with ``more`` set."""
    return tuple((dict(labels) | dict(more)).items())


def joined(directory: str, path: str) -> str:
    """``path`` seen from ``directory``, which is absolute; an absolute path stays as it is.

    A relative one is cleaned as Go's ``path.Join`` does: by name, no link is looked at.
    """
    if path.startswith("/"):
        return path
    out: list[str] = []
    for part in f"{directory}/{path}".split("/"):
        if part == "..":
            del out[-1:]
        elif part not in ("", "."):
            out.append(part)
    return "/" + "/".join(out)


def destination(workdir: str, path: str) -> str:
    """Where COPY puts things: absolute, with the slash or ``/.`` at its end kept."""
    path = path if path not in ("", ".") else "./"
    out = joined(workdir, path)
    if path.endswith("/") and not out.endswith("/"):
        return out + "/"
    if path.endswith("/.") and not out.endswith("/."):
        return out.rstrip("/") + "/."
    return out
