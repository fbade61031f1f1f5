"""An erasure is a value that survives files, and a config says what it takes (the installer has tests of its own)."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from torch import Tensor

from efface._errors import EffaceWarning, FormatError, InputError, UnknownOptionWarning
from efface.core.concept import Concept
from efface.core.config import Config, option
from efface.core.edits import OnRows
from efface.core.erasure import Erasure, load
from efface.core.site import Site


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
    text = (tmp_path / "e" / "config.json").read_text()
    (tmp_path / "e" / "config.json").write_text(text.replace('"how": "a"', '"how": "a", "newer": 3'))
    with pytest.warns(UnknownOptionWarning), pytest.warns(EffaceWarning, match="was changed"):
        newer = load(tmp_path / "e")
    assert newer.config.unknown == {"newer": 3}
    (tmp_path / "e" / "config.json").write_text(text.replace('"how": "a"', '"how": "z"'))
    with pytest.raises(FormatError, match="expected 'a' or 'b'"), pytest.warns(EffaceWarning):
        load(tmp_path / "e")


def test_config():
    with pytest.raises(InputError, match="did you mean 'strength'"):
        ToyConfig.of({"strenght": 3}, method="toy")
    with pytest.raises(InputError, match="above 0"):
        ToyConfig(strength=0)
    with pytest.raises(InputError, match="a number"):
        ToyConfig.of({"strength": "x"})
    assert [o.name for o in ToyConfig.options()] == ["strength", "how"]
