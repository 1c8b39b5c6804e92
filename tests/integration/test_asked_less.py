"""Some programs are asked about less (see sandbox/readers.py), and nothing is lost.

A Python of that name plays their part, and does what they would not.
"""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path

import containers
import pytest
import world
from containers import owner, run

from ch_image.sandbox import seccomp

pytestmark = [
    pytest.mark.userns,
    pytest.mark.skipif(not seccomp.more_marks(), reason="no such mark on this machine"),
]

# In the container; `as_dpkg` starts what follows in a Python of that name, with these arguments.
BEGIN = """
import resource
def limit():
    return resource.getrlimit(resource.RLIMIT_STACK)[0]
def as_dpkg(code, *words, program='/work/dpkg'):
    begin = open('/work/begin').read()
    pid = os.fork()
    if pid == 0:
        os.execv(program, ['dpkg', '-Ic', begin + code, *(words or ('--unpack',))])
    assert os.waitpid(pid, 0)[1] == 0
def excl(path):
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = containers.make_root(tmp_path / "root")
    shutil.copy(containers.PYTHON, made / "work/dpkg")
    for name in ("make", "mv", "gcc"):
        shutil.copy(containers.PYTHON, made / "work" / name)
    (made / "work/begin").write_text(containers.PRELUDE + BEGIN)
    return made


def test_files_and_directories_that_dpkg_makes_are_not_asked_about(root: Path) -> None:
    script = """
as_dpkg('''
for n in range(300):
    fd = os.open(f'f{n}', os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.fchown(fd, 0, 0)
    os.close(fd)
    os.mkdir(f'd{n}'); os.symlink('x', f's{n}'); os.lchown(f's{n}', 0, 0)
''')
"""
    result = run(root, BEGIN + script)
    assert result.code == 0
    assert result.notifications < 300
    assert len(os.listdir(root / "work")) == 905


def test_what_it_gives_others_or_takes_back_is_recorded(root: Path) -> None:
    script = """
os.mkdir('mail'); os.chown('mail', 0, 8); os.chmod('mail', 0o2775)
open('back', 'w').close(); os.chown('back', 33, 33)
as_dpkg('''
excl('others')
fd = os.open('others', os.O_WRONLY); os.fchown(fd, 33, 0); os.close(fd)
excl('group'); os.chown('group', 0, 42)
os.symlink('x', 'link'); os.lchown('link', 5, 6)
os.chown('back', 0, 0)
open('mail/log', 'w').close()
''')
"""
    result = run(root, BEGIN + script)
    assert result.code == 0
    work = root / "work"
    assert owner(work / "others") == (33, 0)
    assert owner(work / "group") == (0, 42)
    assert owner(work / "back") == (0, 0)
    assert owner(work / "mail/log") == (0, 8)
    assert result.owners["work/link"] == (5, 6)


def test_programs_that_it_starts_are_not_dpkg(root: Path) -> None:
    script = """
usual = limit()
os.mkdir('mail'); os.chown('mail', 0, 8); os.chmod('mail', 0o2775)
as_dpkg(f'''
assert limit() == {usual}, limit()
code = open('/work/begin').read() + 'assert limit() == {usual}, limit(); excl("mail/child")'
if os.fork() == 0:
    os.execv('/usr/bin/python3', ['python3', '-Ic', code])
assert os.wait()[1] == 0
os.execv('/usr/bin/python3', ['python3', '-Ic', code.replace('child', 'self')])
''')
"""
    assert run(root, BEGIN + script).code == 0
    assert owner(root / "work/mail/child") == (0, 8)
    assert owner(root / "work/mail/self") == (0, 8)


def test_threads_of_it_can_be_made(root: Path) -> None:
    script = """
as_dpkg('''
t = threading.Thread(target=excl, args=('thread',)); t.start(); t.join()
''')
"""
    assert run(root, BEGIN + script).code == 0
    assert (root / "work/thread").exists()


NOT_DPKG = {
    "another command": "as_dpkg('excl(\"mail/x\")', '--configure')",
    "a script": "as_dpkg('', program='/work/script')",
    "an exec that failed": """
if os.fork() == 0:
    try:
        os.execv('/nowhere/dpkg', ['dpkg', '--unpack'])
    except OSError:
        os.execv('/usr/bin/python3', ['python3', '-Ic', BEGIN + 'excl("mail/x")'])
assert os.wait()[1] == 0
""",
}


@pytest.mark.parametrize("code", NOT_DPKG.values(), ids=NOT_DPKG.keys())
def test_others_are_asked(root: Path, code: str) -> None:
    script = root / "work/script"
    script.write_text("#!/bin/sh\nset -C\n: > /work/mail/x\n")
    script.chmod(0o755)
    prepare = "os.mkdir('mail'); os.chown('mail', 0, 8); os.chmod('mail', 0o2775)\n"
    begin = "BEGIN = open('/work/begin').read()\n"
    assert run(root, BEGIN + prepare + begin + code).code == 0
    assert owner(root / "work/mail/x") == (0, 8)


ANOTHER = {
    "dpkg": 'excl("mine")',
    "make": 'assert os.getuid() == 33, os.getuid(); excl("mine")',
    "gcc": 'excl("mine"); assert os.stat("mine").st_uid == 33',
}


@pytest.mark.parametrize(("name", "code"), ANOTHER.items())
def test_another_user_is_asked_as_ever(root: Path, name: str, code: str) -> None:
    script = f"""
os.chmod('.', 0o777)
if os.fork() == 0:
    os.setgid(33); os.setuid(33)
    as_dpkg('{code}', program='/work/{name}')
    os._exit(0)
assert os.wait()[1] == 0
"""
    assert run(root, BEGIN + script).code == 0
    assert owner(root / "work/mine") == (33, 33)


def test_make_is_not_asked_who_it_is_and_what_it_starts_is(root: Path) -> None:
    script = """
usual = limit()
as_dpkg(f'''
assert limit() == {usual}
for _ in range(100):
    assert os.getresuid() == (0, 0, 0) and os.getuid() == os.geteuid() == 0
    os.getgid(); os.getegid(); os.setresuid(-1, 0, -1); os.setresgid(-1, 0, -1)
if os.fork() == 0:
    os.setgid(34); os.setuid(33)
    os.execv('/bin/sh', ['sh', '-c', 'id -u > ids; id -g >> ids; ulimit -s >> ids'])
assert os.wait()[1] == 0
os.system('ulimit -s >> ids')
''', program='/work/make')
open('usual', 'w').write(f'33\\n34\\n{usual // 1024}\\n{usual // 1024}\\n')
"""
    result = run(root, BEGIN + script)
    assert result.code == 0
    assert result.notifications < 300
    assert (root / "work/ids").read_text() == (root / "work/usual").read_text()
    assert owner(root / "work/ids") == (33, 34)


# mov eax, 57; syscall (fork); test eax, eax; jz +9; mov eax, 231; xor edi, edi; syscall (exit)
# xor edi, edi; xor esi, esi; mov edx, 300; mov eax, 7; syscall (poll: sleep)
# mov rdi, [rsp+16]; lea rsi, [rsp+16]; xor edx, edx; mov eax, 59; syscall (execve of argv[1:])
LATE = bytes.fromhex(
    "b8390000000f0585c07409b8e700000031ff0f05"
    "31ff31f6ba2c010000b8070000000f05"
    "488b7c2410488d74241031d2b83b0000000f05"
)


def elf(kind: int, at: int, code: bytes, interpreter: bytes = b"") -> bytes:
    """A program (2) or library (3) of this code, mapped at ``at``."""
    headers = 2 if interpreter else 1
    behind = 64 + 56 * headers
    size = behind + len(interpreter) + len(code)
    out = struct.pack(
        "<4sBBB9xHHIQQQIHHHHHH", b"\x7fELF", 2, 1, 1, kind, 62, 1, at + behind + len(interpreter),
        64, 0, 0, 64, 56, headers, 0, 0, 0,
    )  # fmt: skip
    if interpreter:
        length = len(interpreter)
        out += struct.pack("<II6Q", 3, 4, behind, at + behind, at + behind, length, length, 1)
    out += struct.pack("<II6Q", 1, 5, 0, at, at, size, size, 4096)
    return out + interpreter + code


@pytest.mark.parametrize("name", ["make", "gcc"])
def test_a_large_stack_that_nobody_puts_back_goes_no_further(root: Path, name: str) -> None:
    """As with a C library that does not ask for the limit when a program starts."""
    for file, content in (
        (name, elf(2, 0x400000, b"", b"/work/linker\0")),
        ("linker", elf(3, 0, LATE)),
    ):
        (root / "work" / file).write_bytes(content)
        (root / "work" / file).chmod(0o755)
    script = f"""
usual = limit()
late = '''import os, resource
os.setuid(33); assert os.getuid() == 33
open('/work/late', 'w').write(str(resource.getrlimit(resource.RLIMIT_STACK)[0]))'''
if os.fork() == 0:
    os.execv('/work/{name}', ['{name}', '/usr/bin/python3', '-Ic', late])
assert os.wait()[1] == 0
for _ in range(200):
    if os.path.exists('late') and open('late').read():
        break
    time.sleep(0.05)
assert open('late').read() == str(usual)
"""
    (root / "work").chmod(0o777)
    assert run(root, BEGIN + script).code == 0
    assert owner(root / "work/late") == (33, 0)


def test_a_static_program_keeps_its_limit(root: Path) -> None:
    busybox = Path("/usr/bin/busybox")
    if not busybox.exists():
        world.lacking("Debian's busybox-static is not installed")
    shutil.copy(busybox, root / "work/make")
    script = """
usual = limit()
if os.fork() == 0:
    os.execv('/work/make', ['sh', '-c', '(ulimit -s) > forked; : ; ulimit -s > own'])
assert os.wait()[1] == 0
assert open('forked').read() == open('own').read() == f'{usual // 1024}\\n'
"""
    assert run(root, BEGIN + script).code == 0


def test_mv_is_not_asked_who_it_is_and_sees_owners_by_path(root: Path) -> None:
    script = """
usual = limit()
open('theirs', 'w').close(); os.chown('theirs', 33, 34)
as_dpkg(f'''
for _ in range(100):
    assert os.getuid() == os.geteuid() == 0; os.getgid(); os.getegid()
assert os.stat('theirs').st_uid == os.lstat('theirs').st_uid == 33
assert limit() == {usual}
if os.fork() == 0:
    os.setgid(34); os.setuid(33)
    os.execv('/bin/sh', ['sh', '-c', 'id -u > ids; id -g >> ids; ulimit -s >> ids'])
assert os.wait()[1] == 0
''', program='/work/mv')
open('usual', 'w').write(f'33\\n34\\n{usual // 1024}\\n')
"""
    result = run(root, BEGIN + script)
    assert result.code == 0
    assert result.notifications < 300
    assert (root / "work/ids").read_text() == (root / "work/usual").read_text()
    assert owner(root / "work/ids") == (33, 34)


def test_gcc_starts_its_parts_unasked(root: Path) -> None:
    """They are no more than others: who they are, what they make and their limit is as ever."""
    script = """
usual = limit()
os.mkdir('mail'); os.chown('mail', 0, 8); os.chmod('mail', 0o2775)
as_dpkg(f'''
assert limit() == {usual}
for n in range(300):
    try:
        os.execv('/nowhere/as', ['as'])
    except FileNotFoundError:
        pass
excl('temporary')
code = open('/work/begin').read() + 'assert limit() == {usual}, limit(); excl("mail/child")'
if os.fork() == 0:
    os.execv('/usr/bin/python3', ['python3', '-Ic', code])
assert os.wait()[1] == 0
if os.fork() == 0:
    os.setgid(34); os.setuid(33)
    os.execv('/bin/sh', ['sh', '-c', 'id -u > ids; id -g >> ids'])
assert os.wait()[1] == 0
os.execv('/usr/bin/python3', ['python3', '-Ic', code.replace('child', 'self')])
''', program='/work/gcc')
"""
    result = run(root, BEGIN + script)
    assert result.code == 0
    assert result.notifications < 300
    assert owner(root / "work/mail/child") == owner(root / "work/mail/self") == (0, 8)
    assert (root / "work/ids").read_text() == "33\n34\n"
    assert owner(root / "work/ids") == (33, 34)


def test_tar_as_dpkg_deb_calls_it_gives_each_file_its_owner(root: Path) -> None:
    script = """
import tarfile
with tarfile.open('a.tar', 'w') as archive:
    for n in range(200):
        member = tarfile.TarInfo(f'file{n}')
        member.uid = member.gid = 33 * (n == 7)
        archive.addfile(member)
    for name, uid in (('dir', 0), ('old', 0), ('theirs', 5)):
        member = tarfile.TarInfo(name)
        member.type, member.mode, member.uid = tarfile.DIRTYPE, 0o755, uid
        archive.addfile(member)
os.mkdir('to'); os.chown('to', 0, 8); os.chmod('to', 0o2775)
os.mkdir('to/old'); os.chown('to/old', 33, 33)
open('to/file1', 'w').close(); os.chown('to/file1', 33, 33)
assert os.system('cd to && tar -x -f - --warning=no-timestamp < ../a.tar') == 0
"""
    result = run(root, BEGIN + script)
    assert result.code == 0
    assert result.notifications < 200
    to = root / "work/to"
    owned = {path.name: owner(path) for path in to.iterdir() if owner(path) != (0, 0)}
    assert owned == {"file7": (33, 33), "theirs": (5, 0)}
