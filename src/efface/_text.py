"""Text that comes from data, and is shown; values with arrays in them, in a line."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

_STEERING = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069]")


def visible(text: str) -> str:
    r"""Text in which signs that steer a terminal, or turn its direction, are written out; line ends stay.

    >>> visible("red" + chr(27) + "[2J")
    'red\\x1b[2J'
    """
    return _STEERING.sub(_written, text)


def _written(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


_LONGEST = 80


def brief(self: Any) -> str:
    """A dataclass in a line, to be its `__repr__`: arrays by dtype and shape, without what is as it is by default.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Rows:
    ...     x: Any
    ...     names: tuple[str, ...] = ()
    ...     __repr__ = brief
    >>> import numpy as np
    >>> Rows(np.zeros((2, 3))), Rows(np.zeros(2), ("a", "b"))
    (Rows(x=float64 (2, 3)), Rows(x=float64 (2,), names=('a', 'b')))
    """
    said = []
    for field in dataclasses.fields(self):
        if not field.repr or (held := getattr(self, field.name)) is None:
            continue
        if isinstance(held, str | tuple | list | Mapping | frozenset) and not held:
            continue
        said.append(f"{field.name}={_in_short(held)}")
    return f"{type(self).__qualname__}({', '.join(said)})"


def _in_short(value: Any) -> str:
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(shape, tuple) and dtype is not None:
        return f"{str(dtype).removeprefix('torch.')} {tuple(shape)}"
    if isinstance(value, Mapping):
        text = f"{{{', '.join(f'{key!r}: {_in_short(each)}' for key, each in value.items())}}}"
    elif isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        text = f"({', '.join(map(_in_short, value))}{',' * (len(value) == 1)})"
    else:
        return repr(value)
    return text if len(text) <= _LONGEST else f"<{len(value)} of them>"


def is_whole(text: str) -> bool:
    r"""Whether it has no half of a sign (a lone surrogate), which no file and no tokenizer takes.

    >>> is_whole("a red circle"), is_whole("\ud800")
    (True, False)
    """
    return not any("\ud800" <= sign <= "\udfff" for sign in text)


def shown(value: Any) -> str:
    """A value in a message: what is short as it is, all else by its type.

    >>> shown("x"), shown([3]), shown(len)
    ("'x'", 'a list', 'a builtin_function_or_method')
    """
    plain = type(value) in (str, bytes, int, float, complex, bool, type(None))
    return f"{value!r:.60}" if plain else f"a {type(value).__name__}"


def one_line(error: BaseException, most: int = 200) -> str:
    """The beginning of what an error of another library says, in a line.

    >>> one_line(ValueError("no    such file"))
    'no such file'
    """
    return " ".join(str(error).split())[:most]
