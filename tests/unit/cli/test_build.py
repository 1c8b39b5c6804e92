"""ch-image build as a process: contexts, names, what is printed where."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import world

pytestmark = pytest.mark.userns


@pytest.fixture
def base(ch_image: world.Tool, base_layout: world.BaseImage) -> str:
    """An image in storage to build from."""
    ch_image("import", base_layout.tar, "base").ok()
    return "base"


@pytest.fixture
def context(tmp_path: Path, base: str) -> Path:
    path = tmp_path / "My Demo"
    path.mkdir()
    (path / "Dockerfile").write_text(f"FROM {base}\nENV A=1\nRUN echo built\nCOPY file /\n")
    (path / "file").write_text("x")
    return path


def test_a_build_tells_its_steps_and_its_name(ch_image: world.Tool, context: Path) -> None:
    first = ch_image("build", context).ok()
    assert first.out == ""
    assert first.err.splitlines() == [
        "inferred image name: mydemo",
        "  1* FROM base",
        "  2. ENV A=1",
        "  3. RUN.S echo built",
        "built",
        "  4. COPY file /",
        "--force=seccomp: modified 1 RUN instruction",
        "grown in 4 instructions: mydemo",
    ]
    again = ch_image("build", "-t", "a", "--tag=b:2", context).ok()
    assert again.err.splitlines() == [
        "  1* FROM base",
        "  2* ENV A=1",
        "  3* RUN.S echo built",
        "  4* COPY file /",
        "grown in 4 instructions: a, b:2",
    ]
    assert [line.split()[0] for line in ch_image("list").ok().out.splitlines()] == [
        "a", "b:2", "base", "mydemo",
    ]  # fmt: skip


def test_a_quiet_build_prints_the_image_id_alone(ch_image: world.Tool, context: Path) -> None:
    files = context.parent
    done = ch_image("build", "-q", "-t", "a", f"--iidfile={files}/id", f"--metadata-file={files}/m",
                    context).ok()  # fmt: skip
    assert done.err == ""
    assert re.fullmatch(r"sha256:[0-9a-f]{64}\n", done.out)
    assert (files / "id").read_text() == done.out.strip()
    assert json.loads((files / "m").read_text())["containerimage.config.digest"] == done.out.strip()


def test_a_failing_run_is_shown_with_its_line_also_when_quiet(
    ch_image: world.Tool, context: Path
) -> None:
    (context / "Dockerfile").write_text("FROM base\nRUN echo the reason; exit 7\n")
    for option in ("--progress=plain", "-q", "--progress=quiet"):
        done = ch_image("build", option, "-t", "a", context)
        assert done.code == 1
        assert re.search(r"Dockerfile:2:.*\b7\b", done.fault())
        assert done.err.count("the reason\n") == 1
        assert "\n   2 | RUN echo the reason; exit 7\n" in done.err


def test_a_dockerfile_can_come_from_standard_input(ch_image: world.Tool, context: Path) -> None:
    text = "FROM base\nCOPY file /other\n"
    ch_image("build", "-t", "a", "-f", "-", context, stdin=text).ok()
    assert ch_image.run("ch-run", "a", "--", "cat", "/other").ok().out == "x"
    done = ch_image("build", "-t", "b", "-", stdin=text)
    assert done.code == 1
    assert "Dockerfile:2" in done.fault()
    ch_image("build", "-t", "c", "-", stdin="FROM base\nRUN true\n").ok()
    assert ch_image("build", "-", stdin="FROM base\n").code == 2
    assert ch_image("build", "-f", "-", "-", stdin="FROM base\n").code == 2


def test_a_context_can_be_a_tar_on_standard_input(ch_image: world.Tool, base: str) -> None:
    import gzip

    tar = world.tar_of({"Dockerfile": "FROM base\nCOPY file /\n", "file": "packed",
                        "sub/other": "FROM base\nCOPY file /b\n"})  # fmt: skip
    ch_image("build", "-t", "a", "-", stdin=tar).ok()
    assert ch_image.run("ch-run", "a", "--", "cat", "/file").ok().out == "packed"
    ch_image("build", "-t", "b", "-f", "sub/other", "-", stdin=gzip.compress(tar)).ok()
    assert ch_image.run("ch-run", "b", "--", "cat", "/b").ok().out == "packed"
    assert list((ch_image.storage / "tmp").iterdir()) == []


def test_parse_only_checks_and_does_nothing(ch_image: world.Tool, context: Path) -> None:
    ch_image("build", "--parse-only", context).ok()
    (context / "Dockerfile").write_text("FROM nosuch.example.com/x\nRUM x\n")
    assert "Dockerfile:2" in ch_image("build", "--parse-only", context).fault()


def test_a_dry_run_names_the_steps_and_makes_no_image(ch_image: world.Tool, context: Path) -> None:
    done = ch_image("build", "-n", "-t", "dry", context).ok()
    assert "RUN.S echo built" in done.err
    assert "\nbuilt\n" not in done.err
    assert "dry" not in ch_image("list").ok().out


def test_check_gives_advice_as_lines_and_as_json(ch_image: world.Tool, context: Path) -> None:
    assert ch_image("build", "--check", context).ok().out == ""
    (context / "Dockerfile").write_text("from base as a\nWORKDIR sub\nFROM base AS B\n")
    done = ch_image("build", "--check", context)
    assert done.code == 1
    assert re.search(r"^Dockerfile:\d+: FromAsCasing: ", done.out + done.err, re.M) or (
        "StageNameCasing" in done.out
    )
    assert re.search(r"^ +\^+$", done.out, re.M)
    found = json.loads(ch_image("build", "--check", "--format=json", context).out)
    assert "StageNameCasing" in {one["rule"] for one in found}
    assert all(one["file"] == "Dockerfile" and one["line"] > 0 for one in found)


FAULTS = {
    "no such context": (["nosuch"], 1, "nosuch"),
    "a context that is a file": (["Dockerfile.x"], 1, "Dockerfile.x"),
    "a URL that is none": (["https://example.com/x.git?ref=a&ref=b"], 1, "says ref twice"),
    "no such Dockerfile": (["-f", "nosuch", "."], 1, "nosuch"),
    "a Dockerfile that is a directory": (["-f", "sub", "."], 1, "sub"),
    "no Dockerfile in the context": (["sub"], 1, "Dockerfile"),
    "a Dockerfile that leads out": (["out"], 1, "Dockerfile"),
    "a FIFO for a Dockerfile": (["pipe"], 1, "Dockerfile"),
    "a name that is none": (["-t", "../x", "."], 1, "../x"),
    "a digest as a name": (["-t", "x@sha256:" + "0" * 64, "."], 2, "digest"),
    "an unknown force mode": (["--force=root", "."], 2, "'root'"),
    "force commands without seccomp": (["--force=none", "--force-cmd=a,b", "."], 2, "--force-cmd"),
    "an unknown network": (["--network=bridge", "."], 2, "'bridge'"),
    "an unknown platform": (["--platform", "a b", "."], 2, "a b"),
    "an unknown target": (["--target=nosuch", "."], 2, "nosuch"),
    "a bad epoch": (["."], 2, "SOURCE_DATE_EPOCH"),
}


@pytest.mark.parametrize(("words", "code", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_what_cannot_be_built_is_told(
    words: list[str], code: int, message: str, ch_image: world.Tool, tmp_path: Path
) -> None:
    import os

    work = tmp_path / "work"
    for name in ("sub", "out", "pipe"):
        (work / name).mkdir(parents=True)
    (work / "Dockerfile").write_text("FROM scratch\nENV A=1\n")
    (work / "Dockerfile.x").write_text("FROM scratch\n")
    (work / "out/Dockerfile").symlink_to(work / "Dockerfile")
    os.mkfifo(work / "pipe/Dockerfile")
    env = {"SOURCE_DATE_EPOCH": "soon"} if words == ["."] else {}
    done = ch_image("build", *words, cwd=work, env=env, timeout=30)
    assert done.code == code, done
    assert message in done.fault()
    assert ch_image("list").ok().out == ""
