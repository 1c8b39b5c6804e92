"""What the process environment says, read in one place and handed down as values.

Nothing below ``cli/`` looks at ``os.environ``.
"""

from __future__ import annotations

import os

from ch_image.errors import UsageError, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ch_image.cli.options import Parsed


def storage_path(parsed: Parsed, env: Mapping[str, str]) -> str:
    """The storage directory: ``-s``, else ``CH_IMAGE_STORAGE``, else ``/var/tmp/$USER.ch``.

    Raises UsageError when the variable is not an absolute path, or the option names nothing.
    """
    if parsed.has("storage"):
        if not parsed.text("storage"):
            raise UsageError("--storage names no directory: it is empty")
        return os.path.abspath(parsed.text("storage"))
    given = env.get("CH_IMAGE_STORAGE", "")
    if given:
        if not given.startswith("/"):
            raise UsageError(
                f"CH_IMAGE_STORAGE must be an absolute path: '{printable(given)}'",
                hint="only -s/--storage may be relative",
            )
        return os.path.normpath(given)
    return f"/var/tmp/{user_name(env)}.ch"


def containers_path(option: str, env: Mapping[str, str]) -> str:
    """Where states of OCI containers are kept: ``--root``, else in ``XDG_RUNTIME_DIR``.

    Without that, in /run for root and in a private directory of /tmp for others. In a user
    namespace that was made for an ordinary user (podman unshare) it is that user's.
    """
    if option:
        return os.path.abspath(option)
    runtime = env.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/") and os.access(runtime, os.W_OK):
        return f"{runtime}/ch-run-oci"
    uid = os.geteuid()
    with open("/proc/self/uid_map") as file:
        for line in file:
            inner, outer, size = map(int, line.split())
            if inner <= uid < inner + size:
                uid = outer + uid - inner
                break
    return "/run/ch-run-oci" if uid == 0 else f"/tmp/ch-run-oci-{uid}"


def user_name(env: Mapping[str, str]) -> str:
    """Who the caller is; by number where neither ``USER`` nor the system knows a name."""
    name = env.get("USER", "")
    if name and "/" not in name and name not in (".", ".."):
        return name
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def auth_files(env: Mapping[str, str]) -> tuple[str, ...]:
    """Files with credentials, first the one that counts most (containers-auth.json(5))."""
    if given := env.get("REGISTRY_AUTH_FILE"):
        return (given,)
    home = env.get("HOME", "")
    runtime = env.get("XDG_RUNTIME_DIR", "")
    config = env.get("XDG_CONFIG_HOME") or (f"{home}/.config" if home else "")
    docker = env.get("DOCKER_CONFIG") or (f"{home}/.docker" if home else "")
    return (
        *((f"{runtime}/containers/auth.json",) if runtime else ()),
        *((f"{config}/containers/auth.json",) if config else ()),
        *((f"{docker}/config.json",) if docker else ()),
    )


def switched_on(env: Mapping[str, str], name: str) -> bool:
    """Whether a yes/no variable says yes: set, and not to ``0``, ``no``, ``false`` or ``off``."""
    return env.get(name, "").strip().lower() not in ("", "0", "no", "false", "off")
