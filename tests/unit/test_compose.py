"""Several concepts in one eraser."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

from efface import EffaceWarning, InputError, LeaceEraser, compose, join_concepts

RNG = np.random.default_rng(0)
A = torch.from_numpy(RNG.integers(0, 2, 600))
B = torch.from_numpy(RNG.integers(0, 3, 600))
X = torch.from_numpy(RNG.normal(size=(600, 10)) @ RNG.normal(size=(10, 10))) + 7
X[:, 0] += A + B
X[:, 1] += A * (B == 2)


def gap(x, y):
    means = torch.stack([x[y == c].mean(0) for c in y.unique()])
    return float((means[1:] - means[:-1]).abs().max())


def test_a_joint_fit_erases_both_at_less_cost_than_a_chain():
    joint = LeaceEraser.fit(X, join_concepts(A, B))
    first = LeaceEraser.fit(X, A)
    then = LeaceEraser.fit(first(X), B)
    chain = compose(first, then)
    torch.testing.assert_close(chain(X), then(first(X)))
    for eraser in (joint, chain):
        assert gap(eraser(X), A) < 1e-9 and gap(eraser(X), B) < 1e-9
    assert (joint(X) - X).square().mean() < (chain(X) - X).square().mean()


def test_intersections_are_left_unless_asked_for():
    cell = A * 3 + B
    assert gap(LeaceEraser.fit(X, join_concepts(A, B))(X), cell) > 0.05
    assert gap(LeaceEraser.fit(X, join_concepts(A, B, intersections=True))(X), cell) < 1e-9


def test_composing_three_linear_or_mixed():
    parts = [LeaceEraser.fit(X, z, affine=affine) for z, affine in ((A, False), (B, False), (X[:, 2], False))]
    torch.testing.assert_close(compose(*parts)(X), parts[2](parts[1](parts[0](X))))
    mixed = [LeaceEraser.fit(X, A), LeaceEraser.fit(X, B, affine=False)]
    torch.testing.assert_close(compose(*mixed)(X), mixed[1](mixed[0](X)))


def test_concepts_of_several_shapes():
    z = join_concepts(A.view(2, 300), X.view(2, 300, 10)[..., :2], kinds=["categorical", "auto"])
    assert z.shape == (2, 300, 4)
    assert join_concepts(B, kinds=["continuous"]).shape == (600, 1)
    sorts: tuple[Any, ...] = (np.array, pd.Series, pl.Series, pd.Index)
    for sort in sorts:
        assert torch.equal(join_concepts(A, B, kinds=sort(["categorical", "auto"])), join_concepts(A, B))


def test_bad_input():
    with pytest.raises(InputError, match="at least one"):
        join_concepts()
    with pytest.raises(InputError, match="at least one"):
        compose()
    with pytest.raises(InputError, match="kinds has 1"):
        join_concepts(A, B, kinds=["auto"])
    with pytest.raises(InputError, match="two categorical"):
        join_concepts(A, X[:, 0], intersections=True)
    with pytest.raises(InputError, match="different widths"):
        compose(LeaceEraser.fit(X, A), LeaceEraser.fit(X[:, :4], A))
    with pytest.raises(InputError, match="concept 1 has shape"):
        join_concepts(A, B[:10].repeat(2, 1))


def cross(x, z):
    """Largest correlation of a feature with a column of z."""
    z = join_concepts(z)
    x, z = x - x.mean(0), z - z.mean(0)
    return float((x.mT @ z / (x.norm(dim=0)[:, None] * z.norm(dim=0))).abs().max())


CORRELATED = (A + B.clamp(max=1) * 2 > 1).long()
"""A concept that has much in common with both others."""


@pytest.mark.parametrize("options", [{}, {"shrinkage": False}, {"method": "orth"}, {"affine": False}], ids=str)
def test_both_of_two_correlated_concepts_are_erased_at_once_in_any_order(options):
    a, b = (LeaceEraser.fit(X, z, **options) for z in (A, CORRELATED))
    both = a & b
    assert cross(b(a(X)), CORRELATED) > 1e-3  # what is left of the second, one after the other
    assert max(cross(both(X), z) for z in (A, CORRELATED)) < 1e-10
    torch.testing.assert_close(both(X), (b & a)(X))
    torch.testing.assert_close(both(both(X)), both(X))
    if options.get("affine", True):
        torch.testing.assert_close(both(X).mean(0), X.mean(0))


def test_of_the_same_data_it_is_the_eraser_of_both_concepts():
    z = (A, B, CORRELATED)
    a, b, c = (LeaceEraser.fit(X, each, shrinkage=False) for each in z)
    joint = LeaceEraser.fit(X, join_concepts(*z), shrinkage=False)
    for erasers in itertools.permutations((a, b, c)):
        first, second, third = erasers
        both = first & second & third
        torch.testing.assert_close(both(X), joint(X))
        assert type(both) is LeaceEraser and both.proj_left.shape == joint.proj_left.shape


def test_what_two_erasers_have_in_common_is_taken_once():
    a, same = LeaceEraser.fit(X, A, shrinkage=False), LeaceEraser.fit(X, A * 2.5 - 3, shrinkage=False)
    for dtype, atol in ((torch.float64, 1e-9), (torch.float32, 1e-3)):
        both = a.to(dtype) & LeaceEraser.fit(X, join_concepts(A, B), shrinkage=False).to(dtype)
        assert both.proj_left.shape[1] == 3 and max(gap(both(X), z) for z in (A, B)) < atol
    assert (a & same).proj_left.shape[1] == 1
    with pytest.raises(InputError, match="is in it twice"):
        _ = a & a


def test_each_concept_is_erased_from_the_data_of_its_own_fit():
    a, b = LeaceEraser.fit(X[:300], A[:300]), LeaceEraser.fit(X[300:], CORRELATED[300:])
    both = a & b
    assert cross(both(X[:300]), A[:300]) < 1e-10 and cross(both(X[300:]), CORRELATED[300:]) < 1e-10
    chained = a & LeaceEraser.fit(a(X[:300]), B[:300])
    assert cross(chained(X[:300]), A[:300]) < 1e-10 and cross(chained(X[:300]), B[:300]) < 1e-10


def test_what_cannot_be_joined_is_refused_or_one_after_the_other():
    eye = torch.eye(2, dtype=torch.float64)
    one, two = LeaceEraser(eye[:, :1], eye[:1], None), LeaceEraser(eye.sum(1, keepdim=True), eye[:1], None)
    with pytest.raises(InputError, match="cannot be joined.*join_concepts"):
        _ = one & two
    assert type(one & LeaceEraser.fit(X, A)).__name__ == "Joined"
    with pytest.raises(TypeError):
        _ = one & 3  # type: ignore[operator]


def test_erasers_of_different_rows_that_move_rows_far_together_say_so():
    """One takes out e1, the other a direction at a sine of .2 from it, reading e3 too: together e3 is moved 1 / .2."""
    e1, e2, e3 = torch.eye(3, dtype=torch.float64)
    near = 0.96**0.5 * e1 + 0.2 * e2
    one = LeaceEraser(e1[:, None], e1[None], torch.zeros(3, dtype=torch.float64))
    two = LeaceEraser(near[:, None], (near + e3)[None], torch.ones(3, dtype=torch.float64))
    with pytest.warns(EffaceWarning, match=r"up to 5\.1 times .* 3\.6 times as far .* join_concepts\(a, b\)"):
        both = one & two
    torch.testing.assert_close(both.proj_left @ (both.proj_right @ e3), e2 / 0.2)
    _ = one & replace(two, bias=one.bias)  # The same centre, as of the same rows: nothing is said.


def test_concepts_of_no_rows() -> None:
    empty = torch.zeros(0, dtype=torch.long)
    assert join_concepts(empty, empty, ignore_index=1).shape == (0, 2)
    with pytest.raises(InputError, match="concept"):
        join_concepts(np.array([], dtype=str), torch.arange(24.0), ignore_index=1)
