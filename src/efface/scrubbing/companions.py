"""Scrubbers that are on a model while another one is fitted to it: their concepts are kept out, too.

What a second scrubber changes is read by the later sites of the first, whose eraser there was fitted without it. No
change of erasers mends that, for which directions the first concept comes back in is seen in its labels alone. These
are remembered, in memory and for as long as there is the scrubber; a fit on the same data then erases both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from efface.core.installer import handles_on
from efface.core.labels import Kind
from efface.core.row_labels import read_labels
from efface.scrubbing.batches import Batch, Batches, Survey


@dataclass(frozen=True, eq=False)
class Remembered:
    """The labels of a fit.

    Attributes:
        inputs: Checksum of each batch without its labels.
        labels: Those of each batch.
        ignore_index: Label that is left out.
        kind: What labels were said to be.
        survey: What they are.
    """

    inputs: tuple[int, ...]
    labels: tuple[Tensor, ...]
    ignore_index: int
    kind: Kind
    survey: Survey

    @classmethod
    def of(cls, batches: Batches, kind: Kind, survey: Survey) -> Remembered | None:
        """Those of batches that were gone through; None if they were too many to be kept."""
        if batches.labels is None:
            return None
        return cls(tuple(batches.inputs), tuple(batches.labels), batches.ignore_index, kind, survey)

    def columns(self, batch: Batch, x: Tensor, align: Any) -> Tensor:
        """The labels of a batch as columns `(..., k)` for its hidden states `(..., d)`."""
        _, labels, counted = align(x, replace(batch, labels=self.labels[batch.number]))
        z = read_labels(labels, tuple(x.shape[:-1]), name="concept", kind=self.kind, mask=counted)
        return z.columns(self.survey.width).double()

    def suits(self, batches: Batches) -> bool:
        """Whether they are of the same inputs, and of the same tokens of these."""
        return self.inputs == tuple(batches.inputs) and all(
            torch.equal(grid(batch, batches.ignore_index), self._grid(batch)) for batch in batches
        )

    def _grid(self, batch: Batch) -> Tensor:
        return grid(replace(batch, labels=self.labels[batch.number]), self.ignore_index)


def fitted_on(model: nn.Module) -> Iterator[Any]:
    """The scrubbers on a model that were fitted to erase a concept."""
    for handle in handles_on(model):
        if getattr(handle.erasure, "fingerprint", None) is not None and handle.erasure.method != "random":
            yield handle.erasure


def grid(batch: Batch, ignore_index: int) -> Tensor:
    """Booleans of the tokens that count, or of the sequences where there are no tokens."""
    counted, mask = batch.counted(ignore_index), batch.mask()
    if counted.ndim == 1 and "pixel_values" not in batch.inputs and batch.main.ndim > 1:
        counted = counted[:, None].expand(batch.main.shape[:2])
        counted = counted if mask is None else counted & mask.to(counted.device)
    return counted.cpu()
