"""Per-class moments equal numpy's, in any chunking, order and merge tree."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from efface._errors import FormatError, InputError, NotFittedError
from efface.moments.classwise import ClassMoments, as_labels
from efface.moments.streaming import Moments

quick = settings(deadline=None, max_examples=40)
cases = st.tuples(st.integers(0, 2**31), st.integers(1, 60), st.integers(1, 5), st.integers(1, 4))


def data(seed, n, d, k, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=dtype) + 10
    return x, torch.randint(k, (n,), generator=generator)


def assert_same(a: ClassMoments, b: ClassMoments, rtol=1e-9):
    assert torch.equal(a.n, b.n)
    for name in ("weight", "mean_x", "scatter_xx", "global_mean", "scatter_xz"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=rtol, atol=1e-9)


@quick
@given(cases)
def test_equals_numpy(case):
    x, z = data(*case)
    m = ClassMoments(case[2], case[3]).update(x, z)
    assert m.n.dtype == torch.int64 and m.n.tolist() == np.bincount(z, minlength=case[3]).tolist()
    torch.testing.assert_close(m.global_mean, x.mean(0))
    for label in z.unique().tolist():
        rows = x[z == label].numpy()
        np.testing.assert_allclose(m.mean_x[label], rows.mean(0), rtol=1e-12)
        centred = rows - rows.mean(0)
        np.testing.assert_allclose(m.scatter_xx[label], centred.T @ centred, rtol=1e-9, atol=1e-10)


@quick
@given(cases, st.integers(0, 60), st.integers(0, 60))
def test_batches_order_and_merging_do_not_matter(case, i, j):
    x, z = data(*case)
    i, j = sorted((min(i, len(x)), min(j, len(x))))
    new = lambda: ClassMoments(case[2], case[3])  # noqa: E731
    whole = new().update(x, z)
    assert_same(whole, new().update(x[:i], z[:i]).update(x[i:j], z[i:j]).update(x[j:], z[j:]))
    a, b, c = new().update(x[:i], z[:i]), new().update(x[i:j], z[i:j]), new().update(x[j:], z[j:])
    assert_same(whole, c + (b + a))
    assert_same(whole, a.copy().merge(b).merge(c))
    assert int(a.n.sum()) == i
    single = new()
    for label in range(case[3]):
        single.update_single(x[z == label], label)
    assert_same(whole, single)


def test_equals_moments_with_one_hot_labels():
    x, z = data(0, 100, 3, 4)
    m = ClassMoments(3, 4).update(x, z)
    plain = Moments(3, 4).update(x, torch.nn.functional.one_hot(z, 4))
    torch.testing.assert_close(m.scatter_xz, plain.scatter_xz)
    torch.testing.assert_close(m.global_mean, plain.mean_x)
    torch.testing.assert_close(m.prior, plain.mean_z)
    assert m.degrees_of_freedom() == plain.degrees_of_freedom() == 99


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool])
def test_every_integer_width(dtype):
    x, z = data(0, 20, 3, 2)
    assert_same(ClassMoments(3, 2).update(x, z.to(dtype)), ClassMoments(3, 2).update(x, z))


@pytest.mark.parametrize("shape", [(), (24,), (4, 6), (2, 3, 4)])
def test_every_leading_shape_and_one_hot(shape):
    x, z = data(0, 24, 3, 4)
    n = int(np.prod(shape))
    expected = ClassMoments(3, 4).update(x[:n], z[:n])
    x, z = x[:n].reshape(*shape, 3), z[:n].reshape(shape)
    one_hot = torch.nn.functional.one_hot(z, 4)
    for labels in (z, z[..., None], one_hot, one_hot.double(), one_hot.bool(), z.numpy()):
        assert_same(ClassMoments(3, 4).update(x, labels), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_is_summed_in_float64(dtype):
    x, z = data(0, 500, 3, 2)
    x = (x + 100).to(dtype)
    m, exact = ClassMoments(3, 2).update(x, z), ClassMoments(3, 2).update(x.double(), z)
    assert m.mean_x.dtype == m.scatter_xx.dtype == torch.float64
    assert_same(m, exact, rtol=1e-12)


def test_weights_are_frequencies_and_masks_drop_rows():
    x, z = data(0, 30, 3, 2)
    w = torch.arange(30) % 3
    repeated = ClassMoments(3, 2).update(x.repeat_interleave(w, 0), z.repeat_interleave(w))
    weighted = ClassMoments(3, 2).update(x, z, weight=w)
    torch.testing.assert_close(weighted.scatter_xx, repeated.scatter_xx)
    torch.testing.assert_close(weighted.prior, repeated.prior)
    mask = w > 0
    x[~mask], z[~mask] = torch.nan, -100
    expected = ClassMoments(3, 2).update(x[mask], z[mask])
    assert_same(ClassMoments(3, 2).update(x, z, mask=mask), expected)
    one_hot = torch.zeros(30, 2)
    one_hot[mask, z[mask]] = 1
    assert_same(ClassMoments(3, 2).update(x, one_hot, mask=mask), expected)


def test_state_and_files_go_on_bit_for_bit(tmp_path):
    x, z = data(0, 60, 3, 3, torch.float32)
    half = ClassMoments(3, 3).update(x[:30], z[:30])
    half.save(tmp_path / "m")
    loaded = ClassMoments.load(tmp_path / "m").update(x[30:], z[30:])
    stated = ClassMoments(3, 3).load_state_dict(half.state_dict()).update(x[30:], z[30:])
    half.update(x[30:], z[30:])
    for other in (loaded, stated):
        assert all(torch.equal(v, other.state_dict()[k]) for k, v in half.state_dict().items())
    with pytest.raises(FormatError, match=r"\[3\] classes, expected 2"):
        ClassMoments(3, 2).load_state_dict(half.state_dict())


def test_complex_data():
    x, z = data(0, 40, 3, 2, torch.complex64)
    m = ClassMoments(3, 2, dtype=torch.complex128).update(x, z)
    centred = (x[z == 1] - x[z == 1].mean(0)).to(torch.complex128)
    torch.testing.assert_close(m.scatter_xx[1], centred.mH @ centred, rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="complex128"):
        ClassMoments(3, 2).update(x, z)


def test_empty_batches_change_nothing():
    m = ClassMoments(3, 2).update(torch.empty(0, 3), torch.empty(0, dtype=torch.int64))
    assert m.n.tolist() == [0, 0] and m.prior.tolist() == [0, 0] and m.global_mean.tolist() == [0, 0, 0]
    with pytest.raises(NotFittedError, match="0 rows"):
        m.degrees_of_freedom()


BAD = [
    (torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64), {}, r"expected \(..., 3\)"),
    (torch.zeros(4, 3), torch.zeros(8, dtype=torch.int64), {}, r"expected labels \(4,\)"),
    (torch.zeros(4, 3), torch.zeros(4), {}, r"z\.long\(\)"),
    (torch.zeros(4, 3), torch.tensor([0, 1, 2, 7]), {}, "labels 2, 7, expected 0 to 1"),
    (torch.zeros(4, 3), torch.tensor([0, 1, -100, 1]), {}, "labels -100"),
    (torch.zeros(2, 3), torch.tensor([[1.0, 0.0], [1.0, 1.0]]), {}, "row 1 is not one-hot"),
    (torch.zeros(2, 3), torch.tensor([[0.5, 0.5], [1.0, 0.0]]), {}, "row 0 is not one-hot"),
    (torch.tensor([[0.0] * 3, [torch.nan] * 3]), torch.tensor([0, 1]), {}, r"first rows: 1\)"),
    (torch.full((2, 3), 1e200, dtype=torch.float64), torch.tensor([0, 1]), {}, "too large"),
    (torch.zeros(2, 3), torch.tensor([0, 1]), {"mask": torch.ones(2)}, r"mask\.bool\(\)"),
    (torch.zeros(2, 3), torch.tensor([0, 1]), {"mask": torch.ones(3, dtype=torch.bool)}, "mask has shape"),
    (torch.zeros(2, 3), torch.tensor([0, 1]), {"weight": torch.tensor([1.0, -1.0])}, "negative"),
    (torch.zeros(2, 3), torch.tensor([0, 1]), {"weight": torch.tensor([1.0, torch.nan])}, "first rows: 1"),
    (torch.zeros(2, 3), ["a", "b"], {}, "numpy.unique"),
]


@pytest.mark.parametrize("x, z, options, text", BAD)
def test_bad_input_says_so_and_changes_nothing(x, z, options, text):
    m = ClassMoments(3, 2).update(*data(0, 10, 3, 2))
    before = m.state_dict()
    with pytest.raises(InputError, match=text):
        m.update(x, z, **options)
    assert all(torch.equal(v, m.state_dict()[k]) for k, v in before.items())


@pytest.mark.parametrize("z, text", [(5, "out of range"), (-1, "out of range"), (0.0, "one integer"), ([0, 1], "one")])
def test_bad_single_labels(z, text):
    with pytest.raises(InputError, match=text):
        ClassMoments(3, 2).update_single(torch.zeros(4, 3), z)


def test_other_bad_calls():
    with pytest.raises(InputError, match="cannot merge"):
        ClassMoments(3, 2).merge(ClassMoments(3, 4))
    with pytest.raises(InputError, match="num_classes"):
        ClassMoments(3, 0)
    with pytest.raises(InputError, match="expected labels"):
        as_labels(torch.zeros(3, 5), (3,), 4)
