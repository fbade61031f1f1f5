"""Several files as one: the same rows in any chunking; what does not go together is refused, nothing is left out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from efface._errors import FormatError, InputError
from efface.cli import main
from efface.core import checkpoint
from efface.streams import column_names, files_of, named_files, open_sink, open_source
from efface.streams.source import row_of
from tests.unit.test_streams import FORMATS, SUFFIXES, read, rows_like, write

COUNTS = (5, 1, 9, 8)


def in_parts(folder: Path, suffix: str, x: torch.Tensor) -> Path:
    """Rows over files of unequal length, whose names sort otherwise than they were written."""
    folder.mkdir()
    for name, part in reversed([*zip("abcd", x.split([*COUNTS]), strict=True)]):
        write(folder / f"{name}{suffix}", part)
    return folder


@pytest.mark.parametrize(("suffix", "dtype"), FORMATS)
def test_files_are_read_as_one_in_any_chunking(tmp_path: Path, suffix: str, dtype: torch.dtype) -> None:
    x = rows_like(dtype)
    folder = in_parts(tmp_path / "two words, ü", suffix, x)
    source = open_source(folder)
    assert source.rows == (None if suffix == ".csv" else 23) and len(files_of(source)) == 4
    expected = x.double() if suffix == ".csv" else x
    for rows in (1, 5, 6, 7, 23, 100):
        for start in (0, 4, 5, 6, 15, 22, 23):
            chunks = [*source.chunks(rows, start=start)]
            assert [len(chunk) for chunk in chunks[:-1]] == [rows] * len(chunks[:-1])
            assert [chunk.first_row for chunk in chunks] == [*range(start, 23, rows)]
            found = [chunk.numbers(column_names(source)) for chunk in source.select(column_names(source)).chunks(rows)]
            assert torch.equal(torch.cat(found), expected)
    assert torch.equal(read(open_source(str(folder / f"*{suffix}")), 7), expected)
    turned = open_source([folder / f"{name}{suffix}" for name in "dcba"])  # a list stays in its order
    assert torch.equal(read(turned, 7), torch.cat([*expected.split([*COUNTS])][::-1]))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_written_as_one_file(tmp_path: Path, suffix: str) -> None:
    x = rows_like(torch.float64)
    source = open_source(in_parts(tmp_path / "parts", suffix, x))
    names = column_names(source)
    with open_sink(tmp_path / f"one{suffix}", like=source, features=names) as sink:
        for chunk in source.select(names, rest=True).chunks(7):
            sink.write(chunk.replace(names, -chunk.numbers(names)))
    assert torch.equal(read(open_source(tmp_path / f"one{suffix}"), 7), -x)


def test_what_is_missing_and_left_out_across_files(tmp_path: Path) -> None:
    for name, values in {"a": [1.0, None], "b": [None], "c": [3.0, 4.0]}.items():
        frame = pd.DataFrame({"v": values, "l": [[x or 0.0, 1.0] for x in values]})
        frame.to_parquet(tmp_path / f"{name}.parquet")
    (chunk,) = open_source(tmp_path).chunks(10)
    assert chunk.gaps(["v"]).tolist() == [False, True, True, False, False]
    kept = chunk.keep(~chunk.gaps(["v"]))
    assert len(kept) == 3 and kept.numbers(["v", "l"])[:, 0].tolist() == [1.0, 3.0, 4.0]
    assert len(kept.keep(np.zeros(3, bool))) == 0
    assert [row_of(kept.index, i) for i in range(3)] == [0, 3, 4]
    assert row_of(kept.keep(np.array([False, True, True])).index, 1) == 4
    with pytest.raises(InputError, match=r"column 'v' of .*b\.parquet has missing values in 1 of 1 rows.*: 0\)"):
        chunk.keep(np.array([1, 0, 1, 1, 1], bool)).numbers(["v"])


def test_what_spark_and_hadoop_leave_beside_files_is_no_data(tmp_path: Path) -> None:
    pq.write_table(pa.table({"v": [1.0]}), tmp_path / "part-0.parquet")
    pq.write_table(pa.table({"v": pa.array([], pa.float64())}), tmp_path / "part-1.parquet")  # of an empty partition
    for name in ("_SUCCESS", ".part-0.parquet.crc", "_metadata", "_common_metadata"):
        (tmp_path / name).touch()
    for spec in (tmp_path, tmp_path / "*"):
        source = open_source(spec)
        assert source.rows == 1 and len(files_of(source)) == 2 and read(source, 5).tolist() == [[1.0]]


# What does not go together


def table(folder: Path, name: str, **columns: Any) -> None:
    pq.write_table(pa.table(columns), folder / name)


def f32(*values: Any) -> pa.Array:
    return pa.array(values, pa.float32())


def lists(width: int, type_: Any = None) -> pa.Array:
    return pa.array([[1.0] * width] * 2, type_ or pa.list_(pa.float32()))


A, B = r".*a\.parquet", r".*b\.parquet"
DRIFT = {
    "missing": ({"v": f32(1), "w": f32(1)}, {"v": f32(1)}, f"{B} has no column 'w', which holds float in {A}"),
    "new": ({"v": f32(1)}, {"v": f32(1), "w": f32(1)}, f"{B} has a column 'w', which holds float, and {A} has not"),
    "type": ({"v": f32(1)}, {"v": pa.array([1.0])}, f"'v' holds float in {A} and double in {B}"),
    "kind": ({"v": f32(1)}, {"v": ["x"]}, f"'v' holds float in {A} and text in {B}"),
    "order": ({"v": f32(1), "w": f32(1)}, {"w": f32(1), "v": f32(1)}, f"{B} has the columns of {A} in another order"),
    "fixed width": (
        {"v": lists(2, pa.list_(pa.float32(), 2))},
        {"v": lists(3, pa.list_(pa.float32(), 3))},
        rf"'v' holds fixed_size_list<.*>\[2\] in {A} and fixed_size_list<.*>\[3\] in {B}",
    ),
    "values": ({"v": lists(2)}, {"v": lists(2, pa.list_(pa.float64()))}, f"list<float> in {A} and list<double> in {B}"),
}


@pytest.mark.parametrize(("first", "second", "text"), DRIFT.values(), ids=DRIFT)
def test_drift_of_the_schema_is_refused_when_opened(tmp_path: Path, first: Any, second: Any, text: str) -> None:
    table(tmp_path, "a.parquet", **first)
    table(tmp_path, "b.parquet", **second)
    with pytest.raises(InputError, match=text):
        open_source(tmp_path)


def test_a_column_of_gaps_has_any_type_and_hides_no_drift(tmp_path: Path) -> None:
    table(tmp_path, "a.parquet", v=pa.nulls(1))
    table(tmp_path, "b.parquet", v=f32(1))
    (chunk,) = open_source(tmp_path).chunks(2)
    assert chunk.gaps(["v"]).tolist() == [True, False] and chunk.numbers(["v"], gaps=True)[1].tolist() == [1.0]
    table(tmp_path, "c.parquet", v=[1.0])
    with pytest.raises(InputError, match=rf"'v' holds float in {B} and double in .*c\.parquet"):
        open_source(tmp_path)


def test_drift_of_width_is_refused_when_it_is_read(tmp_path: Path) -> None:
    table(tmp_path, "a.parquet", v=lists(2), u=[1.0, 1.0])
    table(tmp_path, "b.parquet", v=lists(3), u=[1.0, 1.0])
    for rows in (1, 4):
        with pytest.raises(InputError, match=f"'v' has lists of 2 numbers in {A} and of 3 in {B}"):
            read(open_source(tmp_path), rows)


def test_how_lists_and_texts_are_laid_out_does_not_matter(tmp_path: Path) -> None:
    table(tmp_path, "a.parquet", v=lists(2), t=["x", "y"])
    table(tmp_path, "b.parquet", v=lists(2, pa.large_list(pa.float32())), t=pa.array(["x", "z"], pa.large_string()))
    source = open_source(tmp_path)
    assert next(source.select(["v"]).chunks(4)).numbers(["v"]).shape == (4, 2)
    with open_sink(tmp_path / "c.parquet", like=source, features=["v"]) as sink:
        sink.write(next(source.chunks(4)))
    assert pq.read_table(tmp_path / "c.parquet").column("t").to_pylist() == ["x", "y", "x", "z"]


@pytest.mark.parametrize("other", ["007", "2.5", "True"])
def test_labels_that_csv_files_write_otherwise_are_refused(tmp_path: Path, other: str) -> None:
    (tmp_path / "a.csv").write_text("v,z\n1,1\n2,0\n")
    (tmp_path / "b.csv").write_text(f"v,z\n1.5,{other}\n")
    with pytest.raises(InputError, match=r"'z' holds .* in .*a\.csv and .* in .*b\.csv"):
        open_source(tmp_path).select(["v"], ["z"])
    (tmp_path / "b.csv").write_text("v,z\n1.5,\n")  # nothing but gaps is like anything
    assert open_source(tmp_path).select(["v"], ["z"])


def test_arrays_of_other_widths_types_or_files_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 3), "f4"))
    for other, text in ((np.zeros((2, 4), "f4"), "rows of 4 float32"), (np.zeros((2, 3)), "rows of 3 float64")):
        np.save(tmp_path / "b.npy", other)
        with pytest.raises(InputError, match=rf"a\.npy holds rows of 3 float32 and .*b\.npy {text}"):
            open_source(tmp_path)
    (tmp_path / "b.npy").rename(tmp_path / "b.csv")
    with pytest.raises(InputError, match=r"a\.npy \(\.npy\) and .*b\.csv \(\.csv\) are of several formats"):
        open_source(tmp_path)


# What is not there, or not meant


def test_what_was_named_must_be_there_once_and_be_files(tmp_path: Path) -> None:
    table(tmp_path, "a.parquet", v=[1.0])
    file = tmp_path / "a.parquet"
    link = tmp_path / "b.parquet"
    link.symlink_to(file)
    for twice in ([file, file], [str(file), tmp_path / "a*"], tmp_path):
        with pytest.raises(InputError, match="is there twice in .*: its rows would count twice"):
            open_source(twice)
    link.unlink()
    with pytest.raises(FileNotFoundError, match=r"no file is called like .*\*\.npy"):
        open_source(tmp_path / "*.npy")
    with pytest.raises(InputError, match="there are no files: name at least one"):
        open_source([])
    for odd in (None, 3, [None], [[file]], b"a", [file, 2.0], {"a": 1}):
        with pytest.raises(InputError, match=r"the path is a \w+, expected text or a pathlib"):
            open_source(odd)  # type: ignore[arg-type]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty is an empty folder: expected files"):
        open_source(tmp_path / "empty")
    with pytest.raises(InputError, match=r"has folders in it \(empty\): name the files, as in '.*\*\*/\*\.parquet'"):
        open_source(tmp_path)
    assert read(open_source(tmp_path / "**" / "*.parquet"), 3).tolist() == [[1.0]]


def test_columns_in_names_of_folders_are_not_lost(tmp_path: Path) -> None:
    pq.write_to_dataset(pa.table({"v": [1.0, 2.0], "z": ["x", "y"]}), tmp_path, partition_cols=["z"])
    with pytest.raises(InputError, match=r"is partitioned into folders \(z=x, z=y\), whose names hold a column"):
        open_source(tmp_path)


def test_a_folder_with_other_files_is_not_read_in_part(tmp_path: Path) -> None:
    table(tmp_path, "a.parquet", v=[1.0])
    (tmp_path / "b.parquet.tmp").touch()
    with pytest.raises(InputError, match=r"b\.parquet\.tmp in it, which is none of .*: name the files that are meant"):
        open_source(tmp_path)
    (tmp_path / "b.parquet.tmp").rename(tmp_path / "b.parquet")
    with pytest.raises(InputError, match=r"b\.parquet is empty \(0 bytes\)"):
        open_source(tmp_path)
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    with pytest.raises(FormatError, match=r"b\.parquet cannot be read: the \.parquet file is truncated"):
        open_source(tmp_path)


def test_names_with_signs_of_patterns_are_files_if_they_are_there(tmp_path: Path) -> None:
    table(tmp_path, "a[1]*.parquet", v=[1.0])
    assert files_of(open_source(tmp_path / "a[1]*.parquet")) == (tmp_path / "a[1]*.parquet",)
    assert named_files([tmp_path, tmp_path / "none*"]) == [tmp_path / "a[1]*.parquet", tmp_path / "none*"]


# On the command line


@pytest.fixture
def people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """A table, in one file and in parts."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    z = rng.integers(0, 3, 200)
    frame = pd.DataFrame(rng.normal(size=(200, 4)) + 3 * np.eye(3, 4)[z], columns=list("abcd"))
    frame["group"], frame["city"] = np.array(["north", "south", "été"])[z], np.array(["Rome", "Oslo"])[z % 2]
    Path("parts").mkdir()
    frame.to_parquet("one.parquet")
    for i, (start, stop) in enumerate([(0, 7), (7, 150), (150, 200)]):
        frame[start:stop].to_parquet(f"parts/{i}.parquet", index=False)
    np.save("z.npy", z)
    return frame


def fitted(*argv: str, concept: str = "group") -> str:
    """The tensors of an eraser that the command line makes."""
    named = ["--exclude", "group"] if concept != "group" else []
    assert main(["fit", *argv, "--concept", concept, *named, "--one-hot", "city", "--chunk-rows", "40", "-o", "e"]) == 0
    found = Path("e/model.safetensors").read_bytes().hex()
    for file in Path("e").iterdir():
        file.unlink()
    return found


def test_parts_give_the_same_eraser_as_one_file(people: pd.DataFrame) -> None:
    expected = fitted("one.parquet")
    parts = [f"parts/{i}.parquet" for i in range(3)]
    for named in (["parts"], ["parts/*.parquet"], parts):
        assert fitted(*named) == expected
    assert fitted("parts", concept="z.npy") == fitted("one.parquet", concept="z.npy")


def test_parts_are_applied_to_as_one(people: pd.DataFrame, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "parts", "--concept", "group", "--exclude", "city", "-o", "eraser"]) == 0
    assert (
        main(["apply", "parts/0.parquet", "parts/1.parquet", "parts/2.parquet", "--eraser", "eraser", "-o", "a.csv"])
        == 0
    )
    assert main(["apply", "one.parquet", "--eraser", "eraser", "-o", "b.csv"]) == 0
    assert Path("a.csv").read_bytes() == Path("b.csv").read_bytes()
    for argv in (
        ["fit", "parts", "--concept", "group", "--exclude", "city", "-o", "parts", "--force"],
        ["apply", "parts", "--eraser", "eraser", "-o", "parts/1.parquet", "--force"],
    ):
        assert main(argv) == 2
        assert "which is read" in (said := capsys.readouterr().err) or "that is read" in said
    assert sorted(p.name for p in Path("parts").iterdir()) == ["0.parquet", "1.parquet", "2.parquet"]


def test_an_interrupted_fit_of_parts_goes_on(
    people: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [
        "fit",
        "parts",
        "--concept",
        "group",
        "--exclude",
        "city",
        "--chunk-rows",
        "40",
        "--checkpoint",
        "state",
        "-o",
    ]
    assert main([*argv, "whole"]) == 0
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    written = checkpoint.Checkpoint.write

    def stops(self: Any, position: Any, parts: Any) -> None:
        written(self, position, parts)
        if position["rows"] == 120:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Checkpoint, "write", stops)
        assert main([*argv, "again"]) == 130
    file = Path("parts/2.parquet")
    before, times = file.read_bytes(), (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    people[:1].to_parquet(file, index=False)
    assert main([*argv, "again"]) == 2 and "differs in files" in capsys.readouterr().err
    file.write_bytes(before)
    os.utime(file, ns=times)
    assert main([*argv, "again"]) == 0 and "going on from row 120" in capsys.readouterr().out
    assert Path("again/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()
