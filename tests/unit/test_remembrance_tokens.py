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
from efface.audit import remembered
from efface.audit.remembrance import Ledger, Registry
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


def test_a_score_in_other_units_changes_the_tests_of_entities_and_nothing_of_mentions() -> None:
    """Scores in thousandths: intervals of entities are a thousandth, and classes, groups and likeness the same."""
    rng = np.random.default_rng(0)
    n, names = 40, ["ada", "bea", "cleo", "dora", "eve", "fay", "gus", "hal"]
    # Several answers of some questions: what is tested is the mean of a question, whatever their number.
    rows = [(e, q, s) for e in range(8) for q in range(n) for s in range(1 + (e + q) % 3)]
    e, q, s = np.array(rows).T
    before = rng.normal(size=len(rows))
    after = before + rng.normal(0, 0.3, len(rows)) - 0.5 * (e == 1)
    hit = {"before": rng.random(len(rows)) < 0.8, "after": rng.random(len(rows)) < 0.7}
    registry = Registry.of(
        names,
        target=["hal"],
        similarity=np.arange(8) / 8,
        groups={"guild": ["x", "y"] * 4},
        popularity=np.arange(8) + 1.0,
    )

    def audited(unit: float) -> Any:
        table = {
            "entity": np.tile(np.array(names)[e], 2), "query": np.tile(q, 2), "seed": np.tile(s, 2),
            "arm": np.repeat(["before", "after"], len(rows)), "hit": np.concatenate([*hit.values()]) * 1,
            "score": unit * np.concatenate([before, after]), "merit": np.ones(2 * len(rows)),
        }  # fmt: skip
        return remembered(
            Ledger.of_table(table), registry=registry, outcome="score", resample="queries", smallest_cell=2, draws=1000
        )

    both = audited(1.0), audited(0.001)
    for name, family in (("smallest margin", "certificate"), ("similarity", "likeness")):
        found = [[f for part in a.walk() for f in part.findings if (f.name, f.family) == (name, family)] for a in both]
        one, other = (each[0] for each in found)
        assert one.value == pytest.approx(other.value) and one.low == pytest.approx(other.low)
    tables = [{t.title: t for part in a.walk() for t in part.tables} for a in both]
    for title in ("Who they are", "Groups next to the others"):
        assert tables[0][title].rows == tables[1][title].rows
    change = [str(t["Suppressed"].rows[0][6]) for t in tables]
    low, high = (float(x) for x in change[0].split("(")[1].strip(")").split(" to "))
    own = (after - before)[e == 1]
    assert low < own.mean() < high < 0 and high - low < 0.6
    assert float(change[1].split()[0]) == pytest.approx(0.001 * float(change[0].split()[0]), rel=0.01)
