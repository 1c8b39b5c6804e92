"""Images of docker and podman, through their own command lines.

What goes over is a ``docker-archive``; whoever may use those programs may do all of this. They are
run outside of our user namespace, in which podman would take us for root.
"""

from __future__ import annotations

from ch_image.errors import ImageError, UsageError, printable
from ch_image.formats.base import Place
from ch_image.formats.layouts import DockerArchive, write_archive
from ch_image.storage.images import Image

_SAID = 500  # characters of the last that the program says about a failure


class Daemon:
    """Images that another program keeps."""

    program = ""

    def bring(self, name: str, place: Place) -> Image:
        """Let the program save the image, and read that."""
        ref = place.ref(name)
        with place.storage.scratch() as scratch:
            path = f"{scratch}/saved.tar"
            self._run(place, "save", "-o", path, name)
            return DockerArchive().bring(path, place)._replace(ref=ref)

    def admit(self, name: str, place: Place) -> None:
        """Ask the program, where nothing may be replaced."""
        place.ref(name)
        if not place.clobber and self._has(place, name):
            raise ImageError(
                f"{self.program} has an image {printable(name)} already",
                hint="leave out --no-clobber",
            )

    def give(self, image: Image, name: str, place: Place) -> None:
        """Write an archive and let the program load it."""
        ref = place.ref(name)
        with place.storage.scratch() as scratch:
            path = f"{scratch}/load.tar"
            write_archive(image, path, [ref], place, docker=True)
            self._run(place, "load", "-i", path)

    def _has(self, place: Place, name: str) -> bool:
        try:
            self._run(place, "image", "inspect", name)
        except ImageError:
            return False
        return True

    def _run(self, place: Place, *words: str) -> None:
        if any(word.startswith("-") for word in words[-1:]):
            raise UsageError(f"not the name of an image: {printable(words[-1])}")
        try:
            done = place.run([self.program, *words])
        except FileNotFoundError:
            raise ImageError(
                f"{self.program} is not installed",
                hint="the format docker-archive needs no other program",
            ) from None
        if done.returncode:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
            said = printable(lines[-1] if lines else f"exit code {done.returncode}", _SAID)
            raise ImageError(f"{self.program} {words[0]} failed: {said.removeprefix('Error: ')}")


class Docker(Daemon):
    """The format ``docker``."""

    program = "docker"


class Podman(Daemon):
    """The format ``podman``."""

    program = "podman"
