"""YAML files: read whole, within limits, without anything but data coming of them."""

from __future__ import annotations

from ch_image.errors import BuildError, printable


def parse_yaml(data: bytes, path: str) -> object:
    """What a YAML document says; ``path`` is named in errors. Raises BuildError."""
    import yaml

    try:
        return yaml.safe_load(data)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        text = " ".join(str(error).split())
        raise BuildError(f"{printable(path)}: not YAML: {printable(text, 300)}") from None
