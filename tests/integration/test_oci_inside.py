"""What a container of ch-run-oci is like inside: mounts, IDs, limits, terminals, processes."""

from __future__ import annotations

import array
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bundles
import pytest
import world

pytestmark = pytest.mark.userns


@pytest.fixture(scope="module")
def runtime(
    tmp_path_factory: pytest.TempPathFactory, base_layout: world.BaseImage
) -> Iterator[bundles.Runtime]:
    yield from bundles.lasting(tmp_path_factory.mktemp("oci"), base_layout.tree)


def shown(runtime: bundles.Runtime, script: str, **more: Any) -> str:
    """What a shell script in the container writes."""
    runtime.write("sh", "-c", script, **more)
    done = runtime.run().ok()
    assert done.err == ""
    return done.out


TMPFS = {"destination": "/mnt", "type": "tmpfs", "source": "tmpfs"}
# What a kernel of 64 bits says it is to a process of 32 (setarch(8)).
NARROW = {"aarch64": "armv8l"}.get(os.uname().machine, "i686")
INSIDE: dict[str, tuple[dict[str, Any], str, str]] = {
    "process 1": ({}, "echo $$; hostname", "1\nboxed\n"),
    "environment": ({"process": {"env": ["PATH=/bin", "A=b=c"]}}, "echo $A $HOME", "b=c /root\n"),
    "working directory": ({"process": {"cwd": "/made/deep"}}, "pwd", "/made/deep\n"),
    "umask": ({"process": {"user": {"uid": 0, "gid": 0, "umask": 0o27}}}, "umask", "0027\n"),
    "limits": (
        {"process": {"rlimits": [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]}},
        "ulimit -Sn; ulimit -Hn", "100\n200\n",
    ),
    "capabilities": ({}, "grep CapBnd /proc/self/status", "CapBnd:\t00000000000000a1\n"),
    "no new privileges": (
        {"process": {"noNewPrivileges": True}}, "grep NoNew /proc/self/status", "NoNewPrivs:\t1\n",
    ),
    "new privileges": ({}, "grep NoNew /proc/self/status", "NoNewPrivs:\t0\n"),
    "devices": ({}, "ls /dev; echo x > /dev/null; head -c1 /dev/zero | wc -c",
                "core\nfd\nfull\nnull\nptmx\npts\nrandom\nstderr\nstdin\nstdout\ntty\nurandom\n"
                "zero\n1\n"),
    "masked paths": (
        {"linux": {"maskedPaths": ["/home", "/etc/group", "/none"]}},
        "ls /home; wc -c < /etc/group", "0\n",
    ),
    "read-only paths": (
        {"linux": {"readonlyPaths": ["/etc", "/none"]}},
        "touch /etc/x 2>&1; touch /var/x && rm /var/x", "touch: /etc/x: Read-only file system\n",
    ),
    "read-only root": (
        {"root": {"path": "rootfs", "readonly": True}},
        "touch /x 2>&1; echo x > /dev/shm-less 2>&1; touch /dev/x; echo $?",
        "touch: /x: Read-only file system\n0\n",
    ),
    "tmpfs": (
        {"mounts": [*bundles.MOUNTS, TMPFS | {"options": [
            "ro", "noexec", "size=64k", "mode=700"]}]},
        "grep ' /mnt ' /proc/mounts | cut -d' ' -f3,4 | cut -d, -f1-5; stat -c %a /mnt",
        "tmpfs ro,noexec,relatime,size=64k,mode=700\n700\n",
    ),
    "tmpcopyup": (
        {"mounts": [*bundles.MOUNTS, TMPFS | {"destination": "/etc", "options": ["tmpcopyup"]}]},
        "grep -c ^root /etc/passwd; touch /etc/new; ls /etc/new", "1\n/etc/new\n",
    ),
    "a bind mount's restrictions": (
        {"mounts": [*bundles.MOUNTS, {"destination": "/mnt", "source": "rootfs/etc", "type": "none",
                                      "options": ["rbind", "ro", "nosuid", "nodev", "noexec"]}]},
        "cut -d: -f1 /mnt/passwd | head -n1; touch /mnt/x 2>&1; true",
        "root\ntouch: /mnt/x: Read-only file system\n",
    ),
    "a file": (
        {"mounts": [*bundles.MOUNTS,
                    {"destination": "/new/file", "source": "config.json", "options": ["bind"]}]},
        "grep -c ociVersion /new/file", "1\n",
    ),
    "sysctl": (
        {"linux": {"namespaces": [{"type": t} for t in (*bundles.NAMESPACES, "network")],
                   "sysctl": {"net.ipv4.ip_forward": "1"}}},
        "cat /proc/sys/net/ipv4/ip_forward; ip link show lo | grep -c UP", "1\n1\n",
    ),
    "personality": ({"linux": {"personality": {"domain": "LINUX32"}}}, "uname -m", f"{NARROW}\n"),
    "no loss by a process without terminal": ({}, "test -t 0 || echo none", "none\n"),
    "oom score": ({"process": {"oomScoreAdj": 500}}, "cat /proc/self/oom_score_adj", "500\n"),
    "domain name": ({"domainname": "example"}, "cat /proc/sys/kernel/domainname", "example\n"),
}  # fmt: skip


@pytest.mark.parametrize(("more", "script", "wanted"), INSIDE.values(), ids=INSIDE.keys())
def test_inside(runtime: bundles.Runtime, more: dict[str, Any], script: str, wanted: str) -> None:
    assert shown(runtime, script, **more) == wanted


def test_the_tree_is_as_it_was_afterwards(runtime: bundles.Runtime) -> None:
    tree = runtime.bundle / "rootfs"
    before = {p: p.lstat().st_mtime_ns for p in [tree, *tree.rglob("*")] if p.name != "rootfs"}
    more = {"destination": "/new/dir", "type": "tmpfs", "source": "tmpfs"}
    shown(runtime, "touch /new/dir/x", mounts=[*bundles.MOUNTS, more])
    after = {p: p.lstat().st_mtime_ns for p in [tree, *tree.rglob("*")] if p.name != "rootfs"}
    assert after == before


def test_what_cannot_be_had_is_warned_of(runtime: bundles.Runtime) -> None:
    runtime.write(
        "true",
        process={
            "rlimits": [{"type": "RLIMIT_MEMLOCK", "soft": 1 << 50, "hard": 1 << 50}],
            "capabilities": {"bounding": ["CAP_TEST"]},
        },
        linux={
            "sysctl": {"kernel.panic": "1"},
            "devices": [{"path": "/dev/strange", "type": "c", "major": 77, "minor": 7}],
        },
    )
    warned = runtime.run().ok().err
    assert "there is no capability 'CAP_TEST'" in warned
    assert "RLIMIT_MEMLOCK cannot be raised" in warned
    assert "linux.sysctl: kernel.panic stays as it is" in warned
    assert "device /dev/strange is not there" in warned


def test_one_id_with_emulation(runtime: bundles.Runtime) -> None:
    """Who the process believes it is, and owners that it gives, and that a later process sees."""
    script = "touch /tmp/f; chown 33:44 /tmp/f; su app -c id"
    out = shown(runtime, script)
    assert "uid=1234(app) gid=1234(app) groups=" in out
    assert os.getxattr(runtime.bundle / "rootfs/tmp/f", "user.containers.override_stat") == (
        b"33:44:0644:file"
    )
    user = {"user": {"uid": 1234, "gid": 1234, "additionalGids": [50]}}
    out = shown(runtime, "id -u; id -G; echo $HOME", process=user)
    assert out == "1234\n1234 50\n/home/app\n"


def test_owners_are_not_recorded_when_attributes_are_not_wanted(runtime: bundles.Runtime) -> None:
    runtime.write("sh", "-c", "touch /tmp/g; chown 33:44 /tmp/g")
    runtime.run(env={"CH_XATTRS": "no"}).ok()
    assert os.listxattr(runtime.bundle / "rootfs/tmp/g") == []


def test_without_emulation_the_kernel_answers(runtime: bundles.Runtime) -> None:
    user = {"user": {"uid": 1234, "gid": 1234}}
    runtime.write("sh", "-c", "id -u; chown 33 /tmp; echo $?", process=user)
    done = runtime("--emulate", "no", "run", "-b", runtime.bundle, "c").ok()
    assert done.out == "1234\n1\n"


def test_a_seccomp_profile_is_in_force(runtime: bundles.Runtime) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [
            {"names": ["mkdir", "mkdirat", "nosuch"], "action": "SCMP_ACT_ERRNO", "errnoRet": 11},
        ],
    }  # fmt: skip
    runtime.write("sh", "-c", "mkdir /tmp/d", linux={"seccomp": profile})
    done = runtime.run()
    if "this machine has no libseccomp" in done.err:
        world.lacking("libseccomp is not installed")
    assert "Resource temporarily unavailable" in done.err
    runtime.write("true", linux={"seccomp": profile | {"defaultAction": "SCMP_ACT_X"}})
    assert "linux.seccomp.defaultAction: there is no action" in runtime.run().fault()


def test_further_processes(runtime: bundles.Runtime) -> None:
    runtime.write("sleep", "60", process={"env": ["PATH=/bin", "MINE=1"]})
    runtime.create("c").ok()
    runtime("start", "c").ok()
    done = runtime(
        "exec", "-e", "A=b", "--cwd", "/tmp", "c", "sh", "-c", "echo $MINE $A; pwd; id -u"
    )
    assert done.ok().out == "1 b\n/tmp\n0\n"
    assert runtime("exec", "c", "sh", "-c", "exit 9").code == 9
    # A second process of another user, known to the same supervisor.
    runtime("exec", "c", "sh", "-c", "touch /tmp/h; chown 7:8 /tmp/h").ok()
    assert runtime("exec", "-u", "1234:1234", "c", "id", "-u").ok().out == "1234\n"
    assert os.getxattr(runtime.bundle / "rootfs/tmp/h", "user.containers.override_stat") == (
        b"7:8:0644:file"
    )
    process = runtime.bundle / "process.json"
    process.write_text(json.dumps({"args": ["/bin/echo", "json"], "cwd": "/"}))
    pid_file = runtime.bundle / "exec-pid"
    assert runtime("exec", "-p", process, "--pid-file", pid_file, "c").ok().out == "json\n"
    assert pid_file.read_text().isdigit()
    assert runtime("exec", "c", "nothing").fault().endswith("executable file not found in $PATH")
    assert runtime("exec", "--process", "/none", "c").fault() == "/none: No such file or directory"
    quiet = "exec sleep 50 > /dev/null 2>&1"  # and lets go of our pipes
    runtime("exec", "--detach", "c", "sh", "-c", quiet).ok()
    assert len(runtime("ps", "c").ok().out.split()) == 3
    runtime("delete", "--force", "c").ok()


def test_a_terminal_is_handed_over(runtime: bundles.Runtime) -> None:
    where = runtime.bundle / "console"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(where))
    listener.listen()
    runtime.write(
        "sh", "-c", "test -t 0 && tty; stty size; ls /dev/console",
        process={"terminal": True, "consoleSize": {"height": 30, "width": 90}},
    )  # fmt: skip
    runtime.create("c", "--console-socket", where).ok()
    connection, _ = listener.accept()
    _, ancillary, _, _ = connection.recvmsg(100, socket.CMSG_SPACE(4))
    (master,) = array.array("i", ancillary[0][2])
    connection.close()
    listener.close()
    where.unlink()
    runtime("start", "c").ok()
    seen = b""
    while chunk := _read(master):
        seen += chunk
    os.close(master)
    assert seen.split() == [b"/dev/pts/0", b"30", b"90", b"/dev/console"]
    runtime.stops()
    runtime("delete", "c").ok()


def _read(master: int) -> bytes:
    try:
        return os.read(master, 1000)
    except OSError:  # EIO: the other side is closed
        return b""


def test_descriptors_are_kept_only_when_asked_for(runtime: bundles.Runtime, tmp_path: Path) -> None:
    runtime.write("sh", "-c", "ls /proc/self/fd | wc -l")
    assert runtime.run().ok().out == "4\n"  # three, and the listing's own
