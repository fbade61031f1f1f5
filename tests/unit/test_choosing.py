"""Which row a gate reads: chosen by how gates err in prompts on which no threshold was set."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from efface import InputError
from efface.diffusion.text.semantic_surgery.biopsy import Calibration, Direction, Gate, Score
from efface.diffusion.text.semantic_surgery.choosing import MARGIN, Candidate, Sides, chosen
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.embedding_parts import Part

PART, WIDTH = Part("sequence.text_encoder", (0, 3), (0, 8)), 8
DEFAULTS: tuple[Score, ...] = ("last", "per-token")
CANDIDATES: tuple[Score, ...] = ("last", "per-token", "first", "word")
WORD = torch.eye(WIDTH)[0]
DIRECTION = Direction(WORD.expand(3, WIDTH).clone(), torch.zeros(3, WIDTH), (1,))


def prompts(amounts: list[float], n: int, seed: int, text: str) -> PromptEmbedding:
    """N prompts with so much of the word in each of three rows, beside noise."""
    noise = torch.randn(n, 3, WIDTH, generator=torch.Generator().manual_seed(seed))
    noise[..., 0] = 0
    rows = torch.nn.functional.normalize(noise, dim=-1) + torch.tensor(amounts)[None, :, None] * WORD
    return PromptEmbedding(sequence=rows, prompts=tuple(f"{text} {i}" for i in range(n)))


def sides(amounts: list[float], seed: int, n: int = 20) -> Sides:
    return Sides(prompts(amounts, n, seed, "a star"), prompts([0.0] * 3, n, seed + 1, "a ring"))


def gate_of(trial: list[float]) -> tuple[Gate, Calibration, tuple[Candidate, ...]]:
    given = sides([1.0] * 3, 1)
    return chosen(PART, DIRECTION, "star", given, sides(trial, 7), DEFAULTS, CANDIDATES)


def test_the_default_is_kept_where_nothing_errs_clearly_less_often() -> None:
    gate, calibration, tried = gate_of([1.0] * 3)
    assert gate.score == "last" and calibration.auroc == 1
    assert [how.score for how in tried] == list(CANDIDATES) and [how.chosen for how in tried] == [True, *[False] * 3]
    assert {how.auroc for how in tried} == {1.0} and {how.errors for how in tried} == {0.0}
    assert all(how.n == (20, 20) and how.margin > 0 for how in tried)


def test_a_row_that_says_nothing_in_longer_prompts_gives_way_to_one_that_does() -> None:
    gate, calibration, tried = gate_of([1.0, 0.0, 0.0])
    how = {each.score: each for each in tried}
    assert gate.score == "first" or how[gate.score].errors == how["first"].errors
    assert how["last"].miss == 1 and how["last"].auroc == 1, "no calibration on short prompts sees that"
    assert how[gate.score].chosen and how[gate.score].errors < how["last"].errors - MARGIN
    assert gate.threshold == calibration.threshold and gate.direction.shape == (
        (1, WIDTH) if gate.score == "word" else (3, WIDTH)
    )


def test_without_candidates_nothing_else_is_tried() -> None:
    given, trial = sides([1.0] * 3, 1), sides([1.0, 0.0, 0.0], 7)
    gate, _, tried = chosen(PART, DIRECTION, "star", given, trial, ("last",))
    assert gate.score == "last" and [how.score for how in tried] == ["last"] and tried[0].miss == 1


def test_rows_that_say_nothing_are_refused_and_the_rest_is_chosen_from() -> None:
    blind = Direction(DIRECTION.towards * torch.tensor([1.0, 1.0, 0.0])[:, None], DIRECTION.neutral, (1,))
    given = sides([1.0] * 3, 1)
    assert chosen(PART, blind, "star", given, None, DEFAULTS, CANDIDATES)[0].score == "per-token"
    nothing = Direction(torch.zeros(3, WIDTH), DIRECTION.neutral)
    with pytest.raises(InputError, match="prompts with 'star' do not score above"):
        chosen(PART, nothing, "star", given, None, DEFAULTS, CANDIDATES)
    with pytest.raises(InputError, match="it has none in sequence.text_encoder"):
        chosen(PART, nothing, "star", given, None, ("word",))


def test_a_words_own_rows_are_calibrated_on_prompts_that_have_the_word() -> None:
    star, given = DIRECTION, sides([1.0] * 3, 1)
    synonym = prompts([0.0] * 3, 20, 30, "a sparkle")
    both: Tensor = torch.cat([given.present.sequence, synonym.sequence])
    there = PromptEmbedding(sequence=both, prompts=(*given.present.prompts, *synonym.prompts))
    gate, calibration, (how,) = chosen(PART, star, "star", Sides(there, given.absent), None, ("word",))
    assert calibration.n == (20, 20) and how.n == (20, 20) and calibration.miss == 0
    assert float(gate.scores(given.present).min()) > gate.threshold > float(gate.scores(given.absent).max())
