"""The gate of Semantic Surgery: scores, and thresholds from prompts with and without a concept."""

from __future__ import annotations

import math

import pytest
import torch

from efface import InputError
from efface.diffusion.text.semantic_surgery.biopsy import calibrate_gate, presence_score
from efface.stats.histogram import histogram


def normal(n: int, mean: float, seed: int) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed)) * 0.02 + mean


def test_scores_are_cosines() -> None:
    g = torch.Generator().manual_seed(0)
    x, d = torch.randn(3, 4, 5, generator=g), torch.randn(4, 5, generator=g)
    d[0] = 0  # the first row of CLIP is the same in every prompt
    for i in range(3):
        rows = [float(x[i, r] @ d[r] / x[i, r].norm() / d[r].norm()) if r else 0.0 for r in range(4)]
        assert float(presence_score(x, d)[i]) == pytest.approx(sum(rows) / 4, abs=1e-6)
        flat = float((x[i] * d).sum() / x[i].norm() / d.norm())
        assert float(presence_score(x, d, "flat")[i]) == pytest.approx(flat, abs=1e-6)
        last = float(x[i, -1] @ d[-1] / x[i, -1].norm() / d[-1].norm())
        assert float(presence_score(x, d, "last")[i]) == pytest.approx(last, abs=1e-6)
    with pytest.raises(InputError, match="'per-token', 'flat', 'mean', .*'last', 'word'"):
        presence_score(x, d, "max")  # type: ignore[arg-type]


def test_scores_of_other_rows_are_cosines_of_these() -> None:
    g = torch.Generator().manual_seed(1)
    x, d, e = torch.randn(3, 4, 5, generator=g), torch.randn(4, 5, generator=g), torch.randn(4, 5, generator=g)
    cosine = torch.nn.functional.cosine_similarity
    expected = {
        "first": cosine(x[:, 0], d[:1]),
        "mean": cosine(x.mean(1), d.mean(0)[None]),
        "centred first": cosine(x[:, 0] - e[0], d[:1]),
        "centred last": cosine(x[:, -1] - e[-1], d[-1:]),
        "centred mean": cosine((x - e).mean(1), d.mean(0)[None]),
    }
    for score, value in expected.items():
        torch.testing.assert_close(presence_score(x, d, score, e), value)  # type: ignore[arg-type]
    nearest = torch.stack([torch.stack([cosine(x[:, r], d[k : k + 1]) for r in range(4)]).amax(0) for k in (1, 2)])
    torch.testing.assert_close(presence_score(x, d[1:3], "word"), nearest.mean(0))
    assert torch.equal(presence_score(x.flip(1), d[1:3], "word"), presence_score(x, d[1:3], "word"))
    with pytest.raises(InputError, match="'centred first' is centred on the empty prompt"):
        presence_score(x, d, "centred first")


def test_scores_that_separate() -> None:
    gate = calibrate_gate(torch.tensor([0.5, 0.6, 0.7, 0.8, 0.9]), torch.tensor([0.0, 0.1, 0.15, 0.2, 0.3]))
    assert gate.threshold == pytest.approx(0.4) and gate.margin == pytest.approx(0.1)
    assert (gate.miss, gate.alarm, gate.auroc, gate.n) == (0, 0, 1, (5, 5))
    # Theorem 2: beyond the margin the gate is within 1 % of 0 or 1
    assert 1 / (1 + math.exp(-gate.margin / gate.sharpness)) == pytest.approx(0.99)


def test_scores_that_overlap() -> None:
    present, absent = normal(400, 0.20, 1), normal(400, 0.14, 2)
    gate = calibrate_gate(present, absent)
    assert 0.155 < gate.threshold < 0.185
    assert gate.miss == pytest.approx(float((present < gate.threshold).float().mean()))
    assert gate.alarm == pytest.approx(float((absent >= gate.threshold).float().mean()))
    everywhere = [
        float((present < t).float().mean() + (absent >= t).float().mean()) for t in torch.linspace(0.1, 0.25, 301)
    ]
    assert gate.miss + gate.alarm <= min(everywhere) + 1e-6
    assert gate.sharpness > 0


def test_scores_that_do_not_separate_are_refused_with_a_histogram() -> None:
    with pytest.raises(InputError, match="(?s)AUROC 0\\.[45].*score from.*with .*without"):
        calibrate_gate(normal(200, 0.2, 1), normal(200, 0.2, 2), name="'disc'")
    counts = histogram(torch.tensor([0.0, 1.0, 1.0]), torch.tensor([0.0, 0.5]), bins=2).splitlines()
    assert [int(c) for c in counts[1].split()[1:]] == [1, 2] and [int(c) for c in counts[2].split()[1:]] == [1, 1]


@pytest.mark.parametrize(
    ("present", "options", "says"),
    [
        (normal(4, 0.5, 0), {}, "at least 5"),
        (torch.full((5,), torch.nan), {}, "not finite"),
        (normal(5, 0.5, 0), {"error": 0.7}, "between 0 and 0.5"),
    ],
)
def test_bad_input(present: torch.Tensor, options: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        calibrate_gate(present, normal(9, 0.0, 1), **options)
