"""LEACE's guarantees, as theorems; agreement with the naive reference and with concept_erasure."""

import warnings
from itertools import product

import concept_erasure
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

import efface
from efface import (
    EffaceWarning,
    InputError,
    LeaceEraser,
    LeaceFitter,
    MeanDifferenceFitter,
    NotFittedError,
    NothingErasedWarning,
    OracleEraser,
    OrthogonalFitter,
)
from tests.references.leace_reference import leace_projection

N, D, EPS = 2048, 128, 2e-9


def dataset(num_classes, n=N, d=D):
    classes = max(num_classes, 2)
    X, Y = make_classification(n_samples=n, n_features=d, n_classes=classes, n_informative=classes, random_state=42)
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    return x, y, F.one_hot(y, classes) if num_classes > 1 else y


def largest_coefficient(model, x, y):
    return np.abs(model.fit(x - x.mean(axis=0), y).coef_).max()


def logistic():
    return LogisticRegression(C=np.inf, tol=0.0)


def svm():
    return LinearSVC(dual=False, intercept_scaling=10**6, tol=EPS)  # pyright: ignore[reportArgumentType]


@pytest.mark.filterwarnings("ignore:.*lbfgs failed to converge")
@pytest.mark.parametrize("num_classes", [1, 2, 3, 5, 10, 20])
def test_the_theorems_of_the_paper(num_classes):
    x, y, z = dataset(num_classes)
    oracle_loss = F.mse_loss(OracleEraser.fit(x, z)(x, z), x)
    for affine, method, shrinkage in product([False, True], ["leace", "orth"], [False, True]):
        if method == "orth" and shrinkage:
            continue
        fitter = LeaceFitter.fit(x, z, affine=affine, method=method, shrinkage=shrinkage)
        eraser = fitter.eraser
        x_ = eraser(x)
        A, s, Bt = torch.linalg.svd(eraser.P)
        A, B = A[:, s > 0.5].requires_grad_(True), Bt[s > 0.5].T
        # Canonical form of an oblique projection: kernel fixed by B, range free in A.
        P = A @ torch.inverse(B.T @ A) @ B.T
        moved = (x - fitter.mean_x) @ P.T + fitter.mean_x if affine else x @ P.T
        inner = torch.randn(D, D, dtype=x.dtype, generator=torch.Generator().manual_seed(0)) / D**0.5
        loss = F.mse_loss(moved @ inner, x @ inner)
        loss.backward()
        assert A.grad is not None
        assert (A.grad.norm() < EPS) == (affine and method == "leace" and not shrinkage)  # Theorem 4.3
        assert oracle_loss <= F.mse_loss(x_, x)
        torch.testing.assert_close(eraser(x_), x_)
        assert torch.linalg.svdvals(x - x_).gt(EPS).sum() <= num_classes
        if affine:
            torch.testing.assert_close(x.mean(0), x_.mean(0))
        means = torch.stack([x_[y == c].mean(0) for c in y.unique()])
        torch.testing.assert_close(means[1:], means[:-1])
        assert largest_coefficient(logistic(), x_.numpy(), y.numpy()) < EPS * 2
        assert largest_coefficient(svm(), x_.numpy(), y.numpy()) < EPS * 2
    assert largest_coefficient(logistic(), x.numpy(), y.numpy()) > 0.05
    assert largest_coefficient(svm(), x.numpy(), y.numpy()) > 0.05


@settings(max_examples=60)
@example(seed=15, d=15, rank=14, k=1, ratio=10.0, whiten=True, dtype=torch.float32)  # moderate pivots, yet singular
@example(seed=9, d=14, rank=1, k=1, ratio=0.4, whiten=True, dtype=torch.float32)  # a feature 20,000 sd from zero
@given(
    seed=st.integers(0, 2**16),
    d=st.integers(1, 30),
    rank=st.integers(1, 30),
    k=st.integers(1, 4),
    ratio=st.sampled_from([0.4, 3.0, 10.0]),
    whiten=st.booleans(),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_agrees_with_the_naive_reference_at_any_rank(seed, d, rank, k, ratio, whiten, dtype):
    """Well-conditioned on its support (n far from the rank), so that the rank is not a matter of taste."""
    rng = np.random.default_rng(seed)
    rank = min(rank, d)
    n = max(2 * k + 4, int(ratio * rank))
    latent = rng.normal(size=(n, rank)) * rng.uniform(0.2, 1, rank)
    x = torch.from_numpy(latent @ np.linalg.qr(rng.normal(size=(d, d)))[0][:rank] + 3).to(dtype)
    z = torch.from_numpy(rng.normal(size=(n, k)) + latent[:, :1])
    size = np.linalg.svd(((x - x.mean(0)).T.double() @ (z - z.mean(0))).numpy())[1]
    assume(not np.any((size > 1e-12 * size[0]) & (size < 1e-4 * size[0])))  # such a one is small by chance
    eraser = LeaceEraser.fit(x, z, method="leace" if whiten else "orth", shrinkage=False)
    wide, mean = x.double(), x.double().mean(0)
    P = torch.from_numpy(leace_projection(wide.numpy(), z.numpy(), whiten, rank=min(rank, n - 1)))
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(eraser(wide), (wide - mean) @ P.T + mean, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shrinkage", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_agrees_with_concept_erasure_where_that_is_right(dtype, shrinkage, affine):
    x, _, z = dataset(3)
    x = x.to(dtype)
    ours = LeaceEraser.fit(x, z, shrinkage=shrinkage, affine=affine)
    theirs = concept_erasure.LeaceEraser.fit(x, z, shrinkage=shrinkage, affine=affine)
    torch.testing.assert_close(ours.P, theirs.P, rtol=0, atol=1e-9 if dtype == torch.float64 else 2e-4)


FITS_OF_ROWS = {
    "leace": lambda x, z: LeaceEraser.fit(x, z)(x),
    "covariance as it is": lambda x, z: LeaceEraser.fit(x, z, shrinkage=False)(x),
    "columns in units of their own": lambda x, z: (lambda x: LeaceEraser.fit(x, z)(x))(torch.cat([x * 99, x], 1)),
    "many rows": lambda x, z: LeaceEraser.fit(x, z)(x.repeat(2**20 // x.numel() + 1, 1)),
    "two concepts": lambda x, z: efface.join_concepts(z, z.flip(0), ignore_index=0),
}


@pytest.mark.parametrize("fit", FITS_OF_ROWS)
def test_the_default_device_is_not_that_of_the_rows(fit):
    x, _, z = dataset(3)
    at_home = FITS_OF_ROWS[fit](x, z)
    with torch.device("meta"):  # as of a program that sets torch.set_default_device("cuda")
        abroad = FITS_OF_ROWS[fit](x, z)
    assert torch.equal(abroad, at_home)


@pytest.mark.parametrize("shrinkage", [True, False])
@pytest.mark.parametrize("exponent", [-500, 500])
def test_the_unit_of_all_columns_does_not_matter(exponent, shrinkage):
    """Squares of covariances, of which shrinkage is made, are beyond float64 here."""
    x, _, z = dataset(3)
    unit, fit = 2.0**exponent, {"shrinkage": shrinkage, "dtype": torch.float64}
    scaled, plain = LeaceEraser.fit(x * unit, z, **fit), LeaceEraser.fit(x, z, **fit)
    torch.testing.assert_close(scaled(x * unit) / unit, plain(x), rtol=1e-12, atol=1e-12)
    assert scaled.report and plain.report and scaled.report.shrinkage == plain.report.shrinkage


@pytest.mark.parametrize("shrinkage", [True, False])
@pytest.mark.parametrize("n", [12, 400])
def test_units_of_columns_do_not_matter(n, shrinkage):
    """Income among shares: its numbers do not decide how much the others are shrunk, nor how much of it is moved."""
    x, _, z = dataset(3)
    x, z, units = x[:n], z[:n], torch.tensor([3e4, 1.0, 1e-3] + [1.0] * (D - 3), dtype=x.dtype)
    x = x / x.std(0, correction=0)
    fit = {"shrinkage": shrinkage, "dtype": torch.float64}
    scaled, plain = LeaceEraser.fit(x * units, z, **fit), LeaceEraser.fit(x, z, **fit)
    torch.testing.assert_close(scaled(x * units) / units, plain(x), rtol=1e-6, atol=1e-7)
    assert scaled.report and plain.report
    assert scaled.report.shrinkage == pytest.approx(plain.report.shrinkage, abs=1e-9)


@pytest.mark.parametrize("shrinkage", [True, False])
@pytest.mark.parametrize("n", [8, 12, 400])
def test_the_edit_that_is_reported_is_made(n, shrinkage):
    x, _, z = dataset(3)
    x, z = x[:n] * torch.linspace(1, 100, D, dtype=x.dtype), z[:n]
    eraser = LeaceEraser.fit(x, z, shrinkage=shrinkage, dtype=torch.float64)
    total = (x - x.mean(0)).square().sum()
    assert eraser.report and eraser.report.edit == pytest.approx(
        float((eraser(x) - x).square().sum() / total), rel=1e-6
    )


def test_streaming_is_batch_and_the_eraser_is_refreshed():
    x, _, z = dataset(3)
    fitter = LeaceFitter(D, 3, dtype=x.dtype)
    seen = []
    for a, b in zip(x.chunk(5), z.chunk(5), strict=True):
        seen.append(fitter.update(a, b).eraser.P)
    assert all(not torch.allclose(a, b) for a, b in zip(seen[:-1], seen[1:], strict=True))
    torch.testing.assert_close(seen[-1], LeaceEraser.fit(x, z).P)
    assert fitter.eraser is fitter.eraser


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**16), d=st.integers(2, 20), cond=st.sampled_from([1.0, 1e3, 1e8]))
def test_the_trace_constraint_of_the_reference_is_inactive(seed, d, cond):
    """`tr(P sigma P^T) <= tr(sigma)`: `P sigma P^T = F (I - U U^T) F^T`, and `I - U U^T <= I`."""
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.normal(size=(200, d)) * np.geomspace(1, cond**-0.5, d) @ rng.normal(size=(d, d)))
    z = x[:, :1] + torch.from_numpy(rng.normal(size=(200, 1)))
    for shrinkage in (False, True):
        fitter = LeaceFitter.fit(x, z, shrinkage=shrinkage)
        sigma, P = fitter.sigma_xx, fitter.eraser.P
        assert torch.trace(P @ sigma @ P.T) <= torch.trace(sigma) * (1 + 1e-6)
        left = torch.linalg.eigvalsh(sigma - P @ sigma @ P.T)
        rounding = torch.finfo(P.dtype).eps * torch.linalg.matrix_norm(P, 2) ** 2  # P is oblique, and may be long.
        assert left.min() >= -(1e-6 + 10 * rounding) * left.abs().max()
    free = LeaceEraser.fit(x, z, constrain_cov_trace=False)
    assert torch.equal(free.P, LeaceEraser.fit(x, z, constrain_cov_trace=True).P)


@pytest.mark.parametrize("prevalence", [0.5, 0.01, 1e-3, 2e-4])
@pytest.mark.parametrize("scale", [1.0, 1e-3])
@pytest.mark.parametrize("method", ["leace", "orth"])
def test_rare_and_small_concepts_are_erased(prevalence, scale, method):
    rng = np.random.default_rng(0)
    n = 50_000
    y = torch.from_numpy(rng.permutation(n) < prevalence * n)
    x = torch.from_numpy(rng.normal(size=(n, 16))).float()
    x[:, 0] += 5 * y
    eraser = LeaceEraser.fit(x, y * scale if scale < 1 else y, method=method)
    x_ = eraser(x)
    assert eraser.report is not None and eraser.report.rank == 1
    assert float((x[y].mean(0) - x[~y].mean(0)).norm()) > 4.5
    assert float((x_[y].mean(0) - x_[~y].mean(0)).norm()) < 1e-4


def test_integer_classes_are_classes_and_not_a_scale():
    x, y, z = dataset(5)
    torch.testing.assert_close(LeaceEraser.fit(x, y).P, LeaceEraser.fit(x, z).P)
    ordinal = LeaceFitter.fit(x, y, kind="continuous")
    assert ordinal.report.kind == "continuous" and ordinal.report.rank == 1
    assert LeaceFitter.fit(x, y).report.kind == "categorical"
    assert LeaceFitter.fit(x, z).report.kind == "one-hot"
    assert LeaceFitter.fit(x, torch.cat([z, x[:, :1]], dim=1)).report.kind == "columns"
    with pytest.warns(EffaceWarning, match="taken for a quantity"):
        assert LeaceFitter.fit(x, y.double()).report.kind == "continuous"


def test_a_mean_far_away_costs_no_erasure_in_float32():
    rng = np.random.default_rng(0)
    y = torch.from_numpy(rng.integers(0, 2, 5000))
    x = torch.from_numpy(rng.normal(size=(5000, 32)) + 1e4).float()
    x[:, 0] += y
    x_ = LeaceEraser.fit(x, y)(x).double()
    gap = (x_[y == 1].mean(0) - x_[y == 0].mean(0)).abs().max()
    assert gap < 1e-3  # One step of float32 at 1e4.


def test_whitened_data_and_default_shrinkage():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(np.linalg.qr(rng.normal(size=(500, 20)))[0] * 500**0.5)
    y = (x[:, 0] > 0).long()
    x_ = LeaceEraser.fit(x, y)(x)
    torch.testing.assert_close(x_[y == 1].mean(0), x_[y == 0].mean(0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_data_has_exact_statistics(dtype):
    x, y, _ = dataset(2)
    low = x.to(dtype)
    eraser = LeaceEraser.fit(low, y)
    assert eraser.proj_left.dtype == torch.float32
    torch.testing.assert_close(eraser.P, LeaceEraser.fit(low.float(), y).P)
    assert eraser(low).dtype == dtype
    torch.testing.assert_close(eraser(low), eraser(low.float()).to(dtype))


def test_complex_data():
    rng = np.random.default_rng(0)
    y = torch.from_numpy(rng.integers(0, 3, 600))
    x = torch.from_numpy(rng.normal(size=(600, 8)) + 1j * rng.normal(size=(600, 8)))
    x[:, 0] += y * (1 + 2j)
    for method in ("leace", "orth"):
        x_ = LeaceEraser.fit(x, y, method=method)(x)
        means = torch.stack([x_[y == c].mean(0) for c in range(3)])
        torch.testing.assert_close(means[1:], means[:-1])
    x_ = OracleEraser.fit(x, y)(x, y)
    torch.testing.assert_close(x_[y == 0].mean(0), x_[y == 1].mean(0))


def test_chunked_application_is_plain_application():
    x = torch.randn(3, 3001, 160, generator=torch.Generator().manual_seed(0))
    y = (x[..., 0] > 0).long()
    eraser = LeaceEraser.fit(x, y)
    plain = torch.cat([eraser(part) for part in x.reshape(-1, 160).split(500)]).view_as(x)
    torch.testing.assert_close(eraser(x), plain)
    torch.testing.assert_close(eraser(x.bfloat16()), plain.bfloat16(), rtol=1e-2, atol=2e-2)
    strided = x.transpose(0, 1)
    torch.testing.assert_close(eraser(strided), plain.transpose(0, 1))


def test_one_fit_erases_several_columns_and_repeated_ones():
    x, y, _ = dataset(3)
    z = torch.stack([y.double(), 2 * y.double() + 1, x[:, 3]], dim=1)
    fitter = LeaceFitter.fit(x, z)
    assert fitter.report.rank == 2
    assert fitter.report.residual is not None and fitter.report.residual < 1e-12


def test_what_the_report_says_is_so():
    x, y, z = dataset(3)
    fitter = LeaceFitter.fit(x, y, shrinkage=False)
    x_, report = fitter.eraser(x), fitter.report
    moved = (x_ - x).square().sum(1).mean() / (x - x.mean(0)).square().sum(1).mean()
    assert report.edit == pytest.approx(float(moved), rel=1e-9)
    from sklearn.cross_decomposition import CCA

    a, b = CCA(n_components=2, scale=False, max_iter=5000, tol=1e-12).fit_transform(
        x.numpy(), z[:, :2].double().numpy()
    )
    expected = [abs(np.corrcoef(a[:, i], b[:, i])[0, 1]) for i in range(2)]
    assert report.correlations == pytest.approx(expected, rel=1e-4)
    assert (report.n, report.rank, report.x_rank, report.route) == (
        N,
        2,
        np.linalg.matrix_rank(np.cov(x.T.numpy())),
        "eigh",
    ) or (report.route == "cholesky" and report.x_rank == D)


def test_erasing_nothing_warns():
    x, y, _ = dataset(2)
    clean = LeaceEraser.fit(x, y)(x)
    with pytest.warns(NothingErasedWarning, match="nothing is erased"):
        eraser = LeaceEraser.fit(clean, y)
    assert eraser.report is not None and eraser.report.rank == 0
    assert torch.equal(eraser(x), x) and eraser(x) is not x
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert LeaceFitter.fit(x, y, svd_tol=0.01).report.rank == 1
    with pytest.warns(NothingErasedWarning):
        assert LeaceFitter.fit(x, y, svd_tol=0.999).report.rank == 0


def bad_calls():
    x, y = torch.randn(20, 4), torch.arange(20) % 2
    nan = x.clone()
    nan[7] = float("nan")
    return {
        "NaN rows": (lambda: LeaceEraser.fit(nan, y), InputError, r"1 of 20 rows \(first rows: 7\)"),
        "length": (lambda: LeaceEraser.fit(x, y[:10]), InputError, "z has shape"),
        "twice as long": (lambda: LeaceEraser.fit(x[:10], y), InputError, "one label"),
        "batch of sequences": (lambda: LeaceEraser.fit(x.view(2, 10, 4), y[:2]), InputError, "z has shape"),
        "one class": (lambda: LeaceEraser.fit(x, y * 0), InputError, "same value in all 20 rows"),
        "one row": (lambda: LeaceEraser.fit(x[:1], y[:1]), NotFittedError, "at least two"),
        "nothing seen": (lambda: LeaceFitter(4, 2).eraser, NotFittedError, "call update first"),
        "empty": (lambda: LeaceEraser.fit(x[:0], y[:0]), InputError, "nothing to fit"),
        "width": (lambda: LeaceEraser.fit(x, y)(torch.randn(3, 5)), InputError, "fitted on width 4"),
        "integers": (lambda: LeaceEraser.fit(x, y)(torch.ones(3, 4, dtype=torch.long)), InputError, r"x\.float"),
        "label too high": (lambda: LeaceFitter(4, 2).update(x, y + 1), InputError, "z_dim=3"),
        "ordinal in one column": (lambda: LeaceFitter(4, 1).update(x, y * 2), InputError, "kind='continuous'"),
        "negative label": (lambda: LeaceEraser.fit(x, y - 1), InputError, "negative class label -1"),
        "sparse labels": (lambda: LeaceEraser.fit(x, y * 100_000), InputError, "return_inverse"),
        "fractional classes": (lambda: LeaceEraser.fit(x, y * 0.5, kind="categorical"), InputError, "fractions"),
        "columns": (lambda: LeaceFitter(4, 3).update(x, x[:, :2]), InputError, "2 columns, expected 3"),
        "kind": (lambda: LeaceEraser.fit(x, y, kind="ordinal"), InputError, "choose one of"),
        "kind changes": (lambda: LeaceFitter(4, 1).update(x, y).update(x, y * 0.5), InputError, "was categorical"),
        "objects": (lambda: LeaceEraser.fit(np.array([["a"]], object), y[:1]), InputError, "not numbers"),
        "method": (lambda: LeaceFitter(4, 1, "sal"), InputError, "choose 'leace' or 'orth'"),  # pyright: ignore[reportArgumentType]
        "svd_tol": (lambda: LeaceFitter(4, 1, svd_tol=-1.0), InputError, "write a number above 0"),
        "x_dim": (lambda: LeaceFitter(0, 1), InputError, "x_dim must be an integer of at least 1"),
        "merge": (lambda: LeaceFitter(4, 1).merge(LeaceFitter(4, 1, "orth")), InputError, "cannot merge"),
    }


@pytest.mark.parametrize("name", list(bad_calls()))
def test_bad_input_has_a_clear_error(name):
    call, error, text = bad_calls()[name]
    with pytest.raises(error, match=text):
        call()


def test_an_empty_batch_changes_nothing():
    x, y, _ = dataset(2)
    fitter = LeaceFitter.fit(x, y)
    before = fitter.eraser.P
    assert torch.equal(fitter.update(x[:0], y[:0]).eraser.P, before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shrinkage", [True, False])
def test_constant_columns_come_back_bit_for_bit(dtype, shrinkage):
    """Else a scaler after the eraser would blow their rounding up until a probe reads the label in it."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 2, (500,), generator=generator)
    x = torch.randn(500, 8, generator=generator, dtype=dtype)
    x[:, 0] += y
    x[:, 3] = 0.123
    assert torch.equal(LeaceEraser.fit(x, y, shrinkage=shrinkage)(x)[:, 3], x[:, 3])


def test_the_rounding_of_data_far_from_zero_is_no_direction():
    """One direction, seen by a feature that hardly varies: its float32 rounding must not enter the projection."""
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(500, 1))
    x = torch.from_numpy(latent * np.array([1.0, -0.7, 1e-4]) + 3).float()
    z = torch.from_numpy(rng.normal(size=(500, 1)) + latent)
    eraser = LeaceEraser.fit(x, z, shrinkage=False)
    assert eraser.P.norm() < 2
    kept = (eraser(x) - x.mean(0)).double()
    assert kept.abs().max() < 1e-4  # z is in the one direction that there is
    # A small feature near zero has no such rounding: its own direction is kept.
    near = torch.cat([x, torch.from_numpy(1e-4 * rng.normal(size=(500, 1))).float()], dim=1)
    report = LeaceEraser.fit(near, z, shrinkage=False).report
    assert report is not None and report.x_rank == 2


@pytest.mark.parametrize("value", [1e20, 2.0**63, 1e8])
def test_constant_rows_far_from_zero_are_left_as_they_are(value):
    x, y = torch.full((40, 3), value, dtype=torch.float64), torch.arange(40) % 2
    with pytest.warns(NothingErasedWarning):
        eraser = LeaceEraser.fit(x, y)
    assert torch.equal(eraser(x), x)


@pytest.mark.parametrize("fitter", [OrthogonalFitter, MeanDifferenceFitter])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_rows_whose_readings_overflow_are_refused(fitter, dtype):
    x = torch.randn(90, 5, generator=torch.Generator().manual_seed(34), dtype=torch.float64)
    z = torch.arange(90) % 3
    x[0] *= 1e38 / x[0].abs().max() * 2.5  # each number is one of the dtype, and their sum is not
    with pytest.raises(InputError, match=r"may overflow.*float64"):
        _ = fitter.fit(x.to(dtype), z).eraser
    erased = fitter.fit(x.to(dtype), z, dtype=torch.float64).eraser(x.to(dtype))
    assert bool(erased.isfinite().all())
