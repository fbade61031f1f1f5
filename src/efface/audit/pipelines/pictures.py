"""Pictures of an audit of a pipeline: what was drawn before and after at the same seeds, failures first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from efface.audit.figure import Figure
from efface.audit.picture import Picture
from efface.report.data import AFTER, BEFORE

_SHOWN, _SIDE, _COLOURS = 3, 192, 3


def side_by_side(
    name: str,
    jobs: Sequence[tuple[str, int]],
    images: Mapping[str, Tensor],
    hits: Mapping[str, NDArray[np.float64]],
    *,
    gone: bool,
) -> Figure:
    """Some images of one concept, one beside the other where there is an erasure; what went wrong first.

    Args:
        name: Of the concept.
        jobs: Prompt and seed of each image.
        images: Side -> images `(n, c, h, w)` in [0, 1].
        hits: Side -> 1 where the judge sees the concept, 0 where it does not, NaN where it cannot say, `(n,)`.
        gone: Whether it should not be seen after erasure, or else should be.
    """
    last = hits[AFTER] if AFTER in hits else hits[BEFORE]
    wrong = last == 1 if gone and AFTER in hits else last == 0
    order = np.argsort(~wrong, kind="stable")[:_SHOWN]
    pictures = [_picture(side, jobs[i], images[side][i], float(hits[side][i])) for i in order for side in images]
    count = f"{int(wrong.sum())} of {len(wrong)}"
    should = "is still seen" if gone and AFTER in hits else "is not seen"
    return Figure(
        f"{name}: {count} where it {should}",
        kind="overlays",
        pictures=tuple(pictures),
        caption="At equal prompts and seeds, those where it goes wrong first." if AFTER in images else "",
    )


def _picture(side: str, job: tuple[str, int], image: Tensor, hit: float) -> Picture:
    prompt, seed = job
    said = "the judge cannot say" if np.isnan(hit) else f"{'seen' if hit else 'not seen'} by the judge"
    words = (said, f"“{prompt}”, seed {seed}")
    return Picture(side, words, pixels_of(image))


def pixels_of(image: Tensor) -> NDArray[np.uint8]:
    """`(h, w, 3)`, large pictures made smaller by a whole factor."""
    factor = max(1, max(image.shape[1:]) // _SIDE)
    small = F.avg_pool2d(image[None].float(), factor)[0] if factor > 1 else image.float()
    small = small[:_COLOURS] if len(small) >= _COLOURS else small[:1].expand(_COLOURS, -1, -1)
    return (255 * small).round().clamp(0, 255).byte().permute(1, 2, 0).contiguous().numpy()
