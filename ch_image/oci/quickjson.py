"""JSON by the C half of Python's module json alone.

The module itself imports re, enum and functools for patterns that only serve its error messages:
nearly half of what a command that does little takes to start. What the C half does not take is
given to the module, which then says what is wrong.
"""

from __future__ import annotations

from ch_image.typed import Any

_SPACE = " \t\n\r"


class _Settings:
    """What json.JSONDecoder has by default."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int, parse_constant = float, int, float


def loads(data: bytes | str) -> Any:
    """As json.loads."""
    try:
        from _json import make_scanner

        text = data if isinstance(data, str) else data.decode()
        scan = make_scanner(_Settings)  # type: ignore[arg-type]
        value, end = scan(text, len(text) - len(text.lstrip(_SPACE)))
        if not text[end:].strip(_SPACE):
            return value
    except (ImportError, StopIteration, SystemError, TypeError, ValueError):
        pass
    import json

    return json.loads(data)


def dumps(value: Any) -> str:
    """As json.dumps."""
    try:
        from _json import encode_basestring_ascii, make_encoder

        encoder = make_encoder(
            {}, _refuse, encode_basestring_ascii, None, ": ", ", ", False, False, True
        )
        return "".join(encoder(value, 0))
    except (ImportError, TypeError):
        import json

        return json.dumps(value)


def _refuse(value: object) -> str:
    raise TypeError(f"{type(value).__name__} is not JSON")


def pretty(value: Any, margin: str = "") -> str:
    """As json.dumps with indent=2."""
    deeper = margin + "  "
    if isinstance(value, dict) and value:
        items = [f"{dumps(str(name))}: {pretty(one, deeper)}" for name, one in value.items()]
    elif isinstance(value, (list, tuple)) and value:
        items = [pretty(one, deeper) for one in value]
    else:
        return dumps(value)
    first, last = "{}" if isinstance(value, dict) else "[]"
    return first + ",".join(f"\n{deeper}{item}" for item in items) + f"\n{margin}{last}"
