"""DiET as a whole: what it does to a copy, what it leaves alone, and what it refuses."""

from __future__ import annotations

import copy
import gc
import inspect
import json
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

from efface import InputError
from efface.attribution import (
    AgreementWarning,
    ConstantColour,
    DiET,
    DietErasure,
    Grid,
    qfa,
)
from efface.attribution.rounds import Fit
from efface.attribution.schedule import sparsity_at, threshold_at
from tests.squares import colour_net, equal, quick_diet, source, squares, state_of


@pytest.fixture
def images():
    return squares()


@pytest.fixture
def net():
    return colour_net()


@pytest.fixture
def diet():
    return quick_diet()


def test_thresholds_and_sparsity_are_those_of_the_paper():
    assert [threshold_at(k) for k in range(5)] == pytest.approx([0.1, 0.18, 0.26, 0.34, 0.42])
    assert [sparsity_at(k) for k in range(5)] == pytest.approx([1, 0.82, 0.64, 0.46, 0.28])
    with pytest.raises(InputError, match="horizon"):
        threshold_at(5)


@pytest.mark.parametrize("k", range(5))
def test_a_cell_stays_above_the_threshold_of_its_round(diet, net, images, k, monkeypatch):
    """Masks of 0.10, 0.18 and so on, a hair above and below, are rounded as the table says."""
    soft = torch.tensor([0.0, 0.09, 0.11, 0.17, 0.19, 0.25, 0.27, 0.33, 0.35, 0.41, 0.43, 1.0])
    rows = soft.repeat(3).view(6, 6).expand(96, 6, 6)
    monkeypatch.setattr("efface.attribution.mask_search.MaskSearch.descend", lambda *_: rows[:32])
    fit = Fit(replace(diet, rounds=5, steps=40), net, images[0])
    fit.at.round = k
    fit.at.rounds = [fit._entry(k)]
    fit._mask(_Nowhere())  # type: ignore[arg-type]
    assert torch.equal(fit.masks, rows + 1e-9 > 0.1 + 0.08 * k)
    assert torch.equal(fit.masks, (rows + 0.4 * (1 - k / 5)).round().bool())


class _Nowhere:
    def due(self):
        return False


class TestFit:
    def test_the_student_listens_less_to_what_the_masks_leave_out(self, diet, net, images):
        x, _, signal = images
        fitted = replace(diet, epochs=8).fit(net, x)
        report = fitted.report
        assert report["agreement"] >= 0.97 and report["n"] == 96
        assert report["change"]["student"] < 0.8 * report["change"]["model"]
        kept = Grid(2).map(fitted.masks, x) > 0.5
        assert (kept & signal).sum() > 0.9 * signal.sum() and (
            kept & signal
        ).sum() > 1.7 * signal.float().mean() * kept.sum()
        assert json.loads(json.dumps(report)) == report
        assert report["kept"] == pytest.approx(float(fitted.masks.float().mean()))
        assert report["passes"] == 96 * (2 * 15 + 2 * sum(len(r["epochs"]) for r in report["rounds"]))

    def test_the_model_and_the_global_random_state_are_left_alone(self, diet, net, images):
        before, random, x = state_of(net), torch.get_rng_state(), images[0].clone()
        fitted = diet.fit(net, x)
        assert equal(state_of(net), before) and torch.equal(torch.get_rng_state(), random)
        assert all(p.grad is None and p.requires_grad for p in net.parameters())
        assert not any(m.training for part in (net, fitted.student(net)) for m in part.modules())
        assert torch.equal(x, images[0]) and not equal(state_of(fitted.student(net)), before)
        assert fitted.masks.dtype == torch.bool and fitted.masks.shape == (96, 6, 6)

    def test_the_mask_phase_leaves_the_student_bit_identical(self, diet, net, images):
        fit = Fit(diet, net, images[0])
        before = state_of(fit.student)
        fit.at.rounds = [fit._entry(0)]
        fit._mask(_Nowhere())  # type: ignore[arg-type]
        assert equal(state_of(fit.student), before) and not fit.masks.all()

    def test_masks_do_not_depend_on_the_size_of_batches(self, diet, net, images):
        found = []
        for size in (7, 96):
            fit = Fit(replace(diet, batch_size=size), net, images[0])
            fit.at.rounds = [fit._entry(0)]
            fit._mask(_Nowhere())  # type: ignore[arg-type]
            found.append(fit.masks)
        # Only a cell that stands at the threshold to the last bit may go either way.
        assert float((found[0] != found[1]).float().mean()) < 1e-3

    def test_progress_is_told_to_its_end(self, diet, net, images, monkeypatch):
        told = []

        class Bar:
            def __init__(self, label, total, *, done=0, unit):
                told.append([label, total, done, unit])

            def __enter__(self):
                return self

            def __exit__(self, *_):
                return None

            def update(self, more):
                told[-1][2] += more

        monkeypatch.setattr("efface.attribution.rounds.progress", Bar)
        replace(diet, epochs=2).fit(net, images[0])
        assert [(total, done, unit) for _, total, done, unit in told] == [(96, 96, "samples"), (2, 2, "epochs")] * 2
        assert told[2][0] == "DiET round 2 of 2, masks"

    def test_memory_does_not_grow_with_the_data_but_by_masks_and_outputs(self, diet, net, images):
        """What is alive while the model runs: apart from the samples, a byte a cell and four a class for each."""
        peaks = {}
        gc.collect()
        gc.freeze()  # what is there already is not listed again at each forward pass
        try:
            for n in (32, 96):
                seen, x = [0], images[0][:n].clone()
                diet.fit(Weighing(net, seen).eval(), x)
                peaks[n] = max(seen) - x.nbytes
        finally:
            gc.unfreeze()
        assert 0 <= peaks[96] - peaks[32] <= 64 * (36 + 3 * 4 + 8) + 4096

    def test_labels_are_never_seen(self, diet, net, images):
        for call in (DiET.fit, DietErasure.explain, qfa, DiET.__init__):
            assert not {"y", "labels", "targets", "classes"} & set(inspect.signature(call).parameters)
        with pytest.raises(InputError, match="labels are never used"):
            diet.fit(net, images[:2])

    def test_seeds(self, diet, net, images):
        one, same, other = (replace(diet, seed=s).fit(net, images[0]) for s in (0, 0, 1))
        assert equal(state_of(one.student(net)), state_of(same.student(net))) and torch.equal(one.masks, same.masks)
        assert not equal(state_of(one.student(net)), state_of(other.student(net)))

    @pytest.mark.parametrize("kind", ["frozen", "train"])
    def test_batch_norm_is_frozen_or_learns_on(self, diet, net, images, kind):
        fitted = replace(diet, batch_norm=kind, rounds=1, epochs=1).fit(net, images[0])
        before, after = net[1], fitted.student(net)[1]
        assert torch.equal(before.running_mean, after.running_mean) is (kind == "frozen")
        assert int(after.num_batches_tracked - before.num_batches_tracked) == (0 if kind == "frozen" else 6)

    def test_four_draws(self, diet, net, images):
        report = replace(diet, draws=4, rounds=1, epochs=1).fit(net, images[0]).report
        assert report["passes"] == 96 * (15 * 4 + 5)

    def test_parameters_that_are_frozen_stay(self, diet, net, images):
        net[0].requires_grad_(False)
        try:
            student = replace(diet, rounds=1).fit(net, images[0]).student(net)
        finally:
            net[0].requires_grad_(True)
        assert torch.equal(student[0].weight, net[0].weight) and not student[0].weight.requires_grad
        assert not torch.equal(student[6].weight, net[6].weight)

    def test_a_model_that_ignores_the_rest_already_agrees_throughout(self, diet):
        x = torch.rand(40, 3, 4, 4, generator=source())
        weights = torch.zeros(2, 48)
        weights[0, 0], weights[1, 16] = 8.0, 8.0  # red and green of one corner
        layer = nn.Linear(48, 2, bias=False)
        layer.weight.data = weights
        model = nn.Sequential(nn.Flatten(), layer).eval()
        fitted = replace(diet, removal=ConstantColour.of(x), masker=Grid(1), rate=1e-4).fit(model, x)
        assert fitted.report["agreement"] == 1.0
        assert fitted.masks[:, 0, 0].float().mean() > 0.5 and not fitted.masks[:, 1:].any()

    def test_explaining_is_qfa_on_the_student(self, diet, net, images):
        fitted = replace(diet, rounds=1).fit(net, images[0])
        x = images[0][:5]
        student = fitted.student(net)
        again = qfa(student, x, removal=diet.removal, masker=diet.masker, step=0.1, steps=15, batch_size=32)
        assert torch.equal(fitted.explain(student, x).masks, again.masks)
        assert fitted.explain(student, x).maps.shape == (5, 12, 12)
        assert not torch.equal(fitted.explain(student, x, seed=5).masks, again.masks)
        with fitted.on(net):
            assert torch.equal(fitted.explain(net, x).masks, again.masks)
        with pytest.raises(InputError, match="not tuned"):
            fitted.explain(net, x)


class Weighing(nn.Module):
    """Notes how many bytes of tensors are alive whenever it runs, in copies of itself too."""

    def __init__(self, model, seen):
        super().__init__()
        self.model, self.seen = model, seen

    def forward(self, x):
        alive = [t.untyped_storage() for t in gc.get_objects() if issubclass(type(t), torch.Tensor)]
        self.seen.append(sum({storage.data_ptr(): storage.nbytes() for storage in alive}.values()))
        return self.model(x)

    def __deepcopy__(self, memo):
        return Weighing(copy.deepcopy(self.model, memo), self.seen)


class TestGuard:
    HARD = {"rate": 0.3, "rounds": 2, "epochs": 4}

    def test_it_takes_the_epoch_back_and_stops(self, diet, net, images):
        with pytest.warns(AgreementWarning, match="taken back"):
            fitted = replace(diet, **self.HARD).fit(net, images[0])
        assert fitted.report["stopped_by_guard"] and fitted.report["agreement"] >= diet.least_agreement
        assert fitted.report["rounds"][-1]["ended"] == "agreement"
        assert fitted.report["rounds"][-1]["epochs"][-1]["agreement"] < diet.least_agreement
        assert len(fitted.report["rounds"]) == 1 and equal(state_of(fitted.student(net)), state_of(net))

    def test_or_warns_once_and_goes_on(self, diet, net, images):
        with pytest.warns(AgreementWarning, match="goes on") as seen:
            fitted = replace(diet, guard="warn", **self.HARD).fit(net, images[0])
        assert len(seen) == 1 and len(fitted.report["rounds"]) == 2
        assert fitted.report["agreement"] < diet.least_agreement and not fitted.report["stopped_by_guard"]

    def test_it_is_silent_where_models_agree(self, diet, net, images):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            diet.fit(net, images[0])


BAD = {
    "training mode": (lambda net, x: {"model": nn.Sequential(net, nn.Dropout())}, "model.eval()"),
    "a function": (lambda net, x: {"model": lambda x: net(x)}, "nn.Module"),
    "nothing to tune": (lambda net, x: {"model": nn.Sequential(nn.Flatten()).eval()}, "requires_grad_"),
    "out of range": (lambda net, x: {"x": x * 255}, "x / 255"),
    "grid larger than the image": (lambda net, x: {"masker": Grid(13)}, "write upsample=12"),
    "probabilities as logits": (lambda net, x: {"model": nn.Sequential(net, nn.Softmax(1)).eval()}, "'probabilities'"),
    "logits as probabilities": (lambda net, x: {"outputs": "probabilities"}, "outputs='logits'"),
    "nan gradients": (
        lambda net, x: {"model": nn.Sequential(Root(), net).eval()},
        "gradient of the mask is not finite",
    ),
    "seed": (lambda net, x: {"seed": -1}, "at least 0"),
    "constant": (lambda net, x: {"model": nn.Sequential(net, Nothing()).eval()}, "constant"),
    "rate": (lambda net, x: {"rate": 0.0}, "above 0"),
    "not finite": (lambda net, x: {"rate": 1e30, "epochs": 2, "least_agreement": 0.0}, "smaller rate"),
    "rounds": (lambda net, x: {"rounds": 6}, "write horizon=6"),
    "out of reach": (lambda net, x: {"rounds": 5}, "write steps=21"),
    "agreement": (lambda net, x: {"least_agreement": 97}, "share"),
    "guard": (lambda net, x: {"guard": "raise"}, "stop"),
    "batch norm": (lambda net, x: {"batch_norm": "eval"}, "frozen"),
    "band": (lambda net, x: {"band": (1.0, 0.9)}, "band="),
    "a batch of one": (lambda net, x: {"x": x[:3], "batch_size": 2, "batch_norm": "train"}, "one sample alone"),
}


class Root(nn.Module):
    """The identity, with a gradient that is not finite."""

    def forward(self, x):
        return x + (x * 0).sqrt()


class Nothing(nn.Module):
    def forward(self, x):
        return x * 0


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_bad_input_says_what_to_write(diet, net, images, change, message):
    changes = change(net, images[0])
    model, x = changes.pop("model", net), changes.pop("x", images[0])
    with pytest.raises(InputError, match=message):
        replace(diet, **changes).fit(model, x)
