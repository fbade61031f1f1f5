"""Mask cells that follow an image's colours: k-means of colour and place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from efface._errors import InputError
from efface._validate import check_positive_int
from efface.attribution.maskers import Masker, check_mask
from efface.core.doors import check_call, check_fields
from efface.core.saved_types import saved


@saved
@dataclass(frozen=True)
class Superpixels(Masker):
    """Superpixels of each image `(n, c, h, w)`: k-means of colour and place, starting from a regular grid.

    A pixel goes to the centre with the least `|colour - colour_k|^2 / compactness^2 + |place - place_k|^2 / spacing^2`.
    Source: SLIC, Achanta et al., IEEE TPAMI 34 (2012), eq. 1 to 3, with the colours as they are instead of CIELAB and
    with every centre in reach of every pixel.

    Attributes:
        rows: Centres along the height at the start.
        columns: Centres along the width.
        compactness: Difference of colour that counts as much as one spacing of the grid, in the image's units.
        iterations: Of k-means.

    Does not guarantee: that a superpixel is in one piece: SLIC's last step, which joins strays, is left out.
    """

    rows: int = 8
    columns: int = 8
    compactness: float = 0.2
    iterations: int = 5

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("rows", "columns", "iterations"):
            check_positive_int(getattr(self, name), name)
        if not self.compactness > 0:
            raise InputError(f"compactness={self.compactness}: write a difference of colour above 0, e.g. 0.2")

    def shape(self, x: Tensor) -> tuple[int, ...]:
        """Number of superpixels."""
        check_call(Superpixels.shape, locals())
        if x.ndim != 4:
            raise InputError(f"x has shape {tuple(x.shape)}: expected images (n, channels, height, width)")
        if self.rows > x.shape[2] or self.columns > x.shape[3]:
            raise InputError(
                f"the mask grid of {self.rows} x {self.columns} superpixels is larger than the image of {x.shape[2]} x "
                f"{x.shape[3]}: write fewer rows and columns"
            )
        return (self.rows * self.columns,)

    def on(self, x: Tensor) -> Self:
        """This masker with the superpixels of one batch."""
        return _Found(self.rows, self.columns, self.compactness, self.iterations, self.labels(x))  # type: ignore[return-value]

    @torch.no_grad()
    def labels(self, x: Tensor) -> Tensor:
        """Which superpixel each pixel is in, `(n, h, w)`; each image's depend on that image alone."""
        self.shape(x)
        return torch.stack([self._segment(image) for image in x])

    def _segment(self, image: Tensor) -> Tensor:
        _, h, w = image.shape
        place = torch.meshgrid(
            (torch.arange(h, device=image.device) + 0.5) * self.rows / h,
            (torch.arange(w, device=image.device) + 0.5) * self.columns / w,
            indexing="ij",
        )
        points = torch.cat([image.float() / self.compactness, torch.stack(place)]).flatten(1).T
        start = (place[0].long() * self.columns + place[1].long()).flatten()
        labels, k = start, self.rows * self.columns
        for _ in range(self.iterations):
            member = torch.nn.functional.one_hot(labels, k).to(points.dtype)
            size = member.sum(0)
            centres = member.T @ points / size.clamp(min=1)[:, None]
            distance = torch.cdist(points, centres, compute_mode="donot_use_mm_for_euclid_dist")
            labels = distance.masked_fill(size == 0, torch.inf).argmin(dim=1)
        return labels.view(h, w)

    def free(self, x: Tensor) -> Tensor:
        """All superpixels that have a pixel."""
        return self.on(x).free(x)

    def expand(self, mask: Tensor, x: Tensor) -> Tensor:
        """The mask at pixels, `(n, 1, h, w)`."""
        check_call(Superpixels.expand, locals())
        check_mask(mask, x, self.shape(x))
        return self.on(x).expand(mask, x)

    def map(self, mask: Tensor, x: Tensor) -> Tensor:
        """The mask at pixels, `(n, h, w)`."""
        check_call(Superpixels.map, locals())
        return self.expand(mask.float(), x)[:, 0]


@dataclass(frozen=True, eq=False)
class _Found(Superpixels):
    """Superpixels with the labels of one batch, `(n, h, w)`."""

    found: Tensor = torch.empty(0)

    def on(self, x: Tensor) -> Self:
        return self

    def free(self, x: Tensor) -> Tensor:
        member = torch.zeros(len(x), *self.shape(x), dtype=torch.bool, device=x.device)
        return member.scatter_(1, self.found.flatten(1), True)

    def expand(self, mask: Tensor, x: Tensor) -> Tensor:
        return mask.gather(1, self.found.flatten(1)).view(len(x), 1, *x.shape[2:])
