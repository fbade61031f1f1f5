"""DiET as a whole: what it does to a copy, what it leaves alone, and that it can be stopped, saved and watched."""

from __future__ import annotations

import inspect
import json
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

from efface import FormatError, InputError
from efface.attribution import (
    AgreementWarning,
    ConstantColour,
    DiET,
    FeatureGroups,
    FittedDiET,
    Grid,
    Marginal,
    Segments,
    TabularGaussian,
    TokenClassifier,
    TokenMask,
    Tokens,
    qfa,
)
from efface.attribution.rounds import Fit
from efface.attribution.schedule import sparsity_at, threshold_at
from efface.worlds import load_minilm, make_sentences


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def make_images(n, seed=0):
    """A bright square of one of three colours, the class, on noise; `(n, 3, 12, 12)` and its place."""
    generator = source(seed)
    images = 0.5 * torch.rand(n, 3, 12, 12, generator=generator)
    labels = torch.randint(3, (n,), generator=generator)
    signal = torch.zeros(n, 12, 12, dtype=torch.bool)
    for i, (top, left) in enumerate(torch.randint(0, 9, (n, 2), generator=generator).tolist()):
        images[i, labels[i], top : top + 4, left : left + 4] = 0.95
        signal[i, top : top + 4, left : left + 4] = True
    return images, labels, signal


def trained(model, x, labels, steps=60, rate=0.01):
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    model.train()
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    return model.eval()


@pytest.fixture(scope="module")
def images():
    return make_images(96)


@pytest.fixture(scope="module")
def net(images):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1), nn.MaxPool2d(4)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(72, 3))
    x, labels, _ = images
    model = trained(model, x, labels)
    assert (model(x).argmax(1) == labels).float().mean() > 0.95
    return model


@pytest.fixture
def diet():
    # Near the colour of the noise, so that what stands in a removed place is no square of another class.
    removal = ConstantColour((0.25,) * 3, (0.1,) * 3)
    return DiET(removal, Grid(2), step=0.1, steps=15, epochs=3, rate=1e-3, stop=0.0, batch_size=32)


def state_of(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


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
        assert not any(m.training for part in (net, fitted.model) for m in part.modules())
        assert torch.equal(x, images[0]) and not equal(state_of(fitted.model), before)
        assert fitted.masks.dtype == torch.bool and fitted.masks.shape == (96, 6, 6)

    def test_the_mask_phase_leaves_the_student_bit_identical(self, diet, net, images):
        fit = Fit(diet, net, images[0])
        before = state_of(fit.student)
        fit.at.rounds = [fit._entry(0)]
        fit._mask(_Nowhere())  # type: ignore[arg-type]
        assert equal(state_of(fit.student), before) and not fit.masks.all()

    def test_labels_are_never_seen(self, diet, net, images):
        for call in (DiET.fit, FittedDiET.explain, qfa, DiET.__init__):
            assert not {"y", "labels", "targets", "classes"} & set(inspect.signature(call).parameters)
        with pytest.raises(InputError, match="labels are never used"):
            diet.fit(net, images[:2])

    def test_seeds(self, diet, net, images):
        one, same, other = (replace(diet, seed=s).fit(net, images[0]) for s in (0, 0, 1))
        assert equal(state_of(one.model), state_of(same.model)) and torch.equal(one.masks, same.masks)
        assert not equal(state_of(one.model), state_of(other.model))

    @pytest.mark.parametrize("kind", ["frozen", "train"])
    def test_batch_norm_is_frozen_or_learns_on(self, diet, net, images, kind):
        fitted = replace(diet, batch_norm=kind, rounds=1, epochs=1).fit(net, images[0])
        before, after = net[1], fitted.model[1]
        assert torch.equal(before.running_mean, after.running_mean) is (kind == "frozen")
        assert int(after.num_batches_tracked - before.num_batches_tracked) == (0 if kind == "frozen" else 6)

    def test_four_draws(self, diet, net, images):
        report = replace(diet, draws=4, rounds=1, epochs=1).fit(net, images[0]).report
        assert report["passes"] == 96 * (15 * 4 + 5)

    def test_parameters_that_are_frozen_stay(self, diet, net, images):
        net[0].requires_grad_(False)
        try:
            fitted = replace(diet, rounds=1).fit(net, images[0])
        finally:
            net[0].requires_grad_(True)
        assert torch.equal(fitted.model[0].weight, net[0].weight) and not fitted.model[0].weight.requires_grad
        assert not torch.equal(fitted.model[6].weight, net[6].weight)

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
        again = qfa(fitted.model, x, removal=diet.removal, masker=diet.masker, step=0.1, steps=15, batch_size=32)
        assert torch.equal(fitted.explain(x).masks, again.masks)
        assert fitted.explain(x).maps.shape == (5, 12, 12)
        assert not torch.equal(fitted.explain(x, seed=5).masks, again.masks)


class TestGuard:
    HARD = {"rate": 0.3, "rounds": 2, "epochs": 4}

    def test_it_takes_the_epoch_back_and_stops(self, diet, net, images):
        with pytest.warns(AgreementWarning, match="taken back"):
            fitted = replace(diet, **self.HARD).fit(net, images[0])
        assert fitted.report["stopped_by_guard"] and fitted.report["agreement"] >= diet.least_agreement
        assert fitted.report["rounds"][-1]["ended"] == "agreement"
        assert fitted.report["rounds"][-1]["epochs"][-1]["agreement"] < diet.least_agreement
        assert len(fitted.report["rounds"]) == 1 and equal(state_of(fitted.model), state_of(net))

    def test_or_warns_once_and_goes_on(self, diet, net, images):
        with pytest.warns(AgreementWarning, match="goes on") as seen:
            fitted = replace(diet, guard="warn", **self.HARD).fit(net, images[0])
        assert len(seen) == 1 and len(fitted.report["rounds"]) == 2
        assert fitted.report["agreement"] < diet.least_agreement and not fitted.report["stopped_by_guard"]

    def test_it_is_silent_where_models_agree(self, diet, net, images):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            diet.fit(net, images[0])


class Interrupting(ConstantColour):
    """Interrupts the work at its n-th draw."""

    left = 0

    def sample(self, x, generator):
        type(self).left -= 1
        if type(self).left == 0:
            raise KeyboardInterrupt
        return super().sample(x, generator)


class TestResuming:
    @pytest.fixture
    def interrupting(self, diet):
        return replace(diet, removal=Interrupting(diet.removal.mean, diet.removal.std), steps=15)

    def total(self, interrupting, net, x):
        Interrupting.left = 0
        fitted = interrupting.fit(net, x)
        return fitted, -Interrupting.left

    def test_it_goes_on_to_the_same_bits_wherever_it_was_stopped(self, interrupting, net, images, tmp_path):
        x = images[0]
        expected, draws = self.total(interrupting, net, x)
        # The check of the model takes 32 draws, masks of a round 96 * 15, three epochs of tuning 9.
        for left, turn, tuning in ((600, 0, False), (1477, 0, True), (2000, 1, False), (2926, 1, True)):
            Interrupting.left = left
            with pytest.raises(KeyboardInterrupt):
                interrupting.fit(net, x, checkpoint=tmp_path / "work", checkpoint_seconds=0)
            position = json.loads((tmp_path / "work" / "diet.json").read_text())["position"]
            assert (position["round"], position["tuning"]) == (turn, tuning)
            Interrupting.left = 0
            found = interrupting.fit(net, x, checkpoint=tmp_path / "work", checkpoint_seconds=0)
            assert -Interrupting.left < draws, "nothing was taken from the checkpoint"
            assert equal(state_of(found.model), state_of(expected.model)), left
            assert torch.equal(found.masks, expected.masks) and found.report == expected.report
            assert not (tmp_path / "work").exists()

    def test_a_checkpoint_of_another_fit_is_refused(self, interrupting, net, images, tmp_path):
        Interrupting.left = 3000
        with pytest.raises(KeyboardInterrupt):
            interrupting.fit(net, images[0], checkpoint=tmp_path, checkpoint_seconds=0)
        Interrupting.left = 0
        with pytest.raises(InputError, match="differs in rate"):
            replace(interrupting, rate=1e-5).fit(net, images[0], checkpoint=tmp_path)
        with pytest.raises(InputError, match="differs in samples"):
            interrupting.fit(net, images[0] * 0.9, checkpoint=tmp_path)
        (tmp_path / "diet.json").write_text("{")
        with pytest.raises(InputError, match="damaged"):
            interrupting.fit(net, images[0], checkpoint=tmp_path)

    def test_a_state_that_is_gone_is_named(self, interrupting, net, images, tmp_path):
        Interrupting.left = 3000
        with pytest.raises(KeyboardInterrupt):
            interrupting.fit(net, images[0], checkpoint=tmp_path, checkpoint_seconds=0)
        Interrupting.left = 0
        next(tmp_path.glob("state-*/model.safetensors")).write_bytes(b"torn")
        with pytest.raises(InputError, match="cannot be read"):
            interrupting.fit(net, images[0], checkpoint=tmp_path)

    def test_other_files_in_the_folder_stay(self, diet, net, images, tmp_path):
        (tmp_path / "notes.txt").write_text("mine")
        replace(diet, rounds=1, epochs=1).fit(net, images[0], checkpoint=tmp_path, checkpoint_seconds=0)
        assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


class TestFiles:
    @pytest.fixture
    def fitted(self, diet, net, images):
        return replace(diet, removal=Marginal(images[0][:10]), rounds=1, epochs=1).fit(net, images[0])

    def test_it_comes_back_as_it_was(self, fitted, net, images, tmp_path):
        before = state_of(net)
        fitted.save_pretrained(tmp_path / "diet")
        back = FittedDiET.from_pretrained(tmp_path / "diet", net)
        assert equal(state_of(back.model), state_of(fitted.model)) and equal(state_of(net), before)
        assert torch.equal(back.masks, fitted.masks) and back.report == fitted.report
        assert torch.equal(back.explain(images[0][:3]).maps, fitted.explain(images[0][:3]).maps)
        assert sorted(p.name for p in (tmp_path / "diet").iterdir()) == ["config.json", "model.safetensors"]

    def test_tensors_of_a_masker_come_too(self, diet, net, images, tmp_path):
        labels = (torch.arange(144).view(12, 12) // 12) // 3
        fitted = replace(diet, masker=Segments(labels), rounds=1, epochs=1, least_agreement=0).fit(net, images[0])
        fitted.save_pretrained(tmp_path)
        back = FittedDiET.from_pretrained(tmp_path, net)
        assert torch.equal(back.search.masker.labels, labels)  # type: ignore[attr-defined]

    def test_what_is_wrong_is_said(self, fitted, net, tmp_path):
        fitted.save_pretrained(tmp_path)
        with pytest.raises(InputError, match="do not fit this model"):
            FittedDiET.from_pretrained(tmp_path, nn.Linear(2, 2))
        with pytest.raises(FileNotFoundError):
            FittedDiET.from_pretrained(tmp_path / "nowhere", net)
        (tmp_path / "config.json").write_text('{"format_version": 1, "type": "leace"}')
        with pytest.raises(FormatError, match="expected a 'diet'"):
            FittedDiET.from_pretrained(tmp_path, net)
        (tmp_path / "config.json").write_text('{"format_version": 1, "type": "diet"}')
        with pytest.raises(FormatError, match="removal"):
            FittedDiET.from_pretrained(tmp_path, net)

    def test_a_class_of_ones_own_is_given_again(self, diet, net, images, tmp_path):
        own = Interrupting(diet.removal.mean, diet.removal.std)
        Interrupting.left = 0
        replace(diet, removal=own, rounds=1, epochs=1).fit(net, images[0]).save_pretrained(tmp_path)
        with pytest.raises(InputError, match="removal=Interrupting"):
            FittedDiET.from_pretrained(tmp_path, net)
        assert FittedDiET.from_pretrained(tmp_path, net, removal=own).search.removal is own


BAD = {
    "training mode": (lambda net, x: {"model": nn.Sequential(net, nn.Dropout())}, "model.eval()"),
    "a function": (lambda net, x: {"model": lambda x: net(x)}, "nn.Module"),
    "nothing to tune": (lambda net, x: {"model": nn.Sequential(nn.Flatten()).eval()}, "requires_grad_"),
    "out of range": (lambda net, x: {"x": x * 255}, "x / 255"),
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


class Nothing(nn.Module):
    def forward(self, x):
        return x * 0


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_bad_input_says_what_to_write(diet, net, images, change, message):
    changes = change(net, images[0])
    model, x = changes.pop("model", net), changes.pop("x", images[0])
    with pytest.raises(InputError, match=message):
        replace(diet, **changes).fit(model, x)


def test_a_tabular_network():
    generator = source()
    x = torch.randn(200, 8, generator=generator)
    labels = (x[:, 1] + x[:, 4] > 0).long()
    torch.manual_seed(0)
    model = trained(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2)), x, labels, steps=200)
    diet = DiET(TabularGaussian.of(x), FeatureGroups(), draws=4, rate=1e-3, least_agreement=0.9)
    fitted = diet.fit(model, x)
    assert fitted.masks.shape == (200, 8)
    maps = fitted.explain(x).maps
    assert set(maps.mean(0).topk(2).indices.tolist()) == {1, 4}
    assert fitted.report["change"]["student"] < fitted.report["change"]["model"]


class TestMiniLM:
    """The real MiniLM with a head that was trained to tell the field of work; the occupation is what tells it."""

    @pytest.fixture(scope="class")
    @classmethod
    def text(cls):
        world = make_sentences(jobs=8, templates=4)
        tokenizer, encoder = load_minilm()
        ids = tokenizer(list(world.text), padding=True, return_tensors="pt")["input_ids"]
        model = TokenClassifier(encoder, tokenizer.pad_token_id, nn.Identity()).eval()
        labels = torch.from_numpy(world.field)
        with torch.no_grad():
            vectors = model(ids)
        torch.manual_seed(0)
        model.head = trained(nn.Linear(encoder.config.hidden_size, 4), vectors, labels, steps=300, rate=0.05)
        with torch.no_grad():
            assert torch.equal(model(ids).argmax(1), labels)
        words = tokenizer(" ".join(world.jobs), add_special_tokens=False)["input_ids"]
        masks = TokenMask(tokenizer.mask_token_id), Tokens(keep=tuple(tokenizer.all_special_ids))
        # One sentence of each pair, which differ in the pronoun alone.
        return model, ids[::2], masks, torch.isin(ids[::2], torch.tensor(words))

    def test_masks_find_the_occupation(self, text):
        model, ids, (removal, masker), job = text
        before, ids, job = state_of(model), ids[::3], job[::3]
        found = qfa(model, ids, removal=removal, masker=masker, step=0.1, steps=20)
        assert found.maps.shape == ids.shape
        assert (found.maps[ids < 104] == 0).all()  # [PAD], [CLS], [SEP]
        # A text without any word gets one of the answers, and where that is the answer anyway, nothing need be kept.
        nothing = torch.where(masker.free(ids), removal.id, ids)
        with torch.no_grad():
            spoken = model(nothing).argmax(1) != model(ids).argmax(1)
        assert len(ids) / 2 < spoken.sum() < len(ids)
        others = masker.free(ids) & ~job
        assert found.maps[spoken][job[spoken]].mean() > 1.5 * found.maps[spoken][others[spoken]].mean()
        assert found.change.median() < 0.05
        assert equal(state_of(model), before)
        assert not any(m._forward_hooks for m in model.modules())

    def test_a_student(self, text):
        model, ids, (removal, masker), _ = text
        model.requires_grad_(False)
        model.head.requires_grad_(True)
        diet = DiET(removal, masker, step=0.15, steps=8, rounds=1, epochs=2, stop=0.0, rate=1e-3, batch_size=16)
        fitted = diet.fit(model, ids[:16])
        assert fitted.report["agreement"] >= 0.97
        assert fitted.report["change"]["student"] < fitted.report["change"]["model"]
        assert not equal(state_of(fitted.model.get_submodule("head")), state_of(model.head))
        assert equal(state_of(fitted.model.get_submodule("model")), state_of(model.model))
