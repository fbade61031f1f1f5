"""Visual feedback: what a detector sees in pictures of a first pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from efface._errors import InputError

Detector = Callable[[Tensor, str], Any]
"""Images `(n, 3, h, w)` and a word -> whether each shows it, `(n,)` booleans or probabilities."""


def seen_by(
    detector: Detector, images: Tensor, targets: Sequence[str], seen_from: float = 0.5, trust: float = 1.0
) -> list[dict[str, float]]:
    """For each picture, the concepts that a detector sees in it, with how surely.

    Args:
        detector: Who looks.
        images: `(n, 3, height, width)`.
        targets: What for.
        seen_from: How sure the detector must be.
        trust: What its certainty is multiplied by.

    Raises:
        InputError: If the detector fails, or returns something else than one value in [0, 1] a picture.

    >>> seen_by(lambda images, name: torch.tensor([0.9, 0.1]), torch.zeros(2, 3, 4, 4), ["star"])
    [{'star': 0.8999999761581421}, {}]
    """
    seen: list[dict[str, float]] = [{} for _ in images]
    for target in targets:
        try:
            found = torch.as_tensor(detector(images, target)).detach().float().cpu()
        except Exception as error:
            raise InputError(f"the detector failed on {len(images)} pictures asked for {target!r}: {error}") from error
        if found.shape != (len(images),) or not bool(((found >= 0) & (found <= 1)).all()):
            raise InputError(
                f"the detector gave {tuple(found.shape)} for {len(images)} pictures: expected one value in 0 to 1 each"
            )
        for i, sure in enumerate(found.tolist()):
            if sure >= seen_from:
                seen[i][target] = trust * sure
    return seen
