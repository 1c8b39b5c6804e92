"""The supervisor under attack: killed, flooded, raced; nothing hangs, is lost, or gets out.

The container's root is a small tree with the host's /usr in it, read-only, so that the programs
are Python scripts with ctypes; what lies beside the root must stay untouched.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import containers
import pytest
import world
from containers import owner, plan_of, run

from ch_image.sandbox.launcher import Launcher

pytestmark = pytest.mark.userns


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return containers.make_root(tmp_path / "root")


def test_ten_thousand_chowns_of_eight_processes_are_all_recorded(root: Path) -> None:
    script = """
for worker in range(8):
    if os.fork() == 0:
        for n in range(1250):
            name = f'{worker}-{n}'
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY))
            os.chown(name, 1000 + worker, n)
        os._exit(0)
codes = [os.wait()[1] for _ in range(8)]
sys.exit(any(codes))
"""
    result = run(root, script, 120)
    assert result.code == 0
    assert result.notifications >= 20_000
    wrong = [
        f"{worker}-{n}"
        for worker in range(8)
        for n in range(1250)
        if owner(root / f"work/{worker}-{n}") != (1000 + worker, n)
    ]
    assert wrong == []


def test_processes_that_die_while_they_wait_for_an_answer_harm_nobody(root: Path) -> None:
    script = """
open('x', 'w').close()
end = time.monotonic() + 3
killed = 0
while time.monotonic() < end:
    pid = os.fork()
    if pid == 0:
        while True:
            os.chown('x', 5, 5); os.setresuid(-1, -1, -1)
    time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    killed += 1
open('y', 'w').close()
os.chown('y', 6, 7)
sys.exit(0 if killed > 50 else 3)
"""
    assert run(root, script).code == 0
    assert owner(root / "work/y") == (6, 7)


def test_a_flood_does_not_keep_a_container_alive(root: Path) -> None:
    script = """
for _ in range(6):
    if os.fork() == 0:
        os.setsid()
        while True:
            try:
                os.chown('/nowhere', 1, 1)
            except OSError:
                pass
time.sleep(0.5)
"""
    began = time.monotonic()
    assert run(root, script).code == 0
    assert time.monotonic() - began < 10


def test_a_path_that_changes_meanwhile_leads_nowhere_else(root: Path) -> None:
    outside = root.parent / "outside"
    outside.write_text("mine")
    (root / "work/inside").write_text("")
    (root / "work/link").symlink_to(f"../../..{outside}")
    (root / "work/far").symlink_to(str(outside))
    script = f"""
paths = [b'/work/inside', b'/work/link\\0', b'/work/far\\0\\0',
         b'/proc/1/root{outside}'.replace(b'//', b'/'), b'../../../../outside']
size = max(map(len, paths)) + 1
buffer = ctypes.create_string_buffer(size)
stop = False
def flip():
    while not stop:
        for path in paths:
            ctypes.memmove(buffer, path + b'\\0', len(path) + 1)
thread = threading.Thread(target=flip); thread.start()
end = time.monotonic() + 3
while time.monotonic() < end:
    libc.chown(buffer, 33, 44)
    libc.lchown(buffer, 33, 44)
stop = True
thread.join()
"""
    assert run(root, script).code == 0
    assert owner(root / "work/inside") == (33, 44)
    assert owner(outside) == (0, 0)
    assert os.listxattr(outside) == []


def test_a_killed_supervisor_ends_the_container_and_is_told(root: Path) -> None:
    def work() -> str:
        launcher = Launcher()
        null = os.open("/dev/null", os.O_RDWR)
        signal.alarm(30)
        started = launcher.launch(plan_of(root, "time.sleep(60)"), null, 2, 2)
        first = _until(lambda: _first_processes(os.getpid()))
        os.kill(first[0], signal.SIGKILL)
        result = started.wait()
        launcher.close()
        return str(result.problem)

    assert "killed" in world.in_namespace(work)


def _until(find: Callable[[], list[int]]) -> list[int]:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        found = find()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("the container did not start")


def _first_processes(above: int) -> list[int]:
    """PIDs below ``above`` that are number 1 of another PID namespace and have a child."""
    out = []
    for child in _children(above):
        status = Path(f"/proc/{child}/status").read_text()
        numbers = next(x for x in status.splitlines() if x.startswith("NSpid:")).split()
        if numbers[-1] == "1" and len(numbers) > 2 and _children(child):
            out.append(child)
        out += _first_processes(child)
    return out


def _children(pid: int) -> list[int]:
    try:
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def test_identities_go_over_fork_threads_vfork_and_reparenting(root: Path) -> None:
    script = """
pid = os.fork()
if pid == 0:
    os.setgroups([7, 9]); os.setresgid(34, 34, 34); os.setresuid(33, 33, 33)
    assert os.getresuid() == (33, 33, 33) and os.getgroups() == [7, 9]
    seen = []
    t = threading.Thread(target=lambda: seen.append(os.getuid())); t.start(); t.join()
    assert seen == [33]
    try:
        os.setuid(0); os._exit(3)
    except PermissionError:
        pass
    if os.fork() == 0:  # its parent ends first: PID 1 becomes its parent
        time.sleep(0.3)
        assert os.getppid() == 1 and os.getuid() == 33
        open('/work/orphan', 'w').close()
        os._exit(0)
    os.execv('/usr/bin/id', ['id'])
assert os.waitpid(pid, 0)[1] == 0
assert os.getuid() == 0
api = ctypes.PyDLL(None)
@ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
def child(_):
    libc.syscall(SETUID, 55)
    os.execv('/bin/sh', ['sh', '-c', 'id -u > /work/vforked'])
    return 9
stack = ctypes.create_string_buffer(1 << 20)
top = ctypes.c_void_p(ctypes.addressof(stack) + (1 << 20) - 64)
pid = api.clone(child, top, 0x100 | 0x4000 | 17, None)  # CLONE_VM | CLONE_VFORK | SIGCHLD
assert pid > 0
os.waitpid(pid, 0)
open('/work/after', 'w').close()
assert os.getuid() == 0, os.getuid()
time.sleep(0.5)
""".replace("SETUID", "105" if os.uname().machine == "x86_64" else "146")
    assert run(root, script).code == 0
    assert (root / "work/vforked").read_text() == "55\n"
    assert owner(root / "work/vforked") == (55, 0)
    assert owner(root / "work/after") == (0, 0)
    assert owner(root / "work/orphan") == (33, 34)


def test_an_inode_that_is_used_again_does_not_keep_its_owner(root: Path) -> None:
    script = """
for n in range(200):
    os.symlink('x', 'old'); os.lchown('old', 5, 6); os.unlink('old')
    os.symlink('x', f'new{n}')
    open('file', 'w').close(); os.chown('file', 7, 8); os.unlink('file')
    open(f'file{n}', 'w').close()
os.mkfifo('pipe'); os.chown('pipe', 1, 2); os.rename('pipe', 'moved'); os.link('moved', 'twin')
"""
    result = run(root, script)
    assert result.code == 0
    assert result.owners == {"work/moved": (1, 2), "work/twin": (1, 2)}
    assert {owner(root / f"work/file{n}") for n in range(200)} == {(0, 0)}


def test_mounts_of_the_container_stay_and_others_can_be_made(root: Path) -> None:
    script = """
assert libc.umount2(b'/proc', 0) != 0 and ctypes.get_errno() == 16
os.mkdir('m')
assert libc.mount(b'none', b'm', b'tmpfs', 0, None) == 0
assert libc.mount(b'proc', b'm', b'proc', 0, None) == 0
os.chown('/work', 3, 4)
assert libc.umount2(b'm', 0) == 0 and libc.umount2(b'm', 0) == 0
for kind, inside in (b'sysfs', 'kernel'), (b'devtmpfs', 'null'):
    assert libc.mount(kind, b'm', kind, 0, None) == 0 and os.path.exists(f'm/{inside}')
    assert libc.umount2(b'm', 0) == 0 and os.listdir('m') == []
assert os.path.exists('/sys/kernel') and os.path.exists('/dev/null')
os.mkdir('jail'); os.mkdir('jail/work')
open('jail/work/x', 'w').close(); open('/work/x', 'w').close()
os.symlink('/work/x', 'jail/l')
if os.fork() == 0:
    os.chroot('jail'); os.chdir('/')
    os.chown('/work/x', 8, 8); os.chown('l', 9, 9); os.chown('../../work/x', 10, 10)
    os._exit(0)
sys.exit(os.wait()[1] != 0)
"""
    assert run(root, script).code == 0
    assert owner(root / "work") == (3, 4)
    assert owner(root / "work/jail/work/x") == (10, 10)
    assert owner(root / "work/x") == (0, 0)


def test_low_ports_and_higher_limits_do_not_fail(root: Path) -> None:
    script = """
import resource, socket
for family, address in (socket.AF_INET, '127.0.0.1'), (socket.AF_INET6, '::1'):
    try:
        s = socket.socket(family)
        s.bind((address, 0))
    except OSError:  # no IPv6 here
        continue
    s = socket.socket(family); s.bind((address, 80)); s.listen()
    assert s.getsockname()[1], 'bound'
    c = socket.create_connection(s.getsockname()[:2])
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, soft))
resource.setrlimit(resource.RLIMIT_NOFILE, (soft + 5, soft + 5))
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, soft)
resource.setrlimit(resource.RLIMIT_NOFILE, (9, soft + 5))
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (9, soft)
resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8))
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (8, 8)
os.setuid(5)
try:
    resource.setrlimit(resource.RLIMIT_NOFILE, (9, 9)); sys.exit(3)
except ValueError:
    pass
"""
    assert run(root, script).code == 0


def test_programs_that_ask_for_owners_by_an_old_call_are_told(root: Path) -> None:
    script = """
import shutil, subprocess
open('f', 'w').close(); os.chown('f', 33, 44)
look = 'import os; s = os.stat("f"), os.lstat("/work/f"), os.fstat(os.open("f", os.O_RDONLY));'
look += 'raise SystemExit(len({x.st_uid for x in s}) * 100 + s[0].st_uid)'
for name in ('AnsiballZ_file.py', 'other.py'):
    with open(name, 'w') as stream:
        stream.write(look)
def seen(*argv, **more):
    return subprocess.run(argv, **more).returncode
python = '/usr/bin/python3'
assert seen(python, 'AnsiballZ_file.py') == 133
assert seen(python, 'other.py') == 100, 'that is where the view ends'
assert seen(python, 'other.py', user=33, group=44) == 133
os.symlink(python, 'dpkg')
assert seen('/work/dpkg', '-Ic', look, '--configure', '-a') in (133, 233), 'by path at least'
assert seen('/work/dpkg', '-Ic', look, '--unpack') == 100
assert seen('/usr/bin/find', 'f', '-user', '33', '-exec', '/bin/false', '{}', '+') != 0
"""
    assert run(root, script).code == 0


def test_who_copies_attributes_does_not_copy_an_owner(root: Path) -> None:
    script = """
import shutil
os.mkdir('a'); open('a/f', 'w').close()
os.setxattr('a/f', 'user.colour', b'blue'); os.chown('a/f', 5, 6); os.chown('a', 7, 8)
assert os.listxattr('a/f') == ['user.colour'] and os.listxattr('/work/a') == []
assert os.listxattr(os.open('a/f', os.O_RDONLY)) == ['user.colour']
shutil.copytree('a', 'b')
assert os.getxattr('b/f', 'user.colour') == b'blue'
"""
    assert run(root, script).code == 0
    assert (owner(root / "work/a"), owner(root / "work/a/f")) == ((7, 8), (5, 6))
    assert (owner(root / "work/b"), owner(root / "work/b/f")) == ((0, 0), (0, 0))


def test_nothing_of_a_container_is_alive_when_its_result_is_there(root: Path) -> None:
    """It could write to a layer that is finished."""
    mark = f"left-{os.getpid()}"
    script = f"""
for n in range(20):
    if os.fork() == 0:
        os.setsid()
        os.execv('/usr/bin/sleep', ['{mark}', '1000'])
time.sleep(0.2)
"""

    def work() -> list[str]:
        launcher = Launcher()
        null = os.open("/dev/null", os.O_RDWR)
        alive = []
        for _ in range(5):
            assert launcher.launch(plan_of(root, script), null, 2, 2).wait().code == 0
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    if path.read_bytes().startswith(mark.encode()):
                        alive.append(path.parent.name)
        launcher.close()
        return alive

    assert world.in_namespace(work) == []
