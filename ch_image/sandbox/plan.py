"""A container as a list of words: what is mounted, who runs, what runs.

``Plan.words`` and ``parse`` are inverse, so a plan crosses a pipe, stands in a log and can be
pasted: ``python3 -m ch_image.sandbox WORDS``.
"""

from __future__ import annotations

from ch_image.sandbox import syscalls as kernel
from ch_image.sandbox.mounts import Bind, Dev, File, Link, Operation, Proc, Tmpfs

NAMESPACES = {
    "pid": kernel.CLONE_NEWPID,
    "ipc": kernel.CLONE_NEWIPC,
    "uts": kernel.CLONE_NEWUTS,
    "net": kernel.CLONE_NEWNET,
}


class Identity:
    """Who a process seems to be: user, group, supplementary groups."""

    __slots__ = ("gid", "groups", "uid")

    def __init__(self, uid: int = 0, gid: int = 0, groups: tuple[int, ...] = ()) -> None:
        self.uid, self.gid, self.groups = uid, gid, groups

    def __str__(self) -> str:
        return ":".join((str(self.uid), str(self.gid), ",".join(map(str, self.groups))))

    @staticmethod
    def parse(text: str) -> Identity:
        """The inverse of ``str``."""
        uid, gid, groups = text.split(":")
        return Identity(int(uid), int(gid), tuple(int(g) for g in groups.split(",") if g))


class Plan:
    """Everything a container needs to start. ``root`` is a directory of the host."""

    def __init__(self, root: str, argv: list[str]) -> None:
        self.root = root
        self.argv = argv
        self.operations: list[Operation] = []
        self.namespaces: list[str] = ["pid", "ipc", "uts"]
        self.env: dict[str, str] = {}
        self.cwd = "/"
        self.hostname = ""
        self.emulate = True  # root emulation by seccomp
        self.identity = Identity()
        self.owners: list[tuple[str, int, int]] = []  # of links, FIFOs, sockets: path, uid, gid
        self.new_privileges = True  # False: no_new_privs is set
        self.terminal = False  # stdin is a terminal that the command's session gets
        self.umask = 0o022

    def flags(self) -> int:
        """The clone(2) flags of the plan's namespaces, the mount namespace among them."""
        return flags_of(self.namespaces)

    def words(self, *, env: bool = True) -> list[str]:
        """The plan as command-line words; without ``env`` the variables are left out."""
        out = ["--root", self.root, "--unshare", ",".join(self.namespaces)]
        for operation in self.operations:
            out += operation.words()
        if self.hostname:
            out += ["--hostname", self.hostname]
        out += ["--identity", str(self.identity), "--umask", f"{self.umask:04o}"]
        if self.emulate:
            out.append("--emulate")
        for path, uid, gid in self.owners:
            out += ["--owner", f"{uid}:{gid}", path]
        if not self.new_privileges:
            out.append("--no-new-privs")
        if self.terminal:
            out.append("--terminal")
        for name, value in self.env.items() if env else ():
            out += ["--setenv", name, value]
        return [*out, "--chdir", self.cwd, "--", *self.argv]


def flags_of(namespaces: list[str]) -> int:
    """The clone(2) flags of these namespaces and a mount namespace."""
    flags = kernel.CLONE_NEWNS
    for name in namespaces:
        flags |= NAMESPACES[name]
    return flags


def flags_asked(words: list[str]) -> int:
    """The flags of a plan from its words, which begin with --root, --unshare and their values."""
    return flags_of([name for name in words[3].split(",") if name])


def parse(words: list[str]) -> Plan:
    """The inverse of ``Plan.words``. Raises ValueError on a word that is no part of a plan."""
    plan = Plan("/", [])
    rest = list(reversed(words))
    take = rest.pop
    while rest:
        word = take()
        if word == "--":
            plan.argv = rest[::-1]
            return plan
        if word in ("--bind", "--ro-bind"):
            plan.operations.append(Bind(take(), take(), readonly=word == "--ro-bind"))
        elif word == "--tmpfs":
            plan.operations.append(Tmpfs(take(), take()))
        elif word == "--proc":
            plan.operations.append(Proc(take()))
        elif word == "--dev":
            plan.operations.append(Dev(take()))
        elif word == "--symlink":
            plan.operations.append(Link(take(), take()))
        elif word == "--file":
            target, status = take(), take().split(":")
            owner = int(status[1]), int(status[2])
            plan.operations.append(File(target, take(), int(status[0], 8), owner))
        elif word == "--setenv":
            name = take()
            plan.env[name] = take()
        else:
            _setting(plan, word, rest)
    return plan


def _setting(plan: Plan, word: str, rest: list[str]) -> None:
    if word == "--emulate":
        plan.emulate = True
    elif word == "--no-new-privs":
        plan.new_privileges = False
    elif word == "--terminal":
        plan.terminal = True
    elif word == "--root":
        plan.root = rest.pop()
        plan.emulate = False
    elif word == "--unshare":
        plan.namespaces = [name for name in rest.pop().split(",") if name]
    elif word == "--hostname":
        plan.hostname = rest.pop()
    elif word == "--owner":
        uid, gid = rest.pop().split(":")
        plan.owners.append((rest.pop(), int(uid), int(gid)))
    elif word == "--identity":
        plan.identity = Identity.parse(rest.pop())
    elif word == "--umask":
        plan.umask = int(rest.pop(), 8)
    elif word == "--chdir":
        plan.cwd = rest.pop()
    else:
        raise ValueError(f"no part of a container plan: {word}")
