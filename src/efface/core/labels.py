"""Labels to columns: what kind of concept labels are, decided once, by one rule at every door, and said.

Integers, booleans, text and declared categories are classes; floats and decimals are quantities; a user's `kind`
overrides. Missing labels are refused. What was decided is a value (`Column` of a table, `Labels` of rows on any
device) that the next room takes as it is, so that nothing is decided or warned of twice.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from efface._errors import EffaceWarning, InputError
from efface._text import shown
from efface.core.arrays import read_array, refuse_rows, shared, to_float
from efface.core.switch import switched_on

Kind = Literal["auto", "categorical", "continuous"]
Decided = Literal["categorical", "continuous", "columns"]
KINDS: tuple[Kind, ...] = ("auto", "categorical", "continuous")

_LIKE_CLASSES = 20
MANY_CLASSES = 20
_FEW_CLASSES = 32
"""Up to here numpy finds classes faster than a dictionary does."""

_SHOWN = 5

COMPLETE = "drop or impute those rows first, or make 'missing' a category of its own"
_settled: ContextVar[bool] = ContextVar("settled", default=False)


# -------------------------------------------------------------------------------------------------- what labels are


def check_kind(kind: Any) -> Kind:
    """`kind` if it is a word that there is."""
    if not isinstance(kind, str) or kind not in KINDS:
        raise InputError(f"unknown kind {shown(kind)}: choose one of {', '.join(KINDS)}")
    return kind


def decide(values: NDArray[Any] | Tensor, kind: Kind = "auto", *, declared: bool = False) -> Decided:
    """Whether labels, one a row, are classes or quantities.

    Args:
        values: Numbers or text.
        kind: `"auto"`, or the user's word.
        declared: Whether they were declared to be categories.

    >>> decide(torch.tensor([0, 1])), decide(np.array([0.5, 1.0])), decide(np.array(["a"]))
    ('categorical', 'continuous', 'categorical')
    """
    match check_kind(kind):
        case "auto":
            return "continuous" if is_float(values) and not declared else "categorical"
        case said:
            return said


def is_float(values: NDArray[Any] | Tensor) -> bool:
    """Whether values are real or complex numbers with a fraction."""
    if isinstance(values, Tensor):
        return values.is_floating_point() or values.is_complex()
    return values.dtype.kind in "fc"


# ------------------------------------------------------------------------------------------------- a column of a table


@dataclass(frozen=True, eq=False)
class Column:
    """Labels of rows as they were read, on the host.

    Attributes:
        name: Its name in the table or series, None if it has none.
        label: What to call it in messages, e.g. `sensitive_features['sex']`.
        values: `(n, ...)` numbers or text, none missing.
        kind: What it was decided to be.
        wanted: The user's word for it, `"auto"` if there was none.
    """

    name: str | None
    label: str
    values: NDArray[Any]
    kind: Decided
    wanted: Kind = "auto"

    def numbers(self) -> NDArray[np.float64]:
        """The values as floats.

        Raises:
            InputError: If they are no numbers.
        """
        try:
            return to_float(self.values, self.label)
        except InputError:
            raise
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{self.label} is continuous, but holds no numbers: it holds text, not numbers ({error}); leave out "
                "kind='continuous' (--kind continuous), or convert it first"
            ) from error

    def classes(self) -> tuple[Any, ...]:
        """The distinct values in order, as plain Python values."""
        return tuple(distinct(self.values))

    def codes(self, classes: Sequence[Any]) -> NDArray[np.int64]:
        """The number of each value in `classes`, -1 where it is none of them.

        >>> read_column(["b", "a", "c"], "z").codes(["a", "b"]).tolist()
        [1, 0, -1]
        """
        known = np.array(classes if len(classes) <= _FEW_CLASSES else ())
        if len(known) and known.dtype.kind == self.values.dtype.kind and known.dtype.kind in "iU":
            order = np.argsort(known)
            found = order[np.searchsorted(known, self.values, sorter=order).clip(max=len(known) - 1)]
            return np.where(known[found] == self.values, found, -1)
        table = {value: number for number, value in enumerate(classes)}
        found = (table.get(value, -1) for value in self.values.ravel().tolist())
        return np.fromiter(found, np.int64, self.values.size).reshape(self.values.shape)

    def rows(self, chosen: Any) -> Column:
        """The column of some rows."""
        return Column(self.name, self.label, self.values[chosen], self.kind, self.wanted)

    def check(self) -> Column:
        """The column itself, if it is what it looks like; what may be a mistake is warned of, once.

        Raises:
            InputError: If there are nearly as many classes as rows, and nobody said that it is categorical.
        """
        tally = Tally(self.label, self.wanted)
        tally.add(self.values, self.kind)
        tally.check()
        return self


def read_column(value: Any, label: str, *, name: str | None = None, kind: Kind = "auto", index: Any = 0) -> Column:
    """Labels of rows, complete and decided.

    Args:
        value: `(n, ...)`: any array-like, see `read_array`.
        label: What to call it in messages.
        name: Its name in a table.
        kind: `"auto"`, or the user's word.
        index: Number of the first row in the whole file, or of each row.

    Raises:
        InputError: If a label is missing or infinite, or neither a class nor a real number.

    >>> read_column(["f", "m", "f"], "sex").classes(), read_column([0.5, 1.5], "age").kind
    (('f', 'm'), 'continuous')
    >>> read_column(["f", None], "sex")
    Traceback (most recent call last):
    ...
    efface._errors.InputError: sex is missing, NaN or infinite (inf) in 1 of 2 rows (first rows: 1): drop or impute \
those rows first, or make 'missing' a category of its own
    """
    read = read_array(value, label)
    values = on_host(read.values)
    check_complete(values, label, read.missing, index)
    if values.dtype.kind == "c":
        raise InputError(f"{label} holds complex numbers, expected classes (text, integers, booleans) or real numbers")
    return Column(name, label, values, decide(values, kind, declared=read.declared), kind)


def read_groups(value: Any, name: str = "groups") -> NDArray[Any]:
    """Which group each row is in: numbers, text or dates, on the host, none missing.

    Args:
        value: `(n,)`: any array-like, see `read_array`.
        name: What to call it in messages.

    Raises:
        InputError: If one is missing, or is nothing of that, or it is a single value.

    >>> read_groups(["b", "a", "b"]).tolist()
    ['b', 'a', 'b']
    """
    if str(getattr(getattr(value, "dtype", None), "kind", "")) in ("M", "m"):
        values = np.asarray(value, dtype=None if value.dtype.kind == "m" else "datetime64[ns]")
        missing = np.isnat(values)
    else:
        read = read_array(value, name)
        values, missing = on_host(read.values), read.missing
    if values.ndim == 0:
        raise InputError(f"{name} is a single value, expected (n,): give one for each row")
    check_complete(values, name, missing)
    return values


def check_complete(values: Any, label: str, missing: Any = None, index: Any = 0) -> None:
    """Refuse labels that are missing, NaN or infinite.

    Args:
        values: `(n, ...)` numbers or text.
        label: What to call them.
        missing: `(n, ...)` booleans: where the container says so.
        index: Number of the first row, or of each row.
    """
    gaps: Any = missing if missing is not None else False
    if is_float(values):
        finite = torch.isfinite(values) if isinstance(values, Tensor) else np.isfinite(values)
        gaps = ~finite if missing is None else ~finite | missing
    if gaps is not False:
        refuse_rows(gaps, f"{label} is missing, NaN or infinite (inf)", COMPLETE, index)


def distinct(values: Any) -> list[Any]:
    """The distinct values in order, as plain Python values.

    >>> distinct(np.array(["b", "a", "b"])), distinct([2**64, 1])
    (['a', 'b'], [1, 18446744073709551616])
    """
    array = values if isinstance(values, np.ndarray) else on_host(read_array(values, "classes").values)
    return sorted(set(array.ravel().tolist()))


def listed(values: Sequence[Any], count: int = _SHOWN) -> str:
    """The first few values, for a message.

    >>> listed(["a", "b", "c"], 2)
    "'a', 'b', ..."
    """
    return ", ".join(map(repr, values[:count])) + (", ..." if len(values) > count else "")


def on_host(values: NDArray[Any] | Tensor) -> NDArray[Any]:
    """Values as an array of numpy."""
    if not isinstance(values, Tensor):
        return values
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy(force=True)


# -------------------------------------------------------------------------------------------- what may be a mistake


@contextmanager
def settled() -> Iterator[None]:
    """Within, labels were decided and judged at an outer door: nothing is said of them again."""
    with switched_on(_settled):
        yield


class Tally:
    """Counts the labels of a stream, to say at its end what may be a mistake.

    Args:
        name: What to call the labels.
        kind: The user's word; what he said is not doubted.
    """

    def __init__(self, name: str, kind: Kind = "auto") -> None:
        self._name, self._kind = name, check_kind(kind)
        self.n, self._integers = 0, False
        self.classes: set[Any] = set()
        self._quantities: set[float] | None = set()

    def add(self, values: NDArray[Any] | Tensor, decided: Decided) -> None:
        """Take in labels that were decided to be classes, or quantities."""
        self.n += len(values)
        if decided == "categorical":
            flat = values.unique() if isinstance(values, Tensor) else values.ravel()
            self.classes |= set(flat.tolist())
            self._integers = _is_integer(values)
        elif decided == "continuous" and is_float(values) and self._quantities is not None:
            found = _few_whole(values)
            known = None if found is None else self._quantities | found
            self._quantities = known if known is not None and len(known) <= _LIKE_CLASSES else None

    def merge(self, other: Tally) -> None:
        """Take in what another one has counted of the same labels."""
        self.n, self.classes, self._integers = (
            self.n + other.n,
            self.classes | other.classes,
            self._integers or other._integers,
        )
        both = None if None in (self._quantities, other._quantities) else self._quantities | other._quantities  # type: ignore[operator]
        self._quantities = both if both is not None and len(both) <= _LIKE_CLASSES else None

    def check(self) -> None:
        """Warn of quantities that look like classes, and of classes that look like quantities.

        Raises:
            InputError: If there are nearly as many classes as rows: erasing them would take nearly everything.
        """
        if self._kind != "auto" or _settled.get():
            return
        self._check_flat()
        wholes = len(self._quantities or ())
        if 2 < wholes < self.n:
            _warn(
                f"{self._name} holds floats of {wholes} distinct whole values and is taken for a quantity: pass "
                "integers or kind='categorical' (--kind categorical) if they are classes, kind='continuous' if not"
            )
        if self._integers and len(self.classes) > MANY_CLASSES:
            _warn(
                f"{self._name} holds {len(self.classes)} different integers, each taken for a class: say "
                "kind='continuous' (--kind continuous) if it is a quantity, kind='categorical' if not"
            )

    def _check_flat(self) -> None:
        if len(self.classes) > MANY_CLASSES and 2 * len(self.classes) > self.n:
            raise InputError(
                f"{self._name} has {len(self.classes)} classes in {self.n} rows, and to erase so many takes nearly all "
                "there is: say kind='continuous' (--kind continuous) if it is a quantity, merge classes, or say "
                "kind='categorical' (--kind categorical) if that is what you want"
            )


def _warn(text: str) -> None:
    warnings.warn(text, EffaceWarning, stacklevel=4)


def _is_integer(values: NDArray[Any] | Tensor) -> bool:
    if isinstance(values, Tensor):
        return not is_float(values) and values.dtype != torch.bool
    return values.dtype.kind in "iu"


def _few_whole(values: NDArray[Any] | Tensor) -> set[float] | None:
    """The distinct values, if they are whole and few."""
    z = values if isinstance(values, Tensor) else shared(values)
    if z.is_complex() or bool((z != z.round()).any()):
        return None
    found = z.unique()
    return set(found.tolist()) if len(found) <= _LIKE_CLASSES else None


def unknown_class(column: Column, codes: NDArray[np.int64], known: Sequence[Any], advice: str = "") -> str:
    """The text that labels are not among the classes, with the values and how many rows have them."""
    new = codes < 0
    found, advice = listed(distinct(column.values[new])), advice or "drop those rows, or fit on rows that have them"
    return f"{column.label} has {found} in {int(new.sum())} rows, but only {listed(known)} were seen: {advice}"
