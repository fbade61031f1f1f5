"""Arguments against the type hints of the function that they were given to: one line at a public door.

    def find_sites(model: nn.Module, role: str) -> list[Site]:
        check_call(find_sites, locals())

Only what a hint says is looked at, and of long sequences only the first items: shapes, ranges and the content of arrays
are the function's own matter.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import itertools
import numbers
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Literal, get_args, get_origin

import numpy as np
import torch
from torch import Tensor

from efface._errors import InputError
from efface._text import shown
from efface._validate import did_you_mean
from efface.core.arrays import check_real, dense, is_plain, is_reckoned
from efface.core.config import in_words

_LOOKED_AT = 100
_LISTED = ("tolist", "to_list", "to_pylist")
"""What columns of pandas, polars and pyarrow give their items by, as Python's own."""
_NO_SEQUENCES = str | bytes | bytearray | Mapping | set | frozenset


def check_call(function: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Refuse arguments that are of another type than their hints say.

    Args:
        function: Whose hints count.
        given: Its arguments by name, `locals()` in its first line.

    Raises:
        InputError: If one is.

    >>> def scaled(by: float, names: Sequence[str] = ()) -> None:
    ...     check_call(scaled, locals())
    >>> scaled(by=1, names=["a"])
    >>> scaled(by="much")
    Traceback (most recent call last):
    ...
    efface._errors.InputError: by is 'much': write a number
    """
    for name, hint in _hints(function).items():
        if name not in given:
            continue
        value = given[name]
        if type(value) not in _exact(hint) and not fits(value, hint):
            _refuse_text_in(value, hint, name)
            raise InputError(f"{name} is {shown(value)}: write {_advice(value, hint, name)}")
        if isinstance(value, Tensor) and _takes_tensors(hint):
            check_real(value, name)
            if not is_reckoned(value):
                _refuse_tensor(value, name)


def _refuse_text_in(value: Any, hint: Any, name: str) -> None:
    """Name the place in a mapping that is one text where there are to be several."""
    members = get_args(hint) if get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if not isinstance(value, Mapping) or not any(map(_listing, members)):
        return
    for key, each in value.items():
        if isinstance(each, str | bytes):
            raise InputError(
                f"{name}[{shown(key)}] is {shown(each)}: write a list, {name}={{{key!r:.60}: [{each!r:.60}]}}"
            )


@cache
def _takes_tensors(hint: Any) -> bool:
    """Whether a tensor is one of the things that a hint says."""
    return Tensor in (get_args(hint) if get_origin(hint) in (typing.Union, types.UnionType) else (hint,))


def _refuse_tensor(value: Tensor, name: str) -> None:
    """Say what a tensor is that is no numbers in a grid, and how it becomes that."""
    if value.layout is torch.strided:
        dense(value, name)
    raise InputError(f"{name} is sparse ({value.layout}): write {name}.to_dense()")


def check_fields(value: Any) -> None:
    """Refuse a dataclass with fields of another type, or other words, than their hints say; for its `__post_init__`.

    Raises:
        InputError: If one is.
    """
    given = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
    check_call(type(value), given)
    for name, words in _choices(type(value)).items():
        word = given[name]
        if isinstance(word, str) and word not in words:
            raise InputError(f"{name}={word!r}{did_you_mean(word, words)}: write one of {', '.join(map(repr, words))}")


def check_word(value: Any, hint: Any, name: str) -> None:
    """Refuse a word that is none of those of a `Literal`.

    >>> check_word("bth", Literal["both", "queries"], "resample")
    Traceback (most recent call last):
    ...
    efface._errors.InputError: resample is 'bth': write one of 'both', 'queries' (did you mean 'both'?)
    """
    words = get_args(hint)
    if not isinstance(value, str) or value not in words:
        near = did_you_mean(value, words) if isinstance(value, str) else ""
        raise InputError(f"{name} is {shown(value)}: write one of {', '.join(map(repr, words))}{near}")


@cache
def _choices(kind: type) -> dict[str, tuple[str, ...]]:
    """Fields that are one of a few words, and which."""
    found = {}
    for name, hint in _hints(kind).items():
        members = get_args(hint) if get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
        words = tuple(word for member in members if get_origin(member) is Literal for word in get_args(member))
        if words and str not in members:
            found[name] = tuple(word for word in words if isinstance(word, str))
    return found


@cache
def _exact(hint: Any) -> frozenset[Any]:
    """Types whose values fit a hint whatever is in them: for these nothing else is asked.

    >>> sorted(kind.__name__ for kind in _exact(float | None))
    ['NoneType', 'float', 'int']
    """
    if get_origin(hint) in (typing.Union, types.UnionType):
        return frozenset(kind for member in get_args(hint) for kind in _exact(member))
    known = {None: type(None), dict: dict, frozenset: frozenset, collections.abc.Mapping: dict}
    kind = known.get(get_origin(hint) or hint, hint)
    if _named(hint):
        return frozenset()
    if kind is float:
        return frozenset([float, int])
    return frozenset([kind] if isinstance(kind, type) else [])


@cache
def _named(hint: Any) -> bool:
    """Whether it is a mapping from text."""
    return get_origin(hint) in (dict, collections.abc.Mapping) and get_args(hint)[0] is str


@cache
def _hints(function: Any) -> dict[str, Any]:
    """The hints that there are where the program runs; others count for type checkers alone."""
    bare = inspect.unwrap(function)
    classes = [cls for cls in reversed(bare.__mro__)] if isinstance(bare, type) else [bare]
    found = {name: _hint(text, each) for each in classes for name, text in inspect.get_annotations(each).items()}
    return {name: _of_all(hint, name, bare) for name, hint in found.items() if name != "return"}


def _of_all(hint: Any, name: str, function: Any) -> Any:
    """The hint of what `*args` and `**kwargs` are in the function."""
    kinds = {} if isinstance(function, type) else inspect.signature(function).parameters
    kind = kinds[name].kind if name in kinds else None
    if kind is inspect.Parameter.VAR_POSITIONAL:
        return tuple[hint, ...]
    return Any if kind is inspect.Parameter.VAR_KEYWORD else hint


def _hint(text: Any, owner: Any) -> Any:
    try:
        return typing.get_type_hints(_Holder(text), vars(sys.modules[owner.__module__]))["value"]
    except (NameError, TypeError):  # for type checkers alone, or a ClassVar
        return Any


class _Holder:
    """One hint, for `typing` to read: it reads all or none."""

    def __init__(self, text: Any) -> None:
        self.__annotations__ = {"value": text}


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is what a hint says, as far as it can be seen at once.

    >>> fits(2, float), fits(True, int), fits("ab", Sequence[str]), fits(None, int | None)
    (True, False, False, True)
    """
    origin = get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, member) for member in get_args(hint))
    if origin is Literal:
        # Which word it must be is the function's own matter, and its own text.
        return any(type(value) is type(choice) for choice in get_args(hint))
    if origin is typing.ClassVar or hint is Any:
        return True
    if origin is collections.abc.Callable:
        return _fits_callable(value, get_args(hint))
    if origin in (collections.abc.Iterator, collections.abc.Iterable):
        # An array without dimensions has no items, whatever it says, and neither has a tensor that is no grid.
        items = isinstance(value, Iterable) and getattr(value, "ndim", 1) != 0 and not hasattr(value, "tocsr")
        return items and not (isinstance(value, Tensor) and not is_plain(value))
    if origin in (tuple, list, collections.abc.Sequence):
        return _fits_sequence(value, get_args(hint))
    if origin in (dict, collections.abc.Mapping):
        return isinstance(value, Mapping) and _fits_mapping(value, hint)
    return _fits_type(value, origin or hint)


def _advice(value: Any, hint: Any, name: str) -> str:
    """What to write, in words."""
    if isinstance(value, str) and fits([value], hint):
        return f"a list, {name}=[{value!r:.60}]"
    members = get_args(hint) if get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return " or ".join(dict.fromkeys(map(_words, members)))


def _words(hint: Any) -> str:
    origin = get_origin(hint) or hint
    if origin in (dict, collections.abc.Mapping):
        return f"a mapping{' from text' * _named(hint)}{' to lists' * _listing(hint)}"
    if origin in (tuple, list, collections.abc.Sequence, collections.abc.Iterable):
        return "a list"
    if origin is collections.abc.Callable:
        taken = (*get_args(hint), ...)[0]
        several = f" of {len(taken)} values" if isinstance(taken, list) and len(taken) > 1 else ""
        return f"a function{several} or torch.nn.Module"
    known = origin if isinstance(origin, type) and origin not in (int, float, str, bool, type(None)) else None
    if known is None:
        return in_words(hint)
    inner = {"torch.nn.modules.module": "torch.nn."}.get(known.__module__, "torch.")
    return f"a {inner if known.__module__.startswith('torch') else ''}{known.__name__}"


def _fits_mapping(value: Mapping[Any, Any], hint: Any) -> bool:
    """Whether its keys are text where they are names, and no value is one text where there are to be several."""
    if _named(hint) and not all(isinstance(key, str) for key in value):
        return False
    return not (_listing(hint) and any(isinstance(each, str | bytes) for each in value.values()))


def _fits_type(value: Any, kind: Any) -> bool:
    if kind is None or kind is type(None):
        return value is None
    if kind is bool:
        return isinstance(value, bool | np.bool_)
    if kind in (int, float):
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        return whole or (kind is float and isinstance(value, numbers.Real) and not isinstance(value, bool))
    if not isinstance(kind, type) or _is_open(kind):
        return True
    return isinstance(value, kind)


def is_applied(value: Any) -> bool:
    """Whether it can be called on values: a function, or an instance that is one; a class only makes such.

    >>> is_applied(len), is_applied(dict)
    (True, False)
    """
    return callable(value) and not isinstance(value, type)


def _fits_callable(value: Any, parts: tuple[Any, ...]) -> bool:
    """Whether it can be called with as many values; a class makes one of itself, which has to be what is wanted."""
    if not callable(value) or not parts:
        return callable(value)
    if isinstance(parts[0], list) and not _takes(value, len(parts[0])):
        return False
    if not isinstance(value, type):
        return True
    given = parts[-1]
    members = get_args(given) if get_origin(given) in (typing.Union, types.UnionType) else (given,)
    return given is type(None) or any(_makes(value, member) for member in members)


def _takes(function: Callable[..., Any], count: int) -> bool:
    """Whether a function takes so many values, as far as it says; whether it needs more is seen where it is called."""
    try:
        parameters = inspect.signature(function)
    except (TypeError, ValueError):  # of C
        return True
    try:
        parameters.bind_partial(*[None] * count)
    except TypeError:
        return False
    return True


def _makes(kind: type, hint: Any) -> bool:
    """Whether values of a type are what a hint says, or it cannot be seen."""
    wanted = get_origin(hint) or hint
    if hint is Any or not isinstance(wanted, type) or _is_open(wanted):
        return True
    return issubclass(kind, (int, float) if wanted is float else wanted)


def _listing(hint: Any) -> bool:
    """Whether the values of a mapping are to be lists."""
    origins = (list, tuple, collections.abc.Sequence)
    return get_origin((*get_args(hint), None, None)[1]) in origins


def _is_open(kind: type) -> bool:
    """A protocol, or a dictionary with given keys: what is one of them cannot be seen by its type."""
    return bool(getattr(kind, "_is_protocol", False)) or typing.is_typeddict(kind)


def _fits_sequence(value: Any, parts: tuple[Any, ...]) -> bool:
    """Whether it has a length and items, which are looked at where they are Python's own."""
    # A data set has a length and items too, and may have no last one: arrays and sequences say what they are.
    listed = isinstance(value, Sequence | Tensor) or (hasattr(type(value), "__array__") and isinstance(value, Iterable))
    if isinstance(value, _NO_SEQUENCES | type) or not listed or getattr(value, "is_nested", False):
        return False
    dimensions = len(getattr(value, "shape", (0,)))
    if dimensions == 0:
        return False
    of_one = any(part in (int, float, str, bool) for part in parts)
    if dimensions > 1 and of_one:
        return False
    if hasattr(value, "columns") and parts:  # a table, whose items are columns
        return False
    fixed = len(parts) > 1 and parts[-1] is not Ellipsis
    if isinstance(value, Tensor | np.ndarray) and parts:
        return not (fixed and len(value) != len(parts)) and _fits_array(value, parts)
    if not isinstance(value, list | tuple) and not _can_be_cut(value):
        return False
    if not parts:
        return True
    if not isinstance(value, Sequence):
        return not (fixed and length_of(value) != len(parts)) and _fits_container(value, parts)
    if fixed:
        return len(parts) == len(value) and all(map(fits, value, parts))
    hint, first = next(iter(parts)), [*itertools.islice(value, _LOOKED_AT)]
    return {*map(type, first)} <= _exact(hint) or all(fits(item, hint) for item in first)


def _can_be_cut(value: Any) -> bool:
    """Whether it has a first part, which a `collections.deque`, a sequence by name, has not."""
    try:
        value[:0]
    except Exception:  # its own, which may raise anything
        return False
    return True


def length_of(value: Any) -> int | None:
    """How many items it says that it has, if it says so; arrays without dimensions and sparse ones do not.

    >>> length_of([1, 2]), length_of(3), length_of(np.array(3))
    (2, None, None)
    """
    try:
        return len(value)
    except Exception:  # its own, which may raise anything
        return None


def _fits_container(value: Any, parts: tuple[Any, ...]) -> bool:
    """Whether the items of another library's column are what a sequence holds, where it tells them."""
    listed = next((method for name in _LISTED if callable(method := getattr(value, name, None))), None)
    if listed is None:
        return True
    items = listed()
    return not isinstance(items, list) or _fits_sequence(items, parts)


def _fits_array(value: Any, parts: tuple[Any, ...]) -> bool:
    """Whether the items of an array are what a sequence holds: numbers or text, or rows of such."""
    if isinstance(value, Tensor) and not is_plain(value):
        return False
    try:
        items = value[:_LOOKED_AT].tolist()
    except RuntimeError:  # without data: the stand-in of a trace, or a zero of torch's own
        return False
    return _fits_sequence(items, parts)
