"""The ground floor: an erasure is a value, a handle puts it on and takes it off, weights come back bit for bit."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from efface._errors import EffaceWarning, FormatError, InputError, UnknownOptionWarning
from efface.core.concept import Concept
from efface.core.config import Config, option
from efface.core.edits import OnRows, OnWeights
from efface.core.erasure import Erasure, load
from efface.core.site import Site
from efface.core.weights import Add, LowRank, WeightDelta


@dataclass(frozen=True, kw_only=True)
class ToyConfig(Config):
    strength: float = option(1.0, "how much", above=0)
    how: Literal["a", "b"] = option("a", "which way")


@dataclass(frozen=True, eq=False)
class Toy(Erasure):
    mean: Tensor
    by_site: Mapping[Site, Tensor]

    @property
    def edits(self):
        return (OnRows(self),)

    def __call__(self, x: Tensor) -> Tensor:
        return x - self.mean


@dataclass(frozen=True, eq=False)
class ToyWeights(Erasure):
    delta: WeightDelta

    @property
    def edits(self):
        return (OnWeights(self.delta),)


def toy():
    return Toy(
        torch.ones(2),
        {Site("a", "input"): torch.zeros(3)},
        method="toy",
        concepts=(Concept("x"),),
        config=ToyConfig(strength=2),
    )


def test_value(tmp_path):
    e = toy()
    assert e == toy() and hash(e) == hash(toy()) and copy.deepcopy(e) == e and pickle.loads(pickle.dumps(e)) == e
    e.save(tmp_path / "e")
    again = load(tmp_path / "e")
    assert again == e and again.config == e.config and list(again.by_site) == [Site("a", "input")]
    with pytest.raises(InputError, match="overwrite"):
        e.save(tmp_path / "e")
    print((tmp_path / "e" / "README.md").read_text())
    text = (tmp_path / "e" / "config.json").read_text()
    (tmp_path / "e" / "config.json").write_text(text.replace('"how": "a"', '"how": "a", "newer": 3'))
    with pytest.warns(UnknownOptionWarning), pytest.warns(EffaceWarning, match="was changed"):
        newer = load(tmp_path / "e")
    assert newer.config.unknown == {"newer": 3}
    (tmp_path / "e" / "config.json").write_text(text.replace('"how": "a"', '"how": "z"'))
    with pytest.raises(FormatError, match="expected 'a' or 'b'"), pytest.warns(EffaceWarning):
        load(tmp_path / "e")


def test_on():
    layer = nn.Linear(2, 2)
    x = torch.randn(3, 2)
    before = layer(x)
    e = toy()
    with e.on(layer) as run:
        assert torch.equal(layer(x), before - 1)
        with pytest.raises(InputError, match="already"):
            toy().on(layer)
        assert run.log.counts == {"Linear": 1}
    assert torch.equal(layer(x), before) and not layer._forward_hooks


def test_weights():
    m = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 2))
    old = m[0].weight
    e = ToyWeights(
        WeightDelta({"0.weight": LowRank(torch.ones(2, 1), torch.ones(1, 3)), "0.bias": Add(torch.ones(2))}), method="t"
    )
    f = ToyWeights(WeightDelta({"0.weight": Add(torch.ones(2, 3))}), method="t")
    a = e.on(m)
    assert torch.allclose(m[0].weight, old + 1) and m[0].bias is not None
    b = f.on(m)
    with pytest.raises(InputError, match="undo that one first"):
        a.undo()
    b.undo()
    m.bfloat16()
    a.undo()
    assert m[0].bias is None and torch.equal(m[0].weight, old.bfloat16())
    with torch.no_grad():
        c = f.on(m)
        m[0].weight.mul_(3)
        with pytest.raises(InputError, match="changed since"):
            c.undo()
        c.undo(force=True)
    assert torch.equal(m[0].weight, old.bfloat16())


def test_config():
    with pytest.raises(InputError, match="did you mean 'strength'"):
        ToyConfig.of({"strenght": 3}, method="toy")
    with pytest.raises(InputError, match="above 0"):
        ToyConfig(strength=0)
    with pytest.raises(InputError, match="a number"):
        ToyConfig(strength="x")
    assert [o.name for o in ToyConfig.options()] == ["strength", "how"]
