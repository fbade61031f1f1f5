"""Files erased into a folder: each whole or not there, done once, and never mixed with another's."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from efface import LeaceEraser, OracleEraser
from efface._errors import FormatError, InputError
from efface.engines import writing
from efface.engines.writing import Order, Written, begun, erased_table, order_of, write_file, written
from efface.streams import open_source

COUNTS, WIDTH = (30, 0, 25), 4


def rows() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    z = rng.integers(0, 2, sum(COUNTS))
    return (rng.normal(size=(len(z), WIDTH)) + z[:, None]).astype("f4"), np.array(["a", "b"])[z]


def table() -> pa.Table:
    x, z = rows()
    lists = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), WIDTH)
    return pa.table({"id": np.arange(len(z)), "x": lists, "z": z})


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a folder in it; one of three files has no rows."""
    folder, start = tmp_path / "in", 0
    (folder / "sub").mkdir(parents=True)
    for name, count in zip(("a", "sub/a", "sub/ü b"), COUNTS, strict=True):
        pq.write_table(table().slice(start, count), folder / f"{name}.parquet")
        start += count
    return folder


def eraser(**options: Any) -> LeaceEraser:
    x, z = rows()
    return LeaceEraser.fit(x, z, **options)


def run(order: Order, source: Any, folder: Path) -> Written:
    return written(folder, [write_file(order, a, b, folder) for a, b in begun(order, source, folder)])


def read(folder: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(file) for file in sorted(folder.rglob("*.parquet")))


def test_rows_are_those_of_the_eraser_and_all_else_is_kept(files: Path, tmp_path: Path) -> None:
    order, source = order_of(eraser(), "x", None, chunk_rows=7), open_source(files / "**" / "*.parquet")
    out = tmp_path / "new" / "out"
    done = run(order, source, out)
    assert (done.files, done.rows, done.kept) == (3, 55, 0)
    names = sorted(file.relative_to(out).as_posix() for file in out.rglob("*.parquet"))
    assert names == ["a.parquet", "sub/a.parquet", "sub/ü b.parquet"]
    found = read(out)
    assert found.schema.equals(table().schema) and found.drop_columns(["x"]).equals(table().drop_columns(["x"]))
    right = np.asarray(order.eraser(rows()[0]))
    assert np.allclose(found.column("x").combine_chunks().flatten().to_numpy().reshape(-1, WIDTH), right, atol=1e-6)
    assert open_source(out / "**" / "*.parquet").rows == 55  # and can be read as one
    with pytest.raises(InputError, match="has folders in it"):
        open_source(out)


def test_what_is_done_is_compared_and_left(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order, source, out = order_of(eraser(), "x", None), open_source(files / "**" / "*.parquet"), tmp_path / "out"
    writes = writing._write

    def stops(order: Order, path: Path, target: Path, look: Any) -> int:
        if target.name == "ü b.parquet":
            raise KeyboardInterrupt
        return writes(order, path, target, look)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(writing, "_write", stops)
        run(order, source, out)
    times = {file: file.stat().st_mtime_ns for file in out.rglob("*.parquet")}
    assert len(times) == 2
    assert run(order, source, out) == Written(out, 3, 55, 2)
    assert {file: file.stat().st_mtime_ns for file in times} == times
    before = (out / "a.parquet").read_bytes()
    for damaged in (before[:-1], before[:-9] + b"x" + before[-8:], b""):
        (out / "a.parquet").write_bytes(damaged)
        assert run(order, source, out).kept == 2 and (out / "a.parquet").read_bytes() == before
    (out / "a.parquet").unlink()
    (out / "_efface" / "sub" / "a.parquet.json").write_text("{")
    assert run(order, source, out).kept == 1
    assert run(order, source, out).kept == 3
    assert not [*out.rglob(".*")]


def test_a_file_that_fails_leaves_none(files: Path, tmp_path: Path) -> None:
    bad = table().slice(0, 3).to_pylist()
    bad[2]["x"] = None
    pq.write_table(pa.Table.from_pylist(bad, table().schema), files / "b.parquet")
    source, out = open_source(files / "*.parquet"), tmp_path / "out"
    with pytest.raises(InputError, match=r"column 'x' of .*b\.parquet has missing values .*: 2\)"):
        run(order_of(eraser(), "x", None), source, out)
    assert sorted(file.name for file in out.iterdir()) == ["_efface", "_efface.json", "a.parquet"]
    dropped = run(order_of(eraser(), "x", None, missing="drop"), source, tmp_path / "dropped")
    assert dropped.rows == 32
    narrow = LeaceEraser.fit(rows()[0][:, :3], rows()[1])
    with pytest.raises(InputError, match=r"x of .*a\.parquet: x has shape .* fitted on width 3"):
        run(order_of(narrow, "x", None), source, tmp_path / "narrow")
    means = torch.tensor([1.0, 2.0, 3.0, 4.0])
    filled = run(order_of(eraser(), "x", None, missing="mean", means=means), source, tmp_path / "filled")
    assert filled.rows == 33
    found = pq.read_table(tmp_path / "filled" / "b.parquet")["x"][2].as_py()
    assert np.allclose(found, eraser()(means[None])[0])


def test_a_file_that_loses_all_rows_is_written_without_any(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    none = pa.table({"x": pa.array([None, None], table().schema.field("x").type), "z": ["a", "b"]})
    pq.write_table(none, tmp_path / "in" / "a.parquet")
    pq.write_table(table().select(["x", "z"]), tmp_path / "in" / "b.parquet")
    out = tmp_path / "out"
    assert run(order_of(eraser(), "x", None, missing="drop"), open_source(tmp_path / "in"), out).rows == sum(COUNTS)
    assert pq.read_metadata(out / "a.parquet").num_rows == 0
    assert pq.read_schema(out / "a.parquet").equals(pq.read_schema(out / "b.parquet"))


def test_a_folder_of_another_eraser_or_other_files_is_refused(files: Path, tmp_path: Path) -> None:
    order, source, out = order_of(eraser(), "x", None), open_source(files / "**" / "*.parquet"), tmp_path / "out"
    run(order, source, out)
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    for other, text in (
        (order_of(eraser(method="orth"), "x", None), "begun with another eraser"),
        (order_of(order.eraser, "x", None, missing="drop"), "begun with other missing"),
        (order_of(order.eraser, "id", None), "begun with other features"),
    ):
        with pytest.raises(InputError, match=f"{text}: name another folder, or delete it"):
            run(other, source, out)
    with pytest.raises(InputError, match="begun with other files"):
        run(order, open_source(files / "*.parquet"), out)
    os.utime(files / "a.parquet", ns=(1, 1))
    with pytest.raises(InputError, match="begun with other files, or files that were changed"):
        run(order, source, out)
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before
    for text, error in (("[]", "damaged: it is no manifest"), ("{", "cannot be read"), ("{}", "has no")):
        (out / "_efface.json").write_text(text)
        with pytest.raises(FormatError, match=error):
            run(order, source, out)
    (out / "_efface.json").write_text(json.dumps({"format_version": 99}))
    with pytest.raises(FormatError, match="has format 99, this efface reads up to 1: upgrade"):
        run(order, source, out)


def test_where_files_may_not_go(files: Path, tmp_path: Path) -> None:
    order, source = order_of(eraser(), "x", None), open_source(files / "**" / "*.parquet")
    for folder in (files, files / "sub", tmp_path):
        with pytest.raises(InputError, match="is a folder that is read"):
            run(order, source, folder)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.txt").touch()
    with pytest.raises(InputError, match="has something in it that was not begun here"):
        run(order, source, tmp_path / "other")
    with pytest.raises(InputError, match="is a file: name a folder"):
        run(order, source, tmp_path / "other" / "x.txt")
    for folder in (None, 3):
        with pytest.raises(InputError, match="the folder to write to is a"):
            run(order, source, folder)  # type: ignore[arg-type]
    for spec, folder in ((files, files / "new"), (files / "**" / "*.parquet", files / "new" / "deep")):
        with pytest.raises(InputError, match="lies in what is read, .*: name a folder beside it"):
            begun(order, source, folder, [spec])
    begun(order, source, tmp_path / "in" / "_new", [files])  # names that are no data
    begun(order_of(eraser(method="orth"), "x", None), source, tmp_path / "in" / "_new")  # nothing was done by the other
    assert [*files.iterdir()] and [*(tmp_path / "in" / "_new").iterdir()] == [tmp_path / "in" / "_new" / "_efface.json"]
    with pytest.raises(InputError, match="has no column 'y'"):
        run(order_of(eraser(), "y", None), source, tmp_path / "new")
    np.save(tmp_path / "x.npy", rows()[0])
    with pytest.raises(InputError, match=r"x\.npy is no \.parquet file"):
        run(order_of(eraser(), "0", None), open_source(tmp_path / "x.npy"), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_erasers_that_take_labels(files: Path, tmp_path: Path) -> None:
    x, z = rows()
    oracle = OracleEraser.fit(x, z)
    done = run(order_of(oracle, "x", "z"), open_source(files / "**" / "*.parquet"), tmp_path / "out")
    found = read(tmp_path / "out").column("x").combine_chunks().flatten().to_numpy().reshape(-1, WIDTH)
    assert done.rows == 55 and np.allclose(found, oracle(x, z), atol=1e-6)
    with pytest.raises(InputError, match="OracleEraser needs the labels of the rows"):
        order_of(oracle, "x", None)
    with pytest.raises(InputError, match="LeaceEraser takes no labels: leave out z_columns"):
        order_of(eraser(), "x", "z")
    with pytest.raises(InputError, match="z_columns names 2 columns"):
        order_of(oracle, "x", ["z", "id"])
    named = LeaceEraser.fit(pd.DataFrame(x, columns=[*"abcd"]), z)
    for columns, text in (
        ([*"abdc"], "x_columns has the columns of the fit in another order"),
        ([*"abce"], "lacks 'd'"),
    ):
        with pytest.raises(InputError, match=text):
            order_of(named, columns, None)
    assert order_of(named, "lists", None).features == ("lists",)
    for odd in (None, LeaceEraser, torch.zeros(2), "eraser"):
        with pytest.raises(InputError, match="eraser is a .*: give what a fit returned"):
            order_of(odd, "x", None)


def test_integers_become_floats_in_every_file_alike(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    columns = {"a": pa.int64(), "b": pa.int8(), "c": pa.float32(), "d": pa.list_(pa.int16(), 1)}
    for name, count in (("a", 40), ("b", 0)):
        values = {n: pa.array([[i % 5] if n == "d" else i % 7 for i in range(count)], t) for n, t in columns.items()}
        pq.write_table(pa.table(values), tmp_path / "in" / f"{name}.parquet")
    x = np.random.default_rng(0).normal(size=(50, 4))
    order = order_of(LeaceEraser.fit(x, x[:, 0] > 0), [*columns], None)
    run(order, open_source(tmp_path / "in"), tmp_path / "out")
    full, empty = (pq.read_schema(tmp_path / "out" / f"{name}.parquet") for name in "ab")
    assert full.equals(empty) and open_source(tmp_path / "out").rows == 40


def test_a_batch_for_other_engines() -> None:
    order = order_of(eraser(), "x", None)
    for batch in (table(), table().to_batches()[0], table().slice(0, 0)):
        found = erased_table(order, batch)
        assert type(found) is type(batch)
        assert found.num_rows == batch.num_rows and found.schema.equals(table().schema)
    right = np.asarray(order.eraser(rows()[0]))
    assert np.array_equal(erased_table(order, table())["x"].combine_chunks().flatten().to_numpy(), right.ravel())
