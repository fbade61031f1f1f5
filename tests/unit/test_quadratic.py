"""Quadratic erasure as theorems, against a naive reference, a peer, and in the cases that break the peer."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from torch import Tensor

import efface
from efface._errors import EffaceWarning, FormatError, InputError, NotFittedError, NothingErasedWarning
from efface.core.method import get_method
from efface.erasers.quadratic import QuadraticEditor, QuadraticEraser, QuadraticFitter
from efface.linalg.transport import is_positive_definite, ot_map
from tests.references import quadratic_reference as reference

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit.script
    import concept_erasure as peer

quick = settings(deadline=None, max_examples=25)


def classes(
    k: int = 3,
    d: int = 6,
    n: int = 1200,
    *,
    seed: int = 0,
    priors: list[float] | None = None,
    cond: float = 10,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor]:
    """Gaussian classes of different means, axes and spread, n rows in all, each class at least d + 2 rows."""
    generator = torch.Generator().manual_seed(seed)
    p = torch.tensor(priors or [1 / k] * k)
    counts = (p * n).long().clamp_min(d + 2).tolist()
    z = torch.cat([torch.full((m,), label) for label, m in enumerate(counts)])
    z = z[torch.randperm(len(z), generator=generator)]
    x = torch.randn(len(z), d, generator=generator, dtype=torch.float64)
    spectrum = torch.logspace(0, -math.log10(cond) / 2, d, dtype=torch.float64)
    for label in range(k):
        axes = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))[0]
        mean = 3 * torch.randn(d, generator=generator, dtype=torch.float64)
        x[z == label] = x[z == label] * spectrum @ axes + mean
    return x.to(dtype), z


def class_stats(x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    groups = [x[z == label].double() for label in range(int(z.max()) + 1)]
    return torch.stack([g.mean(0) for g in groups]), torch.stack([torch.atleast_2d(g.T.cov()) for g in groups])


def spread(covariances: Tensor) -> float:
    """Largest relative difference between any covariance and the first."""
    return float(((covariances - covariances[0]).norm(dim=(1, 2)) / covariances[0].norm()).max())


# ---------------------------------------------------------------------------------------------------- theorems


@quick
@given(st.integers(0, 1000), st.integers(2, 5), st.integers(1, 6))
def test_means_and_covariances_are_equal_and_the_mean_is_kept(seed, k, d):
    x, z = classes(k, d, seed=seed, n=40 * k)
    eraser = QuadraticEraser.fit(x, z, shrinkage=False)
    x_ = eraser(x, z)
    means, covariances = class_stats(x_, z)
    torch.testing.assert_close(means, x.mean(0).expand_as(means), rtol=1e-10, atol=1e-10)
    assert spread(covariances) < 1e-9
    assert is_positive_definite(eraser.ot_maps).all()
    torch.testing.assert_close(x_.mean(0), x.mean(0), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("k", [2, 3, 5, 10, 20])
def test_quadratic_and_linear_classifiers_are_at_chance(k):
    """QDA and logistic regression do as well as the class shares alone, to the last digits."""
    x, z = classes(k, 12, n=2000, seed=k)
    x_ = QuadraticEraser.fit(x, z, shrinkage=False)(x, z).numpy()
    prior = np.bincount(z) / len(z)
    trivial = log_loss(z, np.tile(prior, (len(z), 1)))
    qda = QuadraticDiscriminantAnalysis().fit(x_, z.numpy())
    np.testing.assert_allclose(log_loss(z, qda.predict_proba(x_)), trivial, rtol=1e-6)
    lr = LogisticRegression(C=np.inf, tol=0).fit(x_, z.numpy())
    np.testing.assert_allclose(lr.coef_, 0, atol=1e-6)


def test_first_order_optimality_of_the_barycenter():
    """The mean of the maps from the common covariance back to the classes, by class share, is the identity."""
    x, z = classes(4, 5, priors=[0.6, 0.2, 0.15, 0.05])
    fitter = QuadraticFitter.fit(x, z, shrinkage=False)
    center = class_stats(fitter.eraser(x, z), z)[1][0]
    back = ot_map(center, fitter.sigma_xx)
    identity = (fitter.moments.prior[:, None, None] * back).sum(0)
    torch.testing.assert_close(identity, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-8)


def test_no_other_common_covariance_costs_less():
    x, z = classes(3, 4)
    fitter = QuadraticFitter.fit(x, z, shrinkage=False)
    eraser = fitter.eraser
    cost = (eraser(x, z) - x).square().sum()
    center = class_stats(eraser(x, z), z)[1][0]
    for seed in range(10):
        noise = 0.05 * torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        other = (torch.eye(4) + noise) @ center @ (torch.eye(4) + noise).T
        rival = QuadraticEraser(eraser.class_means, eraser.global_mean, ot_map(fitter.sigma_xx, other))
        assert (rival(x, z) - x).square().sum() > cost


def test_unequal_priors_keep_the_mean_at_less_cost_than_the_unweighted_one():
    x, z = classes(2, 5, n=2000, priors=[0.9, 0.1])
    eraser = QuadraticEraser.fit(x, z, shrinkage=False)
    x_ = eraser(x, z)
    torch.testing.assert_close(x_.mean(0), x.mean(0), rtol=0, atol=1e-12)
    unweighted = QuadraticEraser(eraser.class_means, eraser.class_means.mean(0), eraser.ot_maps)
    assert (unweighted(x, z) - x).square().mean() > 1.5 * (x_ - x).square().mean()


# --------------------------------------------------------------------------------------- references and numerics


@pytest.mark.parametrize("priors", [[0.5, 0.5], [0.8, 0.2], [0.5, 0.3, 0.2], [0.25] * 4])
def test_equals_the_naive_reference(priors):
    x, z = classes(len(priors), 4, n=400, priors=priors)
    eraser = QuadraticEraser.fit(x, z, shrinkage=False)
    expected = reference.fit(x.numpy(), z.numpy())
    for ours, theirs in zip((eraser.class_means, eraser.global_mean, eraser.ot_maps), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(eraser(x, z), reference.erase(x.numpy(), z.numpy(), *expected), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("shrinkage", [False, True])
def test_agrees_with_concept_erasure_where_it_is_right(k, shrinkage):
    """Balanced classes: priors do not matter. With k > 2 it mixes scatters and shrunk covariances, so not there."""
    x, z = classes(k, 5, n=500 * k)
    ours = QuadraticFitter.fit(x, z, shrinkage=shrinkage)
    theirs = peer.QuadraticFitter.fit(x, z, shrinkage=shrinkage)
    torch.testing.assert_close(ours.sigma_xx, theirs.sigma_xx, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(ours.mean_x, theirs.mean_x)
    assert ours.n.tolist() == theirs.n.tolist()
    torch.testing.assert_close(ours.editor().ot_maps, theirs.editor().ot_maps, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(ours.eraser.ot_maps, theirs.eraser.ot_maps, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.eraser(x, z), theirs.eraser(x, z), rtol=1e-4, atol=1e-5)


def test_units_of_columns_do_not_matter_to_shrinkage():
    x, z = classes(2, 5, n=60)
    x = x / torch.stack([x[z == c].var(0, correction=0) for c in range(2)]).mean(0).sqrt()
    units = torch.tensor([3e4, 1.0, 1e-3, 1.0, 1.0], dtype=x.dtype)
    plain, scaled = (QuadraticFitter.fit(v, z, dtype=torch.float64) for v in (x, x * units))
    torch.testing.assert_close(scaled.sigma_xx / units / units[:, None], plain.sigma_xx, rtol=1e-9, atol=1e-12)
    assert scaled.report.shrinkage == pytest.approx(plain.report.shrinkage) and plain.report.shrinkage > 0.01


def test_constructors_and_attributes_of_concept_erasure_work_unchanged():
    x, z = classes(3, 4)
    theirs = peer.QuadraticFitter.fit(x, z)
    eraser = QuadraticEraser(theirs.eraser.class_means, theirs.eraser.global_mean, theirs.eraser.ot_maps)
    torch.testing.assert_close(eraser(x, z), theirs.eraser(x, z))
    torch.testing.assert_close(eraser.optimal_transport(1, x), theirs.eraser.optimal_transport(1, x))
    editor = QuadraticEditor(theirs.editor().class_means, theirs.editor().ot_maps)
    torch.testing.assert_close(editor(x, z, 2), theirs.editor()(x, z, 2))
    torch.testing.assert_close(editor.transport(x, 0, 2), theirs.editor().transport(x, 0, 2))


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-7), (torch.float32, 1e-2)])
def test_ill_conditioned_classes_are_pushed_right(dtype, tolerance):
    """20 classes, 64 dimensions, condition number 1e8: concept_erasure is off by two thirds in float32."""
    x, z = classes(20, 64, n=20 * 400, cond=1e8, dtype=dtype)
    eraser = QuadraticEraser.fit(x, z, shrinkage=False)
    assert eraser.ot_maps.dtype == dtype and is_positive_definite(eraser.ot_maps).all()
    means, covariances = class_stats(eraser(x, z), z)
    assert spread(covariances) < tolerance
    torch.testing.assert_close(means, x.double().mean(0).expand_as(means), rtol=0, atol=1e-3)


def test_a_far_mean_costs_no_accuracy():
    x, z = classes(3, 5)
    far = QuadraticEraser.fit(x + 1e6, z, shrinkage=False)
    torch.testing.assert_close(far.ot_maps, QuadraticEraser.fit(x, z, shrinkage=False).ot_maps, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_data(dtype):
    x, z = classes(3, 5, dtype=dtype)
    eraser = QuadraticEraser.fit(x, z, shrinkage=False)
    x_ = eraser(x, z)
    assert x_.dtype == dtype and eraser.ot_maps.dtype == torch.float32
    eps = torch.finfo(dtype).eps
    means, covariances = class_stats(x_, z)
    assert (means - x.double().mean(0)).abs().max() < 10 * eps and spread(covariances) < 10 * eps


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_integer_data_is_fitted_and_refused_at_apply(dtype):
    x, z = classes(2, 3)
    x = (10 * x).to(dtype)
    eraser = QuadraticEraser.fit(x, z)
    with pytest.raises(InputError, match=r"x\.float\(\)"):
        eraser(x, z)


def test_complex_data():
    x, z = classes(3, 8)
    x = torch.view_as_complex(x.reshape(-1, 4, 2))
    x_ = QuadraticEraser.fit(x, z, shrinkage=False)(x, z)
    covariances = [(g := x_[z == c] - x_[z == c].mean(0)).mH @ g / (len(g) - 1) for c in range(3)]
    for covariance in covariances[1:]:
        torch.testing.assert_close(covariance, covariances[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(x_.mean(0), x.mean(0))


# ---------------------------------------------------------------------------------------- streaming, state, files


@quick
@given(st.integers(0, 100), st.lists(st.integers(0, 300), max_size=4), st.booleans())
def test_batches_and_merging_do_not_matter(seed, cuts, shrinkage):
    x, z = classes(3, 4, n=300, seed=seed)
    whole = QuadraticFitter.fit(x, z, shrinkage=shrinkage)
    parts = [(a, b) for a, b in zip(x.tensor_split(sorted(cuts)), z.tensor_split(sorted(cuts)), strict=True)]
    new = lambda: QuadraticFitter(4, 3, dtype=torch.float64, shrinkage=shrinkage)  # noqa: E731
    streamed, merged, by_class = new(), new(), new()
    for a, b in parts:
        streamed.update(a, b)
        merged = merged + new().update(a, b)
        for label in range(3):
            by_class.update_single(a[b == label], label)
    for other in (streamed, merged, by_class):
        assert torch.equal(other.n, whole.n) and other.n.dtype == torch.int64
        torch.testing.assert_close(other.sigma_xx, whole.sigma_xx, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(other.eraser.ot_maps, whole.eraser.ot_maps, rtol=1e-7, atol=1e-8)


def test_counts_go_beyond_what_float32_holds():
    fitter = QuadraticFitter(1, 2)
    fitter.moments.classes[0].n = 2**24
    assert fitter.update_single(torch.zeros(1), 0).n[0] == 2**24 + 1


def test_the_eraser_is_kept_until_the_next_update():
    x, z = classes(2, 3)
    fitter = QuadraticFitter.fit(x, z)
    first = fitter.eraser
    assert fitter.eraser is first
    assert fitter.update_single(x[:5], 1).eraser is not first


@pytest.mark.parametrize("shrinkage", [True, False])
def test_state_and_files(tmp_path, shrinkage):
    x, z = classes(3, 4, dtype=torch.float32)
    fitter = QuadraticFitter.fit(x[:600], z[:600], shrinkage=shrinkage)
    fitter.save(tmp_path / "fitter")
    resumed = QuadraticFitter.load(tmp_path / "fitter").update(x[600:], z[600:])
    copied = fitter.copy().update(x[600:], z[600:])
    fitter.update(x[600:], z[600:])
    assert resumed.shrinkage == shrinkage and resumed.dtype == torch.float32
    for other in (resumed, copied):
        assert torch.equal(other.eraser.ot_maps, fitter.eraser.ot_maps)
    fitter.eraser.save(tmp_path / "eraser")
    for loaded in (QuadraticEraser.load(tmp_path / "eraser"), efface.load(tmp_path / "eraser")):
        assert torch.equal(loaded(x, z), fitter.eraser(x, z)) and loaded.report == fitter.report
    editor = fitter.editor()
    editor.save(tmp_path / "editor")
    assert torch.equal(QuadraticEditor.load(tmp_path / "editor")(x, z, 1), editor(x, z, 1))
    with pytest.raises(FormatError):
        QuadraticEditor.load(tmp_path / "eraser")


def test_modules_and_dtypes():
    x, z = classes(3, 4, dtype=torch.float32)
    eraser = QuadraticEraser.fit(x, z)
    module = eraser.to_module()
    assert torch.equal(module(x, z), eraser(x, z)) and set(module.state_dict()) == set(eraser.tensors())
    assert eraser.to(torch.float64).ot_maps.dtype == torch.float64
    assert eraser.to("cpu").report == eraser.report


def test_it_is_registered():
    method = get_method("quadratic")
    assert method.fitter is QuadraticFitter and method.erasure is QuadraticEraser
    assert method.labels_at_apply and method.concepts == ("categorical",)


# ------------------------------------------------------------------------------------------------ editing


def test_editing_gives_the_target_its_mean_and_covariance():
    x, z = classes(3, 5)
    means, covariances = class_stats(x, z)
    editor = QuadraticFitter.fit(x, z, shrinkage=False).editor()
    assert editor.ot_maps.shape == (3, 3, 5, 5)
    for target in range(3):
        after_means, after = class_stats(editor(x, z, target), z)
        torch.testing.assert_close(after_means, means[target].expand_as(after_means), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(after, covariances[target].expand_as(after), rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(editor.transport(editor.transport(x, 0, 2), 2, 0), x, rtol=1e-7, atol=1e-7)


# ------------------------------------------------------------------------------------------- labels and shapes


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.bool])
def test_labels_of_every_width(dtype):
    x, z = classes(2, 3)
    expected = QuadraticEraser.fit(x, z)
    eraser = QuadraticEraser.fit(x, z.to(dtype))
    assert torch.equal(eraser.ot_maps, expected.ot_maps)
    assert torch.equal(eraser(x, z.to(dtype)), expected(x, z))


def test_leading_shapes_one_hot_arrays_and_single_vectors():
    x, z = classes(3, 4, n=1200)
    eraser = QuadraticEraser.fit(x, z)
    expected = eraser(x, z)
    n = len(x)
    shaped = x.reshape(2, n // 2, 4), z.reshape(2, n // 2)
    torch.testing.assert_close(QuadraticEraser.fit(*shaped).ot_maps, eraser.ot_maps)
    assert torch.equal(eraser(*shaped), expected.reshape(2, n // 2, 4))
    one_hot = torch.nn.functional.one_hot(z, 3)
    torch.testing.assert_close(QuadraticEraser.fit(x, one_hot.float()).ot_maps, eraser.ot_maps)
    assert torch.equal(eraser(x, one_hot), expected)
    array = eraser(x.numpy(), z.numpy())
    assert isinstance(array, np.ndarray) and np.array_equal(array, expected)
    torch.testing.assert_close(eraser(x[7], z[7]), expected[7])
    torch.testing.assert_close(eraser(x[7], int(z[7])), expected[7])
    torch.testing.assert_close(eraser.optimal_transport(int(z[7]), x[7]), expected[7])
    assert eraser(x[:0], z[:0]).shape == (0, 4)


def test_whole_floats_are_labels_if_the_caller_says_so():
    x, z = classes(3, 4)
    expected = QuadraticEraser.fit(x, z)
    assert torch.equal(QuadraticEraser.fit(x, z.float(), kind="categorical").ot_maps, expected.ot_maps)
    with pytest.raises(InputError, match="integer"):
        QuadraticEraser.fit(x, z.float())
    with pytest.raises(InputError, match="bucketize"):
        QuadraticFitter(4, 3, kind="continuous")


def test_inputs_are_not_touched_and_gradients_flow():
    x, z = classes(3, 4, dtype=torch.float32)
    before = x.clone(), z.clone()
    fitter = QuadraticFitter.fit(x, z)
    fitter.editor()(x, z, 0)
    leaf = x.clone().requires_grad_()
    fitter.eraser(leaf, z).sum().backward()
    assert torch.equal(x, before[0]) and torch.equal(z, before[1])
    expected = fitter.eraser.ot_maps.sum(1)[z]
    torch.testing.assert_close(leaf.grad, expected, rtol=1e-4, atol=1e-5)


def test_masks_and_weights():
    x, z = classes(3, 4)
    mask = torch.arange(len(x)) % 2 == 0
    expected = QuadraticFitter.fit(x[mask], z[mask])
    dirty, labels = x.clone(), z.clone()
    dirty[~mask], labels[~mask] = torch.nan, -100
    torch.testing.assert_close(QuadraticFitter.fit(dirty, labels, mask=mask).eraser.ot_maps, expected.eraser.ot_maps)
    weighted = QuadraticFitter.fit(x, z, weight=mask.long())
    torch.testing.assert_close(weighted.eraser.ot_maps, expected.eraser.ot_maps)
    torch.testing.assert_close(weighted.eraser.global_mean, x[mask].mean(0))


# ---------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "z, text",
    [
        ([0, 0, 2, 2], r"no rows of class 1 .* torch\.unique"),
        ([0, 0, 0, 0], "one class"),
        ([0, 0, 0, 1], "class 1 has fewer than two rows"),
        ([0, 0, -1, 1], "negative class label -1"),
        ([0.5, 0.0, 1.0, 1.0], "integer"),
        ([0, 1], r"expected \(4,\)"),
        (["a", "b", "a", 1], "numpy.unique"),
    ],
)
def test_bad_labels_are_errors_that_say_what_to_do(z, text):
    with pytest.raises(InputError, match=text):
        QuadraticEraser.fit(torch.randn(4, 2), z)


def test_bad_data_is_an_error_that_says_what_to_do():
    x, z = classes(3, 4)
    fitter = QuadraticFitter.fit(x, z)
    with pytest.raises(InputError, match=r"first rows: 5\)"):
        fitter.update(x.index_fill(0, torch.tensor(5), torch.nan), z)
    with pytest.raises(InputError, match="labels 3, 4, expected 0 to 2"):
        fitter.update(x, z + 2)
    with pytest.raises(InputError, match="nothing to fit"):
        QuadraticFitter.fit(torch.empty(0, 3), torch.empty(0, dtype=torch.int64))
    with pytest.raises(InputError, match="cannot merge"):
        fitter.merge(QuadraticFitter(4, 3, shrinkage=False))
    with pytest.raises(NotFittedError, match="call update"):
        _ = QuadraticFitter(4, 3).eraser
    with pytest.raises(InputError, match="one class"):
        _ = QuadraticFitter(4, 1).update(x, torch.zeros(len(x), dtype=torch.int64)).eraser
    assert torch.equal(fitter.n, QuadraticFitter.fit(x, z).n)


def test_bad_calls_of_erasers_and_editors():
    x, z = classes(3, 4)
    fitter = QuadraticFitter.fit(x, z)
    with pytest.raises(InputError, match="labels 3, expected 0 to 2"):
        fitter.eraser(x, z + 1)
    with pytest.raises(InputError, match="fitted on width 4"):
        fitter.eraser(x[:, :2], z)
    with pytest.raises(InputError, match="expected labels"):
        fitter.eraser(x, z[:5])
    with pytest.raises(InputError, match="out of range"):
        fitter.eraser.optimal_transport(3, x)
    with pytest.raises(InputError, match="out of range"):
        fitter.editor()(x, z, 7)


def test_singular_classes_are_reported_and_shrinkage_helps():
    """Five rows span four dimensions: no map makes twelve of them."""
    x, z = classes(2, 12)
    few = torch.cat([x[z == 0], x[z == 1][:5]]), torch.cat([z[z == 0], z[z == 1][:5]])
    with pytest.warns(EffaceWarning, match=r"class 1 \(5 rows, 12 features\).*shrinkage=True"):
        _ = QuadraticFitter.fit(*few, shrinkage=False).eraser
    assert QuadraticFitter.fit(*few).eraser.ot_maps.isfinite().all()


def test_constant_features_are_no_obstacle():
    x, z = classes(3, 5)
    x[:, 2] = 7.0
    x_ = QuadraticEraser.fit(x, z, shrinkage=False)(x, z)
    torch.testing.assert_close(x_[:, 2], x[:, 2])
    assert spread(class_stats(x_, z)[1]) < 1e-9


def test_the_report_says_what_was_done():
    x, z = classes(3, 4, n=3000, dtype=torch.float32)
    report = QuadraticFitter.fit(x, z, shrinkage=False).report
    assert (report.method, report.kind, report.n, report.rank, report.shrinkage) == (
        "quadratic",
        "categorical",
        len(x),
        4,
        0,
    )
    x_ = QuadraticEraser.fit(x, z, shrinkage=False)(x, z)
    edit = float((x_ - x).square().sum() / (x - x.mean(0)).square().sum())
    assert report.edit == pytest.approx(edit, rel=1e-2)
    assert report.residual is not None and report.residual < 1e-6
    assert 0 < QuadraticFitter.fit(x[:60], z[:60]).report.shrinkage < 1


def test_equal_classes_are_a_warning():
    x, _ = classes(1, 3)
    with pytest.warns(NothingErasedWarning, match="identity"):
        eraser = QuadraticEraser.fit(torch.cat([x, x]), torch.arange(2).repeat_interleave(len(x)))
    assert eraser.report is not None and eraser.report.rank == 0
    torch.testing.assert_close(eraser.optimal_transport(0, x), x)


def test_constant_data_is_a_warning_and_kept():
    x, z = torch.full((6, 2), 3.0), torch.tensor([0, 1] * 3)
    with pytest.warns(NothingErasedWarning):
        eraser = QuadraticEraser.fit(x, z)
    assert torch.equal(eraser(x, z), x)


def test_statistics_have_the_names_of_the_other_fitters():
    x, z = classes(3, 4)
    fitter = QuadraticFitter.fit(x, z, shrinkage=False)
    torch.testing.assert_close(fitter.mean_z, z.bincount() / len(z), check_dtype=False)
    torch.testing.assert_close(fitter.sigma_xx_, fitter.sigma_xx * (fitter.n - 1)[:, None, None])
    one_hot = torch.nn.functional.one_hot(z, 3).double()
    together = torch.cat([x, one_hot], dim=1).T.cov()[:4, 4:]
    torch.testing.assert_close(fitter.sigma_xz, together)


def test_a_mask_of_another_shape_is_refused():
    x, z = classes(2, 3)
    with pytest.raises(InputError, match="mask has shape"):
        QuadraticFitter.fit(x, z, mask=torch.ones(3, dtype=torch.bool))
