"""Ray: exact over any parts, counted once whoever dies, and what is wrong is said here and not in a worker's log."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
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
from safetensors.torch import load_file

import efface
from efface._errors import FormatError, InputError, MissingExtraError
from efface.cli import main
from efface.cli.ranges import Change
from efface.engines import cluster
from efface.engines.parts import Job, fitter_of, merged_sums, sums_of
from efface.engines.passes import OfFiles, erased
from efface.engines.ray import fit, transform
from efface.engines.tasks import Work
from efface.engines.writing import begun, order_of
from efface.streams import open_source
from efface.streams.concepts import Concept
from efface.streams.inputs import Inputs, Labels

ROWS, WIDTH, CLASSES = 600, 5, ("a", "b", "c")
COUNTS = (1, 0, 250, 9, 340)

ray = pytest.importorskip("ray")


def rows() -> tuple[np.ndarray, np.ndarray]:
    """Rows far from zero, and text."""
    rng = np.random.default_rng(0)
    z = rng.integers(0, 3, ROWS)
    x = rng.normal(size=(ROWS, WIDTH)) + 1e4
    x[:, 0] += z
    return x, np.array(CLASSES)[z]


def table() -> pa.Table:
    x, z = rows()
    lists = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), WIDTH)
    return pa.table({"x": lists, "z": z, "q": x[:, 1] - 1e4})


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files of unequal length, one without rows, and what Spark leaves beside them."""
    folder, start = tmp_path_factory.mktemp("two words, ü"), 0
    for i, count in enumerate(COUNTS):
        pq.write_table(table().slice(start, count), folder / f"part-{i}.parquet", row_group_size=40)
        start += count
    (folder / "_SUCCESS").touch()
    return folder


@pytest.fixture(scope="module")
def running() -> Iterator[Any]:
    """A Ray of the user's own, with two processors."""
    cluster._start_here(ray, 2, object_store_memory=80 * 2**20)
    yield ray
    assert ray.is_initialized()  # it was found running, and left so
    ray.shutdown()


def alike(found: Any, right: Any) -> None:
    for name, value in right.tensors().items():
        assert float((found.tensors()[name] - value).norm() / value.norm().clamp_min(1e-300)) < 1e-11, name


@pytest.mark.slow
@pytest.mark.parametrize("method", ["leace", "oracle", "quadratic"])
def test_files_give_the_eraser_of_one_process(running: Any, files: Path, method: str) -> None:
    x, z = rows()
    fitter = fit(files, "x", "z", method, rows_per_task=80)
    found = fitter.eraser
    assert fitter.update(x[:2], z[:2]).eraser.provenance == {}
    right = efface.get_method(method, "rows").fitter.fit(x, z, dtype=torch.float64).eraser
    assert type(found) is type(right) and found.report.n == ROWS and found.report.classes == CLASSES
    alike(found, right)
    about = found.provenance["engine"]
    assert (about["name"], about["rows"], about["parts"]) == ("ray", ROWS, 8)
    assert about["concepts"] == [{"name": "z", "kind": "categorical", "classes": [*CLASSES]}]
    again = fit(str(files / "part*"), "x", "z", method, rows_per_task=80, workers=1, chunk_rows=4096).eraser
    assert again.digest == found.digest  # whoever works: the same parts, the same bits


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.use_\\w+. is deprecated:DeprecationWarning")  # Ray's own
def test_data_sets_give_it_too_whatever_their_blocks_are(running: Any, files: Path) -> None:
    x, z = rows()
    right = efface.LeaceEraser.fit(x, z, dtype=torch.float64)
    pieces, start = [], 0
    for count in COUNTS:
        pieces.append(table().slice(start, count))
        start += count
    ray.data.DataContext.get_current().enable_progress_bars = False
    alike(fit(ray.data.from_arrow(pieces), "x", ["z"]).eraser, right)
    arrays = ray.data.from_items([{"x": a, "z": b} for a, b in zip(x, z, strict=True)], override_num_blocks=3)
    alike(fit(arrays, "x", "z").eraser, right)  # tensors of Ray's own type
    several = fit(arrays.map_batches(lambda b: {**b, "q": b["x"][:, 1] - 1e4}), "x", ["z", "q"]).eraser
    columns = np.column_stack([z[:, None] == np.array(CLASSES), x[:, 1] - 1e4]).astype(float)
    alike(several, efface.LeaceEraser.fit(x, columns, dtype=torch.float64))
    with pytest.raises(InputError, match=r"the data set has no column 'y'"):
        fit(arrays, "x", "y")


@pytest.mark.slow
def test_a_worker_that_dies_is_counted_once(running: Any, files: Path, tmp_path: Path) -> None:
    source, mark = open_source(files), str(tmp_path / "died")

    class Mortal:
        """The files; whoever first reads row 400 dies of it, with half of its task done."""

        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> Any:
            if name == "inner":
                raise AttributeError(name)
            return getattr(self.inner, name)

        def select(self, *names: Any, **more: Any) -> Any:
            return Mortal(self.inner.select(*names, **more))

        def chunks(self, rows: int, *, start: int = 0) -> Any:
            for chunk in self.inner.chunks(rows, start=start):
                if chunk.first_row >= 400 and not os.path.exists(mark):
                    Path(mark).write_text(str(os.getpid()))
                    os.kill(os.getpid(), signal.SIGKILL)
                yield chunk

    parts = OfFiles(source, 80)
    job = Job("leace", ("x",), (Concept("z", "categorical", CLASSES, 3),), chunk_rows=20)
    work = Work(running)

    def state(inner: Any) -> Any:
        inputs = Inputs(inner, ("x",), (Labels("z", "z"),))
        return work.over(parts.parts(inputs), partial(sums_of, job), partial(merged_sums, job))

    found, right = state(Mortal(source)), state(source)
    died = int(Path(mark).read_text())
    assert died != os.getpid() and not Path(f"/proc/{died}").exists()
    assert found["rows"] == right["rows"] == ROWS
    for name, value in right["sums"].items():
        assert np.array_equal(found["sums"][name], value)
    assert fitter_of(job, found).eraser.report.n == ROWS


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.use_\\w+. is deprecated:DeprecationWarning")
def test_files_are_erased_into_a_folder_and_no_half_one_is_left(running: Any, files: Path, tmp_path: Path) -> None:
    eraser, out = fit(files, "x", "z", "oracle", rows_per_task=200).eraser, tmp_path / "out"
    done = transform(eraser, files, "x", out, z_columns="z", chunk_rows=50)
    assert (done.files, done.rows, done.kept) == (len(COUNTS), ROWS, 0)
    assert transform(eraser, files, "x", out, z_columns="z", chunk_rows=50).kept == len(COUNTS)
    found = open_source(out)
    (chunk,) = found.chunks(ROWS)
    x, z = rows()
    assert np.allclose(chunk.numbers(["x"]), efface.OracleEraser.fit(x, z, dtype=torch.float64)(x, z), atol=1e-8)
    assert chunk.labels("z").tolist() == z.tolist()
    before = read_bytes(found)
    (out / "part-2.parquet").write_bytes(b"PAR1")
    assert transform(eraser, files, "x", out, z_columns="z", chunk_rows=50).kept == len(COUNTS) - 1
    assert read_bytes(open_source(out)) == before
    with pytest.raises(InputError, match="begun with another eraser"):
        transform(fit(files, "x", "z").eraser, files, "x", out)
    with pytest.raises(InputError, match="a data set has no files to go on from"):
        transform(eraser, ray.data.from_arrow(table()), "x", tmp_path / "new", z_columns="z")


def read_bytes(source: Any) -> list[bytes]:
    return [chunk.numbers(["x"]).numpy().tobytes() for chunk in source.chunks(ROWS)]


@pytest.mark.slow
def test_text_that_is_taken_apart_and_labels_go_the_same_way(
    running: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    rng, start = np.random.default_rng(0), 0
    z = np.array(CLASSES)[rng.integers(0, 3, 90)]
    age = pa.array(np.where(np.arange(90) % 30 == 7, np.nan, rng.normal(size=90)), from_pandas=True)
    every = pa.table(
        {"age": age, "city": np.array(["Oslo", "Rome"])[rng.integers(0, 2, 90)], "n": [*range(90)], "z": z}
    )
    for name, count in (("a", 40), ("b", 0), ("c", 50)):
        pq.write_table(every.slice(start, count), f"in/{name}.parquet")
        start += count
    argv = ["fit", "in", "--concept", "z", "--one-hot", "city", "-o", "e", "--method", "oracle", "--missing"]
    assert main([*argv, "mean"]) == 0 and capsys.readouterr().out
    for i, missing in enumerate(("mean", "drop")):
        argv = ["apply", "in", "--eraser", "e", "--missing", missing]
        assert main([*argv, "-o", f"{i}.parquet"]) == 0 and main([*argv, "-o", f"{i}", "--engine", "ray"]) == 0
        here, there = (pq.read_table(path) for path in (f"{i}.parquet", f"{i}"))
        assert here.num_rows == (90 if missing == "mean" else 87) and here.schema.equals(there.schema)
        assert here.equals(there) and "city=Rome" in here.column_names
        said = capsys.readouterr().out
        assert said.count("edit size") == 2 and said.count("rows with missing values") == 2 * i
    np.save("z.npy", z)
    for more, text in (
        (["-o", "n", "--concept", "z.npy"], "--concept z.npy is a file: on Ray labels are columns of X"),
        (["-o", "1", "--missing", "mean"], "1 was begun with other missing: name another folder"),
    ):
        assert main(["apply", "in", "--eraser", "e", "--engine", "ray", *more]) == 2
        assert text in capsys.readouterr().err
    pq.write_table(every.set_column(1, "city", [["Paris"] * 90]), "p.parquet")
    assert main(["apply", "p.parquet", "--eraser", "e", "-o", "p", "--engine", "ray", "--missing", "drop"]) == 2
    assert "city is 'Paris' in row 0 of " in capsys.readouterr().err


@pytest.mark.slow
def test_files_that_a_worker_dies_on_are_erased_once_and_leave_nothing(
    running: Any, files: Path, tmp_path: Path
) -> None:
    mark = tmp_path / "died"

    class Deadly(Change):
        """Counts rows; whoever is first in the middle of a file dies of it."""

        def update(self, x: torch.Tensor, erased: torch.Tensor) -> None:
            super().update(x, erased)
            if self.rows > 100 and not mark.exists():
                mark.write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)

    eraser = fit(files, "x", "z").eraser
    order = order_of(eraser, "x", None, chunk_rows=20)
    right = transform(eraser, files, "x", tmp_path / "right", chunk_rows=20)
    pairs = begun(order, open_source(files), tmp_path / "out")
    done = erased(Work(running), order, pairs, tmp_path / "out", look=Deadly)
    assert int(mark.read_text()) != os.getpid() and done.seen.rows == done.rows == right.rows == ROWS
    for file in sorted(tmp_path.glob("right/*.parquet")):
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()
    assert not [*(tmp_path / "out").rglob(".*")]


@pytest.mark.slow
def test_what_is_wrong_is_said_here(running: Any, files: Path, tmp_path: Path) -> None:
    for given, text in (
        ({"x_columns": "v"}, r"has no column 'v': it has x, z, q"),
        ({"x_columns": []}, "name each feature once"),
        ({"x_columns": ["x", "x"]}, "name each feature once"),
        ({"z_columns": "x"}, "x is in x_columns and in z_columns"),
        ({"x_columns": "z", "z_columns": "q"}, r"columns that hold no numbers: z \(text\)"),
        ({"x_columns": None}, "x_columns says no features"),
        ({"z_columns": None}, "z_columns says no concept"),
        ({"source": None}, "NoneType"),
        ({"source": tmp_path}, "is an empty folder"),
        ({"method": "leacee"}, r"unknown method 'leacee'.*did you mean 'leace'"),
        ({"shrinkag": 1}, "shrinkag"),
        ({"address": "127.0.0.1:1"}, "Ray runs in this process already"),
    ):
        with pytest.raises(InputError, match=f"(?i){text}"):
            fit(**{"source": files, "x_columns": "x", "z_columns": "z", **given})
    bad = table().to_pylist()
    bad[333]["x"] = None
    pq.write_table(pa.Table.from_pylist(bad, table().schema), tmp_path / "a.parquet", row_group_size=100)
    with pytest.raises(InputError, match=r"column 'x' of .*a\.parquet has missing values .*: 333\)"):
        fit(tmp_path, "x", "z", rows_per_task=100)
    assert fit(tmp_path, "x", "z", rows_per_task=100, missing="drop").report.n == ROWS - 1
    rows_too = pa.Table.from_pylist(bad, table().schema)
    pq.write_table(rows_too, tmp_path / "a.parquet", row_group_size=100, write_page_checksum=True)
    place = pq.read_metadata(tmp_path / "a.parquet").row_group(4).column(0)
    whole = bytearray((tmp_path / "a.parquet").read_bytes())
    whole[place.dictionary_page_offset + 1000] ^= 255
    (tmp_path / "a.parquet").write_bytes(whole)
    with pytest.raises(FormatError, match=r"a\.parquet cannot be read: row group 4"):
        fit(tmp_path, "x", "z", rows_per_task=100, missing="drop")


@pytest.mark.slow
def test_the_command_makes_the_same_artefact(
    running: Any, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    said = []
    for engine in ("local", "ray"):
        argv = ["fit", str(files), "--concept", "z", "--columns", "x", "-o", engine, "--engine", engine]
        assert main(argv) == 0
        said.append(capsys.readouterr().out.replace(f"saved in {engine}", "").splitlines())
    assert [line for line in said[0] if "residual" not in line] == [line for line in said[1] if "residual" not in line]
    for name, value in load_file("local/model.safetensors").items():
        assert torch.allclose(load_file("ray/model.safetensors")[name], value, rtol=1e-11, atol=1e-11)
    local, other = (Path(engine, "concept.json").read_text() for engine in ("local", "ray"))
    assert local[: local.index('"x":')] == other[: other.index('"x":')]
    assert main(["apply", str(files), "--eraser", "ray", "-o", "clean.parquet"]) == 0
    here = capsys.readouterr().out.splitlines()
    argv = ["apply", str(files), "--eraser", "ray", "-o", "clean", "--engine", "ray"]
    assert main(argv) == 0
    there = capsys.readouterr().out.splitlines()
    assert there == [f"clean: {ROWS} rows in {len(COUNTS)} files, 1 columns changed (x)", *here[1:]]
    clean = pa.concat_tables(pq.read_table(f"clean/part-{i}.parquet") for i in range(len(COUNTS)))
    assert clean.equals(pq.read_table("clean.parquet"))
    Path("clean/part-2.parquet").write_bytes(b"")
    assert main(argv) == 0
    again = capsys.readouterr().out.splitlines()
    assert again[:2] == [there[0], f"{len(COUNTS) - 1} of the files were done before; what follows is of the others"]
    assert main(argv) == 0 and "edit size" not in capsys.readouterr().out
    for out, more, text in (
        ("new", ["--engine", "ray", "--force"], "--force is for the local engine"),
        ("new.parquet", ["--engine", "ray"], "with --engine ray this is a folder"),
        (str(files / "new"), ["--engine", "ray"], "lies in what is read"),
        ("new", ["--address", "h:1"], "--address goes with --engine ray"),
        ("new", [], "or --engine ray for a folder"),
    ):
        assert main(["apply", str(files), "--eraser", "ray", "-o", out, *more]) == 2
        assert text in capsys.readouterr().err
    assert not Path(files, "new").exists()
    for more, text in (
        (["--engine", "ray", "--checkpoint", "c"], "--checkpoint is for the local engine"),
        (["--address", "h:1"], "--address goes with --engine ray"),
    ):
        assert main(["fit", str(files), "--concept", "z", "--columns", "x", "-o", "n", *more]) == 2
        assert text in capsys.readouterr().err


def test_ray_that_is_not_installed_names_the_extra(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'efface\[ray\]'"):
        fit(files, "x", "z")


@pytest.mark.parametrize("address", ["nowhere", "host:", ":6379", "h:99999", "h:x"])
def test_addresses_that_are_none_are_refused(address: str) -> None:
    with pytest.raises(InputError, match="write host:port of a cluster"):
        cluster._check_answers(address, 1.0)


def test_an_address_that_does_not_answer_is_said_in_time() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(InputError, match=r"no Ray answers at 127\.0\.0\.1:\d+ within 5 s: start one there"):
            cluster._check_answers(f"127.0.0.1:{closed.getsockname()[1]}", 5.0)


@pytest.mark.slow
def test_something_else_that_answers_is_no_ray() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(InputError, match="something else does"):
            cluster._check_answers(f"127.0.0.1:{other.getsockname()[1]}", 5.0)


@pytest.mark.slow
def test_a_ray_that_was_started_for_a_fit_goes_with_it(files: Path, tmp_path: Path) -> None:
    code = (
        "import sys, os, ray\n"
        "from efface.engines.ray import fit\n"
        "print(fit(sys.argv[1], 'x', 'z').report.n)\n"
        "assert not ray.is_initialized() and 'RAY_USAGE_STATS_ENABLED' not in os.environ\n"
        "try: fit(sys.argv[1], 'x', 'q', kind='categorical')\n"
        "except efface_error as error: print(error)\n"
    ).replace("efface_error", "__import__('efface').InputError")
    done = subprocess.run([sys.executable, "-c", code, str(files)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{ROWS}\n") and done.stderr == ""
    alive = [p.name for p in Path("/proc").iterdir() if p.name.isdigit() and _is_of(p, str(files))]
    assert not alive


def _is_of(process: Path, text: str) -> bool:
    try:
        return text in (process / "cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return False
