"""Training a concept's classifier on embedded pairs of prompts: split by pair, stopped early, calibrated, judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efface._errors import InputError
from efface.diffusion.text.cgce.classifier import TRAINED, ConceptClassifier
from efface.diffusion.text.cgce.config import CgceConfig
from efface.stats.histogram import histogram
from efface.stats.platt import platt
from efface.stats.roc import auroc
from efface.training.loop import Trainer

FEWEST = 10
"""Pairs below which there is no training."""

_SCORED_AT_ONCE, _CENTRED = 16, 64


@dataclass(frozen=True)
class Fit:
    """How a classifier came out, on pairs that neither training, stopping nor calibration has seen.

    Attributes:
        auroc: Probability that a prompt with the concept scores above one without.
        miss: Share of prompts with it that have a probability below one half.
        alarm: Share of prompts without it that have one above.
        brier: Mean square of probability minus truth; 0.25 for one who always says one half.
        gap: Calibration error: mean of |mean probability - share with the concept| over ten bins, by their counts.
        typical: Median logit of prompts without the concept, of the pairs held out for calibration.
        epochs: Epochs until the best one.
        pairs: Pairs for training, for stopping and calibration, and for these figures.
    """

    auroc: float
    miss: float
    alarm: float
    brier: float
    gap: float
    typical: float
    epochs: int
    pairs: tuple[int, int, int]


@dataclass(frozen=True)
class Encoded:
    """n pairs of u embedded prompts; a prompt may be in several pairs.

    Attributes:
        x: Embeddings `(u, rows, d)`.
        keep: Rows that count, `(u, rows)` booleans.
        index: Which of them each pair is, `(2, n)`: without the concept, with it.
    """

    x: Tensor
    keep: Tensor
    index: Tensor

    def at(self, pairs: Sequence[int] | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings `(2 m, rows, d)` as float32, rows that count, and labels `(2 m,)` of some pairs."""
        chosen = self.index[:, torch.as_tensor(pairs)].to(self.x.device)
        labels = torch.tensor([0.0, 1.0], device=self.x.device).repeat_interleave(chosen.shape[1])
        return self.x[chosen.flatten()].float(), self.keep[chosen.flatten()], labels


@torch.inference_mode(False)
@torch.enable_grad()
def train(
    concept: Tensor,
    pairs: Encoded,
    parts: Sequence[Sequence[int]],
    config: CgceConfig,
    generator: torch.Generator,
    name: str = "the concept",
) -> tuple[ConceptClassifier, Fit]:
    """Train a classifier by binary cross-entropy (arXiv:2511.05865, stage 2).

    Args:
        concept: The concept's rows, `(k, d)`.
        pairs: The pairs.
        parts: Indices of pairs for stopping and calibration, for the figures reported, and for training.
        config: How.
        generator: Where weights, order and rows are drawn from.
        name: For errors.

    Raises:
        InputError: If there are under 10 pairs, an embedding is not finite, or the pairs held out for the figures do
            not separate; the text then has the histogram.
    """
    if (n := pairs.index.shape[1]) < FEWEST:
        raise InputError(
            f"there are {n} pairs for {name}: give at least {FEWEST}, by more templates or words, or pairs="
        )
    if not bool(pairs.x.isfinite().all()):
        raise InputError(f"embedded prompts for {name} are not finite: convert the text encoder to float32")
    tuning, judging, training = parts
    rows = torch.cat([x[keep] for x, keep, _ in map(pairs.at, torch.tensor(training[:_CENTRED]).split(16))])
    sizes = {"width": config.width, "heads": config.heads, "members": config.members}
    model = ConceptClassifier.drawn(concept, rows, generator, **sizes)
    model, epochs = _descended(model, pairs, tuning, training, config, generator)
    z, labels = _scores(model, pairs, tuning)
    a, b = platt(z, labels)
    model = model.having({"platt": z.new_tensor([a, b])})
    typical = float((a * z + b)[labels == 0].median())
    z, labels = (value.cpu() for value in _scores(model, pairs, judging))
    fit = _judged(z, labels, typical, epochs, (len(training), len(tuning), len(judging)))
    # Scores that must be turned round to fit the labels (a <= 0) carry nothing either.
    if fit.auroc < config.least_auroc or a <= 0:
        raise InputError(
            f"prompts with {name} do not score above those without on pairs held out (AUROC {fit.auroc:.2f}, at least "
            f"{config.least_auroc} is needed): give more templates, more words in preserve, or other pairs; a "
            "text encoder that does not tell them apart is read with the others by reads='joint', and pooled vectors "
            f"are left out by pooled='keep'\n{histogram(z[labels == 1], z[labels == 0])}"
        )
    return model, fit


def _descended(
    model: ConceptClassifier,
    pairs: Encoded,
    tuning: Sequence[int],
    training: Sequence[int],
    config: CgceConfig,
    generator: torch.Generator,
) -> tuple[ConceptClassifier, int]:
    """The classifier at its lowest loss on the pairs held out for stopping, and how many epochs that took."""
    module = nn.ParameterDict({name: model.weights[name].clone() for name in TRAINED})
    optimiser = torch.optim.AdamW(module.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    trainer = Trainer(module, optimiser, name="the classifier")
    order = torch.tensor(training)
    best, kept, at = float("inf"), model, 0
    model = model.having(dict(module.items()))
    for epoch in range(1, config.epochs + 1):
        for index in order[torch.randperm(len(order), generator=generator)].split(config.batch):
            x, keep, labels = pairs.at(index)
            z = model.logits(*gathered(x, some_rows(keep, config.keep_rows, generator)))
            trainer.descend(F.binary_cross_entropy_with_logits(z, labels[:, None].expand_as(z)))
        left = float(F.binary_cross_entropy_with_logits(*_scores(model, pairs, tuning)))
        if left < best - 1e-4:
            best, at = left, epoch
            kept = model.having({name: value.detach().clone() for name, value in module.items()})
        elif epoch - at >= config.patience:
            break
    return kept, at


@torch.no_grad()
def _scores(model: ConceptClassifier, pairs: Encoded, chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Logits and labels of some pairs' prompts, a few pairs at a time."""
    some = map(pairs.at, torch.tensor(chosen).split(_SCORED_AT_ONCE))
    z, labels = zip(*((model(x, keep), labels) for x, keep, labels in some), strict=True)
    return torch.cat(z), torch.cat(labels)


def gathered(x: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """The rows that count, moved together: what comes out of a classifier is the same, at less cost.

    >>> x, keep = gathered(torch.arange(3.0).view(1, 3, 1), torch.tensor([[False, True, False]]))
    >>> x.flatten().tolist(), keep.tolist()
    ([1.0], [[True]])
    """
    rows = keep.int().argsort(dim=1, descending=True, stable=True)[:, : int(keep.sum(1).max())]
    return x.gather(1, rows[..., None].expand(-1, -1, x.shape[2])), keep.gather(1, rows)


def some_rows(keep: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """A random share of the rows that count, one at least a prompt, `(n, rows)`.

    >>> rows = some_rows(torch.tensor([[True, True, False]]), 0.1, torch.Generator().manual_seed(0))
    >>> rows.sum().item(), rows[0, 2].item()
    (1, False)
    """
    if share >= 1:
        return keep
    drawn = torch.rand(keep.shape, generator=generator).to(keep.device).masked_fill(~keep, 2.0)
    return (drawn < share) | (drawn == drawn.amin(1, keepdim=True))


def _judged(z: Tensor, labels: Tensor, typical: float, epochs: int, pairs: tuple[int, int, int]) -> Fit:
    z, labels = z.double(), labels.double()
    p, present, absent = torch.sigmoid(z), z[labels == 1], z[labels == 0]
    bins = (p * 10).long().clamp_max(9)
    return Fit(
        auroc=auroc(present, absent),
        miss=float((present <= 0).double().mean()),
        alarm=float((absent > 0).double().mean()),
        brier=float((p - labels).square().mean()),
        gap=sum(float((p - labels)[bins == i].sum().abs()) for i in range(10)) / len(p),
        typical=typical,
        epochs=epochs,
        pairs=pairs,
    )
