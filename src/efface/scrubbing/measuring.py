"""What is left of a concept at the sites of a model with all erasers on: measured, not taken from the fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from efface.core.edits import started
from efface.core.hooks import StateEdit
from efface.core.labels import Kind
from efface.core.row_labels import read_labels
from efface.core.site import Site
from efface.scrubbing.batches import Batch, Batches
from efface.scrubbing.forward import Stop, align, run_to


class Left:
    """Correlations of features with the columns of a concept, at one site, of each call in a forward pass apart."""

    def __init__(self) -> None:
        self._calls: list[_Sums] = []

    def add(self, call: int, before: Tensor, after: Tensor, columns: Tensor) -> None:
        """Rows of one call, `(n, d)` before and after the edit, with columns `(n, width)`."""
        if call == len(self._calls):
            self._calls.append(_Sums(after, columns))
        self._calls[call].add(before, after, columns)

    @property
    def largest(self) -> float:
        """The largest correlation, at any call, in units of a feature before the edit."""
        return max((sums.largest for sums in self._calls), default=0.0)


class _Sums:
    """Sums in float64, about the first batch's means, so that large means lose no digits."""

    def __init__(self, after: Tensor, columns: Tensor) -> None:
        self._origin = after.double().mean(0), columns.double().mean(0)
        self._n = 0
        self._sums: list[Tensor] = [torch.zeros((), dtype=torch.float64, device=after.device)] * 6

    def add(self, before: Tensor, after: Tensor, columns: Tensor) -> None:
        """Rows of one batch."""
        x, y, z = before.double() - self._origin[0], after.double() - self._origin[0], columns.double()
        z = z - self._origin[1]
        new = (x.sum(0), (x * x).sum(0), y.sum(0), z.sum(0), (z * z).sum(0), y.mT @ z)
        self._sums = [a + b for a, b in zip(self._sums, new, strict=True)]
        self._n += len(x)

    @property
    def largest(self) -> float:
        n, (x, xx, y, z, zz, yz) = self._n, self._sums
        covariance = yz / n - torch.outer(y / n, z / n)
        unit = torch.outer((xx / n - (x / n).square()).clamp_min(0), (zz / n - (z / n).square()).clamp_min(0)).sqrt()
        return float(torch.where(unit > 0, covariance.abs() / unit, 0.0).max())


def measure_left(
    model: nn.Module, batches: Batches, erasers: Mapping[Site, Any], calls: Mapping[Site, int], width: int, kind: Kind
) -> dict[Site, float]:
    """The largest correlation of a feature with the concept that is left at each site, with all erasers on.

    Args:
        model: The model, at rest.
        batches: Data and labels.
        erasers: Site -> eraser, in the order of a forward pass.
        calls: Site -> how often a forward pass comes by; each time is measured apart, and the worst counts.
        width: Columns of the concept.
        kind: What labels are, if not what their dtype says.
    """
    left = {site: Left() for site in erasers}
    begun: dict[Site, StateEdit] = {site: started(eraser) for site, eraser in erasers.items()}
    last = list(erasers)[-1]
    for batch in batches:

        def measured(site: Site, batch: Batch = batch) -> StateEdit:
            seen = 0

            def edit(x: Tensor) -> Tensor:
                nonlocal seen
                found = begun[site](x)
                after = x if found is None else found
                before, labels, counted = align(x.detach(), batch, site, batches.ignore_index)
                if n := int(counted.sum()):
                    columns = read_labels(labels[counted], (n,), name="concept", kind=kind).columns(width)
                    rows = after.detach().reshape(before.shape)
                    left[site].add(seen, before[counted], rows[counted], columns)
                seen += 1
                if site == last and seen == calls[site]:
                    raise Stop
                return after

            return edit

        run_to(model, batch, {site: measured(site) for site in erasers})
    return {site: each.largest for site, each in left.items()}
