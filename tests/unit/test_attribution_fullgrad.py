"""The full gradient of a ReLU network is its output; SimpleFullGrad by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from efface import InputError
from efface.attribution.baselines import attribute
from efface.attribution.fullgrad import full_gradient
from tests.pictures import convolutional, hooks, images


def score(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).gather(1, target[:, None])[:, 0]


class TestFullGradient:
    @pytest.mark.parametrize("inplace", [False, True])
    def test_the_full_gradient_of_a_relu_network_is_its_output(self, inplace: bool) -> None:
        model, x = convolutional(inplace=inplace), images(5)
        target = torch.tensor([0, 1, 2, 0, 1])
        found = full_gradient(model, x, target)
        torch.testing.assert_close(found.output, score(model, x, target))
        torch.testing.assert_close(found.gap, torch.zeros(5), atol=1e-5, rtol=0)
        assert float(found.bias_term.abs().min()) > 1e-3  # the biases matter here, the implicit ones among them

    def test_the_full_gradient_leaves_the_model_alone_or_refuses_it(self) -> None:
        model, x, target = convolutional(), images(3), torch.tensor([0, 1, 2])
        before = {k: v.clone() for k, v in model.state_dict().items()}
        full_gradient(model, x, target)
        with pytest.raises(InputError, match=r"model.eval\(\)"):
            full_gradient(model.train(), x, target)
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()) and hooks(model) == 0
        with pytest.raises(InputError, match="class indices"):
            full_gradient(model.eval(), x, target[:2])

    def test_the_gap_shows_where_it_does_not_hold(self) -> None:
        model = nn.Sequential(convolutional(), nn.Softmax(1)).eval()
        assert float(full_gradient(model, images(3), torch.tensor([0, 1, 2])).gap.abs().max()) > 1e-2


class TestSimpleFullGrad:
    def test_by_hand(self) -> None:
        """One convolution with a bias: psi of input times gradient, and psi of the gradient by the bias."""
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 2)).eval()
        x = images(2)
        inner = model[0](x).detach().requires_grad_()
        target = model(x).argmax(1)
        by_bias = torch.autograd.grad(model[1:](inner).gather(1, target[:, None]).sum(), inner)[0]
        leaf = x.clone().requires_grad_()
        by_input = torch.autograd.grad(model(leaf).gather(1, target[:, None]).sum(), leaf)[0] * x

        def psi(values: Tensor) -> Tensor:
            scaled = []
            for image in values.abs():
                scaled.append((image - image.min()) / (image.max() - image.min()))
            return torch.stack(scaled).sum(1)

        torch.testing.assert_close(attribute("simple-fullgrad", model, x), psi(by_input) + psi(by_bias))

    def test_it_needs_a_spatial_bias(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 2, 8, bias=False), nn.Flatten()).eval()
        with pytest.raises(InputError, match="runs none"):
            attribute("simple-fullgrad", model, images())
