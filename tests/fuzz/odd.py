"""Odd arguments: whatever people pass by mistake, and a few that are right."""

from __future__ import annotations

import datetime
import enum
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.fuzz.odder import ODDER

Make = Callable[[random.Random], Any]


class Colour(enum.Enum):
    """An enumeration."""

    RED = 1
    BLUE = "blue"


class Own(Tensor):
    """A subclass of tensors."""


class Liar:
    """Says that it has a shape."""

    shape = ("a", None)
    dtype = "float"

    def __len__(self) -> int:
        raise RuntimeError("no length")


class Endless:
    """Has items for ever."""

    def __getitem__(self, _index: Any) -> float:
        return 0.0

    def __len__(self) -> int:
        return 3


def _x(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    made = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return made.to(dtype) if dtype.is_floating_point else (made * 4).to(dtype)


def _sparse(layout: str) -> Any:
    import scipy.sparse

    return getattr(scipy.sparse, f"{layout}_matrix")(np.eye(6, 4))


def _filled(value: float, *shape: int) -> Tensor:
    return torch.full(shape, value)


def _frozen(array: Any) -> Any:
    array.flags.writeable = False
    return array


def _cyclic() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


def _frame(kind: str) -> Any:
    import pandas as pd
    import polars as pl

    data = {"a": [1.0, 2.0, None], "b": ["x", "y", "z"]}
    return {"pandas": pd.DataFrame, "polars": pl.DataFrame}[kind](data)


RIGHT: dict[str, Make] = {
    "x (6, 4)": lambda r: _x(6, 4),
    "x (2, 3, 4)": lambda r: _x(2, 3, 4),
    "z (6,)": lambda r: torch.arange(6) % 3,
    "z text": lambda r: np.array(["a", "b", "a", "b", "a", "b"]),
    "1": lambda r: 1,
    "4": lambda r: 4,
    "0.5": lambda r: 0.5,
    "'x'": lambda r: "x",
    "None": lambda r: None,
    "True": lambda r: True,
}
"""What is often right."""

NUMBERS: dict[str, Make] = {
    "-1": lambda r: -1,
    "0": lambda r: 0,
    "10**5": lambda r: 10**5,
    "2**40": lambda r: 2**40,
    "2**70": lambda r: 2**70,
    "-0.5": lambda r: -0.5,
    "nan": lambda r: float("nan"),
    "inf": lambda r: float("inf"),
    "1e300": lambda r: 1e300,
    "np.int64": lambda r: np.int64(2),
    "np.float32": lambda r: np.float32(0.5),
    "np.bool_": lambda r: np.bool_(True),
    "complex": lambda r: 1j,
    "tensor 0-d": lambda r: torch.tensor(2),
    "False": lambda r: False,
}

TENSORS: dict[str, Make] = {
    "empty": lambda r: torch.empty(0),
    "empty (0, 4)": lambda r: torch.empty(0, 4),
    "(6, 0)": lambda r: torch.empty(6, 0),
    "one row": lambda r: _x(1, 4),
    "other width": lambda r: _x(6, 5),
    "five dimensions": lambda r: _x(1, 2, 1, 2, 4),
    "CSR": lambda r: _x(6, 4).to_sparse_csr(),
    "CSC": lambda r: _x(6, 4).to_sparse_csc(),
    "COO": lambda r: _x(6, 4).to_sparse(),
    "BSR": lambda r: _x(6, 4).to_sparse_bsr((2, 2)),
    "hybrid": lambda r: _x(6, 4).to_sparse(1),
    "meta": lambda r: torch.empty(6, 4, device="meta"),
    "quantised": lambda r: torch.quantize_per_tensor(_x(6, 4), 0.1, 0, torch.qint8),
    "complex64": lambda r: torch.complex(_x(6, 4), _x(6, 4)),
    "conj": lambda r: torch.complex(_x(6, 4), _x(6, 4)).conj(),
    "neg": lambda r: torch.complex(_x(6, 4), _x(6, 4)).conj().imag,
    "nested": lambda r: torch.nested.nested_tensor([_x(2, 4), _x(3, 4)]),
    "jagged": lambda r: torch.nested.nested_tensor([_x(2, 4), _x(3, 4)], layout=torch.jagged),
    "subclass": lambda r: _x(6, 4).as_subclass(Own),
    "parameter": lambda r: torch.nn.Parameter(_x(6, 4)),
    "requires_grad": lambda r: _x(6, 4).requires_grad_(),
    "not contiguous": lambda r: _x(4, 6).mT,
    "expanded": lambda r: _x(1, 4).expand(6, 4),
    "float16": lambda r: _x(6, 4, dtype=torch.float16),
    "bfloat16": lambda r: _x(6, 4, dtype=torch.bfloat16),
    "float8": lambda r: _x(6, 4, dtype=torch.float8_e4m3fn),
    "float64": lambda r: _x(6, 4, dtype=torch.float64),
    "bool": lambda r: _x(6, 4) > 0,
    "int8": lambda r: _x(6, 4, dtype=torch.int8),
    "int64": lambda r: _x(6, 4, dtype=torch.int64),
    "uint16": lambda r: torch.ones(6, 4, dtype=torch.uint16),
    "uint64": lambda r: torch.ones(6, 4, dtype=torch.uint64),
    "nans": lambda r: _filled(float("nan"), 6, 4),
    "infs": lambda r: _filled(float("inf"), 6, 4),
    "constant": lambda r: torch.ones(6, 4),
    "subnormal": lambda r: _x(6, 4) * 1e-42,
    "huge": lambda r: _x(6, 4) * 1e37,
    "negative labels": lambda r: torch.tensor([0, 1, -1, 0, 1, -100]),
    "big labels": lambda r: torch.tensor([0, 1, 2**62, 0, 1, 2]),
    "mask": lambda r: torch.tensor([True, False, True, True, False, True]),
    "no mask": lambda r: torch.zeros(6, dtype=torch.bool),
    "inference": lambda r: torch.inference_mode()(lambda: _x(6, 4))(),
}

ARRAYS: dict[str, Make] = {
    "numpy": lambda r: np.ones((6, 4)),
    "read-only": lambda r: _frozen(np.eye(6, 4)),
    "big endian": lambda r: np.eye(6, 4, dtype=">f8"),
    "float16 array": lambda r: np.eye(6, 4, dtype=np.float16),
    "longdouble": lambda r: np.eye(6, 4, dtype=np.longdouble),
    "negative strides": lambda r: np.eye(6, 4)[::-1, ::-1],
    "records": lambda r: np.zeros(6, dtype=[("a", "f4"), ("b", "i4")]),
    "recarray": lambda r: np.zeros(6, dtype=[("a", "f4")]).view(np.recarray),
    "dates": lambda r: np.array(["2020-01-01"] * 6, dtype="datetime64[D]"),
    "times": lambda r: np.array([1] * 6, dtype="timedelta64[s]"),
    "objects": lambda r: np.array([object()] * 6),
    "mixed": lambda r: np.array([1, "a", None, 2.0, b"x", ()], dtype=object),
    "void": lambda r: np.zeros(6, dtype="V4"),
    "bytes array": lambda r: np.array([b"\xff", b"a"]),
    "masked": lambda r: np.ma.masked_array(np.eye(6, 4), np.eye(6, 4) > 0),
    "matrix": lambda r: np.asmatrix(np.eye(6, 4)),
    "text": lambda r: np.array(["a", "b", "c"]),
    "0-d array": lambda r: np.array(3.0),
    "0-d object": lambda r: np.array(None),
    "scipy csr": lambda r: _sparse("csr"),
    "scipy coo": lambda r: _sparse("coo"),
    "scipy dok": lambda r: _sparse("dok"),
    "pandas": lambda r: _frame("pandas"),
    "polars": lambda r: _frame("polars"),
}

OBJECTS: dict[str, Make] = {
    "text": lambda r: "a word",
    "empty text": lambda r: "",
    "surrogate": lambda r: "\ud800",
    "path in text": lambda r: "../../etc/passwd",
    "bytes": lambda r: b"\xff\x00",
    "bytearray": lambda r: bytearray(b"ab"),
    "memoryview": lambda r: memoryview(b"abcd"),
    "list": lambda r: [[1.0, 2.0], [3.0, 4.0]],
    "ragged": lambda r: [[1.0], [2.0, 3.0]],
    "ragged tensors": lambda r: [torch.ones(2), torch.ones(3)],
    "bfloat16s": lambda r: [torch.ones(2, dtype=torch.bfloat16)] * 2,
    "metas": lambda r: [torch.ones(2, device="meta")] * 2,
    "sparses": lambda r: [torch.ones(2, 2).to_sparse()] * 2,
    "empty list": lambda r: [],
    "list of lists": lambda r: [[]],
    "deep": lambda r: [[[[[[[[[[1]]]]]]]]]],
    "cyclic": lambda r: _cyclic(),
    "list of None": lambda r: [None, None],
    "list of text": lambda r: ["a", "b"],
    "list of dicts": lambda r: [{"a": 1}],
    "big ints": lambda r: [2**70, -(2**70)],
    "tuple": lambda r: (1, 2),
    "empty tuple": lambda r: (),
    "set": lambda r: {1, 2},
    "frozenset": lambda r: frozenset({1}),
    "dict": lambda r: {"a": 1},
    "empty dict": lambda r: {},
    "dict of tensors": lambda r: {"input_ids": torch.ones(2, 3, dtype=torch.long)},
    "generator": lambda r: (i for i in range(3)),
    "iterator": lambda r: iter([1, 2]),
    "range": lambda r: range(6),
    "slice": lambda r: slice(0, 2),
    "ellipsis": lambda r: ...,
    "object": lambda r: object(),
    "liar": lambda r: Liar(),
    "endless": lambda r: Endless(),
    "type": lambda r: int,
    "function": lambda r: len,
    "lambda": lambda r: lambda *args, **kwargs: None,
    "raises": lambda r: _raises,
    "module": lambda r: torch.nn.Linear(4, 4),
    "no weights": lambda r: torch.nn.Identity(),
    "Enum": lambda r: Colour.RED,
    "Path": lambda r: Path("/nonexistent/file"),
    "folder": lambda r: Path("/"),
    "date": lambda r: datetime.date(2020, 1, 1),
    "cpu": lambda r: "cpu",
    "cuda": lambda r: "cuda",
    "cuda:7": lambda r: torch.device("cuda", 7),
    "meta device": lambda r: "meta",
    "mps": lambda r: "mps",
    "no device": lambda r: "tpu:x",
    "dtype": lambda r: torch.float64,
    "int dtype": lambda r: torch.int32,
    "dtype as text": lambda r: "float32",
    "numpy dtype": lambda r: np.float32,
    "rng": lambda r: np.random.default_rng(0),
    "torch generator": lambda r: torch.Generator(),
}

ODD = {**NUMBERS, **TENSORS, **ARRAYS, **OBJECTS, **ODDER}

WRAPPED: dict[str, Callable[[Any], Any]] = {
    "[{}]": lambda value: [value],
    "[{0}, {0}]": lambda value: [value, value],
    "({},)": lambda value: (value,),
    "{{'a': {}}}": lambda value: {"a": value},
    "iter([{}])": lambda value: iter([value]),
}


def _raises(*_args: Any, **_kwargs: Any) -> Any:
    raise ZeroDivisionError("the caller's own function failed")


def value(rng: random.Random, *, odder: bool = True) -> tuple[str, Any]:
    """An argument: odd more often than right unless that is not wanted, and now and then in a container."""
    pool = ODD if odder and rng.random() < 0.65 else RIGHT
    name = rng.choice(sorted(pool))
    made = pool[name](rng)
    if odder and rng.random() < 0.1:
        container = rng.choice(sorted(WRAPPED))
        return container.format(name), WRAPPED[container](made)
    return name, made
