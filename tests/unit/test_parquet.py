"""`.parquet` files: damage has a place, numbers of every type come by one rule, and on the memory that was read."""

from __future__ import annotations

import decimal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import efface
from efface._errors import FormatError, InputError
from efface.streams import Source, column_names, open_sink, open_source
from efface.streams.inputs import Inputs, Labels
from efface.streams.table import TableChunk

ROWS, WIDTH = 1000, 4


def vectors(dtype: str = "f4") -> np.ndarray:
    return np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(dtype)


def lists(x: np.ndarray, kind: str = "fixed") -> pa.Array:
    flat, ends = pa.array(x.reshape(-1)), np.arange(len(x) + 1) * x.shape[1]
    match kind:
        case "fixed":
            return pa.FixedSizeListArray.from_arrays(flat, x.shape[1])
        case "variable":
            return pa.ListArray.from_arrays(ends.astype("i4"), flat)
        case "large":
            return pa.LargeListArray.from_arrays(ends, flat)
    storage = pa.FixedSizeListArray.from_arrays(flat, x.shape[1])
    return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(storage.type.value_type, [x.shape[1]]), storage)


def save(path: Path, how: dict[str, Any] | None = None, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path, **{"row_group_size": 300, "compression": "none", **(how or {})})
    return path


def read(source: Source, rows: int, names: tuple[str, ...] | None = None, **how: Any) -> torch.Tensor:
    names = names or column_names(source)
    return torch.cat([c.numbers(names, **how) for c in source.select(names).chunks(rows)])


def chunk_of(**columns: Any) -> TableChunk:
    return TableChunk(100, pa.table(columns), "X.parquet")


# Damage


def damaged(path: Path, group: int, column: int, at: float) -> tuple[int, int]:
    """Write zeros into a column of a row group; where it lies."""
    part = pq.ParquetFile(path).metadata.row_group(group).column(column)
    begin = part.dictionary_page_offset or part.data_page_offset
    data, place = bytearray(path.read_bytes()), begin + int(part.total_compressed_size * at)
    data[place : place + 16] = bytes(16)
    path.write_bytes(data)
    return begin, begin + part.total_compressed_size - 1


@pytest.mark.parametrize(("checksum", "at"), [(True, 0.5), (False, 0)], ids=["numbers", "header"])
def test_a_damaged_page_is_named_by_row_group_column_rows_and_bytes(tmp_path: Path, checksum: bool, at: float) -> None:
    how = {"write_page_checksum": checksum}
    path = save(tmp_path / "X.parquet", how, k=["a", "b"] * (ROWS // 2), emb=lists(vectors()))
    begin, end = damaged(path, group=2, column=1, at=at)
    source, seen = open_source(path), 0
    with pytest.raises(FormatError) as caught:
        for chunk in source.chunks(128):
            seen += len(chunk)
    place = rf"X.parquet cannot be read: row group 2 \(rows 600 to 899\) .* column 'emb' \(bytes {begin:,} to {end:,} "
    assert caught.match(place) and 128 <= seen <= 600
    labels = list(source.select([], ["k"]).chunks(128))  # whose pages are whole
    assert sum(map(len, labels)) == ROWS


def test_what_is_written_has_checksums(tmp_path: Path) -> None:
    source = open_source(save(tmp_path / "X.parquet", a=vectors()[:, 0]))
    with open_sink(tmp_path / "Y.parquet", like=source, features=["a"]) as sink:
        for chunk in source.chunks(500):
            sink.write(chunk)
    raw = bytearray((tmp_path / "Y.parquet").read_bytes())
    raw[300] ^= 1  # a bit of one number
    (tmp_path / "Y.parquet").write_bytes(raw)
    with pytest.raises(FormatError, match=r"row group 0 \(rows 0 to 499\).*column 'a'.*checksum"):
        read(open_source(tmp_path / "Y.parquet"), 100)


def test_a_file_without_its_end_or_its_middle(tmp_path: Path) -> None:
    path = save(tmp_path / "X.parquet", emb=lists(vectors()))
    raw = path.read_bytes()
    path.write_bytes(raw[:7000])
    with pytest.raises(FormatError, match="X.parquet cannot be read: .* truncated: its 7,000 bytes end without"):
        open_source(path)
    path.write_bytes(raw[:7000] + raw[9000:])
    with pytest.raises(FormatError, match=r"row group 1 \(rows 300 to 599\) is damaged or cut off in column 'emb'"):
        read(open_source(path), 100)
    path.write_bytes(b"hello" * 100)
    with pytest.raises(FormatError, match="no .parquet file, which begins with PAR1"):
        open_source(path)
    path.write_bytes(raw[:-200] + bytes(100) + raw[-100:])
    with pytest.raises(FormatError, match="the footer of the .parquet file is damaged"):
        open_source(path)


def test_text_that_is_no_text(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(pa.string(), 2, pa.array(["ab", "cd"]).buffers()[:2] + [pa.py_buffer(b"a\xff\xfed")])
    with pytest.raises(FormatError, match=r"column 'k' of .* has text in rows 0 to 1 that is no UTF-8"):
        next(open_source(save(tmp_path / "X.parquet", k=bad)).chunks(9)).labels("k")


# Rows of lists


@pytest.mark.parametrize("kind", ["fixed", "variable", "large", "tensor"])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_lists_of_floats_reach_torch_without_a_copy(kind: str, dtype: str) -> None:
    x = vectors(dtype)
    column = lists(x, kind)
    whole = chunk_of(emb=column).numbers(["emb"])
    storage = column.storage if kind == "tensor" else column
    assert whole.data_ptr() == storage.values.buffers()[1].address
    assert np.array_equal(whole.numpy(), x)
    part = chunk_of(emb=column.slice(7, 20)).numbers(["emb"])
    assert part.data_ptr() == whole.data_ptr() + 7 * WIDTH * x.itemsize and np.array_equal(part.numpy(), x[7:27])
    pieces = chunk_of(emb=pa.chunked_array([column.slice(3, 5), column.slice(8, 0), column.slice(8, 4)]))
    assert np.array_equal(pieces.numbers(["emb"]).numpy(), x[3:12])


@pytest.mark.parametrize("kind", ["fixed", "variable", "tensor"])
def test_lists_are_read_over_row_groups_and_written_as_they_were(tmp_path: Path, kind: str) -> None:
    x = vectors()
    source = open_source(save(tmp_path / "X.parquet", emb=lists(x, kind)))
    assert source.columns[0].kind == "list"
    for rows in (1, 77, 300, 5000):
        assert np.array_equal(read(source, rows).numpy(), x)
    with open_sink(tmp_path / "Y.parquet", like=source, features=["emb"]) as sink:
        for chunk in source.chunks(77):
            sink.write(chunk.replace(["emb"], chunk.numbers(["emb"]) / 2))
    new = open_source(tmp_path / "Y.parquet")
    assert new.columns == source.columns and np.array_equal(read(new, 300).numpy(), x / 2)
    assert pq.read_schema(tmp_path / "Y.parquet").types == pq.read_schema(tmp_path / "X.parquet").types


def test_memory_that_was_read_is_not_written_to(tmp_path: Path) -> None:
    x, z = vectors(), np.arange(ROWS) % 2
    column = lists(x)
    rows = chunk_of(emb=column).numbers(["emb"])
    eraser = efface.LeaceFitter(WIDTH, 2).update(rows, z).eraser
    eraser(rows)
    assert np.array_equal(column.values.to_numpy().reshape(-1, WIDTH), x)
    assert torch.equal(eraser.proj_left, efface.LeaceFitter(WIDTH, 2).update(torch.from_numpy(x), z).eraser.proj_left)


@pytest.mark.parametrize("kind", ["fixed", "variable"])
def test_gaps_in_lists(kind: str) -> None:
    type_ = pa.list_(pa.float32(), 2) if kind == "fixed" else pa.list_(pa.float32())
    whole = chunk_of(emb=pa.array([[1, 2], [3, None], None, [float("nan"), 4], [5, 6]], type_))
    with pytest.raises(
        InputError, match=r"column 'emb' of X.parquet has missing values in 2 of 5 .*from 0: 101, 102\)"
    ):
        whole.numbers(["emb"])
    found = whole.gaps(["emb"])
    assert found.tolist() == [False, True, True, True, False]
    assert whole.keep(~found).numbers(["emb"]).tolist() == [[1, 2], [5, 6]]
    filled = whole.numbers(["emb"], gaps=True)
    nan = torch.nan
    expected = torch.tensor([[1, 2], [3, nan], [nan, nan], [nan, 4], [5, 6]])
    assert torch.equal(filled.nan_to_num(-1), expected.nan_to_num(-1)) and filled.dtype == torch.float32
    replaced = whole.replace(["emb"], filled.nan_to_num(0))
    assert replaced.table["emb"].to_pylist() == [[1, 2], [3, 0], [0, 0], [0, 4], [5, 6]]
    with pytest.raises(InputError, match="column 'emb' of X.parquet has no list at all in rows 100 to 100"):
        chunk_of(emb=pa.array([None], pa.list_(pa.float32()))).numbers(["emb"], gaps=True)


def test_lists_of_another_length_are_named_also_chunks_later(tmp_path: Path) -> None:
    source = open_source(save(tmp_path / "X.parquet", emb=[[1.0, 2.0]] * 700 + [[1.0]] * 3 + [[1.0, 2.0]]))
    for rows in (50, 700, 5000):
        with pytest.raises(InputError, match="column 'emb' of .* lengths, 2 in row 0 and 1 in row 700, expected one"):
            read(source, rows)
    with pytest.raises(InputError, match="an empty list in row 100: expected numbers"):
        chunk_of(emb=pa.array([[], []], pa.list_(pa.float32()))).numbers(["emb"])


def test_nan_in_a_list_is_named_by_its_row(tmp_path: Path) -> None:
    x = vectors()
    x[421, 2] = np.nan
    source = open_source(save(tmp_path / "X.parquet", emb=lists(x), z=["a", "b"] * (ROWS // 2)))
    inputs = Inputs(source, ("emb",), (Labels("z", "z"),))
    with pytest.raises(InputError, match=r"NaN or infinite values in 1 of 100 rows \(first rows: 421\)"):
        [inputs.numbers(piece.chunk) for piece in inputs.chunks(100)]
    kept = [inputs.numbers(piece.chunk) for piece in replace(inputs, missing="drop").chunks(100)]
    assert np.array_equal(torch.cat(kept).numpy(), np.delete(x, 421, 0))


# One rule of types


TYPES = {
    "half": (pa.array([1.5, 2], pa.float16()), torch.float16),
    "float": (pa.array([1.5, 2], pa.float32()), torch.float32),
    "double": (pa.array([1.5, 2]), torch.float64),
    "int16": (pa.array([1, 2], pa.int16()), torch.float32),
    "uint32": (pa.array([1, 2**32 - 1], pa.uint32()), torch.float64),
    "int64": (pa.array([1, -(2**60)]), torch.float64),
    "uint64": (pa.array([1, 2**63], pa.uint64()), torch.float64),
    "truth": (pa.array([True, False]), torch.float32),
    "decimal": (pa.array([decimal.Decimal("1.5"), decimal.Decimal("-2.25")]), torch.float64),
}


@pytest.mark.parametrize("name", TYPES)
def test_numbers_of_every_type_by_one_rule(name: str) -> None:
    values, dtype = TYPES[name]
    expected = [float(v) for v in values.to_pylist()]
    beside = [[v, v] for v in values.to_pylist()]
    for column in (values, pa.array(beside, pa.list_(values.type)), pa.array(beside, pa.list_(values.type, 2))):
        found = chunk_of(a=column).numbers(["a"])
        assert found.dtype == dtype and found[:, -1].tolist() == expected
    gap = pa.concat_arrays([values, pa.nulls(1, values.type)])
    found = chunk_of(a=gap).numbers(["a"], gaps=True)
    assert found.dtype == dtype and found[2].isnan().all() and found[:2, 0].tolist() == expected
    mixed = chunk_of(a=values, half=pa.array([0, 1], pa.float16())).numbers(["a", "half"])
    assert mixed.dtype == dtype and mixed[:, 1].tolist() == [0, 1]


def test_lists_of_whole_numbers_beside_fractions() -> None:
    chunk = chunk_of(a=pa.array([[1, 2], [3, 4]]), b=pa.array([[0.5], [1.5]], pa.list_(pa.float32())), c=[7, 8])
    found = chunk.numbers(["a", "b", "c"])
    assert found.dtype == torch.float64 and found.tolist() == [[1, 2, 0.5, 7], [3, 4, 1.5, 8]]
    new = chunk.replace(["a", "b", "c"], found + 1)
    assert [t.value_type if pa.types.is_list(t) else t for t in new.table.schema.types] == [
        pa.float64(),
        pa.float32(),
        pa.float64(),
    ]
    assert torch.equal(new.numbers(["a", "b", "c"]), found + 1)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([7, 8]).dictionary_encode(),
        pa.array([[[1.0, 2.0]], [[3.0, 4.0]]]),
        pa.array([["a"], ["b"]]),
        pa.array([{"x": 1.0}, {"x": 2.0}]),
        pa.array([b"a", b"b"]),
    ],
    ids=["dictionary", "matrices", "words", "records", "bytes"],
)
def test_what_is_no_feature_is_refused(column: pa.Array) -> None:
    with pytest.raises(InputError, match=r"column 'a' of X.parquet holds .*, expected numbers: leave it out"):
        chunk_of(a=column).numbers(["a"])


def test_dictionaries_of_numbers_are_labels() -> None:
    assert chunk_of(a=pa.array([7, 8, 7]).dictionary_encode()).labels("a").tolist() == [7, 8, 7]


# Files of any layout


def test_names_with_dots_signs_and_nothing(tmp_path: Path) -> None:
    names = ("a", "a.b", "ü.é", "list.element", " ", "")
    source = open_source(save(tmp_path / "X.parquet", {}, **{name: [float(i)] for i, name in enumerate(names)}))
    assert column_names(source) == names
    for i, name in enumerate(names):
        assert read(source, 9, (name,)).tolist() == [[float(i)]]
    with pytest.raises(InputError, match="no column 'a.c'"):
        source.select(["a.c"])


def test_any_row_groups_and_any_start(tmp_path: Path) -> None:
    path, x = tmp_path / "X.parquet", vectors()
    sizes = [0, 1, 0, 300, 0, 299, 400, 0]
    with pq.ParquetWriter(path, pa.schema({"emb": lists(x).type})) as writer:
        start = 0
        for size in sizes:
            table = pa.table({"emb": lists(x).slice(start, size)})
            writer.write_table(table, row_group_size=max(1, size))
            start += size
    source = open_source(path)
    for start in (0, 1, 5, 300, 301, 600, 999, 1000):
        found = [(c.first_row, c.numbers(["emb"])) for c in source.chunks(128, start=start)]
        assert [first for first, _ in found] == list(range(start, ROWS, 128))
        assert torch.equal(
            torch.cat([torch.zeros(0, WIDTH), *(rows for _, rows in found)]), torch.from_numpy(x[start:])
        )


def test_row_groups_before_the_start_are_not_read(tmp_path: Path) -> None:
    path = save(tmp_path / "X.parquet", emb=lists(vectors()))
    damaged(path, group=1, column=0, at=0)
    source = open_source(path)
    assert sum(map(len, source.chunks(64, start=650))) == 350
    with pytest.raises(FormatError, match=r"row group 1 \(rows 300 to 599\)"):
        list(source.chunks(64, start=550))


def test_a_row_group_is_not_read_at_once(tmp_path: Path) -> None:
    x = np.zeros((2**15, 256), "f4")
    path = save(tmp_path / "X.parquet", {"row_group_size": 2**15, "use_dictionary": False}, emb=lists(x))
    before, most = pa.total_allocated_bytes(), 0
    for _ in open_source(path).chunks(1024):
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < x.nbytes / 2  # a chunk has a thirty-second


# Files that change


def write_any(path: Path, x: np.ndarray) -> None:
    match path.suffix:
        case ".npy":
            np.save(path, x)
        case ".npz":
            np.savez(path, X=x)
        case ".csv":
            path.write_text("a,b\n" + "".join(f"{a},{b}\n" for a, b in x))
        case ".parquet":
            pq.write_table(pa.table({"a": x[:, 0], "b": x[:, 1]}), path)
        case _:
            from safetensors.numpy import save_file

            save_file({"X": x}, path)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".parquet", ".safetensors"])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, suffix: str) -> None:
    path, x = tmp_path / f"X{suffix}", np.arange(400.0).reshape(200, 2)
    write_any(path, x)
    source = open_source(path)
    assert sum(map(len, source.chunks(50))) == 200
    chunks = source.chunks(50)
    next(chunks)
    other = tmp_path / f"Y{suffix}"
    write_any(other, np.concatenate([x, x]))
    other.replace(path)
    with pytest.raises(InputError, match=r"X.* changed while it was read, it had [\d,]+ bytes and has [\d,]+ now"):
        list(chunks)
    with pytest.raises(InputError, match="changed while it was read"):
        next(source.chunks(50))
    path.unlink()
    with pytest.raises(InputError, match="was removed while it was read"):
        next(source.chunks(50))
