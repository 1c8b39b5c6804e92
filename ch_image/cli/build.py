"""ch-image build: the options and what they mean; the work is ``build.executor``'s."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import partial

from ch_image.build.args import EPOCH
from ch_image.build.options import BuildOptions, BuildResult, Puller
from ch_image.cli import build_options as values
from ch_image.cli import build_output, options, remote_cache
from ch_image.cli.build_context import find_input
from ch_image.cli.processors import processors
from ch_image.cli.session import Session, working_directory
from ch_image.cli.web import fetcher
from ch_image.errors import BuildError, UsageError
from ch_image.model.platforms import Platform
from ch_image.model.ref import ImageRef
from ch_image.report import Detail, Info, Warned
from ch_image.storage.images import Image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ch_image.registry.registries import Registries


def _build(session: Session) -> int:
    parsed = session.parsed
    if parsed.has("cache-from") or parsed.has("cache-to"):
        remote_cache.check(session)
    session.progress = parsed.text("progress", "auto")
    with ExitStack() as stack:
        return _with_context(session, stack)


def _with_context(session: Session, stack: ExitStack) -> int:
    """Find Dockerfile and context, then build, or stop where the options say so."""
    parsed = session.parsed
    name, text, context = find_input(session, stack)
    if parsed.has("parse-only") or parsed.has("check"):
        from ch_image.cli.check import check
        from ch_image.dockerfile.parser import parse

        dockerfile = parse(text, _shown(name))
        return check(session, dockerfile, name, context) if parsed.has("check") else 0
    if b"check" in text or any("DOCKERFILE_CHECK" in arg for arg in parsed.texts("build-arg")):
        from ch_image.cli.check import enforce
        from ch_image.dockerfile.parser import parse

        enforce(session, parse(text, _shown(name)), name, context)
    return _execute(session, name, text, context)


def _execute(session: Session, name: str, text: bytes, context: str | None) -> int:
    wanted = build_request(session, name, text, context)
    outputs = build_output.parse(session.parsed.texts("output"), working_directory())
    session.enter(programs=session.names_helpers())
    with session.locked(), _opened(session, wanted) as wanted:
        from ch_image.build.executor import build

        result = build(wanted, session.storage, session.report)
        if result.epoch is not None:  # the Dockerfile may have set it
            session.env = {**session.env, EPOCH: str(result.epoch)}
        if session.parsed.has("cache-to"):
            remote_cache.store(session, result)
        if outputs and result.image is not None:
            build_output.write(outputs, result.image, wanted.tags, session)
            if wanted.tags:  # it may have got its digests
                result = result._replace(image=session.storage.images.get(wanted.tags[0]))
    _conclude(session, wanted, result)
    return 0


@contextmanager
def _opened(session: Session, wanted: BuildOptions) -> Iterator[BuildOptions]:
    """Begin to look at a large context, in a process of its own, before the rest is imported."""
    text = wanted.text.upper()
    if wanted.context is None or (b"COPY" not in text and b"ADD" not in text):
        yield wanted
        return
    from ch_image.build.context import open_context

    try:
        context = open_context(wanted.context, wanted.dockerfile, session.storage.context_digests)
    except BuildError:  # for the instruction that needs it to tell
        yield wanted
        return
    with closing(context):
        context.look_ahead([""], early=True)
        yield wanted._replace(opened=context)


def _conclude(session: Session, wanted: BuildOptions, result: BuildResult) -> None:
    """Say what came of it, on the terminal and in the files that were asked for."""
    parsed = session.parsed
    if result.run_steps and wanted.force != "none":
        many = "s" if result.run_steps > 1 else ""
        text = f"--force={wanted.force}: modified {result.run_steps} RUN instruction{many}"
        session.report(Info(text))
    if result.notifications:
        session.report(Detail(f"root emulation answered {result.notifications} calls"))
    if result.image is None:
        return
    tags = ", ".join(str(tag) for tag in wanted.tags)
    session.report(Info(f"grown in {result.instructions} instructions" + f": {tags}" * bool(tags)))
    if not (parsed.has("quiet") or parsed.has("iidfile") or parsed.has("metadata-file")):
        return
    from ch_image.cli.details import image_id

    identity = image_id(session.storage, result.image)
    if parsed.has("quiet"):
        print(identity)
    if path := parsed.text("iidfile"):
        _write(path, identity)
    if path := parsed.text("metadata-file"):
        import json

        value = {"containerimage.config.digest": identity, "image.name": tags.replace(" ", "")}
        if result.image.manifest is not None:
            value["containerimage.digest"] = result.image.manifest.digest
        _write(path, json.dumps(value, indent=2) + "\n")


def _write(path: str, text: str) -> None:
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(temporary, path)


def build_request(
    session: Session, dockerfile: str, text: bytes, context: str | None
) -> BuildOptions:
    """The whole request. Raises UsageError, ImageError."""
    parsed, env, cwd = session.parsed, session.env, working_directory()
    args, absent = values.build_args(parsed.texts("build-arg"), env)
    if values.epoch(env) is not None:  # what is in the environment is an argument, as with Docker
        args.setdefault(EPOCH, env[EPOCH])
    for name in absent:
        session.report(Warned(f"--build-arg {name}: not set in the environment, left out"))
    secrets, secret_values = values.secrets(parsed.texts("secret"), env, cwd)
    force, commands = _force(parsed)
    stages = (part for text in parsed.texts("no-cache-filter") for part in text.split(","))
    return BuildOptions(
        dockerfile=dockerfile,
        text=text,
        context=context,
        tags=_tags(session, dockerfile, context),
        pull=puller(session),
        build_args=args,
        passed={name: env[name] for name in values.PASSED if name in env},
        target=parsed.text("target"),
        platform=session.platform() if session.names_platform else None,
        force=force,
        force_cmds=commands,
        profiles=_profiles(env),
        cache=session.cache_mode,
        no_cache_stages=frozenset(filter(None, stages)),
        binds=values.binds(parsed.texts("bind"), cwd),
        labels=values.pairs("--label", parsed.texts("label"), bare=True),
        annotations=values.pairs("--annotation", parsed.texts("annotation")),
        secrets=secrets,
        secret_values=secret_values,
        ssh=values.agents(parsed.texts("ssh"), env),
        contexts=values.contexts(parsed.texts("build-context"), cwd),
        hosts=values.hosts(parsed.texts("add-host")),
        network=parsed.text("network", "default"),
        jobs=values.number("--jobs", parsed.text("jobs", str(processors()))),
        always_pull=parsed.has("pull") or parsed.has("always-download"),
        snapshotter=env.get("CH_IMAGE_SNAPSHOTTER", ""),
        default_registry=session.default_registry(),
        dry_run=parsed.has("dry-run"),
        fetch=fetcher(session),
        verbose=session.verbosity > 0,
        cache_from=partial(remote_cache.locations, session) if parsed.has("cache-from") else None,
        fetch_all=remote_cache.everything(session),
    )


def _profiles(env: Mapping[str, str]) -> str:
    """The directory of the user's own fakeroot profiles."""
    home = env.get("HOME", "")
    config = env.get("XDG_CONFIG_HOME") or (f"{home}/.config" if home else "")
    return f"{config}/ch-image/fakeroot" if config else ""


def _force(parsed: options.Parsed) -> tuple[str, tuple[tuple[str, ...], ...]]:
    commands = values.force_commands(parsed.texts("force-cmd"))
    mode = parsed.text("force", "seccomp")
    if commands and mode != "seccomp":
        raise UsageError(f"--force-cmd works with --force=seccomp, not with --force={mode}")
    return mode, commands


def _tags(session: Session, dockerfile: str, context: str | None) -> tuple[ImageRef, ...]:
    from ch_image.cli.images import writable

    given = session.parsed.texts("tag")
    outputs = build_output.parse(session.parsed.texts("output"), "/")
    if outputs and not given and all(one.kind in ("local", "tar") for one in outputs):
        return ()  # only files are asked for
    if not given:
        inferred = values.infer_name(dockerfile, context or "")
        session.report(Info(f"inferred image name: {inferred}"))
        given = (inferred,)
    return tuple(dict.fromkeys(writable(session.ref(text)) for text in given))


def puller(session: Session) -> Puller:
    """Pulls a base image when the build asks for one; connects only then. Thread-safe."""
    mutex = threading.Lock()
    known: list[Registries] = []

    def pull_base(ref: ImageRef, platform: Platform | None, always: bool) -> Image:
        from ch_image.cli.network import registries
        from ch_image.transfer.pull import pull

        with mutex:
            if not known:
                known.append(registries(session))
        return pull(ref, session.storage, known[0], platform, session.report, always=always)

    return pull_base


def _shown(name: str) -> str:
    return "Dockerfile" if name == "-" else os.path.basename(name)


BUILD = options.Command(
    "build",
    "CONTEXT",
    "Builds an image from CONTEXT/Dockerfile. CONTEXT is a directory, a URL (git"
    " repository, tar archive or Dockerfile), or - for a Dockerfile or a tar archive on standard"
    " input. Each instruction is shown with . when it is carried out and with * when it was found"
    " in the build cache.",
    (
        options.values("-t --tag", "NAME", "name of the image; repeatable"),
        options.value("-f --file", "FILE", "the Dockerfile; - for standard input"),
        options.values("--build-arg", "K[=V]", "set an ARG, from the environment without =V"),
        options.value("--target", "STAGE", "build up to this stage"),
        options.values("-b --bind", "SRC[:DST]", "bring a host directory into every RUN"),
        options.maybe(
            "--force", "MODE", "fakeroot", "root emulation: seccomp (default), fakeroot or none",
            choices=("seccomp", "fakeroot", "none"),
        ),
        options.values("--force-cmd", "CMD,ARG..", "add arguments to a command in RUN"),
        options.values("--label", "K=V", "add a label"),
        options.values("--annotation", "K=V", "add an annotation to the manifest"),
        options.values("--secret", "id=..", "id=NAME with src=FILE or env=VARIABLE"),
        options.values("--ssh", "ID[=SOCK]", "an SSH agent for RUN --mount=type=ssh"),
        options.values("--build-context", "NAME=DIR", "a further context for --from=NAME"),
        options.values("--add-host", "HOST:IP", "add a line to RUN's /etc/hosts"),
        options.value(
            "--network", "MODE", "RUN's network: default, host or none",
            choices=("default", "host", "none"),
        ),
        options.flag("--pull", "ask the registry whether base images have changed"),
        options.values("--no-cache-filter", "STAGE", "carry out all steps of these stages"),
        options.value("--jobs", "N", "steps at the same time (default: processors)"),
        options.value(
            "--progress", "STYLE", "auto, plain, tty, json or quiet",
            choices=("auto", "plain", "tty", "json", "quiet"),
        ),
        options.value("--iidfile", "FILE", "write the image ID there"),
        options.value("--metadata-file", "FILE", "write what was built there, as JSON"),
        options.values(
            "-o --output", "SPEC",
            "give the result out: DIR, - (tar), or type=local|tar|oci|docker,dest=PATH",
        ),
        options.values("--cache-from", "SPEC", "take steps from type=registry,ref=REF or"
                       " type=local,src=DIR"),
        options.values("--cache-to", "SPEC", "write steps to type=registry,ref=REF or"
                       " type=local,dest=DIR; mode=max: all"),
        options.flag("--check", "only give advice about the Dockerfile; exit 1 if there is any"),
        options.value(
            "--format", "FORMAT", "of --check: text or json", choices=("text", "json")
        ),
        options.flag("--parse-only", "only check the Dockerfile's syntax"),
        options.flag("-n --dry-run", "say what would be done, and do nothing"),
    ),
    _build,
)  # fmt: skip
