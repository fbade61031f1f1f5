"""What columns of arrow hold: which types are numbers, and their values as torch, where they can on the same memory.

One rule of types: floats keep theirs; integers up to 16 bits and booleans become float32; wider integers, decimals and
columns of nothing but missing values float64. Columns of an extension type (tensors of one shape, say) are read as what
they are stored as. Dictionaries are categories, whatever their values: labels, and no features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from efface._errors import InputError
from efface._lazy import require
from efface.streams.array import to_numpy
from efface.streams.source import Column

if TYPE_CHECKING:
    import pyarrow as pa

EXTRA = "files"
_SHORT = 16


def arrow(module: str = "pyarrow") -> Any:
    """The pyarrow module, or an error that says how to install it."""
    return require(module, extra=EXTRA)


# ------------------------------------------------------------------------------------------------------------- types


def storage_type(type_: pa.DataType) -> pa.DataType:
    """What values of an extension type are stored as; any other type itself."""
    return type_.storage_type if isinstance(type_, arrow().BaseExtensionType) else type_


def is_list(type_: pa.DataType) -> bool:
    """Whether each row holds a list."""
    types, type_ = arrow().types, storage_type(type_)
    return (
        types.is_list(type_)
        or types.is_large_list(type_)
        or types.is_fixed_size_list(type_)
        or types.is_list_view(type_)
        or types.is_large_list_view(type_)
    )


def is_text(type_: pa.DataType) -> bool:
    """Whether each row holds a string."""
    types = arrow().types
    return types.is_string(type_) or types.is_large_string(type_) or types.is_string_view(type_)


def is_number(type_: pa.DataType) -> bool:
    """Whether each row holds a number, or truth, or nothing."""
    types = arrow().types
    return (
        types.is_integer(type_)
        or types.is_floating(type_)
        or types.is_boolean(type_)
        or types.is_decimal(type_)
        or types.is_null(type_)
    )


def column_of(field: pa.Field) -> Column:
    """What a column holds; a column of nothing but missing values counts as numbers (that are missing)."""
    type_ = storage_type(field.type)
    if is_number(type_):
        return Column(field.name, "number", str(type_))
    if is_list(type_) and is_number(type_.value_type):
        return Column(field.name, "list", str(type_))
    return Column(field.name, "other", "text" if is_text(_value_type(type_)) else str(type_))


def _value_type(type_: pa.DataType) -> pa.DataType:
    return type_.value_type if arrow().types.is_dictionary(type_) else type_


def _floating_type(type_: pa.DataType) -> pa.DataType:
    types = arrow().types
    if types.is_floating(type_):
        return type_
    short = types.is_boolean(type_) or (types.is_integer(type_) and type_.bit_width <= _SHORT)
    return arrow().float32() if short else arrow().float64()


# ------------------------------------------------------------------------------------------------------------ values


def stored(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column as what it is stored as."""
    if not isinstance(values.type, arrow().BaseExtensionType):
        return values
    return arrow().chunked_array([part.storage for part in values.chunks], type=values.type.storage_type)


def decoded(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Values in the place of numbers of categories."""
    values = stored(values)
    return values.cast(_value_type(values.type))


def plain(values: Any) -> Any:
    """Decimals as float64; other numbers as they are."""
    return values.cast(arrow().float64()) if arrow().types.is_decimal(values.type) else values


def numbers_of(values: pa.Array) -> Tensor:
    """Numbers `(n,)` by the rule above, NaN for what is missing; on the memory of `values` if they are floats.

    That memory may be of a file: nobody writes to it.
    """
    type_ = _floating_type(values.type)
    floats = values if values.type == type_ else values.cast(type_, safe=False)
    if floats.null_count:
        floats = arrow().array(np.array(floats.to_numpy(zero_copy_only=False)))
    return torch.from_dlpack(floats)


def list_lengths(values: pa.ChunkedArray) -> NDArray[np.int64]:
    """How long the list of each row is, `(n,)`; -1 where there is none."""
    lengths = arrow("pyarrow.compute").list_value_length(values)
    return np.asarray(lengths.fill_null(-1).to_numpy(), np.int64)


def list_rows(values: pa.Array, width: int) -> Tensor:
    """Lists of `width` numbers as rows `(n, width)`, as `numbers_of`; NaN for a list that is missing."""
    there = values.drop_null() if values.null_count else values
    rows = numbers_of(there.flatten()).reshape(-1, width)
    if there is values:
        return rows
    every = torch.full((len(values), width), torch.nan, dtype=rows.dtype)
    every[torch.from_numpy(np.array(values.is_valid().to_numpy(zero_copy_only=False)))] = rows
    return every


def gaps_in(values: pa.ChunkedArray, *, nan: bool) -> NDArray[np.bool_]:
    """Which rows miss their value, or one in their list, `(n,)`.

    Args:
        values: The column.
        nan: Whether NaN is missing, too.
    """
    pc, parts = arrow("pyarrow.compute"), [np.zeros(0, bool)]
    for part in values.chunks:
        found = np.array(_is_gap(part, nan))
        if is_list(part.type):
            inside = _is_gap(part.flatten(), nan)
            if inside.any():
                found[np.unique(pc.list_parent_indices(part).to_numpy()[inside])] = True
        parts.append(found)
    return np.concatenate(parts)


def _is_gap(values: pa.Array, nan: bool) -> NDArray[np.bool_]:
    nan = nan and arrow().types.is_floating(values.type)
    if not nan and not values.null_count:
        return np.zeros(len(values), bool)
    return values.is_null(nan_is_null=nan).to_numpy(zero_copy_only=False)


def like(type_: pa.DataType, x: Tensor) -> pa.Array:
    """Rows `(n, k)` as an arrow array of the given type; where that is of integers, as floats."""
    inner = storage_type(type_)
    made = _lists(inner, x) if is_list(inner) else _cast(x.reshape(-1), inner)
    if inner is not type_ and made.type == inner:
        return arrow().ExtensionArray.from_storage(type_, made)
    return made


def _lists(type_: pa.DataType, x: Tensor) -> pa.Array:
    flat, types = _cast(x.reshape(-1), type_.value_type), arrow().types
    if types.is_fixed_size_list(type_):
        return arrow().FixedSizeListArray.from_arrays(flat, x.shape[1])
    offsets = np.arange(len(x) + 1, dtype=np.int64) * x.shape[1]
    if types.is_large_list(type_) or types.is_large_list_view(type_):
        return arrow().LargeListArray.from_arrays(offsets, flat)
    return arrow().ListArray.from_arrays(offsets.astype(np.int32), flat)


def _cast(x: Tensor, type_: pa.DataType) -> pa.Array:
    if x.is_complex():
        raise InputError("tables have no complex numbers: write -o to a .npy or .safetensors file")
    values = arrow().array(to_numpy(x, "table"))
    return values.cast(type_) if arrow().types.is_floating(type_) else values
