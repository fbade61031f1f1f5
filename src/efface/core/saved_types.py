"""Types that files may hold, by name: nothing else is ever built from a file."""

from __future__ import annotations

from typing import Any, TypeVar

from efface._errors import FormatError, InputError
from efface._text import shown
from efface._validate import did_you_mean

_T = TypeVar("_T", bound=type)

_SAVED: dict[str, type] = {}
_BASES: set[type] = set()
_SHOWN = 6
_LONGEST = 60


def saved(cls: _T) -> _T:
    """Let a dataclass be found by its name, where a field of a saved value may be of several types."""
    if not isinstance(cls, type):
        raise InputError(f"{shown(cls)} is no class: decorate a dataclass with @efface.saved")
    known = _SAVED.setdefault(cls.__name__, cls)
    if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise TypeError(f"two saved types are called {cls.__name__}: {known.__module__} and {cls.__module__}")
    _SAVED[cls.__name__] = cls
    return cls


def saved_base(cls: _T) -> _T:
    """A class or protocol in whose place a field may hold any saved type that derives from, or satisfies, it."""
    _BASES.add(cls)
    return cls


def is_base(cls: Any) -> bool:
    """Whether other saved types may stand in its place."""
    return isinstance(cls, type) and cls in _BASES


def known_type(name: Any) -> type | None:
    """The type of that name, if there is one."""
    return _SAVED.get(name) if isinstance(name, str) else None


def saved_type(name: Any, hint: type | None = None) -> type:
    """The type of that name.

    Args:
        name: The name.
        hint: In whose place it is to stand, of which an error then names the kinds; None for any.

    Raises:
        FormatError: If there is none; the text names what comes near, or some of those that would fit.
    """
    found = known_type(name)
    if found is None:
        fitting = sorted(each for each, cls in _SAVED.items() if hint is None or _fits(cls, hint))
        near = did_you_mean(name, fitting) if isinstance(name, str) else ""
        more = f" and {len(fitting) - _SHOWN} more" if len(fitting) > _SHOWN else ""
        known = near or f": there is {', '.join(fitting[:_SHOWN])}{more}"
        raise FormatError(f"it holds a {_short(name)}, which this efface does not know{known}")
    return found


def _fits(cls: type, hint: type) -> bool:
    """Whether a type is meant to stand in the place of another; what is of another kind is not, whatever it can do."""
    if any(base in cls.__mro__ for base in _BASES - {hint}):
        return False
    try:
        return issubclass(cls, hint) and cls is not hint
    except TypeError:  # a protocol with more than methods
        return False


def _short(name: Any) -> str:
    text = repr(name)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
