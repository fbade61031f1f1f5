"""Audits of remembrance of language models: which words they still predict."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from efface import InputError
from efface.audit.remembrance.by_tokens import remembered_by_tokens

WORDS = np.array(["", "ada", "bea", "cleo", "dora"])
FEW: Any = {"draws": 200}


class NextIsCertain(nn.Module):
    """Predicts token 1 + (t mod 4) after t, with so many nats of certainty for each."""

    def __init__(self, certainty: list[float]) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(5, 5))
        for token, nats in enumerate(certainty):
            self.table.data[token, 1 + token % 4] = nats

    def forward(self, input_ids: torch.Tensor) -> Any:
        return SimpleNamespace(logits=self.table[input_ids])


def sequences(n: int) -> torch.Tensor:
    """1 2 3 4 1 2 ... in two of three, and tokens at random."""
    rng = np.random.default_rng(0)
    start = 1 + rng.integers(0, 4, size=(n, 1))
    in_turn = 1 + (start - 1 + np.arange(9)) % 4
    return torch.from_numpy(np.where(rng.random((n, 9)) < 0.66, in_turn, rng.integers(1, 5, size=(n, 9))))


class Swapped:
    """An erasure that puts another table on."""

    def __init__(self, certainty: list[float]) -> None:
        self.certainty = certainty

    @contextmanager
    def on(self, model: NextIsCertain) -> Any:
        kept, model.table.data = model.table.data, NextIsCertain(self.certainty).table.data
        yield
        model.table.data = kept


def test_losses_of_words_are_those_of_their_tokens_and_who_lost_is_named() -> None:
    ids, model = sequences(80), NextIsCertain([2.0] * 5)
    # After 1 comes 2 (bea, the target), after 2 comes 3 (cleo): both go; to whom it was put is nobody's.
    erased = Swapped([2.0, 0.0, 0.5, 2.0, 2.0])
    audit = remembered_by_tokens(model, erased, ids, WORDS[ids], target=["bea"], placebos=[Swapped([2.0] * 5)], **FEW)
    found = {t.title: {row[0]: row for row in t.rows} for part in audit.walk() for t in part.tables}
    assert "cleo" in found["Suppressed"] and "bea" not in found["Suppressed"]
    assert float(str(found["Suppressed"]["cleo"][6]).split()[0]) < -0.2  # nats
    assert any("of their score on average" in line for line in audit.conclusions)
    assert audit.find("target", "remembered", "change").value < 0
    assert torch.equal(model.table.data, NextIsCertain([2.0] * 5).table.data)


def test_another_model_by_hits_and_nothing_changed() -> None:
    ids, model = sequences(60), NextIsCertain([2.0] * 5)
    audit = remembered_by_tokens(model, NextIsCertain([3.0] * 5), ids, ids, target=[2], outcome="hit", **FEW)
    assert audit.find("bystanders", "remembered", "change").value == 0
    before = audit.find("bystanders", "remembered", "before").value
    said = model(ids).logits[:, :-1].argmax(-1) == ids[:, 1:]
    assert before == pytest.approx(float(said[ids[:, 1:] != 2].double().mean()))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"words": np.array(["a", "b"])}, "words has shape"),
        ({"words": np.full((4, 9), "")}, "words has no word"),
        ({"words": np.full((4, 9), 0.5)}, "words is of float64"),
        ({"after": 3}, "give an erasure of the model, or another model"),
        ({"after": NextIsCertain([float("nan")] * 5)}, "not finite"),
        ({"draws": 1}, "draws is 1"),
    ],
)
def test_what_cannot_be_audited_is_refused(change: dict[str, Any], said: str) -> None:
    ids, model = sequences(4), NextIsCertain([2.0] * 5)
    given: dict[str, Any] = {"model": model, "after": Swapped([1.0] * 5), "data": ids, "words": WORDS[ids], **change}
    with pytest.raises(InputError, match=said):
        remembered_by_tokens(**given)
