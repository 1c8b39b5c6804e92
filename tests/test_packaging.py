"""What is installed is whole: data files travel in the wheel and are found from there."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import world

WORLD = world.CHECKOUT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from this checkout, with hatchling already here so that no network is used."""
    if world.missing_module("hatchling"):
        world.lacking("hatchling is not installed")
    out = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)],
        cwd=WORLD,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl"))


@pytest.mark.parametrize("folder", ["grammar", "fakeroot"])
def test_a_wheel_carries_the_data_files(wheel: Path, folder: str) -> None:
    here = {f"ch_image/{p.relative_to(WORLD)}" for p in (WORLD / folder).rglob("*") if p.is_file()}
    assert here, f"{folder}/ is empty"
    assert here <= set(zipfile.ZipFile(wheel).namelist())


def test_a_wheel_carries_no_tests_and_no_rubbish(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert not [n for n in names if n.startswith("tests/") or "__pycache__" in n]
    assert "ch_image/py.typed" in names


def test_an_installed_package_finds_its_own_data(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    script = (
        "from ch_image.resources import resource\n"
        "print(resource('grammar', 'dockerfile.lark'))\n"
        "open(resource('grammar', 'dockerfile.lark')).read()"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-c",
            f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{script}",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "ch_image/grammar/dockerfile.lark")


def test_a_checkout_reads_its_own_data_not_a_stale_copy() -> None:
    from ch_image.resources import resource

    assert resource("grammar") == str(WORLD / "grammar")


SCRIPTS = sorted(path.name for path in (WORLD / "bin").iterdir())


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_points_at_something_that_runs(script: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, WORLD / "bin" / script, "--version"],
        capture_output=True, text=True, env=world.clean_environment(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"\d+\.\d+\.\d+\n", done.stdout)


def test_a_wheel_carries_every_script_for_the_installer_to_complete(wheel: Path) -> None:
    """By this first line it knows to put its own interpreter there."""
    archive = zipfile.ZipFile(wheel)
    found = {n.rpartition("/")[2]: archive.read(n) for n in archive.namelist() if "/scripts/" in n}
    assert sorted(found) == SCRIPTS
    assert all(text.startswith(b"#!python\nimport sys\n") for text in found.values())
