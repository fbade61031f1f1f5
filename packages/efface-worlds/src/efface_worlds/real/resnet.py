"""A small residual network for grey pictures of 28 x 28, and the one that comes with efface-worlds."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface._io import as_path
from efface._validate import check_positive_int, check_type
from efface_worlds.loading import check_files, fill

WEIGHTS = Path(__file__).parent / "weights" / "fashion"
"""What `efface_worlds.real.training` wrote."""

WIDTHS, SIDE = (16, 32, 64), 28
FILE = "model.safetensors"


class Block(nn.Module):
    """Two convolutions, and what goes around them: itself, or a convolution of 1 x 1 where the shape changes."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(outer, outer, 3, 1, 1, bias=False), nn.BatchNorm2d(outer))
        self.around = (
            nn.Identity()
            if stride == 1 and inner == outer
            else nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))
        )
        self.last = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Maps of half the side where the stride is 2."""
        return self.last(self.second(self.first(x)) + self.around(x))


class SmallResNet(nn.Module):
    """Pictures `(n, 1, 28, 28)` in [0, 1] -> logits `(n, classes)`; 77,754 parameters for ten classes.

    The residual network for small pictures of "Deep Residual Learning", arXiv:1512.03385, section 4.2, at n = 1: a
    convolution, three blocks at 28, 14 and 7 pixels a side, the mean over places, one linear layer. Its shortcuts are
    convolutions of 1 x 1 where the width changes. Each ReLU is a module of its own, for methods that hook into modules.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        width = WIDTHS[0]
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        inner = (width, *WIDTHS[:-1])
        self.blocks = nn.Sequential(*(Block(i, o, 1 if i == o else 2) for i, o in zip(inner, WIDTHS, strict=True)))
        self.head = nn.Linear(WIDTHS[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(n, classes)`.

        Raises:
            InputError: If the pictures are of another size.
        """
        if check_type(images, Tensor, "images").ndim != 4 or images.shape[1:] != (1, SIDE, SIDE):
            raise InputError(
                f"pictures are {tuple(images.shape)}, expected (n, 1, {SIDE}, {SIDE}) in [0, 1], light on black, as "
                "efface_worlds.real.load_fashion gives them"
            )
        return self.head(self.blocks(self.stem(images)).mean((2, 3)))


def make_resnet(classes: int = 10, seed: int = 0) -> SmallResNet:
    """An untrained network; the caller's random state is left as it was."""
    check_positive_int(classes, "classes")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SmallResNet(classes)


def load_fashion_resnet(folder: str | os.PathLike[str] | None = None) -> SmallResNet:
    """The network trained on Fashion-MNIST, in eval mode and float32; the file holds float16.

    Args:
        folder: Of `model.safetensors`; None takes the one that comes with efface-worlds.

    Raises:
        FormatError: If the file is missing, damaged, or of another network.
    """
    from safetensors.torch import load_file

    source = WEIGHTS if folder is None else as_path(folder, "folder")
    advice = "reinstall efface-worlds, or train it again with  python -m efface_worlds.real.training --out FOLDER"
    check_files(source, [FILE], advice)
    model = make_resnet()
    tensors = {
        name: value.float() if value.is_floating_point() else value for name, value in load_file(source / FILE).items()
    }
    fill(model, tensors, source / FILE, advice)
    return model.eval()
