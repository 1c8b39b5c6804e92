"""From a registry into storage: name, manifest, config, layers, and last the image's record.

Layers arrive, are decompressed and unpacked at the same time. What is in storage by digest is
neither fetched nor unpacked again, and a tag that still means the same image costs one request.
A pull that fails or is stopped leaves no image, and an older one of that name as it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ch_image.errors import ChError, ImageError, RegistryError, StorageError
from ch_image.model.oci import Descriptor, ImageConfig, Manifest, parse_config
from ch_image.model.platforms import Platform
from ch_image.model.ref import ImageRef, short_digest
from ch_image.registry.client import Fetched
from ch_image.registry.registries import Place, Registries
from ch_image.report import Detail, Info, Reporter, Warned, silent
from ch_image.storage.images import Image
from ch_image.storage.layers import Chain, LayerId
from ch_image.storage.store import Storage
from ch_image.transfer.download import Download
from ch_image.transfer.fill import fill
from ch_image.transfer.resolve import Resolved, is_unchanged, resolve
from ch_image.typed import TypeAlias

Unsquash: TypeAlias = Callable[[str], LayerId]  # from the path of a SquashFS file


def pull(
    ref: ImageRef,
    storage: Storage,
    registries: Registries,
    platform: Platform | None = None,
    report: Reporter = silent,
    *,
    always: bool = False,
    into: ImageRef | None = None,
    unsquash: Unsquash | None = None,
) -> Image:
    """Bring an image into storage, as ``into`` (default: under its own name).

    ``unsquash`` makes a layer of a SquashFS file; without it an image that is one is refused.

    ``platform`` None takes what the registry has: this machine's platform where there is a choice.
    An image that is in storage already is taken as it is, unless ``always``: then the registry is
    asked whether it still is the same. The caller holds the storage's lock. Raises RegistryError,
    ImageError, StorageError.
    """
    target = into or ref
    stored = _stored(storage, target, report)
    if stored is not None and not _serves(stored, platform):
        stored = None
    if stored is not None and not always:
        return stored
    if stored is not None and _is_it(stored, ref, platform, storage):
        return stored
    fault: ChError | None = None
    places = registries.places(ref)
    for place in places:
        try:
            if stored is not None and _still_there(place, ref, stored, platform, storage):
                report(Info(f"unchanged: {target}"))
                return stored
            top = place.client.get_manifest(place.repository, ref.reference)
            # A mirror may hold the manifest and lack a blob: then the others are asked for it.
            order = [place, *(other for other in places if other is not place)]
            return _bring(target, top, order, storage, platform, report, unsquash)
        except (RegistryError, ImageError) as error:
            if not place.is_mirror:
                raise
            fault = fault or error
            report(Detail(f"mirror {place.client.registry}: {error}"))
    assert fault is not None
    raise fault


def _stored(storage: Storage, ref: ImageRef, report: Reporter) -> Image | None:
    try:
        return storage.images.find(ref)
    except StorageError as error:  # damaged or incomplete: pulling mends it
        report(Warned(f"{error}; pulling it again"))
        return None


def _serves(image: Image, platform: Platform | None) -> bool:
    return platform is None or platform.rank(image.config.platform) is not None


def _is_it(stored: Image, ref: ImageRef, platform: Platform | None, storage: Storage) -> bool:
    """Whether the digest that is asked for is what is stored; nobody needs to be asked then."""
    if not ref.digest or stored.manifest is None:
        return False
    return is_unchanged(ref.digest, stored.manifest, platform, storage.blobs)


def _still_there(
    place: Place, ref: ImageRef, stored: Image, platform: Platform | None, storage: Storage
) -> bool:
    """Whether the registry's tag still means what is stored; one request at most."""
    if stored.manifest is None or ref.digest:
        return False
    found = place.client.head_manifest(place.repository, ref.reference)
    return found is not None and is_unchanged(
        found.digest, stored.manifest, platform, storage.blobs
    )


def _bring(
    target: ImageRef,
    top: Fetched,
    places: Sequence[Place],
    storage: Storage,
    platform: Platform | None,
    report: Reporter,
    unsquash: Unsquash | None,
) -> Image:
    report(Info(f"pulling image: {target}"))
    resolved = resolve(places[0], top, platform, storage.blobs)
    manifest = resolved.manifest
    config = _config(places, manifest, storage)
    _check(resolved, config, platform, report)
    if any("squashfs" in layer.media_type for layer in manifest.layers):
        chain: Chain = (_mountable(manifest.layers, places, storage, report, unsquash),)
        config = config._replace(diff_ids=())  # its layer was never an archive
    else:
        chain = fill(storage, places, manifest.layers, config.diff_ids, report)
    image = Image(target, config, chain, resolved.descriptor, time.time())
    storage.images.put(image)
    digest = short_digest(resolved.descriptor.digest)
    report(Detail(f"{target}: {len(chain)} layers, {config.platform}, {digest}"))
    return image


def _mountable(
    layers: Sequence[Descriptor],
    places: Sequence[Place],
    storage: Storage,
    report: Reporter,
    unsquash: Unsquash | None,
) -> LayerId:
    """The layer of an image that is one SquashFS file."""
    if len(layers) > 1:
        raise ImageError("the image has several layers that are SquashFS: only one is understood")
    if unsquash is None:
        raise ImageError("the image is a SquashFS file", hint="fetch it first: ch-image pull REF")
    blob = layers[0]
    if not storage.blobs.has(blob.digest, blob.size):
        Download(blob, "layer 1/1", storage.blobs).run(places, report, _go_on, _go_on)
    return unsquash(storage.blobs.path(blob.digest))


def _go_on() -> None:
    pass


def _config(places: Sequence[Place], manifest: Manifest, storage: Storage) -> ImageConfig:
    from ch_image.model.oci import MAX_DOCUMENT

    blob = manifest.config
    if storage.blobs.has(blob.digest, blob.size):
        return parse_config(storage.blobs.read(blob.digest, MAX_DOCUMENT))
    fault: ChError | None = None
    for place in places:
        try:
            raw = place.client.get_document(place.repository, blob, "the image's config")
            storage.blobs.put(raw)
            return parse_config(raw)
        except RegistryError as error:
            fault = fault or error
    assert fault is not None
    raise fault


def _check(
    resolved: Resolved, config: ImageConfig, platform: Platform | None, report: Reporter
) -> None:
    """What makes these layers an image. Raises ImageError; warns of another platform's image."""
    layers = resolved.manifest.layers
    if len(layers) != len(config.diff_ids):
        kind = resolved.manifest.config.media_type
        raise ImageError(
            f"this is no container image, or a damaged one: it has {len(layers)} layers, "
            f"its config names {len(config.diff_ids)}",
            hint=f"its config is of type {kind}" if kind else "",
        )
    for number, layer in enumerate(layers, 1):
        kind = layer.media_type
        if "foreign" in kind or "nondistributable" in kind:
            raise ImageError(
                f"layer {number} is foreign: its content may not be fetched from this registry",
                hint="ask for an image without such layers (they are Windows base layers)",
            )
        if kind.endswith("+encrypted"):
            raise ImageError(f"layer {number} is encrypted")
    if platform is not None and platform.rank(config.platform) is None:
        report(Warned(f"the image is made for {config.platform}, not for {platform}"))
