"""The ground floor: atomic files, checks on input, lazy imports, the registry."""

from __future__ import annotations

import contextlib
import json
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from efface import _io, _lazy, _validate
from efface._errors import EffaceError, FormatError, InputError, MissingExtraError, NotFittedError
from efface._interrupts import insisted

# ---------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (InputError, ValueError),
        (FormatError, ValueError),
        (NotFittedError, RuntimeError),
        (MissingExtraError, ImportError),
    ],
)
def test_errors_are_caught_as_the_builtin_too(error: type, builtin: type) -> None:
    assert issubclass(error, EffaceError) and issubclass(error, builtin)


# ----------------------------------------------------------------------------------------------- files


def test_atomic_path_replaces_only_on_success(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with _io.atomic_path(path) as temporary:
        temporary.write_text("one")
        assert not path.exists() and temporary.suffix == ".txt"
    assert path.read_text() == "one"
    with pytest.raises(ZeroDivisionError), _io.atomic_path(path) as temporary:
        temporary.write_text("two")
        raise ZeroDivisionError
    assert path.read_text() == "one"
    assert [f.name for f in path.parent.iterdir()] == ["a.txt"]


def test_atomic_path_survives_a_keyboard_interrupt(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), _io.atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_written_files_have_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text("")
    _io.write_text(tmp_path / "a.txt", "")
    _io.save_folder(tmp_path / "folder", {}, {})
    (tmp_path / "plain").mkdir()

    def mode(name: str) -> int:
        return stat.S_IMODE((tmp_path / name).stat().st_mode)

    assert mode("a.txt") == mode("plain.txt")
    assert mode("folder") == mode("plain")


def test_atomic_dir_keeps_what_it_does_not_replace(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "notes.md").write_text("mine")
    (folder / "a").write_text("old")
    with _io.atomic_dir(folder) as temporary:
        (temporary / "a").write_text("new")
    assert (folder / "notes.md").read_text() == "mine" and (folder / "a").read_text() == "new"
    with pytest.raises(ZeroDivisionError), _io.atomic_dir(folder) as temporary:
        (temporary / "a").write_text("half")
        raise ZeroDivisionError
    assert (folder / "a").read_text() == "new"
    assert [f.name for f in tmp_path.iterdir()] == ["folder"]


def test_a_failed_save_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        _io.save_folder(tmp_path / "folder", {"bad": float("nan")}, {"a": torch.zeros(1)})
    assert list(tmp_path.iterdir()) == []


DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool]
DTYPES += [torch.complex64, torch.complex128]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 2)], ids=str)
def test_folders_give_back_what_was_saved(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    value = torch.ones(shape, dtype=dtype)
    value = value * (1 - 2j) if dtype.is_complex else value
    # Transposed, conjugated and sharing memory: none of it may matter.
    tensors = {"a": value, "b": value.mT.conj() if value.ndim == 2 else value, "c": value}
    _io.save_folder(tmp_path / "f", {"type": "X", "n": 3}, tensors)
    config, loaded = _io.load_folder(tmp_path / "f", expect="X")
    assert config["n"] == 3 and config["format_version"] == _io.FORMAT_VERSION
    for name, tensor in tensors.items():
        torch.testing.assert_close(loaded[name], tensor.resolve_conj(), rtol=0, atol=0)


def _saved(tmp_path: Path) -> Path:
    _io.save_folder(tmp_path / "f", {"type": "X"}, {"a": torch.arange(100.0)})
    return tmp_path / "f"


def _edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / _io.CONFIG).read_text())
    (folder / _io.CONFIG).write_text(json.dumps({**config, **changes}))


def _truncate(folder: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "newer": (lambda f: _edit_config(f, format_version=999), r"has format 999, .* pip install -U efface"),
    "no version": (lambda f: _edit_config(f, format_version=None), "no integer format_version"),
    "not a dict": (lambda f: (f / _io.CONFIG).write_text("[1]"), "was not written by efface"),
    "config cut": (lambda f: _truncate(f, _io.CONFIG), "may be truncated"),
    "nested too deep": (lambda f: (f / _io.CONFIG).write_text("[" * 100_000 + "]" * 100_000), "may be truncated"),
    "tensors cut": (lambda f: _truncate(f, _io.TENSORS), "may be truncated"),
    "tensors empty": (lambda f: (f / _io.TENSORS).write_bytes(b""), "may be truncated"),
    "tensors foreign": (lambda f: (f / _io.TENSORS).write_bytes(b"\x80\x04pickle" * 9), "may be truncated"),
    "other type": (lambda f: _edit_config(f, type="Y"), "holds a 'Y', expected a 'X'"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_folders_are_refused(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    folder = _saved(tmp_path)
    damage(folder)
    with pytest.raises(FormatError, match=message):
        _io.load_folder(folder, expect="X")


@pytest.mark.parametrize("missing", [_io.CONFIG, _io.TENSORS])
def test_missing_files_are_named(tmp_path: Path, missing: str) -> None:
    folder = _saved(tmp_path)
    (folder / missing).unlink()
    with pytest.raises(FileNotFoundError, match=missing):
        _io.load_folder(folder)


def test_an_unknown_key_of_the_config_is_kept(tmp_path: Path) -> None:
    folder = _saved(tmp_path)
    _edit_config(folder, later="yes")
    assert _io.load_folder(folder)[0]["later"] == "yes"


# -------------------------------------------------------------------------------------------- validate

NUMPY_DTYPES = ["f2", "f4", "f8", "g", ">f8", "i1", "i8", ">i4", "u1", "u2", "u8", "bool", "c8"]


@pytest.mark.parametrize("dtype", NUMPY_DTYPES)
def test_every_numeric_array_becomes_a_tensor(dtype: str) -> None:
    array = np.array([[0, 1], [1, 0]]).astype(dtype)
    tensor = _validate.to_tensor(array, "x")
    np.testing.assert_array_equal(tensor.numpy(), array)


def test_arrays_share_their_memory_even_if_read_only() -> None:
    array = np.zeros(3)
    array.flags.writeable = False
    assert _validate.to_tensor(array, "x").data_ptr() == array.ctypes.data


def test_strided_arrays_and_gradients_are_taken() -> None:
    array = np.arange(6.0)[::-2]
    np.testing.assert_array_equal(_validate.to_tensor(array, "x").numpy(), array)
    assert not _validate.to_tensor(torch.ones(2, requires_grad=True), "x").requires_grad


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame], ids=["pandas", "polars"])
def test_tables_become_tensors(make: Callable[[dict[str, list[float]]], Any]) -> None:
    table = make({"a": [1.0, 2.0], "b": [3.0, 4.0]})
    np.testing.assert_array_equal(_validate.to_tensor(table, "x").numpy(), [[1, 3], [2, 4]])


OBJECTS = [["a", "b"], [None, 1.0], np.array(["2020-01-01"], "M8[D]"), {"a": 1}]


@pytest.mark.parametrize("value", OBJECTS, ids=["strings", "none", "dates", "dict"])
def test_what_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match="thing holds .* not numbers: convert it first"):
        _validate.to_tensor(value, "thing")


@pytest.mark.parametrize("shape", [(), (4, 2), (3,)], ids=str)
def test_rows_of_another_width_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"x has shape .*, expected \(\.\.\., 5\)"):
        _validate.to_rows(torch.zeros(shape), 5, "x")


@given(st.lists(st.integers(0, 3), max_size=3))
def test_rows_keep_every_leading_shape(lead: list[int]) -> None:
    rows = _validate.to_rows(torch.zeros(*lead, 5), 5, "x")
    assert rows.shape == (int(np.prod(lead)), 5)


@given(st.sets(st.integers(0, 29), min_size=1), st.sampled_from([float("nan"), float("inf"), -float("inf")]))
def test_rows_that_are_not_finite_are_counted_and_named(bad: set[int], value: float) -> None:
    x = torch.zeros(30, 2)
    x[sorted(bad), 1] = value
    first = ", ".join(str(i + 100) for i in sorted(bad)[:5])
    with pytest.raises(InputError, match=rf"in {len(bad)} of 30 rows \(first rows: {first}[,)]"):
        _validate.check_finite(x, "x", index=100)


def test_finite_integer_and_empty_rows_pass() -> None:
    _validate.check_finite(torch.zeros(0, 3), "x")
    _validate.check_finite(torch.arange(3), "z")
    most = torch.finfo(torch.float16).max
    _validate.check_finite(torch.full((30, 2), most, dtype=torch.float16), "x")  # whose sum is not finite


def test_infinities_that_cancel_are_seen() -> None:
    with pytest.raises(InputError, match=r"2 of 3 rows \(first rows: 0, 2\)"):
        _validate.check_finite(torch.tensor([[torch.inf], [0.0], [-torch.inf]]), "x")


@pytest.mark.parametrize("value", [0, -1, 2.0, True, "3", None], ids=repr)
def test_what_is_no_positive_integer_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match="k must be an integer of at least 1"):
        _validate.check_positive_int(value, "k")


@pytest.mark.parametrize("value", [1, 7, np.int64(3)], ids=repr)
def test_positive_integers_become_int(value: int) -> None:
    assert type(_validate.check_positive_int(value, "k")) is int


# ------------------------------------------------------------------------------------------------ lazy


@pytest.mark.parametrize("name", ["efface_absent", "efface_absent.part"])
def test_a_missing_package_names_its_extra(name: str) -> None:
    with pytest.raises(MissingExtraError, match=r"'efface_absent'.*pip install 'efface\[report\]'"):
        _lazy.require(name, extra="report")


def test_a_fault_inside_a_package_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "efface_broken.py").write_text("import efface_absent_too\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="efface_absent_too") as caught:
        _lazy.require("efface_broken", extra="report")
    assert not isinstance(caught.value, MissingExtraError)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A package whose name `thing` lives in a submodule that is imported on first use."""
    folder = tmp_path / "efface_lazy_test"
    folder.mkdir()
    text = "from efface._lazy import attach\n"
    text += "__getattr__, __dir__ = attach(__name__, {'thing': 'efface_lazy_test.sub'}, globals())\n"
    (folder / "__init__.py").write_text(text)
    (folder / "sub.py").write_text("thing = object()\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("efface_lazy_test", "efface_lazy_test.sub"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return _lazy.require("efface_lazy_test", extra="none")


def test_lazy_names_are_imported_once_and_listed(package: ModuleType) -> None:
    assert "efface_lazy_test.sub" not in sys.modules
    assert "thing" in dir(package)
    assert package.thing is package.thing is vars(package)["thing"]
    with pytest.raises(AttributeError, match="has no attribute 'other'"):
        _ = package.other


# ---------------------------------------------------------------------------------------------- Ctrl-C


def swallow() -> None:
    """As a library does that returns what it has so far."""
    with contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def reword() -> None:
    """As a library does that has errors of its own."""
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise RuntimeError("a worker died") from None


@pytest.mark.parametrize("library", [swallow, reword])
@pytest.mark.parametrize("depth", [1, 2])
def test_no_library_swallows_ctrl_c(library: Callable[[], None], depth: int) -> None:
    usual = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), contextlib.ExitStack() as stack:
        for _ in range(depth):
            stack.enter_context(insisted())
        library()
    assert signal.getsignal(signal.SIGINT) is usual


def test_nothing_is_written_after_a_ctrl_c_that_was_swallowed(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), insisted():
        swallow()
        _io.write_text(tmp_path / "report.txt", "half")
    assert not list(tmp_path.iterdir())
    _io.write_text(tmp_path / "report.txt", "whole")


def test_who_tidies_up_behind_a_ctrl_c_may_write(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), insisted():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            _io.write_text(tmp_path / "checkpoint.txt", "so far")
    assert (tmp_path / "checkpoint.txt").read_text() == "so far"


def test_a_handler_that_raises_nothing_is_taken_at_its_word() -> None:
    came: list[int] = []
    usual = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        with insisted():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, usual)
    assert came == [signal.SIGINT]
