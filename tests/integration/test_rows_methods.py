"""What every registered method of rows must do, beyond what every method must (`test_every_method`)."""

import json
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import efface
from efface import EffaceWarning, FormatError, InputError, methods

METHODS = {m.name: m for m in methods("rows")}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def data(dtype=torch.float64, n=400, d=6, k=3):
    rng = np.random.default_rng(0)
    z = torch.from_numpy(rng.integers(0, k, n))
    x = torch.from_numpy(rng.normal(size=(n, d)) @ rng.normal(size=(d, d)))
    x[:, 0] += 2 * z
    return x.to(dtype), z


def apply(method, eraser, x, z):
    return eraser(x, z) if method.labels_at_apply else eraser(x)


def gap(x, z):
    means = torch.stack([x[z == c].double().mean(0) for c in z.unique()])
    return float((means[1:] - means[:-1]).abs().max() / x.double().std())


@every_method
def test_equal_class_means_on_the_data_it_was_fitted_on(method):
    x, z = data()
    x_ = apply(method, method.fitter.fit(x, z).eraser, x, z)
    assert gap(x, z) > 0.5 and gap(x_, z) < 1e-9
    torch.testing.assert_close(x_.mean(0), x.mean(0))


@every_method
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_keeps_shape_dtype_and_input(method, dtype):
    x, z = data(dtype)
    before = x.clone()
    eraser = method.fitter.fit(x, z).eraser
    x_ = apply(method, eraser, x, z)
    assert (x_.shape, x_.dtype, x_.device) == (x.shape, x.dtype, x.device)
    assert torch.equal(x, before)
    assert gap(x_, z) < {torch.float64: 1e-9, torch.float32: 1e-5}.get(dtype, 2e-2)
    shaped = apply(method, eraser, x.view(4, 100, 6), z.view(4, 100))
    torch.testing.assert_close(
        shaped.view_as(x), x_, rtol=1e-2 if dtype.itemsize == 2 else 1e-5, atol=1e-2 if dtype.itemsize == 2 else 1e-5
    )


@every_method
def test_numpy_in_numpy_out(method):
    x, z = data()
    eraser = method.fitter.fit(x.numpy(), z.numpy()).eraser
    x_ = apply(method, eraser, x.numpy(), z.numpy())
    assert isinstance(x_, np.ndarray)
    np.testing.assert_allclose(x_, apply(method, eraser, x, z).numpy())


@every_method
def test_streaming_and_merging_are_batch(method):
    x, z = data()
    whole = apply(method, method.fitter.fit(x, z).eraser, x, z)
    left, right = (method.fitter(6, 3, dtype=x.dtype) for _ in range(2))
    for i, (a, b) in enumerate(zip(x.split(90), z.split(90), strict=True)):
        (left, right)[i % 2].update(a, b)
    torch.testing.assert_close(apply(method, (left + right).eraser, x, z), whole)
    torch.testing.assert_close(apply(method, right.merge(left).eraser, x, z), whole)


@every_method
def test_a_fit_resumes_from_its_checkpoint_with_the_same_result(method, tmp_path):
    x, z = data(torch.float32)
    straight, broken = (method.fitter(6, 3) for _ in range(2))
    for a, b in zip(x.split(90), z.split(90), strict=True):
        straight.update(a, b)
        broken.save(tmp_path / "fit")
        broken = method.fitter.load(tmp_path / "fit").update(a, b)
    assert torch.equal(apply(method, straight.eraser, x, z), apply(method, broken.eraser, x, z))


@every_method
def test_save_load_equal(method, tmp_path):
    x, z = data()
    eraser = method.fitter.fit(x, z).eraser
    eraser.save(tmp_path / "eraser")
    for again in (type(eraser).load(tmp_path / "eraser"), efface.load(tmp_path / "eraser")):
        assert again == eraser and again.report == eraser.report and again.config == eraser.config
        assert torch.equal(apply(method, again, x, z), apply(method, eraser, x, z))
    assert sorted(p.name for p in (tmp_path / "eraser").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert [p.name for p in tmp_path.iterdir()] == ["eraser"]


@every_method
def test_files_that_cannot_be_used(method, tmp_path):
    x, z = data()
    folder = tmp_path / "eraser"
    method.fitter.fit(x, z).eraser.save(folder)
    good = (folder / "config.json").read_text()
    for change, text in (({"format_version": 99}, "upgrade"), ({"type": "Other"}, "does not know")):
        (folder / "config.json").write_text(json.dumps(json.loads(good) | change))
        for load in (method.erasure.load, efface.load):
            with warnings.catch_warnings(), pytest.raises(FormatError, match=text):
                warnings.simplefilter("ignore", EffaceWarning)  # that the file was changed
                load(folder)
    (folder / "config.json").write_text(good)
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:40])
    with pytest.raises(FormatError, match="truncated"):
        efface.load(folder)
    with pytest.raises(FileNotFoundError, match="written by"):
        efface.load(tmp_path / "nowhere")


@every_method
def test_to_changes_dtype(method):
    x, z = data()
    eraser = method.fitter.fit(x, z).eraser.to(torch.float32)
    assert all(t.dtype == torch.float32 for t in eraser.tensors().values())
    assert gap(apply(method, eraser, x.float(), z), z) < 1e-5


@every_method
def test_as_a_module(method):
    x, z = data(torch.float32)
    eraser = method.fitter.fit(x, z).eraser
    module = eraser.to_module()
    args = (x, z) if method.labels_at_apply else (x,)
    torch.testing.assert_close(module(*args), eraser(*args))
    assert set(module.state_dict()) == set(eraser.tensors()) and module.eraser == eraser
    fresh = method.fitter.fit(x * 2, z).eraser.to_module()
    fresh.load_state_dict(module.state_dict())
    torch.testing.assert_close(fresh(*args), module(*args))
    assert type(eraser).__name__ in repr(module)


@every_method
def test_autograd_goes_through(method):
    x, z = data()
    eraser = method.fitter.fit(x, z).eraser
    few = x[:5].clone().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda t: apply(method, eraser, t, z[:5]), (few,))


@every_method
def test_autocast_does_not_leave_the_concept_in(method):
    x, z = data(torch.float32)
    eraser = method.fitter.fit(x, z).eraser
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x_ = apply(method, eraser, x, z)
    assert x_.dtype == torch.float32 and gap(x_, z) < 1e-5


# Labels given at apply time are checked on the host, which is no part of a graph.
@pytest.mark.parametrize("method", [m for m in METHODS.values() if not m.labels_at_apply], ids=lambda m: m.name)
def test_compiles(method):
    x, z = data(torch.float32)
    module = method.fitter.fit(x, z).eraser.to_module()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.compile's own deprecations
        compiled = torch.compile(module, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), module(x))


@every_method
def test_bad_input_is_refused_and_loses_nothing(method):
    x, z = data()
    fitter = method.fitter.fit(x, z)
    before = apply(method, fitter.eraser, x, z)
    nan = x.clone()
    nan[17, 2] = float("nan")
    with pytest.raises(InputError, match=r"1 of 400 rows \(first rows: 17\)"):
        fitter.update(nan, z)
    with pytest.raises(InputError, match="z"):
        fitter.update(x, z[:10])
    with pytest.raises(InputError, match=r"labels? 3"):
        fitter.update(x, z + 1)
    with pytest.raises(InputError, match="width|last dimension"):
        fitter.update(x[:, :4], z)
    with pytest.raises(InputError, match="6"):
        apply(method, fitter.eraser, x[:, :4], z)
    with pytest.raises(InputError):
        method.fitter.fit(x, z * 0).eraser  # noqa: B018
    torch.testing.assert_close(apply(method, fitter.eraser, x, z), before, rtol=0, atol=0)


@every_method
def test_masks_and_weights(method):
    x, z = data()
    mask = torch.arange(400) % 4 > 0
    expected = apply(method, method.fitter.fit(x[mask], z[mask]).eraser, x, z)
    torch.testing.assert_close(apply(method, method.fitter.fit(x, z, mask=mask).eraser, x, z), expected)
    ignored = torch.where(mask, z, -100)
    torch.testing.assert_close(apply(method, method.fitter.fit(x, ignored, mask=mask).eraser, x, z), expected)
    torch.testing.assert_close(apply(method, method.fitter.fit(x, z, weight=mask.double()).eraser, x, z), expected)


@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_sparse_rows_are_rows_at_the_front_door():
    x, z = data()
    x = x * (x > 0)
    dense = efface.erase(x, z)
    for sparse in (sp.csr_matrix(x.numpy()), sp.coo_array(x.numpy()), x.to_sparse(), x.to_sparse_csr()):
        assert efface.erase(sparse, z) == dense
    assert efface.erase(x, z.to_sparse()) == dense


@pytest.mark.filterwarnings("ignore:(torch.quantize|The PyTorch API of nested)")
@pytest.mark.parametrize(
    ("spoilt", "said"),
    [
        (lambda x: x.to("meta"), "is on the meta device"),
        (lambda x: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.qint8), r"dequantize\(\)"),
        (lambda x: torch.nested.nested_tensor([x[:2], x[2:]]), "different lengths"),
        (lambda x: x.float().to(torch.float8_e4m3fn), r"float\(\)"),
    ],
    ids=["meta", "quantised", "nested", "eight bits"],
)
def test_tensors_that_are_no_numbers_in_a_grid_are_refused(spoilt, said):
    x, z = data()
    with pytest.raises(InputError, match=said):
        efface.erase(spoilt(x), z)
    with pytest.raises(InputError, match=said):
        efface.erase(x, spoilt(z.double()))
