"""Options of a method as a value: a frozen dataclass, from which command line, error texts, docs and files are made."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Self, get_args, get_origin

from efface._errors import InputError
from efface._text import shown
from efface._validate import check_type, did_you_mean
from efface.core.saved_types import is_base, saved

_RANGES: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "least": ("at least", lambda value, bound: value >= bound),
    "above": ("above", lambda value, bound: value > bound),
    "most": ("at most", lambda value, bound: value <= bound),
    "below": ("below", lambda value, bound: value < bound),
}


def option(default: Any, help: str, **bounds: float) -> Any:
    """A field of a `Config`.

    Args:
        default: Its default.
        help: One line for people.
        **bounds: `least`, `above`, `most`, `below`: what a number must be.
    """
    if unknown := set(bounds) - set(_RANGES):
        raise TypeError(f"unknown bound {unknown.pop()!r}")
    return dataclasses.field(default=default, metadata={"help": help, "bounds": bounds})


def required(help: str) -> Any:
    """A field of a `Config` that has no default.

    Args:
        help: One line for people.
    """
    return dataclasses.field(metadata={"help": help})


@dataclass(frozen=True)
class Option:
    """One option of a method, as `--method help` and the docs show it.

    Attributes:
        name: Its name.
        type: What it takes, in words, such as `"number"` or `"auto | number"`.
        default: Its default; `dataclasses.MISSING` if it must be given.
        help: One line.
        choices: The words that it takes, if it takes only these.
        values: What can be written for it in a shell: words, true and false, none; an empty text stands for all else.
    """

    name: str
    type: str
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    values: tuple[str, ...] = ()

    @property
    def default_text(self) -> str:
        """Its default as it is written in a shell; empty if it has none.

        >>> Option("band", "(a number, a number)", (0.97, None), "").default_text
        '0.97,none'
        """
        return "" if self.default is dataclasses.MISSING else _written(self.default)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base of the options of each method.

    Attributes:
        unknown: Options of a newer version, read from a file: kept, saved again, and without effect.

    Raises:
        InputError: If a value is of the wrong type, no choice, or out of range.
    """

    unknown: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        saved(cls)

    def __post_init__(self) -> None:
        for field in _fields(type(self)):
            given = getattr(self, field.name)
            value = _default(type(self), field.name) if given is field.default else _taken(type(self), field, given)
            object.__setattr__(self, field.name, value)

    @classmethod
    def of(cls, given: Mapping[str, Any] | None = None, *, method: str = "", more: tuple[str, ...] = ()) -> Self:
        """A config from options by name.

        Args:
            given: Name -> value.
            method: Whose, for the message.
            more: What else may be given there, for the message.

        Raises:
            InputError: If one is unknown; the text names those there are.
        """
        check_type(method, str, "method")
        check_type(more, tuple, "more", "a tuple of names")
        given = dict(check_type({} if given is None else given, Mapping, "given", "option by name"))
        names = cls.names()
        if unknown := [name for name in given if name not in names]:
            raise InputError(_no_option(unknown[0], [*names, *more], method))
        missing = dataclasses.MISSING
        needed = [f.name for f in _fields(cls) if f.default is missing and f.default_factory is missing]
        if absent := [name for name in needed if name not in given]:
            whose = f"method={method!r}" if method else "this method"
            raise InputError(f"{whose} needs {' and '.join(f'{name}=' for name in absent)}")
        return cls(**given)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of all options, in order."""
        return _names(cls)

    @classmethod
    def hints(cls) -> dict[str, Any]:
        """Name -> type, of all options."""
        return {name: hint for name, hint in _hints(cls).items() if name in cls.names()}

    @classmethod
    def parse(cls, texts: Sequence[str], *, method: str = "") -> dict[str, Any]:
        """Options by name from texts `name=value`, as they are written in a shell.

        Raises:
            InputError: If a text has no name, there is no such option, or its value is none that it takes; or an option
                is there twice.
        """
        hints, names = _hints(cls), cls.names()
        found = {}
        for text in check_type(texts, Sequence, "texts", "name=value each"):
            name, equals, value = check_type(text, str, "an option", "name=value").partition("=")
            if not equals:
                raise InputError(f"{text!r} is no option: write name=value, such as {names[0] if names else 'x'}=...")
            if name not in names:
                raise InputError(_no_option(name, names, method))
            if name in found:
                raise InputError(f"{name} is given twice, and the last would count: write it once")
            found[name] = from_text(value, hints[name], name)
        return found

    @classmethod
    def options(cls) -> tuple[Option, ...]:
        """All options, in order."""
        hints = _hints(cls)
        return tuple(_option(field, hints[field.name]) for field in _fields(cls))

    def to_dict(self) -> dict[str, Any]:
        """Plain data: every option, and those of a newer version."""
        own = {field.name: plain(getattr(self, field.name)) for field in _fields(type(self))}
        return {**self.unknown, **own}


def _option(field: dataclasses.Field[Any], hint: Any) -> Option:
    words, members = choices_of(hint), _members(hint)
    few = {bool: ("true", "false"), NoneType: ("none",)}
    more = [few.get(member, ("",)) for member in members if get_origin(member) is not Literal]
    values = tuple(dict.fromkeys([*words, *(text for texts in more for text in texts)]))
    return Option(field.name, in_words(hint), field.default, field.metadata.get("help", ""), words, values)


def _no_option(name: str, names: Sequence[str], method: str) -> str:
    whose = f"method={method!r}" if method else "this method"
    return f"{whose} has no option {name!r}{did_you_mean(str(name), names)}: it has {', '.join(names) or 'none'}"


@cache
def _fields(cls: type) -> tuple[dataclasses.Field[Any], ...]:
    return tuple(field for field in dataclasses.fields(cls) if field.name != "unknown")


@cache
def _names(cls: type) -> tuple[str, ...]:
    return tuple(field.name for field in _fields(cls))


def _taken(cls: type, field: dataclasses.Field[Any], given: Any) -> Any:
    value = checked(given, _hints(cls)[field.name], field.name)
    _check_bounds(field, value)
    return value


@cache
def _default(cls: type, name: str) -> Any:
    """A default as it is taken; checked once a class."""
    field = next(field for field in _fields(cls) if field.name == name)
    return _taken(cls, field, field.default)


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def plain(value: Any) -> Any:
    """A value as JSON data for people: dataclasses by their fields, tensors by their shapes."""
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        own = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
        return {"type": type(value).__name__, **own}
    shape = getattr(value, "shape", None)
    if shape is not None:
        return f"tensor {tuple(shape)}"
    return value


def _check_bounds(field: dataclasses.Field[Any], value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if not (isinstance(value, int) or math.isfinite(value)):
        raise InputError(f"{field.name}={shown(value)}: write a finite number")
    bounds = field.metadata.get("bounds", {})
    if not all(_RANGES[kind][1](value, bound) for kind, bound in bounds.items()):
        asked = " and ".join(f"{_RANGES[kind][0]} {bound:g}" for kind, bound in bounds.items())
        noun = "a share, a number" if bounds.get("most") == 1 else "a number"
        raise InputError(f"{field.name}={shown(value)}: write {noun} {asked}")


# --------------------------------------------------------------------------------------------------- types


def checked(value: Any, hint: Any, name: str) -> Any:
    """`value` if it is what a type hint of plain data says; whole numbers pass for floats, lists for tuples.

    Raises:
        InputError: If it is something else.

    >>> checked([1, 2], tuple[float, ...], "band"), checked("l2", Literal["l2", "sign"], "normalise")
    ((1.0, 2.0), 'l2')
    """
    for kind in _members(hint):
        found = _as(value, kind, name)
        if found is not _NO:
            return found
    choices = choices_of(hint)
    if choices and len(choices) == len(_members(hint)):
        raise InputError(
            f"{name}={_as_given(value)}{_near(value, choices)}: choose one of {', '.join(map(repr, choices))}"
        )
    raise InputError(f"{name}={_as_given(value)}: write {in_words(hint)}")


def _as_given(value: Any) -> str:
    """A value as it was written where it is plain, with what is in it; all else by its type."""
    try:
        text = repr(value) if isinstance(value, list | tuple | dict | set) else ""
    except Exception:  # of whatever is in it
        text = ""
    return text if 0 < len(text) < _SHORT else shown(value)


def _near(value: Any, choices: tuple[str, ...]) -> str:
    return did_you_mean(value, choices) if isinstance(value, str) else ""


_SHORT = 200
_LARGEST = 2**1023
"""Whole numbers below it are finite as floats."""

_TRUTH = {"true": True, "yes": True, "false": False, "no": False}


def from_text(text: str, hint: Any, name: str) -> Any:
    """What a text that was written in a shell means, by the type hint of plain data.

    Raises:
        InputError: If it means nothing that the hint allows.

    >>> from_text("0.9,1", tuple[float, float], "band"), from_text("auto", float | Literal["auto"], "threshold")
    ((0.9, 1.0), 'auto')
    >>> from_text("false", bool, "shrinkage"), from_text("none", float | None, "svd_tol")
    (False, None)
    """
    for member in sorted(_members(hint), key=lambda member: member is not NoneType):
        found = _meant(text, member, name)
        if found is not _NO:
            return found
    return checked(text, hint, name)


def _meant(text: str, member: Any, name: str) -> Any:
    origin, word = get_origin(member), text.strip().lower()
    if origin is Literal:
        return get_args(member)[0] if text == str(get_args(member)[0]) else _NO
    if member is NoneType:
        return None if word == "none" else _NO
    if member is bool:
        return _TRUTH.get(word, _NO)
    if member in (int, float):
        try:
            return member(text)
        except ValueError:
            return _NO
    if origin is tuple:
        parts, kinds = text.split(","), get_args(member)
        kinds = kinds[:1] * len(parts) if kinds[-1] is Ellipsis else kinds
        matched = len(parts) == len(kinds)
        return tuple(from_text(p, kind, name) for p, kind in zip(parts, kinds, strict=True)) if matched else _NO
    return text if member is str else _NO


def _written(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_written, value))
    return str(value).lower() if isinstance(value, bool | NoneType) else str(value)


_NO = object()


def _members(hint: Any) -> list[Any]:
    """The alternatives of a hint; each choice of a Literal is one."""
    origin = get_origin(hint)
    if origin in (typing.Union, UnionType):
        return [member for part in get_args(hint) for member in _members(part)]
    if origin is Literal:
        return [Literal[choice] for choice in get_args(hint)]
    return [hint]


def _as(value: Any, kind: Any, name: str) -> Any:
    origin = get_origin(kind)
    if kind is Any:
        return value
    if origin is Literal:
        choice = get_args(kind)[0]
        return value if type(value) is type(choice) and value == choice else _NO
    if kind in (NoneType, None):
        return value if value is None else _NO
    if origin in (tuple, typing.Sequence) or kind is tuple:
        return _as_tuple(value, get_args(kind), name)
    if origin in (dict, Mapping) or kind in (dict, Mapping):
        return dict(value) if isinstance(value, Mapping) else _NO
    return _as_scalar(value, kind)


def _as_tuple(value: Any, parts: tuple[Any, ...], name: str) -> Any:
    if not isinstance(value, tuple | list):
        return _NO
    if not parts:
        return tuple(value)
    if parts[-1] is Ellipsis:
        return tuple(checked(item, parts[0], name) for item in value)
    if len(parts) != len(value):
        return _NO
    return tuple(checked(item, part, name) for item, part in zip(value, parts, strict=True))


def _as_scalar(value: Any, kind: type) -> Any:
    if is_base(kind):
        return value  # one of ours or of the caller's own, which whoever uses it checks
    value = _item(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) < _LARGEST else _NO
    if kind in (int, float) and isinstance(value, bool):
        return _NO
    return value if isinstance(value, kind) else _NO


def _item(value: Any) -> Any:
    """The number in an array or tensor without dimensions; what has none as it is."""
    if not hasattr(value, "item") or getattr(value, "ndim", None) != 0:
        return value
    try:
        return value.item()
    except (RuntimeError, NotImplementedError):  # on the meta device, or of a dtype that is not read
        return value


def choices_of(hint: Any) -> tuple[str, ...]:
    """The words among the alternatives of a hint."""
    return tuple(
        str(get_args(member)[0])
        for member in _members(hint)
        if get_origin(member) is Literal and isinstance(get_args(member)[0], str)
    )


_WORDS = {int: "a whole number", float: "a number", str: "a word", bool: "True or False", NoneType: "None", Any: "any"}


def in_words(hint: Any) -> str:
    """What a hint asks for.

    >>> in_words(float | Literal["auto"]), in_words(tuple[int, int])
    ("a number or 'auto'", '(a whole number, a whole number)')
    """
    said = []
    for member in _members(hint):
        origin = get_origin(member)
        if origin is Literal:
            said.append(repr(get_args(member)[0]))
        elif origin is tuple:
            said.append(f"({', '.join('...' if p is Ellipsis else in_words(p) for p in get_args(member))})")
        else:
            said.append(_WORDS.get(member, getattr(member, "__name__", str(member))))
    return " or ".join(said)
