"""What a RUN may try on its supervisor, whose process it sees, may trace, and may starve.

The supervisor has the same rights in the same mounts, so there must be nothing to gain from it:
no descriptor, no terminal, no report that is believed further than the container's own files.
"""

from __future__ import annotations

import os
from pathlib import Path

import containers
import pytest
import world
from containers import owner, plan_of, run

from ch_image.sandbox.launcher import Launcher, Result

pytestmark = pytest.mark.userns
MACHINE = os.uname().machine
SYSCALLS = "GETFD, OPENAT2, URING, PIDFD = 438, 437, 425, 434\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return containers.make_root(tmp_path / "root")


def test_nothing_can_be_fetched_from_the_supervisor(root: Path) -> None:
    script = (
        SYSCALLS
        + """
import stat
pidfd = libc.syscall(PIDFD, 1, 0)
assert pidfd >= 0
bad = []
for name in os.listdir('/proc/1/fd'):
    fd = libc.syscall(GETFD, pidfd, int(name), 0)
    what = os.readlink(f'/proc/1/fd/{name}')
    assert fd >= 0, (what, ctypes.get_errno())
    mode = os.fstat(fd).st_mode
    if os.path.sameopenfile(fd, 1):  # the output of this very script
        continue
    if stat.S_ISSOCK(mode) or stat.S_ISDIR(mode) or stat.S_ISREG(mode) or os.isatty(fd):
        bad.append(what)
sys.exit(f'{bad}' if bad else 0)
"""
    )
    assert run(root, script).code == 0


FORGED = {
    "a file outside": b"exit\0000\0owner\0../../../etc/passwd\0005\0005",
    "a mount point outside": b"exit\0000\0made\0/../../x\0001",
    "a time beyond all": b"exit\0000\0made\0/work\000" + b"9" * 40,
    "no number": b"exit\000x",
    "a number too big": b"exit\0000\0owner\0work\000-1\000" + b"9" * 30,
    "an unknown word": b"exit\0000\0nonsense",
    "nothing": b"\0\0\0",
    "not UTF-8": b"exit\0000\0owner\0\xff\xfe\0005\0005",
}


@pytest.mark.parametrize("report", FORGED.values(), ids=FORGED.keys())
def test_a_forged_report_is_believed_of_the_tree_only(root: Path, report: bytes) -> None:
    result = run(root, SAY.replace("REPORT", repr(report)))
    assert result.problem is not None or result.code == 0
    assert all(".." not in path.split("/") for path in result.owners)
    assert all(0 <= mtime < 1 << 63 and path.startswith("/") for path, mtime in result.made)


SAY = """
for name in os.listdir('/proc/1/fd'):
    try:
        if os.readlink(f'/proc/1/fd/{name}').startswith('pipe:') and int(name) > 2:
            fd = os.open(f'/proc/1/fd/{name}', os.O_WRONLY | os.O_NONBLOCK)
            os.set_blocking(fd, True)
            for piece in REPORT if isinstance(REPORT, list) else [REPORT]:
                os.write(fd, piece)
    except OSError:
        pass
"""


def test_an_endless_report_is_cut_off(root: Path) -> None:
    result = run(root, SAY.replace("REPORT", "[b'x' * 65536] * 400"))
    assert "too long" in str(result.problem)


def test_more_links_than_descriptors_keep_their_owners(root: Path) -> None:
    script = """
for n in range(400):
    os.symlink('x', f'l{n}'); os.lchown(f'l{n}', 5, n + 1)
    os.chown('/work', 9, n)
for n in range(390, 400):
    os.unlink(f'l{n}'); os.symlink('y', f'l{n}')
assert os.lstat('l0').st_mode
"""

    def work() -> dict[str, object]:
        import resource

        resource.setrlimit(resource.RLIMIT_NOFILE, (128, 256))
        launcher = Launcher()
        result = launcher.launch(plan_of(root, script), os.open("/dev/null", os.O_RDWR), 2, 2)
        found = vars(result.wait())
        launcher.close()
        return found

    result = Result()
    vars(result).update(world.in_namespace(work))
    assert result.code == 0
    assert result.owners == {f"work/l{n}": (5, n + 1) for n in range(390)}
    assert owner(root / "work") == (9, 399)


def test_paths_longer_than_a_path_may_be(root: Path) -> None:
    script = """
name = 'd' * 250
for n in range(20):
    os.mkdir(name); os.chdir(name)
os.symlink('x', 'link'); os.lchown('link', 5, 6)
open('file', 'w').close(); os.chown('file', 7, 8)
for n in range(4):
    os.chdir('..')
path = '/'.join([name] * 4 + ['file'])
os.chdir('/work')
path = '/'.join([name] * 16)
path += '/' * (4090 - len(path))
os.chown(path, 3, 4)
"""
    result = run(root, script)
    assert result.code == 0, "a long path was refused"
    assert result.owners == {}
    assert "too long" in result.lost
    deep = os.open(root / "work", os.O_RDONLY)
    for n in range(20):
        if n == 16:
            assert owner(Path(f"/proc/self/fd/{deep}")) == (3, 4)
        above, deep = deep, os.open("d" * 250, os.O_RDONLY, dir_fd=deep)
        os.close(above)
    assert owner(Path(f"/proc/self/fd/{deep}/file")) == (7, 8)
    os.close(deep)


def test_files_made_in_unusual_ways_belong_to_who_made_them(root: Path) -> None:
    script = (
        SYSCALLS
        + """
import struct
def openat2(path, flags, mode=0o640, resolve=0):
    how = struct.pack('QQQ', flags, mode, resolve)
    fd = libc.syscall(OPENAT2, -100, path, how, 24)
    assert fd >= 0, (path, os.strerror(ctypes.get_errno()))
    os.close(fd)
os.mkdir('shared'); os.chown('shared', 0, 50); os.chmod('shared', 0o2777)
os.setresgid(34, 34, 34); os.setresuid(33, 33, 33)
def unnamed(directory, name):
    fd = os.open(directory, os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(fd, b'hello')
    old = b'/proc/self/fd/%d' % fd
    assert libc.linkat(-100, old, -100, name.encode(), 0x400) == 0
unnamed('.', 'unnamed')
unnamed('/work/shared', 'handed')
openat2(b'new', os.O_CREAT | os.O_WRONLY)
openat2(b'shared/../beneath', os.O_CREAT | os.O_WRONLY, 0o600, 8)
openat2(b'new', os.O_RDONLY, 0)
assert libc.syscall(OPENAT2, -100, b'../escaped', struct.pack('QQQ', 0o101, 0o600, 8), 24) < 0
assert ctypes.get_errno() == 18  # EXDEV
assert libc.syscall(URING, 4, ctypes.create_string_buffer(120)) < 0
"""
    )
    assert run(root, script).code == 0
    found = {p.name: owner(p) for p in (root / "work").iterdir()}
    assert found == {
        "shared": (0, 50), "unnamed": (33, 34), "handed": (33, 50), "new": (33, 34),
        "beneath": (33, 34),
    }  # fmt: skip
    assert (root / "work/unnamed").read_text() == "hello"
    assert not (root / "escaped").exists()


def test_a_server_knows_who_calls(root: Path) -> None:
    script = """
import socket, struct
def peer(s):
    return struct.unpack('iII', s.getsockopt(socket.SOL_SOCKET, 17, 12))
server = socket.socket(socket.AF_UNIX); server.bind('/work/s'); server.listen()
def ask(uid, gid):
    if (pid := os.fork()) == 0:
        os.setresgid(gid, gid, gid); os.setresuid(uid, uid, uid)
        client = socket.socket(socket.AF_UNIX); client.connect('/work/s')
        assert peer(client)[1:] == (0, 0), peer(client)
        client.recv(1)
        os._exit(0)
    c, _ = server.accept()
    seen = []  # by a thread, as servers have them
    t = threading.Thread(target=lambda: seen.append(peer(c))); t.start(); t.join()
    c.send(b'x')
    assert os.waitpid(pid, 0)[1] == 0
    assert seen == [(pid, uid, gid)], seen
ask(0, 0); ask(33, 34); ask(0, 0); ask(70000, 70001)
assert server.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM
"""
    assert run(root, script).code == 0


def test_a_namespace_inside_gets_no_further_than_its_own_mounts(root: Path) -> None:
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "x").write_text("")
    script = f"""
libc.unshare(0x10000000 | 0x20000)  # user and mount namespace
for file, text in ('setgroups', 'deny'), ('uid_map', '0 0 1'), ('gid_map', '0 0 1'):
    with open(f'/proc/self/{{file}}', 'w') as stream:
        stream.write(text)
assert libc.mount(None, b'/', None, 1 << 18 | 16384, None) == 0
os.mkdir('m'); assert libc.mount(b'none', b'm', b'tmpfs', 0, None) == 0
os.mkdir('m/work')
for path in ('m/x', 'm/work/x', 'x'):
    open(path, 'w').close()
os.symlink('{outside}/x', 'm/l'); os.symlink('/proc/1/root{outside}/x', 'm/k')
for path in ('x', '/work/m/x', 'm/l', 'm/k', '../../../..{outside}/x', '/proc/1/root/work/x'):
    try:
        os.chown(path, 5, 5)
    except OSError:
        pass
os.chroot('m')
for path in ('/work/x', '../../../../..{outside}/x', '/proc/1/root{outside}/x'):
    try:
        os.chown(path, 6, 6)
    except OSError:
        pass
"""
    assert run(root, script).code == 0
    assert owner(root / "work/x") == (5, 5)
    assert os.listxattr(outside / "x") == []


def test_a_fifo_with_a_programs_name_keeps_nobody_waiting(root: Path) -> None:
    script = """
for name in ('bash', 'make', 'tar', 'dpkg'):
    os.mkfifo(name, 0o755)
    for path in (name, f'/work/{name}', '/proc/self/cwd/' + name, '/proc/self/fd/99'):
        try:
            os.execv(path, [name, '--unpack'])
        except OSError as error:
            assert error.errno in (2, 13), error
"""
    assert run(root, script).code == 0


def test_addresses_at_the_end_of_all_memory_are_the_callers_mistake(root: Path) -> None:
    script = """
NR = {'x86_64': (59, 165), 'aarch64': (221, 40)}[os.uname().machine]  # execve, mount
for address in (-1, -2, -4096, -255, 1, 1 << 47, (1 << 63) - 1, -(1 << 63)):
    for number in NR:
        got = libc.syscall(number, *[ctypes.c_long(address)] * 5)
        assert got == -1, address
        assert ctypes.get_errno() == 14, (address, ctypes.get_errno())
os.mkfifo('f'); os.chown('f', 5, 6)
"""
    result = run(root, script)
    assert result.code == 0
    assert result.owners == {"work/f": (5, 6)}
