"""A fit of DiET can be stopped and goes on to the same bits; what it leaves behind can be saved and read."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

import efface
from efface import FormatError, InputError
from efface.attribution import ConstantColour, DietErasure, Marginal, Segments
from tests.squares import colour_net, equal, quick_diet, squares, state_of

FILES = ["README.md", "config.json", "model.safetensors"]


@pytest.fixture
def images():
    return squares()


@pytest.fixture
def net():
    return colour_net()


@pytest.fixture
def diet():
    return quick_diet()


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
            position = json.loads((tmp_path / "work" / "checkpoint.json").read_text())["position"]
            assert (position["round"], position["tuning"]) == (turn, tuning)
            Interrupting.left = 0
            found = interrupting.fit(net, x, checkpoint=tmp_path / "work", checkpoint_seconds=0)
            assert -Interrupting.left < draws, "nothing was taken from the checkpoint"
            assert equal(state_of(found.student(net)), state_of(expected.student(net))), left
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
        net[0].requires_grad_(False)
        with pytest.raises(InputError, match="differs in parameters that are tuned"):
            interrupting.fit(net, images[0], checkpoint=tmp_path)
        net[0].requires_grad_(True)
        whole = json.loads((tmp_path / "checkpoint.json").read_text())
        for number in (0, -1):
            told = json.loads(json.dumps(whole))
            told["position"]["rounds"][0]["cells"] = number
            (tmp_path / "checkpoint.json").write_text(json.dumps(told))
            with pytest.raises((InputError, FormatError), match="looked at none|damaged"):
                interrupting.fit(net, images[0], checkpoint=tmp_path)
        (tmp_path / "checkpoint.json").write_text("{")
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
        fitted.save(tmp_path / "diet")
        back = efface.load(tmp_path / "diet")
        assert back == fitted and equal(state_of(back.student(net)), state_of(fitted.student(net)))
        assert equal(state_of(net), before) and torch.equal(back.masks, fitted.masks) and back.report == fitted.report
        x = images[0][:3]
        assert torch.equal(back.explain(back.student(net), x).maps, fitted.explain(fitted.student(net), x).maps)
        assert sorted(p.name for p in (tmp_path / "diet").iterdir()) == FILES

    def test_tensors_of_a_masker_come_too(self, diet, net, images, tmp_path):
        labels = (torch.arange(144).view(12, 12) // 12) // 3
        fitted = replace(diet, masker=Segments(labels), rounds=1, epochs=1, least_agreement=0).fit(net, images[0])
        fitted.save(tmp_path / "diet")
        back = DietErasure.load(tmp_path / "diet")
        assert torch.equal(back.search.masker.labels, labels)  # type: ignore[attr-defined]

    def test_what_is_wrong_is_said(self, fitted, net, tmp_path):
        folder = tmp_path / "diet"
        fitted.save(folder)
        with pytest.raises(InputError, match="fit on this model"):
            DietErasure.load(folder).student(nn.Linear(2, 2), check=False)
        with pytest.raises(InputError, match="with other weights"):
            DietErasure.load(folder).student(colour_net(seed=5))
        with pytest.raises(FileNotFoundError):
            DietErasure.load(tmp_path / "nowhere")
        for text, match in (('"type": "leace"', "does not know"), ('"type": "diet"', "search")):
            (folder / "config.json").write_text(f'{{"format_version": 1, {text}}}')
            with pytest.raises(FormatError, match=match):
                DietErasure.load(folder)

    def test_a_class_of_ones_own_is_registered_for_files(self, diet, net, images, tmp_path):
        own = Interrupting(diet.removal.mean, diet.removal.std)
        Interrupting.left = 0
        fitted = replace(diet, removal=own, rounds=1, epochs=1).fit(net, images[0])
        with pytest.raises(InputError, match="@efface.saved"):
            fitted.save(tmp_path / "diet")
        assert not (tmp_path / "diet").exists()
        efface.saved(Interrupting)
        fitted.save(tmp_path / "diet")
        assert type(efface.load(tmp_path / "diet").search.removal) is Interrupting
