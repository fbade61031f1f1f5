"""Two judges of different build: convolutions that pool whole and halves, and places that look for what is theirs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efface_worlds.emoji.concepts import BACKGROUNDS, CONCEPTS, STYLES, TONES
from efface_worlds.shapes.networks import NormedBlock

PLACES = 2
"""Objects that a judge can tell apart in a picture, the left one first; where there is one, the second is "none"."""

NOTHING = len(CONCEPTS)
"""Label of "none" among the objects of a verdict."""

TONELESS = len(TONES)
"""Label of "none" among the skin tones of a verdict: what is no person, or is yellow, or drawn in black and white."""

HEADS = {
    "object": len(CONCEPTS) + 1,  # of each place; the last is "none"
    "tone": len(TONES) + 1,  # of each place; the last is "none"
    "style": len(STYLES),
    "background": len(BACKGROUNDS),
    "domain": 1,  # a sigmoid: whether the picture is of the kind that the judge knows
}


class JudgeNetwork(nn.Module):
    """Base of both: pictures in [0, 1] -> features of the whole and of each place -> what is to be seen there.

    Attributes:
        width: Of features.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.object = nn.Linear(width, len(CONCEPTS))
        self.tone = nn.Linear(width, HEADS["tone"])
        self.count = nn.Linear(width, 1 + PLACES)  # no, one or two objects
        self.style = nn.Linear(width, HEADS["style"])
        self.background = nn.Linear(width, HEADS["background"])
        self.domain = nn.Linear(width, 1)
        self.register_buffer("temperatures", torch.ones(len(HEADS)))

    def looked(self, pictures: Tensor) -> Tensor:
        """Features of the whole, of a lone object, of the left and the right one of two, `(n, 4, width)`."""
        raise NotImplementedError

    def features(self, pictures: Tensor) -> Tensor:
        """Features `(n, width)` of pictures `(n, 3, 48, 48)` in [0, 1], of the whole."""
        return self.looked(pictures)[:, 0]

    def raw(self, pictures: Tensor) -> dict[str, Tensor]:
        """Logits as training asks them: `"object"` and `"tone"` of a lone, a left and a right object, `(n, 3, k)`."""
        found = self.looked(pictures)
        whole = {name: getattr(self, name)(found[:, 0]) for name in ("count", "style", "background")}
        each = {name: getattr(self, name)(found[:, 1:]) for name in ("object", "tone")}
        return whole | each | {"domain": self.domain(found[:, 0])[:, 0]}

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Calibrated logits of every head; `"object"` and `"tone"` at each place, `(n, 2, k)`."""
        found, heat = self.raw(pictures), dict(zip(HEADS, self.get_buffer("temperatures"), strict=True))
        count = found.pop("count").log_softmax(-1)
        none, one, two = (c[:, None] for c in count.unbind(1))
        alone, left, right = (found["object"] / heat["object"]).log_softmax(-1).unbind(1)
        first = torch.cat([torch.logaddexp(one + alone, two + left), none], 1)
        second = torch.cat([two + right, torch.logaddexp(none, one)], 1)
        alone, left, right = (found["tone"] / heat["tone"]).log_softmax(-1).unbind(1)
        tones = torch.logaddexp(one + alone, two + left) - torch.logaddexp(one, two)
        rest = {name: found[name] / heat[name] for name in ("style", "background", "domain")}
        return {"object": torch.stack([first, second], 1), "tone": torch.stack([tones, right], 1), **rest}


class HalvesJudge(JudgeNetwork):
    """Residual convolutions with batch normalisation to 6 x 6 cells; mean and maximum of all, of the left, the right.

    Since the same layer reads all three, what an object is called does not depend on where it is.
    """

    def __init__(self, widths: Sequence[int] = (32, 80, 144, 192), width: int = 160) -> None:
        super().__init__(width)
        self.stem = _normed(3, widths[0], 2)
        shapes = zip((widths[0], *widths), widths, (1, 2, 2, 1), strict=False)
        self.blocks = nn.ModuleList(_Residual(*shape) for shape in shapes)
        self.whole = nn.Linear(2 * widths[-1], width)
        self.each = nn.Linear(2 * widths[-1], width)

    def looked(self, pictures: Tensor) -> Tensor:
        """Features of the whole and of each place."""
        x = self.stem(pictures * 2 - 1)
        for block in self.blocks:
            x = block(x)
        half = x.shape[-1] // 2
        parts = [torch.cat([y.mean((2, 3)), y.amax((2, 3))], 1) for y in (x, x[..., :half], x[..., half:])]
        each = self.each(torch.stack(parts, 1))
        return F.relu(torch.cat([self.whole(parts[0])[:, None], each], 1))


class LooksJudge(JudgeNetwork):
    """Pixels folded 2 x 2, residual blocks with group normalisation to 6 x 6, attention for each place."""

    def __init__(self, widths: Sequence[int] = (32, 80, 144), width: int = 160, looks: int = 4) -> None:
        super().__init__(width)
        self.looks = looks
        self.stem = nn.Conv2d(12, widths[0], 3, padding=1)
        self.downs = nn.ModuleList(nn.Conv2d(i, o, 2, 2) for i, o in zip(widths, widths[1:], strict=False))
        self.blocks = nn.ModuleList(
            nn.Sequential(*(NormedBlock(w) for _ in range(n))) for w, n in zip(widths, (1, 1, 2), strict=True)
        )
        self.place = nn.Parameter(torch.zeros(1, widths[-1], 6, 6))
        self.weight = nn.Conv2d(widths[-1], (2 + PLACES) * looks, 1)
        self.whole = nn.Linear(looks * widths[-1], width)
        self.each = nn.Linear(looks * widths[-1], width)

    def looked(self, pictures: Tensor) -> Tensor:
        """Features of the whole and of each place: weighted means over cells, then a layer."""
        x = self.blocks[0](self.stem(F.pixel_unshuffle(pictures * 2 - 1, 2)))
        for down, block in zip(self.downs, self.blocks[1:], strict=True):
            x = block(down(x))
        weights = self.weight(x + self.place).flatten(2).softmax(-1)
        means = (weights @ x.flatten(2).transpose(1, 2)).unflatten(1, (2 + PLACES, self.looks)).flatten(2)
        return F.gelu(torch.cat([self.whole(means[:, :1]), self.each(means[:, 1:])], 1))


class _Residual(nn.Module):
    def __init__(self, ins: int, outs: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = _normed(ins, outs, stride), _normed(outs, outs, 1, last=True)
        self.short = nn.Identity() if ins == outs else nn.Conv2d(ins, outs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.short(x) + self.second(self.first(x)))


def _normed(ins: int, outs: int, stride: int, *, last: bool = False) -> nn.Sequential:
    layers = [nn.Conv2d(ins, outs, 3, stride, 1, bias=False), nn.BatchNorm2d(outs)]
    return nn.Sequential(*layers, *([] if last else [nn.ReLU()]))


NETWORKS: dict[int, type[HalvesJudge] | type[LooksJudge]] = {1: HalvesJudge, 2: LooksJudge}
