"""Very many steps on one stage: no limit of the kernel is met, and none gets slower than before."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

import pytest
import world

pytestmark = [pytest.mark.userns, pytest.mark.registry]


@pytest.mark.parametrize("steps", [129, 270])
def test_many_runs_on_one_stage(
    steps: int, ch_image: world.Tool, base_image: str, tmp_path: Path
) -> None:
    """More than 127 layers, which is where overlay drivers end, and than fit in a page of options.

    Each RUN adds a file, changes one that all change, and removes the one before its own.
    """
    runs = "".join(
        f"RUN echo {n} > /f{n}; echo {n} >> /all; rm -f /f{n - 2}\n" for n in range(steps)
    )
    (tmp_path / "Dockerfile").write_text(f"FROM {base_image}\n{runs}")
    ch_image("build", "-t", "deep", tmp_path).ok()
    script = "wc -l < /all; tail -n 1 /all; ls / | grep -c '^f[0-9]'"
    out = ch_image.run("ch-run", "deep", "--", "sh", "-c", script).ok().out.split()
    assert out == [str(steps), str(steps - 1), "2"]

    again = ch_image("build", "-t", "deep", tmp_path).ok()
    assert not re.findall(r"^ *\d+\. ", again.err, re.M)

    rows = json.loads(ch_image("build-cache", "--json").ok().out)
    took = [row["seconds"] for row in rows if row["instruction"].startswith("RUN")]
    early, late = statistics.median(took[10:40]), statistics.median(took[-30:])
    assert late < 2 * early + 0.02, f"a step takes {early:.3f} s at first and {late:.3f} s at last"
