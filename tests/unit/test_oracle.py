"""Oracle LEACE: least-squares residuals, whatever the scale of z."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from efface import InputError, NothingErasedWarning, OracleEraser, OracleFitter
from tests.references.leace_reference import oracle_residual


def data(seed=0, n=300, d=6, k=3):
    rng = np.random.default_rng(seed)
    z = torch.from_numpy(rng.integers(0, k, n))
    return torch.from_numpy(rng.normal(size=(n, d))) + z[:, None], z


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**16), scale=st.sampled_from([1.0, 1e-4, 1e5]), repeat=st.booleans())
def test_agrees_with_the_naive_reference(seed, scale, repeat):
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.normal(size=(80, 5)))
    z = torch.from_numpy(rng.normal(size=(80, 2))) * scale + x[:, :1]
    z = torch.cat([z, z[:, :1]], dim=1) if repeat else z
    torch.testing.assert_close(OracleEraser.fit(x, z)(x, z), torch.from_numpy(oracle_residual(x.numpy(), z.numpy())))


@pytest.mark.parametrize("prevalence", [0.1, 0.01, 2e-4])
@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_rare_and_small_concepts_are_erased(prevalence, scale):
    rng = np.random.default_rng(0)
    z = torch.from_numpy((rng.permutation(50_000) < prevalence * 50_000) * scale)
    x = torch.from_numpy(rng.normal(size=(50_000, 3))) + 5 * (z > 0)[:, None]
    x_ = OracleEraser.fit(x, z)(x, z)
    assert (x_[z > 0].mean(0) - x_[z == 0].mean(0)).abs().max() < 1e-9


def test_labels_may_come_as_classes_one_hot_or_one_column():
    x, z = data(k=2)
    expected = OracleEraser.fit(x, torch.nn.functional.one_hot(z))(x, torch.nn.functional.one_hot(z))
    eraser = OracleEraser.fit(x, z)
    torch.testing.assert_close(eraser(x, z), expected)
    torch.testing.assert_close(eraser(x.view(3, 100, 6), z.view(3, 100)).view_as(x), expected)
    torch.testing.assert_close(OracleFitter(6, 1, dtype=x.dtype).update(x, z).eraser(x, z), expected)
    torch.testing.assert_close(torch.from_numpy(eraser(x.numpy(), z.numpy())), expected)


def test_never_a_larger_edit_than_any_other_eraser_and_the_report_says_how_large():
    x, z = data()
    fitter = OracleFitter.fit(x, z)
    x_ = fitter.eraser(x, z)
    edit = (x_ - x).square().sum(1).mean() / (x - x.mean(0)).square().sum(1).mean()
    assert fitter.report.edit == pytest.approx(float(edit))
    assert fitter.report.rank == 2


def test_streaming_is_batch_with_and_without_shrinkage():
    x, z = data()
    for shrinkage in (False, True):
        fitter = OracleFitter(6, 3, shrinkage=shrinkage, dtype=x.dtype)
        for a, b in zip(x.chunk(4), z.chunk(4), strict=True):
            fitter.update(a, b)
        whole = OracleFitter.fit(x, z, shrinkage=shrinkage)
        torch.testing.assert_close(fitter.sigma_zz, whole.sigma_zz)
        torch.testing.assert_close(fitter.eraser.coef, whole.eraser.coef)


def test_bad_input():
    x, z = data()
    eraser = OracleEraser.fit(x, z)
    with pytest.raises(InputError, match="z_dim=4"):
        eraser(x, z + 1)
    with pytest.raises(InputError, match="z has shape"):
        eraser(x, z[:5])
    with pytest.raises(InputError, match="fitted on width 6"):
        eraser(x[:, :2], z)
    with pytest.raises(InputError, match="same value"):
        OracleEraser.fit(x, z * 0)
    with pytest.warns(NothingErasedWarning):
        OracleEraser.fit(eraser(x, z), z)
