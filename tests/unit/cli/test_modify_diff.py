"""modify and diff, gestalt and completion, as a user calls them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import world

pytestmark = pytest.mark.userns


@pytest.fixture
def demo(ch_image: world.Tool, base_layout: world.BaseImage) -> world.Tool:
    """The tool, with an image demo in storage."""
    ch_image("import", base_layout.tar, "demo").ok()
    return ch_image


def differences(tool: world.Tool, old: str, new: str) -> list[str]:
    return tool("diff", old, new).ok().out.splitlines()


def test_commands_make_an_image_and_diff_says_what_they_did(demo: world.Tool) -> None:
    command = "echo new > /x && chown 5:7 /x && mkdir -m 700 /d && ln -s gone /l && rm /bin/ls"
    demo("modify", "-c", command, "-c", "chmod 600 /etc/os-release", "demo", "other").ok()
    found = differences(demo, "demo", "other")
    assert found[1:] == [
        "+ /d  (drwx------ 0:0)",
        "~ /etc/os-release  (mode 0644 -> 0600)",
        "+ /l  (lrwxrwxrwx 0:0 gone)",
        "+ /x  (-rw-r--r-- 5:7 4)",
    ]
    assert found[0].startswith("- /bin/ls  (")
    assert [line[0] for line in differences(demo, "other", "demo")] == list("+-~--")
    assert differences(demo, "other", "other") == []


def test_same_size_other_content_is_seen_and_same_content_is_not(demo: world.Tool) -> None:
    demo("modify", "-c", "printf aaa > /x; printf b > /y", "demo", "one").ok()
    demo("modify", "-c", "printf bbb > /x; printf b > /y; touch /y", "one", "two").ok()
    assert differences(demo, "one", "two") == ["~ /x  (content)"]
    value = json.loads(demo("diff", "--format=json", "one", "two").ok().out)
    assert value == [{"path": "/x", "change": "changed", "details": ["content"]}]


def test_another_type_and_what_was_under_it(demo: world.Tool) -> None:
    demo("modify", "-c", "mkdir -p /x/y", "demo", "one").ok()
    demo("modify", "-c", "rm -r /x; ln -s etc /x", "one", "two").ok()
    assert differences(demo, "one", "two") == [
        "~ /x  (drwxr-xr-x 0:0 -> lrwxrwxrwx 0:0 etc)",
        "- /x/y  (drwxr-xr-x 0:0)",
    ]


def test_a_script_counts_by_its_content_and_leaves_no_trace(
    demo: world.Tool, tmp_path: Path
) -> None:
    script = tmp_path / "script"
    script.write_text("echo one > /one\n")
    first = demo("modify", "demo", "other", script).ok()
    assert "2. RUN" in first.err
    again = demo("modify", "demo", "other", stdin="echo one > /one\n").ok()
    assert "2* RUN" in again.err, "not found in the cache"
    assert differences(demo, "demo", "other") == ["+ /one  (-rw-r--r-- 0:0 4)"]
    demo("modify", "demo", "other", "-", stdin="echo two > /two").ok()
    assert differences(demo, "demo", "other") == ["+ /two  (-rw-r--r-- 0:0 4)"]


def test_a_failing_command_leaves_the_older_image(demo: world.Tool) -> None:
    demo("modify", "-c", "touch /good", "demo", "other").ok()
    done = demo("modify", "-c", "touch /bad", "-c", "exit 7", "demo", "other")
    assert (done.code, "7" in done.fault()) == (1, True)
    assert differences(demo, "demo", "other") == ["+ /good  (-rw-r--r-- 0:0 0)"]


WRONG = {
    "the same name": (["modify", "-c", "true", "demo", "demo:latest"], 2, "another name"),
    "script and commands": (["modify", "-c", "true", "demo", "x", "/etc/passwd"], 2, "exclude"),
    "no script": (["modify", "demo", "x", "/nosuch"], 1, "/nosuch"),
    "an empty script": (["modify", "demo", "x"], 2, "empty"),
    "a relative shell": (["modify", "-S", "sh", "-c", "true", "demo", "x"], 2, "--shell"),
    "an absent shell": (["modify", "-S", "/nosuch", "-c", "true", "demo", "x"], 1, "/nosuch"),
    "no image": (["diff", "demo", "nosuch"], 1, "nosuch"),
    "one image": (["diff", "demo"], 2, "needs B"),
    "an unknown question": (["gestalt", "bucach"], 2, "bucache"),
    "an unknown shell": (["completion", "tcsh"], 2, "tcsh"),
}


@pytest.mark.parametrize(("words", "code", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_done_is_told(
    words: list[str], code: int, message: str, demo: world.Tool
) -> None:
    done = demo(*words)
    assert (done.code, message in done.err) == (code, True), done


def test_gestalt_answers_scripts(ch_image: world.Tool) -> None:
    assert ch_image("gestalt", "bucache") == world.Done(0, "", "")
    assert ch_image("gestalt", "storage-path").ok().out.strip() == str(ch_image.storage)
    assert ch_image("gestalt", "python-path").ok().out.strip() == sys.executable
    assert "bucache" in ch_image("gestalt").ok().out
    for option, said in (
        ("-q", ["warning"]),
        ("--tls-no-verify", ["info", "warning"]),
        ("-v", ["verbose", "info", "warning"]),
        ("-vvv", ["trace", "debug", "verbose", "info", "warning"]),
    ):
        lines = ch_image("gestalt", option, "logging").ok().err.splitlines()
        assert [line.removeprefix("warning: ") for line in lines[: len(said)]] == said, lines
    failed = ch_image("gestalt", "logging", "--fail", "-qqq")
    assert (failed.code, "failed" in failed.fault()) == (1, True)


_LOGS = ["--log-path", "--log-format"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_sub_commands_and_options(shell: str, ch_image: world.Tool) -> None:
    script = ch_image("completion", shell).ok().out
    assert "modify" in script
    if shell == "bash":
        for words, found in (("bu", ["build", "build-cache"]), ("oci --log-", _LOGS)):
            at = len(words.split())
            probe = f"{script}\nCOMP_WORDS=(ch-image {words}); COMP_CWORD={at}; _ch_image"
            probe += "; echo ${COMPREPLY[*]}"
            out = subprocess.run(["bash", "-c", probe], capture_output=True, text=True, check=True)
            assert out.stdout.split() == found
    assert "umount" in script
