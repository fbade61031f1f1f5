"""The value that erasers of weights leave behind: on and off bit for bit, scaled, joined, saved, refused elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import efface
from efface import Concept, FormatError, InputError
from efface.core.config import Config
from efface.core.weights import Add, LowRank, Multiply
from efface.diffusion.weights.erasure import WeightErasure, delta_of
from tests.pipelines import build


@pytest.fixture
def pipe() -> Any:
    return build("sd1")


def keys(pipe: Any) -> dict[str, Tensor]:
    return {n: v.clone() for n, v in pipe.unet.state_dict().items() if n.endswith("attn2.to_k.weight")}


def erasure_of(pipe: Any, seed: int = 0, name: str = "circle", kind: str = "low") -> WeightErasure:
    generator = torch.Generator().manual_seed(seed)
    changes: dict[str, Any] = {}
    for path, w in keys(pipe).items():
        up, down = (torch.randn(s, generator=generator) for s in ((w.shape[0], 2), (2, w.shape[1])))
        turn = torch.linalg.qr(torch.randn(w.shape[0], w.shape[0], generator=generator)).Q
        changes[path] = {"low": LowRank(up, down), "add": Add(up @ down), "turn": Multiply(left=turn)}[kind]
    deltas = {"unet": delta_of(pipe.unet, changes)}
    return WeightErasure.made(deltas, method="test", concepts=[Concept(name)], config=Config(), report={"seed": seed})


@pytest.mark.parametrize("kind", ["low", "add", "turn"])
def test_on_and_off_bit_for_bit(pipe: Any, kind: str) -> None:
    before = {n: v.clone() for n, v in pipe.unet.state_dict().items()}
    erasure = erasure_of(pipe, kind=kind)
    with erasure.on(pipe):
        changed = [n for n, v in pipe.unet.state_dict().items() if not torch.equal(v, before[n])]
        assert sorted(changed) == sorted(keys(pipe))
    assert all(torch.equal(v, before[n]) for n, v in pipe.unet.state_dict().items())


def test_the_report_says_how_much(pipe: Any) -> None:
    erasure = erasure_of(pipe)
    assert erasure.report == {"weights": len(keys(pipe)), "nbytes": erasure.nbytes, "seed": 0}
    assert erasure.nbytes == sum(4 * 2 * sum(w.shape) for w in keys(pipe).values())
    assert "weights of unet" in repr(erasure)


def test_scaled(pipe: Any) -> None:
    before = keys(pipe)
    erasure = erasure_of(pipe, kind="add")
    with erasure.scaled(0.5).on(pipe):
        for path, w in keys(pipe).items():
            value = erasure.deltas["unet"].changes[path][0].value  # type: ignore[union-attr]
            torch.testing.assert_close(w, before[path] + value / 2)
    with erasure.scaled(0.0).on(pipe):
        assert all(torch.equal(w, before[path]) for path, w in keys(pipe).items())
    assert erasure.scaled(0.5).report["scaled"] == 0.5
    with pytest.raises(InputError, match="finite"):
        erasure.scaled(float("nan"))
    with pytest.raises(InputError, match="no multiple"):
        erasure_of(pipe, kind="turn").scaled(0.5)


def test_then_sums_what_adds(pipe: Any) -> None:
    before, a, b = keys(pipe), erasure_of(pipe, 0, "circle", "add"), erasure_of(pipe, 1, "star", "add")
    both = a.then(b)
    assert both.names == ("circle", "star") and both.nbytes == a.nbytes + b.nbytes
    with both.on(pipe):
        for path, w in keys(pipe).items():
            sides = [e.deltas["unet"].changes[path][0].value for e in (a, b)]  # type: ignore[union-attr]
            torch.testing.assert_close(w, before[path] + sides[0] + sides[1])
        summed = keys(pipe)
    with (a & b).on(pipe):
        for path, w in keys(pipe).items():
            torch.testing.assert_close(w, summed[path])
    assert all(torch.equal(w, before[path]) for path, w in keys(pipe).items())


def test_what_was_fitted_to_other_weights_is_refused(pipe: Any) -> None:
    erasure, other = erasure_of(pipe), build("sd1")
    with torch.no_grad():
        other.unet.conv_in.weight.add_(1)
    with pytest.raises(InputError, match="other weights than this one"):
        erasure.on(other)
    with pytest.raises(InputError, match="other weights"):
        erasure.then(erasure_of(other, 1))
    with pytest.raises(InputError, match="other weights|has no"):
        erasure.on(build("sdxl"))
    with pytest.raises(InputError, match="'unet'"):
        erasure.on(build("sd3"))
    with erasure.on(other, check=False):
        pass


def test_saved_and_loaded(pipe: Any, tmp_path: Path) -> None:
    erasure = erasure_of(pipe)
    erasure.save(tmp_path / "e")
    assert efface.load(tmp_path / "e") == erasure and WeightErasure.load(tmp_path / "e").nbytes == erasure.nbytes


def test_factors_without_a_product_are_refused(pipe: Any, tmp_path: Path) -> None:
    wrong = WeightErasure({"unet": delta_of(pipe.unet, {"a": LowRank(torch.ones(3, 2), torch.ones(1, 3))})})
    wrong.save(tmp_path / "e")
    with pytest.raises(FormatError, match="no product"):
        efface.load(tmp_path / "e")
    with pytest.raises(InputError, match="not square"):
        WeightErasure({"unet": delta_of(pipe.unet, {"a": Multiply(left=torch.ones(3, 2))})}).check()
    with pytest.raises(InputError, match="names the parts"):
        WeightErasure({}).check()
