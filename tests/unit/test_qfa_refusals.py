"""What the search for masks refuses, or warns of, and what it says to write instead."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from efface import InputError
from efface.attribution import ConstantColour, Grid, OutputsWarning, TokenMask, Tokens, qfa
from tests.pictures import Net

IMAGES = torch.rand(7, 3, 8, 8, generator=torch.Generator().manual_seed(3))
Q = ConstantColour.of(IMAGES)
QUICK = {"step": 0.1, "steps": 12}


@pytest.fixture
def net():
    return Net().eval()


class RootOf(nn.Module):
    """A finite output whose gradient is not."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x) + (x * 0).abs().sum((1, 2, 3)).sqrt()[:, None]


def constant(x):
    return torch.zeros(len(x), 3) + x.sum() * 0


BAD = {
    "training mode": (lambda net: {"model": net.train()}, "model.eval()"),
    "one layer in training mode": (lambda net: {"model": (net, net.body[1].train())[0]}, "model.eval()"),
    "probabilities as logits": (
        lambda net: {"model": nn.Sequential(net, nn.Softmax(1)).eval()},
        "outputs='probabilities'",
    ),
    "logits as probabilities": (lambda net: {"outputs": "probabilities"}, "outputs='logits'"),
    "neither": (lambda net: {"outputs": "scores"}, "'logits' or 'probabilities'"),
    "one column": (lambda net: {"model": lambda x: net(x)[:, :1]}, "two classes"),
    "no tensor": (lambda net: {"model": lambda x: {"logits": net(x)}}, "expected a tensor"),
    "nan outputs": (lambda net: {"model": lambda x: net(x) * float("nan")}, "NaN"),
    "out of range": (lambda net: {"x": IMAGES * 255}, "x / 255"),
    "bytes": (lambda net: {"x": (IMAGES * 255).to(torch.uint8)}, "float()"),
    "nan images": (lambda net: {"x": IMAGES / 0 * 0}, "NaN or infinite"),
    "with labels": (lambda net: {"x": (IMAGES, torch.zeros(7))}, "labels are never used"),
    "none": (lambda net: {"x": IMAGES[:0]}, "at least one"),
    "constant": (lambda net: {"model": constant}, "constant"),
    "nan gradients": (lambda net: {"model": RootOf(net).eval()}, "gradient of the mask is not finite in 7 of 7"),
    "no gradient": (lambda net: {"model": lambda x: net(x).detach()}, "has no gradient"),
    "grid too large": (lambda net: {"masker": Grid(9)}, "upsample=8"),
    "no masker": (lambda net: {"masker": Grid}, "masker=Grid\\(2\\)"),
    "no removal": (lambda net: {"removal": ConstantColour}, "ConstantColour.of"),
    "no model": (lambda net: {"model": 3}, "nn.Module"),
    "step": (lambda net: {"step": 5.0}, "change a pass"),
    "too few steps": (lambda net: {"steps": 3, "step": 0.1}, "steps=10"),
    "sparsity": (lambda net: {"sparsity": 0.0}, "above 0"),
    "bound": (lambda net: {"bound": 0.5}, "or None"),
    "memory": (lambda net: {"memory": 1.0}, "below 1"),
    "draws": (lambda net: {"draws": 0}, "at least 1"),
    "seed": (lambda net: {"seed": -1}, "at least 0"),
    "no integer seed": (lambda net: {"seed": 0.5}, "whole number"),
    "batch size": (lambda net: {"batch_size": 0}, "at least 1"),
    "ids": (lambda net: {"x": torch.ones(2, 3).long(), "removal": TokenMask(1)}, "height, width"),
    "nothing free": (
        lambda net: {
            "model": nn.Sequential(nn.Embedding(3, 4), nn.Flatten(), nn.Linear(8, 2)).eval(),
            "x": torch.tensor([[1, 2], [0, 0]]),
            "removal": TokenMask(1),
            "masker": Tokens(keep=(0,)),
        },
        "nothing may be removed from samples \\[1\\]",
    ),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_bad_input_says_what_to_write(net, change, message):
    given = {"model": net, "x": IMAGES, "removal": Q, "masker": Grid(2)} | change(net)
    with pytest.raises(InputError, match=message):
        qfa(given.pop("model"), given.pop("x"), **given)


def test_scores_of_sigmoids_are_not_logits_and_not_probabilities(net):
    """They lie in [0, 1] and do not sum to 1: as logits they say next to nothing, which is told."""
    scores = nn.Sequential(net, nn.Sigmoid()).eval()
    with pytest.raises(InputError, match="rows do not all sum to 1"):
        qfa(scores, IMAGES, removal=Q, masker=Grid(2), outputs="probabilities", **QUICK)
    with pytest.warns(OutputsWarning, match="sigmoid") as seen:
        qfa(scores, IMAGES, removal=Q, masker=Grid(2), **QUICK)
    assert len(seen) == 1 and seen[0].filename == __file__


def test_a_grid_that_does_not_divide_the_image(net):
    found = qfa(net, IMAGES, removal=Q, masker=Grid(3), **QUICK)
    assert found.masks.shape == (7, 3, 3) and found.maps.shape == (7, 8, 8)
    assert torch.allclose(found.kept, found.masks.flatten(1).mean(1))


class Odd:
    """A removal that gives something else than asked for."""

    def __init__(self, change):
        self.change = change

    def sample(self, x, generator):
        return self.change(x)


@pytest.mark.parametrize(
    ("change", "message"), [(lambda x: x[..., :4], "return the same"), (lambda x: x / 0, "NaN or infinite")]
)
def test_odd_removals_are_refused(net, change, message):
    with pytest.raises(InputError, match=message):
        qfa(net, IMAGES, removal=Odd(change), masker=Grid(2))
