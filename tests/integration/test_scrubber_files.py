"""How a `Scrubber` is kept: files, copies, some of its sites, and the control that is made of it."""

from __future__ import annotations

import copy
import json
import pickle
import warnings
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from efface import (
    EffaceWarning,
    FormatError,
    InputError,
    RandomSubspace,
    Scrubber,
    Site,
    load,
    scrub,
)
from efface.core.hooks import edits_on
from tests.models import (
    concept,
    data,
    hidden_states,
    padding,
    tiny,
    tokens,
)
from tests.scrubs import every_family, first, fitted, model


@every_family
def test_saved_and_loaded(name, tmp_path):
    known = fitted(name)
    known.save(tmp_path / "scrubber")
    files = ["README.md", "config.json", "model.safetensors"]
    assert sorted(p.name for p in (tmp_path / "scrubber").iterdir()) == files
    assert "with erasure.on(model):" in (tmp_path / "scrubber" / "README.md").read_text()
    again = Scrubber.load(tmp_path / "scrubber")
    assert again == known and again.sites == known.sites and again.summary() == known.summary()
    assert again.config == known.config and again.report == known.report and again.fingerprint == known.fingerprint
    with known.on(model(name)):
        expected = first(name)
    with again.on(model(name)):
        assert torch.equal(first(name), expected)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda known: pickle.loads(pickle.dumps(known))])
def test_a_scrubber_is_a_value(copied):
    known = fitted("llama")
    again = copied(known)
    assert again == known and hash(again) == hash(known) and again != fitted("gpt2")
    assert again == scrub(model("llama"), data("llama"), concept("llama"), sites="norms")
    assert known.only("model.norm") != known and known.to(torch.float64) != known
    with known.on(model("llama")):
        assert copied(known) == known


def test_files_that_cannot_be_used(tmp_path):
    folder = tmp_path / "scrubber"
    fitted("llama").save(folder)
    config = json.loads((folder / "config.json").read_text())
    erasers = config["erasers"]
    for change, text in (
        ({"format_version": 99}, "upgrade"),
        ({"type": "LeaceEraser"}, "Survey"),
        (
            {"erasers": {"model.norm": erasers["model.norm"] | {"$type": "Other"}}},
            "'Other', which this efface does not",
        ),
        ({"erasers": {"model.norm": erasers["model.norm"] | {"$type": "Survey"}}}, "Survey"),
        ({"erasers": {"model.norm": 3}}, "the eraser of model.norm is 3, expected a callable"),
        ({"erasers": {"a:b:c": erasers["model.norm"]}}, "is no site"),
    ):
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(FormatError, match=text), warnings.catch_warnings():
            warnings.simplefilter("ignore", EffaceWarning)  # that it was changed by hand
            Scrubber.load(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:100])
    with pytest.raises(FormatError, match="truncated"):
        Scrubber.load(folder)


def test_what_cannot_be_saved(tmp_path):
    known = Scrubber.at({"norm": torch.zeros_like})
    with pytest.raises(InputError, match="erasers.norm is .*zeros_like.*cannot be saved: only tensors and plain data"):
        known.save(tmp_path / "scrubber")
    assert not list(tmp_path.iterdir())
    assert known == known and known != Scrubber.at({"norm": torch.zeros_like})


def test_a_control_can_be_saved(tmp_path):
    control = fitted("llama").random_control(seed=3)
    control.save(tmp_path / "control")
    again = load(tmp_path / "control")
    assert again == control and again != fitted("llama").random_control(seed=4)
    assert fitted("llama").random_control(seed=np.uint8(3)) == control  # type: ignore[arg-type]  # whatever width it has
    with control.on(model("llama")):
        expected = first("llama")
    with again.on(model("llama")):
        assert torch.equal(first("llama"), expected)


def test_what_is_known_of_a_scrubber():
    known = fitted("llama")
    assert known.rank == dict.fromkeys(known.sites, 2)
    rows = known.summary()
    assert [row["site"] for row in rows] == [str(site) for site in known.sites]
    assert all(row["n"] == int(padding().sum()) and row["residual"] < 1e-5 and 0 < row["edit"] < 1 for row in rows)
    assert json.loads(json.dumps(rows)) == rows and json.loads(json.dumps(known.describe())) == known.describe()
    assert repr(known).startswith("Scrubber(leace, 5 sites: model.layers.0.input_layernorm, ")
    assert known.report is not None and asdict(known.report) == {
        "batches": 3,
        "sequences": 24,
        "labelled": int(padding().sum()),
        "categorical": True,
        "width": 3,
        "classes": (),
    }


def test_some_of_the_sites():
    known = fitted("llama")
    few = known.only("model.norm", Site("model.layers.1.input_layernorm"))
    assert few.sites == (Site("model.layers.1.input_layernorm"), Site("model.norm"))
    with few.on(model("llama")):
        assert edits_on(model("llama")) == 2
    with pytest.raises(InputError, match="no eraser for norm: there are model.layers.0"):
        known.only("norm")


# ------------------------------------------------------------------------------------------------ the control


def test_the_control_takes_a_new_subspace_of_the_same_rank_out_of_each_batch():
    name, known = "llama", fitted("llama")
    control = known.random_control(seed=3)
    assert control.rank == known.rank and control.sites == known.sites
    ids, path = tokens(), "model.layers.0.input_layernorm"  # the first: what comes in is the same each time
    x = hidden_states(model(name), {"input_ids": ids}, [path])[path]

    def taken() -> Tensor:
        return (x - hidden_states(model(name), {"input_ids": ids}, [path])[path]).flatten(0, 1).double()

    with control.on(model(name)):
        one, two, three = taken(), taken(), taken()
    with control.on(model(name)):
        assert torch.equal(taken(), one)  # a value: it begins again where it is put on again
    spaces = [torch.linalg.svd(edit)[2][:2] for edit in (one, two, three)]
    for edit in (one, two, three):
        assert torch.linalg.matrix_rank(edit, atol=1e-4) == 2
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert float(torch.linalg.svdvals(spaces[i] @ spaces[j].T).min()) < 0.95
    center = known.erasers[Site(path)].bias
    torch.testing.assert_close(control.erasers[Site(path)](center), center)
    with known.random_control(seed=3).on(model(name)):
        assert torch.equal(taken(), one) and torch.equal(taken(), two)
    with known.random_control(seed=4).on(model(name)):
        assert not torch.allclose(taken(), one)


def test_the_sites_of_a_control_draw_each_their_own():
    erasers = list(fitted("llama").random_control().erasers.values())
    x = torch.randn(4, 32)
    assert not torch.allclose(x - erasers[0](x), x - erasers[1](x), atol=1e-3)


def test_a_control_begins_again_when_it_is_put_on_and_goes_on_from_device_to_device():
    control, x = RandomSubspace(2, seed=5), torch.randn(4, 8)
    edit = control.begin()
    one, two, three = edit(x), edit(x), edit.to(torch.device("cpu"))(x)
    again = control.begin()
    assert torch.equal(one, again(x)) and torch.equal(one, control(x)) and torch.equal(control(x), control(x))
    assert not torch.equal(one, two)
    assert torch.equal(two, again(x)) and torch.equal(three, again(x))


def test_two_runs_of_a_control_draw_apart():
    control, x = RandomSubspace(2, seed=5), torch.randn(4, 8)
    layers = [nn.Identity(), nn.Identity()]
    with control.on(layers[0]), control.on(layers[1]):
        one, two = layers[0](x), layers[0](x)
        assert torch.equal(layers[1](x), one) and torch.equal(layers[1](x), two)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("reentrant", [True, False])
def test_a_control_draws_the_same_where_backward_runs_the_model_again(reentrant, passes):
    plain, again = (tiny("llama").train() for _ in range(2))
    again.gradient_checkpointing_enable({"use_reentrant": reentrant})
    again.enable_input_require_grads()
    call = {**data("llama"), "labels": data("llama")["input_ids"]}
    control = fitted("llama").random_control(seed=3)
    with control.on(plain), control.on(again):
        for each in (plain, again):
            torch.stack([each(**call).loss for _ in range(passes)]).sum().backward()
    for p, q in zip(plain.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
