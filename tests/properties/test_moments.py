"""Moments are those of a float64 two-pass computation, in any dtype, chunking, order and merge tree."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from efface import InputError, Moments, NotFittedError
from efface.moments import streaming
from tests.references.leace_reference import moments as reference


@pytest.fixture(autouse=True, scope="module", params=[0, None], ids=["own precision", "small in float64"])
def small(request):
    """Run everything with products in the data's own precision too, as they are formed for wide data."""
    default = streaming._SMALL
    streaming._SMALL = default if request.param is None else request.param
    yield
    streaming._SMALL = default


TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-5, torch.bfloat16: 1e-5}


def stream(seed, n, d, k, offset, dtype):
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) / d**0.5 + offset).to(dtype)
    z = torch.from_numpy(rng.normal(size=(n, k)) + x[:, :k].double().numpy() - offset)
    return x, z


def pieces(n, cuts):
    edges = sorted({0, n, *(int(c * n) for c in cuts)})
    return [slice(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True)]


def assert_matches(m, x, z, weight=None, tol=1e-12):
    mean_x, mean_z, s_xx, s_xz, s_zz = reference(x.double().numpy(), z.numpy(), weight)
    unit_x, unit_z = np.sqrt(np.diag(s_xx)), np.sqrt(np.diag(s_zz))
    # The reference's own mean is rounded at the magnitude of x.
    sd = unit_x / len(x) ** 0.5
    assert np.abs((m.mean_x.numpy() - mean_x) / sd).max() <= tol + 2e-15 * np.abs(mean_x / sd).max()
    np.testing.assert_allclose(m.mean_z.numpy(), mean_z, atol=tol * (1 + np.abs(mean_z).max()))
    assert np.linalg.norm(m.scatter_xx.numpy() - s_xx) <= tol * np.linalg.norm(s_xx)
    assert np.abs((m.scatter_xz.numpy() - s_xz) / unit_x[:, None] / unit_z).max() <= tol
    assert np.abs((m.scatter_zz.numpy() - s_zz) / unit_z[:, None] / unit_z).max() <= tol


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**16),
    n=st.integers(20, 400),
    offset=st.sampled_from([0.0, 1.0, -1e2, 1e4]),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    cuts=st.lists(st.floats(0, 1), max_size=8),
    sort=st.booleans(),
    merges=st.integers(1, 4),
)
def test_any_chunking_order_and_merge_tree(seed, n, offset, dtype, cuts, sort, merges):
    x, z = stream(seed, n, 6, 2, offset, dtype)
    if sort:
        order = x[:, 0].argsort()
        x, z = x[order], z[order]
    parts = [Moments(6, 2) for _ in range(merges)]
    for i, piece in enumerate(pieces(n, cuts)):
        parts[i % merges].update(x[piece], z[piece])
    total = parts[0]
    for part in reversed(parts[1:]):
        total = part + total
    assert total.n == n
    assert_matches(total, x, z, tol=TOLERANCE[dtype])


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("rows", [1, 37, 5000, 20_000])
@pytest.mark.parametrize("order", ["random", "sorted"])
def test_float32_is_right_with_the_mean_1e4_standard_deviations_away(offset, rows, order):
    x, z = stream(0, max(2_000, min(20_000, 200 * rows)), 24, 2, offset, torch.float32)
    if order == "sorted":
        x, z = (t[x[:, 0].argsort()] for t in (x, z))
    m = Moments(24, 2)
    for a, b in zip(x.split(rows), z.split(rows), strict=True):
        m.update(a, b)
    assert_matches(m, x, z, tol=1e-5)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_dtypes(dtype):
    x, z = stream(1, 500, 5, 2, 3.0, dtype)
    assert_matches(Moments(5, 2).update(x, z), x, z, tol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_quantised_data_does_not_drift(dtype, monkeypatch):
    """Values on a grid, centred off the grid, would round in the same direction in every row."""
    monkeypatch.setattr(streaming, "_SMALL", 0)
    x = torch.randn(20_000, 16, generator=torch.Generator().manual_seed(0)).bfloat16().to(dtype)
    centred = x.double() - x.double().mean(0)
    m = Moments(16).update(x)
    assert float((m.mean_x - x.double().mean(0)).abs().max()) < 5e-7
    assert float((m.scatter_xx - centred.T @ centred).norm() / (centred.T @ centred).norm()) < 1e-6


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64, torch.bool])
def test_integers_are_numbers(dtype):
    x = torch.randint(0, 2, (300, 4), generator=torch.Generator().manual_seed(0)).to(dtype)
    m = Moments(4).update(x)
    np.testing.assert_allclose(
        m.scatter_xx.numpy(), 300 * np.cov(x.numpy().astype(float).T, bias=True), rtol=1e-5, atol=1e-5
    )


def test_numpy_and_sequences_are_taken():
    x = np.random.default_rng(0).normal(size=(50, 3))
    torch.testing.assert_close(Moments(3).update(x).scatter_xx, Moments(3).update(x.tolist()).scatter_xx)
    frozen = x.copy()
    frozen.flags.writeable = False
    torch.testing.assert_close(Moments(3).update(frozen).mean_x, torch.from_numpy(x.mean(0)))


def test_complex():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(200, 4)) + 1j * rng.normal(size=(200, 4)) + (3 - 2j))
    z = torch.from_numpy(rng.normal(size=(200, 2)))
    m = Moments(4, 2, dtype=torch.complex128).update(x[:77], z[:77]).update(x[77:], z[77:])
    xc, zc = x - x.mean(0), (z - z.mean(0)).to(torch.complex128)
    torch.testing.assert_close(m.mean_x, x.mean(0))
    torch.testing.assert_close(m.scatter_xx, xc.mH @ xc)
    torch.testing.assert_close(m.scatter_xz, xc.mH @ zc)
    with pytest.raises(InputError, match="complex64"):
        Moments(4).update(x)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**16), offset=st.sampled_from([0.0, 50.0]))
def test_integer_weights_repeat_rows_and_masks_drop_them(seed, offset):
    x, z = stream(seed, 60, 4, 1, offset, torch.float64)
    weight = torch.from_numpy(np.random.default_rng(seed).integers(0, 4, 60))
    repeated = Moments(4, 1).update(x.repeat_interleave(weight, 0), z.repeat_interleave(weight, 0))
    weighted = Moments(4, 1).update(x, z, weight=weight)
    assert weighted.weight == repeated.n and weighted.n == 60
    assert weighted.degrees_of_freedom() == repeated.degrees_of_freedom()
    torch.testing.assert_close(weighted.scatter_xx, repeated.scatter_xx)
    torch.testing.assert_close(weighted.scatter_xz, repeated.scatter_xz)
    masked = Moments(4, 1).update(x, z, mask=weight > 0)
    torch.testing.assert_close(masked.scatter_xx, Moments(4, 1).update(x[weight > 0], z[weight > 0]).scatter_xx)


def test_leading_shapes_with_mask():
    x, z = stream(0, 24, 3, 1, 0.0, torch.float64)
    mask = torch.arange(24) % 3 > 0
    flat = Moments(3, 1).update(x[mask], z[mask])
    shaped = Moments(3, 1).update(x.reshape(2, 12, 3), z.reshape(2, 12, 1), mask=mask.reshape(2, 12))
    torch.testing.assert_close(flat.scatter_xz, shaped.scatter_xz)


def test_diagonal_moments_are_the_diagonal():
    x, z = stream(3, 300, 5, 2, 20.0, torch.float64)
    full, diag = Moments(5, 2), Moments(5, 2, second="diag")
    for part in pieces(300, [0.1, 0.5]):
        full.update(x[part], z[part])
        diag.update(x[part], z[part])
    torch.testing.assert_close(diag.scatter_xx, full.scatter_xx.diagonal())
    torch.testing.assert_close((diag + diag).scatter_xx, (full + full).scatter_xx.diagonal())
    torch.testing.assert_close(diag.scatter_xz, full.scatter_xz)


def test_wide_rows_use_the_triangle_only():
    x = torch.randn(600, 500, generator=torch.Generator().manual_seed(0))
    xc = x.double() - x.double().mean(0)
    torch.testing.assert_close(Moments(500).update(x).scatter_xx, xc.T @ xc, rtol=0, atol=1e-3)


def test_float32_products_that_overflow_are_formed_in_float64():
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * 1e25
    xc = x.double() - x.double().mean(0)
    torch.testing.assert_close(Moments(3).update(x).scatter_xx, xc.T @ xc)


def test_a_failed_update_changes_nothing():
    x, z = stream(0, 9000, 4, 1, 5.0, torch.float32)
    m = Moments(4, 1).update(x, z)
    before = m.state_dict()
    bad = x.clone()
    bad[8000, 2] = float("nan")
    bad[8500, 1] = float("inf")
    with pytest.raises(InputError, match=r"x has NaN or infinite values in 2 of 9000 rows \(first rows: 8000, 8500\)"):
        m.update(bad, z)
    with pytest.raises(InputError, match=r"1 of 8990 rows \(first rows: 8500\)"):
        m.update(bad, z, mask=(torch.arange(9000) < 7995) | (torch.arange(9000) > 8004))
    with pytest.raises(InputError, match="z has NaN"):
        m.update(x[:10], torch.full((10, 1), float("nan")))
    after = m.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_state_resumes_bit_for_bit(tmp_path):
    x, z = stream(5, 900, 4, 2, 7.0, torch.float32)
    straight, broken = Moments(4, 2), Moments(4, 2)
    for part in pieces(900, [0.2, 0.6]):
        straight.update(x[part], z[part])
        broken.save(tmp_path / "state")
        broken = Moments.load(tmp_path / "state").update(x[part], z[part])
    assert all(torch.equal(v, broken.state_dict()[k]) for k, v in straight.state_dict().items())


def test_bad_input():
    m = Moments(3, 1)
    with pytest.raises(InputError, match=r"expected \(\.\.\., 3\)"):
        m.update(torch.zeros(5, 4), torch.zeros(5, 1))
    with pytest.raises(InputError, match="pass z"):
        m.update(torch.zeros(5, 3))
    with pytest.raises(InputError, match="z has shape"):
        m.update(torch.zeros(5, 3), torch.zeros(6, 1))
    with pytest.raises(InputError, match="frequencies"):
        m.update(torch.zeros(5, 3), torch.zeros(5, 1), weight=-torch.ones(5))
    with pytest.raises(InputError, match=r"mask\.bool"):
        m.update(torch.zeros(5, 3), torch.zeros(5, 1), mask=torch.ones(5))
    with pytest.raises(InputError, match="not numbers"):
        m.update(np.array([["a", "b", "c"]], dtype=object), torch.zeros(1, 1))
    with pytest.raises(NotFittedError, match="at least two"):
        m.update(torch.zeros(1, 3), torch.zeros(1, 1)).degrees_of_freedom()
    with pytest.raises(InputError, match="cannot merge"):
        m.merge(Moments(4, 1))
    assert m.update(torch.zeros(0, 3), torch.zeros(0, 1)).n == 1


def test_merging_with_an_empty_one_is_neutral():
    x, z = stream(0, 50, 3, 1, 1e3, torch.float64)
    m = Moments(3, 1).update(x, z)
    for both in (m + Moments(3, 1), Moments(3, 1) + m):
        torch.testing.assert_close(both.scatter_xx, m.scatter_xx)
        torch.testing.assert_close(both.mean_x, m.mean_x)
