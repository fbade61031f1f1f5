"""Reading what users pass as arrays: features and labels by one rule, whatever container they come in.

Nothing here imports pandas, polars, pyarrow or scipy; their containers are known by what they can do.
"""

from __future__ import annotations

import datetime
import numbers
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from efface._errors import EffaceError, InputError

_SHOWN = 5
_LARGEST_DENSE = 2**31
"""Bytes up to which a sparse matrix is made dense unasked."""

_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)
_NUMBERS = frozenset(
    {
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, *_UNSIGNED),
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128),
    }
)

_SCALARS = frozenset({int, float, bool, str, complex, type(None)})
_DEEPEST = 64
"""Dimensions that numpy has at most."""

_GAPS = ("NAType", "NaTType")
_FLOAT_MARKS = ("isna", "is_null")
_ARRAY_MARKS = ("__array__", "__array_interface__", "__array_struct__", "__dlpack__", "__dataframe__", "__buffer__")
_DROPS = ("dropna", "drop_nulls", "drop_null")
_DECLARED = ("category", "categorical", "enum", "dictionary")

_CONVERT = (
    "convert it first, e.g. {name}.astype('float64') for numbers or "
    "labels = numpy.unique({name}, return_inverse=True)[1] for categories"
)
_DATES = "{name}.astype('int64') for the time since 1970, {name}.astype('datetime64[Y]').astype(int) for the year"


@dataclass(frozen=True)
class Array:
    """What was read of an array-like.

    Attributes:
        values: Numbers in native byte order (a tensor stays one), or text: strings `U`, or objects that are all `str`
            (or integers too large for any dtype).
        missing: Where a value is missing, of the shape of `values`; None if nowhere. What stands there is arbitrary.
        declared: Whether the container says that these are categories, whatever their dtype.
    """

    values: NDArray[Any] | Tensor
    missing: NDArray[np.bool_] | None = None
    declared: bool = False

    @property
    def is_named(self) -> bool:
        """Whether these are text, or integers beyond int64: no numbers of a tensor, but as labels names of classes."""
        return not isinstance(self.values, Tensor) and (self.values.dtype.kind in "UO" or _is_beyond(self.values))

    def tensor(self, name: str) -> Tensor:
        """The numbers as a tensor that shares their memory where it can.

        Raises:
            InputError: If there are none, or one is missing, or too large for any dtype of torch.
        """
        if isinstance(self.values, Tensor):
            return self.values
        if self.missing is not None:
            raise InputError(
                f"{name} holds missing values (None, NA or masked) in {_rows(self.missing)}, not numbers: "
                f"{_CONVERT.format(name=name)}, or drop or impute them"
            )
        if self.values.dtype.kind in "UO":
            what = "text" if self.values.size and isinstance(self.values.flat[0], str) else "large integers"
            raise InputError(f"{name} holds {what}, not numbers: {_CONVERT.format(name=name)}")
        return shared(_for_torch(self.values, name))

    def where(self, chosen: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
        """The missing values among the chosen; None if there are none."""
        missing = None if self.missing is None else self.missing & chosen
        return missing if missing is not None and missing.any() else None


def read_array(value: Any, name: str) -> Array:
    """What an array-like holds: a tensor, an array, a table or series, a sparse matrix, or nested lists.

    Args:
        value: numpy (masked arrays too), torch, pandas, polars, pyarrow, scipy.sparse, or lists.
        name: What to call it in messages.

    Raises:
        InputError: If it holds dates, mixes text and numbers, or holds other objects.

    >>> read_array([1, None], "x").missing
    array([False,  True])
    >>> from decimal import Decimal
    >>> read_array([Decimal("0.5"), 2], "x").values
    array([0.5, 2. ])
    """
    try:
        return _read(value, name)
    except (EffaceError, MemoryError):
        raise
    except Exception as error:  # of whichever library has made the container
        said = f"{type(value).__name__}: {error}"[:200]
        raise InputError(f"{name} cannot be read as an array ({said}): {_CONVERT.format(name=name)}") from error


def _read(value: Any, name: str) -> Array:
    refuse_class(value, name)
    if isinstance(value, Tensor):
        check_real(value, name)
        return Array(in_memory(_strided(value.detach(), name)))
    if type(value) is np.ndarray and value.dtype.kind in "biufc":
        return Array(_native(value))
    if hasattr(value, "tocsr") and hasattr(value, "toarray"):
        return Array(_native(_dense_sparse(value, name)))
    value = countable(value)
    declared = str(getattr(value, "dtype", getattr(value, "type", ""))).lower().startswith(_DECLARED)
    missing = _gaps(value)
    values = _to_numpy(value, name) if missing is None else _without_gaps(value, missing, name)
    if values.dtype.kind in "OT":  # objects, or numpy's strings of any length
        values, inside = _of_objects(values.astype(object), name, declared=declared)
        missing = inside if missing is None else missing | (False if inside is None else inside)
    return Array(_plain(values, name), missing, declared)


def refuse_class(value: Any, name: str) -> None:
    """Refuse a class in the place of data: it has all names of its instances' attributes, and none of their values.

    Raises:
        InputError: If it is one.

    >>> refuse_class(np.ndarray, "x")
    Traceback (most recent call last):
    ...
    efface._errors.InputError: x is the class ndarray itself: give an array, a table or a list of values
    """
    if isinstance(value, type):
        raise InputError(f"{name} is the class {value.__name__} itself: give an array, a table or a list of values")


def countable(value: Any) -> Any:
    """A list of the items of what has so many by number and is no array, inside lists too; anything else as it is.

    numpy asks for one item after the other until it is refused one, which data sets may never do.
    """
    if isinstance(value, list | tuple):
        return _countable_items(value)
    has = {name for name in ("__getitem__", "__len__", *_ARRAY_MARKS) if hasattr(type(value), name)}
    if has != {"__getitem__", "__len__"} or isinstance(value, Sequence | Mapping | memoryview):
        return value
    try:
        count = len(value)
    except TypeError:  # a sparse matrix, say
        return value
    try:
        return [value[i] for i in range(count)]
    except (KeyError, IndexError, TypeError) as error:  # a table in groups, say
        kind = type(value).__name__
        raise InputError(f"a {kind} has {count} items, and not by number: give them as a list or an array") from error


def _countable_items(value: list[Any] | tuple[Any, ...], outer: tuple[int, ...] = ()) -> Any:
    """A list as it is, or with what is countable in it as lists; `outer` are those that it lies in."""
    if {*map(type, value)} <= _SCALARS or id(value) in outer or len(outer) == _DEEPEST:
        return value
    outer = (*outer, id(value))
    made = [_countable_items(v, outer) if isinstance(v, list | tuple) else countable(v) for v in value]
    return value if all(new is old for new, old in zip(made, value, strict=True)) else made


def refuse_rows(bad: NDArray[np.bool_] | Tensor, what: str, advice: str, index: Any = None) -> None:
    """Raise an error that names the rows where `bad` `(n, ...)` is true, if there are any.

    Args:
        bad: `(n, ...)` booleans.
        what: `"{name} is missing"` and the like; the rows follow.
        advice: What to do.
        index: `(n,)` numbers of the rows where some were selected, or the number of the first.

    Raises:
        InputError: If any is true.
    """
    if bool(bad.any()):
        raise InputError(f"{what} in {_rows(bad, index)}: {advice}")


def _rows(bad: NDArray[np.bool_] | Tensor, index: Any = None) -> str:
    """How many rows, and the first of them.

    >>> _rows(np.array([False, True, True]), index=10)
    '2 of 3 rows (first rows: 11, 12)'
    """
    rows = torch.as_tensor(bad).cpu().reshape(len(bad) if bad.ndim else 1, -1).any(1)
    found = rows.nonzero().flatten()
    first = found[:_SHOWN]
    if isinstance(index, int):
        first = first + index
    elif index is not None:
        first = torch.as_tensor(index).cpu()[first]
    more = ", ..." if len(found) > _SHOWN else ""
    return f"{len(found)} of {len(rows)} rows (first rows: {', '.join(map(str, first.tolist()))}{more})"


# ------------------------------------------------------------------------------------------------ tensors and memory


def is_plain(value: Tensor) -> bool:
    """Whether a tensor is numbers in a grid in memory: not sparse, nested, quantised, or without data."""
    return value.layout is torch.strided and not (value.is_nested or value.is_quantized or value.is_meta)


def is_reckoned(value: Tensor) -> bool:
    """Whether it is that, and torch calculates with its numbers: not with those of eight bits, and the like."""
    return value.dtype in _NUMBERS and is_plain(value)


def is_finite(value: Tensor) -> bool:
    """Whether a tensor has neither NaN nor infinity."""
    if value.is_floating_point() and value.itemsize == 1:
        value = value.float()  # torch does not ask it of eight bits
    return not (value.is_floating_point() or value.is_complex()) or bool(value.isfinite().all())


def in_memory(value: Tensor) -> Tensor:
    """A tensor with its numbers in memory: zeros of torch's own have none, and numpy would read at address 0."""
    return value if torch.compiler.is_compiling() or not value._is_zerotensor() else value.clone()


def check_real(value: Tensor, name: str) -> None:
    """Refuse the stand-ins of a trace, which have a shape and a device and no numbers."""
    if type(value).__name__ == "FakeTensor":
        raise InputError(f"{name} is a FakeTensor, which holds no numbers: give the tensor itself")


def dense(value: Tensor, name: str) -> Tensor:
    """A tensor as numbers in a grid in memory, with its gradient.

    Raises:
        InputError: If it cannot be one: nested, quantised, of eight bits, without data, or too large when made dense.
    """
    return _strided(value, name)


def _strided(value: Tensor, name: str) -> Tensor:
    if value.is_meta:
        raise InputError(f"{name} is on the meta device, which holds no numbers: load it first")
    if value.is_nested:
        raise InputError(f"{name} has rows of different lengths (a nested tensor), not numbers in a grid")
    if value.is_quantized:
        raise InputError(f"{name} holds {value.dtype}, not numbers: convert it first, {name}.dequantize()")
    if value.dtype not in _NUMBERS:
        how = f"write {name}.float()" if value.is_floating_point() else f"convert it first, {name}.to(...)"
        raise InputError(f"{name} holds {value.dtype}, with which torch does not calculate: {how}")
    if value.layout is torch.strided:
        return _signed(value, name)
    _check_dense(value.numel() * value.element_size(), name, "to_dense()")
    return value.to_dense()


def _signed(value: Tensor, name: str) -> Tensor:
    """Wide unsigned integers, with which torch hardly calculates, as int64."""
    if value.dtype not in _UNSIGNED:
        return value
    return shared(_for_torch(value.cpu().numpy(), name)).to(value.device)


def _dense_sparse(value: Any, name: str) -> NDArray[Any]:
    _check_dense(int(np.prod(value.shape)) * value.dtype.itemsize, name, "toarray()")
    return value.toarray()


def _check_dense(size: int, name: str, call: str) -> None:
    if size > _LARGEST_DENSE:
        raise InputError(
            f"{name} is sparse and would take {size / 2**30:.1f} GiB if it were dense: update a fitter in slices, "
            f"fitter.update({name}[i : i + 1000].{call}, z[i : i + 1000])"
        )


def _native(array: NDArray[Any]) -> NDArray[Any]:
    """Numbers in native byte order, and none wider than torch knows."""
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind in "fc" and size > (8 if kind == "f" else 16):
        array = array.astype(np.float64 if kind == "f" else np.complex128)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _for_torch(array: NDArray[Any], name: str) -> NDArray[Any]:
    """Unsigned integers as int64 (as float64 if only that holds them exactly), in C order."""
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = to_float(array, name) if _is_beyond(array) else array.astype(np.int64)
    return np.ascontiguousarray(array).reshape(array.shape)  # which makes one dimension of none


def _is_beyond(array: NDArray[Any]) -> bool:
    """Whether there is an unsigned integer that int64 does not hold."""
    return array.dtype == np.uint64 and bool(array.size) and int(array.max()) >= 2**63


def to_float(array: NDArray[Any], name: str) -> NDArray[np.float64]:
    """Numbers as float64; unsigned integers beyond int64 only if that is exact.

    Raises:
        InputError: If they are rounded.
    """
    wide = array.astype(np.float64)
    if _is_beyond(array):
        # 2**64 itself does not fit, and would wrap around to 0.
        fits = np.where(wide < 2.0**64, wide, 0.0).astype(np.uint64)
        if (fits != array).any():
            raise InputError(
                f"{name} holds unsigned integers above 2**63 that float64 does not hold exactly: subtract their "
                f"least value first, or write {name}.astype('float64') to round them"
            )
    return wide


def shared(array: NDArray[Any]) -> Tensor:
    """A tensor on the memory of an array, which may be read-only; on a copy where it is read backwards."""
    array = array.copy() if any(step < 0 for step in array.strides) else array
    if array.flags.writeable:
        return torch.from_numpy(array)
    with warnings.catch_warnings():
        # torch warns of read-only memory because it cannot protect it; efface never writes to its input.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


# -------------------------------------------------------------------------------------------------------- containers


def _gaps(value: Any) -> NDArray[np.bool_] | None:
    """Where a container of one column, or a masked array, says that values are missing; None if nowhere."""
    if isinstance(value, np.ma.MaskedArray):
        gaps = np.ma.getmaskarray(value)
        gaps = np.array(gaps.tolist(), bool).reshape(gaps.shape) if gaps.dtype.kind != "b" else gaps
    else:
        mark = next((getattr(value, m) for m in _FLOAT_MARKS if hasattr(value, m)), None)
        gaps = None if mark is None else np.asarray(mark(), dtype=bool)
    return gaps if gaps is not None and gaps.any() else None


def _without_gaps(value: Any, missing: NDArray[np.bool_], name: str) -> NDArray[Any]:
    """Values of their own dtype, with some present value in place of the missing ones (which numpy may turn to NaN)."""
    if isinstance(value, np.ma.MaskedArray):
        return np.ma.getdata(value)
    drop = next((getattr(value, d) for d in _DROPS if hasattr(value, d)), None)
    if drop is None or missing.ndim != 1:
        return _to_numpy(value, name)
    present = _to_numpy(drop(), name)
    values = np.full(missing.shape, present[0]) if len(present) else np.zeros(missing.shape)
    values = values.astype(present.dtype) if len(present) else values
    values[~missing] = present
    return values


def _to_numpy(value: Any, name: str) -> NDArray[Any]:
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return array_of_sequence(value, name)
    try:
        return np.ma.getdata(value) if isinstance(value, np.ma.MaskedArray) else np.asarray(value)
    except TypeError:
        # Arrays on a device that numpy cannot reach.
        if hasattr(value, "__dlpack__"):
            return torch.from_dlpack(value).cpu().numpy()
        raise


def array_of_sequence(value: Sequence[Any], name: str) -> NDArray[Any]:
    """Nested lists as an array, of objects where another dtype would change values."""
    if value and all(isinstance(part, Tensor) for part in value):
        parts = [_strided(part.detach(), f"{name}[{i}]").cpu() for i, part in enumerate(value)]
        value = [(part.float() if part.dtype == torch.bfloat16 else part).numpy() for part in parts]
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InputError(f"{name} has rows of different lengths, not numbers in a grid: {error}") from error
    # numpy writes numbers that stand beside text as text, and rounds integers beyond int64.
    lossy = array.dtype.kind in "US" or (array.dtype.kind == "f" and bool((np.abs(array) >= 2.0**53).any()))
    return np.array(value, dtype=object) if lossy else array


# ------------------------------------------------------------------------------------------------ what values are


def _plain(values: NDArray[Any], name: str) -> NDArray[Any]:
    """Numbers or text of a dtype that is known below.

    Raises:
        InputError: If they are dates or records.
    """
    match values.dtype.kind:
        case "b" | "i" | "u" | "f" | "c":
            return _native(values)
        case "U" | "O":
            return values
        case "S":
            return np.char.decode(values, "utf-8")
        case "M" | "m":
            raise InputError(_no_dates(values.dtype, name))
    raise InputError(f"{name} holds {values.dtype} values, not numbers: {_CONVERT.format(name=name)}")


def _no_dates(what: Any, name: str) -> str:
    return (
        f"{name} holds dates or times ({what}), which are no classes and not numbers: convert it first to what "
        f"you mean of them, e.g. "
        f"{_DATES.format(name=name)}"
    )


def _of_objects(
    array: NDArray[Any], name: str, *, declared: bool = False
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Objects as numbers or text, and where they are missing."""
    flat: list[Any] = array.ravel().tolist() if array.ndim else [array.item()]
    missing = np.fromiter(map(_is_gap, flat), bool, len(flat))
    if not missing.any():
        return _typed(flat, name, declared).reshape(array.shape), None
    typed = _typed([v for v, gap in zip(flat, missing, strict=True) if not gap], name, declared)
    values = np.full(len(flat), typed[0], typed.dtype) if len(typed) else np.zeros(len(flat))
    values[~missing] = typed
    return values.reshape(array.shape), missing.reshape(array.shape)


def _is_gap(value: Any) -> bool:
    if value is None or value is np.ma.masked or type(value).__name__ in _GAPS:
        return True
    return isinstance(value, (float, np.floating, Decimal)) and value != value


def _typed(values: list[Any], name: str, declared: bool) -> NDArray[Any]:
    """Objects without gaps as an array of one sort; declared categories of any other (intervals, say) by their text."""
    sorts = {t: _sort(t) for t in dict.fromkeys(map(type, values))}
    found = set(sorts.values())
    if found <= {"boolean", "integer", "real", "complex"}:
        return _of_numbers(values, found)
    if found <= {"text", "bytes"}:
        texts = [v.decode() if isinstance(v, bytes) else str(v) for v in values]
        return np.array(texts, dtype=object)
    if declared:
        return np.array([str(v) for v in values], dtype=object)
    if "date" in found:
        what = next(t.__name__ for t, sort in sorts.items() if sort == "date")
        raise InputError(_no_dates(what, name))
    if "other" in found:
        what = next(t.__name__ for t, sort in sorts.items() if sort == "other")
        raise InputError(
            f"{name} holds {what} objects, values that are no classes and not numbers: {_CONVERT.format(name=name)}; "
            f"{name}.astype(str) makes text"
        )
    examples = " and ".join(repr(next(v for v in values if isinstance(v, t))) for t in _one_each(sorts))
    raise InputError(
        f"{name} mixes text and numbers ({examples}), not numbers alone: {_CONVERT.format(name=name)}; if all of "
        f"them name classes, write {name}.astype(str)"
    )


def _one_each(sorts: dict[type, str]) -> Iterable[type]:
    return {sort in ("text", "bytes"): t for t, sort in sorts.items()}.values()


def _sort(kind: type) -> str:
    if issubclass(kind, (str, bytes)):
        return "text" if issubclass(kind, str) else "bytes"
    if issubclass(kind, (bool, np.bool_)):
        return "boolean"
    if issubclass(kind, (datetime.date, datetime.time, datetime.timedelta, np.datetime64, np.timedelta64)):
        return "date"
    if issubclass(kind, (numbers.Integral, np.integer)):
        return "integer"
    if issubclass(kind, (numbers.Real, Decimal)):
        return "real"
    return "complex" if issubclass(kind, numbers.Complex) else "other"


def _of_numbers(values: list[Any], found: set[str]) -> NDArray[Any]:
    if "complex" in found:
        return np.array([complex(v) for v in values], dtype=np.complex128)
    if "real" in found or not values:
        return np.array([float(v) for v in values], dtype=np.float64)
    if found == {"boolean"}:
        return np.array(values, dtype=bool)
    whole = [int(v) for v in values]
    least, most = min(whole), max(whole)
    if least >= -(2**63) and most < 2**63:
        return np.array(whole, dtype=np.int64)
    return np.array(whole, dtype=np.uint64 if least >= 0 and most < 2**64 else object)
