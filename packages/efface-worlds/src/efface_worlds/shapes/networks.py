"""Two judges of different build: a plain convolutional net, and a residual net on folded pixels with attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efface_worlds.shapes.concepts import BACKGROUNDS, COLOURS, OBJECTS, STYLES

WIDTH = 128
"""Of a judge's features."""

HEADS = {
    "object": len(OBJECTS) + 1,  # the last is "none"
    "colour": len(COLOURS),
    "style": len(STYLES),
    "background": len(BACKGROUNDS),
    "count": 2,  # one object, two objects
    "presence": len(OBJECTS),  # sigmoids, for scenes of two
}


class JudgeNetwork(nn.Module):
    """Base of both: images in [0, 1] -> maps -> features -> logits of every head, divided by its temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(WIDTH, size) for name, size in HEADS.items()})
        self.register_buffer("temperatures", torch.ones(len(HEADS)))

    def maps(self, images: Tensor) -> list[Tensor]:
        """Activations from fine to coarse, each `(n, channels, height, width)`."""
        raise NotImplementedError

    def pool(self, last: Tensor) -> Tensor:
        """The coarsest map as features, `(n, 128)`."""
        raise NotImplementedError

    def features(self, images: Tensor) -> Tensor:
        """Features `(n, 128)` of images `(n, 3, 32, 32)` in [0, 1]."""
        return self.pool(self.maps(images)[-1])

    def logits(self, features: Tensor) -> dict[str, Tensor]:
        """Calibrated logits of every head."""
        temperatures: Tensor = self.get_buffer("temperatures")
        return {name: head(features) / temperatures[i] for i, (name, head) in enumerate(self.heads.items())}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Calibrated logits of every head."""
        return self.logits(self.features(images))


class ConvJudge(JudgeNetwork):
    """Plain convolutions with batch normalisation, from 32 x 32 down to 4 x 4."""

    def __init__(self, widths: Sequence[int] = (24, 48, 48, 96, 96, 128)) -> None:
        super().__init__()
        strides = (1, 2, 1, 2, 1, 2)
        ins = (3, *widths[:-1])
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 3, s, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU())
            for i, o, s in zip(ins, widths, strides, strict=True)
        )
        self.last = nn.Linear(2 * widths[-1], WIDTH)

    def maps(self, images: Tensor) -> list[Tensor]:
        """Outputs of the layers before each halving."""
        x, kept = images * 2 - 1, []
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i in (0, 2, 4, 5):
                kept.append(x)
        return kept

    def pool(self, last: Tensor) -> Tensor:
        """Mean and maximum over places, then one layer."""
        return F.relu(self.last(torch.cat([last.mean((2, 3)), last.amax((2, 3))], 1)))


class ResidualJudge(JudgeNetwork):
    """Pixels folded 2 x 2, residual blocks with group normalisation at 8 x 8, attention over places."""

    def __init__(self, width: int = 96, blocks: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(12, 40, 3, padding=1)
        self.down = nn.Conv2d(40, width, 4, 2, 1)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(blocks))
        self.place = nn.Parameter(torch.zeros(1, width, 8, 8))
        self.weight = nn.Conv2d(width, 4, 1)
        self.last = nn.Linear(4 * width, WIDTH)

    def maps(self, images: Tensor) -> list[Tensor]:
        """The stem's output and each block's."""
        fine = F.gelu(self.stem(F.pixel_unshuffle(images * 2 - 1, 2)))
        x = self.down(fine) + self.place
        kept = [fine]
        for block in self.blocks:
            x = block(x)
            kept.append(x)
        return kept

    def pool(self, last: Tensor) -> Tensor:
        """Four weighted means over places, then one layer."""
        weights = self.weight(last).flatten(2).softmax(-1)
        return F.gelu(self.last(torch.einsum("nkp,ncp->nkc", weights, last.flatten(2)).flatten(1)))


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for _ in range(2))
        self.convolutions = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            y = convolution(F.gelu(norm(y)))
        return x + y


NETWORKS: dict[int, type[JudgeNetwork]] = {1: ConvJudge, 2: ResidualJudge}
