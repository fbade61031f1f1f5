"""From sensitive columns to what a fitter takes: class numbers, quantities, or several columns at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efface._errors import InputError
from efface._text import shown
from efface.core.labels import Column, Decided, Kind, check_kind, distinct, listed, unknown_class


@dataclass
class ColumnCode:
    """How one sensitive column becomes numbers.

    Attributes:
        name: Name of the column, None if it has none.
        classes: Its classes in order, None if it is continuous.
        edges: Inner edges of the bins of a continuous column that was cut into classes, else None.
        seen: `(k,)`: which classes had a row so far.
    """

    name: str | None
    classes: list[Any] | None = None
    edges: NDArray[np.float64] | None = None
    seen: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))

    @property
    def width(self) -> int:
        """Number of columns it makes: its classes, or one."""
        return 1 if self.classes is None else len(self.classes)

    def numbers(self, column: Column, *, learning: bool) -> NDArray[Any]:
        """`(n,)` class numbers (int64), or quantities (float64).

        Raises:
            InputError: If a class was never seen.
        """
        if self.classes is None:
            return column.numbers()
        if self.edges is not None:
            return np.searchsorted(self.edges, column.numbers(), side="right").astype(np.int64)
        known = np.ones(len(self.classes), bool) if learning else self.seen
        codes = column.codes(self.classes)
        codes[~known[codes]] = -1
        if (codes < 0).any():
            advice = "name all classes in the first call: partial_fit(..., classes=[...])" if learning else ""
            seen = [c for c, is_known in zip(self.classes, known, strict=True) if is_known]
            raise InputError(unknown_class(column, codes, seen, advice))
        return codes


class ConceptEncoder:
    """Learns the classes of sensitive columns and turns columns into the `z` of a fitter.

    Args:
        columns: The columns of the first batch.
        kind: `"auto"`, `"categorical"` or `"continuous"`; or a mapping from column name to one of these.
        classes: All classes: a sequence if there is one column; else a mapping from column name, or one
            sequence a column (None for continuous ones).
        n_bins: Cut continuous columns into that many classes at quantiles of the first batch.
        weight: `(n,)` frequencies of the rows, which move the quantiles.
        classes_only: Refuse continuous columns that are not cut into classes.
        joint: Number the combinations of classes, for methods that take one class a row; implies `classes_only`.

    >>> from efface.estimators.columns import read_columns
    >>> columns = read_columns(["f", "m", "m"], "sex")
    >>> encoder = ConceptEncoder(columns)
    >>> encoder.encode(columns, learning=True).tolist(), encoder.width
    ([0, 1, 1], 2)
    """

    def __init__(
        self,
        columns: Sequence[Column],
        *,
        kind: str | Mapping[str, str] = "auto",
        classes: Any = None,
        n_bins: int | None = None,
        weight: NDArray[np.float64] | None = None,
        classes_only: bool = False,
        joint: bool = False,
    ) -> None:
        named = _classes_by_column(columns, classes)
        columns = _decided(columns, kind)
        self.joint = joint
        self.codes = [_learn(c, n, n_bins, weight) for c, n in zip(columns, named, strict=True)]
        if classes_only or joint:
            self._refuse_quantities(columns)
        for column, code, given in zip(columns, self.codes, named, strict=True):
            if given is None and code.edges is None:
                column.check()
        # Combinations that may occur: all if classes were named, else those of the first batch.
        self.combinations = self._all_combinations() if classes is not None else None
        if joint and self.combinations is None:
            self.combinations = np.unique(self._flat(self._numbers(columns, learning=True)))

    def _refuse_quantities(self, columns: Sequence[Column]) -> None:
        bad = [c.label for c, code in zip(columns, self.codes, strict=True) if code.classes is None]
        if bad:
            raise InputError(
                f"{', '.join(bad)} holds quantities, and this method needs classes: pass n_bins=4 to cut it "
                "at quantiles, kind='categorical' if its values are class labels, or use LeaceTransformer"
            )

    @property
    def kind(self) -> Decided:
        """What z is to a fitter."""
        if len(self.codes) > 1 and not self.joint:
            return "columns"
        return "continuous" if self.codes[0].classes is None else "categorical"

    @property
    def width(self) -> int:
        """Width of z: number of classes, or of columns."""
        if self.joint and self.combinations is not None:
            return len(self.combinations)
        return sum(code.width for code in self.codes)

    def encode(self, columns: Sequence[Column], *, learning: bool = False) -> NDArray[Any]:
        """The columns as z: `(n,)` class numbers or quantities, or `(n, width)` columns if there are several.

        Args:
            columns: As many columns as were learnt, in the same order.
            learning: Classes that were named but not seen yet are welcome.

        Raises:
            InputError: If a class or a combination of classes is new.
        """
        numbers = self._numbers(columns, learning=learning)
        if self.joint:
            return self._numbered(self._flat(numbers), columns)
        if len(numbers) == 1:
            return numbers[0]
        return np.column_stack([_one_hot(n, code) for n, code in zip(numbers, self.codes, strict=True)])

    def remember(self, columns: Sequence[Column]) -> None:
        """Note which classes have been seen, once a batch has gone into the statistics."""
        for code, numbers in zip(self.codes, self._numbers(columns, learning=True), strict=True):
            if code.classes is not None:
                code.seen[numbers] = True

    def _numbers(self, columns: Sequence[Column], *, learning: bool) -> list[NDArray[Any]]:
        self._check_names(columns)
        return [code.numbers(c, learning=learning) for c, code in zip(columns, self.codes, strict=True)]

    def _check_names(self, columns: Sequence[Column]) -> None:
        mine, theirs = [c.name for c in self.codes], [c.name for c in columns]
        differ = any(a != b for a, b in zip(mine, theirs, strict=False) if a is not None and b is not None)
        if len(mine) != len(theirs) or differ:
            raise InputError(f"sensitive columns are {theirs}, expected {mine} as in the first fit")

    def _shape(self) -> tuple[int, ...]:
        return tuple(code.width for code in self.codes)

    def _flat(self, numbers: list[NDArray[Any]]) -> NDArray[np.int64]:
        return np.ravel_multi_index(tuple(numbers), self._shape()).astype(np.int64)

    def _all_combinations(self) -> NDArray[np.int64]:
        return np.arange(int(np.prod(self._shape())))

    def _numbered(self, flat: NDArray[np.int64], columns: Sequence[Column]) -> NDArray[np.int64]:
        known = self.combinations if self.combinations is not None else self._all_combinations()
        places = np.searchsorted(known, flat).clip(max=len(known) - 1)
        if (new := known[places] != flat).any():
            row = int(np.flatnonzero(new)[0])
            values = ", ".join(f"{c.label} = {c.values[row]!r}" for c in columns)
            raise InputError(
                f"{int(new.sum())} rows have a combination of classes never seen before, e.g. {values}: "
                "drop those rows, or fit on rows that have them"
            )
        return places.astype(np.int64)


def _one_hot(numbers: NDArray[Any], code: ColumnCode) -> NDArray[np.float64]:
    if code.classes is None:
        return numbers[:, None]
    return np.eye(code.width)[numbers]


def _decided(columns: Sequence[Column], kind: str | Mapping[str, str]) -> list[Column]:
    """The columns, with the user's word on their kinds."""
    if isinstance(kind, Mapping):
        if unknown := sorted(set(kind) - {c.name for c in columns}):
            raise InputError(f"kind names {listed(unknown)}, but the sensitive columns are {[c.name for c in columns]}")
        wanted: list[Kind] = [check_kind(kind.get(c.name, "auto") if c.name is not None else "auto") for c in columns]
    else:
        wanted = [check_kind(kind)] * len(columns)
    return [_as_wanted(c, w) for c, w in zip(columns, wanted, strict=True)]


def _as_wanted(column: Column, wanted: Kind) -> Column:
    return column if wanted == "auto" else replace(column, kind=wanted, wanted=wanted)


def _classes_by_column(columns: Sequence[Column], classes: Any) -> list[list[Any] | None]:
    if classes is None:
        return [None] * len(columns)
    if isinstance(classes, Mapping):
        return [_listed(classes.get(c.name)) for c in columns]
    if len(columns) == 1:
        return [_listed(classes)]
    if len(classes) != len(columns):
        raise InputError(f"classes has {len(classes)} entries for {len(columns)} columns: give one list a column")
    return [_listed(c) for c in classes]


def _listed(classes: Any) -> list[Any] | None:
    return None if classes is None else distinct(classes)


def _learn(column: Column, classes: list[Any] | None, n_bins: int | None, weight: Any) -> ColumnCode:
    if column.kind == "categorical":
        found = list(column.classes()) if classes is None else classes
        return ColumnCode(column.name, found, seen=np.zeros(len(found), dtype=bool))
    if n_bins is None:
        column.numbers()
        return ColumnCode(column.name)
    edges = _quantile_edges(column.numbers(), n_bins, weight)
    return ColumnCode(column.name, list(range(len(edges) + 1)), edges, np.zeros(len(edges) + 1, dtype=bool))


def _quantile_edges(values: NDArray[np.float64], n_bins: int, weight: Any = None) -> NDArray[np.float64]:
    """Inner edges of `n_bins` equally filled bins `[edge, next edge)`, without those that ties leave empty.

    >>> _quantile_edges(np.array([1.0, 2.0, 3.0, 4.0]), 2), _quantile_edges(np.zeros(3), 2)
    (array([3.]), array([], dtype=float64))
    """
    if isinstance(n_bins, bool) or not isinstance(n_bins, (int, np.integer)) or n_bins < 2:
        raise InputError(f"n_bins must be an integer of at least 2, got {shown(n_bins)}")
    order = np.argsort(values, kind="stable")
    # How much weight lies at or below each value; a row of weight 2 counts as two rows.
    below = np.cumsum(np.ones(len(values)) if weight is None else weight[order])
    wanted = below[-1] * np.arange(1, n_bins) / n_bins
    places = np.searchsorted(below, wanted, side="right")
    distinct = np.unique(values)
    # A bin needs a value below its edge: where ties pile up at the minimum, the next value starts the bin.
    return np.unique(np.maximum(values[order][places], distinct[min(1, len(distinct) - 1)]))[: len(distinct) - 1]
