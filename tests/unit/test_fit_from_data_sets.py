"""Fits from files and data sets of Hugging Face: the same eraser as from memory, and what is wrong has a place."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import efface
from efface._errors import FormatError, InputError
from efface.engines.local import fit
from efface.streams import column_names, open_source

datasets = pytest.importorskip("datasets")

ROWS, WIDTH, NAMES = 500, 4, ["zebra", "ant", "none of them", "bee"]


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    z = rng.integers(0, 2, ROWS) * 3  # of four classes two are there
    return (rng.normal(size=(ROWS, WIDTH)) + z[:, None]).astype("f4"), z


X, Z = data()
FEATURES = datasets.Features(
    emb=datasets.List(datasets.Value("float32"), length=WIDTH),
    loose=datasets.List(datasets.Value("float32")),
    grid=datasets.Array2D((2, 2), "float32"),
    animal=datasets.ClassLabel(names=NAMES),
    word=datasets.Value("string"),
    age=datasets.Value("float64"),
)


def examples(n: int = ROWS, **changed: Any) -> Iterator[dict[str, Any]]:
    for x, z in zip(X[:n], Z[:n], strict=True):
        vector = x.tolist()
        row = {"emb": vector, "loose": vector, "grid": x.reshape(2, 2).tolist(), "animal": int(z), "word": NAMES[z]}
        yield row | {"age": float(x[0])} | changed


@pytest.fixture(scope="module")
def whole() -> Any:
    return datasets.Dataset.from_list(list(examples()), features=FEATURES)


def ways(dataset: Any) -> dict[str, Any]:
    """The same rows in the same order, however they are given."""
    return {
        "whole": dataset,
        "as torch": dataset.with_format("torch", columns=["word"]),
        "as arrow": dataset.with_format("arrow"),
        "chosen": datasets.concatenate_datasets([dataset, dataset]).select(range(ROWS)),
        "by index": dataset.select(list(range(ROWS))[::-1]).select(list(range(ROWS))[::-1]),
        "streamed": dataset.to_iterable_dataset(),
        "in shards": dataset.to_iterable_dataset(num_shards=7).with_format("numpy"),
        "generated": datasets.IterableDataset.from_generator(examples),
        "generated with types": datasets.IterableDataset.from_generator(examples, features=FEATURES),
        "mapped": dataset.to_iterable_dataset().map(lambda row: row),
        "filtered": dataset.to_iterable_dataset(num_shards=3).filter(lambda row: True),
    }


@pytest.mark.parametrize("column", ["emb", "loose"])
def test_a_fit_is_that_of_the_rows_in_memory(whole: Any, column: str) -> None:
    plain = efface.LeaceFitter(WIDTH, 2)
    for start in range(0, ROWS, 128):
        plain.update(torch.from_numpy(X[start : start + 128]), Z[start : start + 128] // 3)
    for name, dataset in ways(whole).items():
        fitter = fit(dataset, column, "word", chunk_rows=128)
        assert fitter.classes == ("bee", "zebra") and int(fitter.n) == ROWS, name
        if name != "generated" and name != "mapped":  # whose numbers are taken for float64
            flipped = fitter.sigma_xz.flip(1)  # in order of names, and not of numbers
            assert torch.equal(flipped, plain.sigma_xz), name
        assert torch.allclose(fitter.eraser.proj_left.abs().float(), plain.eraser.proj_left.abs(), atol=1e-5), name


def test_classes_of_a_data_set_are_known_and_numbered_as_it_says(whole: Any) -> None:
    for dataset in (whole, whole.to_iterable_dataset(num_shards=2)):
        fitter = fit(dataset, ["emb"], "animal", chunk_rows=100)
        assert fitter.classes == fitter.report.classes == tuple(NAMES) and fitter.z_dim == 4
        assert fitter.mean_z.tolist() == pytest.approx((np.bincount(Z, minlength=4) / ROWS).tolist())
        fitter.update(torch.from_numpy(X), [NAMES[z] for z in Z])
    assert open_source(whole).classes == {"animal": tuple(NAMES)}  # pyright: ignore[reportAttributeAccessIssue]


def test_known_classes_need_one_pass_and_others_two() -> None:
    passes = 0

    def counted() -> Iterator[dict[str, Any]]:
        nonlocal passes
        passes += 1
        yield from examples()

    dataset = datasets.IterableDataset.from_generator(counted, features=FEATURES)
    fit(dataset, "emb", "animal", prefetch=False)
    assert passes == 1
    fit(dataset, "emb", "word", prefetch=False)
    assert passes == 3


def test_quantities_and_several_concepts(whole: Any) -> None:
    fitter = fit(whole, "emb", "age", chunk_rows=77)
    assert fitter.decision == "continuous" and fitter.classes == ()
    both = fit(whole, "emb", ["animal", "word"], chunk_rows=77)
    assert both.z_dim == 6 and both.decision == "columns"
    several = fit(whole, ["age", "loose"], "word")
    assert several.x_dim == 1 + WIDTH and several.columns == ()
    assert fit(whole, ["age"], "word").columns == ("age",)


@pytest.mark.parametrize("name", sorted(known.name for known in efface.methods("rows")))
def test_every_method_of_rows(whole: Any, name: str) -> None:
    fitter = fit(whole, "emb", "word", name)
    assert int(fitter.n.sum()) == ROWS and fitter.eraser.method == name


def test_erasing_back_by_map(whole: Any) -> None:
    eraser = fit(whole, "emb", "animal").eraser
    for dataset in (whole, whole.to_iterable_dataset(num_shards=2)):
        clean = dataset.map(
            lambda rows: {"emb": eraser(torch.tensor(rows["emb"])).numpy()}, batched=True, features=dataset.features
        )
        found = fit(clean, "emb", "animal")
        assert clean.features == FEATURES and found.sigma_xz.abs().max() < 1e-5
        first = torch.tensor(next(iter(clean))["emb"])
        assert torch.allclose(first, eraser(torch.from_numpy(X[:1]))[0], atol=1e-6)


def test_resumes_in_the_middle(whole: Any) -> None:
    for dataset in (whole, whole.to_iterable_dataset(num_shards=7)):
        source = open_source(dataset).select(["emb"])
        for start in (0, 1, 250, 499, 500):
            parts = [(c.first_row, c.numbers(["emb"])) for c in source.chunks(64, start=start)]
            assert [first for first, _ in parts] == list(range(start, ROWS, 64))
            assert np.array_equal(torch.cat([torch.zeros(0, WIDTH), *(x for _, x in parts)]).numpy(), X[start:])


def test_rows_lie_on_the_memory_of_the_data_set(whole: Any) -> None:
    (chunk,) = open_source(whole).select(["emb"]).chunks(ROWS)
    arrow = whole.with_format("arrow")[:]["emb"]
    assert arrow.num_chunks == 1
    assert chunk.numbers(["emb"]).data_ptr() == arrow.chunk(0).values.buffers()[1].address


# Files


def test_files_and_data_sets_give_the_same_bits(whole: Any, tmp_path: Path) -> None:
    whole.to_parquet(tmp_path / "X.parquet")
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "z.npy", np.array(NAMES)[Z])
    made = [
        fit(whole, "emb", "word", chunk_rows=99),
        fit(tmp_path / "X.parquet", "emb", "word", chunk_rows=99),
        fit(tmp_path / "X.parquet", "emb", "word", chunk_rows=99, prefetch=False),
        fit(tmp_path / "X.npy", labels=tmp_path / "z.npy", chunk_rows=99),
        fit(open_source(tmp_path / "X.npy"), labels=whole, z_columns="word", chunk_rows=99),
    ]
    for fitter in made[1:]:
        assert torch.equal(fitter.sigma_xz, made[0].sigma_xz) and fitter.classes == made[0].classes
        assert torch.equal(fitter.eraser.proj_left, made[0].eraser.proj_left)


def test_rows_that_miss_a_value(tmp_path: Path) -> None:
    vectors = [[1.0, 2.0], [None, 1.0], [0.5, 1.0], [0.25, 3.0], [2.0, 1.0]]
    table = pa.table({"emb": vectors, "z": ["a", "b", None, "b", "a"]})
    pq.write_table(table, tmp_path / "X.parquet")
    with pytest.raises(InputError, match="column 'z' of .* missing values in 1 of 5 rows"):
        fit(tmp_path / "X.parquet", "emb", "z")
    assert int(fit(tmp_path / "X.parquet", "emb", "z", missing="drop").n) == 3
    filled = fit(tmp_path / "X.parquet", "emb", "z", missing="mean")
    assert int(filled.n) == 4 and filled.mean_x.tolist() == pytest.approx([(1 + 0.25 + 2) / 3, 7 / 4])
    pq.write_table(pa.table({"emb": [[1.0, None], [2.0, None]], "z": ["a", "b"]}), tmp_path / "Y.parquet")
    with pytest.raises(InputError, match="number 1 of emb has no value at all"):
        fit(tmp_path / "Y.parquet", "emb", "z", missing="mean")
    with pytest.raises(InputError, match="no row without a missing value: missing='drop' leaves none"):
        fit(tmp_path / "Y.parquet", "emb", "z", missing="drop")


# What is wrong


def streamed(*rows: dict[str, Any], **how: Any) -> Any:
    return datasets.IterableDataset.from_generator(lambda: iter(rows), **how)


def of(features: dict[str, Any], *rows: dict[str, Any]) -> Any:
    return datasets.Dataset.from_list(list(rows), features=datasets.Features(features))


A, B = {"emb": [1.0, 2.0], "z": "a"}, {"emb": [3.0, 4.0], "z": "b"}
LABEL = {"emb": datasets.List(datasets.Value("float32")), "z": datasets.ClassLabel(names=["a", "b"])}
BAD: dict[str, tuple[Any, str]] = {
    "dictionary": (
        lambda: datasets.DatasetDict(train=of(LABEL, A), test=of(LABEL, B)),
        r"several data sets \(train, test\): choose one, dataset\['train'\]",
    ),
    "empty": (lambda: datasets.Dataset.from_dict({"emb": [], "z": []}), "the data set.* has no rows"),
    "empty stream": (lambda: streamed(), "the data set.* has no rows"),
    "empty stream with types": (lambda: streamed(features=datasets.Features(LABEL)), "the data set.* has no rows"),
    "no column": (lambda: datasets.Dataset.from_list([{"emb": [1.0]}]), "no column 'z': it has emb"),
    "ragged": (lambda: streamed(A, {**B, "emb": [1.0]}), "'emb' of the data set .* 2 in row 0 and 1 in row 1"),
    "gap": (lambda: streamed(A, {**B, "emb": [1.0, None]}), r"'emb' of .* has missing values .*from 0: 1\)"),
    "no label": (lambda: of(LABEL, {"emb": [1.0], "z": None}), "'z' of the data set has missing values"),
    "class -1": (lambda: of(LABEL, {**A, "z": 0}, {**B, "z": -1}), "'z' of the data set is -1 in row 1"),
    "matrix": (
        lambda: of({"emb": datasets.Array2D((1, 2), "float32"), "z": datasets.Value("string")}, {**A, "emb": [[1, 2]]}),
        "columns that hold no numbers: emb",
    ),
    "transform": (lambda: of(LABEL, A, B).with_transform(lambda rows: rows), "has a transform.*dataset.map"),
    "one class": (lambda: streamed(A, A), r"z has one class only \(a\)"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("prefetch", [True, False])
def test_what_is_wrong_with_a_data_set(name: str, prefetch: bool) -> None:
    make, said = BAD[name]
    with pytest.raises(InputError, match=said):
        fit(make(), "emb", "z", prefetch=prefetch)


def test_types_that_change_in_a_stream() -> None:
    rows = [{**A, "emb": [1, 2]}] * 300 + [B] * 300
    with pytest.raises(InputError, match=r"'emb' .* double.* from about row \d+ on, and .*int64.* before: name its"):
        fit(streamed(*rows), "emb", "z", chunk_rows=100)
    typed = streamed(*rows, features=datasets.Features({**LABEL, "z": datasets.Value("string")}))
    assert int(fit(typed, "emb", "z", chunk_rows=100).n) == 600


def test_a_stream_that_can_be_gone_through_once() -> None:
    rows = [{**A, "emb": [float(i), 1.0]} for i in range(400)]
    once = iter(rows)
    with pytest.raises(InputError, match="does not begin with the same rows when it is gone through again"):
        fit(datasets.IterableDataset.from_generator(lambda: once), "emb", "z")
    features, again = datasets.Features({**LABEL, "z": datasets.Value("string")}), iter([A, B] * 200)
    with pytest.raises(InputError, match="gave 400 rows when its labels were looked at and 0 now"):
        fit(datasets.IterableDataset.from_generator(lambda: again, features=features), "emb", "z")
    # Blocks of rows that repeat, and quantities, of which the first few are looked at, show nothing of that themselves.
    named = datasets.Features({"emb": LABEL["emb"], "z": datasets.Value("float64")})
    for numbers, more in ((range(400), {"features": named}), ([*range(100)] * 4, {})):
        drained = iter([{"emb": [float(i), 1.0], "z": i / 7} for i in numbers])
        with pytest.raises(InputError, match="can be gone through once only, and its first rows were"):
            fit(datasets.IterableDataset.from_generator(partial(iter, drained), **more), "emb", "z", chunk_rows=50)
    typed = iter([{**A, "z": 0}, {**B, "z": 1}] * 200)
    once_through = datasets.IterableDataset.from_generator(lambda: typed, features=datasets.Features(LABEL))
    assert int(fit(once_through, "emb", "z").n) == 400


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"x_columns": "emb"}, "z_columns says no concept: name a column of .*emb, loose, grid"),
        ({"z_columns": "word"}, "x_columns says no features: name columns of"),
        ({"x_columns": ["age", "age"], "z_columns": "word"}, "name each feature once"),
        ({"x_columns": ["age", "animal"], "z_columns": "animal"}, "animal is in x_columns and in z_columns"),
        ({"x_columns": "word", "z_columns": "animal"}, r"hold no numbers: word \(text\)"),
        ({"x_columns": "emd", "z_columns": "animal"}, r"no column 'emd' \(did you mean 'emb'\?\)"),
        ({"x_columns": "emb", "z_columns": "grid"}, "holds list"),
        ({"x_columns": 3, "z_columns": "word"}, "x_columns is 3: write"),
        ({"x_columns": "emb", "z_columns": "word", "method": "lease"}, "did you mean 'leace'"),
        ({"x_columns": "emb", "z_columns": "word", "missing": "man"}, "missing is 'man': write one of 'drop', 'mean'"),
        ({"x_columns": "emb", "z_columns": "age", "method": "quadratic"}, "quadratic takes one concept with classes"),
        ({"x_columns": "emb", "z_columns": "word", "chunk_rows": 0}, "chunk_rows must be an integer of at least 1"),
        ({"x_columns": "emb", "z_columns": "word", "tolerance": 1}, "tolerance"),
        ({"x_columns": "emb", "z_columns": "word", "kind": "continuous"}, "word holds text"),
        (
            {"x_columns": "emb", "z_columns": "animal", "kind": "continuous"},
            "animal has classes .zebra.*leave out",
        ),
    ],
)
def test_odd_arguments(whole: Any, how: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        fit(whole, **how)


@pytest.mark.parametrize("value", [3, None, [], object(), {"emb": [1.0]}])
def test_what_is_no_source(value: Any) -> None:
    with pytest.raises(InputError):
        fit(value, "emb", "z")


def test_what_is_in_memory_has_another_door() -> None:
    for value in (X, torch.from_numpy(X), pa.table({"emb": [1.0]})):
        with pytest.raises(InputError, match=r"source is a \w+, expected files.*in memory.*LeaceFitter.fit\(x, z\)"):
            fit(value, "emb", "z")


def test_labels_of_another_length_are_named_by_their_file(tmp_path: Path) -> None:
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "z.npy", Z[:-1])
    with pytest.raises(InputError, match="z.npy has 499 rows and .*X.npy has 500: give one label for each row"):
        fit(tmp_path / "X.npy", labels=tmp_path / "z.npy")


def test_damage_is_named_from_a_fit_too(tmp_path: Path) -> None:
    table = pa.table({"emb": X.tolist(), "z": Z})
    pq.write_table(table, tmp_path / "X.parquet", row_group_size=100, write_page_checksum=True, compression="none")
    part = pq.ParquetFile(tmp_path / "X.parquet").metadata.row_group(3).column(0)
    raw = bytearray((tmp_path / "X.parquet").read_bytes())
    raw[part.dictionary_page_offset + part.total_compressed_size // 2] ^= 1
    (tmp_path / "X.parquet").write_bytes(raw)
    with pytest.raises(FormatError, match=r"X.parquet cannot be read: row group 3 \(rows 300 to 399\).*column 'emb'"):
        fit(tmp_path / "X.parquet", "emb", "z", chunk_rows=50)


def test_the_package_is_not_needed_for_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    np.save(tmp_path / "X.npy", X)
    assert column_names(open_source(tmp_path / "X.npy")) == ("0", "1", "2", "3")
