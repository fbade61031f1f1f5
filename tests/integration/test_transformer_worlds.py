"""What the demo says about transformers, on small sizes: the shape of LEACE's table 1, and MiniLM site by site."""

from __future__ import annotations

import numpy as np
import pytest

from efface.audit import Audit
from efface_worlds.demo.minilm_layers import layers
from efface_worlds.demo.token_world import TokenSizes, tokens
from tests.sharing import Shared

SIDES = ("before", "after")


def quiet(text: str) -> None:
    """Nobody needs to hear it."""


@pytest.fixture(scope="module")
def python(shared: Shared) -> Audit:
    sizes = TokenSizes(length=48, fit=200, files=60, score=32, score_sites=32, other=40, rows=500)
    return shared(tokens, 0, quiet, arch="gpt_neox", sizes=sizes)


@pytest.fixture(scope="module")
def minilm(shared: Shared) -> Audit:
    return shared(layers, 0, quiet, jobs=6, rows=500)


@pytest.mark.slow
def test_none_is_like_random_then_leace_then_sal(python: Audit) -> None:
    plain, random, leace, sal = (
        python.find("whole model", way, "loss").value for way in ("none", "random", "LEACE", "SAL / orthogonal")
    )
    unigram = python.find("whole model", "unigram entropy", "loss").value
    assert plain < random < plain + 0.2
    assert random + 0.5 < leace < sal
    assert leace < unigram
    for way in ("LEACE", "SAL / orthogonal"):
        assert python.find("whole model", way, "difference").verdict == "higher than the control"


@pytest.mark.slow
def test_each_norm_is_erased_alone(python: Audit) -> None:
    alone = [f for part in python.walk() for f in part.findings if f.family == "LEACE" and f.condition == "difference"]
    assert len(alone) == 13
    first = python.find("LEACE", "gpt_neox.layers.0.post_attention_layernorm", "difference")
    assert first.verdict == "higher than the control"


@pytest.mark.slow
def test_probes_fall_to_chance_on_files_of_the_kind_of_the_fit(python: Audit) -> None:
    other, heldout = python.parts[1:]
    for part in (other, heldout):
        probed = {c: [f for f in part.findings if f.family == "linear probe" and f.condition == c] for c in SIDES}
        assert all(f.verdict == "above chance" for f in probed["before"]) and len(probed["before"]) == 13
        before, after = (np.mean([f.value for f in found]) for found in probed.values())
        assert after < before - 0.2
        assert {f.family for f in part.findings} >= {"control task", "selectivity"}
    assert all(f.side != 1 for f in other.findings if f.family == "information" and f.condition == "after")


@pytest.mark.slow
def test_figures_of_losses_and_of_probes(python: Audit) -> None:
    figures = [figure.title for part in python.walk() for figure in part.figures]
    assert len(figures) == len(set(figures)) == 4


@pytest.mark.slow
def test_gender_is_gone_from_all_sites_of_minilm_at_once(minilm: Audit) -> None:
    gap = minilm.find("class-mean gap", "largest of all sites", "all sites erased at once")
    assert gap.value < 1e-6 < 0.1 < gap.baseline  # type: ignore[operator]
    table = minilm.tables[0]
    assert len(table.rows) == 25
    assert max(float(after) for _, _, after in table.rows) == pytest.approx(gap.value, rel=0.1)


@pytest.mark.slow
def test_pairs_grow_alike_and_the_rest_stays(minilm: Audit) -> None:
    family = "cosine similarity"
    assert minilm.find(family, "pairs", "change").verdict == "higher than before"
    assert minilm.find(family, "pairs", "after").value > 0.98
    assert minilm.find(family, "order of the others", "after").value > 0.8
