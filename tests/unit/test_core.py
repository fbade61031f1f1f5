"""An erasure is a value that survives files, and a config says what it takes (the installer has tests of its own)."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from efface._errors import EffaceWarning, FormatError, InputError, UnknownOptionWarning
from efface.core.concept import Concept
from efface.core.config import Config, option
from efface.core.edits import OnRows
from efface.core.erasure import Erasure, load
from efface.core.site import Site
from efface.erasers.leace import LeaceEraser


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


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("LeaceErasor", "it holds a 'LeaceErasor', which this efface does not know (did you mean 'LeaceEraser'?)"),
        ("Nope", "which this efface does not know: there is "),
        (None, "it holds a None, which this efface does not know: there is "),
        (["a"] * 500, "..., which this efface"),
        ("ToyConfig", "it holds a ToyConfig, which is no erasure"),
    ],
    ids=["near", "far", "none", "long", "no erasure"],
)
def test_another_type_in_a_file_names_the_few_that_fit(tmp_path, name, said):
    toy().save(tmp_path / "e")
    config = tmp_path / "e" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"type": name}))
    with pytest.raises(FormatError) as error, pytest.warns(EffaceWarning, match="was changed"):
        load(tmp_path / "e")
    text = str(error.value).partition(": ")[2]
    assert said in text and len(text) < 200 and "LeaceConfig" not in text and "Blur" not in text


def test_config():
    with pytest.raises(InputError, match="did you mean 'strength'"):
        ToyConfig.of({"strenght": 3}, method="toy")
    with pytest.raises(InputError, match="above 0"):
        ToyConfig(strength=0)
    with pytest.raises(InputError, match="a number"):
        ToyConfig.of({"strength": "x"})
    assert [o.name for o in ToyConfig.options()] == ["strength", "how"]


@pytest.mark.parametrize(
    "value", [10**400, -(10**400), torch.zeros((), device="meta"), True], ids=["+", "-", "meta", "bool"]
)
def test_numbers_that_are_none_for_an_option_are_refused(value: Any) -> None:
    with pytest.raises(InputError, match=r"^strength="):
        ToyConfig.of({"strength": value})
    with pytest.raises(InputError, match="no option 5"):
        ToyConfig.of({5: value})  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True, eq=False)
class Anything(Erasure):
    """Holds whatever it is given."""

    held: Any


ODD = {
    "no data": lambda: torch.ones(2, device="meta"),
    "sparse": lambda: torch.eye(2).to_sparse(),
    "sparse rows": lambda: torch.eye(2).to_sparse_csr(),
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "nan": lambda: torch.tensor([torch.nan]),
    "inf": lambda: torch.tensor([-torch.inf], dtype=torch.complex64),
}


@pytest.mark.filterwarnings("ignore:(Sparse CSR|torch.quantize|The PyTorch API of nested)")
@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
def test_what_could_not_be_loaded_again_is_not_saved(make: Callable[[], Tensor], tmp_path: Path) -> None:
    erasure = Anything({"x": make()})
    assert erasure == erasure and erasure != 3
    with pytest.raises(InputError, match=r"held\.x (is a tensor that files cannot hold|has NaN or infinite)"):
        erasure.save(tmp_path / "e")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "value",
    [torch.tensor([1j, 2j]).conj().imag, torch.ones(2).to(torch.float8_e4m3fn), torch.zeros(3, 0), torch.tensor(1j)],
    ids=["negative view", "eight bits", "empty", "complex"],
)
def test_odd_tensors_come_back(value: Tensor, tmp_path: Path) -> None:
    erasure = Anything(value)
    erasure.save(tmp_path / "e")
    assert load(tmp_path / "e") == erasure


@pytest.mark.parametrize("report", [True, [1, 2], "well", 3.0, None, {}], ids=str)
def test_any_report_has_a_card(report: Any, tmp_path: Path) -> None:
    Anything(1, report=report).save(tmp_path / "e")
    assert load(tmp_path / "e").report == report


def test_a_file_is_no_folder_to_save_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link"):
        for overwrite in (False, True):
            with pytest.raises(InputError, match="is a file"):
                Anything(1).save(tmp_path / name, overwrite=overwrite)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("mark", [None, "", -5, "f" * 64, "left out"])
def test_a_saved_folder_says_that_it_was_changed(mark: Any, tmp_path: Path) -> None:
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    folder = tmp_path / "eraser"
    LeaceEraser.fit(x, x[:, 0] > 0).save(folder)
    load(folder)
    config = json.loads((folder / "config.json").read_text())
    config["sha256"] = mark
    if mark == "left out":
        del config["sha256"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.warns(EffaceWarning, match="was changed after it was saved"):
        load(folder)
