"""How the gates of a word are made: its direction in each part of the embedding, and a threshold there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from efface._errors import InputError
from efface.diffusion.text.contexts import Encoded
from efface.diffusion.text.semantic_surgery.biopsy import Calibration, Gate, Score
from efface.diffusion.text.semantic_surgery.config import SemanticSurgeryConfig
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.embedding_parts import Part, parts_of


def directions(encoded: Encoded, neutral: str, words: Sequence[str]) -> dict[str, dict[Part, Tensor]]:
    """Word -> part -> E(word) - E(neutral), `(rows, width)`."""
    parts = parts_of(encoded.all)
    start = {part: part.of(encoded.of([neutral]))[0].float() for part in parts}
    return {word: {p: p.of(encoded.of([word]))[0].float() - start[p] for p in parts} for word in words}


def calibrated(
    word: str,
    directions: Mapping[Part, Tensor],
    present: PromptEmbedding,
    absent: PromptEmbedding,
    config: SemanticSurgeryConfig,
) -> tuple[tuple[Gate, ...], dict[str, Calibration]]:
    """A word's gates, one for each part in which prompts with and without it separate, and how each came out.

    Raises:
        InputError: If they separate in none.
    """
    gates, found, refused = [], {}, []
    for part, direction in directions.items():
        try:
            gate, how = Gate.calibrated(part, direction, config.form.scores, present, absent, name=repr(word))
        except InputError as error:
            refused.append(error)
            continue
        gates.append(gate)
        found[part.name] = how
    if not gates:
        raise refused[0]
    return tuple(gates), found


def from_threshold(
    directions: Mapping[Part, Tensor], threshold: float, config: SemanticSurgeryConfig
) -> tuple[Gate, ...]:
    """A word's gates by a given threshold, in every part; by the first score whose direction is not nothing there."""
    gates = []
    for part, direction in directions.items():
        says = bool(direction[-1].any())
        able: tuple[Score, ...] = tuple(score for score in config.form.scores if says or score != "last")
        gates.append(Gate(part, direction, (*able, *config.form.scores)[0], threshold, config.sharpness))
    return tuple(gates)
