"""A scrub that was interrupted goes on from its checkpoint with the same result."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from efface import InputError
from efface.core import checkpoint as checkpoints
from tests.models import data, state, tiny, tokens
from tests.scrubs import every_route, fit, interrupting, model, same


class Stopped(Exception):
    """What the data raises."""


MEASURED = 6
"""Batches that are read at the end, to measure what is left."""


class Failing:
    """Batches that can only be read so many times."""

    def __init__(self, reads: int) -> None:
        self.reads = reads

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for start in range(0, 24, 4):
            self.reads -= 1
            if self.reads < 0:
                raise Stopped
            yield {k: v[start : start + 4] for k, v in data("llama").items()}


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints after each batch."""
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)


def reads(route: str, **options: Any) -> int:
    """How many batches a fit reads."""
    counting = Failing(10**9)
    fit(route=route, data=counting, **options)
    return 10**9 - counting.reads


@every_route
@pytest.mark.parametrize("method", ["leace", pytest.param("mean-difference", marks=pytest.mark.slow)])
def test_a_fit_that_was_interrupted_by_its_data_goes_on_with_the_same_result(route, method, tmp_path, often):
    known = fit(route=route, method=method, data=Failing(10**9))
    total = reads(route, method=method)
    for after in [total * part // 100 for part in (15, 70, 97)]:
        folder = tmp_path / str(after)
        with pytest.raises(Stopped):
            fit(route=route, method=method, data=Failing(after), checkpoint=folder)
        rest = Failing(10**9)
        again = fit(route=route, method=method, data=rest, checkpoint=folder)
        same(known, again)
        assert not folder.exists()
        assert [e.report for e in again.erasers.values()] == [e.report for e in known.erasers.values()]


@every_route
def test_a_fit_that_was_interrupted_in_the_model_again_and_again(route, tmp_path, often):
    own = tiny("llama")
    known, before = fit(route=route, model=own, batch_size=4), state(own)
    folder, rounds, again = tmp_path / "fit", 0, None
    while again is None:
        rounds += 1
        assert rounds < 20
        handle = interrupting(own.get_submodule("model.layers.1.self_attn.o_proj"), 2 * rounds)
        try:
            again = fit(route=route, model=own, batch_size=4, checkpoint=folder)
        except KeyboardInterrupt:
            continue
        finally:
            handle.remove()
            assert state(own) == before
    same(known, again)
    assert rounds > 2 and not folder.exists()


def test_what_is_done_is_not_done_again(tmp_path, often):
    total = reads("recompute")
    folder = tmp_path / "fit"
    with pytest.raises(Stopped):
        fit(data=Failing(total - MEASURED - 2), checkpoint=folder)
    done = json.loads((folder / "checkpoint.json").read_text())["position"]
    assert done["erasers"] == [str(site) for site in fit().sites[:4]]  # in the middle of the last
    assert done["state"]["batches"] == 4
    paths: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda *_, p=path: paths.append(p))
        for path, module in model("llama").named_modules()
        if path == "model.norm"
    ]
    fit(data=Failing(10**9), checkpoint=folder)
    for handle in handles:
        handle.remove()
    looks = 1 + 2 + 1  # for roles in the model, and by itself; for the order of sites
    assert len(paths) == looks + 2 + MEASURED  # the two batches that were missing, and what is left is measured


def test_a_checkpoint_is_written_after_each_site_and_otherwise_seldom(tmp_path):
    folder = tmp_path / "fit"
    with pytest.raises(Stopped):
        fit(data=Failing(reads("recompute") - MEASURED - 2), checkpoint=folder)
    done = json.loads((folder / "checkpoint.json").read_text())["position"]
    assert len(done["erasers"]) == 4 and done["state"] is None


def other_model() -> Any:
    changed = tiny("llama")
    with torch.no_grad():
        changed.lm_head.weight.mul_(1.1)
    return changed


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"method": "orth"}, "method"),
        ({"affine": False}, "options"),
        ({"route": "parallel"}, "order"),
        ({"sites": "residual"}, "sites"),
        ({"ignore_index": -1}, "ignore_index"),
        ({"kind": "categorical"}, "kind"),
        ({"concept": tokens() % 4}, "labels, data|data, labels"),
        ({"concept": 2 - tokens() % 3}, "data"),
        ({"data": {**data("llama"), "input_ids": tokens(9)}}, "data"),
        ({"batch_size": 3}, "labels|data"),
        ({"model": other_model}, "fingerprint"),
        ({"model": lambda: tiny("llama").bfloat16()}, "dtypes"),
    ],
    ids=lambda x: str(x).partition(" at 0x")[0][:40],  # addresses differ between processes
)
def test_the_checkpoint_of_another_fit_is_refused_and_kept(change, text, tmp_path):
    folder = tmp_path / "fit"
    batches = [{k: v[i : i + 4] for k, v in data("llama").items()} for i in range(0, 24, 4)]
    with pytest.raises(Stopped):
        fit(data=Failing(reads("recompute") - MEASURED - 2), checkpoint=folder)
    kept = sorted(p.name for p in folder.rglob("*"))
    made = change | ({"model": change["model"]()} if "model" in change else {})
    given: dict[str, Any] = {"data": data("llama") if "batch_size" in change else batches} | made
    with pytest.raises(InputError, match=f"checkpoint of another fit, it differs in .*({text})"):
        fit(checkpoint=folder, **given)
    assert sorted(p.name for p in folder.rglob("*")) == kept


def test_a_damaged_checkpoint_is_refused(tmp_path):
    (tmp_path / "checkpoint.json").write_text('{"settings": {}')
    with pytest.raises(InputError, match="damaged"):
        fit(checkpoint=tmp_path)


def test_what_else_is_in_the_folder_of_a_checkpoint_stays(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    fit(checkpoint=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
