"""Semantic biopsy: how much of a concept is in a prompt's embedding, and from which score on it counts as there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from efface._errors import InputError
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.embedding_parts import Part
from efface.stats.histogram import histogram
from efface.stats.roc import auroc

Score = Literal["per-token", "flat", "mean", "first", "last", "word", "centred mean", "centred first", "centred last"]
"""Which cosine of a prompt with a concept's direction.

`"per-token"`: row by row, averaged over rows (released code); `"flat"`: of all rows as one vector (paper); `"mean"`: of
the mean of all rows. These fall the later the concept stands in the prompt where a text encoder is causal, since the
rows before it know nothing of it, and the longer the prompt is where it reads in both directions. The others are ours.
`"last"`: of the last row alone, which has read the whole prompt, wherever the concept stands in it. It needs prompts
that are padded to one length by an encoder whose padding reads them (CLIP, T5 of SD3 and FLUX). `"first"`: of the first
row alone, which sums a prompt up in BERT and its kin, and is the same in every prompt of a causal encoder. `"word"`:
each row of the bare word with the row that is nearest to it, averaged over the word's rows, wherever these stand.
`"centred ..."`: what the prompt's row has that the empty prompt's has not, in place of the row itself.
Where a score says nothing, calibration refuses it.
"""

_CENTRED = "centred "
_OF_ANY_LENGTH = ("first", "last", "word", "centred first", "centred last")

_FEWEST = 5
_LEAST_AUROC = 0.75


def presence_score(
    sequence: Tensor, direction: Tensor, score: Score = "per-token", neutral: Tensor | None = None
) -> Tensor:
    """How much of a concept is in prompts, `(n,)`, between -1 and 1.

    Args:
        sequence: Embeddings `(n, rows, width)`.
        direction: E(concept) - E(""), `(rows, width)`; rows of zeros (the first of CLIP) count 0. For `"word"` the
            word's own rows of it alone, `(k, width)`.
        score: Which cosine.
        neutral: E(""), `(rows, width)`, for scores that are centred on it.

    Source: Semantic Surgery (OpenReview 3FTVceZQrh), section 3 (flat); its released code (per token); ours (others).

    >>> x = torch.eye(2)[None]
    >>> presence_score(x, torch.eye(2)).item(), presence_score(x, torch.eye(2).flip(0)).item()
    (1.0, 0.0)
    >>> presence_score(x, torch.eye(2)[1:], "word").item()
    1.0
    """
    if score not in get_args(Score):
        raise InputError(f"score={score!r}: choose one of {', '.join(map(repr, get_args(Score)))}")
    x, d = sequence.float(), direction.float()
    if score.startswith(_CENTRED):
        if neutral is None:
            raise InputError(f"score={score!r} is centred on the empty prompt: give its embedding, neutral=...")
        x = x - neutral.float()
    of = score.removeprefix(_CENTRED)
    if of == "flat":
        return F.cosine_similarity(x.flatten(1), d.flatten()[None], dim=1)
    if of == "mean":
        return F.cosine_similarity(x.mean(1), d.mean(0)[None], dim=1)
    if of in ("first", "last"):
        row = 0 if of == "first" else -1
        return F.cosine_similarity(x[:, row], d[None, row], dim=1)
    if of == "word":
        return (F.normalize(x, dim=-1) @ F.normalize(d, dim=-1).mT).amax(dim=1).mean(dim=1)
    return F.cosine_similarity(x, d[None], dim=-1).mean(dim=1)


@dataclass(frozen=True)
class Calibration:
    """Threshold and sharpness of a concept's gate, from scores of prompts with and without it.

    Attributes:
        threshold: Score from which on the concept counts as there (beta of the paper, with the sign of its formula).
        sharpness: Gamma of `sigmoid((score - threshold) / gamma)`.
        margin: Epsilon: half the gap between the quantiles that the threshold lies between.
        miss: Share of the prompts with the concept that score below the threshold.
        alarm: Share of the prompts without it that score above.
        auroc: Probability that a prompt with the concept scores above one without.
        n: Prompts with and without.
    """

    threshold: float
    sharpness: float
    margin: float
    miss: float
    alarm: float
    auroc: float
    n: tuple[int, int]


def calibrate_gate(present: Tensor, absent: Tensor, *, error: float = 0.01, name: str = "the concept") -> Calibration:
    """Choose threshold and sharpness from scores.

    The threshold is where misses and false alarms are fewest together, in the middle of the gap. With at most delta of
    either kind beyond a margin epsilon, the sharpness `epsilon / logit(1 - error)` makes the gate err by at most
    `error` outside the margin (Theorem 2 of the paper).

    Args:
        present: Scores of prompts with the concept, `(n,)`, its synonyms among them.
        absent: Scores of prompts without, `(m,)`, with siblings of it among them.
        error: By how much the gate may be off 0 or 1 beyond the margin.
        name: For errors.

    Raises:
        InputError: If there are under 5 scores of either kind, some are not finite, or the two do not separate; the
            text then has the histogram.

    Does not guarantee: anything for prompts of another kind than these.
    """
    for which, scores in (("present", present), ("absent", absent)):
        if scores.ndim != 1 or len(scores) < _FEWEST:
            raise InputError(f"{which} has {tuple(scores.shape)} scores of {name}: give at least {_FEWEST} prompts")
        if not bool(scores.isfinite().all()):
            raise InputError(f"scores of {name} are not finite: its embedding, or that of a prompt in {which}, is not")
    if not 0 < error < 0.5:
        raise InputError(f"error={error}: write a number between 0 and 0.5, e.g. 0.01")
    p, a = present.double().sort().values, absent.double().sort().values
    area = auroc(p.cpu(), a.cpu())
    if area < _LEAST_AUROC:
        raise InputError(
            f"prompts with {name} do not score above those without (AUROC {area:.2f}, at least {_LEAST_AUROC} is "
            f"needed): choose another word for it, or another score\n{histogram(p, a)}"
        )
    threshold, miss, alarm = fewest_errors(p, a)
    low, high = a[a < threshold], p[p >= threshold]
    margin = float(min(high.min() - threshold, threshold - low.max())) if len(low) and len(high) else 0.0
    margin = max(margin, 1e-3 * float(p.max() - a.min()))
    return Calibration(threshold, margin / math.log((1 - error) / error), margin, miss, alarm, area, (len(p), len(a)))


@dataclass(frozen=True, eq=False)
class Direction:
    """What a word is in one part of an embedding.

    Attributes:
        towards: E(word) - E("") there, `(rows, width)`.
        neutral: E("") there, likewise.
        own: Rows of the bare word's own tokens; none where these are not asked for.
    """

    towards: Tensor
    neutral: Tensor
    own: tuple[int, ...] = ()

    def gate(self, part: Part, score: Score, threshold: float = 0.0, sharpness: float = 1.0) -> Gate:
        """The gate of a score, with the rows that this reads.

        Raises:
            InputError: If it reads the word's own rows, and none is known.
        """
        if score == "word" and not self.own:
            raise InputError(f"score='word' reads a word's own rows, and it has none in {part.name}: choose another")
        towards = self.towards[list(self.own)] if score == "word" else self.towards
        return Gate(part, towards, score, threshold, sharpness, self.neutral if score.startswith(_CENTRED) else None)


@dataclass(frozen=True, eq=False)
class Gate:
    """Whether a word is in prompts, as one part of their embedding says.

    Attributes:
        part: Which part.
        direction: E(word) - E("") there, `(rows, width)`; of a score of the word's own rows these alone.
        score: Which cosine with it.
        threshold: beta.
        sharpness: gamma.
        neutral: E("") there, of a score that is centred on it.
    """

    part: Part
    direction: Tensor
    score: Score
    threshold: float
    sharpness: float
    neutral: Tensor | None = None

    def scores(self, embedding: PromptEmbedding) -> Tensor:
        """The scores of n prompts, `(n,)`.

        Raises:
            InputError: If they are of another length than those that it was fitted on, and the score reads every row.
        """
        x = self.part.of(embedding)
        if self.score not in _OF_ANY_LENGTH and x.shape[1:] != self.direction.shape:
            here, fitted = tuple(x.shape[1:]), tuple(self.direction.shape)
            raise InputError(
                f"prompts are {here} here, and the erasure was fitted on {fitted}: fit it on this pipeline"
            )
        if self.neutral is None:
            return presence_score(x, self.direction.to(x.device), self.score)
        row = slice(0, 1) if self.score.endswith("first") else slice(-1, None)
        at = slice(None) if self.score not in _OF_ANY_LENGTH else row
        start, towards = (rows[at].to(x.device) for rows in (self.neutral, self.direction))
        return presence_score(x[:, at], towards, self.score, start)

    def above(self, scores: Tensor) -> Tensor:
        """`(score - beta) / gamma`, whose sigmoid is the presence."""
        beta, gamma = (torch.tensor(v, device=scores.device) for v in (self.threshold, self.sharpness))
        return (scores - beta) / gamma


def fewest_errors(present: Tensor, absent: Tensor) -> tuple[float, float, float]:
    """The middle of the widest gap between neighbouring values at which errors of both kinds are fewest.

    Args:
        present: Values that should lie above, `(n,)`.
        absent: Values that should lie below, `(m,)`.

    Returns:
        The threshold, the share of the first below it, the share of the others not below.

    >>> fewest_errors(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 1.0]))
    (2.0, 0.0, 0.0)
    """
    p, a = present.double().sort().values, absent.double().sort().values
    both = torch.cat([p, a]).sort().values
    places = (both[1:] + both[:-1]) / 2
    miss = torch.searchsorted(p, places).double() / len(p)
    alarm = (len(a) - torch.searchsorted(a, places)).double() / len(a)
    cost = miss + alarm
    best = (cost <= cost.min() + 1e-12).nonzero()[:, 0]
    at = best[(both[1:] - both[:-1])[best].argmax()]
    return float(places[at]), float(miss[at]), float(alarm[at])
