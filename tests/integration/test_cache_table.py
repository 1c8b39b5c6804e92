"""Which changes make a step miss and which don't, by real builds: a wrong hit is a wrong image.

Each case is built, changed, and built again in the same storage; the mark of the last instruction
tells whether it was found in the cache.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import conftest
import pytest
import world

pytestmark = [pytest.mark.userns, pytest.mark.registry]

HIT, MISS = "*", "."
FILES = """
mkdir -p src/lib src/empty doc
echo 'int main;' > src/main.c; echo '#define X' > src/lib/util.h; echo run > src/run.sh
chmod 755 src/run.sh; ln -s main.c src/link; ln src/lib/util.h src/hard; echo text > doc/a.txt
echo other > unrelated; echo secret1 > key; touch -d 2020-01-01 src/main.c
"""
TREE = "COPY src/ /src/\n"


class Case(NamedTuple):
    """``given``: the Dockerfile behind FROM; ``then`` the changed one; ``do`` changes files."""

    mark: str
    given: str
    do: str = ""
    then: str = ""
    args: tuple[str, ...] = ()
    new_args: tuple[str, ...] | None = None
    env: str = ""
    new_env: str = ""


def secret(name: str) -> tuple[str, ...]:
    return ("--secret", f"id=s,src={name}")


def run(text: str, then: str, mark: str = MISS) -> Case:
    """The same RUN after other instructions."""
    tail = "RUN echo $V > /out\n"
    return Case(mark, text + tail, then=then + tail)


MOUNTED = "RUN --mount=type=secret,id=s cat /run/secrets/s > /dev/null\n"
CACHED = "RUN --mount=type=cache,target=/c{} echo > /c/x\n"
BOUND = "RUN --mount=type=bind,source=src,target=/m{} cat /m/main.c\n"
ARGUMENT = "ARG V\nRUN echo $V > /out\n"
FROM_STAGE = "RUN {}\nFROM scratch\nENV CASE\nCOPY --from=0 /out /out\n"

TABLE: dict[str, Case] = {
    # what COPY reads
    "nothing changes": Case(HIT, TREE),
    "a file's content": Case(MISS, TREE, "echo 'int other;' > src/main.c"),
    "content of the same size and time": Case(
        MISS, TREE, "echo 'int nain;' > src/main.c; touch -d 2020-01-01 src/main.c"
    ),
    "content deep below": Case(MISS, TREE, "echo y > src/lib/util.h"),
    "a file's mode": Case(MISS, TREE, "chmod 640 src/main.c"),
    "a set-user-ID bit": Case(MISS, TREE, "chmod u+s src/run.sh"),
    "a directory's mode": Case(MISS, TREE, "chmod 700 src/lib"),
    "a file's time": Case(HIT, TREE, "touch -d 2001-01-01 src/main.c"),
    "a directory's time": Case(HIT, TREE, "touch -d 2001-01-01 src src/lib"),
    "a file written again as it was": Case(HIT, TREE, "cp src/main.c x; mv x src/main.c"),
    "a file's name": Case(MISS, TREE, "mv src/main.c src/prog.c"),
    "two files that swap contents": Case(
        MISS, TREE, "mv src/main.c x; mv src/run.sh src/main.c; mv x src/run.sh"
    ),
    "a directory's name": Case(MISS, TREE, "mv src/lib src/include"),
    "an added file": Case(MISS, TREE, "touch src/new"),
    "an added empty directory": Case(MISS, TREE, "mkdir src/dir"),
    "a removed file": Case(MISS, TREE, "rm src/run.sh"),
    "a removed empty directory": Case(MISS, TREE, "rmdir src/empty"),
    "a file added and removed": Case(HIT, TREE, "touch src/new; rm src/new"),
    "a link's target": Case(MISS, TREE, "ln -sfn run.sh src/link"),
    "a link that becomes a file": Case(MISS, TREE, "rm src/link; cp src/main.c src/link"),
    "a file that becomes a directory": Case(MISS, TREE, "rm src/run.sh; mkdir -m 755 src/run.sh"),
    "a hard link that becomes a copy": Case(
        MISS, TREE, "cp -p src/hard x; rm src/hard; mv x src/hard"
    ),
    "an extended attribute": Case(
        MISS, TREE, "python3 -c \"import os; os.setxattr('src/main.c', 'user.a', b'1')\""
    ),
    "a file outside of the source": Case(HIT, TREE, "echo x > unrelated; echo y > doc/a.txt"),
    "an ignore rule that takes a file away": Case(MISS, TREE, "echo src/run.sh > .dockerignore"),
    "an ignore rule about something else": Case(HIT, TREE, "echo doc > .dockerignore"),
    "a comment in the ignore file": Case(HIT, TREE, "echo '# src' > .dockerignore"),
    "an ignored file that changes": Case(
        HIT, TREE, "echo src/new > .dockerignore; echo x > src/new"
    ),
    "a change of the Dockerfile elsewhere in the context": Case(
        HIT, "COPY src/main.c /\n", then="COPY src/main.c /\n# a comment\n"
    ),
    # what COPY says
    "another source of equal content": Case(
        MISS, "COPY src/main.c /x\n", "cp -p src/main.c same.c", then="COPY same.c /x\n"
    ),
    "another destination": Case(MISS, TREE, then="COPY src/ /other/\n"),
    "a destination that becomes a directory": Case(
        MISS, "COPY src/main.c /x\n", then="COPY src/main.c /x/\n"
    ),
    "--chown": Case(MISS, TREE, then="COPY --chown=5:5 src/ /src/\n"),
    "--chmod": Case(MISS, TREE, then="COPY --chmod=600 src/ /src/\n"),
    "--exclude that leaves a file out": Case(MISS, TREE, then="COPY --exclude=*.sh src/ /src/\n"),
    "blanks and lower case": Case(HIT, TREE, then="copy   src/    /src/\n"),
    "a continued line": Case(HIT, TREE, then="COPY src/ \\\n  # comment\n /src/\n"),
    "the exec form": Case(HIT, TREE, then='COPY ["src/", "/src/"]\n'),
    "a variable with the same value": Case(
        HIT, "ENV D=/src/\nCOPY src/ /src/\n", then="ENV D=/src/\nCOPY src/ $D\n"
    ),
    "an owner's number instead of its name": Case(
        MISS, "COPY --chown=app src/ /src/\n", then="COPY --chown=1234 src/ /src/\n"
    ),
    "a wildcard that matches one more": Case(MISS, "COPY src/*.c /w/\n", "touch src/b.c"),
    "a wildcard that matches the same": Case(HIT, "COPY src/*.c /w/\n", "touch src/b.h"),
    "the text of a heredoc": Case(
        MISS, "COPY <<EOF /f\none\nEOF\n", then="COPY <<EOF /f\ntwo\nEOF\n"
    ),
    "another delimiter of a heredoc, which may be the file's name": Case(
        MISS, "COPY <<EOF /f\none\nEOF\n", then="COPY <<END /f\none\nEND\n"
    ),
    # ADD
    "content of what ADD adds": Case(MISS, "ADD src/main.c /\n", "echo x > src/main.c"),
    "the time of what ADD adds": Case(HIT, "ADD src/main.c /\n", "touch src/main.c"),
    "ADD instead of COPY": Case(MISS, "COPY src/main.c /\n", then="ADD src/main.c /\n"),
    # COPY --from
    "another stage with equal output": Case(
        HIT, FROM_STAGE.format("echo 1 > /out"), then=FROM_STAGE.format("echo $((0+1)) > /out")
    ),
    "another stage with other output": Case(
        MISS, FROM_STAGE.format("echo 1 > /out"), then=FROM_STAGE.format("echo 2 > /out")
    ),
    "another owner in the other stage": Case(
        MISS,
        FROM_STAGE.format("echo 1 > /out"),
        then=FROM_STAGE.format("echo 1 > /out; chown 7:7 /out"),
    ),
    "another file of the other stage": Case(
        HIT, FROM_STAGE.format("echo 1 > /out"), then=FROM_STAGE.format("echo 1 > /out; :> /more")
    ),
    # RUN
    "a command": Case(MISS, "RUN echo 1\n", then="RUN echo 2\n"),
    "blanks inside of a command": Case(MISS, "RUN echo 1\n", then="RUN echo  1\n"),
    "RUN in lower case": Case(HIT, "RUN echo 1\n", then="run echo 1\n"),
    "the exec form of a command": Case(MISS, "RUN echo 1\n", then='RUN ["echo", "1"]\n'),
    "the text of a script": Case(MISS, "RUN <<EOF\necho 1\nEOF\n", then="RUN <<EOF\necho 2\nEOF\n"),
    "a file that no step reads": Case(HIT, "RUN echo 1\n", "echo x > src/main.c"),
    "a step before": run("RUN echo a\n", "RUN echo b\n"),
    "a step inserted before": run("", "RUN echo a\n"),
    # what RUN sees
    "ENV": run("ENV V=1\n", "ENV V=2\n"),
    "an ENV that it does not use": run("ENV W=1\n", "ENV W=2\n"),
    "ENV in its old form": run("ENV V=1\n", "ENV V 1\n", HIT),
    "WORKDIR": run("WORKDIR /a\n", "WORKDIR /b\n"),
    "WORKDIR in two steps": run("WORKDIR /a/b\n", "WORKDIR /a\nWORKDIR b\n"),
    "USER": run("RUN chmod 777 /\nUSER app\n", "RUN chmod 777 /\nUSER root\n"),
    "SHELL": run('SHELL ["/bin/sh", "-c"]\n', 'SHELL ["/bin/sh", "-ec"]\n'),
    "LABEL": run("LABEL a=1\n", "LABEL a=2\n", HIT),
    "CMD": run("CMD a\n", "CMD b\n", HIT),
    "EXPOSE": run("EXPOSE 80\n", "EXPOSE 81\n", HIT),
    "a comment": run("# a\n", "# b\n", HIT),
    "ARG": Case(MISS, ARGUMENT, args=("--build-arg=V=1",), new_args=("--build-arg=V=2",)),
    "ARG with the same value": Case(HIT, ARGUMENT, args=("--build-arg=V=1",)),
    "ARG's default": run("ARG V=1\n", "ARG V=2\n"),
    "a build argument that nobody declares": Case(
        HIT, "RUN echo 1\n", new_args=("--build-arg=UNUSED=1",)
    ),
    "a build argument of a later ARG": Case(
        HIT, "RUN echo 1\n", then="RUN echo 1\n", new_args=("--build-arg=LATER=1",)
    ),
    "a proxy's build argument": Case(
        HIT, "RUN echo 1\n", new_args=("--build-arg=HTTP_PROXY=http://127.0.0.1:9",)
    ),
    "a proxy of the environment": Case(
        HIT, "RUN echo 1\n", new_env="https_proxy=http://127.0.0.1:9"
    ),
    "the user's name": Case(HIT, "RUN echo 1\n", new_env="USER=somebody"),
    # mounts of RUN
    "a secret's value": Case(HIT, MOUNTED, "echo secret2 > key", args=secret("key")),
    "a secret's file": Case(
        HIT, MOUNTED, "cp key key2", args=secret("key"), new_args=secret("key2")
    ),
    "a secret's target": Case(
        MISS,
        MOUNTED,
        then="RUN --mount=type=secret,id=s,target=/k cat /run/secrets/s > /dev/null || :\n",
        args=secret("key"),
    ),
    "a cache mount's target": Case(
        MISS, CACHED.format(""), then="RUN --mount=type=cache,target=/d echo > /c/x || :\n"
    ),
    "a cache mount's ID": Case(MISS, CACHED.format(""), then=CACHED.format(",id=other")),
    "a mount's option that is its default": Case(
        HIT, CACHED.format(""), then=CACHED.format(",sharing=shared")
    ),
    "content of a bind mount": Case(MISS, BOUND.format(""), "echo x > src/main.c"),
    "time of a bind mount's file": Case(HIT, BOUND.format(""), "touch src/main.c"),
    "a bind mount that may be written": Case(MISS, BOUND.format(""), then=BOUND.format(",rw")),
    "a file beside a bind mount": Case(HIT, BOUND.format(""), "echo x > doc/a.txt"),
    # options
    "--force": Case(MISS, "RUN echo 1\n", new_args=("--force=none",)),
    "--force and COPY": Case(HIT, "COPY src /s\n", new_args=("--force=none",)),
    "--network": Case(MISS, "RUN echo 1\n", new_args=("--network=none",)),
    "--add-host": Case(MISS, "RUN echo 1\n", new_args=("--add-host=a:127.0.0.1",)),
    "--bind": Case(MISS, "RUN echo 1\n", new_args=("--bind=/usr/share:/mnt",)),
    "--jobs": Case(HIT, "RUN echo 1\n", new_args=("--jobs=1",)),
    "--label": Case(HIT, "RUN echo 1\n", new_args=("--label=a=b",)),
    "--rebuild": Case(MISS, "RUN echo 1\n", new_args=("--rebuild",)),
    "--no-cache": Case(MISS, "RUN echo 1\n", new_args=("--no-cache",)),
    "--no-cache-filter": Case(MISS, "RUN echo 1\n", new_args=("--no-cache-filter=stage-0",)),
    "--no-cache-filter of another stage": Case(
        HIT, "RUN echo 1\n", new_args=("--no-cache-filter=stage-7",)
    ),
}


@pytest.fixture(scope="module")
def tool(tmp_path_factory: pytest.TempPathFactory, base_image: str) -> Iterator[world.Tool]:
    """One storage directory for all cases, with the base image in it."""
    top = tmp_path_factory.mktemp("table")
    made = world.Tool(top / "storage", top)
    made("pull", base_image).ok()
    yield made
    conftest.remove_tree(made.storage)


def mark(done: world.Done) -> str:
    """``*`` or ``.`` of the last instruction of a build that went well."""
    last: str = re.findall(r"^ *\d+([.*]) ", done.ok().err, re.M)[-1]
    return last


@pytest.mark.parametrize("name", TABLE)
def test_change(name: str, tool: world.Tool, base_image: str, tmp_path: Path) -> None:
    case = TABLE[name]
    context = tmp_path / "context"
    context.mkdir()
    shell = ["sh", "-ec", FILES]
    subprocess.run(shell, cwd=context, check=True)
    dockerfile = context.parent / "Dockerfile"
    mine = f"ENV CASE={list(TABLE).index(name)}"  # cases must not find each other's steps

    def build(body: str, args: tuple[str, ...], env: str) -> str:
        text = f"FROM {base_image}\nENV CASE\n{body}"
        dockerfile.write_text(text.replace("ENV CASE", mine))
        more = dict([env.split("=", 1)]) if env else None
        options = ["build", "-t", "table", "-f", dockerfile, *_placed(args, context), context]
        return mark(tool.run("ch-image", *options, env=more))

    assert build(case.given, case.args, case.env) == MISS
    assert build(case.given, case.args, case.env) == HIT, "not even the same build hits"
    if case.do:
        subprocess.run(["sh", "-ec", case.do], cwd=context, check=True)
    new_args = case.args if case.new_args is None else case.new_args
    assert build(case.then or case.given, new_args, case.new_env or case.env) == case.mark


def _placed(args: tuple[str, ...], context: Path) -> list[str]:
    """Options whose files lie in the context."""
    return [arg.replace("src=", f"src={context}/") for arg in args]


def test_another_base_of_the_same_name_misses(
    tool: world.Tool,
    registry: world.Registry,
    base_layout: world.BaseImage,
    tmp_path: Path,
) -> None:
    """And one that is the same by digest, under another name, hits."""
    name = registry.push(base_layout.source, "moving:1")
    (tmp_path / "Dockerfile").write_text(f"FROM {name}\nRUN echo moving\n")

    def build(*options: str) -> str:
        return mark(tool("build", *options, "-t", "moved", tmp_path))

    assert build() == MISS
    other = registry.push(base_layout.source, "other:1")
    (tmp_path / "Dockerfile").write_text(f"FROM {other}\nRUN echo moving\n")
    assert build() == HIT
    layout = tmp_path / "layout"
    world.write_layout(layout, [base_layout.tar.read_bytes(), world.tar_of({"new": "x"})])
    registry.push(f"oci:{layout}:latest", "moving:1")
    (tmp_path / "Dockerfile").write_text(f"FROM {name}\nRUN echo moving\n")
    assert build() == HIT, "what is in storage is taken as it is"
    done = tool("build", "-v", "--pull", "-t", "moved", tmp_path)
    assert mark(done) == MISS
    assert "misses: base image changed" in done.err


def test_a_file_that_changes_right_after_the_build_is_seen(
    tool: world.Tool, base_image: str, tmp_path: Path
) -> None:
    """Within a clock tick stat(2) tells nothing; git calls such entries racy."""
    file = tmp_path / "file"
    (tmp_path / "Dockerfile").write_text(f"FROM {base_image}\nENV RACE=1\nCOPY file /\n")
    for n in range(8):
        file.write_text(f"{n}")
        state = file.stat()
        os.utime(file, ns=(state.st_atime_ns, 1_600_000_000_000_000_000))
        tool("build", "-t", "race", tmp_path).ok()
        said = tool.run("ch-run", "race", "--", "cat", "/file").ok().out
        assert said == f"{n}"


def test_misses_are_explained_by_the_files_and_variables_that_changed(
    tool: world.Tool, base_image: str, tmp_path: Path
) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/main.c").write_text("1")
    (tmp_path / "src/b.sh").write_text("1")
    dockerfile = tmp_path / "Dockerfile"
    text = (
        f"FROM {base_image} AS one\nENV WHY=1\nCOPY src/ /src/\nRUN cat /src/* > /out\n"
        f"FROM {base_image}\nENV CFLAGS=-O2\nRUN echo $CFLAGS\nCOPY --from=one /out /\n"
    )
    dockerfile.write_text(text)

    def why() -> list[str]:
        err = tool("build", "-v", "-t", "why", tmp_path).ok().err
        return re.findall(r"line \d+: (.* misses: .*)", err)

    why()
    assert why() == []
    (tmp_path / "src/main.c").write_text("2")
    (tmp_path / "src/b.sh").chmod(0o755)
    assert why() == [
        "COPY src/ misses: src/b.sh mode changed, src/main.c content changed",
        "COPY --from=one /out misses: out content changed",
    ]
    (tmp_path / "src/new").write_text("")
    (tmp_path / "src/b.sh").unlink()
    assert why() == [
        "COPY src/ misses: src/b.sh removed, src/new added",
        "COPY --from=one /out misses: out content changed",
    ]
    dockerfile.write_text(text.replace("-O2", "-O3"))
    assert why() == ["ENV misses: ENV CFLAGS changed"]
