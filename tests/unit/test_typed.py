"""Our NamedTuple beside that of typing: a class body means the same to both."""

from __future__ import annotations

import copy
import pickle
import typing
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from ch_image import typed

BODY = """
class Empty(NamedTuple):
    pass

class Plain(NamedTuple):
    'Two values.'
    a: int
    b: str = "b"

    @property
    def both(self) -> str:
        return f"{self.a} {self.b}"

    @classmethod
    def of(cls, text: str) -> Plain:
        return cls(int(text))

class Child(Plain):
    def __repr__(self) -> str:
        return "child of " + super().__repr__()
"""


def classes(module: ModuleType | Any) -> dict[str, Any]:
    space: dict[str, Any] = {"NamedTuple": module.NamedTuple, "__name__": __name__}
    exec("from __future__ import annotations\n" + BODY, space)
    return space


@pytest.fixture(params=[0, 40], ids=["the first values", "after many"])
def pair(request: pytest.FixtureRequest) -> tuple[dict[str, Any], dict[str, Any]]:
    """The classes by ours and by typing's; ours compiles a constructor after some values."""
    ours, theirs = classes(typed), classes(typing)
    for n in range(request.param):
        ours["Plain"](n)
    return ours, theirs


USES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no field": lambda c: (c["Empty"](), repr(c["Empty"]()), c["Empty"]._fields),
    "by place": lambda c: c["Plain"](1, "x"),
    "default": lambda c: c["Plain"](1),
    "by name": lambda c: c["Plain"](b="x", a=1),
    "both ways": lambda c: c["Plain"](1, b="x"),
    "fields": lambda c: (c["Plain"]._fields, c["Plain"]._field_defaults, c["Plain"].__match_args__),
    "replace": lambda c: c["Plain"](1)._replace(b="y"),
    "as a dict": lambda c: c["Plain"](1)._asdict(),
    "make": lambda c: c["Plain"]._make([1, 2]),
    "property": lambda c: c["Plain"](1).both,
    "class method": lambda c: c["Plain"].of("7"),
    "repr": lambda c: repr(c["Plain"](1)),
    "child": lambda c: (repr(c["Child"](1)), type(c["Child"](1)._replace(a=2)).__name__),
    "equal and hash": lambda c: (c["Plain"](1) == (1, "b"), hash(c["Plain"](1)) == hash((1, "b"))),
    "documentation": lambda c: (c["Plain"].__doc__, c["Plain"].__module__, c["Plain"].__name__),
    "copy": lambda c: copy.copy(c["Plain"](1)),
    "a value lacks": lambda c: c["Plain"](),
    "one too many": lambda c: c["Plain"](1, 2, 3),
    "unknown name": lambda c: c["Plain"](1, c=3),
    "unknown name, one lacks": lambda c: c["Plain"](c=3),
    "twice": lambda c: c["Plain"](1, a=1),
    "make of too few": lambda c: c["Plain"]._make([1]),
    "replace of unknown": lambda c: c["Plain"](1)._replace(z=1),
    "set": lambda c: setattr(c["Plain"](1), "a", 2),
    "set another": lambda c: setattr(c["Plain"](1), "z", 2),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_it_does_what_typing_s_does(
    pair: tuple[dict[str, Any], dict[str, Any]], use: Callable[[dict[str, Any]], Any]
) -> None:
    def outcome(space: dict[str, Any]) -> Any:
        try:
            return use(space)
        except (TypeError, ValueError, AttributeError) as error:
            return type(error)

    assert outcome(pair[0]) == outcome(pair[1])


class Kept(typed.NamedTuple):
    """A value of a module, as pickle wants it."""

    a: int


def test_a_value_survives_pickle_and_matches() -> None:
    match pickle.loads(pickle.dumps(Kept(3))):
        case Kept(a):
            assert a == 3


def test_a_new_type_is_a_name_only_and_stands_in_unions() -> None:
    name: Any = typed.NewType("Name", str)  # type: ignore[misc]
    assert name("x") == "x"
    assert (name | None, None | name) == (name, name)
