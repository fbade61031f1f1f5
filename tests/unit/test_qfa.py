"""Masks of an untouched model: what they find, what they leave alone, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from efface import attribution
from efface.attribution import (
    ConstantColour,
    FeatureGroups,
    Grid,
    Superpixels,
    TabularGaussian,
    qfa,
)
from efface.attribution.mask_search import MaskSearch
from efface.attribution.masking import draw
from efface.training.seeds import generators
from tests.pictures import Net

IMAGES = torch.rand(7, 3, 8, 8, generator=torch.Generator().manual_seed(3))
Q = ConstantColour.of(IMAGES)
QUICK = {"step": 0.1, "steps": 12}


@pytest.fixture
def net():
    return Net().eval()


def sparse_linear(support, d, seed):
    """Logits of three classes, the first of which reads the columns of the support, with random signs."""
    weights = torch.zeros(3, d)
    weights[0, support] = 0.8 * (torch.randint(2, (len(support),), generator=source(seed)) * 2.0 - 1)
    return nn.Sequential(nn.Flatten(), linear(weights)).eval()


def weights_of(model):
    return next(iter(model.parameters())).detach()[0]


def source(seed):
    return torch.Generator().manual_seed(seed)


def linear(weights):
    layer = nn.Linear(weights.shape[1], len(weights), bias=False)
    layer.weight.data = weights
    return layer


class TestWhatTheyFind:
    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize("bound", [2.0, None])
    def test_a_sparse_linear_softmax_model_gives_back_its_support(self, seed, bound):
        support = torch.randperm(12, generator=source(seed))[:3].tolist()
        model = sparse_linear(support, 12, seed)
        # All columns of the support speak for the first class, so that no two of them cancel and none is spare.
        signs = torch.where(weights_of(model) < 0, -1.0, 1.0)
        x = signs * (1 + 0.5 * torch.rand(10, 12, generator=source(seed + 9)))
        removal = TabularGaussian(torch.zeros(12), std=torch.full((12,), 0.1))
        maps = qfa(model, x, removal=removal, masker=FeatureGroups(), bound=bound, step=0.02, steps=80).maps
        outside = [c for c in range(12) if c not in support]
        assert (maps[:, support] > 0.9).all()
        assert (maps[:, outside] == 0).all()

    def test_the_pixels_that_an_image_model_reads(self):
        support = [0, 9, 36]
        model = sparse_linear(support, 64, 0)
        x = torch.where(weights_of(model) < 0, 0.0, 1.0).view(1, 1, 8, 8).expand(2, -1, -1, -1)
        maps = qfa(model, x, removal=ConstantColour((0.5,), (0.02,)), masker=Grid(), sparsity=0.5, steps=80).maps
        assert [row.nonzero().flatten().tolist() for row in maps.flatten(1)] == [support, support]

    def test_a_cell_without_effect_falls_by_sparsity_times_step_a_pass(self):
        model, x = sparse_linear([0], 4, 0), torch.ones(1, 4)
        removal = TabularGaussian(torch.zeros(4), std=torch.zeros(4))
        search = MaskSearch(removal, FeatureGroups(), 2.0, step=0.05, steps=4, decay=False)
        assert search.descend(model, x, generators(0, [0]))[0, 1:].tolist() == pytest.approx(
            [0.6] * 3
        )  # 1 - 4 * 2 * 0.05
        search = MaskSearch(removal, FeatureGroups(), 2.0, step=0.05, steps=4, decay=True)
        assert search.descend(model, x, generators(0, [0]))[0, 1:].tolist() == pytest.approx([0.6] * 3)

    @pytest.mark.parametrize(("memory", "bound", "decay"), [(0.0, None, False), (0.8, 2.0, True)])
    def test_it_is_the_descent_of_the_docstring(self, net, memory, bound, decay):
        """Written out for one sample at a time, with the gradient of the whole loss."""
        steps, step, weight, cells = 6, 0.2, 1.2, 16
        settings = {"sparsity": weight, "step": step, "steps": steps, "memory": memory}
        settings |= {"bound": bound, "decay": decay}
        found = qfa(net, IMAGES[:3], removal=Q, masker=Grid(2, "nearest"), **settings).masks
        for i in range(3):
            x, sources = IMAGES[i : i + 1], generators(0, [i])
            mask, past = torch.ones(1, 4, 4), []
            for t in range(steps):
                m, q = mask.clone().requires_grad_(), draw(Q, x, sources)
                u = m.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None]
                change = net(x).softmax(1).detach() - net(u * x + (1 - u) * q).softmax(1)
                # At first the change is 0, and rounding has no sign.
                loss = weight * m.mean() + (change.abs().sum() if t else 0 * change.sum())
                past.append(torch.autograd.grad(loss, m)[0])
                shares = torch.tensor([memory ** (t - s) for s in range(t + 1)])
                slope = cells * (torch.stack(past) * (shares / shares.sum()).view(-1, 1, 1, 1)).sum(0)
                slope = slope if bound is None else slope.clamp(-bound, bound)
                size = step * 2 * (1 - (t + 0.5) / steps) if decay else step
                mask = (mask - size * slope).clamp(0, 1)
            assert torch.allclose(found[i], mask[0], atol=1e-4)

    def test_results_describe_the_masks(self, net):
        found = qfa(net, IMAGES, removal=Q, masker=Grid(2), draws=2, **QUICK)
        assert found.masks.shape == (7, 4, 4) and found.maps.shape == (7, 8, 8)
        assert float(found.masks.min()) >= 0 and float(found.masks.max()) <= 1
        assert torch.allclose(found.kept, found.masks.flatten(1).mean(1))
        assert ((found.change >= 0) & (found.change <= 2)).all() and found.passes == 24

    def test_a_removal_that_is_not_random_is_drawn_once(self):
        calls = []

        class Zero:
            random = False

            def sample(self, x, generator):
                calls.append(len(x))
                return torch.zeros_like(x)

        model = sparse_linear([0], 4, 0)
        found = qfa(model, torch.ones(1, 4), removal=Zero(), masker=FeatureGroups(), draws=5)
        assert len(calls) == 3 and found.passes == 30  # the check of the model, the search, the change at the end


class TestWhatTheyLeaveAlone:
    def state(self, net):
        return {k: v.clone() for k, v in net.state_dict().items()}

    def same(self, net, before):
        flags = [p.requires_grad for p in net.parameters()]
        assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
        assert flags == [True, True, False, True, True, True] and all(p.grad is None for p in net.parameters())
        assert not any(m.training for m in net.modules())

    @pytest.mark.parametrize("fails", [False, True])
    def test_parameters_buffers_flags_and_the_global_random_state(self, net, fails):
        list(net.parameters())[2].requires_grad_(False)
        before, state, x = self.state(net), torch.get_rng_state(), IMAGES.clone()

        class Breaking(ConstantColour):
            def sample(self, x, generator):
                if fails:
                    raise KeyboardInterrupt
                return super().sample(x, generator)

        try:
            qfa(net, x, removal=Breaking(Q.mean, Q.std), masker=Grid(2), **QUICK)
        except KeyboardInterrupt:
            assert fails
        self.same(net, before)
        assert torch.equal(torch.get_rng_state(), state) and torch.equal(x, IMAGES)

    @pytest.mark.parametrize("masker", [Grid(2), Grid(1, "nearest"), Superpixels(3, 3)])
    def test_batch_size_does_not_change_masks(self, net, masker):
        one, three, all_ = (
            qfa(net, IMAGES, removal=Q, masker=masker, batch_size=size, **QUICK).masks for size in (1, 3, 64)
        )
        assert float(all_.std()) > 0.1
        assert torch.allclose(one, all_, atol=1e-4) and torch.allclose(three, all_, atol=1e-4)

    def test_the_model_never_sees_more_than_a_batch(self, net):
        seen = []
        net.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
        qfa(net, IMAGES, removal=Q, masker=Grid(2), batch_size=2, draws=3, **QUICK)
        assert max(seen) == 2

    def test_seeds(self, net):
        one, same, other = (qfa(net, IMAGES, removal=Q, masker=Grid(2), seed=s, **QUICK).masks for s in (0, 0, 1))
        assert torch.equal(one, same) and not torch.equal(one, other)

    def test_no_grad_around_it_does_not_matter(self, net):
        expected = qfa(net, IMAGES, removal=Q, masker=Grid(2), **QUICK).masks
        with torch.no_grad():
            assert torch.equal(qfa(net, IMAGES, removal=Q, masker=Grid(2), **QUICK).masks, expected)


def test_probabilities_are_as_good_as_logits(net):
    logits = qfa(net, IMAGES, removal=Q, masker=Grid(2), **QUICK).masks
    whole = nn.Sequential(net, nn.Softmax(1)).eval()
    assert torch.equal(qfa(whole, IMAGES, removal=Q, masker=Grid(2), outputs="probabilities", **QUICK).masks, logits)


def test_every_public_name_is_there_and_explained():
    assert all(getattr(attribution, name).__doc__ for name in attribution.__all__)
    assert set(attribution.__all__) <= set(dir(attribution))


def test_arrays_of_float64_are_taken(net):
    expected = qfa(net, IMAGES, removal=Q, masker=Grid(2), **QUICK).masks
    assert torch.equal(qfa(net, IMAGES.double().numpy(), removal=Q, masker=Grid(2), **QUICK).masks, expected)
