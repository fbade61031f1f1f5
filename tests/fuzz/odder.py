"""More odd arguments: containers of other libraries, tensors of torch's corners, objects that fail when looked at."""

from __future__ import annotations

import array
import collections
import datetime
import decimal
import enum
import fractions
import io
import random
import types
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import efface
from efface.audit import Audit, Figure, Finding, Task

Make = Callable[[random.Random], Any]
_FAILED = "the caller's own object failed"


class Level(enum.IntEnum):
    """Integers with names."""

    LOW = 1
    HIGH = 2


class Text(str):
    """A string of a class of its own."""


class Pair(NamedTuple):
    """A tuple with names."""

    a: Any
    b: Any


class Unshowable:
    """Fails when it is shown, which no message has to do: that is a fault."""

    def __repr__(self) -> str:
        raise RuntimeError("nothing to show")


class Incomparable:
    """Fails when it is compared, hashed or asked whether it is true."""

    def __eq__(self, _other: object) -> bool:
        raise RuntimeError(_FAILED)

    def __bool__(self) -> bool:
        raise RuntimeError(_FAILED)

    def __hash__(self) -> int:
        raise RuntimeError(_FAILED)


class Unreadable:
    """Says that it is an array, and fails."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise RuntimeError(_FAILED)


class Closed:
    """Fails at every attribute."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"{_FAILED}: {name}")


def _x(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    made = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return made.to(dtype)


def _fake() -> Tensor:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode() as mode:
        return mode.from_tensor(_x(6, 4))


def _pandas(make: Callable[[Any], Any]) -> Make:
    def made(_: random.Random) -> Any:
        import pandas as pd

        return make(pd)

    return made


def _polars(make: Callable[[Any], Any]) -> Make:
    def made(_: random.Random) -> Any:
        import polars as pl

        return make(pl)

    return made


def _arrow(make: Callable[[Any], Any]) -> Make:
    def made(_: random.Random) -> Any:
        import pyarrow as pa

        return make(pa)

    return made


def _sparse_array(_: random.Random) -> Any:
    import scipy.sparse

    return scipy.sparse.csc_array(np.eye(6, 4))


def _arrays_of(*parts: Any) -> Any:
    made = np.empty(len(parts), dtype=object)
    made[:] = parts
    return made


def _x_z() -> tuple[Tensor, Tensor]:
    return _x(6, 4), torch.arange(6) % 3


NUMBERS: dict[str, Make] = {
    "-inf": lambda r: float("-inf"),
    "-2**70": lambda r: -(2**70),
    "10**12": lambda r: 10**12,
    "1e-320": lambda r: 1e-320,
    "Decimal": lambda r: decimal.Decimal("0.5"),
    "Decimal NaN": lambda r: decimal.Decimal("nan"),
    "Fraction": lambda r: fractions.Fraction(1, 3),
    "IntEnum": lambda r: Level.HIGH,
    "np.uint8": lambda r: np.uint8(3),
    "np.nan": lambda r: np.float64("nan"),
    "np.longdouble": lambda r: np.longdouble(0.5),
    "np.complex64": lambda r: np.complex64(1j),
    "np.str_": lambda r: np.str_("a"),
    "np.datetime64": lambda r: np.datetime64("2020-01-01"),
    "NaT": lambda r: np.datetime64("NaT"),
    "0-d float tensor": lambda r: torch.tensor(0.5),
    "0-d bool tensor": lambda r: torch.tensor(True),
    "0-d nan": lambda r: torch.tensor(float("nan")),
    "0-d meta": lambda r: torch.empty((), device="meta"),
    "tensor of one": lambda r: torch.tensor([2]),
    "'3'": lambda r: "3",
}

TENSORS: dict[str, Make] = {
    "fake": lambda r: _fake(),
    "mkldnn": lambda r: _x(6, 4).to_mkldnn(),
    "quantised by channel": lambda r: torch.quantize_per_channel(
        _x(6, 4), torch.ones(4), torch.zeros(4), 1, torch.qint8
    ),
    "bits": lambda r: torch.zeros(6, 4, dtype=torch.uint8).view(torch.bits8),
    "zero tensor": lambda r: torch._efficientzerotensor((6, 4)),  # type: ignore[attr-defined]
    "uint32": lambda r: torch.ones(6, 4, dtype=torch.uint32),
    "complex32": lambda r: torch.ones(6, 4, dtype=torch.complex32),
    "sparse with grad": lambda r: _x(6, 4).to_sparse().requires_grad_(),
    "nested with grad": lambda r: torch.nested.nested_tensor([_x(2, 4), _x(3, 4)], requires_grad=True),
    "not a leaf": lambda r: _x(6, 4).requires_grad_() * 2,
    "meta with grad": lambda r: torch.empty(6, 4, device="meta", requires_grad=True),
    "vector": lambda r: _x(4),
    "column": lambda r: _x(6, 1),
    "picture": lambda r: torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)),
    "mask (6, 4)": lambda r: _x(6, 4) > 0,
    "mask of other length": lambda r: torch.ones(5, dtype=torch.bool),
    "empty labels": lambda r: torch.empty(0, dtype=torch.long),
    "empty 3-d": lambda r: torch.empty(2, 0, 4),
    "one label": lambda r: torch.zeros(6, dtype=torch.long),
    "float labels": lambda r: torch.tensor([0.0, 1.0, 2.0, 0.0, 1.0, 2.0]),
    "int8 labels": lambda r: torch.tensor([0, 1, 2, 0, 1, 2], dtype=torch.int8),
    "nan labels": lambda r: torch.tensor([0.0, 1.0, float("nan"), 0.0, 1.0, 2.0]),
}

ARRAYS: dict[str, Make] = {
    "Series": _pandas(lambda pd: pd.Series([0.5, 1.5, None, 2.0, 1.0, 0.0], index=list("abcdef"))),
    "Index": _pandas(lambda pd: pd.Index(list("ababab"))),
    "MultiIndex": _pandas(lambda pd: pd.MultiIndex.from_tuples([("a", 1), ("b", 2)])),
    "RangeIndex": _pandas(lambda pd: pd.RangeIndex(6)),
    "Categorical": _pandas(lambda pd: pd.Categorical(["a", "b", None, "a", "b", "a"])),
    "Int64": _pandas(lambda pd: pd.array([0, 1, None, 0, 1, 2], dtype="Int64")),
    "string Series": _pandas(lambda pd: pd.Series(["a", "b", None, "a", "b", "a"], dtype="string")),
    "time zone": _pandas(lambda pd: pd.date_range("2020", periods=6, tz="UTC")),
    "Period": _pandas(lambda pd: pd.period_range("2020", periods=6, freq="M")),
    "Interval": _pandas(lambda pd: pd.interval_range(0, 6)),
    "Timestamp": _pandas(lambda pd: pd.Timestamp("2020")),
    "NA": _pandas(lambda pd: pd.NA),
    "pandas sparse": _pandas(lambda pd: pd.Series(pd.arrays.SparseArray([0.0, 1.0, 0.0]))),
    "same columns": _pandas(lambda pd: pd.DataFrame(np.eye(6, 4), columns=list("aabb"))),
    "mixed columns": _pandas(lambda pd: pd.DataFrame({"a": [1, 2], 3: ["x", None], (1, 2): [b"x", 0.5]})),
    "no columns": _pandas(lambda pd: pd.DataFrame(index=range(6))),
    "no rows": _pandas(lambda pd: pd.DataFrame({"a": []})),
    "groupby": _pandas(lambda pd: pd.DataFrame({"a": [1, 2], "b": [1.0, 2.0]}).groupby("a")),
    "polars Series": _polars(lambda pl: pl.Series([1.0, None, 2.0, 0.5, 1.0, 0.0])),
    "polars text": _polars(lambda pl: pl.Series(list("ababab"))),
    "polars lists": _polars(lambda pl: pl.Series([[1.0], [2.0, 3.0]])),
    "LazyFrame": _polars(lambda pl: pl.LazyFrame({"a": [1.0, 2.0]})),
    "arrow array": _arrow(lambda pa: pa.array([0.5, None, 1.0])),
    "arrow table": _arrow(lambda pa: pa.table({"a": [1.0, 2.0], "b": ["x", "y"]})),
    "chunked": _arrow(lambda pa: pa.chunked_array([[1.0], [2.0]])),
    "csc_array": _sparse_array,
    "char array": lambda r: np.char.array(["a", "b"]),  # type: ignore[attr-defined]
    "variable strings": lambda r: np.array(["a", "bb"], dtype=np.dtypes.StringDType()),
    "arrays in arrays": lambda r: _arrays_of(np.ones(2), np.ones(3)),
    "lists in arrays": lambda r: _arrays_of([1], [2, 3]),
    "dicts in arrays": lambda r: _arrays_of({"a": 1}, {}),
    "tensors in arrays": lambda r: _arrays_of(torch.ones(2), torch.ones(2)),
    "empty array": lambda r: np.empty((0, 4)),
    "(6, 0) array": lambda r: np.empty((6, 0)),
    "empty text array": lambda r: np.empty(0, dtype="U1"),
    "bool array": lambda r: np.arange(6) % 2 == 0,
    "broadcast": lambda r: np.broadcast_to(np.ones(4), (6, 4)),
    "complex array": lambda r: np.ones((6, 4), dtype=complex),
    "uint64 array": lambda r: np.full((6, 4), 2**64 - 1, dtype=np.uint64),
    "record": lambda r: np.zeros(1, dtype=[("a", "f4")])[0],
    "array.array": lambda r: array.array("d", [1.0, 2.0]),
}

OBJECTS: dict[str, Make] = {
    "datetime": lambda r: datetime.datetime(2020, 1, 1),
    "timedelta": lambda r: datetime.timedelta(1),
    "dates in a list": lambda r: [datetime.date(2020, 1, 1)] * 6,
    "uuid": lambda r: uuid.UUID(int=1),
    "long text": lambda r: "a" * 10**5,
    "newlines": lambda r: "a\nb\x00\x1b[31m",
    "text of a class": lambda r: Text("a"),
    "list of bytes": lambda r: [b"\xff", b"a"],
    "list of numbers and text": lambda r: [1, "a"],
    "list of bools": lambda r: [True, False, True, True, False, True],
    "list of nan": lambda r: [float("nan")] * 6,
    "list of arrays": lambda r: [np.ones(4), np.ones((2, 4))],
    "list of modules": lambda r: [torch.nn.Identity()],
    "list of surrogates": lambda r: ["\ud800"],
    "texts": lambda r: ["a", "b", "a", "b", "a", "b"],
    "doubled texts": lambda r: ["a", "a"],
    "namedtuple": lambda r: Pair(1, "b"),
    "deque": lambda r: collections.deque([1, 2]),
    "OrderedDict": lambda r: collections.OrderedDict(a=torch.ones(2)),
    "defaultdict": lambda r: collections.defaultdict(list),
    "UserDict": lambda r: collections.UserDict(a=1),
    "proxy": lambda r: types.MappingProxyType({"a": 1}),
    "namespace": lambda r: types.SimpleNamespace(shape=(6, 4), dtype=torch.float32),
    "keys of numbers": lambda r: {1: 2, None: 3},
    "keys of tuples": lambda r: {(1, 2): 3},
    "dict of lists": lambda r: {"a": [1.0, 2.0], "b": ["x", "y"]},
    "dict of None": lambda r: {"a": None},
    "nested dict": lambda r: {"a": {"b": {"c": 1}}},
    "keys": lambda r: {"a": 1}.keys(),
    "zip": lambda r: zip([1], [2], strict=True),
    "pairs": lambda r: iter([(_x(6, 4), torch.arange(6) % 3)] * 2),
    "bad pairs": lambda r: iter([(1, 2, 3)]),
    "None pairs": lambda r: iter([None]),
    "failing generator": lambda r: (1 / int(_FAILED) for _ in range(2)),
    "unshowable": lambda r: Unshowable(),
    "incomparable": lambda r: Incomparable(),
    "unreadable": lambda r: Unreadable(),
    "closed": lambda r: Closed(),
    "exception": lambda r: ValueError("x"),
    "exception type": lambda r: KeyError,
    "partial": lambda r: partial(torch.add, 1),
    "returns None": lambda r: _none,
    "returns text": lambda r: lambda *args, **kwargs: "x",
    "returns a wrong shape": lambda r: lambda *args, **kwargs: torch.ones(1),
    "takes nothing": lambda r: lambda: None,
    "module type": lambda r: torch.nn.Linear,
    "empty module": lambda r: torch.nn.Sequential(),
    "module of text": lambda r: torch.nn.Embedding(4, 3),
    "meta module": lambda r: torch.nn.Linear(4, 4, device="meta"),
    "StringIO": lambda r: io.StringIO("x"),
    "BytesIO": lambda r: io.BytesIO(b"x"),
    "bytes path": lambda r: b"/tmp/x",
    "path with zero": lambda r: "a\x00b",
    "'.'": lambda r: ".",
    "no extension": lambda r: "file",
    "x.csv": lambda r: "nowhere/x.csv",
    "cpu:99": lambda r: "cpu:99",
    "meta torch.device": lambda r: torch.device("meta"),
    "bool dtype": lambda r: torch.bool,
    "complex dtype": lambda r: torch.complex64,
    "half": lambda r: torch.float16,
    "dtype with dot": lambda r: "torch.float32",
    "np.dtype": lambda r: np.dtype("float32"),
    "Size": lambda r: torch.Size([6, 4]),
    "RandomState": lambda r: np.random.RandomState(0),
    "Concept": lambda r: efface.Concept("circle"),
    "Concepts": lambda r: [efface.Concept("circle"), efface.Concept("circle")],
    "Site": lambda r: efface.Site("net.0"),
    "Sites": lambda r: [efface.Site("net.0"), efface.Site("nowhere.1", "input")],
    "eraser": lambda r: efface.LeaceEraser.fit(*_x_z()),
    "fitter": lambda r: efface.LeaceFitter.fit(*_x_z()),
    "Moments": lambda r: efface.Moments(4, 3),
    "Audit": lambda r: Audit("title"),
    "Finding": lambda r: Finding("accuracy", 0.5),
    "Figure": lambda r: Figure("title"),
    "Task": lambda r: Task([0, 1, 0, 1, 0, 1]),
}


def _none(*_args: Any, **_kwargs: Any) -> None:
    return None


ODDER = {**NUMBERS, **TENSORS, **ARRAYS, **OBJECTS}
