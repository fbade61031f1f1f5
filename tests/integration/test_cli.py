"""The command line on files as users have them: it fits, applies, says what is wrong, and leaves no debris."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import efface
from efface.audit.audit import Audit
from efface.cli import main
from efface.cli.sample import Sample
from efface.core import checkpoint
from efface.erasers.leace import LeaceFitter


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_data(n: int = 300, d: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    z = rng.integers(0, 3, n)
    return rng.normal(size=(n, d)) + 3 * np.eye(3, d)[z], z


def make_table(n: int = 300) -> pd.DataFrame:
    x, z = make_data(n)
    frame = pd.DataFrame(x, columns=list("abcdef"))
    frame.insert(2, "group", np.array(["north", "south", "été"])[z])
    frame["name"] = [f"person {i}, jr" for i in range(n)]
    return frame


def spread(x: np.ndarray, z: np.ndarray) -> float:
    """Largest distance between class means."""
    means = np.stack([x[z == c].mean(0) for c in np.unique(z)])
    return float(np.abs(means - means[0]).max())


def fails(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Run a command that must fail with one line on stderr, and return that."""
    capsys.readouterr()
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert err.startswith("efface: error: ") and err.count("\n") == 1 and "Traceback" not in err
    return err


# It does what it says


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".parquet", ".safetensors"])
def test_fit_and_apply_on_every_format(folder: Path, suffix: str) -> None:
    x, z = make_data()
    frame = pd.DataFrame(x).rename(columns=str)
    np.save("z.npy", z)
    path = f"X{suffix}"
    {
        ".npy": lambda: np.save(path, x),
        ".npz": lambda: np.savez(path, emb=x),
        ".csv": lambda: frame.to_csv(path, index=False),
        ".parquet": lambda: frame.to_parquet(path),
        ".safetensors": lambda: save_file({"emb": torch.from_numpy(x)}, path),
    }[suffix]()
    assert main(["fit", path, "--concept", "z.npy", "-o", "eraser", "--chunk-rows", "70"]) == 0
    assert main(["apply", path, "--eraser", "eraser", "-o", "clean.npy", "--chunk-rows", "41"]) == 0
    clean = np.load("clean.npy")
    assert clean.dtype == np.float64 and spread(clean, z) < 1e-9 < spread(x, z)
    expected = LeaceFitter.fit(x, z, kind="categorical").eraser(x)
    assert np.allclose(clean, expected, atol=1e-9)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables_with_a_text_concept(folder: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    frame = make_table()
    frame.to_csv("people.csv", index=False)
    frame.to_parquet("people.parquet")
    argv = ["fit", f"people{suffix}", "--concept", "group", "--exclude", "name", "-o", "eraser"]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "3 classes (north, south, été)" in out and "rank 2 from 300 rows" in out and "residual" in out
    assert main(["apply", f"people{suffix}", "--eraser", "eraser", "-o", f"clean{suffix}"]) == 0
    clean = pd.read_csv("clean.csv") if suffix == ".csv" else pd.read_parquet("clean.parquet")
    assert clean.columns.tolist() == frame.columns.tolist()
    assert clean[["group", "name"]].equals(frame[["group", "name"]])
    assert spread(clean[list("abcdef")].to_numpy(), frame["group"].to_numpy()) < 1e-9
    side = json.loads((folder / "eraser" / "concept.json").read_text())
    assert side["columns"] == list("abcdef") and side["concepts"][0]["classes"] == ["north", "south", "été"]
    assert isinstance(efface.load("eraser").report.rank, int)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", [None, "pid"])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_the_index_that_pandas_writes_is_no_feature(suffix: str, name: str | None) -> None:
    index = pd.Index(np.random.default_rng(1).permutation(300) + 1000, name=name)
    frame = make_table().drop(columns="name").set_index(index)
    frame.to_csv("people.csv")
    frame.to_parquet("people.parquet")
    named_in_csv = ["--exclude", "pid"] if name and suffix == ".csv" else []  # there it is a column as any other
    assert main(["fit", f"people{suffix}", "--concept", "group", *named_in_csv, "-o", "eraser"]) == 0
    assert main(["apply", f"people{suffix}", "--eraser", "eraser", "-o", f"clean{suffix}"]) == 0
    clean = pd.read_csv("clean.csv", index_col=0) if suffix == ".csv" else pd.read_parquet("clean.parquet")
    assert clean.index.equals(index) and clean.columns.tolist() == frame.columns.tolist()
    assert spread(clean[list("abcdef")].to_numpy(), frame["group"].to_numpy()) < 1e-9


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays(folder: Path, dtype: torch.dtype) -> None:
    x, z = make_data()
    save_file({"X": torch.from_numpy(x).to(dtype), "z": torch.from_numpy(z)}, "d.safetensors")
    argv = ["fit", "d.safetensors:X", "--concept", "d.safetensors:z", "-o", "eraser"]
    assert main(argv) == 0
    assert main(["apply", "d.safetensors:X", "--eraser", "eraser", "-o", "clean.safetensors"]) == 0
    clean = load_file("clean.safetensors")
    assert clean["X"].dtype == dtype and torch.equal(clean["z"], torch.from_numpy(z))
    assert spread(clean["X"].double().numpy(), z) < 0.02


def test_several_concepts_are_erased_together(folder: Path) -> None:
    frame = make_table().assign(age=lambda t: t["d"] + 0.1 * t["e"])
    frame.to_parquet("people.parquet")
    argv = ["fit", "people.parquet", "--concept", "group", "--concept", "age", "--exclude", "name", "-o", "eraser"]
    assert main(argv) == 0
    assert main(["apply", "people.parquet", "--eraser", "eraser", "-o", "clean.parquet"]) == 0
    clean = pd.read_parquet("clean.parquet")
    assert clean["age"].equals(frame["age"])
    x = clean[list("abcdef")].to_numpy()
    assert spread(x, frame["group"].to_numpy()) < 1e-9
    assert np.abs(np.cov(x.T, frame["age"])[-1, :-1]).max() < 1e-9


@pytest.mark.parametrize(
    ("values", "kind", "said"),
    [
        (np.arange(300) % 3, "auto", "3 classes (0, 1, 2)"),
        (np.arange(300) % 3, "continuous", "continuous"),
        (np.arange(300) % 3 - 1.0, "auto", "continuous"),
        (np.arange(300) % 3 - 1.0, "categorical", "3 classes (-1.0, 0.0, 1.0)"),
        (np.arange(300) % 2 == 0, "auto", "2 classes (False, True)"),
        (np.arange(600.0).reshape(300, 2) % 7, "auto", "2 columns"),
        (np.array(["y", "x"] * 150), "auto", "2 classes (x, y)"),
    ],
)
@pytest.mark.filterwarnings("default")
def test_what_the_concept_is_taken_for(
    folder: Path, capsys: pytest.CaptureFixture[str], values: np.ndarray, kind: str, said: str
) -> None:
    np.save("X.npy", make_data()[0])
    np.save("z.npy", values)
    argv = ["fit", "X.npy", "--concept", "z.npy", "-o", "eraser", "--kind", kind, "--chunk-rows", "64"]
    coded = kind == "auto" and values.ndim == 1 and values.dtype.kind == "f"
    assert main(argv) == 0
    said_too = capsys.readouterr()
    assert said in said_too.out and ("3 distinct whole values" in said_too.err) == coded


@pytest.mark.parametrize("method", ["oracle", "quadratic"])
def test_methods_that_need_labels(folder: Path, capsys: pytest.CaptureFixture[str], method: str) -> None:
    frame = make_table()
    frame.to_csv("people.csv", index=False)
    np.save("X.npy", frame[list("abcdef")].to_numpy())
    frame[["group"]].to_csv("z.csv", index=False)
    assert main(["fit", "X.npy", "--concept", "z.csv", "-o", "eraser", "--method", method]) == 0
    assert "needs the labels" in capsys.readouterr().out
    assert "write --concept group" in fails(capsys, "apply", "X.npy", "--eraser", "eraser", "-o", "y.npy")
    argv = ["apply", "X.npy", "--eraser", "eraser", "-o", "y.npy", "--concept", "z.csv:group", "--chunk-rows", "7"]
    assert main(argv) == 0
    assert spread(np.load("y.npy"), frame["group"].to_numpy()) < 1e-6
    frame.assign(group="nowhere")[["group"]].to_csv("z.csv", index=False)
    assert "label nowhere in row 0" in fails(capsys, *argv[:-2], "--force")


def test_a_column_of_the_array_is_the_concept(folder: Path) -> None:
    x, _ = make_data()
    np.save("X.npy", x)
    assert main(["fit", "X.npy", "--concept", "4", "-o", "eraser"]) == 0
    assert main(["apply", "X.npy", "--eraser", "eraser", "-o", "y.npy"]) == 0
    y = np.load("y.npy")
    assert np.array_equal(y[:, 4], x[:, 4])
    assert np.abs(np.cov(y.T)[4][[0, 1, 2, 3, 5]]).max() < 1e-9


def test_chunks_do_not_matter(folder: Path) -> None:
    x, z = make_data()
    np.save("X.npy", x)
    np.save("z.npy", z)
    for rows in ("1", "64", "1000"):
        main(["fit", "X.npy", "--concept", "z.npy", "-o", f"eraser{rows}", "--chunk-rows", rows])
        main(["apply", "X.npy", "--eraser", f"eraser{rows}", "-o", f"y{rows}.npy", "--chunk-rows", rows])
    for rows in ("1", "64"):
        assert np.allclose(np.load(f"y{rows}.npy"), np.load("y1000.npy"), atol=1e-10)


@pytest.mark.parametrize("by", ["command", "Python"])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_columns_are_found_by_their_names(
    folder: Path, capsys: pytest.CaptureFixture[str], suffix: str, by: str
) -> None:
    frame = make_table()[["group", *"abcdef"]]
    write = getattr(pd.DataFrame, f"to_{suffix[1:]}")
    write(frame, f"people{suffix}", index=False)
    turned: Any = frame[frame.columns[::-1]]
    write(turned.assign(more=1.0), f"other{suffix}", index=False)
    x, z = frame[list("abcdef")], frame["group"]
    if by == "Python":
        efface.erase(x, z).save("eraser")
    else:
        main(["fit", f"people{suffix}", "--concept", "group", "-o", "eraser"])
    eraser = efface.load("eraser")
    assert eraser.columns == tuple("abcdef")
    with pytest.raises(efface.InputError, match="in another order"):
        eraser(x[list("fedcba")])
    for i, chosen in enumerate([[], ["--columns", "f,b,d,c,e,a"], ["--exclude", "more,group"]]):
        assert main(["apply", f"other{suffix}", "--eraser", "eraser", "-o", f"{i}.parquet", *chosen]) == 0
        clean = pd.read_parquet(f"{i}.parquet")
        assert list(clean.columns) == [*"fedcba", "group", "more"]
        np.testing.assert_allclose(clean[list("abcdef")], eraser(x), atol=1e-5)
    said = fails(capsys, "apply", f"other{suffix}", "--eraser", "eraser", "-o", "4.csv", "--columns", "b,a,c,d,e,more")
    assert "b, a would take the place of other columns" in said and "name with --columns" in said
    # A column of another name may take the place of one of the fit, if the user says so.
    assert main(["apply", f"other{suffix}", "--eraser", "eraser", "-o", "5.csv", "--columns", "a,b,c,d,e,more"]) == 0


def test_an_audit_finds_columns_by_their_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    frame: Any = make_table()[[*"abcdef", "group"]]
    frame[:200].to_csv("fit.csv", index=False)
    main(["fit", "fit.csv", "--concept", "group", "-o", "eraser"])
    for name, table in (("a", frame[200:]), ("b", frame[200:][frame.columns[::-1]])):
        table.to_csv("x.csv", index=False)
        assert main(["audit", "x.csv", "--concept", "group", "--eraser", "eraser", "-o", f"{name}.json"]) == 0
    first, second = (Audit.from_dict(json.loads(Path(f"{name}.json").read_text())) for name in "ab")
    assert first.findings == second.findings


def test_concepts_are_found_by_their_names(folder: Path) -> None:
    frame = make_table()[list("abcd")].assign(old=lambda t: t["a"] > 0, tall=lambda t: t["b"] > 1)
    frame.to_csv("people.csv", index=False)
    both = ["--concept", "old", "--concept", "tall"]
    main(["fit", "people.csv", *both, "-o", "eraser", "--method", "oracle"])
    for name, named in (("a", both), ("b", [*both[2:], *both[:2]])):
        assert main(["apply", "people.csv", "--eraser", "eraser", "-o", f"{name}.csv", *named]) == 0
    assert Path("a.csv").read_text() == Path("b.csv").read_text()


# Audits


@pytest.mark.parametrize("given", ["--eraser", pytest.param("--after", marks=pytest.mark.slow), "nothing"])
def test_audit_before_and_after(folder: Path, capsys: pytest.CaptureFixture[str], given: str) -> None:
    frame = make_table(200).assign(task=lambda t: t["d"] > 0)
    frame.to_csv("people.csv", index=False)
    concept = ["--concept", "group"]
    main(["fit", "people.csv", *concept, "-o", "eraser", "--exclude", "name,task"])
    main(["apply", "people.csv", "--eraser", "eraser", "-o", "clean.parquet"])
    argv = ["audit", "people.csv", *concept, "--task", "task", "-o", "report.json"]
    argv += {
        "--eraser": ["--eraser", "eraser"],
        "--after": ["--after", "clean.parquet", "--exclude", "name"],
        "nothing": ["--exclude", "name"],
    }[given]
    capsys.readouterr()
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "linear probe: accuracy" in out and "report written to report.json" in out
    assert ("fitted anew in each fold" if given == "nothing" else "not fitted on") in out
    audit = Audit.from_dict(json.loads(Path("report.json").read_text()))
    about = {"--eraser": "LeaceEraser", "--after": "clean.parquet", "nothing": "leace"}[given]
    assert [each["name"] for each in audit.provenance["subject"]] == [about]
    before, after = (audit.find("linear probe", "accuracy", c) for c in ("before", "after"))
    assert before.verdict == "above chance" != after.verdict and after.value < 0.5 < before.value
    assert audit.find("task: task", "accuracy", "before").value > 0.8


def test_audit_of_an_eraser_that_takes_labels(folder: Path) -> None:
    x, z = make_data()
    np.savez("d.npz", X=x, z=z)
    main(["fit", "d.npz:X", "--concept", "d.npz:z", "-o", "eraser", "--method", "oracle"])
    assert main(["audit", "d.npz:X", "--concept", "d.npz:z", "--eraser", "eraser", "-o", "r.md"]) == 0
    assert "linear probe" in Path("r.md").read_text()


SAMPLE = ["audit", "X.npy", "--concept", "z.npy", "--max-rows", "30", "-o", "r.json", "--force"]


def test_audit_of_a_sample(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, z = make_data(90, 3)
    np.save("X.npy", x)
    np.save("z.npy", z)
    assert main(SAMPLE) == 0
    assert "a random sample of 30 of 90 rows" in capsys.readouterr().out
    assert Audit.from_dict(json.loads(Path("r.json").read_text())).findings[0].n == 30


@pytest.mark.slow
def test_the_sample_of_several_concepts_is_the_same_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    x, z = make_data(90, 3)
    np.save("X.npy", x)
    np.save("z.npy", z)
    argv = [*SAMPLE, "--concept", "2"]
    assert main(argv) == 0
    first = Path("r.json").read_text()
    assert main(argv) == 0
    assert Path("r.json").read_text() == first
    parts = Audit.from_dict(json.loads(first)).parts
    assert [part.findings[0].n for part in parts] == [30, 30]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("audit X.npy --concept z.npy -o r.txt", "expected a suffix of .html .json .md"),
        ("audit X.npy --concept z.npy --after narrow.npy", "narrow.npy"),
        ("audit X.npy --concept z.npy --after less.npy", "less.npy has 299 rows"),
        ("audit X.npy --concept z.npy --eraser good --task 3", "X.npy has 5 features (0, 1, 2, 4, 5), the eraser"),
        ("audit X.npy --concept one.npy", "one.npy has 1 class"),
        ("audit X.npy --concept z.npy --method oracle", "audit with --after"),
    ],
)
def test_audit_errors(folder: Path, capsys: pytest.CaptureFixture[str], argv: str, message: str) -> None:
    write_bad(folder)
    before = sorted(folder.rglob("*"))
    assert message in fails(capsys, *argv.split())
    assert sorted(folder.rglob("*")) == before


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=10), size=st.integers(1, 60), seed=st.integers(0, 9))
def test_a_sample_does_not_depend_on_chunks(sizes: list[int], size: int, seed: int) -> None:
    rows = np.arange(sum(sizes))
    parts, whole = Sample(size, seed=seed), Sample(size, seed=seed)
    whole.update([rows, torch.from_numpy(rows)])
    for piece in np.split(rows, np.cumsum(sizes)[:-1]):
        parts.update([piece, torch.from_numpy(piece)])
    found, tensor = parts.parts()
    assert found.tolist() == tensor.tolist() == whole.parts()[0].tolist() == sorted({*found.tolist()})
    assert len(found) == min(size, len(rows)) and parts.seen == len(rows)


# Interruption


def interrupt_at(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    calls = iter(range(1000))
    update = LeaceFitter.update

    def interrupted(self: LeaceFitter, *args: object, **kwargs: object) -> LeaceFitter:
        if next(calls) == call:
            raise KeyboardInterrupt
        return update(self, *args, **kwargs)

    monkeypatch.setattr(LeaceFitter, "update", interrupted)


@pytest.mark.parametrize("name", ["people.csv", "X.npy"])
def test_an_interrupted_fit_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    frame = make_table()
    frame.to_csv("people.csv", index=False)
    np.save("X.npy", frame[list("abcdef")].to_numpy())
    columns = ["--exclude", "name"] if name == "people.csv" else []
    argv = ["fit", name, "--concept", "people.csv:group" if name == "X.npy" else "group", *columns]
    argv += ["--chunk-rows", "40", "-o"]
    assert main([*argv, "whole"]) == 0
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4)
        assert main([*argv, "parts", "--checkpoint", "state"]) == 130
    assert "efface: interrupted" in capsys.readouterr().err
    assert not Path("parts").exists()
    assert sorted(p.name for p in Path("state").iterdir()) == ["checkpoint.json", "state-4"]
    assert json.loads(Path("state/checkpoint.json").read_text())["position"]["rows"] == 160
    error = fails(capsys, *argv[:-2], "41", "-o", "parts", "--checkpoint", "state")
    assert "differs in chunk_rows" in error and "delete it" in error
    assert main([*argv, "parts", "--checkpoint", "state"]) == 0
    assert "going on from row 160" in capsys.readouterr().out
    assert not Path("state").exists()
    for key, tensor in load_file("whole/model.safetensors").items():
        assert torch.equal(load_file("parts/model.safetensors")[key], tensor)


# What goes wrong


def write_bad(folder: Path) -> None:
    x, z = make_data()
    np.save("X.npy", x)
    np.save("z.npy", z)
    np.save("short.npy", z[:-1])
    np.save("less.npy", x[:-1])
    np.save("one.npy", z * 0)
    np.save("narrow.npy", x[:, :4])
    np.save("flat.npy", x[:, 0])
    np.save("many.npy", np.arange(5000) // 4)
    frame = make_table()
    frame.to_csv("people.csv", index=False)
    frame[["a", "b"]].assign(group="north").to_csv("onegroup.csv", index=False)
    frame.head(250)[["group"]].to_csv("short.csv", index=False)
    main(["fit", "X.npy", "--concept", "z.npy", "-o", "good"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("fit nowhere.npy --concept z.npy -o e", "no file nowhere.npy"),
        ("fit X.npy --concept nowhere.npy -o e", "no file nowhere.npy"),
        ("fit X.npy --concept sex -o e", "'sex' is neither a column of X.npy (it has 0, 1, 2, 3, 4, 5) nor a file"),
        ("fit X.npy --concept short.npy -o e", "short.npy has 299 rows and X.npy has 300"),
        ("fit people.csv --exclude group,name --concept z.npy -o e --columns a", "--columns and --exclude do not go"),
        ("fit people.csv --concept short.csv --exclude name,group -o e", "fewer rows than people.csv"),
        ("fit people.csv --concept group -o e", "hold no numbers: name (text): leave them out with --exclude name"),
        ("fit people.csv --concept group --columns a,x -o e", "no column 'x': it has a, b, group"),
        ("fit people.csv --concept group --columns a,group -o e", "group cannot be in --columns and be a concept"),
        ("fit people.csv --concept people.csv -o e --exclude name", "several columns"),
        ("fit people.csv --concept group --exclude name --kind continuous -o e", "holds text"),
        ("fit onegroup.csv --concept group -o e", "one class only (north)"),
        ("fit X.npy --concept one.npy -o e", "one class only (0)"),
        ("fit X.npy --concept many.npy -o e", "more than 1000 distinct values"),
        ("fit X.npy --concept X.npy -o e --kind categorical", "6 columns"),
        ("fit flat.npy --concept z.npy -o e", "shape (300,), expected (n, d)"),
        ("fit X.npy --concept z.npy -o e --method nope", "choose one of leace"),
        ("fit X.npy --concept X.npy -o e --method quadratic", "takes one concept with classes"),
        ("fit X.npy --concept z.npy -o z.npy", "is a file"),
        ("apply narrow.npy --eraser good -o e.npy", "narrow.npy has 4 features (0, 1, 2, 3), the eraser"),
        ("apply X.npy --eraser nowhere -o e.npy", "nowhere has no config.json"),
        ("apply X.npy --eraser good -o e.txt", "expected a suffix of .npy"),
        ("apply people.csv --eraser good -o e.csv", "hold no numbers: group (text), name (text)"),
    ],
)
def test_errors(folder: Path, capsys: pytest.CaptureFixture[str], argv: str, message: str) -> None:
    write_bad(folder)
    before = sorted(folder.rglob("*"))
    assert message in fails(capsys, *argv.split())
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("suffix", [".npy", ".csv", ".parquet"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_late_bad_value_names_its_row_and_leaves_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], suffix: str, bad: float
) -> None:
    x, z = make_data()
    for name in ("good", "bad"):
        frame = pd.DataFrame(x).rename(columns=str)
        np.save(f"{name}.npy", x)
        frame.to_csv(f"{name}.csv", index=False, na_rep="NaN")
        frame.to_parquet(f"{name}.parquet")
        x[257, 3] = bad
    np.save("z.npy", z)
    fit = ["--concept", "z.npy", "-o", "eraser", "--chunk-rows", "50"]
    assert "257" in fails(capsys, "fit", f"bad{suffix}", *fit)
    assert not (folder / "eraser").exists()
    assert main(["fit", f"good{suffix}", *fit]) == 0
    before = sorted(folder.rglob("*"))
    argv = ["apply", f"bad{suffix}", "--eraser", "eraser", "-o", f"clean{suffix}", "--chunk-rows", "50"]
    assert "257" in fails(capsys, *argv)
    assert sorted(folder.rglob("*")) == before


def test_a_late_bad_label_names_its_row(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, z = make_data()
    np.save("X.npy", x)
    labels = z + 0.5
    labels[[211, 299]] = np.nan
    np.save("z.npy", labels)
    error = fails(capsys, "fit", "X.npy", "--concept", "z.npy", "-o", "e", "--chunk-rows", "50")
    assert "z.npy is missing, NaN or infinite" in error and "first rows: 211" in error
    frame = make_table()
    frame.loc[211, "group"] = None
    frame.to_csv("people.csv", index=False)
    error = fails(capsys, "fit", "people.csv", "--concept", "group", "-o", "e", "--exclude", "name")
    assert "column 'group' of people.csv has missing values" in error and ": 211)" in error


def test_files_of_another_version(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_bad(folder)
    path = folder / "good" / "concept.json"
    whole = path.read_text()
    for text, message in [('{"format_version": 99}', "upgrade"), (whole[:40], "damaged"), ("[]", "damaged")]:
        path.write_text(text)
        assert message in fails(capsys, "apply", "X.npy", "--eraser", "good", "-o", "e.npy")


@pytest.mark.filterwarnings("default")
def test_warnings_are_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("X.npy", make_data()[0])
    np.save("z.npy", np.arange(300) // 10)
    assert main(["fit", "X.npy", "--concept", "z.npy", "-o", "e"]) == 0
    err = capsys.readouterr().err
    assert err.startswith("efface: warning: z.npy holds 30 different integers") and err.count("\n") == 1


# As a process


def run_python(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *argv], capture_output=True, text=True, check=False)


def test_help_and_version_import_nothing_heavy() -> None:
    code = (
        "import sys\nfrom efface.cli import main\n"
        "for argv in (['--help'], ['--version'], ['fit', '--help']):\n"
        "    try: main(argv)\n"
        "    except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'numpy', 'pyarrow', 'sklearn', 'tqdm', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in ("fit", "apply", "audit", "demo", "efface 0."))


def test_as_a_process(folder: Path) -> None:
    frame = make_table()
    frame.to_csv("people.csv", index=False)
    done = run_python("-m", "efface", "fit", "people.csv", "--concept", "group", "-o", "e")
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    done = run_python("-m", "efface", "fit", "people.csv", "--concept", "group", "-o", "e", "--exclude", "name")
    assert done.returncode == 0 and done.stderr == "" and "rank 2" in done.stdout


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(folder: Path) -> None:
    rng = np.random.default_rng(0)
    block = rng.normal(size=(2000, 256)).astype("f4")
    for name, copies in [("small", 4), ("large", 120)]:
        with open(f"{name}.npy", "wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (2000 * copies, 256)}
            np.lib.format.write_array_header_1_0(file, header)
            for _ in range(copies):
                file.write(block.tobytes())
        np.save(f"z{name}.npy", np.tile(np.arange(2000) % 2, copies))
    code = (
        "import sys, resource\nfrom efface.cli import main\n"
        "assert main(['fit', sys.argv[1] + '.npy', '--concept', f'z{sys.argv[1]}.npy', '-o', 'e', '--force']) == 0\n"
        "assert main(['apply', sys.argv[1] + '.npy', '--eraser', 'e', '-o', 'clean.npy', '--force']) == 0\n"
        "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    unit = 1 if sys.platform == "darwin" else 1024
    peaks = [int(run_python("-c", code, name).stdout.split()[-1]) * unit for name in ("small", "large")]
    assert Path("large.npy").stat().st_size > 240_000_000
    assert peaks[1] - peaks[0] < 60_000_000


# Tables with text, gaps and targets


def make_people(gaps: bool = False) -> pd.DataFrame:
    """Two numbers, a text, something to be predicted, and the concept; with gaps in all but the last two."""
    rng = np.random.default_rng(3)
    sex = rng.integers(0, 2, 240)
    people = pd.DataFrame(
        {
            "age": 40 + 9 * rng.normal(size=240) + 5 * sex,
            "kids": rng.poisson(0.5 + sex),
            "city": rng.choice(["Bonn", "Oslo", "Rome"], 240),
            "hired": rng.integers(0, 2, 240),
            "sex": np.array(["f", "m"])[sex],
        }
    )
    if gaps:
        people.loc[::17, "age"] = np.nan
        people.loc[::29, "city"] = None
    return people


def apart(people: pd.DataFrame) -> Any:
    means: Any = people.groupby("sex").mean(numeric_only=True)
    return (means.loc["m"] - means.loc["f"]).abs()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_text_is_spread_and_the_task_is_left(folder: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    people = make_people()
    people.to_csv("p.csv", index=False) if suffix == ".csv" else people.to_parquet("p.parquet", index=False)
    fit = ["fit", f"p{suffix}", "--concept", "sex", "--one-hot", "city", "--task", "hired", "-o", "e"]
    assert main(fit) == 0 and main(["apply", f"p{suffix}", "--eraser", "e", "-o", f"c{suffix}"]) == 0
    clean = pd.read_csv("c.csv") if suffix == ".csv" else pd.read_parquet("c.parquet")
    assert list(clean) == ["age", "kids", "city=Bonn", "city=Oslo", "city=Rome", "hired", "sex"]
    assert apart(clean).drop("hired").max() < 1e-9 and clean["hired"].equals(people["hired"])
    said = capsys.readouterr()
    assert "of the variance of each column: kids" in said.out and "kids leaves its range of 0 to" in said.err
    people.replace({"city": {"Oslo": "Lima"}}).to_csv("other.csv", index=False)
    assert "city is 'Lima' in row" in fails(capsys, "apply", "other.csv", "--eraser", "e", "-o", "o.csv")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_rows_with_gaps_are_left_out(folder: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    people = make_people(gaps=True)
    people.to_csv("p.csv", index=False) if suffix == ".csv" else people.to_parquet("p.parquet", index=False)
    fit = ["fit", f"p{suffix}", "--concept", "sex", "--one-hot", "city", "--task", "hired", "-o", "e"]
    assert "write --missing drop or --missing mean" in fails(capsys, *fit)
    apply = ["apply", f"p{suffix}", "--eraser", "e", "-o", f"c{suffix}", "--missing", "drop", "--chunk-rows", "50"]
    assert main([*fit, "--missing", "drop", "--chunk-rows", "7"]) == 0 and main(apply) == 0
    clean = pd.read_csv("c.csv") if suffix == ".csv" else pd.read_parquet("c.parquet")
    assert len(clean) == len(people.dropna()) < len(people) and apart(clean).drop("hired").max() < 1e-9
    assert f"{len(people) - len(clean)} rows with missing values were left out" in capsys.readouterr().out
    audit = ["audit", f"p{suffix}", "--concept", "sex", "--exclude", "city", "--missing", "drop", "-o", "r.json"]
    assert main(audit) == 0


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npy"])
def test_gaps_are_filled_with_means(folder: Path, suffix: str) -> None:
    people = make_people(gaps=True).drop(columns=["city", "hired"])
    filled = people.fillna({"age": people["age"].mean()})
    for name, table in (("p", people), ("filled", filled)):
        numbers = table[["age", "kids"]].to_numpy(float)
        np.save(f"{name}.npy", numbers)
        table.to_csv(f"{name}.csv", index=False)
        table.to_parquet(f"{name}.parquet", index=False)
    concept = "filled.csv:sex" if suffix == ".npy" else "sex"
    for name, more in (("p", ["--missing", "mean"]), ("filled", [])):
        assert main(["fit", f"{name}{suffix}", "--concept", concept, "-o", f"e-{name}", *more]) == 0
        assert main(["apply", f"{name}{suffix}", "--eraser", f"e-{name}", "-o", f"c-{name}.npy", *more]) == 0
    np.testing.assert_allclose(np.load("c-p.npy"), np.load("c-filled.npy"), rtol=1e-9)


def test_labels_with_gaps_are_left_out_in_both_files(folder: Path) -> None:
    people = make_people()
    people.loc[::11, "sex"] = None
    people[["sex"]].to_csv("labels.csv", index=False)
    np.save("p.npy", people[["age", "kids"]].to_numpy(float))
    for missing in ("drop", "mean"):
        argv = ["fit", "p.npy", "--concept", "labels.csv:sex", "--missing", missing, "-o", missing, "--chunk-rows", "9"]
        assert main(argv) == 0
        assert efface.load(missing).report.n == len(people.dropna())


def test_a_column_called_as_a_target_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_people().rename(columns={"hired": "label"}).to_csv("p.csv", index=False)
    argv = ["fit", "p.csv", "--concept", "sex", "--one-hot", "city", "-o", "e"]
    assert main(argv) == 0 and "label is taken for a feature" in capsys.readouterr().err
    assert main([*argv, "--force", "--keep", "label"]) == 0 and "taken for" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--one-hot", "city,sex"], "--one-hot sex is a concept or the task"),
        (["--one-hot", "age"], "--one-hot age holds double"),
        (["--one-hot", "town"], "no column 'town'"),
        (["--exclude", "city", "--task", "hird"], "did you mean 'hired'"),
        (["--exclude", "city", "--columns", "age"], "do not go together"),
    ],
)
def test_columns_that_cannot_be(
    folder: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    make_people().to_csv("p.csv", index=False)
    assert message in fails(capsys, "fit", "p.csv", "--concept", "sex", "-o", "e", *more)
