"""A fit in parts: any parts merge to the sums of one process, whatever they are read from."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from efface._errors import FormatError, InputError
from efface.core.method import get_method
from efface.engines.parts import Job, fitter_of, from_bytes, merged_sums, part_of, part_rows, sums_of, to_bytes
from efface.engines.tree import merged
from efface.streams import open_source
from efface.streams.concepts import Concept, Learner
from efface.streams.inputs import Inputs, Labels
from efface.streams.pieces import RowsOf, borders, place_of

ROWS, WIDTH, CLASSES = 500, 6, ("a", "b", "c")


def data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows far from zero, text, and quantities."""
    rng = np.random.default_rng(0)
    z = rng.integers(0, 3, ROWS)
    x = rng.normal(size=(ROWS, WIDTH)) + 1e4
    x[:, 0] += z
    return x, np.array(CLASSES)[z], x[:, 1] - 1e4 + rng.normal(size=ROWS)


def table() -> pa.Table:
    x, z, q = data()
    rows = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), WIDTH)
    return pa.table({"x": rows, "z": z, "q": q})


@pytest.mark.parametrize("method", ["leace", "orth", "mean-difference", "oracle", "quadratic"])
@pytest.mark.parametrize("cuts", [[250], [1, 2, 3, 499], [0, 0, 100, 100, 500]], ids=["even", "uneven", "empty"])
def test_parts_merge_to_the_eraser_of_one_process(method: str, cuts: list[int]) -> None:
    x, z, _ = data()
    job = Job(method, ("x",), (Concept("z", "categorical", CLASSES, 3),), chunk_rows=60)
    bounds = [0, *cuts, ROWS]
    parts = [[table().slice(a, b - a)] for a, b in zip(bounds, bounds[1:], strict=False)]
    whole = merged(partial(merged_sums, job), (from_bytes(to_bytes(sums_of(job, part))) for part in parts))
    found = fitter_of(job, whole).eraser
    codes = np.searchsorted(CLASSES, z)
    right = get_method(method, "rows").fitter.fit(x, codes, kind="categorical", dtype=torch.float64).eraser
    assert whole["rows"] == whole["seen"] == ROWS
    for name, value in right.tensors().items():
        assert float((found.tensors()[name] - value).norm() / value.norm().clamp_min(1e-300)) < 1e-11, name


def test_several_concepts_and_rows_left_out() -> None:
    x, z, q = data()
    rows = table().to_pylist()
    rows[7]["q"] = rows[9]["z"] = None
    gaps = pa.Table.from_pylist(rows, table().schema)
    concepts = (Concept("z", "categorical", CLASSES, 3), Concept("q", "continuous"))
    job = Job("leace", ("x",), concepts, missing="drop", chunk_rows=60)
    whole = merged(partial(merged_sums, job), [sums_of(job, [gaps.slice(a, 100)]) for a in range(0, ROWS, 100)])
    kept = np.delete(np.arange(ROWS), [7, 9])
    columns = np.column_stack([(z[:, None] == np.array(CLASSES)), q])[kept].astype(float)
    right = get_method("leace").fitter.fit(x[kept], columns, dtype=torch.float64)
    assert whole["rows"] == 498 and whole["seen"] == 500
    assert torch.allclose(fitter_of(job, whole).sigma_xz, right.sigma_xz, rtol=1e-11, atol=1e-11)
    with pytest.raises(InputError, match=r"column 'z' of the tables has missing values in 1 of 60 rows"):
        sums_of(Job("leace", ("x",), concepts, chunk_rows=60), [gaps])
    with pytest.raises(InputError, match="has no row without a missing value: there is nothing to fit on"):
        fitter_of(job, sums_of(job, [gaps.slice(7, 1)]))


def test_parts_of_another_width_or_type_are_refused_by_name() -> None:
    job = Job("leace", ("x",), (Concept("z", "continuous"),))

    def state(width: int, type_: pa.DataType, where: str) -> dict:
        rows = pa.table({"x": pa.array([[1.0] * width] * 2, pa.list_(type_)), "z": [0.5, 1.5]})
        return sums_of(job, job.inputs([rows], where))

    first = state(3, pa.float64(), "a.parquet")
    with pytest.raises(InputError, match=r"rows have 3 numbers in a\.parquet and 4 in b\.parquet"):
        merged_sums(job, first, state(4, pa.float64(), "b.parquet"))
    with pytest.raises(InputError, match=r"rows have float64 .*in a\.parquet and float32 in b\.parquet"):
        merged_sums(job, first, state(3, pa.float32(), "b.parquet"))
    for bad in (b"", b"{}", to_bytes(first)[:-8], np.arange(9).tobytes()):
        with pytest.raises(FormatError, match="these bytes are no state of a part"):
            from_bytes(bad)


@pytest.mark.parametrize("missing", [None, "drop"])
def test_what_is_refused_names_the_row_of_the_whole(tmp_path: Path, missing: Literal["drop"] | None) -> None:
    x, z, _ = data()
    x[321, 2] = np.inf
    rows: list[Any] = [*x]
    q: list[Any] = [0.5] * ROWS
    q[430] = np.inf
    if missing:
        rows[200] = rows[319] = q[410] = None  # which are left out, and counted all the same
    pq.write_table(pa.table({"x": rows, "z": z, "q": q}), tmp_path / "a.parquet", row_group_size=100)
    source = open_source(tmp_path / "a.parquet")
    inputs = Inputs(source, ("x",), (Labels("z", "z"),), missing)
    labels = Inputs(source, (), (Labels("q", "q"),), missing).labels_only(50)
    with pytest.raises(InputError, match=r"q is missing, NaN or infinite \(inf\) .*\(first rows: 430\)"):
        [Learner("q", "continuous").update(values[0], index) for values, index in labels]
    job = Job("leace", ("x",), (Concept("z", "categorical", ("a", "b"), 2),), chunk_rows=50)
    assert borders(source) == [0, 100, 200, 300, 400, 500]
    assert [*part_rows(source, 150)] == [(0, 200), (200, 400), (400, 500)]
    first = 201 if missing else 200
    first_c = int(np.argmax(z[first:] == "c")) + first
    with pytest.raises(InputError, match=rf"z has the label c in row {first_c}, which"):
        sums_of(job, part_of(inputs, 200, 400))
    job = Job("leace", ("x",), (Concept("z", "categorical", CLASSES, 3),), chunk_rows=50)
    with pytest.raises(InputError, match=r"a\.parquet .*\(first rows: 321\)"):
        sums_of(job, part_of(inputs, 200, 400))


def test_rows_of_a_source_in_any_chunking(tmp_path: Path) -> None:
    for i, n in enumerate((3, 1, 6)):
        pq.write_table(pa.table({"v": np.arange(n) + 10.0 * i}), tmp_path / f"{i}.parquet", row_group_size=2)
    source = open_source(tmp_path)
    every = torch.cat([c.numbers(["v"]) for c in source.chunks(100)])
    assert place_of(source, 3) == (str(tmp_path / "1.parquet"), 0)
    assert place_of(RowsOf(source, 0, 9).source, 9) == (str(tmp_path / "2.parquet"), 5)
    for first, last in ((0, 10), (2, 3), (3, 9), (5, 5)):
        for rows in (1, 2, 3, 50):
            for start in range(last - first + 1):
                chunks = [*RowsOf(source, first, last).select(["v"]).chunks(rows, start=start)]
                assert [c.first_row for c in chunks] == [*range(first + start, last, rows)]
                assert all(len(c) == rows for c in chunks[:-1])
                found = torch.cat([torch.zeros(0, 1), *(c.numbers(["v"]) for c in chunks)])
                assert torch.equal(found, every[first + start : last])


def test_rows_that_nobody_counted_cannot_be_parted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("v\n1\n")
    with pytest.raises(InputError, match=r"a\.csv: how many rows a \.csv file has is not known .* write \.parquet"):
        next(part_rows(open_source(tmp_path / "a.csv")))
