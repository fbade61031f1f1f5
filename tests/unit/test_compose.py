"""Several concepts in one eraser."""

import numpy as np
import pytest
import torch

from efface import InputError, LeaceEraser, compose, join_concepts

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
