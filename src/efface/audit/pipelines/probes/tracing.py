"""Dynamic tracing: where the pictures of a concept's prompt go as an erasure grows stronger. A picture, not a test."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from efface._errors import InputError
from efface.audit.figure import Figure, Series
from efface.audit.pipelines.presence import hits
from efface.audit.pipelines.probes.case import Case
from efface.audit.pipelines.probes.subject import Subject

_STREAM, _REFERENCE = 290, 291
Features = Callable[[Tensor], Tensor]
"""Pictures -> `(n, d)`."""


@dataclass(frozen=True)
class Trace:
    """What became of the pictures, strength by strength.

    Attributes:
        strengths: In [0, 1], from none to all.
        distances: Of the mean of the pictures' features from that of the base's.
        seen: In what share the concept is seen, of those of which the judge can say; NaN where it can of none.
        diversity: Mean distance between two pictures' features.
        instead: What is seen in the pictures of the strongest: concept -> share.
    """

    strengths: tuple[float, ...]
    distances: tuple[float, ...]
    seen: tuple[float, ...]
    diversity: tuple[float, ...]
    instead: Mapping[str, float]

    @property
    def linearity(self) -> float:
        """R^2 of the distance on the strength: near 1 is a drift."""
        return linearity(self.strengths, self.distances)

    @property
    def jumpiness(self) -> float:
        """The largest change between two neighbours, in parts of all changes: near 1 is a switch."""
        return jumpiness(self.distances)

    @property
    def entropy(self) -> float:
        """Of what is seen instead, in bits: 0 where it is always the same."""
        shares = [share for share in self.instead.values() if share > 0]
        total = sum(shares)
        return -sum(s / total * math.log2(s / total) for s in shares) if shares else 0.0

    def figure(self) -> Figure:
        """Distance and share over the strength."""
        at = tuple(self.strengths)
        most = max(self.distances) or 1.0
        known = [(s, share) for s, share in zip(at, self.seen, strict=True) if not math.isnan(share)]
        return Figure(
            "What becomes of the concept as the erasure grows",
            (
                Series("distance, in parts of the largest", at, tuple(d / most for d in self.distances)),
                Series("concept seen", tuple(s for s, _ in known), tuple(share for _, share in known)),
            ),
            kind="lines",
            x_label="strength",
            y_label="share",
            unit="share",
            from_zero=True,
            caption=f"R^2 on the strength {self.linearity:.2f}, largest jump {self.jumpiness:.2f} of all changes.",
        )


def tracing(subjects: Mapping[float, Subject], case: Case, *, features: Features, images: int = 25) -> Trace:
    """Follow the pictures of the concept's prompts over growing strengths of an erasure.

    Source: arXiv:2505.17013, section 3, "dynamic concept tracing" (no released code): features of 25 pictures at each
    strength, their mean's distance from the base's, in steps of training, or of a weight's strength. The paper reads
    drift and jumps by eye; linearity and jumpiness are ours. On a toy world they did not tell how erasers work apart:
    it is a picture, and has no verdict.

    Access: prompts of each subject.

    Args:
        subjects: Strength in [0, 1] -> the pipeline with the erasure at that strength.
        case: What for; what is seen instead are its other concepts.
        features: What of pictures is compared, such as a judge's features.
        images: How many at each strength.

    Raises:
        InputError: If there are under three strengths.
    """
    order = sorted(subjects)
    if len(order) < _FEWEST:
        raise InputError(f"{len(order)} strengths: give at least {_FEWEST}, such as 0, 0.5 and 1")
    texts, seeds = case.jobs(case.prompts, images, _STREAM)
    with case.base.on() as view:
        origin = features(case.sample(view, *case.jobs(case.prompts, images, _REFERENCE))).double().mean(0)
    distances, seen, diversity, last = [], [], [], torch.empty(0)
    for strength in order:
        with subjects[strength].on() as view:
            last = case.sample(view, texts, seeds)
        found, said = features(last).double(), case.seen(last)
        distances.append(float((found.mean(0) - origin).norm()))
        diversity.append(float(torch.pdist(found).mean()))
        seen.append(float(said[~said.isnan()].mean()))
    names = [case.concept.name, *case.others]
    instead = {name: float(torch.nan_to_num(hits(case.judge, last, name)).mean()) for name in names}
    return Trace(tuple(order), tuple(distances), tuple(seen), tuple(diversity), instead)


_FEWEST = 3


def linearity(x: Sequence[float], y: Sequence[float]) -> float:
    """R^2 of a straight line through y over x; 1 where y does not change.

    >>> round(linearity([0, 0.5, 1], [1, 2, 3]), 6)
    1.0
    """
    a, b = (torch.tensor(values, dtype=torch.float64) for values in (x, y))
    a, b = a - a.mean(), b - b.mean()
    whole = float(b.square().sum())
    return float((a @ b) ** 2 / (a.square().sum() * whole)) if whole > 0 else 1.0


def jumpiness(y: Sequence[float]) -> float:
    """The largest change between two neighbours, in parts of all changes; 0 where nothing changes.

    >>> jumpiness([0, 0, 1, 1]), jumpiness([0, 1, 2])
    (1.0, 0.5)
    """
    changes = [abs(b - a) for a, b in zip(y, y[1:], strict=False)]
    total = sum(changes)
    return max(changes) / total if total > 0 else 0.0
