"""Trainer controls of DiET: other ways to spend the same compute on a model that should stop listening to distractors.

Compute is counted in passes: one input through the model, forwards and backwards. A step of DiET's mask phase on one
sample is a pass, a step of its model phase two. What a fit used (`DietErasure.report["passes"]`) is given to a control,
and the control stops when it has used as many. The original's own answers, computed once, are counted for neither.
As in DiET, a copy is tuned, dropout stays off, and batch normalisation is frozen unless asked for.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from efface._errors import InputError
from efface._progress import progress
from efface._validate import check_positive_int
from efface.attribution.curves import fill
from efface.attribution.distillation import (
    SMALLER,
    BatchNorm,
    Distillation,
    check_batch_norm,
    learning,
    probabilities_of,
)
from efface.attribution.maskers import Masker
from efface.attribution.masking import prepare
from efface.attribution.predictions import (
    Outputs,
    as_read_by,
    check_classes,
    check_gradient,
    check_in_memory,
    check_inputs,
    check_model,
    device_of,
    exact,
    predict,
    to_probabilities,
)
from efface.attribution.removal import Removal
from efface.attribution.selection import cells_of, keep_cells, top_k
from efface.core.doors import check_call
from efface.core.inference import outside_inference
from efface.training.loop import Trainer
from efface.training.seeds import generator

_FLOOR = 1e-12
_ORDER, _CHANCE = 0, 1  # what draws are for


@dataclass(frozen=True)
class Tuned:
    """A tuned model and what it cost.

    Attributes:
        model: A tuned copy, in eval mode; the original is untouched.
        losses: Mean loss of each epoch; the last may be cut short.
        passes: Inputs that went through the model, forwards and backwards.
    """

    model: nn.Module
    losses: tuple[float, ...]
    passes: int


@outside_inference
def random_mask_distillation(
    model: nn.Module,
    x: Tensor,
    removal: Removal,
    masker: Masker,
    *,
    passes: int,
    keep: float = 0.3,
    draws: int = 1,
    weight: float = 1.0,
    rate: float = 1e-4,
    batch_size: int = 64,
    batch_norm: BatchNorm = "frozen",
    outputs: Outputs = "logits",
    seed: int = 0,
) -> Tuned:
    """DiET's model phase (`Distillation`) with masks that nobody learned, drawn anew for each epoch.

    Minimises |f_s(x) - f_s(x_s(m, q))|_1 + weight |f_b(x) - f_s(x)|_1 of probabilities, as L_train of DiET
    (arXiv:2307.15007), with m ~ Bernoulli(keep) for each cell of the masker and f_s starting as a copy of f_b. Needs no
    labels. If this does as well as DiET at equal `passes`, the learned masks were not what helped.

    Args:
        model: The original f_b, in eval mode.
        x: Samples `(n, ...)`: images, rows of a table or token ids.
        removal: Q.
        masker: What the cells are; give DiET's.
        passes: Compute to spend; an epoch costs `n * (1 + draws)`.
        keep: Probability that a cell stays, in (0, 1).
        draws: Draws of q for each sample and step.
        weight: Of the distance to the original model.
        rate: Learning rate of Adam. Ten times the default cost a prototype 3 points of accuracy: watch `agreement`.
        batch_size: Samples a step.
        batch_norm: `"frozen"` or `"train"`; x and x_s are two batches.
        outputs: Whether the model returns `"logits"` or `"probabilities"`.
        seed: Seed of order, masks and q.

    Raises:
        InputError: If an argument is out of range, `passes` is less than two samples cost, or the loss becomes NaN.

    Does not guarantee: that the tuned model agrees with the original; measure it.
    """
    check_call(random_mask_distillation, locals())
    check_model(model)
    _check_share(keep, "keep")
    x, device = prepare(model, x, removal), device_of(model, x)
    phase = Distillation(
        removal, masker, outputs, check_positive_int(draws, "draws"), weight, rate, batch_size, batch_norm
    )
    target = probabilities_of(model, x, outputs, batch_size, device)
    fixed = ~masker.free(x).cpu()

    def epoch(trainer: Trainer, rows: Tensor, source: Generator) -> float:
        masks = (torch.rand(len(rows), *fixed.shape[1:], generator=source) < keep) | fixed[rows]
        return phase.epoch(trainer, x[rows], masks, target[rows], source, device)["loss"]

    return _tune(model, len(x), epoch, 1 + phase.draws_needed, passes, rate, seed)


@outside_inference
def input_dropout(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    removal: Removal,
    *,
    passes: int,
    drop: float = 0.5,
    rate: float = 1e-4,
    batch_size: int = 64,
    batch_norm: BatchNorm = "frozen",
    outputs: Outputs = "logits",
    seed: int = 0,
) -> Tuned:
    """Train on with the labels while single pixels are replaced by q with probability `drop`.

    Minimises the cross entropy of f(x_s(m, q)) with m ~ Bernoulli(1 - drop) for each pixel, all channels together.
    Other arguments as `random_mask_distillation`; an epoch costs n passes. To train with dropout from the start, pass
    an untrained model in eval mode and `batch_norm="train"`.

    Raises:
        InputError: As `random_mask_distillation`, or if the labels are not one class an input.
    """
    check_call(input_dropout, locals())
    _check(model, x, labels, outputs)
    _check_share(drop, "drop")

    def loss(student: nn.Module, rows: Tensor, source: Generator) -> Tensor:
        chosen = as_read_by(student, x[rows])
        keep = torch.rand(len(rows), *_sides(x), generator=source) >= drop
        shown = keep_cells(chosen, keep, fill(removal, chosen, source))
        return _cross_entropy(_logarithms(student, shown, outputs), labels[rows].to(shown.device))

    return _tune(model, len(x), _epoch_of(loss, batch_size, batch_norm), 1, passes, rate, seed)


@outside_inference
def saliency_guided(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    passes: int,
    fraction: float = 0.5,
    signed: bool = True,
    weight: float = 1.0,
    rate: float = 1e-4,
    batch_size: int = 64,
    batch_norm: BatchNorm = "frozen",
    outputs: Outputs = "logits",
    seed: int = 0,
) -> Tuned:
    """Saliency-guided training: the pixels of lowest gradient are replaced by noise, which should change nothing.

    Minimises CE(f(x), y) + weight KL(f(x) || f(x~)). x~ has `fraction` of its pixels replaced by uniform numbers
    between the input's own minimum and maximum: those whose gradient of the label's output, averaged over channels, is
    lowest. An epoch costs 3 n passes. Other arguments as `random_mask_distillation`.

    Source: "Improving Deep Learning Interpretability by Saliency Guided Trainer", arXiv:2111.14338. The paper speaks
    of low gradients, its code sorts signed ones: `signed=False` sorts absolute values.

    Raises:
        InputError: As `random_mask_distillation`, or if the labels are not one class an input.
    """
    check_call(saliency_guided, locals())
    _check(model, x, labels, outputs)
    _check_share(fraction, "fraction")

    def loss(student: nn.Module, rows: Tensor, source: Generator) -> Tensor:
        chosen = as_read_by(student, x[rows])
        wanted = labels[rows].to(chosen.device)
        slope = _gradient(student, chosen, wanted)
        slope = slope.mean(1) if x.ndim == 4 else slope
        low = top_k(-(slope if signed else slope.abs()), cells_of(fraction, slope[0].numel()))
        shown = keep_cells(chosen, ~low, _noise_like(chosen, source))
        whole, part = (_logarithms(student, batch, outputs) for batch in (chosen, shown))
        divergence = (whole.exp() * (whole - part)).sum(1).mean()
        return _cross_entropy(whole, wanted) + weight * divergence

    return _tune(model, len(x), _epoch_of(loss, batch_size, batch_norm), 3, passes, rate, seed)


Loss = Callable[[nn.Module, Tensor, Generator], Tensor]
"""Student, rows of the batch, source of randomness -> mean loss."""

Epoch = Callable[[Trainer, Tensor, Generator], float]
"""Trainer of the student, rows of the epoch, source of randomness -> mean loss of the epoch."""


def _tune(model: nn.Module, n: int, epoch: Epoch, cost: int, passes: int, rate: float, seed: int) -> Tuned:
    if check_positive_int(passes, "passes") < 2 * cost or n < 2:
        raise InputError(f"passes={passes} for {n} inputs: expected two inputs and {2 * cost} passes at least")
    if not rate > 0:
        raise InputError(f"rate is {rate}: expected a number above 0, e.g. 1e-4")
    student = copy.deepcopy(model)
    tuned = [p for p in student.parameters() if p.requires_grad]
    check_in_memory(model)
    trainer = Trainer(student, torch.optim.Adam(tuned, lr=rate), name="the tuning", advice=SMALLER)
    losses, used = [], 0
    with progress("tuning", passes, unit="passes") as bar:
        for number, size in enumerate(_epochs(n, passes // cost)):
            rows = torch.randperm(n, generator=generator(seed, _ORDER, number))[:size]
            losses.append(epoch(trainer, rows, generator(seed, _CHANCE, number)))
            used += cost * size
            bar.update(cost * size)
    return Tuned(student.eval(), tuple(losses), used)


def _epochs(n: int, count: int) -> Iterator[int]:
    """Inputs of each epoch, `count` in all; an input alone is left out."""
    while count > 1:
        yield min(n, count)
        count -= n


def _epoch_of(loss: Loss, batch_size: int, batch_norm: BatchNorm) -> Epoch:
    check_positive_int(batch_size, "batch_size")
    check_batch_norm(batch_norm)

    def epoch(trainer: Trainer, rows: Tensor, source: Generator) -> float:
        total = 0.0
        with learning(trainer.module, batch_norm), torch.enable_grad():
            for batch in rows.tensor_split(-(-len(rows) // batch_size)):
                total += trainer.descend(loss(trainer.module, batch, source)) * len(batch)
        return total / len(rows)

    return epoch


def _check(model: nn.Module, x: Tensor, labels: Tensor, outputs: Outputs) -> None:
    check_inputs(x)
    check_classes(labels, len(x), predict(model, x[:1], outputs=outputs).shape[1])


def _gradient(model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    """Of the label's output with respect to the input, in eval mode; modes are put back."""
    modes = {module: module.training for module in model.modules()}
    x = x.detach().requires_grad_()
    try:
        score = model.eval()(x).gather(1, labels[:, None]).sum()
        check_gradient(score)
        slope = torch.autograd.grad(score, x)[0]
    finally:
        for module, mode in modes.items():
            module.training = mode
    return _finite(slope, "gradients")


def _logarithms(model: nn.Module, x: Tensor, outputs: Outputs) -> Tensor:
    values = _finite(model(x), "outputs")
    said = to_probabilities(values, len(values), outputs)
    return exact(values).log_softmax(1) if outputs == "logits" else said.clamp_min(_FLOOR).log()


def _finite(values: Tensor, what: str) -> Tensor:
    if not bool(torch.isfinite(values).all()):
        raise InputError(f"the model's {what} became NaN or infinite while tuning: write a smaller rate, e.g. 1e-4")
    return values


def _cross_entropy(logarithms: Tensor, labels: Tensor) -> Tensor:
    return -logarithms.gather(1, labels[:, None]).mean()


def _noise_like(x: Tensor, source: Generator) -> Tensor:
    """Uniform between the least and the greatest value of each input."""
    rows = x.flatten(1)
    low, high = (v.view(-1, *[1] * (x.ndim - 1)) for v in (rows.amin(1), rows.amax(1)))
    return low + (high - low) * torch.rand(x.shape, generator=source).to(x)


def _sides(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape[2:]) if x.ndim == 4 else tuple(x.shape[1:])


def _check_share(value: float, name: str) -> None:
    if not 0 < value < 1:
        raise InputError(f"{name} is {value}: expected a share between 0 and 1, e.g. 0.5")
