"""Every door takes the same labels for the same thing: fitters, estimators, audits, scrubbing and the command line."""

from __future__ import annotations

import datetime
import enum
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse as sp
import torch

from efface._errors import EffaceWarning, InputError
from efface.audit.vectors.labels import Labels as AuditLabels
from efface.cli import main
from efface.core.arrays import read_array
from efface.core.labels import Tally, read_column, read_groups, settled
from efface.core.row_labels import Labels, read_labels
from efface.erasers.compose import join_concepts
from efface.erasers.leace import LeaceEraser, LeaceFitter
from efface.erasers.oracle import OracleEraser
from efface.erasers.quadratic import QuadraticEraser, QuadraticFitter
from efface.estimators import LeaceTransformer
from efface.moments.streaming import Moments
from efface.scrubbing.batches import Batches, survey
from efface.streams.concepts import learn

N = 60
_RNG = np.random.default_rng(0)
S = _RNG.permutation(np.arange(N) % 3)
X = _RNG.normal(size=(N, 4)) + 2 * (S[:, None] == 1)
Q = np.array([1.0, *_RNG.normal(size=N - 1).round(2)])
TEXT = np.array(["f", "m", "d"])[S]
GAPPY = [None, *TEXT[1:].tolist()]
HUGE = (np.array([0, 1, 5], dtype=np.uint64) + np.uint64(2**63))[S]
DATES = pd.date_range("2020-01-01", periods=3)[S]


class Colour(enum.Enum):
    RED, BLUE = 1, 2


@dataclass(frozen=True)
class Taken:
    """What a door took labels for."""

    kind: str
    classes: int = 0


CLASSES = Taken("categorical", 3)
QUANTITY = Taken("continuous")
IN_CLASSES: dict[str, Any] = {
    "integers": S,
    "small unsigned": S.astype(np.uint8),
    "big-endian": S.astype(">i4"),
    "read-only": np.frombuffer(S.astype(np.int64).tobytes(), np.int64),
    "unsigned beyond int64": HUGE,
    "Python integers beyond 64 bits": [2**70 + int(s) for s in S],
    "list beyond int64": [2**63 + int(s) for s in S],
    "list": S.tolist(),
    "objects": S.astype(object),
    "torch": torch.from_numpy(S),
    "torch int8": torch.from_numpy(S).to(torch.int8),
    "list of tensors": list(torch.from_numpy(S)),
    "text": TEXT,
    "text list": TEXT.tolist(),
    "text objects": TEXT.astype(object),
    "bytes": TEXT.astype("S"),
    "numpy strings": TEXT.astype(np.dtypes.StringDType()),
    "masked, nothing missing": np.ma.masked_array(S, mask=np.zeros(N, bool)),
    "pandas": pd.Series(S, index=range(7, 7 + N)),
    "pandas text": pd.Series(TEXT),
    "pandas string": pd.Series(TEXT, dtype="string"),
    "pandas string array": pd.array(TEXT, dtype="string"),
    "pandas category": pd.Series(TEXT, dtype="category"),
    "pandas Categorical, unused category": pd.Categorical(TEXT, categories=["x", "d", "m", "f"]),
    "pandas category of integers": pd.Series(S, dtype="category"),
    "pandas intervals": pd.cut(pd.Series(S), [-1, 0, 1, 2]),
    "pandas Int64": pd.array(S, dtype="Int64"),
    "pandas arrow integers": pd.Series(S, dtype="int64[pyarrow]"),
    "pandas arrow text": pd.Series(TEXT, dtype="string[pyarrow]"),
    "pandas sparse": pd.arrays.SparseArray(S),
    "pandas index": pd.Index(TEXT),
    "polars": pl.Series("s", S),
    "polars text": pl.Series("s", TEXT.tolist()),
    "polars categorical": pl.Series("s", TEXT.tolist(), dtype=pl.Categorical()),
    "polars enum": pl.Series("s", TEXT.tolist(), dtype=pl.Enum(["f", "m", "d"])),
    "pyarrow": pa.array(S),
    "pyarrow text": pa.array(TEXT),
    "pyarrow chunks": pa.chunked_array([TEXT[:20], TEXT[20:]]),
    "pyarrow dictionary": pa.array(TEXT).dictionary_encode(),
}
IN_TWO: dict[str, Any] = {
    "booleans": S > 0,
    "boolean objects": (S > 0).astype(object),
    "torch booleans": torch.from_numpy(S > 0),
    "pandas boolean": pd.array(S > 0, dtype="boolean"),
    "polars boolean": pl.Series("s", S > 0),
    "pyarrow boolean": pa.array(S > 0),
}
QUANTITIES: dict[str, Any] = {
    "floats": Q,
    "float32": Q.astype(np.float32),
    "long doubles": Q.astype(np.longdouble),
    "objects": Q.astype(object),
    "list": Q.tolist(),
    "integers and floats": [1, *Q[1:].tolist()],
    "torch": torch.from_numpy(Q),
    "bfloat16": torch.from_numpy(Q).bfloat16(),
    "fractions": [Fraction(round(100 * q), 100) for q in Q],
    "decimals": [Decimal(f"{q:.2f}") for q in Q],
    "pandas decimals": pd.Series([Decimal(f"{q:.2f}") for q in Q]),
    "polars decimals": pl.Series("s", [Decimal(f"{q:.2f}") for q in Q]),
    "pyarrow decimals": pa.array([Decimal(f"{q:.2f}") for q in Q], pa.decimal128(10, 2)),
    "pandas arrow decimals": pd.Series([Decimal(f"{q:.2f}") for q in Q], dtype=pd.ArrowDtype(pa.decimal128(10, 2))),
    "pandas Float64": pd.array(Q, dtype="Float64"),
    "polars": pl.Series("s", Q),
    "pyarrow": pa.array(Q),
}
CODED: dict[str, Any] = {
    "floats": S.astype(float),
    "float16": S.astype(np.float16),
    "decimals": [Decimal(int(s)) for s in S],
    "pandas Float64": pd.array(S.astype(float), dtype="Float64"),
    "torch": torch.from_numpy(S).float(),
}
MISSING: dict[str, Any] = {
    "NaN": np.array([np.nan, *Q[1:]]),
    "infinity": np.array([np.inf, *Q[1:]]),
    "torch NaN": torch.tensor([float("nan"), *Q[1:]]),
    "None": GAPPY,
    "None among integers": [None, *S[1:].tolist()],
    "NaN among text": [float("nan"), *TEXT[1:].tolist()],
    "decimal NaN": [Decimal("nan"), *map(Decimal, S[1:].tolist())],
    "masked": np.ma.masked_array(S, mask=np.arange(N) < 1),
    "masked floats": np.ma.masked_array(Q, mask=np.arange(N) < 1),
    "pandas text": pd.Series(GAPPY),
    "pandas string": pd.Series(GAPPY, dtype="string"),
    "pandas category": pd.Series(GAPPY, dtype="category"),
    "pandas Int64": pd.array([None, *S[1:]], dtype="Int64"),
    "pandas boolean": pd.array([None, *(S[1:] > 0)], dtype="boolean"),
    "pandas Float64": pd.array([None, *Q[1:]], dtype="Float64"),
    "polars": pl.Series("s", [None, *S[1:].tolist()]),
    "polars text": pl.Series("s", GAPPY),
    "polars boolean": pl.Series("s", [None, *(S[1:] > 0).tolist()]),
    "pyarrow": pa.array([None, *S[1:].tolist()]),
    "pyarrow text": pa.array(GAPPY),
}
REFUSED: dict[str, tuple[Any, str]] = {
    "dates": (DATES.to_numpy(), "holds dates or times .*astype"),
    "dates with a zone": (pd.Series(DATES.tz_localize("UTC")), "holds dates or times"),
    "date objects": ([datetime.date(2020, 1, 1 + int(s)) for s in S], "holds dates or times"),
    "spans": (DATES.to_numpy() - DATES.to_numpy()[0], "holds dates or times"),
    "polars dates": (pl.Series("s", DATES.to_pydatetime().tolist()), "holds dates or times"),
    "pyarrow dates": (pa.array(DATES.to_numpy()), "holds dates or times"),
    "text and numbers": (["f", 1] * 30, "mixes text and numbers"),
    "text and numbers in objects": (np.array(["f", 1, 2.5] * 20, dtype=object), "mixes text and numbers"),
    "dicts": ([{}] * N, "holds dict objects"),
    "sets": ([{1}, {2}] * 30, "holds set objects"),
    "enum members": ([Colour.RED, Colour.BLUE] * 30, r"holds Colour objects.*astype\(str\)"),
    "records": (np.zeros(N, [("a", int), ("b", int)]), "not numbers"),
    "rows of different lengths": ([[1, 2], [3]] * 30, "different lengths"),
    "a class a row, in text": ([f"id{i}" for i in range(N)], r"60 classes in 60 rows"),
    "a class a row, in integers": (np.arange(N), r"60 classes in 60 rows"),
}


def fit(z: Any, kind: Any) -> Taken:
    fitter = LeaceFitter.fit(X, z, kind=kind)
    return Taken(fitter.report.kind, fitter.z_dim if fitter.report.kind == "categorical" else 0)


def stream(z: Any, kind: Any) -> Taken:
    labels = read_labels(z, (N,), kind=kind).check(kind)
    fitter = LeaceFitter(4, labels.width, kind=kind).update(X, labels)
    return Taken(fitter.report.kind, fitter.z_dim if fitter.report.kind == "categorical" else 0)


def estimate(z: Any, kind: Any) -> Taken:
    made = LeaceTransformer(kind=kind).fit(X, sensitive_features=z)
    return Taken(made.report_.kind, len(made.encoder_.codes[0].classes or ()))


def audit(z: Any, kind: Any) -> Taken:
    labels = AuditLabels.of(z, "z", kind=None if kind == "auto" else kind)
    return Taken(labels.kind, len(labels.classes))


def scrub(z: Any, kind: Any) -> Taken:
    found = survey(Batches({"input_ids": torch.zeros(N, 5, dtype=torch.long)}, z), kind)
    return Taken("categorical", found.width) if found.categorical else Taken("continuous")


def scrub_column(z: Any, kind: Any) -> Taken:
    found = survey(Batches({"input_ids": torch.zeros(N, 5, dtype=torch.long), "z": z}, "z"), kind)
    return Taken("categorical", found.width) if found.categorical else Taken("continuous")


def join(z: Any, kind: Any) -> Taken:
    columns = join_concepts(z, kinds=[kind])
    return Taken("categorical", columns.shape[1]) if bool((columns.sum(1) == 1).all()) else Taken("continuous")


def files(z: Any, kind: Any) -> Taken:
    """What the command line makes of the labels of a file, once they are read."""
    (concept,) = learn(["z"], kind, [([part], 0) for part in np.array_split(read_column(z, "z").values, 3)])
    return Taken(concept.kind, len(concept.classes))


Door = Callable[[Any, Any], Taken]
DOORS: dict[str, Door] = {d.__name__: d for d in (fit, stream, estimate, audit, scrub, scrub_column, join, files)}
every_door = pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)


def table(inputs: dict[str, Any]) -> Any:
    return pytest.mark.parametrize("z", inputs.values(), ids=inputs)


@every_door
@table(IN_CLASSES)
def test_classes(door: Door, z: Any) -> None:
    assert door(z, "auto") == CLASSES


@every_door
@table(IN_TWO)
def test_two_classes(door: Door, z: Any) -> None:
    assert door(z, "auto") == Taken("categorical", 2)


@every_door
@table(QUANTITIES)
def test_quantities(door: Door, z: Any) -> None:
    assert door(z, "auto") == QUANTITY


@every_door
@table(CODED)
def test_classes_coded_as_floats_are_doubted_once(door: Door, z: Any) -> None:
    with pytest.warns(EffaceWarning) as said:
        assert door(z, "auto") == QUANTITY
    (only,) = {str(w.message) for w in said}
    assert only.endswith(
        "holds floats of 3 distinct whole values and is taken for a quantity: pass integers or kind='categorical' "
        "(--kind categorical) if they are classes, kind='continuous' if not"
    )
    assert len(said) == 1
    assert door(z, "continuous") == QUANTITY
    assert door(z, "categorical") == CLASSES


@every_door
def test_quantities_in_integers_are_doubted_once(door: Door) -> None:
    ages = np.arange(N) % 25
    with pytest.warns(EffaceWarning, match="holds 25 different integers, each taken for a class") as said:
        assert door(ages, "auto") == Taken("categorical", 25)
    assert len(said) == 1
    assert door(ages, "continuous") == QUANTITY
    assert door(ages, "categorical") == Taken("categorical", 25)


@every_door
def test_as_many_classes_as_rows_if_the_user_says_so(door: Door) -> None:
    assert door(np.arange(N), "categorical") == Taken("categorical", N)
    assert door(np.arange(N), "continuous") == QUANTITY


@every_door
@table(MISSING)
def test_missing_labels_are_refused(door: Door, z: Any) -> None:
    with pytest.raises(InputError, match=r"missing.* in 1 of \d+ rows \(first rows: 0\)"):
        door(z, "auto")


@every_door
@pytest.mark.parametrize(("z", "text"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_label_is_refused(door: Door, z: Any, text: str) -> None:
    if "different" in text and door in (scrub, scrub_column):
        return  # there it is labels of tokens
    with pytest.raises(InputError, match=text):
        door(z, "auto")


@pytest.mark.parametrize("door", [fit, stream, estimate, scrub, scrub_column], ids=lambda d: d.__name__)
def test_one_number_is_not_one_label_a_row(door: Door) -> None:
    with pytest.raises(InputError, match="shape|labels"):
        door(1, "auto")


@every_door
def test_text_is_no_quantity(door: Door) -> None:
    if door is not files:  # there it is about those concepts of a file that are numbers
        with pytest.raises(InputError, match="not numbers"):
            door(TEXT, "continuous")


@every_door
def test_a_kind_that_there_is_not(door: Door) -> None:
    with pytest.raises(InputError, match="unknown kind 'ordinal': choose one of auto, categorical, continuous"):
        door(S, "ordinal")


# --------------------------------------------------------------------------------------------- the same result


@pytest.mark.parametrize("z", [*IN_CLASSES.values()], ids=[*IN_CLASSES])
def test_classes_of_any_spelling_are_erased(z: Any) -> None:
    erased = LeaceEraser.fit(X, z, shrinkage=False)(X)
    means = np.stack([erased[s == S].mean(0) for s in range(3)])
    np.testing.assert_allclose(means, means[[0, 0, 0]], atol=1e-9)


@pytest.mark.parametrize("z", [*QUANTITIES.values()], ids=[*QUANTITIES])
def test_quantities_of_any_spelling_are_the_same(z: Any) -> None:
    expected = LeaceEraser.fit(X, Q)(X)
    np.testing.assert_allclose(LeaceEraser.fit(X, z)(X), expected, atol=1e-2 if "bfloat16" in str(z) else 1e-6)


def test_the_command_line_and_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.DataFrame(X, columns=list("abcd"))
    columns = {"text": TEXT, "huge": HUGE, "coded": S.astype(float), "price": [Decimal(f"{q:.2f}") for q in Q]}
    for name, z in columns.items():
        path = tmp_path / f"{name}.parquet"
        frame.assign(z=z).to_parquet(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a command says is no matter of Python's filters
            assert main(["fit", str(path), "--concept", "z", "-o", str(tmp_path / name)]) == 0
        said = capsys.readouterr()
        kind = json.loads((tmp_path / name / "concept.json").read_text())["concepts"][0]["kind"]
        assert kind == ("continuous" if name in ("coded", "price") else "categorical")
        assert ("3 distinct whole values" in said.err) == (name == "coded")


# ------------------------------------------------------------------------------------------- names of classes


def test_names_are_kept_by_the_fitter_the_eraser_and_their_files(tmp_path: Path) -> None:
    fitter = LeaceFitter.fit(X[:40], TEXT[:40])
    assert fitter.classes == fitter.report.classes == ("d", "f", "m")
    fitter.update(X[40:], TEXT[40:])
    numbers = np.searchsorted(["d", "f", "m"], TEXT)
    expected = LeaceFitter(4, 3, dtype=torch.float64).update(X[:40], numbers[:40]).update(X[40:], numbers[40:])
    assert torch.equal(fitter.eraser.proj_left, expected.eraser.proj_left)
    fitter.save(tmp_path / "fitter")
    again = LeaceFitter.load(tmp_path / "fitter")
    assert again.classes == fitter.copy().classes == (fitter + fitter).classes == ("d", "f", "m")
    fitter.eraser.save(tmp_path / "eraser")
    report = LeaceEraser.load(tmp_path / "eraser").report
    assert report is not None and report.classes == ("d", "f", "m")


@pytest.mark.parametrize("eraser", [OracleEraser, QuadraticEraser])
def test_erasers_that_take_labels_know_their_names(eraser: Any) -> None:
    fitted, numbers = eraser.fit(X, TEXT), np.searchsorted(["d", "f", "m"], TEXT)
    np.testing.assert_array_equal(fitted(X, TEXT), eraser.fit(X, numbers)(X, numbers))
    np.testing.assert_allclose(fitted(X[:1], TEXT[:1]), fitted(X, TEXT)[:1])
    with pytest.raises(InputError, match="has 'x' in 60 rows, but only 'd', 'f', 'm' were seen"):
        fitted(X, ["x"] * N)
    with pytest.raises(InputError, match="but only 'd', 'f', 'm' were seen"):
        fitted(X, numbers)


def test_names_do_not_change_on_the_way() -> None:
    for fitter in (LeaceFitter.fit(X, TEXT), QuadraticFitter.fit(X, TEXT)):
        with pytest.raises(InputError, match="has 'x' in 60 rows, but only"):
            fitter.update(X, ["x"] * N)
        with pytest.raises(InputError, match="but only"):
            fitter.update(X, S)
        assert int(fitter.n.sum()) == N
    with pytest.raises(InputError, match="held class numbers in earlier batches"):
        LeaceFitter(4, 3).update(X, S).update(X, TEXT)
    with pytest.raises(InputError, match="number them alike"):
        LeaceFitter.fit(X, TEXT).merge(LeaceFitter.fit(X, np.char.add(TEXT, "x")))


# ------------------------------------------------------------------------------------- rows that do not count


def test_labels_of_rows_that_do_not_count_do_not_matter() -> None:
    mask = np.arange(N) > 0
    expected = LeaceEraser.fit(X, S, mask=mask)
    for z in (np.ma.masked_array(S, mask=~mask), [None, *S[1:].tolist()], pd.array([None, *S[1:]], dtype="Int64")):
        assert torch.equal(LeaceEraser.fit(X, z, mask=mask).proj_left, expected.proj_left)
    assert torch.equal(LeaceEraser.fit(X, np.where(mask, S, -100), mask=mask).proj_left, expected.proj_left)
    names = LeaceFitter.fit(X, GAPPY, mask=mask)
    assert names.classes == ("d", "f", "m") and names.moments.n == N - 1
    quantity = LeaceEraser.fit(X, np.where(mask, Q, np.nan), mask=mask)
    assert torch.equal(quantity.proj_left, LeaceEraser.fit(X[1:], Q[1:]).proj_left)


def test_labels_of_tokens() -> None:
    ids, tags = torch.zeros(4, 3, dtype=torch.long), [["N", "V", "N"], ["V", "N"], ["N", "D", "V"], ["N"]]
    batches = Batches(ids, tags, batch_size=3)
    (first, last) = batches
    assert first.labels.tolist() == [[1, 2, 1], [2, 1, -100], [1, 0, 2]] and last.labels.tolist() == [[1, -100, -100]]
    assert survey(batches).width == 3 and survey(batches).classes == ("D", "N", "V")
    with pytest.raises(InputError, match="concept is missing"):
        Batches(ids, [[0, 1, 0], [None], [1], [0]])
    with pytest.raises(InputError, match=r"concept is missing.*ignore_index \(-100\)"):
        Batches(ids, [[0, 1, None]] * 4)
    with pytest.raises(InputError, match=r"concept is missing.*ignore_index \(-100\)"):
        Batches(ids, np.ma.masked_array(np.zeros((4, 3), int), mask=np.eye(4, 3, dtype=bool)))
    with pytest.raises(InputError, match="holds text, not numbers"):
        survey(Batches([{"input_ids": ids, "z": ["a", "b", "a", "b"]}], "z"))


def test_what_is_settled_is_not_said_again() -> None:
    with settled():
        assert LeaceFitter.fit(X, S.astype(float)).report.kind == "continuous"
    labels = Labels("z", "continuous", torch.from_numpy(S).double())
    assert LeaceFitter.fit(X, labels).report.kind == LeaceFitter(4, 1).update(X, labels).report.kind == "continuous"
    with pytest.warns(EffaceWarning, match="3 distinct") as said:
        fitter = LeaceFitter(4, 1)
        for i in range(0, N, 20):
            fitter.update(X[i : i + 20], S[i : i + 20].astype(float))
    assert len(said) == 1


def test_a_tally_of_a_stream_is_that_of_the_whole() -> None:
    whole, parts = Tally("z"), Tally("z")
    whole.add(S, "categorical")
    for part in np.array_split(S, 7):
        parts.add(part, "categorical")
    assert (whole.n, whole.classes) == (parts.n, parts.classes) == (N, {0, 1, 2})


# ------------------------------------------------------------------------------------------------- features too

FEATURES: dict[str, Any] = {
    "numpy": X,
    "Fortran": np.asfortranarray(X),
    "big-endian": X.astype(">f8"),
    "masked, nothing missing": np.ma.masked_array(X),
    "objects": X.astype(object),
    "lists": X.tolist(),
    "decimals": [[Decimal(repr(float(v))) for v in row] for row in X],
    "pandas": pd.DataFrame(X),
    "pandas Float64": pd.DataFrame(X).astype("Float64"),
    "polars": pl.DataFrame(X, schema=list("abcd"), orient="row"),
    "pyarrow": pa.table({k: X[:, i] for i, k in enumerate("abcd")}),
    "scipy": sp.csr_matrix(X),
    "scipy array": sp.coo_array(X),
    "torch": torch.from_numpy(X),
    "torch sparse": torch.from_numpy(X).to_sparse(),
    "list of tensors": list(torch.from_numpy(X)),
}


@table(FEATURES)
def test_features_of_any_container(z: Any) -> None:
    expected = LeaceEraser.fit(X, S)
    assert torch.equal(LeaceEraser.fit(z, S).proj_left, expected.proj_left)
    assert torch.equal(Moments(4).update(z).s_xx, Moments(4).update(X).s_xx)


def test_features_that_are_refused() -> None:
    hidden = np.ma.masked_array(X, mask=np.arange(4 * N).reshape(N, 4) == 4)
    for x in (hidden, pd.DataFrame(X).mask(hidden.mask).astype("Float64").astype(object).where(~hidden.mask, pd.NA)):
        with pytest.raises(InputError, match=r"missing values .* 1 of 60 rows \(first rows: 1\)"):
            LeaceEraser.fit(x, S)
    with pytest.raises(InputError, match="missing values"):
        LeaceTransformer().fit(hidden, sensitive_features=S)
    with pytest.raises(InputError, match="above 2\\*\\*63 that float64 does not hold exactly"):
        LeaceEraser.fit(np.full((N, 4), 2**63 + 1, np.uint64), S)
    big = sp.csr_matrix((10**6, 10**5))
    with pytest.raises(InputError, match=r"sparse and would take .* fitter.update\(x\[i : i \+ 1000\]"):
        read_array(big, "x")


def test_memory_is_shared_where_it_can_be() -> None:
    for x in (X, torch.from_numpy(X), pd.DataFrame(X)[0], np.ma.masked_array(X)):
        before = x.data_ptr() if isinstance(x, torch.Tensor) else np.asarray(x).__array_interface__["data"][0]
        assert read_array(x, "x").tensor("x").data_ptr() == before


def test_what_was_fitted_in_inference_mode_serves_in_training() -> None:
    x, z = torch.from_numpy(X), torch.from_numpy(S)
    with torch.inference_mode():
        fitter = LeaceFitter(4, 3).update(x, z)
        erasers = [kind.fit(x * 1, z * 1) for kind in (LeaceEraser, OracleEraser, QuadraticEraser)]
    fitter.update(x, z)
    for eraser in erasers:
        leaf = x.clone().requires_grad_()
        eraser(leaf, *[z] * eraser.takes_labels).sum().backward()
        assert leaf.grad is not None


# ----------------------------------------------------------------------------------------------- converted once


def test_a_fit_reads_features_and_labels_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def count(value: Any, name: str) -> Any:
        read.append(name)
        return read_array(value, name)

    monkeypatch.setattr("efface._validate.read_array", count)
    monkeypatch.setattr("efface.core.row_labels.read_array", count)
    for eraser in (LeaceEraser, OracleEraser, QuadraticEraser):
        read.clear()
        eraser.fit(X, S, mask=np.ones(N, bool), weight=np.ones(N))
        assert sorted(read) == ["mask", "weight", "x", "z"]


@pytest.mark.parametrize("value", [np.array(4), torch.tensor(4), np.datetime64("2020-01-01")])
def test_one_value_is_no_group_of_each_row(value: object) -> None:
    with pytest.raises(InputError, match=r"groups is a single value, expected \(n,\)"):
        read_groups(value)
