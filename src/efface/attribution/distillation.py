"""The model phase of DiET: the student learns to say of the masked sample what it says of the whole one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Generator, Tensor, nn

from efface._errors import InputError
from efface._validate import check_positive_int
from efface.attribution.maskers import Masker
from efface.attribution.masking import (
    as_probabilities,
    checked_draw,
    clean_outputs,
    distance,
    is_random,
    masked_outputs,
)
from efface.attribution.predictions import Outputs
from efface.attribution.removal import Removal
from efface.training.loop import Trainer

BatchNorm = Literal["frozen", "train"]
"""Whether batch normalisation keeps its statistics, or takes those of each batch and learns on."""

SMALLER = "write a smaller rate, e.g. rate=1e-5, and tune float16 models in float32 (Adam divides by their rounding)"


@dataclass(frozen=True)
class Distillation:
    """Settings of the model phase.

    Minimises over the weights of f_s, with masks m fixed and p the probabilities,

        mean_i |p_s(x_i) - p_s(x_s,i)|_1 + weight |p_b(x_i) - p_s(x_i)|_1

    Source: L_train of arXiv 2307.15007. Gradients go through both outputs of f_s. Samples and masked samples are two
    batches. Dropout stays off: what is distilled is the deterministic output, and the global random state is not used.

    Attributes:
        removal: Q.
        masker: What cells are.
        outputs: What the model gives.
        draws: Draws of q a sample and step.
        weight: Of the distance to the original model (lambda_2).
        rate: Learning rate of Adam.
        batch_size: Samples a step.
        batch_norm: `"frozen"` or `"train"`.
    """

    removal: Removal
    masker: Masker
    outputs: Outputs
    draws: int
    weight: float
    rate: float
    batch_size: int
    batch_norm: BatchNorm

    def __post_init__(self) -> None:
        check_positive_int(self.batch_size, "batch_size")
        for name in ("weight", "rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name}={getattr(self, name)!r}: write a number above 0")
        check_batch_norm(self.batch_norm)

    @property
    def draws_needed(self) -> int:
        """One where all draws are the same."""
        return self.draws if is_random(self.removal) else 1

    def batches(self, n: int) -> int:
        """Number of steps an epoch; batches are as equal as can be, so that none is left with a single sample."""
        count = -(-n // self.batch_size)
        if self.batch_norm == "train" and n // count < 2:
            raise InputError(
                f"{n} samples in batches of {self.batch_size} leave one sample alone, of which batch normalisation "
                'cannot learn: write batch_norm="frozen" or a larger batch_size'
            )
        return count

    def trainer(self, student: nn.Module) -> Trainer:
        """The tuning of a student by Adam, before its first step."""
        tuned = [p for p in student.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(tuned, lr=self.rate)
        return Trainer(student, optimizer, name="the tuning", advice=SMALLER)

    def epoch(
        self,
        trainer: Trainer,
        x: Tensor,
        masks: Tensor,
        target: Tensor,
        source: Generator,
        device: torch.device,
    ) -> dict[str, float]:
        """One pass over the samples in random order; the parts of the mean loss.

        Args:
            trainer: Of f_s, changed in place.
            x: Samples `(n, ...)`.
            masks: Binary masks `(n, *cells)`.
            target: p_b(x), `(n, classes)`.
            source: Of the order and of q.
            device: Where the student is.
        """
        student, order = trainer.module, torch.randperm(len(x), generator=source)
        sums = {"data": 0.0, "model": 0.0}
        with learning(student, self.batch_norm), torch.enable_grad():
            for rows in order.tensor_split(self.batches(len(x))):
                data, model = self._distances(student, x[rows].to(device), masks[rows], target[rows], source)
                trainer.descend(data.mean() + self.weight * model.mean())
                sums["data"] += float(data.detach().sum())
                sums["model"] += float(model.detach().sum())
        if not all(bool(p.isfinite().all()) for p in student.parameters()):
            raise InputError(f"the last step of the tuning made weights that are not finite: {SMALLER}")
        data, model = sums["data"] / len(x), sums["model"] / len(x)
        return {"loss": data + self.weight * model, "data": data, "model": model}

    def _distances(
        self, student: nn.Module, x: Tensor, mask: Tensor, target: Tensor, source: Generator
    ) -> tuple[Tensor, Tensor]:
        whole = as_probabilities(student(x), self.outputs)
        masker = self.masker.on(x)
        data = whole.new_zeros(len(x))
        for _ in range(self.draws_needed):
            q = checked_draw(self.removal.sample(x, source), x)
            part = as_probabilities(masked_outputs(student, masker, x, mask, q), self.outputs)
            data = data + distance(whole, part) / self.draws_needed
        return data, distance(target.to(x.device), whole)


def check_batch_norm(given: str) -> None:
    """Refuse what is no way to treat batch normalisation."""
    if given not in get_args(BatchNorm):
        raise InputError(f'batch_norm={given!r}: write "frozen" or "train"')


@contextmanager
def learning(student: nn.Module, batch_norm: BatchNorm) -> Iterator[None]:
    """Batch normalisation in training mode within the block, if asked for; all else stays in eval mode."""
    norms = [m for m in student.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    chosen = norms if batch_norm == "train" else []
    try:
        for norm in chosen:
            norm.train()
        yield
    finally:
        for norm in chosen:
            norm.eval()


def probabilities_of(model: nn.Module, x: Tensor, outputs: Outputs, batch_size: int, device: torch.device) -> Tensor:
    """p(x) of all samples, `(n, classes)`, on the CPU."""
    return torch.cat([clean_outputs(model, chunk.to(device), outputs).cpu() for chunk in x.split(batch_size)])


def share_alike(p: Tensor, other: Tensor) -> float:
    """Share of rows with the same likeliest class."""
    return float((p.argmax(1) == other.argmax(1)).double().mean())
