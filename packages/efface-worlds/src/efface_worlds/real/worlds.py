"""Classifiers that others made, or that were trained on what others made, with pictures to explain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from efface_worlds.real.efficientnet import load_efficientnet
from efface_worlds.real.fashion import GARMENTS, Garments, load_fashion
from efface_worlds.real.imagenet import emoji_classes, imagenet_classes
from efface_worlds.real.pictures import emoji_pictures
from efface_worlds.real.resnet import load_fashion_resnet


@dataclass(frozen=True)
class RealWorld:
    """Pictures and the names of their classes.

    Attributes:
        classes: Names, in order of label.
        train: Pictures like those that were trained on, for DiET; `images` and `labels`.
        test: Pictures to explain.
    """

    classes: tuple[str, ...]
    train: Any
    test: Any


@dataclass(frozen=True)
class Labelled:
    """Pictures `(n, 3, 224, 224)` in [0, 1], and the first class of ImageNet that is right of each, `(n,)`."""

    images: torch.Tensor
    labels: torch.Tensor


def fashion_world(train: int, test: int) -> tuple[RealWorld, nn.Module]:
    """Fashion-MNIST and the small network trained on it; `train` and `test` pictures, from the first.

    Raises:
        MissingExtraError: If Debian's package `dataset-fashion-mnist` is not installed.
    """
    splits: list[Garments] = [load_fashion("train", limit=train), load_fashion("test", limit=test)]
    return RealWorld(GARMENTS, *splits), load_fashion_resnet()


def imagenet_world(train: int, test: int) -> tuple[RealWorld, nn.Module]:
    """EfficientNet-Lite0; emoji by Noto to explain, the same by Twemoji to tune on, as far as ImageNet has a class.

    Raises:
        MissingExtraError: If a package of the extra `classifiers` is not installed.
    """
    every = emoji_classes()
    labels = torch.tensor([classes[0] for classes in every.values()])
    sides = []
    for style, count in (("twemoji", train), ("noto", test)):
        names = list(every)[:count]
        sides.append(Labelled(emoji_pictures(names, style), labels[: len(names)]))
    return RealWorld(imagenet_classes(), *sides), load_efficientnet()
