"""Two judges of different build: one marks centres of objects on a grid, one looks for a left and a right object."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efface_worlds.shapes.concepts import BACKGROUNDS, COLOURS, OBJECTS, STYLES

WIDTH = 128
"""Of a judge's features."""

PLACES = 2
"""Objects that a judge can tell apart in an image, the left one first; where there is one, the second is "none"."""

HEADS = {
    "object": len(OBJECTS) + 1,  # of each place; the last is "none"
    "colour": len(COLOURS),  # of each place
    "style": len(STYLES),  # of each place
    "background": len(BACKGROUNDS),
    "domain": 1,  # a sigmoid: whether the image is of the kind that the judge knows
}
GRID = 8
"""Cells a side in which the first judge looks for centres."""

_NAMED = len(OBJECTS) + len(COLOURS) + len(STYLES)


class JudgeNetwork(nn.Module):
    """Base of both: images in [0, 1] -> maps -> what is at each place, and features -> what is true of the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.background = nn.Linear(WIDTH, HEADS["background"])
        self.domain = nn.Linear(WIDTH, 1)
        self.named = nn.Linear(WIDTH, _NAMED)  # what is anywhere; training asks it, so that features hold it
        self.register_buffer("temperatures", torch.ones(len(HEADS)))

    def maps(self, images: Tensor) -> list[Tensor]:
        """Activations from fine to coarse, each `(n, channels, height, width)`."""
        raise NotImplementedError

    def pool(self, last: Tensor) -> Tensor:
        """The coarsest map as features, `(n, 128)`."""
        raise NotImplementedError

    def places(self, last: Tensor) -> dict[str, Tensor]:
        """Log-probabilities at each place, `(n, 2, values)`; `"domain"`, `(n,)`, bounds what the features say of it."""
        raise NotImplementedError

    def features(self, images: Tensor) -> Tensor:
        """Features `(n, 128)` of images `(n, 3, 32, 32)` in [0, 1]."""
        return self.pool(self.maps(images)[-1])

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Calibrated logits of every head."""
        last = self.maps(images)[-1]
        features, found = self.pool(last), self.places(last)
        domain = self.domain(features)[:, 0]
        found["domain"] = torch.minimum(domain, found["domain"]) if "domain" in found else domain
        found["background"] = self.background(features)
        temperatures: Tensor = self.get_buffer("temperatures")
        return {name: found[name] / temperatures[i] for i, name in enumerate(HEADS)}


class GridJudge(JudgeNetwork):
    """Plain convolutions with batch normalisation to 8 x 8 cells; each says whether an object has its centre there.

    More than two centres are more objects than it tells apart: then it is out of its domain.
    """

    def __init__(self, widths: Sequence[int] = (24, 48, 48, 96, 96, 128)) -> None:
        super().__init__()
        strides = (1, 2, 1, 2, 1, 1)
        ins = (3, *widths[:-1])
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 3, s, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU())
            for i, o, s in zip(ins, widths, strides, strict=True)
        )
        self.cells = nn.Conv2d(widths[-1], 1 + _NAMED, 1)
        self.last = nn.Linear(2 * widths[-1], WIDTH)

    def maps(self, images: Tensor) -> list[Tensor]:
        """Outputs of some of the layers."""
        x, kept = images * 2 - 1, []
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i in (0, 2, 4, 5):
                kept.append(x)
        return kept

    def pool(self, last: Tensor) -> Tensor:
        """Mean and maximum over places, then one layer."""
        return F.relu(self.last(torch.cat([last.mean((2, 3)), last.amax((2, 3))], 1)))

    def grid(self, last: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits of a centre, `(n, 64)`, and of its object, colour and style, `(n, 64, values)`."""
        sizes = (1, len(OBJECTS), len(COLOURS), len(STYLES))
        centre, objects, colours, styles = self.cells(last).flatten(2).transpose(1, 2).split(sizes, -1)
        return centre[..., 0], objects, colours, styles

    def places(self, last: Tensor) -> dict[str, Tensor]:
        """The two surest centres that no neighbour surpasses; the third one says that there are too many."""
        centre, objects, colours, styles = self.grid(last)
        around = F.max_pool2d(centre.unflatten(1, (GRID, GRID))[:, None], 3, 1, 1).flatten(1)
        best, cell = torch.where(centre == around, centre, -30.0).topk(PLACES + 1, 1)
        order = torch.where(best[:, :PLACES] > 0, cell[:, :PLACES] % GRID, GRID).argsort(dim=1, stable=True)
        sure, where = best.gather(1, order)[..., None], cell.gather(1, order)[..., None]
        objects, colours, styles = (x.take_along_dim(where, 1).log_softmax(-1) for x in (objects, colours, styles))
        found = torch.cat([F.logsigmoid(sure) + objects, F.logsigmoid(-sure)], -1)
        return {"object": found, "colour": colours, "style": styles, "domain": -best[:, PLACES]}


class PairJudge(JudgeNetwork):
    """Pixels folded 2 x 2, residual blocks with group normalisation at 8 x 8, attention for each of two objects."""

    def __init__(self, width: int = 96, blocks: int = 3, looks: int = 4) -> None:
        super().__init__()
        self.looks = looks
        self.stem = nn.Conv2d(12, 40, 3, padding=1)
        self.down = nn.Conv2d(40, width, 4, 2, 1)
        self.blocks = nn.ModuleList(NormedBlock(width) for _ in range(blocks))
        self.place = nn.Parameter(torch.zeros(1, width, 8, 8))
        self.weight = nn.Conv2d(width, (1 + PLACES) * looks, 1)
        self.last = nn.Linear(looks * width, WIDTH)
        self.each = nn.Linear(looks * width, WIDTH)
        self.heads = nn.ModuleDict({name: nn.Linear(WIDTH, HEADS[name]) for name in ("object", "colour", "style")})

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
        return F.gelu(self.last(self._looked(last)[:, 0]))

    def places(self, last: Tensor) -> dict[str, Tensor]:
        """Four weighted means over places for each of the two, then layers that both share."""
        each = F.gelu(self.each(self._looked(last)[:, 1:]))
        return {name: head(each).log_softmax(-1) for name, head in self.heads.items()}

    def _looked(self, last: Tensor) -> Tensor:
        """Weighted means over places: for the whole image, the left and the right object, `(n, 3, 4 x channels)`."""
        weights = self.weight(last).flatten(2).softmax(-1)
        means = torch.einsum("nkp,ncp->nkc", weights, last.flatten(2))
        return means.unflatten(1, (1 + PLACES, self.looks)).flatten(2)


class NormedBlock(nn.Module):
    """Two normalised convolutions, added to what they are given."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for _ in range(2))
        self.convolutions = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Features `(n, width, h, w)` of the same shape."""
        y = x
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            y = convolution(F.gelu(norm(y)))
        return x + y


NETWORKS: dict[int, type[JudgeNetwork]] = {1: GridJudge, 2: PairJudge}
