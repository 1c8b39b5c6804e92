"""SquashFS images for ch-run, read by squashfuse in a process beside the container.

We mount the FUSE file system ourselves, in the container's mount namespace, and hand its
descriptor (fuse(4)) to ``squashfuse_ll``, which stands outside that namespace. So ch-run can
become the command; when the last process of the container ends, the kernel takes the mount away,
squashfuse finds its descriptor dead and ends too. No set-user-ID helper and no mount of the host.
"""

from __future__ import annotations

import os

from ch_image.cli.run_image import Guest, bottom, mount_overlay, no_overlay, read_environment
from ch_image.errors import ChError, SandboxError, printable
from ch_image.sandbox import syscalls as kernel

_PROGRAMS = ("squashfuse_ll", "squashfuse")
_FUSE = os.makedev(10, 229)  # the kernel's own number of /dev/fuse
_PLACES = ("/usr/local/bin", "/usr/bin", "/bin")


class SquashGuest(Guest):
    """The SquashFS file at ``path``; ``place``: the directory to mount at, inside only."""

    def __init__(self, path: str, place: str, search: str) -> None:
        self.path = os.path.realpath(path)
        self.place = place or os.path.dirname(self.path)
        if not os.path.isdir(self.place):
            raise ChError(f"can't mount at {printable(place, 300)}: no such directory")
        self.program = program(search)
        if not self.program:
            raise _no_fuse(path, "squashfuse is not installed")

    def mount(self, size: str, *, writable: bool) -> str:
        """See ``Guest``."""
        if writable:
            raise ChError(
                "a SquashFS image cannot be written to",
                hint="use -W for writes that are forgotten, or ch-convert it to a directory first",
            )
        self._serve()
        image = bottom(self.place)
        try:
            return mount_overlay([f"/proc/self/fd/{image}"], self.place, size)
        except OSError as error:
            raise no_overlay(error) from None
        finally:
            os.close(image)

    def _serve(self) -> None:
        archive = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise _no_fuse(self.path, f"/dev/fuse: {error.strerror}") from None
        ready, starter = os.pipe2(os.O_CLOEXEC)
        apart, teller = os.pipe2(os.O_CLOEXEC)
        child = os.fork()
        if child == 0:
            try:  # twice, so that it is no child of the command, which would not wait for it
                if os.fork() == 0:
                    os.close(starter)
                    self._become_server(archive, fuse, ready, teller)
            finally:
                os._exit(1)
        os.waitpid(child, 0)
        os.close(teller)
        try:
            if os.read(apart, 1) != b".":
                raise _no_fuse(self.path, "squashfuse could not be started")
            try:
                flags = kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV
                options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0,allow_other"
                kernel.mount("squashfuse", self.place, "fuse.squashfuse", flags, options)
            except OSError as error:
                raise _no_fuse(self.path, f"mount: {error.strerror}") from None
            os.write(starter, b".")
            os.close(starter)
            os.close(fuse)
            try:
                os.listdir(self.place)  # waits for the server, fails when it could not begin
            except OSError as error:
                self._refuse_damaged(archive)
                raise _no_fuse(self.path, f"squashfuse: {error.strerror}") from None
        finally:
            for fd in (archive, ready, apart):
                os.close(fd)

    def _refuse_damaged(self, archive: int) -> None:
        """Blame the file where it is to blame; what squashfuse says of it, nobody hears.

        The dead mount may be over its directory, so it is read by its descriptor.
        """
        from ch_image.formats.squash import check_whole

        check_whole(self.path, os.dup(archive))

    def _become_server(self, archive: int, fuse: int, ready: int, teller: int) -> None:
        os.setsid()
        kernel.unshare(kernel.CLONE_NEWNS)  # before the mount, so that it is not kept alive here
        os.chdir("/")
        null = os.open("/dev/null", os.O_RDWR)
        os.write(teller, b".")
        os.close(teller)
        if os.read(ready, 1) != b".":
            os._exit(1)
        for number in range(3):
            os.dup2(null, number)
        for fd in (archive, fuse):
            os.set_inheritable(fd, True)
        keep = sorted((archive, fuse))
        for first, last in ((3, keep[0] - 1), (keep[0] + 1, keep[1] - 1), (keep[1] + 1, 1 << 31)):
            if first <= last:
                kernel.close_range(first, last)
        words = [self.program, "-f", f"/proc/self/fd/{archive}", f"/dev/fd/{fuse}"]
        os.execv(self.program, words)

    def environment(self, root: str) -> list[str]:
        """From /ch/environment."""
        return read_environment(root)


def program(search: str) -> str:
    """The squashfuse to use, an empty string when there is none."""
    for name in _PROGRAMS:
        for directory in (*(d for d in search.split(":") if d.startswith("/")), *_PLACES):
            path = f"{directory}/{name}"
            if os.access(path, os.X_OK):
                return path
    return ""


def usable(search: str) -> bool:
    """Whether SquashFS images can be run here."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
        return os.stat("/dev/fuse").st_rdev == _FUSE and bool(program(search))
    except OSError:
        return False


def _no_fuse(path: str, why: str) -> SandboxError:
    shown = printable(path, 300)
    return SandboxError(
        f"can't mount a SquashFS image: {shown}: {why}",
        hint="ch-image import it and run it by name, or ch-convert it to a directory",
    )
