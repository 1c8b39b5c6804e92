"""Small commands start fast: what they import is counted, not timed, so that this never flakes.

Each row runs in a fresh interpreter. `-S` is not used, for an installed editable checkout is found
through site; `-I -c` with the checkout on the path is as bare and as honest.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import world

HEAVY = ["lark", "requests", "rich", "yaml", "zstandard", "isal", "dataclasses", "inspect"]
SLOW = [*HEAVY, "subprocess", "logging", "email", "http", "urllib.request", "asyncio", "tarfile"]
GROUND = [*SLOW, "typing", "re", "enum", "json", "pathlib", "argparse", "hashlib"]


def imported(tmp_path: Path, body: str, code: int = 0) -> set[str]:
    """The modules that are loaded once `body` has run and exited with `code`."""
    script = f"""
import sys
sys.path.insert(0, {str(world.CHECKOUT)!r})
sys.path[len(sys.path):] = {[p for p in sys.path if "site-packages" in p]!r}
code = 0
try:
    {body}
except SystemExit as end:
    code = end.code or 0
loaded = sorted(sys.modules)
import json
print("\\n" + json.dumps([code, loaded]))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script],
        capture_output=True,
        text=True,
        env=world.clean_environment(tmp_path, CH_IMAGE_STORAGE=str(tmp_path / "storage")),
    )
    assert done.returncode == 0, done.stderr
    ended, modules = json.loads(done.stdout.splitlines()[-1])
    assert ended == code, done.stdout + done.stderr
    return set(modules)


def command(*argv: str) -> str:
    """Python that runs ch-image in this interpreter."""
    return f"sys.argv = {['ch-image', *argv]!r}; import ch_image.cli.main as m; sys.exit(m.main())"


CASES = {
    "import of the command line": ("import ch_image.cli.main", SLOW),
    "storage-path": (command("storage-path"), SLOW),
    "--version": (command("--version"), SLOW),
    "import of ch-run": ("import ch_image.cli.run", GROUND),
    "all of ch-run": ("import ch_image.cli.run, ch_image.cli.run_start", GROUND),
    "ch-run of a memo": ("import ch_image.cli.run_start, ch_image.cli.run_memo", GROUND),
    "import of ch-run-oci": ("import ch_image.cli.run_oci", [*SLOW, "json", "re"]),
    "what state and kill need": (
        "import ch_image.oci.container",
        [*SLOW, "socket", "shutil", "ch_image.oci.creating", "ch_image.oci.spec"],
    ),
    "what create needs": ("import ch_image.oci.creating", [*SLOW, "socket", "shutil"]),
    "import of the sandbox": ("import ch_image.sandbox.userns", GROUND),
}


@pytest.mark.parametrize(("body", "banned"), CASES.values(), ids=CASES.keys())
def test_starting_imports_nothing_heavy(tmp_path: Path, body: str, banned: list[str]) -> None:
    assert not imported(tmp_path, body) & set(banned)


@pytest.mark.userns
def test_listing_images_imports_nothing_heavy(tmp_path: Path) -> None:
    assert not imported(tmp_path, command("list")) & set(HEAVY)
