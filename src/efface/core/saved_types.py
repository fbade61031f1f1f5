"""Types that files may hold, by name: nothing else is ever built from a file."""

from __future__ import annotations

from typing import Any, TypeVar

from efface._errors import FormatError, InputError

_T = TypeVar("_T", bound=type)

_SAVED: dict[str, type] = {}
_BASES: set[type] = set()


def saved(cls: _T) -> _T:
    """Let a dataclass be found by its name, where a field of a saved value may be of several types."""
    if not isinstance(cls, type):
        raise InputError(f"{cls!r:.80} is no class: decorate a dataclass with @efface.saved")
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


def saved_type(name: Any) -> type:
    """The type of that name.

    Raises:
        FormatError: If there is none.
    """
    found = known_type(name)
    if found is None:
        raise FormatError(f"it holds a {name!r}, which this efface does not know: it knows {', '.join(sorted(_SAVED))}")
    return found
