"""Doors: arguments against hints, devices, containers without end, text that would steer whoever shows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import efface
from efface import InputError
from efface._io import as_path
from efface._memory import check_room
from efface._text import visible
from efface._validate import to_tensor
from efface.audit import Audit, Finding
from efface.core.arrays import read_array
from efface.moments.grouping import groupby

pytestmark = pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta:UserWarning")

X, Z = torch.arange(24.0).reshape(6, 4) ** 2, torch.arange(6) % 3


class Dataset:
    """As torch has them: a length, items by number, and no end to these."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> list[float]:
        return [float(index % 3), 1.0]


def test_a_data_set_is_read_as_far_as_its_length() -> None:
    assert read_array(Dataset(), "x").values.tolist() == [[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]]


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "merge": (lambda: efface.Moments(4).merge(None), "what is merged is a NoneType, expected a Moments"),  # type: ignore[arg-type]
    "merge classes": (lambda: efface.ClassMoments(4, 2).merge(3), "expected a ClassMoments"),  # type: ignore[arg-type]
    "dim": (lambda: groupby(X, Z, dim="a"), "dim must be an integer, got 'a'"),  # type: ignore[arg-type]
    "state": (lambda: efface.Moments(4).load_state_dict(None), "state is a NoneType"),  # type: ignore[arg-type]
    "state of a fitter": (lambda: efface.LeaceFitter(4, 2).load_state_dict({}), "lacks decided"),
    "device": (lambda: efface.LeaceFitter(4, 2, device="tpu:x"), "device='tpu:x' cannot be used here"),
    "meta": (lambda: efface.Moments(4, device="meta"), "holds no numbers"),
    "dtype": (lambda: efface.LeaceFitter(4, 2, dtype="float32"), "write a dtype of torch"),  # type: ignore[arg-type]
    "option": (lambda: efface.LeaceFitter(4, 2, affine="yes"), "affine='yes': write True or False"),  # type: ignore[arg-type]
    "memory": (lambda: efface.LeaceFitter(10**9, 2), r"x_dim=1000000000, z_dim=2 would take [\d,.]+ GiB"),
    "path": (lambda: efface.load(3), "the path is a int"),  # type: ignore[arg-type]
    "zero in a path": (lambda: as_path("a\0b"), "no file can be called so"),
    "model": (lambda: efface.find_sites("gpt2", "norms"), "model is 'gpt2': write a torch.nn.Module"),  # type: ignore[arg-type]
    "ragged": (lambda: efface.LeaceFitter.fit([[1.0], [1.0, 2.0]], [0, 1]), "rows of different lengths"),
    "sparse": (lambda: efface.optimal_linear_shrinkage(torch.eye(3).to_sparse_csr(), 5), "write S_n.to_dense()"),
    "label": (lambda: efface.QuantileNormalizer(X, Z).cdf(X, X), "one integer label"),  # type: ignore[arg-type]
    "series": (lambda: efface.audit.Figure("t", series=3), "series is 3: write a list"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_what_doors_refuse(call: Callable[[], Any], message: str) -> None:
    with pytest.raises((InputError, efface.FormatError), match=message):
        call()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_device_that_is_not_there() -> None:
    for make in (efface.LeaceFitter, efface.OracleFitter, efface.QuadraticFitter, efface.Moments):
        with pytest.raises(InputError, match="device='cuda' cannot be used here"):
            make(4, 2, device="cuda")


LAYOUTS = {"CSR": torch.Tensor.to_sparse_csr, "CSC": torch.Tensor.to_sparse_csc, "COO": torch.Tensor.to_sparse}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_sparse_rows_are_rows(layout: Callable[[torch.Tensor], torch.Tensor]) -> None:
    eraser = efface.LeaceEraser.fit(layout(X), Z)
    assert torch.equal(eraser(layout(X)), eraser(X)) and eraser == efface.LeaceEraser.fit(X, Z)


def test_numbers_of_numpy_are_numbers() -> None:
    fitter = efface.LeaceFitter(np.int64(4), np.int32(3), svd_tol=np.float32(0.5), affine=np.bool_(True))  # type: ignore[arg-type]
    assert (type(fitter.x_dim), type(fitter.svd_tol), type(fitter.affine)) == (int, float, bool)


def test_a_number_has_no_dimension() -> None:
    assert all(to_tensor(value, "x").shape == () for value in (4, 0.5, np.float64(2), torch.tensor(1)))


def test_memory_that_is_there_is_granted() -> None:
    check_room(2**20, "a little")


HOSTILE = "<script>alert(1)</script> [x](javascript:1) | a\x1b[2J \u202ereversed\n# heading"


def test_names_from_data_have_no_effect_where_they_are_shown() -> None:
    audit = Audit(HOSTILE, conclusions=(HOSTILE,), findings=(Finding(HOSTILE, 0.5, unit=HOSTILE),))
    text, markdown, html = str(audit), audit.markdown(), audit.html()
    for shown in (text, markdown, html):
        assert (
            "\x1b" not in shown
            and "\u202e" not in shown
            and r"\x1b[2J" in shown.replace("\\\\", "\\").replace("\\[", "[")
        )
    assert "<script>" not in html and "\n# heading" not in markdown and r"\[x\](javascript:1)" in markdown
    assert visible("plain\ttext\n") == "plain\ttext\n"


def test_names_from_data_have_no_effect_in_a_card(tmp_path: Any) -> None:
    concept = efface.Concept(HOSTILE.replace("{", ""), labels=Z)
    efface.erase(X, concept, method="leace").save(tmp_path / "e")
    card = (tmp_path / "e" / "README.md").read_text()
    assert "\x1b" not in card and "<script>" not in card.replace("\\<script>", "") and "\n# heading" not in card
