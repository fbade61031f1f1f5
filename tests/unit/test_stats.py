"""The area under the ROC curve and calibrated scores, against scikit-learn and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from efface.stats.platt import platt
from efface.stats.roc import auroc

SCORES = st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]) | st.floats(-3, 3), min_size=1, max_size=30)


@given(present=SCORES, absent=SCORES)
def test_auroc_is_that_of_scikit_learn(present: list[float], absent: list[float]) -> None:
    labels = np.r_[np.ones(len(present)), np.zeros(len(absent))]
    assert auroc(present, absent) == pytest.approx(roc_auc_score(labels, present + absent), abs=1e-12)
    assert auroc(present, absent) == pytest.approx(1 - auroc(absent, present), abs=1e-12)


def test_auroc_counts_pairs():
    x, y = torch.tensor([3.0, 1.0, 2.0]), torch.tensor([2.0, 0.0])
    expected = sum((a > b) + 0.5 * (a == b) for a in x.tolist() for b in y.tolist()) / 6
    assert auroc(x, y) == pytest.approx(expected)


def test_platts_slope_and_shift_are_where_the_loss_is_lowest() -> None:
    labels = (torch.rand(4000, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    scores = torch.randn(4000, generator=torch.Generator().manual_seed(1)) + 2 * labels
    a, b = platt(scores, labels)
    # log-odds of two Gaussians of variance 1 whose means are 0 and 2
    assert a == pytest.approx(2, abs=0.1) and b == pytest.approx(-2 + math.log(0.4 / 0.6), abs=0.15)
    apart, b = platt(torch.tensor([-3.0, -2.0, 2.0, 3.0]), torch.tensor([0.0, 0.0, 1.0, 1.0]))
    assert 0 < apart < 10 and abs(b) < 1e-4
    assert platt(-scores, labels)[0] == pytest.approx(-a)
