"""Columns of a fit and of what is erased: the same names in the same order, or a word."""

import copy
import pickle
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

import efface
from efface import EffaceWarning, InputError
from efface.core.column_names import columns_of
from efface.estimators import LeaceTransformer, OracleTransformer

RNG = np.random.default_rng(0)
Z = RNG.integers(0, 2, 80)
X = pd.DataFrame(RNG.normal(size=(80, 3)) * [1, 1e3, 1e6], columns=["age", "bmi", "pay"]) + Z[:, None]
BACKWARDS = X[["pay", "bmi", "age"]]
SCORES = pd.DataFrame(RNG.normal(size=(80, 2)), columns=["u", "v"])
MAKERS = {"pandas": lambda frame: frame, "polars": pl.from_pandas, "pyarrow": pa.Table.from_pandas}
ROWS = [method.name for method in efface.methods("rows")]


@pytest.fixture(autouse=True)
def no_unexpected_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error", EffaceWarning)
        yield


def call(eraser, x):
    return eraser(x, Z) if eraser.takes_labels else eraser(x)


def refused(eraser, match="in another order"):
    with pytest.raises(InputError, match=match):
        call(eraser, BACKWARDS)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("method", ROWS)
def test_other_columns_than_in_the_fit_are_refused(method, make):
    eraser = efface.erase(make(X), Z, method=method)
    assert eraser.columns == ("age", "bmi", "pay")
    given = call(eraser, make(X))
    # To rounding: tables lie otherwise in memory, and some processors multiply such numbers otherwise.
    np.testing.assert_allclose(given, call(eraser, torch.tensor(X.to_numpy())).numpy(), rtol=1e-12)
    # Chosen as the text says, any order of the table gives the same.
    np.testing.assert_allclose(call(eraser, make(BACKWARDS[list(eraser.columns)])), given, rtol=1e-12)
    for table, match in [
        (BACKWARDS, "in another order .first 'pay', which was 'age'.*list.eraser.columns"),
        (X[["age", "bmi"]], "lacks 'pay'"),
        (X.assign(sex=Z), "has 'sex', not in the fit: write x"),
        (X.rename(columns={"pay": "income"}), "lacks 'pay' and has 'income'"),
    ]:
        with pytest.raises(InputError, match=match):
            call(eraser, make(table))


@pytest.mark.parametrize("method", ROWS)
def test_names_stay_with_an_eraser(method, tmp_path):
    eraser = efface.erase(X, Z, method=method)
    eraser.save(tmp_path / "saved")
    others = [
        efface.load(tmp_path / "saved"),
        eraser.to(torch.float64),
        eraser.to_module().eraser,
        pickle.loads(pickle.dumps(eraser)),
        copy.deepcopy(eraser),
    ]
    for other in others:
        assert other.columns == eraser.columns
        refused(other)
    assert others[0] == eraser and others[0].digest == eraser.digest
    assert efface.erase(X.to_numpy(), Z, method=method) != eraser


def test_an_editor_knows_columns_of_rows_and_of_labels():
    coded = pd.DataFrame({"f": Z == 0, "m": Z == 1})
    fitter = efface.QuadraticFitter.fit(X, coded)
    eraser, editor = fitter.eraser, fitter.editor()
    np.testing.assert_array_equal(eraser(X, Z), eraser(X, coded))
    for erase in (eraser, lambda x, z: editor(x, z, 1)):
        erase(X, coded)
        with pytest.raises(InputError, match="x has the columns of the fit in another order"):
            erase(BACKWARDS, coded)
        with pytest.raises(InputError, match="z has the columns of the fit in another order"):
            erase(X, coded[["m", "f"]])


def test_several_labels_are_known_by_their_names(tmp_path):
    fitter = efface.OracleFitter.fit(X, SCORES)
    fitter.save(tmp_path / "fit")
    for found in (fitter, efface.OracleFitter.load(tmp_path / "fit"), fitter.copy()):
        with pytest.raises(InputError, match="z has the columns of the fit in another order"):
            found.eraser(X, SCORES[["v", "u"]])
        with pytest.raises(InputError, match="z has the columns of the fit in another order"):
            found.update(X, SCORES[["v", "u"]])
        assert found.n == 80


@pytest.mark.parametrize(
    "fitter", [efface.LeaceFitter, efface.OrthogonalFitter, efface.OracleFitter, efface.QuadraticFitter]
)
def test_batches_of_a_stream_have_the_same_columns(fitter, tmp_path):
    stream = fitter(3, 2).update(X[:40], Z[:40])
    with pytest.raises(InputError, match="write x.list.fitter.columns"):
        stream.update(BACKWARDS[40:], Z[40:])
    stream.save(tmp_path / "half")
    whole = fitter.load(tmp_path / "half").update(X[40:], Z[40:])
    assert int(whole.n.sum()) == 80
    refused(whole.eraser)
    with pytest.raises(InputError, match="x of the other has the columns of the fit in another order"):
        _ = stream + fitter(3, 2).update(BACKWARDS[40:], Z[40:])
    refused((stream + fitter(3, 2).update(X[40:], Z[40:])).eraser)
    refused((fitter(3, 2) + stream).eraser)


def test_where_one_side_has_no_names_a_warning_says_so():
    named, plain = efface.erase(X, Z), efface.erase(X.to_numpy(), Z)
    with pytest.warns(EffaceWarning, match="has no names of columns and the fit had: .*'age', 'bmi', 'pay'") as said:
        named(X.to_numpy())
    with pytest.warns(EffaceWarning, match="has names of columns and the fit had none"):
        plain(X)
    assert said[0].filename == __file__
    stream = efface.LeaceFitter(3, 2).update(X[:40], Z[:40])
    with pytest.warns(EffaceWarning, match="no names"):
        stream.update(X[40:].to_numpy(), Z[40:])
    assert stream.columns == named.columns
    # A tensor never has names, so it says nothing by having none.
    np.testing.assert_allclose(named(torch.tensor(X.to_numpy())).numpy(), plain(X.to_numpy()), rtol=1e-12)


def test_what_is_a_name():
    numbered = pd.DataFrame(X.to_numpy())
    assert columns_of(numbered) == () == columns_of([[1.0, 2.0]]) == columns_of(pl.from_pandas(X).lazy())
    assert columns_of(X.iloc[0]) == ("age", "bmi", "pay") and columns_of(numbered[[2, 0]]) == ("2", "0")
    eraser = efface.erase(numbered, Z)
    eraser(numbered)
    with pytest.raises(InputError, match="first '2', which was '0'"):
        eraser(numbered[[2, 1, 0]])
    refused(efface.erase(pd.DataFrame(X.to_numpy(), columns=[[1, 1, 2], list("abc")]), Z), "lacks ..1, 'a'..")
    with pytest.raises(InputError, match="first 'pay'"):
        efface.erase(X, Z)(BACKWARDS.iloc[0])


def test_parts_of_an_erasure_have_the_same_columns():
    first, second = efface.erase(X, Z), efface.erase(X, SCORES["u"], method="orth")
    apart = efface.erase(BACKWARDS, SCORES["u"], method="orth")
    for join in (lambda a, b: a & b, efface.compose):
        both = join(first, second)
        assert both.columns == first.columns
        unnamed = join(*(replace(each, columns=()) for each in (first, second)))
        np.testing.assert_allclose(both(X), unnamed(torch.tensor(X.to_numpy())).numpy())
        with pytest.raises(InputError, match="in another order"):
            both(BACKWARDS)
        with pytest.raises(InputError, match="part 1 has the columns of the fit in another order"):
            join(first, apart)
    # Fitted on what the first returns, which is an array: names are those of the first.
    assert efface.compose(first, efface.erase(first(X), SCORES["u"], method="orth")).columns == first.columns


def test_erasers_of_estimators_know_the_features():
    table = X.assign(sex=Z)
    fitted = LeaceTransformer(sensitive_columns="sex").fit(table)
    assert fitted.eraser_.columns == ("age", "bmi", "pay")
    np.testing.assert_array_equal(fitted.transform(table), fitted.eraser_(X))
    refused(fitted.eraser_)
    with pytest.raises(InputError, match=r"sensitive columns are \['v', 'u'\]"):
        OracleTransformer().fit(X, sensitive_features=SCORES).transform(X, sensitive_features=SCORES[["v", "u"]])


SHUFFLED = pd.Series(Z).sample(frac=1, random_state=0)


@pytest.mark.parametrize(
    "go",
    [
        lambda z: efface.erase(X, z),
        lambda z: efface.LeaceFitter(3, 2).update(X, z),
        lambda z: efface.LeaceFitter(3, 2).update(X, Z, weight=z),
        lambda z: efface.erase(X, Z, method="oracle")(X, z),
        lambda z: LeaceTransformer().fit(X, sensitive_features=z),
        lambda z: LeaceTransformer().fit(X, sensitive_features=Z, sample_weight=z),
        lambda z: efface.join_concepts(pd.Series(Z), z),
        lambda z: efface.audit.rows(X, z, efface.erase(X, Z)),
        lambda z: efface.audit.rows(X, Z, efface.erase(X, Z), task=z),
        lambda z: efface.audit.sites({"a": X}, {"a": X}, z),
        lambda z: efface.audit.similarity(X, X, groups=z),
    ],
)
def test_rows_in_another_order_are_refused(go):
    with pytest.raises(InputError, match=r"in another order .row 0 is 50, of \S+( 0)? it is 0.*to_numpy"):
        go(SHUFFLED)


def test_names_of_rows_that_say_nothing_of_each_other():
    part = X.sample(40, random_state=1)
    own: Any = pd.Series(Z)[part.index]
    efface.erase(part, own)
    efface.erase(part, own.reset_index(drop=True))
    efface.erase(part, pl.Series(Z)[:40])
    with pytest.raises(InputError, match="is of other rows than x"):
        efface.erase(part, own.set_axis(part.index + 1))


def test_audits_compare_columns():
    eraser = efface.erase(X, Z)
    for erase in (eraser, eraser & efface.erase(X, Z, method="orth")):
        with pytest.raises(InputError, match="in another order"):
            efface.audit.rows(BACKWARDS, Z, erase)
    after = pd.DataFrame(eraser(X), columns=X.columns)
    for go in (
        lambda x: efface.audit.similarity(X, x),
        lambda x: efface.audit.sites({"a": X}, {"a": x}, Z),
    ):
        go(after)
        with pytest.raises(InputError, match="other columns than before.*, or the same in another order"):
            go(after[list(BACKWARDS.columns)])
