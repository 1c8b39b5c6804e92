"""Where the files lie that ship beside the code: ``grammar/`` and ``fakeroot/``."""

from __future__ import annotations

import os


def resource(*parts: str) -> str:
    """Path of a shipped file: in the package when installed, beside it in a checkout."""
    package = os.path.dirname(os.path.abspath(__file__))
    checkout = os.path.dirname(package)
    at = checkout if os.path.exists(os.path.join(checkout, "pyproject.toml")) else package
    return os.path.join(at, *parts)
