"""How the gates of a word are made: its direction in each part of the embedding, which row is read, a threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from efface._errors import InputError
from efface.core.concept import Concept
from efface.diffusion.text.contexts import Encoded, others_of
from efface.diffusion.text.kinds import WHOLE, WORD, kinds_of, tokens_of
from efface.diffusion.text.semantic_surgery.biopsy import Calibration, Direction, Gate, Score
from efface.diffusion.text.semantic_surgery.choosing import Candidate, Sides, chosen, longer
from efface.diffusion.text.semantic_surgery.config import SemanticSurgeryConfig
from efface.pipelines.embedding_parts import Part, parts_of
from efface.pipelines.view import PipelineView


def directions(
    encoded: Encoded, neutral: str, words: Sequence[str], config: SemanticSurgeryConfig
) -> dict[str, dict[Part, Direction]]:
    """Word -> part -> what it is there; with its own rows, where a score may read these."""
    parts, form = parts_of(encoded.all), config.form
    start = {part: part.of(encoded.of([neutral]))[0].float() for part in parts}
    tokens = tokens_of(encoded.view, words) if "word" in (*form.scores, *form.candidates) else {}
    found: dict[str, dict[Part, Direction]] = {}
    for word in words:
        whole, found[word] = encoded.of([word]), {}
        for part in parts:
            kinds = kinds_of(tokens[word][part.encoder], part, word) if tokens else ()
            own = tuple(row for row, kind in enumerate(kinds) if kind in (WORD, WHOLE))
            found[word][part] = Direction(part.of(whole)[0].float() - start[part], start[part], own)
    return found


def trial(view: PipelineView, concept: Concept, config: SemanticSurgeryConfig) -> Sides | None:
    """Longer prompts, on which candidates for a gate's score are compared, if there are candidates."""
    return longer(view, concept.words, others(concept, config)) if config.form.candidates else None


def others(concept: Concept, config: SemanticSurgeryConfig) -> tuple[str, ...]:
    """The words that a concept is told from; the published form knows no anchor."""
    return others_of(concept) if config.form.towards == "anchor" else tuple(concept.preserve)


def calibrated(
    word: str,
    directions: Mapping[Part, Direction],
    given: Sides,
    tried_on: Sides | None,
    config: SemanticSurgeryConfig,
) -> tuple[tuple[Gate, ...], dict[str, Calibration], dict[str, tuple[Candidate, ...]]]:
    """A word's gates, one for each part in which prompts with and without it separate, and how each came out.

    Raises:
        InputError: If they separate in none.
    """
    gates, found, tried, refused = [], {}, {}, []
    for part, direction in directions.items():
        try:
            gate, found[part.name], tried[part.name] = chosen(
                part, direction, word, given, tried_on, config.form.scores, config.form.candidates
            )
        except InputError as error:
            refused.append(error)
            continue
        gates.append(gate)
    if not gates:
        raise refused[0]
    return tuple(gates), found, tried


def from_threshold(
    directions: Mapping[Part, Direction], threshold: float, config: SemanticSurgeryConfig
) -> tuple[Gate, ...]:
    """A word's gates by a given threshold, in every part; by the first score whose direction is not nothing there."""
    gates = []
    for part, direction in directions.items():
        says = bool(direction.towards[-1].any())
        able: tuple[Score, ...] = tuple(score for score in config.form.scores if says or score != "last")
        gates.append(direction.gate(part, (*able, *config.form.scores)[0], threshold, config.sharpness))
    return tuple(gates)
