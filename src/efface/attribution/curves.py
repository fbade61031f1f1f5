"""What a model does as cells are kept, or removed, in the order of a map: the curves of pixel perturbation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface._validate import check_positive_int
from efface.attribution.masking import checked_draw
from efface.attribution.predictions import Outputs, check_classes, check_inputs, check_maps, predict
from efface.attribution.selection import cells_of, keep_cells, ranks
from efface.core.doors import check_call

if TYPE_CHECKING:
    from efface.attribution.removal import Removal

FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2)
"""Shares of cells at which the paper's pixel perturbation looks, and a fifth."""


@dataclass(frozen=True)
class Curve:
    """What a model does as cells are kept or removed in order of a map.

    Attributes:
        kind: `"keep"`: the top cells stay; `"drop"`: they go.
        fractions: Shares of cells, f of them, in the order given.
        cells: The same as numbers of cells.
        hits: Share of draws in which the class predicted is the reference, `(n, f)`.
        probability: Mean probability of the reference class, `(n, f)`.
    """

    kind: Literal["keep", "drop"]
    fractions: tuple[float, ...]
    cells: tuple[int, ...]
    hits: Tensor
    probability: Tensor

    def at(self, fraction: float) -> Tensor:
        """Hits of each image at one of the fractions, `(n,)`.

        Raises:
            InputError: If the curve does not hold that fraction.
        """
        check_call(Curve.at, locals())
        if fraction not in self.fractions:
            raise InputError(f"the curve has no fraction {fraction}: it has {', '.join(map(str, self.fractions))}")
        return self.hits[:, self.fractions.index(fraction)]

    def area(self) -> Tensor:
        """Area under the hits of each image by the trapezoid rule, divided by the span of fractions, `(n,)`.

        Raises:
            InputError: If there are fewer than two different fractions.
        """
        places = torch.tensor(self.fractions, dtype=self.hits.dtype)
        order = places.argsort()
        span = float(places.max() - places.min())
        if span <= 0:
            raise InputError(f"an area needs two different fractions, the curve has {self.fractions}")
        return torch.trapezoid(self.hits[:, order], places[order], dim=1) / span


def keep_curve(
    model: nn.Module,
    x: Tensor,
    maps: Tensor,
    removal: Removal,
    *,
    labels: Tensor | None = None,
    fractions: Sequence[float] = FRACTIONS,
    draws: int = 1,
    outputs: Outputs = "logits",
    batch_size: int = 256,
    seed: int = 0,
) -> Curve:
    """Accuracy when only the top cells stay: f(m * x + (1 - m) * q), with m the k most important cells, q ~ Q.

    Args:
        model: In eval mode; `(n, ...)` to `(n, classes)`.
        x: Images `(n, channels, h, w)` or a table `(n, features)`.
        maps: `(n, h, w)` or `(n, features)`, higher is more important.
        removal: Q, what stands where something is removed. The same draws serve every fraction and every map.
        labels: `(n,)`, the classes to hit: accuracy. If not given, the model's own predictions on `x`: agreement.
        fractions: Shares of cells that stay, each in [0, 1].
        draws: How many q an image.
        outputs: Whether the model returns `"logits"` or `"probabilities"`.
        batch_size: Inputs a forward pass; it changes no figure.
        seed: Seed of q and of the order of equal cells.

    Raises:
        InputError: If shapes differ, values are not finite, a fraction is no share, or the model is in training mode.

    Does not guarantee: that the masked images look like any the model was trained on. A model may fail on them for
    that alone, so compare with the controls `random` and `oracle` of `efface.attribution.controls`. That special
    tokens stay: of token ids, every place counts and may be replaced, padding too; cut it off before.

    Source: pixel perturbation as in arXiv:2307.15007, section 5, with exactly k cells.
    """
    check_call(keep_curve, locals())
    return _curve(
        "keep", model, x, maps, removal, labels, fractions, draws=draws, outputs=outputs, batch=batch_size, seed=seed
    )


def drop_curve(
    model: nn.Module,
    x: Tensor,
    maps: Tensor,
    removal: Removal,
    *,
    labels: Tensor | None = None,
    fractions: Sequence[float] = FRACTIONS,
    draws: int = 1,
    outputs: Outputs = "logits",
    batch_size: int = 256,
    seed: int = 0,
) -> Curve:
    """Accuracy when the top cells are removed; a good map makes it fall early. Arguments as `keep_curve`.

    Does not guarantee: what `keep_curve` does not either; and a signal that is there twice survives the removal of
    one copy, however right the map.
    """
    check_call(drop_curve, locals())
    return _curve(
        "drop", model, x, maps, removal, labels, fractions, draws=draws, outputs=outputs, batch=batch_size, seed=seed
    )


def _curve(
    kind: Literal["keep", "drop"],
    model: nn.Module,
    x: Tensor,
    maps: Tensor,
    removal: Removal,
    labels: Tensor | None,
    fractions: Sequence[float],
    *,
    draws: int,
    outputs: Outputs,
    batch: int,
    seed: int,
) -> Curve:
    check_inputs(x)
    check_maps(maps, x)
    check_positive_int(draws, "draws")
    if not len(fractions):
        raise InputError(f"fractions are empty: write some shares of cells, e.g. {FRACTIONS}")
    order = ranks(maps, seed=seed)
    cells = tuple(cells_of(share, order[0].numel()) for share in fractions)
    wanted = reference(model, x, labels, outputs=outputs, batch_size=batch)
    hits, probability = torch.zeros(2, len(x), len(cells))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(draws):
        filling = fill(removal, x, generator)
        for column, k in enumerate(cells):
            keep = order < k if kind == "keep" else order >= k
            said = predict(model, keep_cells(x, keep, filling), outputs=outputs, batch_size=batch).cpu()
            hits[:, column] += (said.argmax(1) == wanted) / draws
            probability[:, column] += said.gather(1, wanted[:, None])[:, 0] / draws
    return Curve(kind, tuple(float(share) for share in fractions), cells, hits, probability)


def reference(
    model: nn.Module, x: Tensor, labels: Tensor | None, *, outputs: Outputs = "logits", batch_size: int = 256
) -> Tensor:
    """The classes to hit, `(n,)` on the CPU: the labels, or what the model says of the whole input."""
    said = predict(model, x, outputs=outputs, batch_size=batch_size)
    if labels is None:
        return said.argmax(1).cpu()
    check_classes(labels, len(x), said.shape[1])
    return labels.long().cpu()


def fill(removal: Removal, x: Tensor, generator: torch.Generator) -> Tensor:
    """One draw of q for each input, checked: `(n, ...)` like `x`.

    Raises:
        InputError: If the removal does not fit x, or returns another shape, or values that are not finite.
    """
    if (check := getattr(removal, "check", None)) is not None:
        check(x)
    return checked_draw(removal.sample(x, generator), x)
