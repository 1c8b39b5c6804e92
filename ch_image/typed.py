"""What this package needs of ``typing``, without importing it where nothing is checked.

``typing`` brings re, enum, functools and contextlib, and its NamedTuple compiles each annotation
of each field: together a third of a command that does little. Type checkers see the names
of ``typing`` itself; at run time annotations are never evaluated, so most names stand for
nothing, and NamedTuple is a tuple class with the methods that are used of it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any as Any
    from typing import BinaryIO as BinaryIO
    from typing import Final as Final
    from typing import Generic as Generic
    from typing import Literal as Literal
    from typing import NamedTuple as NamedTuple
    from typing import NewType as NewType
    from typing import NoReturn as NoReturn
    from typing import Protocol as Protocol
    from typing import TextIO as TextIO
    from typing import TypeAlias as TypeAlias
    from typing import TypeVar as TypeVar
    from typing import assert_never as assert_never
    from typing import cast as cast
    from typing import overload as overload
else:
    from _collections import _tuplegetter

    Any = BinaryIO = Final = Literal = NoReturn = TextIO = TypeAlias = object

    class NewType:
        """Returns what it is given, and stands in aliases such as ``Name | None``."""

        def __init__(self, name, base):
            self.__name__ = name

        def __call__(self, value):
            return value

        def __or__(self, other):
            return self

        __ror__ = __or__

    def TypeVar(name):
        """Nothing: only checkers ask what it stands for."""

    def cast(kind, value):
        """`value`, which checkers take for a `kind`."""
        return value

    def overload(function):
        """Nothing: the definition that follows the overloads is the one that counts."""

    def assert_never(value):
        """Raises AssertionError: checkers have proved that nobody comes here."""
        raise AssertionError(f"not expected: {value!r}")

    class Protocol:
        """A base of classes that only checkers look at."""

        def __class_getitem__(cls, item):
            return cls

    Generic = Protocol

    class _Values(type):
        """Turns the annotations of a class body into the fields of a tuple."""

        def __new__(cls, name, bases, space):
            fields = tuple(space.get("__annotations__", ()))
            defaults = {field: space[field] for field in fields if field in space}
            for place, field in enumerate(fields):
                space[field] = _tuplegetter(place, None)
            space |= {
                "__slots__": (),
                "__match_args__": fields,
                "_fields": fields,
                "_field_defaults": defaults,
            }
            return type.__new__(type, name, (_Tuple,), space)

    _made = {}  # how many values of each class
    _MANY = 30  # from here on it is worth compiling a constructor

    def _constructor(owner):
        """A function with the true signature, three times as fast as the one that fits all."""
        words = ", ".join(owner._fields)
        text = f"lambda _cls, {words}: _new(_cls, ({words}{',' if words else ''}))"
        made = eval(text, {"_new": tuple.__new__, "__name__": owner.__module__})
        made.__name__ = "__new__"
        made.__qualname__ = f"{owner.__qualname__}.__new__"
        made.__defaults__ = tuple(owner._field_defaults.values())
        return made

    class _Tuple(tuple):
        """What all tuple classes share, as collections.namedtuple has it."""

        __slots__ = ()
        _fields = ()

        def __new__(cls, *args, **kwargs):
            owner = next(base for base in cls.__mro__ if "_fields" in base.__dict__)
            fields = owner._fields
            _made[owner] = made = _made.get(owner, 0) + 1
            if made < _MANY:
                if len(args) == len(fields) and not kwargs:
                    return tuple.__new__(cls, args)
                given = dict(zip(fields, args, strict=False))
                if len(args) <= len(fields) and given.keys().isdisjoint(kwargs):
                    values = owner._field_defaults | given | kwargs
                    if values.keys() == set(fields):
                        return tuple.__new__(cls, map(values.get, fields))
            owner.__new__ = staticmethod(_constructor(owner))  # which refuses what is wrong
            return owner.__new__(cls, *args, **kwargs)

        @classmethod
        def _make(cls, values):
            made = tuple.__new__(cls, values)
            if len(made) != len(cls._fields):
                raise TypeError(f"expected {len(cls._fields)} values, got {len(made)}")
            return made

        def _replace(self, **changes):
            made = tuple.__new__(type(self), map(changes.pop, self._fields, self))
            if changes:
                raise ValueError(f"no such field: {', '.join(changes)}")
            return made

        def _asdict(self):
            return dict(zip(self._fields, self, strict=True))

        def __repr__(self):
            values = (f"{name}={value!r}" for name, value in self._asdict().items())
            return f"{type(self).__name__}({', '.join(values)})"

        def __getnewargs__(self):
            return tuple(self)

    NamedTuple = type.__new__(_Values, "NamedTuple", (), {})
