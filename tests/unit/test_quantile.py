"""Distribution functions against scipy and numpy, and quantile tables along every dimension."""

from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from efface._errors import InputError
from efface.moments.quantile import QuantileNormalizer, cdf, icdf

quick = settings(deadline=None)
floats = st.floats(-1e300, 1e300)  # scipy's own nextafter overflows beyond
samples = st.integers(1, 30).flatmap(lambda n: arrays(float, n, elements=floats).map(np.sort).map(torch.from_numpy))
points = arrays(float, 10, elements=floats).map(torch.from_numpy)
few = st.sampled_from([-1.0, 0.0, 0.5, 1.0])
tied = st.lists(few, min_size=1, max_size=20).map(sorted).map(torch.tensor)


@quick
@given(points, samples)
def test_cdf_matches_scipy(x, q):
    expected = torch.from_numpy(scipy.stats.ecdf(q.numpy()).cdf.evaluate(x.numpy()))
    torch.testing.assert_close(cdf(x, q), expected, rtol=1e-15, atol=1e-15)


@quick
@given(tied)
def test_cdf_matches_scipy_at_ties(q):
    x = torch.tensor([-2.0, -1.0, 0.0, 0.25, 0.5, 1.0, 2.0])
    expected = torch.from_numpy(scipy.stats.ecdf(q.numpy()).cdf.evaluate(x.numpy())).float()
    torch.testing.assert_close(cdf(x, q), expected)


@quick
@given(points, samples, st.sampled_from([torch.float64, torch.float32]))
def test_icdf_is_the_pseudo_inverse(x, q, dtype):
    x, q = x.to(dtype), q.to(dtype)
    p = cdf(x, q)
    inside = x >= q[0]
    assert (icdf(p, q)[inside] <= x[inside]).all()
    assert (icdf(p, q)[~inside] == q[0]).all()
    assert (cdf(icdf(p, q), q) >= p).all()
    assert torch.equal(icdf(cdf(q, q), q), q)


@quick
@given(samples, st.floats(-1, 2))
def test_icdf_is_the_smallest_value_that_reaches_p(q, p):
    reached = q[cdf(q, q) >= min(p, 1.0)]
    assert icdf(p, q) == reached[0]


@pytest.mark.parametrize("n", [3, 49, 1000, 100_003, 1_000_003])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_icdf_undoes_cdf_at_every_rank(n, dtype):
    """`p * n` is rounded up for some ranks; an off-by-one would show here."""
    q = torch.arange(n, dtype=dtype)
    assert torch.equal(icdf(cdf(q, q), q), q)


def test_bare_numbers_and_ends():
    q = torch.tensor([1.0, 2.0, 3.0])
    assert cdf(2, q) == cdf(2.0, q) == torch.tensor(2 / 3)
    assert cdf(0.1, torch.tensor([0.1])) == 1
    assert [float(icdf(p, q)) for p in (-1, 0, 0.5, 1, 2)] == [1, 1, 2, 3, 3]
    assert cdf(torch.tensor([torch.nan, torch.inf, -torch.inf]), q).nan_to_num(-1).tolist() == [-1, 1, 0]


def test_batches_broadcast():
    q = torch.randn(4, 1, 3, 20).sort().values
    x = torch.randn(5, 1, 7)
    p = cdf(x, q)
    assert p.shape == (4, 5, 3, 7)
    torch.testing.assert_close(p[2, 4, 1], cdf(x[4, 0], q[2, 0, 1]))
    back = icdf(p, q)
    torch.testing.assert_close(back[2, 4, 1], icdf(p[2, 4, 1], q[2, 0, 1]))
    assert cdf(0.0, q).shape == (4, 1, 3) and icdf(0.5, q).shape == (4, 1, 3)
    assert cdf(x, q[0, 0, 0]).shape == x.shape


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_exact(dtype):
    q = torch.randn(50).to(dtype).sort().values
    assert torch.equal(cdf(q, q), cdf(q.float(), q.float()))
    assert icdf(torch.tensor([0.5]), q).dtype == dtype


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda: cdf(0.0, torch.tensor([2.0, 1.0])), "not sorted"),
        (lambda: cdf(0.0, torch.tensor([1.0, torch.nan])), "NaN"),
        (lambda: cdf(0.0, torch.empty(0)), "at least 1"),
        (lambda: icdf(torch.tensor([torch.nan]), torch.tensor([1.0])), "p has NaN"),
        (lambda: cdf(torch.zeros(2, 3), torch.zeros(5, 4)), "do not broadcast"),
    ],
)
def test_bad_input_is_an_error_that_says_so(call, text):
    with pytest.raises(InputError, match=text):
        call()


# ---------------------------------------------------------------------------------------- QuantileNormalizer


def classes(shape=(300, 3), k=3, seed=0, dim=0, dtype=torch.float32):
    """Classes of different location and spread; samples along `dim`."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.arange(shape[0]) % k
    scale = (1 + z).reshape(-1, *[1] * (len(shape) - 1))
    x = torch.randn(shape, generator=generator) * scale + 10 * scale
    return x.movedim(0, dim).to(dtype), z


@quick
@given(arrays(float, st.integers(1, 40), elements=st.floats(-1e300, 1e300)), st.integers(2, 50))
def test_table_equals_numpy_quantiles(x, bins):
    lut = QuantileNormalizer(torch.from_numpy(x), torch.zeros(len(x), dtype=torch.int64), bins).lut[0]
    expected = torch.from_numpy(np.quantile(x / 4, np.linspace(0, 1, bins)) * 4)
    torch.testing.assert_close(lut, expected, rtol=1e-9, atol=1e-9 * float(np.abs(x).max() + 1e-300))
    assert (lut[1:] >= lut[:-1]).all() and lut[0] == x.min() and lut[-1] == x.max()


@pytest.mark.parametrize("shape, dim", [((60,), 0), ((60, 3), 0), ((60, 3), 1), ((60, 3, 2), 1), ((60, 3, 2), -1)])
def test_every_dimension_gives_the_result_of_the_first(shape, dim):
    x, z = classes(shape)
    first = QuantileNormalizer(x, z, 16)
    moved = QuantileNormalizer(x.movedim(0, dim), z, 16, dim=dim)
    assert moved.lut.shape == (3, *shape[1:], 16) and moved.num_bins == 16 and moved.dim == dim
    assert torch.equal(moved.lut, first.lut)
    assert torch.equal(moved(x.movedim(0, dim), z).movedim(dim, 0), first(x, z))
    there = moved.transport(x.movedim(0, dim), z, 2)
    assert torch.equal(there.movedim(dim, 0), first.transport(x, z, 2))
    assert moved.sample(1, 5).movedim(dim, 0).shape == (5, *shape[1:])


def distance(sample, other):
    """Kolmogorov's: the greatest difference of two distribution functions."""
    result: Any = scipy.stats.kstest(np.asarray(sample), np.asarray(other) if torch.is_tensor(other) else other)
    return result.statistic


def test_integral_transform_is_uniform_in_each_class_and_hides_it():
    x, z = classes((30_000, 2))
    u = QuantileNormalizer(x, z, 256)(x, z)
    for label in range(3):
        for column in u[z == label].T:
            assert distance(column, scipy.stats.uniform.cdf) < 1 / 256 + 1e-3


def test_transport_gives_the_target_its_quantiles():
    x, z = classes((30_000, 2))
    q = QuantileNormalizer(x, z, 512)
    moved = q.transport(x, z, 1)
    for label in range(3):
        for ours, target in zip(moved[z == label].T, x[z == 1].T, strict=True):
            assert distance(ours, target) < 1 / 512 + 2e-3


def test_transport_to_the_own_class_moves_by_less_than_a_bin():
    x, z = classes((600, 2))
    q = QuantileNormalizer(x, z, 64)
    widest = q.lut.diff(dim=-1).max()
    assert (q.transport(x, z, 1)[z == 1] - x[z == 1]).abs().max() <= widest


def test_samples_have_the_distribution_of_the_class():
    x, z = classes((3000, 2))
    q = QuantileNormalizer(x, z)
    drawn = q.sample(2, 4000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(drawn, q.sample(2, 4000, generator=torch.Generator().manual_seed(0)))
    for ours, truth in zip(drawn.T, x[z == 2].T, strict=True):
        assert distance(ours, truth) < 1.95 * (1 / 4000 + 1 / 1000) ** 0.5


def test_labels_are_looked_up_and_not_used_as_an_index():
    x, z = classes()
    gaps = QuantileNormalizer(x, torch.tensor([7, -3, 100])[z])
    plain = QuantileNormalizer(x, z)
    assert gaps.labels == (-3, 7, 100)
    assert torch.equal(gaps(x, torch.tensor([7, -3, 100])[z]), plain(x, z))
    assert torch.equal(gaps.cdf(7, x), plain.cdf(0, x))
    with pytest.raises(InputError, match="the labels are -3, 7, 100"):
        gaps(x, z)


def test_single_samples_scalars_and_one_label_for_all():
    x, z = classes()
    q = QuantileNormalizer(x, z)
    assert torch.equal(q.cdf(0, x[0]), q.cdf(0, x[:1])[0])
    assert torch.equal(q(x[z == 1], 1), q(x[z == 1], z[z == 1]))
    assert torch.equal(q.transport(x[0], 0, 2), q.transport(x[:1], z[:1], 2)[0])
    one = QuantileNormalizer(x[:, 0], z)
    assert torch.equal(one.cdf(0, x[0, 0]), q.cdf(0, x[0])[0])
    assert q(x[:0], z[:0]).shape == (0, 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int32])
def test_every_dtype(dtype):
    x, z = classes(dtype=dtype)
    before = x.clone()
    q = QuantileNormalizer(x, z)
    wanted = dtype if dtype.is_floating_point else torch.float32
    assert q(x, z).dtype == q.transport(x, z, 0).dtype == wanted
    assert q.lut.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(x, before)


def test_more_samples_than_torch_quantile_takes():
    x = torch.arange(2**24 + 8, dtype=torch.float32).flip(0)
    q = QuantileNormalizer(x, torch.zeros(len(x), dtype=torch.uint8), num_bins=5)
    assert q.lut[0, 0] == 0 and q.lut[0, -1] == x[0]
    with pytest.raises(RuntimeError, match="too large"):
        x.quantile(torch.tensor([0.5]))


@pytest.mark.parametrize(
    "x, z, options, text",
    [
        (torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64), {"num_bins": 1}, "at least 2"),
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), {}, "at least one"),
        (torch.zeros(4, 2), torch.zeros(3, dtype=torch.int64), {}, "3 labels"),
        (torch.tensor([[0.0], [torch.nan]]), torch.tensor([0, 1]), {}, "first rows: 1"),
        (torch.zeros(4, 2), torch.zeros(4), {}, "integer labels"),
    ],
)
def test_bad_data_is_an_error_that_says_so(x, z, options, text):
    with pytest.raises(InputError, match=text):
        QuantileNormalizer(x, z, **options)


def test_data_of_another_layout_is_refused():
    x, z = classes()
    q = QuantileNormalizer(x, z)
    for wrong in (torch.zeros(5, 2), torch.zeros(3, 5, 3), torch.tensor(0.0), torch.zeros(2)):
        with pytest.raises(InputError, match=r"expected coordinates \(3,\)"):
            q.cdf(0, wrong)
