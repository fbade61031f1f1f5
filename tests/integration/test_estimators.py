"""The scikit-learn estimators: conformance, where the concept comes from, tables, streams, bad input."""

from __future__ import annotations

import datetime
import decimal
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
import sklearn
import torch
from fairlearn.preprocessing import CorrelationRemover
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import efface.estimators
from efface._errors import EffaceWarning, InputError, NothingErasedWarning
from efface.erasers.leace import LeaceEraser
from efface.estimators import (
    LeaceTransformer,
    MeanDifferenceTransformer,
    OracleTransformer,
    OrthogonalTransformer,
    QuadraticTransformer,
)

ALL = [
    LeaceTransformer,
    OrthogonalTransformer,
    MeanDifferenceTransformer,
    OracleTransformer,
    QuadraticTransformer,
]
# scikit-learn has no annotations, and pyright infers too narrow ones from its defaults.
_cross_validate: Any = cross_validate
_clone: Any = clone
LABELLED = (OracleTransformer, QuadraticTransformer)
EVERY = pytest.mark.parametrize("cls", ALL, ids=lambda c: c.__name__)


# Methods that need labels to transform get them from a column of X, since the checks call transform(X). Some checks
# fit on a grid of orthogonal columns, where nothing is there to erase, or on constant ones: that warns, rightly.
@pytest.mark.filterwarnings("ignore::efface._errors.EffaceWarning")
@parametrize_with_checks(
    [
        LeaceTransformer(concept="y"),
        LeaceTransformer(sensitive_columns=[0]),
        LeaceTransformer(sensitive_columns=[0], keep_sensitive=True, shrinkage=False),
        OrthogonalTransformer(concept="y"),
        MeanDifferenceTransformer(concept="y", n_bins=4),
        OracleTransformer(sensitive_columns=[0]),
        QuadraticTransformer(sensitive_columns=[0], n_bins=2),
    ]
)
def test_conformance(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


def _data(n: int = 300, d: int = 5, dtype: Any = np.float64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features that code three groups, the group of each row, and a target that depends on both."""
    rng = np.random.default_rng(0)
    group = np.array(["a", "b", "c"])[rng.integers(0, 3, n)]
    means = {"a": 0.0, "b": 1.0, "c": -2.0}
    X = rng.normal(size=(n, d)) + np.array([means[g] for g in group])[:, None] * rng.normal(size=d)
    return X.astype(dtype), group, X[:, 0] + 0.1 * rng.normal(size=n)


def _one_hot(*columns: Any) -> np.ndarray:
    return np.column_stack([pd.get_dummies(c).to_numpy(float) for c in columns])


def _cross_covariance(X: Any, Z: np.ndarray) -> float:
    """Largest absolute correlation of a column of X with a column of Z."""
    X, Z = (np.asarray(a, float) - np.asarray(a, float).mean(0) for a in (X, Z))
    return float(np.abs(X.T @ Z).max() / len(X) / max(X.std(0).max(), 1e-12))


def _routed(cls: type, X: Any, s: Any, **options: Any) -> Any:
    return cls(**options).fit_transform(X, sensitive_features=s)


# ------------------------------------------------------------------------------ what is erased, and how


@EVERY
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_linear_trace_is_left(cls: type, dtype: Any) -> None:
    X, group, _ = _data(dtype=dtype)
    before = X.copy()
    X_ = _routed(cls, X, group)
    assert X_.dtype == dtype and X_.shape == X.shape
    assert _cross_covariance(before, _one_hot(group)) > 0.1
    assert _cross_covariance(X_, _one_hot(group)) < (1e-5 if dtype == np.float32 else 1e-10)
    np.testing.assert_array_equal(X, before)


def test_same_as_the_eraser() -> None:
    X, group, _ = _data()
    codes = np.unique(group, return_inverse=True)[1]
    expected = LeaceEraser.fit(torch.from_numpy(X), torch.from_numpy(codes))
    leace = LeaceTransformer().fit(X, sensitive_features=group)
    np.testing.assert_allclose(leace.transform(X), expected(torch.from_numpy(X)).numpy(), atol=1e-12)
    assert leace.rank_ == 2 == leace.report_.rank and leace.report_.kind == "categorical"
    assert isinstance(leace.eraser_, LeaceEraser)


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_agrees_with_fairlearn(alpha: float) -> None:
    X, _, _ = _data(d=6)
    X[:, 1] = X[:, 1] > 0
    theirs = CorrelationRemover(sensitive_feature_ids=[1, 4], alpha=alpha).fit_transform(X)
    ours = OracleTransformer(sensitive_columns=[1, 4], alpha=alpha).fit_transform(X)
    np.testing.assert_allclose(ours, theirs, atol=1e-10)
    frame = pd.DataFrame(X, columns=list("abcdef"))
    theirs = CorrelationRemover(sensitive_feature_ids=["b", "e"], alpha=alpha).fit(frame)
    ours = OracleTransformer(sensitive_columns=["b", "e"], alpha=alpha).fit(frame)
    np.testing.assert_allclose(ours.transform(frame[:9]), theirs.transform(frame[:9]), atol=1e-10)


@EVERY
def test_the_three_ways_agree(cls: type) -> None:
    X, group, _ = _data()
    expected = _routed(cls, X, group)
    frame = pd.DataFrame(X, columns=list("abcde")).assign(group=group)
    np.testing.assert_allclose(cls(sensitive_columns="group").fit_transform(frame), expected, atol=1e-12)
    np.testing.assert_allclose(cls(sensitive_columns=[-1]).fit_transform(frame), expected, atol=1e-12)
    np.testing.assert_allclose(cls(concept="y").fit_transform(X, group), expected, atol=1e-12)


def test_the_target_is_left_alone() -> None:
    X, group, y = _data()
    with_y = LeaceTransformer().fit(X, y, sensitive_features=group).transform(X)
    np.testing.assert_array_equal(with_y, _routed(LeaceTransformer, X, group))


@pytest.mark.parametrize("cls", [*ALL[:2], OracleTransformer], ids=lambda c: c.__name__)
def test_several_columns_are_erased_jointly(cls: type) -> None:
    X, group, _ = _data()
    age = X @ np.arange(5) + np.random.default_rng(1).normal(size=len(X))
    X_ = _routed(cls, X, pd.DataFrame({"group": group, "age": age}))
    assert _cross_covariance(X_, np.column_stack([_one_hot(group), age])) < 1e-10


def test_quadratic_erases_combinations() -> None:
    X, group, _ = _data()
    other = np.random.default_rng(2).integers(0, 2, len(X)).astype(bool)
    X[:, 0] += 3 * (other ^ (group == "a"))
    table = pd.DataFrame({"group": group, "other": other})
    X_ = _routed(QuadraticTransformer, X, table, shrinkage=False)
    both = np.char.add(group, other.astype(str))
    assert _cross_covariance(X_, _one_hot(both)) < 1e-10
    covariances = [np.cov(X_[both == b].T) for b in np.unique(both)]
    np.testing.assert_allclose(covariances, [covariances[0]] * len(covariances), atol=1e-6)
    # LEACE erases each of the two, and not what they say together.
    assert _cross_covariance(_routed(LeaceTransformer, X, table), _one_hot(both)) > 0.02


@pytest.mark.parametrize("cls", [MeanDifferenceTransformer, QuadraticTransformer], ids=lambda c: c.__name__)
def test_continuous_concepts_need_bins_where_classes_are_needed(cls: type) -> None:
    X, _, _ = _data()
    with pytest.raises(InputError, match=r"needs classes: pass n_bins=4"):
        _routed(cls, X, X[:, 0])
    X_ = _routed(cls, X, X[:, 0], n_bins=3)
    assert _cross_covariance(X_, _one_hot(pd.qcut(X[:, 0], 3, labels=False))) < 1e-10


def test_sample_weights_count_as_repeated_rows() -> None:
    X, group, _ = _data()
    weight = np.random.default_rng(1).integers(0, 3, len(X))
    for cls in ALL:
        weighted = cls().fit(X, sensitive_features=group, sample_weight=weight)
        repeated = cls().fit(X.repeat(weight, 0), sensitive_features=group.repeat(weight))
        labels = {"sensitive_features": group} if cls in LABELLED else {}
        np.testing.assert_allclose(weighted.transform(X, **labels), repeated.transform(X, **labels), atol=1e-9)


# ------------------------------------------------------------------------- kinds of sensitive columns

STRINGS = np.array(["f", "m", "m", "d", "f", "m", "f", "d"])
NUMBERS = np.array([0, 1, 1, 2, 0, 1, 0, 2])
CATEGORICAL: dict[str, Any] = {
    "list": STRINGS.tolist(),
    "numpy strings": STRINGS,
    "numpy objects": STRINGS.astype(object),
    "numpy integers": NUMBERS,
    "column": STRINGS[:, None],
    "torch": torch.from_numpy(NUMBERS),
    "pandas": pd.Series(STRINGS),
    "pandas category": pd.Series(STRINGS, dtype="category", index=range(50, 58)),
    "pandas float category": pd.Series(NUMBERS / 2).astype("category"),
    "pandas nullable": pd.Series(NUMBERS, dtype="Int64"),
    "pandas frame": pd.DataFrame({"s": STRINGS}),
    "pandas unused category": pd.Series(pd.Categorical(STRINGS, categories=["x", "m", "f", "d"])),
    "polars": pl.Series(STRINGS.tolist()),
    "polars categorical": pl.Series(STRINGS.tolist(), dtype=pl.Categorical()),
    "polars enum": pl.Series(STRINGS.tolist(), dtype=pl.Enum(["f", "m", "d"])),
    "polars frame": pl.DataFrame({"s": STRINGS.tolist()}),
    "polars frame, not computed": pl.LazyFrame({"s": STRINGS.tolist()}),
    "text objects and bytes": np.array(["f", b"m", "m", "d", "f", "m", b"f", "d"], dtype=object),
}


@pytest.mark.parametrize("sensitive", CATEGORICAL.values(), ids=CATEGORICAL)
def test_every_spelling_of_classes_is_the_same(sensitive: Any) -> None:
    X = np.random.default_rng(0).normal(size=(8, 3))
    oracle = OracleTransformer().fit(X, sensitive_features=sensitive)
    assert oracle.report_.kind == "categorical" and oracle.encoder_.width == 3
    expected = _routed(OracleTransformer, X, NUMBERS)
    np.testing.assert_allclose(oracle.transform(X, sensitive_features=sensitive), expected, atol=1e-12)


CONTINUOUS: dict[str, Any] = {
    "numpy": NUMBERS.astype(float),
    "float32": NUMBERS.astype(np.float32),
    "objects": NUMBERS.astype(float).astype(object),
    "torch": torch.from_numpy(NUMBERS).bfloat16(),
    "pandas": pd.Series(NUMBERS.astype(float)),
    "pandas nullable": pd.Series(NUMBERS, dtype="Float64"),
    "polars": pl.Series(NUMBERS.astype(float)),
}


@pytest.mark.parametrize("sensitive", CONTINUOUS.values(), ids=CONTINUOUS)
def test_floats_are_quantities(sensitive: Any) -> None:
    X = np.random.default_rng(0).normal(size=(8, 3))
    with pytest.warns(EffaceWarning, match="floats of 3 distinct whole values"):
        oracle = OracleTransformer().fit(X, sensitive_features=sensitive)
    assert oracle.report_.kind == "continuous"
    np.testing.assert_allclose(
        oracle.transform(X, sensitive_features=sensitive), _routed(OracleTransformer, X, NUMBERS, kind="continuous")
    )


def test_kind_overrides_all_or_by_column() -> None:
    X = np.random.default_rng(0).normal(size=(8, 3))
    classes = _routed(OracleTransformer, X, NUMBERS)
    np.testing.assert_allclose(_routed(OracleTransformer, X, NUMBERS / 2, kind="categorical"), classes)
    table = pd.DataFrame({"a": NUMBERS, "b": STRINGS})
    mapped = OracleTransformer(kind={"a": "continuous"}).fit(X, sensitive_features=table)
    assert [c.classes for c in mapped.encoder_.codes] == [None, ["d", "f", "m"]]


MISSING: dict[str, Any] = {
    "None": [None, *STRINGS[1:].tolist()],
    "NaN": np.array([np.nan, *NUMBERS[1:]]),
    "inf": np.array([np.inf, *NUMBERS[1:]]),
    "object NaN": np.array([float("nan"), *STRINGS[1:]], dtype=object),
    "pandas NA": pd.Series([pd.NA, *NUMBERS[1:]], dtype="Int64"),
    "pandas string": pd.Series([None, *STRINGS[1:]], dtype="string"),
    "pandas category": pd.Series([None, *STRINGS[1:]], dtype="category"),
    "polars null": pl.Series([None, *STRINGS[1:].tolist()]),
    "polars categorical": pl.Series([None, *STRINGS[1:].tolist()], dtype=pl.Categorical()),
    "polars integer": pl.Series([None, *NUMBERS[1:].tolist()]),
    "polars NaN": pl.Series([float("nan"), *NUMBERS[1:].astype(float).tolist()]),
}


@pytest.mark.parametrize("sensitive", MISSING.values(), ids=MISSING)
def test_missing_values_are_refused(sensitive: Any) -> None:
    X = np.random.default_rng(0).normal(size=(8, 3))
    with pytest.raises(InputError, match=r"sensitive_features is missing.* in 1 of 8 rows \(first rows: 0\)"):
        LeaceTransformer().fit(X, sensitive_features=sensitive)


# ------------------------------------------------------------------------------------- tables in and out


def _frame(kind: str, columns: dict[str, Any]) -> Any:
    if kind == "pandas":
        return pd.DataFrame(columns, index=pd.RangeIndex(100, 100 + len(next(iter(columns.values())))))
    return pl.DataFrame({k: v.tolist() for k, v in columns.items()})


@pytest.mark.parametrize("kind", ["pandas", "polars"])
@EVERY
def test_tables_in_and_out(cls: type, kind: str) -> None:
    X, group, _ = _data()
    frame = _frame(kind, {**{f"f{i}": X[:, i] for i in range(5)}, "group": group})
    estimator = cls(sensitive_columns=["group"]).set_output(transform=kind)
    out = estimator.fit_transform(frame)
    assert type(out) is type(frame)
    assert list(out.columns) == [f"f{i}" for i in range(5)] == estimator.get_feature_names_out().tolist()
    assert estimator.feature_names_in_.tolist() == list(frame.columns) and estimator.n_features_in_ == 6
    np.testing.assert_allclose(out.to_numpy(), _routed(cls, X, group), atol=1e-12)
    if kind == "pandas":
        assert out.index.equals(frame.index)


def test_routed_tables_keep_all_names() -> None:
    X, group, _ = _data()
    leace = LeaceTransformer().set_output(transform="pandas")
    out = leace.fit_transform(pd.DataFrame(X, columns=list("abcde")), sensitive_features=group)
    assert list(out.columns) == list("abcde")
    with pytest.raises(ValueError, match="feature names should match"):
        leace.transform(pd.DataFrame(X, columns=list("abcdf")))


def test_sensitive_columns_may_stay_if_they_are_numbers() -> None:
    X, group, _ = _data()
    frame = pd.DataFrame(X, columns=list("abcde")).assign(z=X[:, 0] > 0)
    leace = LeaceTransformer(sensitive_columns=["z"], keep_sensitive=True).set_output(transform="pandas")
    out = leace.fit_transform(frame)
    assert list(out.columns) == [*"abcde", "z"]
    np.testing.assert_array_equal(out["z"], frame["z"])
    assert _cross_covariance(out[list("abcde")], out[["z"]].to_numpy()) < 1e-10
    strings = LeaceTransformer(sensitive_columns=["z"], keep_sensitive=True).fit(frame.assign(z=group))
    with pytest.raises(InputError, match="keep_sensitive=True needs numbers"):
        strings.transform(frame.assign(z=group))


NAMES = list("abcd")
CONTAINERS: dict[str, Callable[[Any], Any]] = {
    **{kind: lambda x, kind=kind: getattr(scipy.sparse, f"{kind}_matrix")(x) for kind in ("csr", "coo", "dok", "lil")},
    "csr array": scipy.sparse.csr_array,
    "sparse tensor": lambda x: torch.tensor(x).to_sparse(),
    "masked": lambda x: np.ma.masked_array(x, mask=False),
    "objects": lambda x: x.astype(object),
    "Float64": lambda x: pd.DataFrame(x, columns=NAMES).astype("Float64"),
    "arrow-backed": lambda x: pd.DataFrame(x, columns=NAMES).astype("double[pyarrow]"),
    "decimals": lambda x: pd.DataFrame(x, columns=NAMES).map(lambda v: decimal.Decimal(repr(v))),
    "sparse columns": lambda x: pd.DataFrame(x, columns=NAMES).astype(pd.SparseDtype("float", 0.0)),
    "polars": lambda x: pl.DataFrame(x, schema=NAMES),
    "polars, not computed": lambda x: pl.DataFrame(x, schema=NAMES).lazy(),
    "pyarrow": lambda x: pa.table({name: x[:, i] for i, name in enumerate(NAMES)}),
}
TABLES = ("Float64", "arrow-backed", "decimals", "sparse columns", "polars", "polars, not computed", "pyarrow")


@pytest.mark.parametrize("kind", CONTAINERS)
def test_containers_of_x(kind: str) -> None:
    X, group, _ = _data()
    X = X[:, :4].round(2)
    estimator = LeaceTransformer().fit(CONTAINERS[kind](X), sensitive_features=group)
    np.testing.assert_allclose(estimator.transform(CONTAINERS[kind](X)), _routed(LeaceTransformer, X, group), atol=1e-9)
    assert estimator.get_feature_names_out().tolist() == (NAMES if kind in TABLES else ["x0", "x1", "x2", "x3"])


@pytest.mark.parametrize("options", [{"concept": "y"}, {"sensitive_columns": ["b"]}], ids=str)
def test_columns_of_one_name_are_refused(options: dict[str, Any]) -> None:
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(20, 3)), columns=["a", "a", "b"])
    with pytest.raises(InputError, match="2 columns of the name 'a': rename or drop them"):
        LeaceTransformer(**options).fit(table, np.arange(20) % 2)


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_columns_of_dates_are_refused_by_name(kind: str) -> None:
    X, group, _ = _data()
    frame = _frame(kind, {"a": X[:, 0], "when": np.full(len(X), np.datetime64("2020-01-01", "us"))})
    with pytest.raises(InputError, match="column 'when' of X holds dates or times"):
        LeaceTransformer().fit(frame, sensitive_features=group)


DAY = datetime.datetime(2020, 1, 1)
STRANGE: dict[str, tuple[dict[str, list[Any]], dict[str, Any], tuple[str, ...]]] = {
    "text": ({"p": ["x", "y"], "q": ["u", "v"]}, {}, ("text where numbers", "'p' (", "'q' (")),
    "gaps": ({"p": [None, 1.0], "q": [2.0, None]}, {}, ("'p' (4 of 8 rows)", "'q' (4 of 8 rows)")),
    "text and gaps": ({"p": ["x", "y"], "q": [2.0, None]}, {}, ("text where", "'p' (", "missing", "'q' (4 of 8 rows)")),
    "dates": ({"p": [DAY, DAY], "q": [DAY, DAY]}, {}, ("'p' (", "'q' (", "hold dates or times")),
    "unknown": ({"p": [0, 1]}, {"sensitive_columns": ["pp", "zz"]}, ("names 'pp'", "names 'zz'")),
    "sensitive": (
        {"p": [None, "x"], "q": ["y", None]},
        {"sensitive_columns": ["p", "q"]},
        ("X column p is missing", "X column q is missing"),
    ),
    "many": ({f"c{i}": ["x", "y"] for i in range(30)}, {}, ("'c0' (", "'c7' (", "and 22 more")),
}


@pytest.mark.parametrize("kind", ["pandas", "polars"])
@pytest.mark.parametrize(("columns", "options", "said"), STRANGE.values(), ids=STRANGE)
def test_all_columns_that_are_refused_are_named_at_once(
    kind: str, columns: dict[str, list[Any]], options: dict[str, Any], said: tuple[str, ...]
) -> None:
    rows = {"a": np.arange(8.0), **{name: values * 4 for name, values in columns.items()}}
    frame = pd.DataFrame(rows) if kind == "pandas" else pl.DataFrame(rows)
    with pytest.raises(InputError) as error:
        LeaceTransformer(**options).fit(frame, sensitive_features=None if options else [0, 1] * 4)
    assert all(part in str(error.value) for part in said) and len(str(error.value)) < 600


@pytest.mark.parametrize("kind", ["pandas", "polars"])
@EVERY
def test_the_sensitive_columns_may_be_unknown_at_prediction_time(cls: type, kind: str) -> None:
    """Where the concept is not needed, neither are its columns; where it is, it may come by another way."""
    X, group, _ = _data()
    columns = {"a": X[:, 0], "group": group, "b": X[:, 1], "c": X[:, 2]}
    frame, rest = _frame(kind, columns), _frame(kind, {k: v for k, v in columns.items() if k != "group"})
    estimator = cls(sensitive_columns="group").fit(frame)
    if cls in LABELLED:
        with pytest.raises(InputError, match="transform.X, sensitive_features=s."):
            estimator.transform(rest)
        found = [estimator.transform(rest, sensitive_features=group)]
    else:
        gaps = _frame(kind, {**columns, "group": np.full(len(X), None)})
        found = [estimator.transform(rest), estimator.transform(gaps)]
    for each in found:
        np.testing.assert_allclose(each, estimator.transform(frame), atol=1e-12)
    with pytest.raises(ValueError, match="feature names should match"):
        estimator.transform(_frame(kind, {k: v for k, v in columns.items() if k != "a"}))


def test_sensitive_columns_that_stay_have_to_be_there() -> None:
    X, _, _ = _data()
    frame = pd.DataFrame(X, columns=list("abcde")).assign(z=X[:, 0] > 0, y=X[:, 1] > 0)
    leace = LeaceTransformer(sensitive_columns=["z", "y"], keep_sensitive=True).fit(frame)
    with pytest.raises(InputError, match="X lacks sensitive columns"):
        leace.transform(frame.drop(columns="z"))
    dropping = LeaceTransformer(sensitive_columns=["z", "y"]).fit(frame)
    np.testing.assert_allclose(dropping.transform(frame.drop(columns="z")), dropping.transform(frame))


@pytest.mark.filterwarnings("ignore:erased values leave the range")  # of small columns, where methods know units
@pytest.mark.parametrize("cls", [LeaceTransformer, QuadraticTransformer, MeanDifferenceTransformer])
def test_the_edit_of_each_column(cls: type) -> None:
    """Income in euros beside a share and a flag: what is reported is what was done to each, whatever its unit."""
    X, group, z = _data()
    X = X[:, :3] / X[:, :3].std(0) * [3e4, 1.0, 1e-3] + [4e4, 0.0, 0.0]
    estimator = cls(sensitive_columns="group").fit(pd.DataFrame(X, columns=list("abc")).assign(group=group))
    erased = estimator.transform(pd.DataFrame(X, columns=list("abc")).assign(group=group))
    np.testing.assert_allclose(estimator.edit_, ((erased - X) ** 2).mean(0) / X.var(0), rtol=1e-6)
    plain = cls().fit(X / [3e4, 1.0, 1e-3], sensitive_features=group)
    if cls is LeaceTransformer:
        np.testing.assert_allclose(estimator.edit_, plain.edit_, rtol=1e-6)


def test_values_that_leave_their_range_are_told() -> None:
    rng = np.random.default_rng(0)
    sex = rng.integers(0, 2, 500)
    frame = pd.DataFrame(
        {"age": rng.normal(40, 9, 500) + sex, "kids": rng.poisson(0.5 + sex), "flag": rng.integers(0, 2, 500)}
    )
    leace = LeaceTransformer().fit(frame, sensitive_features=sex)
    with pytest.warns(EffaceWarning, match=r"flag in .*% of rows \(it was 0 to 1, and is -") as told:
        leace.transform(frame)
    assert len(told) == 1 and "age in" not in str(told[0].message)
    leace.transform(frame.head(3))  # too few to say
    bounded = LeaceTransformer().fit(frame[["age"]], sensitive_features=sex)
    bounded.transform(frame[["age"]])


def test_names_without_a_table() -> None:
    X, _, _ = _data()
    leace = LeaceTransformer(sensitive_columns=[1]).fit(X)
    assert leace.get_feature_names_out().tolist() == ["x0", "x2", "x3", "x4"]


# ------------------------------------------------------------------------------------ pipelines, routing


@pytest.fixture
def routing() -> Iterator[None]:
    with sklearn.config_context(enable_metadata_routing=True):
        yield


@pytest.mark.usefixtures("routing")
@pytest.mark.parametrize("as_series", [np.asarray, pd.Series, lambda s: pl.Series(s.tolist())])
@EVERY
def test_cross_validate_routes_without_hand_holding(cls: type, as_series: Any) -> None:
    X, group, y = _data()
    pipeline = make_pipeline(StandardScaler(), cls(), Ridge())
    found = _cross_validate(
        pipeline,
        X,
        y,
        params={"sensitive_features": as_series(group)},
        cv=3,
        return_estimator=True,
        error_score="raise",
    )
    assert np.isfinite(found["test_score"]).all()
    assert all(p[1].rank_ >= 2 for p in found["estimator"])


@pytest.mark.usefixtures("routing")
def test_what_is_routed_is_what_is_erased() -> None:
    X, group, y = _data()
    pipeline = make_pipeline(StandardScaler(), LeaceTransformer(), Ridge()).fit(X, y, sensitive_features=group)
    assert _cross_covariance(pipeline[:-1].transform(X), _one_hot(group)) < 1e-10
    labelled = make_pipeline(StandardScaler(), OracleTransformer(), Ridge()).fit(X, y, sensitive_features=group)
    prediction = labelled.predict(X, sensitive_features=group)
    assert _cross_covariance(prediction[:, None], _one_hot(group)) < 1e-10


@pytest.mark.usefixtures("routing")
def test_grid_search_weights_and_requests() -> None:
    X, group, y = _data()
    eraser = LeaceTransformer().set_fit_request(sample_weight=True)
    ridge: Any = Ridge()
    model = ridge.set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
    pipeline = Pipeline([("erase", eraser), ("model", model)])
    search = GridSearchCV(pipeline, {"erase__shrinkage": [True, False]}, cv=3)
    search.fit(X, y, sensitive_features=group, sample_weight=np.ones(len(X)))
    assert search.best_estimator_[0].rank_ == 2
    unasked = make_pipeline(LeaceTransformer().set_fit_request(sensitive_features=False), Ridge())
    with pytest.raises(TypeError, match="sensitive_features"):
        unasked.fit(X, y, sensitive_features=group)


def test_pipelines_without_routing() -> None:
    X, group, y = _data()
    pipeline: Any = Pipeline([("erase", LeaceTransformer()), ("model", Ridge())])
    pipeline.fit(X, y, erase__sensitive_features=group)
    assert pipeline[0].rank_ == 2
    frame = pd.DataFrame(X, columns=list("abcde")).assign(group=group)
    inside = make_pipeline(OracleTransformer(sensitive_columns=["group"]), LogisticRegression())
    assert _cross_validate(inside, frame, y > 0, cv=3, error_score="raise")["test_score"].mean() > 0.5


# --------------------------------------------------------------------------------------------- streams


@EVERY
@settings(max_examples=10, deadline=None)
@given(cuts=st.sets(st.integers(1, 199), max_size=4), seed=st.integers(0, 9))
def test_partial_fit_in_any_chunks_is_fit(cls: type, cuts: set[int], seed: int) -> None:
    X, group, _ = _data(200)
    order = np.random.default_rng(seed).permutation(200)
    X, group = X[order], group[order]
    whole, parts = cls().fit(X, sensitive_features=group), cls()
    edges = [0, *sorted(cuts), 200]
    for a, b in zip(edges, edges[1:], strict=False):
        parts.partial_fit(X[a:b], sensitive_features=group[a:b], classes=["c", "b", "a"])
    labels = {"sensitive_features": group} if cls in LABELLED else {}
    np.testing.assert_allclose(parts.transform(X, **labels), whole.transform(X, **labels), atol=1e-9)


def test_partial_fit_of_several_columns() -> None:
    X, group, _ = _data()
    table = pd.DataFrame({"group": group, "flag": X[:, 1] > 0, "age": X[:, 0]})
    whole = LeaceTransformer().fit(X, sensitive_features=table)
    for classes in ({"group": ["a", "b", "c"], "flag": [False, True]}, [["a", "b", "c"], [False, True], None]):
        parts = LeaceTransformer()
        for i in range(0, 300, 50):
            parts.partial_fit(X[i : i + 50], sensitive_features=table[i : i + 50], classes=classes)
        np.testing.assert_allclose(parts.transform(X), whole.transform(X), atol=1e-9)


@EVERY
def test_a_new_class_in_a_stream_is_refused_and_changes_nothing(cls: type) -> None:
    X, group, _ = _data()
    two = group != "c"
    estimator = cls().partial_fit(X[two], sensitive_features=group[two])
    before = estimator.fitter_.state_dict()
    with pytest.raises(InputError, match=r"has 'c' in \d+ rows, but only 'a', 'b' were seen.*classes=\["):
        estimator.partial_fit(X, sensitive_features=group)
    after = estimator.fitter_.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_a_class_that_was_named_but_never_came_is_unseen() -> None:
    X, group, _ = _data()
    two = group != "c"
    oracle = OracleTransformer().partial_fit(X[two], sensitive_features=group[two], classes=["a", "b", "c"])
    with pytest.raises(InputError, match=r"has 'c' in \d+ rows, but only 'a', 'b' were seen: drop those rows"):
        oracle.transform(X, sensitive_features=group)


def test_fit_starts_afresh() -> None:
    X, group, _ = _data()
    leace = LeaceTransformer().fit(X, sensitive_features=group).fit(X[:, :3], sensitive_features=X[:, 4])
    assert leace.n_features_in_ == 3 and leace.rank_ == 1 and leace.fitter_.moments.n == 300


# --------------------------------------------------------------------------------- life as an estimator


@EVERY
def test_clone_pickle_and_html(cls: type) -> None:
    X, group, _ = _data()
    estimator = cls(kind={"x": "auto"}, keep_sensitive=True, concept=None).set_params(kind="auto")
    fitted = estimator.fit(X, sensitive_features=group)
    assert not hasattr(_clone(fitted), "fitter_") and _clone(fitted).get_params() == fitted.get_params()
    labels = {"sensitive_features": group} if cls in LABELLED else {}
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.transform(X, **labels), fitted.transform(X, **labels))
    again.partial_fit(X, sensitive_features=group)
    assert cls.__name__ in fitted._repr_html_() and "keep_sensitive" in repr(fitted)


def test_names_are_found_lazily() -> None:
    assert {c.__name__ for c in ALL} <= set(dir(efface.estimators))


# ------------------------------------------------------------------------------------------- bad input

X8 = np.random.default_rng(0).normal(size=(8, 3))
FRAME8 = pd.DataFrame(X8, columns=["age", "sex", "bmi"])
BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "no concept": (
        lambda: LeaceTransformer().fit(X8),
        r"no concept.*three ways.*sensitive_features=s.*sensitive_col",
    ),
    "y alone": (lambda: LeaceTransformer().fit(X8, NUMBERS), r"concept='y'\) if the concept is y itself"),
    "two ways": (
        lambda: LeaceTransformer(concept="y").fit(X8, NUMBERS, sensitive_features=NUMBERS),
        r"given in 2 ways, concept='y' and sensitive_features: choose one",
    ),
    "two ways at transform": (
        lambda: OracleTransformer(sensitive_columns=[0]).fit(X8).transform(X8, sensitive_features=NUMBERS),
        "given in 2 ways",
    ),
    "unknown concept": (lambda: LeaceTransformer(concept="z").fit(X8, NUMBERS), "concept must be None or 'y', got 'z'"),
    "length": (lambda: LeaceTransformer().fit(X8, sensitive_features=NUMBERS[:5]), "has 5 rows, X has 8"),
    "three dimensions": (lambda: LeaceTransformer().fit(X8, sensitive_features=np.zeros((8, 1, 1))), "has shape"),
    "one class": (lambda: LeaceTransformer().fit(X8, sensitive_features=["a"] * 8), "same value in all 8 rows"),
    "dates": (
        lambda: LeaceTransformer().fit(X8, sensitive_features=np.arange(8).astype("M8[D]")),
        "holds dates or times",
    ),
    "mixed objects": (
        lambda: LeaceTransformer().fit(
            X8, sensitive_features=np.array([0, "m", "m", 2.5, 0, "m", 0, 2.5], dtype=object)
        ),
        "mixes text and numbers",
    ),
    "no classes": (lambda: LeaceTransformer().fit(X8, sensitive_features=[{}] * 8), "values that are no classes"),
    "strings as numbers": (
        lambda: LeaceTransformer(kind="continuous").fit(X8, sensitive_features=STRINGS),
        "is continuous, but holds no numbers",
    ),
    "kind": (lambda: LeaceTransformer(kind="ordinal").fit(X8, sensitive_features=NUMBERS), "unknown kind 'ordinal'"),
    "kind of no column": (
        lambda: LeaceTransformer(kind={"sx": "auto"}).fit(X8, sensitive_features=FRAME8[["sex"]]),
        r"kind names 'sx', but the sensitive columns are \['sex'\]",
    ),
    "column name": (
        lambda: LeaceTransformer(sensitive_columns=["sexx"]).fit(FRAME8),
        "'sexx', which is no column of X: there is 'sex'",
    ),
    "no names": (lambda: LeaceTransformer(sensitive_columns=["sex"]).fit(X8), "X has no column names"),
    "position": (lambda: LeaceTransformer(sensitive_columns=[3]).fit(X8), "names or positions below 3"),
    "no columns": (lambda: LeaceTransformer(sensitive_columns=[]).fit(X8), "sensitive_columns is empty"),
    "all columns": (lambda: LeaceTransformer(sensitive_columns=[0, 1, 2]).fit(X8), "all of them sensitive"),
    "NaN in X": (
        lambda: LeaceTransformer().fit(np.where(X8 > 1, np.nan, X8), sensitive_features=NUMBERS),
        "contains NaN",
    ),
    "labels at transform": (
        lambda: OracleTransformer().fit(X8, sensitive_features=NUMBERS).transform(X8),
        r"transform\(X, sensitive_features=s\), or use LeaceTransformer",
    ),
    "unseen class": (
        lambda: OracleTransformer().fit(X8, sensitive_features=STRINGS).transform(X8, sensitive_features=["z"] * 8),
        "has 'z' in 8 rows, but only 'd', 'f', 'm' were seen",
    ),
    "unseen combination": (
        lambda: (
            QuadraticTransformer()
            .fit(X8, sensitive_features=np.array([[0, 0, 0, 0, 1, 1, 1, 1]] * 2).T)
            .transform(X8, sensitive_features=np.array([[0] * 8, [1] * 8]).T)
        ),
        "8 rows have a combination of classes never seen before, e.g.",
    ),
    "other columns": (
        lambda: (
            OracleTransformer()
            .fit(X8, sensitive_features=FRAME8[["sex"]])
            .transform(X8, sensitive_features=FRAME8[["age"]])
        ),
        r"sensitive columns are \['age'\], expected \['sex'\]",
    ),
    "normalised weights": (
        lambda: LeaceTransformer().fit(X8, sensitive_features=NUMBERS, sample_weight=np.full(8, 1 / 8)),
        "multiply normalised weights by the number of rows",
    ),
    "negative weights": (
        lambda: LeaceTransformer().fit(X8, sensitive_features=NUMBERS, sample_weight=-np.ones(8)),
        "negative",
    ),
    "alpha": (lambda: OracleTransformer(alpha=2).fit(X8, sensitive_features=NUMBERS), "alpha must be between 0 and 1"),
    "n_bins": (
        lambda: QuadraticTransformer(n_bins=1).fit(X8, sensitive_features=X8[:, 0]),
        "n_bins must be an integer of at least 2",
    ),
    "classes": (
        lambda: LeaceTransformer().partial_fit(X8, sensitive_features=FRAME8[["age", "sex"]], classes=[["a"]]),
        "classes has 1 entries for 2 columns",
    ),
}


@pytest.mark.parametrize(("act", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_refused(act: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        act()


def test_erasing_nothing_warns() -> None:
    X = np.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    with pytest.warns(NothingErasedWarning):
        LeaceTransformer().fit(X, sensitive_features=[0, 0, 1, 1])


def test_the_room_is_imported_without_scikit_learn() -> None:
    heavy = "{'sklearn', 'torch._dynamo'}"
    code = f"import sys, efface.estimators, efface.cli.fit; sys.exit(bool({heavy} & {{*sys.modules}}))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
