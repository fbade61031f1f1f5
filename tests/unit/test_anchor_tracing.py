"""Rows of an anchor's prompt in the run of a concept's."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from efface import InputError, PipelineView
from efface.audit.audit import Audit
from efface.diffusion.anchors.tracing import EVERYWHERE, FAMILY, trace_anchor
from tests.emoji_world import tiny_emoji
from tests.pipelines import small, state, tiny

QUICK: dict[str, Any] = {"template": "a red {} and star", "seeds": 2, "steps": 4, **small("sd1")}
KINDS = ("word", "context", "end", "padding", "start", "all rows")


@pytest.fixture(scope="module")
def traced() -> Audit:
    return trace_anchor(tiny("sd1"), "square", "ring", rows=KINDS, **QUICK)


def value(audit: Audit, kind: str, place: str = EVERYWHERE) -> float:
    return audit.find(FAMILY, kind, place).value


class TestPrediction:
    def test_all_rows_of_an_equally_long_prompt_are_the_whole_way(self, traced: Audit) -> None:
        assert value(traced, "all rows") == pytest.approx(1, abs=1e-4)
        # A causal text encoder's first row has read nothing.
        assert value(traced, "start") == pytest.approx(0, abs=1e-6)
        assert all(abs(value(traced, kind)) > 1e-4 for kind in ("word", "context", "end", "padding"))

    def test_each_block_alone_is_not_all(self, traced: Audit) -> None:
        alone = [f for f in traced.findings if f.name == "all rows" and f.condition != EVERYWHERE]
        assert len(alone) == 4 and all(f.value < 0.999 for f in alone)
        assert [figure.kind for figure in traced.figures] == ["intervals", "lines"]
        assert "<svg" in traced.figures[1].svg() and "square" in str(traced)

    def test_a_patch_is_the_prediction_for_those_rows(self) -> None:
        """Against the denoiser run on a prompt whose rows were replaced by hand, which is the same where keys and
        values are made of the rows as they come."""
        view = PipelineView.of(tiny("sd1"))
        base, donor = (view.encode(f"a red {word} and star").replace(negative=None) for word in ("square", "ring"))
        rows = list(view.token_rows("a red square and star", "square")["text_encoder"].rows)
        theirs = list(view.token_rows("a red ring and star", "ring")["text_encoder"].rows)
        mixed = base.sequence.clone()
        mixed[:, rows] = donor.sequence[:, [theirs[min(i, len(theirs) - 1)] for i in range(len(rows))]]
        moved = []

        def rule(step: Any) -> None:
            if step.index in (1, 2, 3):
                own, other, both = (step.predict(e).double() for e in (base, donor, base.replace(sequence=mixed)))
                moved.append(float(((both - own) * (other - own)).sum() / (other - own).square().sum()))

        with view.guided(rule):
            view.sample("a red square and star", [5], steps=4, latent=True, **small("sd1"))
        one: dict[str, Any] = {**QUICK, "seeds": [5]}
        found = trace_anchor(view, "square", "ring", rows=["word"], blocks=False, **one)
        assert value(found, "word") == pytest.approx(sum(moved) / 3, rel=1e-4)

    def test_a_prompt_without_rows_of_a_kind_has_no_finding_of_it(self) -> None:
        bare: dict[str, Any] = {**QUICK, "template": "{}"}
        found = trace_anchor(tiny("sd1"), "square", "ring", rows=["context", "word"], blocks=False, **bare)
        assert [f.name for f in found.findings] == ["word"]

    def test_the_pipeline_is_left_as_it_was(self) -> None:
        pipe = tiny_emoji()
        PipelineView.of(pipe).encode("a cat")
        before = state(pipe)
        found = trace_anchor(pipe, "cat", "dog", rows=["start", "all rows"], seeds=2, steps=4, blocks=False)
        assert state(pipe) == before
        assert value(found, "all rows") == pytest.approx(1, abs=1e-3) and value(found, "start") > 0.001


class TestJudge:
    def test_pictures_are_sampled_with_the_patch_on(self) -> None:
        pipe = tiny("sd1")
        view, shown = PipelineView.of(pipe), []

        def judge(pictures: torch.Tensor, name: str) -> torch.Tensor:
            assert name == "square"
            shown.append(pictures)
            return torch.full((len(pictures),), 1.0 if len(shown) == 1 else 0.25)

        found = trace_anchor(pipe, "square", "ring", judge=judge, rows=["all rows"], blocks=False, **QUICK)
        assert value(found, "all rows") == 0.25 and found.findings[0].baseline == 1
        assert found.findings[0].chance == 1 and found.figures[0].chance == 1
        own, others = (view.sample(f"a red {w} and star", [0, 1], steps=4, **small("sd1")) for w in ("square", "ring"))
        assert torch.equal(shown[0], own) and torch.allclose(shown[1], others, atol=1e-3)


class TestRefusals:
    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"rows": ["words"]}, "no rows 'words': write some of word, context"),
            ({"template": "a photo"}, "must have {} once"),
            ({"seeds": 0}, "seeds"),
            ({"anchor": "square"}, "are the same to the text encoder"),
        ],
    )
    def test_say_what_to_write(self, given: dict[str, Any], said: str) -> None:
        call: dict[str, Any] = {"concept": "square", "anchor": "ring", **QUICK, **given}
        with pytest.raises(InputError, match=said):
            trace_anchor(tiny("sd1"), **call)

    def test_joint_attention_has_no_keys_of_a_prompt(self) -> None:
        with pytest.raises(InputError, match="no keys and values that depend on the prompt alone"):
            trace_anchor(tiny("flux"), "square", "ring")
