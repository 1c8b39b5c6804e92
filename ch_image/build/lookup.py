"""Users and groups of an image, by its own ``/etc/passwd`` and ``/etc/group``.

The files are read inside the image's tree, so that a link in it leads nowhere else; lines that
make no sense are passed over, as the C library does. Nothing of the host is asked.
"""

from __future__ import annotations

import errno
from functools import lru_cache

from ch_image.errors import BuildError, printable
from ch_image.fs.owners import MAX_ID
from ch_image.fs.tree import Tree
from ch_image.typed import NamedTuple

_LIMIT = 10 << 20  # bytes of one file


class User(NamedTuple):
    """A line of /etc/passwd."""

    name: str
    uid: int
    gid: int
    home: str = "/"
    shell: str = ""


class Group(NamedTuple):
    """A line of /etc/group."""

    name: str
    gid: int
    members: tuple[str, ...] = ()


class Identity(NamedTuple):
    """Whom a process runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()  # supplementary, without gid
    home: str = "/"
    name: str = ""


def users(tree: Tree) -> tuple[User, ...]:
    """The users of the image, in the order of the file."""
    return _users(_content(tree, "etc/passwd"))


# The files are seldom other ones in the next step.
@lru_cache(8)
def _users(content: bytes) -> tuple[User, ...]:
    out = []
    for fields in _lines(content, 4):
        uid, gid = _number(fields[2]), _number(fields[3])
        if uid is not None and gid is not None:
            home, shell = (*fields[5:7], "", "")[:2]
            out.append(User(fields[0], uid, gid, home or "/", shell))
    return tuple(out)


def groups(tree: Tree) -> tuple[Group, ...]:
    """The groups of the image, in the order of the file."""
    return _groups(_content(tree, "etc/group"))


@lru_cache(8)
def _groups(content: bytes) -> tuple[Group, ...]:
    out = []
    for fields in _lines(content, 3):
        gid = _number(fields[2])
        if gid is not None:
            members = fields[3].split(",") if len(fields) > 3 and fields[3] else []
            out.append(Group(fields[0], gid, tuple(members)))
    return tuple(out)


def owner(tree: Tree, text: str) -> tuple[int, int]:
    """What ``--chown=USER[:GROUP]`` means in the image: (uid, gid).

    A number alone is also the group; a name alone has its group of /etc/passwd; what ends in a
    colon has group 0, as with BuildKit.
    Raises BuildError for a name that the image does not know.
    """
    user, colon, group = text.partition(":")
    gid = 0
    if user == "root":
        uid = 0
    elif user.lstrip("+-").isdigit():
        uid = gid = _id(user, "user")
    elif user:
        found = _user(tree, user)
        uid, gid = found.uid, found.gid
    elif group:
        uid = 0
    else:
        raise BuildError("--chown names no user", hint="write --chown=USER or --chown=USER:GROUP")
    if colon:
        gid = _group_id(tree, group) if group else 0
    return uid, gid


def identity(tree: Tree, text: str) -> Identity:
    """Whom ``USER NAME[:GROUP]`` runs a process as, as container engines read it.

    An unknown number has group 0 and the home directory "/". Supplementary groups are those that
    /etc/group lists, unless a group is given. Raises BuildError for an unknown name.
    """
    user, _, group = text.partition(":")
    user = user or "0"
    if user.lstrip("+-").isdigit():
        uid = _id(user, "user")
        found = next((u for u in users(tree) if u.uid == uid), User("", uid, 0))
    elif user == "root":
        found = next((u for u in users(tree) if u.name == "root"), User("root", 0, 0, "/root"))
    else:
        found = _user(tree, user)
    if group:
        return Identity(found.uid, _group_id(tree, group), (), found.home, found.name)
    more = []
    if found.name:
        more = [g.gid for g in groups(tree) if found.name in g.members and g.gid != found.gid]
    return Identity(found.uid, found.gid, tuple(dict.fromkeys(more)), found.home, found.name)


def _user(tree: Tree, name: str) -> User:
    known = users(tree)
    for user in known:
        if user.name == name:
            return user
    raise _unknown("user", name, [user.name for user in known], "/etc/passwd")


def _group_id(tree: Tree, text: str) -> int:
    if text == "root":
        return 0
    if text.lstrip("+-").isdigit():
        return _id(text, "group")
    known = groups(tree)
    for group in known:
        if group.name == text:
            return group.gid
    raise _unknown("group", text, [group.name for group in known], "/etc/group")


def _unknown(kind: str, name: str, known: list[str], file: str) -> BuildError:
    import difflib

    close = difflib.get_close_matches(name, known, 1)
    if close:
        hint = f"did you mean {printable(close[0])}?"
    elif known:
        hint = f"{file} of the image has no such name; a number needs no entry"
    else:
        hint = f"the image has no {file}; a number needs none"
    return BuildError(f'no {kind} "{printable(name)}" in the image', hint=hint)


def _id(text: str, kind: str) -> int:
    number = _number(text)
    if number is None:
        raise BuildError(
            f"{printable(text, 40)} is no {kind} ID", hint=f"IDs are numbers from 0 to {MAX_ID}"
        )
    return number


def _number(text: str) -> int | None:
    """A decimal ID that Linux can store."""
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        return None
    number = int(text)
    return number if number <= MAX_ID else None


def _content(tree: Tree, path: str) -> bytes:
    try:
        return tree.read_bytes(path, _LIMIT)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return b""
        raise BuildError(f"cannot read /{path} of the image: {error.strerror}") from None


def _lines(content: bytes, least: int) -> list[list[str]]:
    rows = (line.strip().split(":") for line in content.decode("utf-8", "replace").split("\n"))
    return [row for row in rows if len(row) >= least and row[0] and not row[0].startswith("#")]
