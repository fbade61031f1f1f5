"""Files in chunks: what is written is what is read, in any chunking; broken files say what is wrong."""

from __future__ import annotations

import io
import json
import sys
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import load_file, save_file

from efface._errors import EffaceWarning, FormatError, InputError, MissingExtraError
from efface.streams import Source, column_names, open_sink, open_source, progress, split_spec
from efface.streams.csv import CsvSource
from efface.streams.dialect import Dialect

SUFFIXES = [".npy", ".npz", ".csv", ".parquet", ".safetensors"]
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
NO_BFLOAT16 = {".npy", ".npz", ".csv", ".parquet"}
FORMATS = [(s, d) for s in SUFFIXES for d in DTYPES if not (d == torch.bfloat16 and s in NO_BFLOAT16)]


def write(path: Path, x: torch.Tensor) -> Path:
    """Write an array with the libraries that users write it with."""
    frame = {str(i): x[:, i].numpy() for i in range(x.shape[1])} if x.dtype != torch.bfloat16 else {}
    match path.suffix:
        case ".npy":
            np.save(path, x.numpy())
        case ".npz":
            np.savez_compressed(path, X=x.numpy())
        case ".csv":
            pd.DataFrame(frame).astype("float64").to_csv(path, index=False)
        case ".parquet":
            pq.write_table(pa.table(frame), path, row_group_size=7)
        case ".safetensors":
            save_file({"X": x}, path)
    return path


def read(source: Source, rows: int, start: int = 0) -> torch.Tensor:
    names = column_names(source)
    return torch.cat([c.numbers(names) for c in source.select(names).chunks(rows, start=start)])


def copy(source: Source, target: Path, rows: int) -> Path:
    names = column_names(source)
    source = source.select(names, rest=True)
    with open_sink(target, like=source, features=names) as sink:
        for chunk in source.chunks(rows):
            sink.write(chunk.replace(names, chunk.numbers(names)))
    return target


def rows_like(dtype: torch.dtype, n: int = 23, d: int = 3) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(n), dtype=torch.float64).to(dtype)


def no_leftovers(folder: Path, *names: str) -> None:
    assert sorted(p.name for p in folder.iterdir()) == sorted(names)


# Round trips


@pytest.mark.parametrize(("suffix", "dtype"), FORMATS)
@pytest.mark.parametrize("rows", [1, 7, 23, 1000])
def test_reads_what_others_wrote(tmp_path: Path, suffix: str, dtype: torch.dtype, rows: int) -> None:
    x = rows_like(dtype)
    source = open_source(write(tmp_path / f"X{suffix}", x))
    found = read(source, rows)
    assert found.dtype == (torch.float64 if suffix == ".csv" else dtype)
    assert torch.equal(found, x.to(found.dtype))
    assert source.rows in (23, None) and column_names(source) == ("0", "1", "2")


@pytest.mark.parametrize(("suffix", "dtype"), FORMATS)
@pytest.mark.parametrize("target", SUFFIXES)
def test_every_format_becomes_every_other(tmp_path: Path, suffix: str, dtype: torch.dtype, target: str) -> None:
    x = rows_like(dtype)
    source = open_source(write(tmp_path / f"X{suffix}", x))
    if dtype == torch.bfloat16 and target in NO_BFLOAT16:
        with pytest.raises(InputError, match="no bfloat16: write -o to a .safetensors file"):
            copy(source, tmp_path / f"Y{target}", 5)
        no_leftovers(tmp_path, f"X{suffix}")
        return
    found = read(open_source(copy(source, tmp_path / f"Y{target}", 5)), 9)
    assert torch.equal(found.to(x.dtype), x)
    assert found.dtype == (torch.float64 if ".csv" in (suffix, target) else dtype)
    no_leftovers(tmp_path, f"X{suffix}", f"Y{target}")


def test_others_read_what_is_written(tmp_path: Path) -> None:
    x = rows_like(torch.float32)
    source = open_source(write(tmp_path / "X.npy", x))
    paths = {suffix: copy(source, tmp_path / f"Y{suffix}", 4) for suffix in SUFFIXES}
    assert np.array_equal(np.load(paths[".npy"]), x.numpy())
    assert np.array_equal(np.load(paths[".npz"])["X"], x.numpy())
    assert torch.equal(load_file(paths[".safetensors"])["X"], x)
    assert np.array_equal(pd.read_csv(paths[".csv"], dtype="float32").to_numpy(), x.numpy())
    assert np.array_equal(pd.read_parquet(paths[".parquet"]).to_numpy(), x.numpy())


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("start", [0, 1, 7, 22, 23])
def test_starts_at_any_row(tmp_path: Path, suffix: str, start: int) -> None:
    x = rows_like(torch.float64)
    source = open_source(write(tmp_path / f"X{suffix}", x))
    chunks = list(source.select(["1"]).chunks(6, start=start))
    assert [c.first_row for c in chunks] == list(range(start, 23, 6))
    assert [v for c in chunks for v in c.numbers(["1"])[:, 0].tolist()] == x[start:, 1].tolist()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    x=hnp.arrays(
        st.sampled_from(["f2", "f4", "f8", ">f4", ">f8", "i1", "u2", "i8", "?"]),
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=20),
    ),
    rows=st.integers(1, 25),
    fortran=st.booleans(),
    suffix=st.sampled_from([".npy", ".npz"]),
)
def test_numpy_files_of_any_type_and_order(
    tmp_path: Path, x: np.ndarray, rows: int, fortran: bool, suffix: str
) -> None:
    x = np.asfortranarray(x) if fortran else x
    path = tmp_path / f"X{suffix}"
    np.save(path, x) if suffix == ".npy" else np.savez(path, X=x)
    source = open_source(path)
    found = read(source, rows).numpy()
    assert np.array_equal(found, x.astype(found.dtype), equal_nan=True)
    assert np.array_equal(read(source, rows, start=len(x) // 2).numpy(), found[len(x) // 2 :], equal_nan=True)


def test_integers_become_floats_that_hold_them(tmp_path: Path) -> None:
    for dtype, expected in [("i1", torch.float32), ("u2", torch.float64), ("i8", torch.float64)]:
        np.save(tmp_path / "X.npy", np.array([[1], [100]], dtype))
        assert read(open_source(tmp_path / "X.npy"), 5).dtype == expected


# What else is in the file


def table(n: int = 11) -> pa.Table:
    rng = np.random.default_rng(0)
    return pa.table(
        {
            "id": pa.array(np.arange(n) + 2**60),
            "a": pa.array(rng.normal(size=n).astype("f4")),
            "name": pa.array([f'says "{i}",\n' if i % 3 else "" for i in range(n)]),
            "b": pa.array(rng.integers(0, 9, n).astype("i4")),
            "sex": pa.array(["f" if i % 2 else "m" for i in range(n)]).dictionary_encode(),
            "when": pa.array(pd.date_range("2020-01-01", periods=n)),
            "note": pa.array([None if i % 4 else "x" for i in range(n)]),
        }
    )


def test_parquet_keeps_the_other_columns(tmp_path: Path) -> None:
    old = table()
    pq.write_table(old, tmp_path / "X.parquet", row_group_size=4)
    source = open_source(tmp_path / "X.parquet").select(["a", "b"], rest=True)
    with open_sink(tmp_path / "Y.parquet", like=source, features=["a", "b"]) as sink:
        for chunk in source.chunks(3):
            sink.write(chunk.replace(["a", "b"], chunk.numbers(["a", "b"]) + 0.5))
    new = pq.read_table(tmp_path / "Y.parquet")
    assert new.column_names == old.column_names
    assert new.drop(["a", "b"]).equals(old.drop(["a", "b"]))
    assert new.schema.field("a").type == pa.float32() and new.schema.field("b").type == pa.float64()
    assert np.array_equal(new["b"].to_numpy(), old["b"].to_numpy() + 0.5)


def test_parquet_of_pandas_keeps_its_index(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1, 2, 3], "s": pd.Categorical(["x", "y", "x"])}, index=["r", "s", "t"])
    frame.to_parquet(tmp_path / "X.parquet")
    source = open_source(tmp_path / "X.parquet").select(["a"], rest=True)
    with open_sink(tmp_path / "Y.parquet", like=source, features=["a"]) as sink:
        for chunk in source.chunks(2):
            sink.write(chunk.replace(["a"], chunk.numbers(["a"]) / 2))
    expected = frame.assign(a=frame["a"] / 2)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "Y.parquet"), expected)


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float32(), 4), pa.large_list(pa.float16())])
def test_list_columns_are_rows(tmp_path: Path, kind: pa.DataType) -> None:
    rows = [[float(4 * i + j) for j in range(4)] for i in range(9)]
    pq.write_table(pa.table({"id": range(9), "emb": pa.array(rows, kind)}), tmp_path / "X.parquet")
    source = open_source(tmp_path / "X.parquet")
    assert [c.kind for c in source.columns] == ["number", "list"]
    with open_sink(tmp_path / "Y.parquet", like=source, features=["emb"]) as sink:
        for chunk in source.chunks(2):
            x = chunk.numbers(["emb"])
            assert x.dtype == (torch.float16 if kind.value_type == pa.float16() else torch.float32)
            sink.write(chunk.replace(["emb"], x + 1))
    new = pq.read_table(tmp_path / "Y.parquet")
    assert new["emb"].to_pylist() == [[v + 1 for v in row] for row in rows]
    assert new.schema.field("emb").type.value_type == kind.value_type


CSV = 'id,a,name,zip,b\n1,0.5,"x, y",007,1\n2,1.25,,010,2\n3,-3e4,"say ""hi""",NA,3\n'


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_csv_keeps_the_other_columns_to_the_letter(tmp_path: Path, rows: int) -> None:
    (tmp_path / "X.csv").write_text(CSV)
    source = open_source(tmp_path / "X.csv").select(["a", "b"], rest=True)
    with open_sink(tmp_path / "Y.csv", like=source, features=["a", "b"]) as sink:
        for chunk in source.chunks(rows):
            sink.write(chunk.replace(["a", "b"], chunk.numbers(["a", "b"]) / 4))
    new, old = (pd.read_csv(tmp_path / f, dtype=str, keep_default_na=False) for f in ("Y.csv", "X.csv"))
    assert new.columns.tolist() == old.columns.tolist()
    assert new[["id", "name", "zip"]].equals(old[["id", "name", "zip"]])
    assert new["b"].astype(float).tolist() == [0.25, 0.5, 0.75]


DIALECTS: dict[str, tuple[dict[str, Any], Dialect]] = {
    "semicolons": ({"sep": ";"}, Dialect(separator=";")),
    "tabs": ({"sep": "\t"}, Dialect(separator="\t")),
    "bars": ({"sep": "|"}, Dialect(separator="|")),
    "European": ({"sep": ";", "decimal": ","}, Dialect(separator=";", decimal=",")),
    "European tabs": ({"sep": "\t", "decimal": ","}, Dialect(separator="\t", decimal=",")),
    "UTF-16": ({"encoding": "utf-16"}, Dialect("utf-16")),
    "UTF-32": ({"encoding": "utf-32"}, Dialect("utf-32")),
    "European UTF-16": ({"sep": ";", "decimal": ",", "encoding": "utf-16"}, Dialect("utf-16", ";", ",")),
    "byte order mark": ({"encoding": "utf-8-sig"}, Dialect()),
    "Windows": ({"lineterminator": "\r\n"}, Dialect()),
}


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.filterwarnings("ignore:.*decimal commas:efface.EffaceWarning")
def test_csv_of_other_countries_and_spreadsheets(tmp_path: Path, name: str) -> None:
    """Read as it is, and written as it was read, but in UTF-8."""
    how, dialect = DIALECTS[name]
    frame = pd.DataFrame({"a": [0.5, -1.25, 3e-7], "ü": [1, 2, 30000], "text": ["x;y", 'say "hi", 0,5', "ß\nz"]})
    frame.to_csv(tmp_path / "X.csv", index=False, **how)
    source = open_source(tmp_path / "X.csv")
    assert isinstance(source, CsvSource) and source.dialect == dialect
    with open_sink(tmp_path / "Y.csv", like=source.select(["a", "ü"], rest=True), features=["a", "ü"]) as sink:
        for chunk in source.select(["a", "ü"], ["text"]).chunks(2):
            assert chunk.labels("text").tolist() == frame["text"][chunk.first_row : chunk.first_row + 2].tolist()
            sink.write(chunk.replace(["a", "ü"], chunk.numbers(["a", "ü"]) / 2))
    written = pd.read_csv(tmp_path / "Y.csv", **{k: v for k, v in how.items() if k in ("sep", "decimal")})
    pd.testing.assert_frame_equal(written, frame.assign(a=frame["a"] / 2, ü=frame["ü"] / 2))


def test_decimal_commas_are_told_and_thousands_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "X.csv"
    path.write_text("a;b\n0,5;1\n1,25;2\n")
    with pytest.warns(EffaceWarning, match="is read with decimal commas"):
        assert read(open_source(path), 10).tolist() == [[0.5, 1.0], [1.25, 2.0]]
    for lines in ("a;b\n1,234;1\n5,678;2\n", "a;b\n1,5;0.5\n2,5;1.5\n", 'a,b\n"1,5",2\n"2,5",3\n'):
        path.write_text(lines)
        assert [c.kind for c in open_source(path).columns] == ["other", "number"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("# made by x\na,b\n1,2\n", ["a", "b"]),
        ("# a,b\n1,2\n", ["# a", "b"]),
        ("sep=;\na;b\n1;2\n", ["a", "b"]),
        ("0,1\n1,2\n", ["0", "1"]),
        ("a,b,\n1,2,\n", ["a", "b"]),
        (",a,b\n7,1,2\n", ["a", "b"]),
        ("Unnamed: 0,a,b\n7,1,2\n", ["a", "b"]),
    ],
)
def test_csv_lines_and_columns_beside_the_data(tmp_path: Path, text: str, names: list[str]) -> None:
    (tmp_path / "X.csv").write_text(text)
    source = open_source(tmp_path / "X.csv")
    assert [c.name for c in source.columns if not c.is_index] == names
    assert next(iter(source.select(names).chunks(9))).numbers(names).tolist() == [[1.0, 2.0]]


def test_csv_of_true_and_false(tmp_path: Path) -> None:
    pd.DataFrame({"a": [0.5, 1.5], "b": [True, False]}).to_csv(tmp_path / "X.csv", index=False)
    assert read(open_source(tmp_path / "X.csv"), 10).tolist() == [[0.5, 1.0], [1.5, 0.0]]


def test_csv_reads_an_integer_column_that_turns_into_floats_late(tmp_path: Path) -> None:
    lines = ["a,b"] + ["1,2"] * 1_200_000 + ["1.5,2"]
    (tmp_path / "X.csv").write_text("\n".join(lines))
    last = list(open_source(tmp_path / "X.csv").select(["a"]).chunks(500_000))[-1]
    assert last.first_row + len(last) == 1_200_001 and last.numbers(["a"])[-1].item() == 1.5


def test_the_other_arrays_of_an_archive_are_kept(tmp_path: Path) -> None:
    x, y, odd = rows_like(torch.float16), torch.arange(23), torch.ones(3, dtype=torch.uint8)
    np.savez_compressed(tmp_path / "X.npz", y=y.numpy(), X=x.numpy(), names=np.array(["a", "b"]))
    save_file({"y": y, "X": x, "odd": odd}, tmp_path / "X.safetensors", metadata={"by": "me"})
    new = np.load(copy(open_source(tmp_path / "X.npz:X"), tmp_path / "Y.npz", 5))
    assert np.array_equal(new["X"], x.numpy()) and np.array_equal(new["y"], y.numpy())
    assert new["names"].tolist() == ["a", "b"]
    assert {i.compress_type for i in zipfile.ZipFile(tmp_path / "Y.npz").infolist()} == {zipfile.ZIP_DEFLATED}
    new = load_file(copy(open_source(tmp_path / "X.safetensors:X"), tmp_path / "Y.safetensors", 5))
    assert torch.equal(new["X"], x) and torch.equal(new["y"], y) and torch.equal(new["odd"], odd)


def test_a_file_can_replace_itself(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        x = rows_like(torch.float64)
        path = write(tmp_path / f"X{suffix}", x)
        copy(open_source(path), path, 4)
        assert torch.equal(read(open_source(path), 10), x)


# Labels


@pytest.mark.parametrize(
    "values",
    [["b", "a", "é"], [3, 1, 2], [True, False, True], [0.5, 1.5, 2.5]],
    ids=["text", "int", "bool", "float"],
)
def test_labels_from_any_file(tmp_path: Path, values: list) -> None:
    np.save(tmp_path / "z.npy", np.array(values))
    np.savez(tmp_path / "z.npz", z=np.array(values))
    pd.DataFrame({"z": values}).to_csv(tmp_path / "z.csv", index=False)
    pd.DataFrame({"z": values}).to_parquet(tmp_path / "z.parquet")
    for suffix, name in [(".npy", "0"), (".npz", "0"), (".csv", "z"), (".parquet", "z")]:
        source = open_source(tmp_path / f"z{suffix}").select([], [name])
        found = [v for chunk in source.chunks(2) for v in chunk.labels(name).tolist()]
        assert found == values, suffix


def test_names_inside_files() -> None:
    assert split_spec("a/b.safetensors:model.x") == (Path("a/b.safetensors"), "model.x")
    assert split_spec("z.csv:sex") == (Path("z.csv"), "sex")
    assert split_spec("C:/x.npy") == (Path("C:/x.npy"), None)
    assert split_spec("sex") == (Path("sex"), None)


# Bad input


BAD = {
    "objects.npy": "Python objects.*save numpy.stack",
    "cube.npy": r"shape \(2, 3, 4\).*reshape\(-1, 4\)",
    "scalar.npy": "expected .*one row per example",
    "none.npy": "is empty",
    "dates.npy": "dates",
    "records.npy": "records",
    "two.npz": r"several arrays \(X, y\): choose one, e.g. .*two.npz:X",
    "two.npz:q": "no array 'q': it has X, y",
    "zero.npz": "holds no arrays",
    "two.safetensors": "several arrays",
    "tiny.safetensors": "F8_E4M3: convert it",
    "text.npy": "not a readable .npy",
    "text.npz": "cannot be read",
    "text.parquet": "cannot be read",
    "text.safetensors": "cannot be read",
    "zero.npy": "0 bytes",
    "mixed.csv": "one column called 'a;b': expected one separator",
    "numbers.csv": "no header line: its first line holds numbers .0.5, 1.5.",
    "utf16.csv": "has zero bytes in it: save it as UTF-8",
    "latin header.csv": "not UTF-8.*iconv",
    "twice.csv": "several columns called a: rename",
    "header.csv": "no rows",
    "latin.csv": "not UTF-8",
    "X.txt": "suffix '.txt'",
    "none.parquet": "no rows",
    "cube.npy:X": "one array only",
    "header.csv:c": "no column 'c': it has a, b",
}


def write_bad_arrays(folder: Path) -> None:
    np.save(folder / "objects.npy", np.array([[1], "x"], dtype=object), allow_pickle=True)
    np.save(folder / "cube.npy", np.ones((2, 3, 4)))
    np.save(folder / "scalar.npy", np.array(1.0))
    np.save(folder / "none.npy", np.ones((0, 4)))
    np.save(folder / "dates.npy", np.array([["2020-01-01"]], "M8[D]"))
    np.save(folder / "records.npy", np.zeros(3, [("a", "f8"), ("b", "i4")]))
    np.savez(folder / "two.npz", X=np.ones((5, 4)), y=np.ones(5))
    np.savez(folder / "zero.npz")
    save_file({"X": torch.ones(3, 2), "y": torch.ones(3)}, folder / "two.safetensors")
    save_file({"X": torch.ones(3, 2).to(torch.float8_e4m3fn)}, folder / "tiny.safetensors")


def write_bad_tables(folder: Path) -> None:
    for suffix in (".npy", ".npz", ".parquet", ".safetensors"):
        (folder / f"text{suffix}").write_text("hello world, this is something else")
    for name in ("zero.npy", "X.txt"):
        (folder / name).write_text("" if name == "zero.npy" else "1 2 3")
    (folder / "header.csv").write_text("a,b\n")
    (folder / "mixed.csv").write_text("a;b\n1\t2\n3\n")
    (folder / "numbers.csv").write_text("0.5,1.5\n1.5,2\n")
    (folder / "utf16.csv").write_bytes("a,b\n1,2\n".encode("utf-16-le"))
    (folder / "latin header.csv").write_bytes("a,é\n1,2\n".encode("latin-1"))
    (folder / "twice.csv").write_text("a,a\n1,2\n")
    (folder / "latin.csv").write_bytes("a,b\n1,é\n".encode("latin-1"))
    pq.write_table(pa.table({"a": pa.array([], pa.float64())}), folder / "none.parquet")


@pytest.mark.parametrize("name", BAD)
def test_bad_files_say_what_is_wrong(tmp_path: Path, name: str) -> None:
    write_bad_arrays(tmp_path)
    write_bad_tables(tmp_path)
    with pytest.raises((InputError, FormatError), match=BAD[name]):
        read(open_source(tmp_path / name), 10)


def test_no_file() -> None:
    with pytest.raises(FileNotFoundError, match="no file nowhere.npy"):
        open_source("nowhere.npy")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".parquet", ".safetensors"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_truncated_files(tmp_path: Path, suffix: str, kept: float) -> None:
    path = write(tmp_path / f"X{suffix}", rows_like(torch.float64, 400, 5))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(FormatError, match="truncated"):
        read(open_source(path), 10)


def test_damage_inside_an_archive(tmp_path: Path) -> None:
    path = write(tmp_path / "X.npz", rows_like(torch.float64, 4000, 5))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    with pytest.raises(FormatError, match="cannot be read"):
        read(open_source(path), 100)


def test_ragged_csv_names_the_place(tmp_path: Path) -> None:
    (tmp_path / "X.csv").write_text("a,b\n" + "1,2\n" * 5 + "1,2,3\n")
    with pytest.raises(FormatError, match="Expected 2 columns, got 3"):
        read(open_source(tmp_path / "X.csv"), 2)


def test_text_among_numbers_names_the_column(tmp_path: Path) -> None:
    (tmp_path / "X.csv").write_text("c,a,b\n" + "0,1,2\n" * 1_500_000 + "0,oops,2\n")
    with pytest.raises(FormatError, match="column 'a': .*'oops'"):
        list(open_source(tmp_path / "X.csv").select(["a", "b"]).chunks(100_000))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_missing_values_name_their_rows(tmp_path: Path, suffix: str) -> None:
    a = np.arange(30.0)
    a[[17, 18]] = np.nan
    frame = pd.DataFrame({"a": a, "s": ["x"] * 29 + [None]}).convert_dtypes()
    frame.to_csv(tmp_path / "X.csv", index=False)
    frame.to_parquet(tmp_path / "X.parquet")
    source = open_source(tmp_path / f"X{suffix}").select(["a"], ["s"])
    with pytest.raises(InputError, match=r"column 'a' of .* in 2 of 8 rows \(.*from 0: 17, 18\): drop or fill"):
        [chunk.numbers(["a"]) for chunk in source.chunks(8)]
    with pytest.raises(InputError, match=r"column 's' of .* in 1 of 6 rows .*: 29\)"):
        [chunk.labels("s") for chunk in source.chunks(8)]


def test_ragged_lists_name_a_row(tmp_path: Path) -> None:
    pq.write_table(pa.table({"emb": [[1.0, 2.0]] * 7 + [[1.0]]}), tmp_path / "X.parquet")
    with pytest.raises(InputError, match=r"different lengths, 2 in row 0 and 1 in row 7"):
        read(open_source(tmp_path / "X.parquet"), 8)


def test_text_is_no_feature(tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "X.parquet")
    np.save(tmp_path / "z.npy", np.array([["a"], ["b"]]))
    with pytest.raises(InputError, match="column 'name' .* holds string, expected numbers"):
        next(open_source(tmp_path / "X.parquet").chunks(3)).numbers(["a", "name"])
    with pytest.raises(InputError, match="holds text"):
        read(open_source(tmp_path / "z.npy"), 2)
    with pytest.raises(InputError, match="timestamp"):
        next(open_source(tmp_path / "X.parquet").chunks(3)).labels("when")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failure_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    source = open_source(write(tmp_path / "X.npy", rows_like(torch.float64)))
    (tmp_path / f"Y{suffix}").write_text("old")
    with (
        pytest.raises(KeyError),
        open_sink(tmp_path / f"Y{suffix}", like=source, features=["0", "1", "2"]) as sink,
    ):
        sink.write(next(source.chunks(5)))
        raise KeyError
    assert (tmp_path / f"Y{suffix}").read_text() == "old"
    no_leftovers(tmp_path, "X.npy", f"Y{suffix}")
    with (
        pytest.raises(InputError, match="no rows"),
        open_sink(tmp_path / f"Z{suffix}", like=source, features=[]),
    ):
        pass
    no_leftovers(tmp_path, "X.npy", f"Y{suffix}")


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.csv", None)
    (tmp_path / "X.csv").write_text("a\n1\n")
    with pytest.raises(MissingExtraError, match=r"pip install 'efface\[files\]'"):
        open_source(tmp_path / "X.csv")
    for suffix in (".npy", ".npz", ".safetensors"):
        source = open_source(write(tmp_path / f"X{suffix}", rows_like(torch.float32)))
        copy(source, tmp_path / f"Y{suffix}", 5)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_memory_stays_that_of_a_chunk(tmp_path: Path, suffix: str) -> None:
    x = rows_like(torch.float32, 60_000, 16)
    path = write(tmp_path / f"X{suffix}", x)
    rows = 1000
    open_source(path)
    tracemalloc.start()
    pool = pa.total_allocated_bytes()
    peak = 0
    source = open_source(path).select(["0", "3"], rest=True)
    with open_sink(tmp_path / f"Y{suffix}", like=source, features=["0", "3"]) as sink:
        for chunk in source.chunks(rows):
            sink.write(chunk)
            peak = max(peak, pa.total_allocated_bytes() - pool)
    traced = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    size = x.numel() * 4
    # A chunk is 64 kB; the readers of tables hold blocks of a few megabytes however large the file is.
    assert traced < size / 2
    assert peak < (48 << 20 if suffix == ".csv" else size * 1.5)


def test_a_bar_is_shown_to_who_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for terminal, shown in [(Terminal(), True), (io.StringIO(), False)]:
        monkeypatch.setattr(sys, "stderr", terminal)
        with progress("fitting", 100, done=40) as bar:
            bar.update(60)
        assert ("fitting" in terminal.getvalue()) is shown


def test_written_safetensors_have_an_aligned_header(tmp_path: Path) -> None:
    save_file({"a": torch.ones(3, dtype=torch.uint8), "X": torch.ones(5, 3), "b": torch.ones(2).double()},
              tmp_path / "X.safetensors")  # fmt: skip
    path = copy(open_source(tmp_path / "X.safetensors:X"), tmp_path / "Y.safetensors", 2)
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert length % 8 == 0 and list(header) == ["b", "X", "a"]
    assert header["X"]["data_offsets"] == [16, 76]


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("007,7", ["007", "7"]),
        ("00,0", ["00", "0"]),
        ("-07,7", ["-07", "7"]),
        ("0,-1", [0, -1]),
        ('"007","7"', ["007", "7"]),
        ("12345678901234567890,12345678901234567891", ["12345678901234567890", "12345678901234567891"]),
        ("1234567890123456789,12", [1234567890123456789, 12]),
        ("2024-01-01,2024-01-02", ["2024-01-01", "2024-01-02"]),
        ("12:30,12:31", ["12:30", "12:31"]),
        ("0.50,00.5", [0.5, 0.5]),
        ("true,false", [True, False]),
    ],
)
def test_labels_of_digits_that_a_number_would_not_give_back_are_text(
    text: str, labels: list[Any], tmp_path: Path
) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b\n" + "".join(f"{value},1\n" for value in text.split(",")))
    (chunk,) = open_source(str(path)).select(["b"], ["a"]).chunks(10)
    assert chunk.labels("a").tolist() == labels and chunk.numbers(["b"]).tolist() == [[1.0], [1.0]]


def test_labels_that_are_whole_numbers_keep_their_gaps_and_are_still_features(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b\n7,007\nNA,08\n 8 ,9\n")
    (chunk,) = open_source(str(path)).select(["b"], ["a"]).chunks(10)
    assert chunk.gaps([], ["a"]).tolist() == [False, True, False] and chunk.numbers(["b"])[:, 0].tolist() == [7, 8, 9]
    assert chunk.keep(np.array([True, False, True])).labels("a").tolist() == [7, 8]


@pytest.mark.parametrize(
    ("last", "said"), [("007", "column 'a' has 007, which is a name, after megabytes"), ("x", "column 'a'.*'x'")]
)
def test_a_label_that_turns_out_to_be_a_name_is_refused_and_not_read_as_another(
    last: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("efface.streams.csv._BLOCK_BYTES", 1 << 10)
    path = tmp_path / "x.csv"
    path.write_text("a,b\n" + "7,some words\n" * 500 + f"{last},1\n")
    with pytest.raises(FormatError, match=said):
        list(open_source(str(path)).select([], ["a"]).chunks(100))
