"""``build --cache-from`` and ``--cache-to``: what their values mean, and where they lead."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from ch_image.cli.session import Session, working_directory
from ch_image.errors import UsageError, printable
from ch_image.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ch_image.build.options import BuildResult
    from ch_image.build.remote_cache import Location
    from ch_image.storage.store import Storage

_TAG = "latest"


class Spec(NamedTuple):
    """Where a cache is: a registry's reference, or a directory of the host."""

    ref: str
    directory: str
    everything: bool  # mode=max


def parse(option: str, texts: Iterable[str], cwd: str) -> tuple[Spec, ...]:
    """``type=registry,ref=REF[,mode=min|max]``, ``type=local,src|dest=DIR`` or a REF alone."""
    out = []
    for text in texts:
        pairs = [part.partition("=") for part in text.split(",")]
        if "=" not in text:
            pairs = [("type", "=", "registry"), ("ref", "=", text)]
        fields = {name.strip(): value for name, _, value in pairs}
        kind, mode = fields.get("type", "registry"), fields.get("mode", "min")
        where = "dest" if option == "--cache-to" else "src"
        known = {"type", "mode", "ref"} if kind == "registry" else {"type", "mode", where}
        wrong = sorted(fields.keys() - known)
        ref, directory = fields.get("ref", ""), fields.get(where, "")
        if kind not in ("registry", "local") or mode not in ("min", "max") or wrong:
            bad = wrong[0] if wrong else text
            raise UsageError(
                f"{option} cannot be '{printable(bad, 200)}'",
                hint=f"write type=registry,ref=REF or type=local,{where}=DIR, and mode=max for all",
            )
        if not (ref or directory):
            raise UsageError(f"{option} names no {'reference' if kind == 'registry' else where}")
        path = os.path.join(cwd, directory) if directory else ""
        out.append(Spec(ref, path, mode == "max"))
    return tuple(out)


def locations(session: Session) -> Sequence[Location]:
    """The caches to read. Raises ImageError, RegistryError."""
    from ch_image.cli.network import registries
    from ch_image.registry.registries import Place
    from ch_image.report import Warned
    from ch_image.transfer.layout import Layout

    out: list[Location] = []
    for spec in parse("--cache-from", session.parsed.texts("cache-from"), working_directory()):
        if spec.directory:
            if os.path.exists(f"{spec.directory}/oci-layout"):
                out.append((Place(Layout(spec.directory), ""), _TAG))
            else:
                where = printable(spec.directory, 200)
                session.report(Warned(f"--cache-from: there is no cache in {where} yet"))
            continue
        ref = session.ref(spec.ref)
        out.append((registries(session).home(ref), ref.reference))
    return out


def check(session: Session) -> None:
    """Refuse what cannot be meant before anything is built. Raises UsageError, ImageError."""
    for option in ("cache-from", "cache-to"):
        for spec in parse(f"--{option}", session.parsed.texts(option), working_directory()):
            if spec.ref:
                session.ref(spec.ref)


def everything(session: Session) -> bool:
    """Whether a cache is to be written that has the layers of all steps."""
    specs = parse("--cache-to", session.parsed.texts("cache-to"), working_directory())
    return any(spec.everything for spec in specs)


def store(session: Session, result: BuildResult) -> None:
    """Write the caches that were asked for. Raises ChError."""
    specs = parse("--cache-to", session.parsed.texts("cache-to"), working_directory())
    if not specs or result.image is None:
        return
    from ch_image.build.remote_cache import export, send
    from ch_image.cli.network import registries
    from ch_image.report import Info

    storage = session.storage
    for spec in specs:
        made = export(result, storage, everything=spec.everything)
        if spec.ref:
            ref = session.ref(spec.ref)
            sent = send(made, registries(session).home(ref), ref.reference, storage)
            session.report(Info(f"build cache: sent {sent} blobs to {ref}"))
        else:
            _write(session, spec.directory, storage, result, made)
            session.report(Info(f"build cache: written to {printable(spec.directory, 300)}"))


def _write(
    session: Session, path: str, storage: Storage, result: BuildResult, made: object
) -> None:
    from ch_image.build.remote_cache import Export
    from ch_image.transfer.lay_out import write_directory
    from ch_image.transfer.pack import Packed

    assert isinstance(made, Export)
    assert result.image is not None
    image = result.image._replace(manifest=made.descriptor)
    name = session.ref(f"localhost/build-cache:{_TAG}")
    write_directory(Packed(image, made.manifest), [name], storage.blobs, path)
