"""RUN as Docker's reference has it: mounts, heredocs, networks, users.

Most cases are Dockerfiles whose commands look for themselves: they fail where the world is not as
they expect.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import conftest
import pytest
import world
from language import Bench

pytestmark = [pytest.mark.userns, pytest.mark.registry]

FILES = {"f": "data\n", "d/one": "1\n", "d/two": "2\n"}
MADE = "FROM @BASE@ AS made\nRUN mkdir /made && echo st > /made/f && chown app /made/f\n"

# name: lines behind FROM; each RUN checks what it sees
GOOD = {
    "bind a file": "RUN --mount=type=bind,source=f,target=/m/f grep data /m/f; ! echo x > /m/f",
    "bind is the default type": "RUN --mount=source=d,target=/m ls /m/one /m/two",
    "bind of the whole context": "WORKDIR /src\nRUN --mount=target=. grep data f; grep 1 d/one",
    "bind relative to WORKDIR": "WORKDIR /w\nRUN --mount=src=f,dst=in/f grep data in/f",
    "bind that may be written": (
        "RUN --mount=target=/m,rw echo new > /m/f && rm -r /m/d && test -w /m\n"
        "RUN --mount=target=/m grep data /m/f && test -d /m/d && ! test -e f"
    ),
    "bind leaves no mount point": "RUN --mount=target=/m/n/o true\nRUN ! test -e /m",
    "bind keeps a mount point": (
        "RUN mkdir /m && echo > /m/own\nRUN --mount=source=d,target=/m ! test -e /m/own\n"
        "RUN test -e /m/own && ! test -e /m/one"
    ),
    "bind on a file that is there": (
        "RUN --mount=source=f,target=/etc/group grep data /etc/group\nRUN grep staff /etc/group"
    ),
    "bind from a stage": (
        "RUN --mount=type=bind,from=made,source=/made,target=/m grep st /m/f && ! touch /m/x"
    ),
    "bind from a stage, written": (
        "RUN --mount=from=made,source=/made,target=/m,rw echo > /m/x && rm /m/f\n"
        "RUN --mount=from=made,source=/made,target=/m test -e /m/f && ! test -e /m/x"
    ),
    "bind from a stage by number": "RUN --mount=from=0,target=/m grep st /m/made/f",
    "bind from an image": "RUN --mount=from=@BASE@,target=/m grep app /m/etc/passwd",
    "bind from an image, written": (
        "RUN --mount=from=@BASE@,target=/m,rw rm -r /m/bin && ls /bin/sh"
    ),
    "bind with a variable": "ARG D=d\nRUN --mount=source=$D,target=/m/$D grep 1 /m/d/one",
    "cache is kept": (
        "RUN --mount=type=cache,target=/c echo 1 > /c/n && stat -c %a /c | grep 755\n"
        "RUN --mount=type=cache,target=/c grep 1 /c/n\nRUN ! test -e /c"
    ),
    "cache by id": (
        "RUN --mount=type=cache,id=one,target=/a touch /a/n\n"
        "RUN --mount=type=cache,id=one,target=/b test -e /b/n\n"
        "RUN --mount=type=cache,id=two,target=/a ! test -e /a/n"
    ),
    "cache with mode": "RUN --mount=type=cache,id=m,mode=0700,target=/c stat -c %a /c | grep 700",
    "cache read-only": "RUN --mount=type=cache,id=ro,target=/c,ro ! touch /c/n",
    "cache filled from a stage": (
        "RUN --mount=type=cache,id=fill,from=made,source=made,target=/c grep st /c/f && rm /c/f\n"
        "RUN --mount=type=cache,id=fill,from=made,source=made,target=/c ! test -e /c/f"
    ),
    "cache of every sharing": (
        "RUN --mount=type=cache,id=s,sharing=shared,target=/c touch /c/n\n"
        "RUN --mount=type=cache,id=s,sharing=locked,target=/c test -e /c/n\n"
        "RUN --mount=type=cache,id=s,sharing=private,target=/c test -e /c/n"
    ),
    "two caches at once": (
        "RUN --mount=type=cache,id=p,sharing=private,target=/a "
        "--mount=type=cache,id=p,sharing=private,target=/b touch /a/n && ! test -e /b/n"
    ),
    "tmpfs": (
        "RUN --mount=type=tmpfs,target=/t touch /t/n; grep ' /t tmpfs' /proc/mounts\nRUN ! ls /t"
    ),
    "tmpfs for everybody": "RUN --mount=type=tmpfs,target=/t stat -c %a /t | grep 1777",
    "tmpfs of a size": (
        "RUN --mount=type=tmpfs,target=/t,size=1m ! head -c 2000000 /dev/zero > /t/n"
    ),
    "secret as a file": (
        "RUN --mount=type=secret,id=s grep -x key /run/secrets/s && stat -c %a /run/secrets/s"
        " | grep 400\nRUN ! test -e /run/secrets"
    ),
    "secret elsewhere": "RUN --mount=type=secret,id=s,target=/root/.key grep -x key /root/.key",
    "secret by target alone": "RUN --mount=type=secret,target=/r/s grep -x key /r/s",
    "secret with mode": (
        "RUN --mount=type=secret,id=s,mode=0444 stat -c %a /run/secrets/s | grep 444"
    ),
    "secret in the environment": (
        'RUN --mount=type=secret,id=s,env=KEY test "$KEY" = key && ! test -e /run/secrets\n'
        'RUN test -z "$KEY"'
    ),
    "secret in both": (
        'RUN --mount=type=secret,id=s,env=KEY,target=/k test "$KEY" = key && grep key /k'
    ),
    "secret from a variable": "RUN --mount=type=secret,id=v,env=KEY test $KEY = value",
    "secret that is not given": "RUN --mount=type=secret,id=none ! test -e /run/secrets/none",
    "secret for a user": (
        "USER app\nRUN --mount=type=secret,id=s,uid=1234,mode=0400 grep key /run/secrets/s"
    ),
    "several mounts": (
        "RUN --mount=type=cache,target=/c --mount=type=tmpfs,target=/t --mount=target=/m,source=f "
        "test -d /c && test -d /t && test -e /m"
    ),
    "no network": "RUN --network=none ! ip address | grep -v lo: | grep -q '^[0-9]'",
    "network of the host": "RUN --network=host test $(ls /sys/class/net | wc -l) -gt 0",
    "security is accepted": "RUN --security=sandbox true",
    "exec form": 'RUN ["/bin/sh", "-c", "test \\"$0\\" = a", "a"]',
    "SHELL": 'SHELL ["/bin/sh", "-ec"]\nRUN false; exit 0\n',
    "heredoc": "RUN <<EOF\nx=1\ntest $x = 1\nEOF",
    "heredoc ends at the first failure only by its shell": "RUN <<EOF\nfalse\ntrue\nEOF",
    "heredoc keeps variables for the shell": "ARG a=b\nRUN <<EOF\na=c\ntest $a = c\nEOF",
    "heredoc, quoted": "RUN <<'EOF'\ntest '$a' = '$'a\nEOF",
    "heredoc without tabs": "RUN <<-EOF\n\ttest 1 = 1\n\tEOF",
    "heredoc with a shebang": "RUN <<EOF\n#!/bin/awk -f\nBEGIN { exit 0 }\nEOF",
    "heredoc as input": "RUN cat <<EOF | grep line\na line\nEOF",
    "two heredocs": "RUN cat <<A > /a && cat <<B > /b && grep 1 /a && grep 2 /b\n1\nA\n2\nB",
    "heredoc by descriptor": "RUN 3<<EOF grep three <&3\nthree\nEOF",
    "heredoc to an interpreter": "RUN <<EOF awk -f /dev/stdin\nBEGIN { exit 0 }\nEOF",
    "USER by name": "USER app\nRUN test $(id -un) = app && test $HOME = /home/app && touch /tmp/n",
    "USER by number": "USER 33:44\nRUN test $(id -u):$(id -g) = 33:44 && test $HOME = /",
    "USER with a group": "USER app:staff\nRUN test $(id -g) = 50",
    "USER has supplementary groups": "USER app\nRUN id -G | grep -w 50",
    "groups are in order": "USER app\nRUN id | grep 'groups=50(staff),1234(app)'",
    "USER and back": "USER app\nUSER root\nRUN test $(id -u) = 0",
    "ARG is seen": "ARG A=1\nRUN test $A = 1",
    "ARG of before FROM is not": 'RUN test -z "$GLOBAL"',
    "ARG of before FROM, declared": "ARG GLOBAL\nRUN test $GLOBAL = g",
    "ENV wins over ARG": "ARG A=1\nENV A=2\nRUN test $A = 2",
    "platform": "ARG TARGETARCH BUILDPLATFORM TARGETSTAGE\nRUN test -n $TARGETARCH$BUILDPLATFORM",
    "PATH": "RUN echo $PATH | grep /usr/bin",
    "build arguments": "ARG GIVEN=no\nRUN test $GIVEN = yes",
    "a proxy needs no ARG": "RUN test $ftp_proxy = ftp://proxy.example",
    "a proxy that is given": "RUN test $HTTPS_PROXY-$https_proxy = http://p-http://p",
    "root is in its groups": "RUN echo more:x:77:root >> /etc/group\nRUN id -G | grep -w 77",
    "root needs no groups": "RUN rm /etc/group && mkdir /etc/group\nRUN test $(id -u) = 0",
    "the sandbox has a name": (
        "RUN test $(hostname) = given && test $(cat /proc/sys/kernel/hostname) = given && "
        "grep -w given /etc/hosts"
    ),
    "hosts": "RUN grep '1.2.3.4.*other' /etc/hosts",
}

# name: (lines behind FROM, options, what the error says, what the hint says)
BAD = {
    "a required secret": (
        "RUN --mount=type=secret,id=none,required true", "this step needs the secret", "--secret"
    ),
    "a required agent": ("RUN --mount=type=ssh,required true", "needs the SSH agent", "--ssh"),
    "a bind of nothing": ("RUN --mount=source=nof,target=/m true", "nof", ""),
    "a bind from nowhere": (
        "RUN --mount=from=nostage/x:1@bad,target=/m true", "nostage", ""
    ),
    "a mount over the root": ("RUN --mount=target=/ true", "can be mounted over /", "target="),
    "a command that fails": ("RUN exit 7", "RUN command exited with 7", ""),
    "a command that is not there": ("RUN nocommand", "exited with 127", "command not found"),
    "a user that is not there": ("USER joe\nRUN true", 'no user "joe"', "/etc/passwd"),
    "exec form of nothing": ('RUN ["/nothing"]', "/nothing", ""),
}  # fmt: skip


@pytest.fixture(scope="module")
def bench(base_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    work = tmp_path_factory.mktemp("run")
    tool = world.Tool(work / "storage", work)
    tool("pull", base_image).ok()
    (work / "key").write_text("key")
    yield Bench(tool, base_image, work)
    conftest.remove_tree(work / "storage")


def options(work: Path) -> list[str]:
    return [
        *("--secret", f"id=s,src={work}/key", "--secret", "id=v,env=SECRET"),
        *("--build-arg", "GIVEN=yes", "--add-host", "other:1.2.3.4"),
        *("--build-arg", "https_proxy=http://p", "--build-arg=BUILDKIT_SANDBOX_HOSTNAME=given"),
    ]


ENVIRONMENT = {"SECRET": "value", "ftp_proxy": "ftp://proxy.example"}


@pytest.mark.parametrize("name", GOOD)
def test_a_run_sees_what_docker_would_show_it(name: str, bench: Bench) -> None:
    text = f"ARG GLOBAL=g\n{MADE}FROM @BASE@\n{GOOD[name]}\n"
    if name == "SHELL":
        assert bench.build(text, FILES).code == 1
        return
    bench.build(text, FILES, *options(bench.work), env=ENVIRONMENT).ok()


@pytest.mark.parametrize("name", BAD)
def test_a_run_that_cannot_be_is_refused_with_place_and_reason(name: str, bench: Bench) -> None:
    text, message, hint = BAD[name]
    done = bench.build(f"FROM @BASE@\n{text}\n", FILES)
    assert done.code in (1, 7), done.err
    fault = done.fault()
    number = 2 + text.count("\n")
    assert fault.startswith(f"Dockerfile:{number}: "), done.err
    assert message in fault, done.err
    assert hint in done.err.rpartition("hint:")[2] if hint else True


def test_files_that_a_user_makes_belong_to_the_user(bench: Bench) -> None:
    text = (
        "FROM @BASE@\nUSER app\nWORKDIR /made/deep\n"
        "RUN echo > /tmp/f; ln -s f /tmp/l; mkdir /tmp/d\n"
        "USER 33:44\nRUN mkfifo /tmp/p; echo > /tmp/g\nUSER root\nRUN chown app:staff /tmp/g\n"
    )
    bench.build(text).ok()
    tree = bench.tree()
    owners = {path: tree[path]["owner"] for path in tree if path.startswith(("tmp/", "made"))}
    assert owners == {
        "made": "1234:1234", "made/deep": "1234:1234",
        "tmp/f": "1234:1234", "tmp/l": "1234:1234", "tmp/d": "1234:1234",
        "tmp/p": "33:44", "tmp/g": "1234:50",
    }  # fmt: skip


def test_an_ssh_mount_leads_to_the_agent(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "agent"
    text = (
        "FROM @BASE@\nRUN --mount=type=ssh test $SSH_AUTH_SOCK = /run/buildkit/ssh_agent.0"
        " && test -S $SSH_AUTH_SOCK\n"
        'RUN --mount=type=ssh,id=other,target=/a test -z "$SSH_AUTH_SOCK"\n'
        'RUN --mount=type=ssh,target=/a test -S /a\nRUN test -z "$SSH_AUTH_SOCK" && ! test -e /a\n'
    )
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(path))
        bench.build(text, None, "--ssh", f"default={path}").ok()


def test_secrets_are_neither_in_the_image_nor_in_storage(bench: Bench) -> None:
    (bench.work / "rare").write_text("xyzzy-plugh-secret")
    text = "FROM @BASE@\nRUN --mount=type=secret,id=r,env=R wc -c /run/secrets/r\n"
    text = text.replace(",env=R", "") + "RUN --mount=type=secret,id=r,env=R test -n $R\n"
    bench.build(text, None, "--secret", f"id=r,src={bench.work}/rare").ok()
    for path, _, names in os.walk(bench.tool.storage):
        for name in names:
            file = Path(path, name)
            if file.is_file() and not file.is_symlink():
                assert b"xyzzy-plugh" not in file.read_bytes(), file


def test_another_secret_is_no_miss_and_another_bound_file_is(bench: Bench) -> None:
    text = (
        "FROM @BASE@\nRUN --mount=type=secret,id=s cat /run/secrets/s > /dev/null\n"
        "RUN --mount=source=f,target=/m cat /m > /n\n"
    )
    secret = ("--secret", f"id=s,src={bench.work}/key")
    bench.build(text, {"f": "1"}, *secret).ok()
    (bench.work / "key").write_text("key")  # as before, but newer
    again = bench.build(text, {"f": "1"}, *secret).ok().err
    assert "2* RUN" in again
    assert "3* RUN" in again
    changed = bench.build(text, {"f": "2"}, *secret).ok().err
    assert "2* RUN" in changed
    assert "3. RUN" in changed


@pytest.mark.parametrize(("sharing", "at_once"), [("shared", True), ("locked", False)])
def test_two_builds_share_a_cache_as_they_say(
    sharing: str, at_once: bool, bench: Bench, tmp_path: Path
) -> None:
    processes = []
    for name in ("a", "b"):
        text = (
            f"FROM @BASE@\nRUN --mount=type=cache,id={sharing},sharing={sharing},target=/c "
            f": {tmp_path}; cd /c; touch {name}; sleep 1; ls > /n; test $(ls | wc -l) = 2 "
            f"&& touch both; rm {name}; test -e both || true\n"
        )
        context = bench.context(text, name=f"sharing-{sharing}-{name}")
        processes.append(bench.tool.start("build", "-t", name, context))
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    text = (
        f"FROM @BASE@\nRUN --mount=type=cache,id={sharing},target=/c : {time.time()}; "
        f"test -e /c/both\n"
    )
    assert (bench.build(text).code == 0) is at_once
