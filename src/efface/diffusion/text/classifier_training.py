"""Training a concept's classifier on embedded pairs of prompts: split by pair, stopped early, calibrated, judged."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from efface._errors import InputError
from efface.diffusion.text.biopsy import histogram
from efface.diffusion.text.concept_classifier import ConceptClassifier
from efface.stats.platt import platt
from efface.stats.roc import auroc
from efface.training.loop import Trainer

FEWEST = 10
"""Pairs below which there is no training."""

_SCORED_AT_ONCE, _CENTRED = 16, 64


@dataclass(frozen=True)
class Training:
    """How a classifier is trained; all of it ours, as the source is silent.

    Attributes:
        width: Width of each member.
        heads: Heads of its attention.
        members: How many members.
        keep_rows: Share of a prompt's rows that are seen in a step. The concept is in nearly all rows of a prompt
            (CLIP is causal, and its padding carries the whole prompt); seeing all of them, a classifier reads a few,
            and a gradient that changes those leaves the concept in the others.
        learning_rate: Of AdamW.
        weight_decay: Of AdamW.
        epochs: At most.
        patience: Epochs without a lower loss on the pairs held out for stopping.
        batch: Pairs a step.
        hold_out: Share of the pairs for stopping and calibration, and as many again for the figures reported.
        least_auroc: What is refused below.
    """

    width: int = 64
    heads: int = 4
    members: int = 4
    keep_rows: float = 0.1
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    epochs: int = 40
    patience: int = 8
    batch: int = 32
    hold_out: float = 0.2
    least_auroc: float = 0.75

    def __post_init__(self) -> None:
        for name in ("width", "heads", "members", "epochs", "patience", "batch"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)!r}: write a whole number of at least 1")
        for name, low, high in (("keep_rows", 0, 1), ("hold_out", 0, 0.4), ("learning_rate", 0, 1)):
            if not low < getattr(self, name) <= high:
                raise InputError(f"{name}={getattr(self, name)}: write a number above {low} and up to {high}")
        if self.weight_decay < 0 or not 0.5 <= self.least_auroc <= 1:
            raise InputError("weight_decay must not be negative, and least_auroc lies between 0.5 and 1")

    @classmethod
    def of(cls, **options: Any) -> Training:
        """From options by name.

        Raises:
            InputError: If one is unknown.
        """
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(options) - set(known)):
            raise InputError(f"there is no option {unknown[0]!r}; options of training are {', '.join(known)}")
        return cls(**options)


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

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "pairs": list(self.pairs)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Fit:
        """What `to_dict` gave."""
        return cls(**{**data, "pairs": tuple(data["pairs"])})


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

    def __len__(self) -> int:
        return self.index.shape[1]

    def at(self, pairs: Sequence[int] | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings `(2 m, rows, d)` as float32, rows that count, and labels `(2 m,)` of some pairs."""
        chosen = self.index[:, torch.as_tensor(pairs)].to(self.x.device)
        labels = torch.tensor([0.0, 1.0], device=self.x.device).repeat_interleave(chosen.shape[1])
        return self.x[chosen.flatten()].float(), self.keep[chosen.flatten()], labels


def train(
    concept: Tensor,
    pairs: Encoded,
    parts: Sequence[Sequence[int]],
    options: Training,
    generator: torch.Generator,
    name: str = "the concept",
) -> tuple[ConceptClassifier, Fit]:
    """Train a classifier by binary cross-entropy (arXiv:2511.05865, stage 2).

    Args:
        concept: The concept's rows, `(k, d)`.
        pairs: The pairs.
        parts: Indices of pairs for stopping and calibration, for the figures reported, and for training.
        options: How.
        generator: Where weights, order and rows are drawn from; the global one is left alone.
        name: For errors.

    Raises:
        InputError: If there are under 10 pairs, an embedding is not finite, or the pairs held out for the figures do
            not separate; the text then has the histogram.
    """
    if (n := len(pairs)) < FEWEST:
        raise InputError(
            f"there are {n} pairs for {name}: give at least {FEWEST}, by more templates or words, or pairs="
        )
    if not bool(pairs.x.isfinite().all()):
        raise InputError(f"embedded prompts for {name} are not finite: convert the text encoder to float32")
    with torch.inference_mode(False), torch.enable_grad():
        return _trained(concept, pairs, parts, options, generator, name)


def _trained(
    concept: Tensor,
    pairs: Encoded,
    parts: Sequence[Sequence[int]],
    options: Training,
    generator: torch.Generator,
    name: str,
) -> tuple[ConceptClassifier, Fit]:
    tuning, judging, training = parts
    sizes = {"width": options.width, "heads": options.heads, "members": options.members}
    model = ConceptClassifier(concept.cpu(), **sizes).draw_(generator).to(pairs.x.device)
    model.centre_(torch.cat([x[keep] for x, keep, _ in map(pairs.at, torch.tensor(training[:_CENTRED]).split(16))]))
    epochs = _descend(model, pairs, tuning, training, options, generator)
    model.requires_grad_(False)
    z, labels = _scores(model, pairs, tuning)
    a, b = platt(z, labels)
    model.platt = model.platt.new_tensor([a, b])
    typical = float((a * z + b)[labels == 0].median())
    z, labels = _scores(model, pairs, judging)
    fit = _judge(z, labels, typical, epochs, (len(training), len(tuning), len(judging)))
    # Scores that must be turned round to fit the labels (a <= 0) carry nothing either.
    if fit.auroc < options.least_auroc or a <= 0:
        z, labels = z.cpu(), labels.cpu()
        raise InputError(
            f"prompts with {name} do not score above those without on pairs held out (AUROC {fit.auroc:.2f}, at least "
            f"{options.least_auroc} is needed): give more templates, more words in preserve, or other pairs; a "
            "text encoder that does not tell them apart is read with the others by reads='joint', and pooled vectors "
            f"are left out by pooled='keep'\n{histogram(z[labels == 1], z[labels == 0])}"
        )
    return model, fit


def _descend(
    model: ConceptClassifier,
    pairs: Encoded,
    tuning: Sequence[int],
    training: Sequence[int],
    options: Training,
    generator: torch.Generator,
) -> int:
    """Train until the loss on the pairs held out for stopping is lowest; how many epochs that took."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
    trainer = Trainer(model, optimiser, name="the classifier")
    order = torch.tensor(training)
    best, state, at = float("inf"), copy.deepcopy(model.state_dict()), 0
    for epoch in range(1, options.epochs + 1):
        for index in order[torch.randperm(len(order), generator=generator)].split(options.batch):
            x, keep, labels = pairs.at(index)
            z = model.logits(*gathered(x, some_rows(keep, options.keep_rows, generator)))
            trainer.descend(F.binary_cross_entropy_with_logits(z, labels[:, None].expand_as(z)))
        left = float(F.binary_cross_entropy_with_logits(*_scores(model, pairs, tuning)))
        if left < best - 1e-4:
            best, state, at = left, copy.deepcopy(model.state_dict()), epoch
        elif epoch - at >= options.patience:
            break
    model.load_state_dict(state)
    return at


@torch.no_grad()
def _scores(model: ConceptClassifier, pairs: Encoded, chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Logits and labels of some pairs' prompts, a few pairs at a time."""
    found = []
    for index in torch.tensor(chosen).split(_SCORED_AT_ONCE):
        x, keep, labels = pairs.at(index)
        found.append((model(x, keep), labels))
    z, labels = zip(*found, strict=True)
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


def _judge(z: Tensor, labels: Tensor, typical: float, epochs: int, pairs: tuple[int, int, int]) -> Fit:
    z, labels = z.double().cpu(), labels.double().cpu()
    p, present, absent = torch.sigmoid(z), z[labels == 1], z[labels == 0]
    bins = (p * 10).long().clamp_max(9)
    gaps = [float((p - labels)[bins == i].sum().abs()) for i in range(10)]
    return Fit(
        auroc=auroc(present, absent),
        miss=float((present <= 0).double().mean()),
        alarm=float((absent > 0).double().mean()),
        brier=float((p - labels).square().mean()),
        gap=sum(gaps) / len(p),
        typical=typical,
        epochs=epochs,
        pairs=pairs,
    )
