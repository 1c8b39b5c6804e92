"""JSON without the module json: the same values, texts and faults."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from ch_image.oci import quickjson

VALUES: list[Any] = [
    {}, [], "", 0, -1, 1.5, 1e300, True, False, None, 1 << 80, "ä\u2028\ud800\x00\"\\/\n",
    {"a": {}, "b": [], "c": [1, [2, {"d": "e"}], ()], "": {"x": None}}, ((1, 2), (3,)),
    float("inf"),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_the_same_texts(value: Any) -> None:
    assert quickjson.dumps(value) == json.dumps(value)
    assert quickjson.pretty(value) == json.dumps(value, indent=2)
    assert quickjson.loads(json.dumps(value)) == json.loads(json.dumps(value))
    assert quickjson.loads(f"\n\t {json.dumps(value)} \r\n".encode()) == quickjson.loads(
        json.dumps(value, indent=1)
    )


TEXTS = [
    b"", b" ", b"{", b"[1,]", b"{}x", b"\xff", b"\xef\xbb\xbf{}", '{"a": 1}'.encode("utf-16"),
    b'{"a": 1, "a": 2}', b"NaN", b"-Infinity", b'"\n"', b"[1] [2]", b"tru", b"01", b'{"a" 1}',
    b"[" * 100_000, b"1" * 5000, b'{1: 2}', b"\x0b1", b'"\\ud800"', b"- 1", b"1.",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: repr(text[:20]))
def test_the_same_values_and_faults(text: bytes) -> None:
    def outcome(loads: Any) -> str:
        try:
            return repr(loads(text))
        except (ValueError, RecursionError) as error:
            return f"{type(error).__name__}: {error}"

    assert outcome(quickjson.loads) == outcome(json.loads)
    alone = (
        "import sys\nfrom ch_image.oci import quickjson\ntext = sys.stdin.buffer.read()\n"
        "try: print(repr(quickjson.loads(text)))\n"
        "except (ValueError, RecursionError) as e: print(f'{type(e).__name__}: {e}')"
    )
    if len(text) < 20:  # also where the module json has not been imported by anybody
        done = subprocess.run([sys.executable, "-c", alone], input=text, capture_output=True)
        assert done.stdout.decode().rstrip("\n") == outcome(json.loads)


def test_what_is_no_json() -> None:
    with pytest.raises(TypeError):
        quickjson.dumps({"a": b"bytes"})
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(ValueError, match="Circular"):
        quickjson.dumps(circle)
