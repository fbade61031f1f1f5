"""What is left of a concept at the sites of a model with all erasers on: measured, not taken from the fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from efface.core.edits import started
from efface.core.hooks import StateEdit
from efface.core.labels import Kind
from efface.core.row_labels import read_labels
from efface.core.site import Site
from efface.scrubbing.batches import Batch, Batches
from efface.scrubbing.forward import Stop, align, run_to
from efface.scrubbing.together import Together


class Left:
    """Correlations of features with the columns of a concept, at one site, of each call in a forward pass apart.

    Args:
        calls: How often a forward pass comes by.
    """

    def __init__(self, calls: int) -> None:
        self._calls = [_Sums() for _ in range(calls)]

    def add(self, call: int, before: Tensor, after: Tensor, columns: Tensor) -> None:
        """Rows of one call, `(n, d)` before and after the edit, with columns `(n, width)`."""
        self._calls[call].add(before, after, columns)

    def largest(self, together: Together, eraser: Any, width: int) -> float:
        """The largest correlation, at any call, in units of a feature before the edit.

        Args:
            together: The processes whose rows count.
            eraser: Of the site; sums of a process without rows are of its width.
            width: Columns of the concept.
        """
        every = self._calls
        if together.over is not None:
            rows = eraser.proj_left.new_zeros(1, len(eraser.proj_left))
            columns = rows.new_zeros(1, width)
            parts = [each.at(rows, columns) for each in every]
            every = [_Sums().load_state_dict(together.merged(e, lambda: _Sums().at(rows, columns))) for e in parts]
        return max((sums.largest for sums in every), default=0.0)


class _Sums:
    """Sums in float64, about the first batch's means, so that large means lose no digits."""

    def __init__(self) -> None:
        self._origin: tuple[Tensor, Tensor] | None = None
        self._n = 0
        self._sums: list[Tensor] = []

    def at(self, after: Tensor, columns: Tensor) -> Self:
        """About the means of these rows, if there is no origin yet."""
        if self._origin is None:
            self._origin = after.double().mean(0), columns.double().mean(0)
            y, z = self._origin
            self._sums = [torch.zeros_like(each) for each in (y, y, y, z, z, torch.outer(y, z))]
        return self

    def add(self, before: Tensor, after: Tensor, columns: Tensor) -> None:
        """Rows of one batch."""
        self.at(after, columns)
        y_0, z_0 = self._origins
        x, y, z = before.double() - y_0, after.double() - y_0, columns.double() - z_0
        new = (x.sum(0), (x * x).sum(0), y.sum(0), z.sum(0), (z * z).sum(0), y.mT @ z)
        self._sums = [a + b for a, b in zip(self._sums, new, strict=True)]
        self._n += len(x)

    @property
    def _origins(self) -> tuple[Tensor, Tensor]:
        assert self._origin is not None
        return self._origin

    def merge(self, other: _Sums) -> Self:
        """Take in another process's, whose origin is another."""
        if not self._n:
            self._origin = other._origin
        (y_0, z_0), (y_1, z_1), n = self._origins, other._origins, other._n
        dy, dz, (x, xx, y, z, zz, yz) = y_1 - y_0, z_1 - z_0, other._sums
        moved = (
            *(x + n * dy, xx + 2 * dy * x + n * dy.square(), y + n * dy, z + n * dz),
            *(
                zz + 2 * dz * z + n * dz.square(),
                yz + torch.outer(dy, z) + torch.outer(y, dz) + n * torch.outer(dy, dz),
            ),
        )
        self._sums = [a + b for a, b in zip(self._sums, moved, strict=True)]
        self._n += n
        return self

    def copy(self) -> _Sums:
        """An independent one."""
        return _Sums().load_state_dict({name: value.clone() for name, value in self.state_dict().items()})

    def state_dict(self) -> dict[str, Tensor]:
        """All of it."""
        y, z = self._origins
        return dict(zip(_NAMES, (torch.tensor(self._n), y, z, *self._sums), strict=True))

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Self:
        """Have what another one has."""
        n, y, z, *sums = (state[name] for name in _NAMES)
        self._n, self._origin, self._sums = int(n), (y, z), sums
        return self

    @property
    def largest(self) -> float:
        """The largest correlation of a column with a feature, in units of the feature before the edit."""
        n, (x, xx, y, z, zz, yz) = self._n, self._sums
        if not n:
            return 0.0
        covariance = yz / n - torch.outer(y / n, z / n)
        unit = torch.outer((xx / n - (x / n).square()).clamp_min(0), (zz / n - (z / n).square()).clamp_min(0)).sqrt()
        return float(torch.where(unit > 0, covariance.abs() / unit, 0.0).max())


_NAMES = ("n", "origin_y", "origin_z", "x", "xx", "y", "z", "zz", "yz")


def measure_left(
    model: nn.Module,
    batches: Batches,
    erasers: Mapping[Site, Any],
    calls: Mapping[Site, int],
    width: int,
    kind: Kind,
    together: Together,
) -> dict[Site, float]:
    """The largest correlation of a feature with the concept that is left at each site, with all erasers on.

    Args:
        model: The model, at rest.
        batches: Data and labels.
        erasers: Site -> eraser, in the order of a forward pass.
        calls: Site -> how often a forward pass comes by; each time is measured apart, and the worst counts.
        width: Columns of the concept.
        kind: What labels are, if not what their dtype says.
        together: The processes whose rows count.
    """
    left = {site: Left(calls[site]) for site in erasers}
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
    return {site: each.largest(together, erasers[site], width) for site, each in left.items()}
