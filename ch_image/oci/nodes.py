"""A JSON document read place by place; what is wrong is collected with its path, not raised.

A place that is absent, or of the wrong type, reads as empty: so one pass finds every violation.
"""

from __future__ import annotations

from collections.abc import Iterator

from ch_image.errors import printable
from ch_image.typed import Any

_TYPES = {str: "a string", bool: "true or false", dict: "an object", list: "an array"}


class Node:
    """An object of a JSON document, at ``path``."""

    __slots__ = ("faults", "fields", "path")

    def __init__(self, fields: dict[str, Any], path: str, faults: list[str]) -> None:
        self.fields, self.path, self.faults = fields, path, faults

    def at(self, name: str) -> str:
        """The path of a field."""
        return f"{self.path}.{printable(name, 100)}" if self.path else printable(name, 100)

    def fault(self, name: str, text: str) -> None:
        """Note what is wrong with a field."""
        self.faults.append(f"{self.at(name)}: {text}")

    def _get(self, name: str, kind: type, required: bool) -> Any:
        value = self.fields.get(name)
        if value is None:
            if required:
                self.fault(name, "is missing")
            return None
        if not isinstance(value, kind):
            self.fault(name, f"must be {_TYPES[kind]}")
            return None
        return value

    def text(self, name: str, default: str = "", *, required: bool = False) -> str:
        """A string; one that is required may not be empty, and none holds NUL."""
        value = self._get(name, str, required)
        if value == "" and required:
            self.fault(name, "is empty")
        if value is not None and "\0" in value:
            self.fault(name, "contains a NUL character")
            return default
        return default if value is None else value

    def path_text(self, name: str, *, required: bool = False) -> str:
        """A string that is an absolute path."""
        value = self.text(name, required=required)
        if value and not value.startswith("/"):
            self.fault(name, f"must be an absolute path, not '{printable(value, 200)}'")
        return value

    def choice(self, name: str, allowed: tuple[str, ...], *, required: bool = False) -> str:
        """One of some strings."""
        value = self.text(name, required=required)
        if value and value not in allowed:
            self.fault(name, f"must be one of {', '.join(allowed)}, not '{printable(value, 60)}'")
            return ""
        return value

    def flag(self, name: str) -> bool:
        """A boolean, false where nothing is said."""
        return bool(self._get(name, bool, False))

    def number(
        self, name: str, low: int, high: int, default: Any = 0, *, required: bool = False
    ) -> Any:
        """An integer between ``low`` and ``high``, both included."""
        value = self.fields.get(name)
        if value is None:
            if required:
                self.fault(name, "is missing")
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self.fault(name, "must be an integer")
            return default
        if not low <= value <= high:
            self.fault(name, f"must be between {low} and {high}, not {value}")
            return default
        return value

    def object(self, name: str, *, required: bool = False) -> Node | None:
        """An object."""
        value = self._get(name, dict, required)
        return None if value is None else Node(value, self.at(name), self.faults)

    def raw(self, name: str) -> dict[str, Any] | None:
        """An object as it stands."""
        value: dict[str, Any] | None = self._get(name, dict, False)
        return value

    def objects(self, name: str) -> Iterator[Node]:
        """The members of an array of objects."""
        for number, item in enumerate(self._get(name, list, False) or []):
            path = f"{self.at(name)}[{number}]"
            if isinstance(item, dict):
                yield Node(item, path, self.faults)
            else:
                self.faults.append(f"{path}: must be an object")

    def texts(self, name: str, *, absolute: bool = False) -> tuple[str, ...]:
        """An array of strings."""
        out = []
        for number, item in enumerate(self._get(name, list, False) or []):
            where = f"{name}[{number}]"
            if not isinstance(item, str):
                self.fault(where, "must be a string")
            elif "\0" in item:
                self.fault(where, "contains a NUL character")
            elif absolute and not item.startswith("/"):
                self.fault(where, f"must be an absolute path, not '{printable(item, 200)}'")
            else:
                out.append(item)
        return tuple(out)

    def numbers(self, name: str, high: int) -> tuple[int, ...]:
        """An array of integers from 0 to ``high``."""
        out = []
        for number, item in enumerate(self._get(name, list, False) or []):
            if isinstance(item, bool) or not isinstance(item, int) or not 0 <= item <= high:
                self.fault(f"{name}[{number}]", f"must be an integer between 0 and {high}")
            else:
                out.append(item)
        return tuple(out)

    def mapping(self, name: str) -> tuple[tuple[str, str], ...]:
        """An object of strings, in its order."""
        found = self.object(name)
        if found is None:
            return ()
        if "" in found.fields:
            found.fault('""', "a name may not be empty")
        return tuple((key, found.text(key)) for key in found.fields)
