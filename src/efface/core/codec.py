"""Frozen dataclasses as plain data and tensors, and back, by their type hints: one validating reader for all files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import types
import typing
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

import torch
from torch import Tensor

from efface._errors import FormatError, InputError, UnknownOptionWarning
from efface._text import shown
from efface.core.arrays import is_finite, is_plain
from efface.core.config import Config, checked, in_words
from efface.core.hashing import feed
from efface.core.saved_types import is_base, known_type, saved_type

TENSOR = "$tensor"
TYPE = "$type"

# -------------------------------------------------------------------------------------------------- writing


def encoded(value: Any, *, skip: frozenset[str] = frozenset()) -> tuple[Any, dict[str, Tensor]]:
    """A value as JSON data and named tensors.

    Args:
        value: A dataclass, tensor, mapping, sequence, or plain data.
        skip: Fields of the outermost dataclass that are left out.

    Raises:
        InputError: If something in it cannot be saved.

    >>> encoded({"w": torch.zeros(2), "n": 3})
    ({'w': {'$tensor': 'w'}, 'n': 3}, {'w': tensor([0., 0.])})
    """
    tensors: dict[str, Tensor] = {}
    return _encoded(value, "", tensors, skip), tensors


def _encoded(value: Any, path: str, tensors: dict[str, Tensor], skip: frozenset[str] = frozenset()) -> Any:
    if isinstance(value, Tensor):
        if not is_plain(value):
            kind = "meta" if value.is_meta else "quantised" if value.is_quantized else value.layout
            raise InputError(f"{path or 'it'} is a tensor that files cannot hold ({kind}): make it dense first")
        tensors[path] = value.detach()
        return {TENSOR: path}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        own = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init and _is_saved(f, skip)}
        own = {**own.pop("unknown"), **own} if isinstance(value, Config) else own
        _check_known(value, path)
        return {TYPE: type(value).__name__, **{k: _encoded(v, _below(path, k), tensors) for k, v in own.items()}}
    if isinstance(value, Mapping):
        return {str(k): _encoded(v, _below(path, str(k)), tensors) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_encoded(v, _below(path, str(i)), tensors) for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise InputError(f"{path or 'it'} is {_named(value)}, which cannot be saved: only tensors and plain data can")


def _named(value: Any) -> str:
    named = isinstance(value, types.FunctionType | types.BuiltinFunctionType | type)
    return f"{shown(value)} {value.__name__}" if named else shown(value)


def _check_known(value: Any, path: str) -> None:
    cls = type(value)
    if known_type(cls.__name__) is not cls and cls.__module__.partition(".")[0] != __name__.partition(".")[0]:
        raise InputError(
            f"{path or 'it'} is a {cls.__name__} of your own, which files do not know: decorate the class with "
            "@efface.saved, and import it before it is loaded"
        )


def _is_saved(field: dataclasses.Field[Any], skip: frozenset[str]) -> bool:
    return field.name not in skip and not (field.name == "labels" and not field.compare)


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def digest(plain: Any, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of plain data and of all tensors: names, shapes, dtypes and values."""
    total = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    for name in sorted(tensors):
        feed(total, tensors[name], name)
    return total.hexdigest()


# -------------------------------------------------------------------------------------------------- reading


def decoded(plain: Any, tensors: Mapping[str, Tensor], hint: Any, name: str = "it") -> Any:
    """What `encoded` took apart, of the type that a hint says.

    Args:
        plain: JSON data.
        tensors: The tensors.
        hint: What it must be.
        name: What it is called in errors.

    Raises:
        FormatError: If it is something else: nothing of a file is taken unchecked.
    """
    for member in _alternatives(hint):
        found = _decoded(plain, tensors, member, name)
        if found is not _NO:
            return found
    raise FormatError(f"{name} is {_short(plain)}, expected {in_words(hint)}")


def fields_of(plain: Mapping[str, Any], **hints: Any) -> tuple[Any, ...]:
    """Fields of plain data, each of the type that its hint says, in that order.

    Raises:
        FormatError: If one is missing or something else.

    >>> fields_of({"x_dim": 3, "second": "full"}, x_dim=int, second=Literal["full", "diag"])
    (3, 'full')
    """
    if missing := [name for name in hints if name not in plain]:
        raise FormatError(f"it has no {', '.join(missing)}")
    return tuple(decoded(plain[name], {}, hint, name) for name, hint in hints.items())


def dtype_of(name: str) -> torch.dtype:
    """The floating or complex dtype of that name, and nothing else that torch has.

    Raises:
        FormatError: If there is none.
    """
    found = getattr(torch, name, None) if name in _DTYPES else None
    if not isinstance(found, torch.dtype):
        raise FormatError(f"{name!r:.80} is no dtype that is saved: it is one of {', '.join(_DTYPES)}")
    return found


_DTYPES = ("float64", "float32", "float16", "bfloat16", "complex128", "complex64")


_NO = object()


def _alternatives(hint: Any) -> tuple[Any, ...]:
    origin = get_origin(hint)
    return get_args(hint) if origin in (typing.Union, types.UnionType) else (hint,)


def _decoded(plain: Any, tensors: Mapping[str, Tensor], hint: Any, name: str) -> Any:
    origin = get_origin(hint)
    if hint is Tensor:
        return _tensor(plain, tensors, name)
    if isinstance(hint, type) and (dataclasses.is_dataclass(hint) or is_base(hint)):
        return _dataclass(plain, tensors, hint, name)
    if origin in (dict, Mapping, typing.get_origin(Mapping[str, int])):
        return _mapping(plain, tensors, get_args(hint), name)
    if origin in (tuple, list, Sequence):
        return _sequence(plain, tensors, get_args(hint), origin, name)
    if hint is Any:
        return _anything(plain, tensors, name)
    if hint is float and plain in ("nan", "inf", "-inf"):
        return float(plain)
    if origin is Literal or hint in (int, float, str, bool, type(None), None):
        try:
            return checked(plain, hint, name)
        except InputError:
            return _NO
    return _anything(plain, tensors, name) if not isinstance(hint, type) else _NO


def _tensor(plain: Any, tensors: Mapping[str, Tensor], name: str) -> Any:
    if not (isinstance(plain, Mapping) and set(plain) == {TENSOR}):
        return _NO
    if plain[TENSOR] not in tensors:
        raise FormatError(f"{name} is the tensor {plain[TENSOR]!r}, which is missing")
    value = tensors[plain[TENSOR]]
    if not is_finite(value):
        raise FormatError(f"{name} has NaN or infinite values")
    return value


def _mapping(plain: Any, tensors: Mapping[str, Tensor], parts: tuple[Any, ...], name: str) -> Any:
    if not isinstance(plain, Mapping):
        return _NO
    of_key, of_value = parts or (str, Any)
    parse = getattr(of_key, "parse", str) if isinstance(of_key, type) else str
    try:
        keys = [parse(key) for key in plain]
    except InputError as error:
        raise FormatError(f"{name}: {error}") from None
    values = [decoded(value, tensors, of_value, f"{name}.{key}") for key, value in plain.items()]
    return dict(zip(keys, values, strict=True))


def _sequence(plain: Any, tensors: Mapping[str, Tensor], parts: tuple[Any, ...], origin: Any, name: str) -> Any:
    if not isinstance(plain, list):
        return _NO
    fixed = origin is tuple and parts and parts[-1] is not Ellipsis
    if fixed and len(parts) != len(plain):
        return _NO
    hints = parts if fixed else (parts[0] if parts else Any,) * len(plain)
    each = zip(plain, hints, strict=True)
    return tuple(decoded(value, tensors, hint, f"{name}[{i}]") for i, (value, hint) in enumerate(each))


def _anything(plain: Any, tensors: Mapping[str, Tensor], name: str) -> Any:
    """Plain data with tensors in it; a mapping with a type is one of ours."""
    if isinstance(plain, Mapping) and set(plain) == {TENSOR}:
        return _tensor(plain, tensors, name)
    if isinstance(plain, Mapping) and TYPE in plain:
        return _dataclass(plain, tensors, saved_type(plain[TYPE]), name)
    if isinstance(plain, Mapping):
        return {key: _anything(value, tensors, f"{name}.{key}") for key, value in plain.items()}
    if isinstance(plain, list):
        return [_anything(value, tensors, f"{name}[{i}]") for i, value in enumerate(plain)]
    return plain


def _dataclass(plain: Any, tensors: Mapping[str, Tensor], hint: type, name: str) -> Any:
    if not isinstance(plain, Mapping):
        return _NO
    cls = _class_of(plain.get(TYPE, hint.__name__), hint)
    if cls is None:
        return _NO
    given = {key: value for key, value in plain.items() if key != TYPE}
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls) if f.init}
    unknown = {key: value for key, value in given.items() if key not in known or key == "unknown"}
    taken = [key for key in known if key in given and key not in unknown]
    found = {key: decoded(given[key], tensors, hints[key], _below(name, key)) for key in taken}
    if unknown:
        kept = issubclass(cls, Config)
        warn_unknown(name, unknown, kept=kept)
        found |= {"unknown": unknown} if kept else {}
    try:
        return cls(**found)
    except (TypeError, ValueError) as error:
        raise FormatError(f"{name} is damaged: {error}") from error


def warn_unknown(name: str, unknown: Iterable[str], *, kept: bool) -> None:
    """Tell of what stands in a file and a newer version wrote.

    Args:
        name: What holds it.
        unknown: What it is called there.
        kept: Whether it is kept.
    """
    warnings.warn(
        f"{name} has {', '.join(map(repr, unknown))}, which this version of efface does not know: "
        f"{'kept, and without effect' if kept else 'left out'}; upgrade with  pip install -U efface",
        UnknownOptionWarning,
        stacklevel=3,
    )


def _class_of(name: Any, hint: type) -> type | None:
    """The class of that name, if it can stand where the hint is."""
    if name == hint.__name__:
        return hint
    cls = saved_type(name, hint) if is_base(hint) else known_type(name)
    protocol = getattr(hint, "_is_protocol", False)
    return cls if cls is not None and (protocol or issubclass(cls, hint)) else None


def _short(plain: Any) -> str:
    text = repr(plain)
    return text if len(text) <= 80 else f"{text[:77]}..."
