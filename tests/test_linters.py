"""The linters are tests: ruff's format and checks, mypy --strict, and shell syntax."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import world

CHECKOUT = Path(__file__).resolve().parent.parent
LINTERS = {
    "ruff format": ["ruff", "format", "--check", "--no-cache", "."],
    "ruff check": ["ruff", "check", "--no-cache", "."],
    # One run, and with a cache: it is the longest of all tests.
    "mypy": ["mypy", "ch_image", "tests/world.py", "tests/debian.py", "tests/conftest.py"],
}  # fmt: skip


@pytest.mark.parametrize("command", LINTERS.values(), ids=LINTERS.keys())
def test_the_code_satisfies(command: list[str]) -> None:
    if world.missing_module(command[0]):
        world.lacking(f"{command[0]} is not installed")
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=CHECKOUT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


SCRIPTS = ["quickstart", ".ci/run", "tests/integration/as-root", "examples/debian/stage-one"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_shell_scripts_parse(script: str) -> None:
    path = CHECKOUT / script
    shell = path.read_text().partition("\n")[0].removeprefix("#!").split()[-1]
    done = subprocess.run([Path(shell).name, "-n", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert path.stat().st_mode & 0o111, f"{script} is not executable"
