"""Images in the storage directory, by name."""

from __future__ import annotations

import time

from ch_image.errors import ImageError
from ch_image.formats.base import Place
from ch_image.storage.images import Image


class Stored:
    """The format ``ch-image``."""

    def bring(self, name: str, place: Place) -> Image:
        """Raises NotFound."""
        return place.storage.images.get(place.ref(name))

    def admit(self, name: str, place: Place) -> None:
        """Raises ImageError for a name that is taken, or none."""
        ref = place.ref(name)
        if ref.digest:
            raise ImageError(f"an image cannot be given a digest as its name: {ref}")
        if not place.clobber and place.storage.images.find(ref) is not None:
            raise ImageError(f"there is an image {ref} already", hint="leave out --no-clobber")

    def give(self, image: Image, name: str, place: Place) -> None:
        """List the image, replacing one of that name. Raises ImageError."""
        self.admit(name, place)
        place.storage.images.put(image._replace(ref=place.ref(name), created=time.time()))
