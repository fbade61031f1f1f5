"""Which row of a prompt a gate reads: scores are compared by how a gate with each would err in longer prompts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from efface._errors import InputError
from efface.diffusion.text.contexts import Encoded, filled
from efface.diffusion.text.kinds import tokens_of
from efface.diffusion.text.semantic_surgery.biopsy import Calibration, Direction, Gate, Score, calibrate_gate
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.embedding_parts import Part
from efface.pipelines.view import PipelineView

LONGER = (
    "a {} , seen from the side in the early morning light , with many small details",
    "in the middle of a quiet old town by the river there is a {}",
    "a poster for a summer party with music and dancing , and on it one big {}",
    "my sister found this picture of a {} last week and sent it to all of us",
)
"""Prompts of which no threshold knows: what reads position or length gives way here."""

MARGIN = 0.05
"""By how much rarer another score must err for a gate to have it."""


class Sides(NamedTuple):
    """Prompts with a concept, in any of its words, and prompts without."""

    present: PromptEmbedding
    absent: PromptEmbedding


@dataclass(frozen=True)
class Candidate:
    """A score that a gate could have.

    Attributes:
        score: Which.
        auroc: How well it tells the prompts of the calibration apart.
        margin: Half the gap there (see `Calibration`).
        miss: Share of the trial's prompts with the word that a gate with it misses.
        alarm: Share of those without at which it fires.
        n: Prompts of the trial with the word, and without.
        chosen: Whether the gate has it.
    """

    score: Score
    auroc: float
    margin: float
    miss: float
    alarm: float
    n: tuple[int, int]
    chosen: bool = False

    @property
    def errors(self) -> float:
        """Misses and false alarms, either counting half."""
        return (self.miss + self.alarm) / 2


def longer(view: PipelineView, words: Sequence[str], others: Sequence[str]) -> Sides | None:
    """Words of a concept, and others, in those of the longer prompts that fit into the pipeline's window.

    Args:
        view: The pipeline.
        words: The concept's words.
        others: What they are told from; without any there is nothing to compare on.
    """
    every = (*words, *others)
    tokens = tokens_of(view, filled(LONGER, every))
    cut = {text for text, found in tokens.items() if any(each.truncated for each in found.values())}
    fit = [template for template in LONGER if cut.isdisjoint(filled([template], every))]
    if not (others and fit):
        return None
    encoded = Encoded(view, filled(fit, every))
    return Sides(encoded.of(filled(fit, words)), encoded.of(filled(fit, others)))


def chosen(
    part: Part,
    direction: Direction,
    word: str,
    given: Sides,
    trial: Sides | None,
    scores: Sequence[Score],
    candidates: Sequence[Score] = (),
) -> tuple[Gate, Calibration, tuple[Candidate, ...]]:
    """A word's gate in one part, calibrated, with its score, and how all candidates came out.

    It has the first of `scores` by which calibration tells prompts apart, unless another candidate errs less often in
    the trial, by more than `MARGIN` (of misses and false alarms, either counting half): of several the one that errs
    least, then the one whose calibration separates best. A gate of the word's own rows, which know nothing of its
    synonyms, is calibrated and tried on prompts that have the word; the others on all of the concept's.

    Args:
        part: Which part.
        direction: What the word is there.
        word: The word.
        given: Prompts that thresholds are set on.
        trial: Others, which candidates are compared on; None compares them on those given.
        scores: What a gate is to have, the first first.
        candidates: What it may have in their place.

    Raises:
        InputError: If calibration accepts none; the text is that of the first.
    """
    made: dict[Score, tuple[Gate, Calibration, Candidate]] = {}
    refused: list[InputError] = []
    for score in dict.fromkeys((*scores, *candidates)):
        if made and not candidates:
            break
        try:
            made[score] = _tried(direction.gate(part, score), word, given, trial or given)
        except InputError as error:
            refused.append(error)
    if not made:
        raise refused[0]
    usual: Score | None = next((score for score in scores if score in made), None)
    ranked: list[Score] = sorted(made, key=lambda score: (made[score][2].errors, -made[score][2].auroc))
    best = ranked[0]
    if usual is not None and made[usual][2].errors - made[best][2].errors <= MARGIN:
        best = usual
    gate, calibration, _ = made[best]
    return gate, calibration, tuple(replace(how, chosen=score == best) for score, (_, _, how) in made.items())


def _tried(gate: Gate, word: str, given: Sides, trial: Sides) -> tuple[Gate, Calibration, Candidate]:
    """A gate, calibrated, and how it did in the trial."""
    present, absent, there, gone = (gate.scores(side).cpu() for side in (*given, *trial))
    if gate.score == "word":
        present, there = present[_having(word, given.present)], there[_having(word, trial.present)]
    found = calibrate_gate(present, absent, name=repr(word))
    miss, alarm = _share(there < found.threshold), _share(gone >= found.threshold)
    how = Candidate(gate.score, found.auroc, found.margin, miss, alarm, (len(there), len(gone)))
    return replace(gate, threshold=found.threshold, sharpness=found.sharpness), found, how


def _having(word: str, embedding: PromptEmbedding) -> list[int]:
    """Which prompts have a word; all of them where none is known to."""
    pattern = re.compile(rf"(?<!\w){re.escape(word.strip())}(?!\w)", re.IGNORECASE)
    found = [i for i, text in enumerate(embedding.prompts) if pattern.search(text)]
    return found or list(range(len(embedding)))


def _share(hits: Tensor) -> float:
    return float(hits.to(torch.float64).mean())
