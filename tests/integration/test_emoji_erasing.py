"""Erasers and audits on the emoji pipeline: a text encoder that reads in both directions and masks its padding.

BERT's tokenizer has [CLS] and [SEP] where CLIP's has a start and an end of text, a mask token of its own, and its first
row sums a text up.
"""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import efface
from efface import Concept, InputError, PipelineView
from efface.audit.pipelines.detection import Readings
from efface.core.installer import handles_on
from efface.diffusion.text.kinds import AFTER, BEFORE, END, PADDING, START, WORD, kinds_of, tokens_of
from efface.diffusion.text.safree.masking import masked_prompt, pooled
from efface.pipelines.embedding_parts import parts_of
from efface_worlds import emoji
from tests.cases import QUICK
from tests.emoji_world import tiny_emoji

PROMPTS = ["a cat in noto style on a blue background", "an owl", ""]
CAT = Concept("cat", preserve=["dog", "lion", "owl"], templates=["{}", "a {}", "a {} emoji", "one {}", "the {}"])
METHODS = [method.name for method in efface.methods("pipeline")]
LONG = ("concept-ablation", "gradient-ascent", "task-vector", "spm", "receler", "mace", "adv-unlearn")
EACH = [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in METHODS]
IN_TEMPLATES = ("uce", "rece", "speed", "oce")
OPTIONS: dict[str, dict[str, Any]] = {**QUICK, "sld": {"preset": "max"}}
OPTIONS |= {name: {**OPTIONS.get(name, {}), "in_templates": True} for name in IN_TEMPLATES}


@pytest.fixture(scope="module")
def view() -> PipelineView:
    return PipelineView.of(tiny_emoji())


@cache
def fitted(method: str) -> Any:
    """An erasure of the cat, which is told what its method reads."""
    reads = efface.get_method(method, "pipeline").reads
    concept = Concept("cat", **{name: getattr(CAT, name) for name in ("preserve", "templates") if name in reads})
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".* moved others more than it brought the concept"
        )  # in a step or two
        return efface.erase(tiny_emoji(), concept, method=method, **OPTIONS.get(method, {}))


def drawn(view: PipelineView, prompts: list[str] = PROMPTS[:2]) -> Tensor:
    return view.sample(prompts, list(range(len(prompts))), steps=2, guidance=3.0)


def bright(images: Tensor, name: str) -> Tensor:
    """A judge of nothing in particular."""
    return images.mean((1, 2, 3)) > 0.5


class TestEmbeddings:
    def test_they_are_the_pipelines_own_bit_for_bit(self, view: PipelineView) -> None:
        pipe = tiny_emoji()
        with torch.no_grad():
            own, negative = pipe.encode_prompt(PROMPTS, "cpu", 1, True, negative_prompt=["dog", "", "a red owl"])
        found = view.encode(PROMPTS, negative=["dog", "", "a red owl"])
        assert found.negative is not None
        assert torch.equal(found.sequence, own)
        assert torch.equal(found.negative.sequence, negative)
        assert torch.equal(own, emoji.embed_prompts(pipe.text_encoder, pipe.tokenizer, PROMPTS))

    def test_padding_is_not_read(self, view: PipelineView) -> None:
        own, read = view.encode(PROMPTS[0]).sequence, tiny_emoji().tokenizer(PROMPTS[0], return_tensors="pt")
        with torch.no_grad():
            bare = tiny_emoji().text_encoder(**read)[0]
        torch.testing.assert_close(own[:, : bare.shape[1]], bare, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("method", ["semantic-surgery", "cgce", "safree", "projection"])
    def test_an_edit_is_given_what_the_pipeline_makes(self, view: PipelineView, method: str) -> None:
        seen: list[Tensor] = []
        with view.edited(lambda embedding: seen.append(embedding.sequence) or embedding), fitted(method).on(view):
            tiny_emoji()(PROMPTS[:2], num_inference_steps=1, output_type="latent")
        assert torch.equal(seen[-1], view.encode(PROMPTS[:2]).sequence)


class TestRows:
    def test_special_tokens_are_start_and_end(self, view: PipelineView) -> None:
        (tokens,) = view.tokens("a photo of a cat").values()
        assert (tokens.start, tokens.eos, tokens.padding, tokens.content) == (0, 6, (7, 32), (0, 7))
        assert view.token_rows("a photo of a cat", "cat")["text_encoder"].sequence == (5,)

    def test_a_prompt_that_fills_the_window_still_ends(self, view: PipelineView) -> None:
        (tokens,) = view.tokens("cat " * 60).values()
        assert (tokens.eos, tokens.padding, tokens.truncated) == (31, (32, 32), True)

    @pytest.mark.parametrize(
        ("prompt", "word", "kinds"),
        [
            ("a cat on blue", "cat", [START, BEFORE, WORD, AFTER, AFTER, END]),
            ("cat", "cat", [START, WORD, END]),
            ("", "cat", [START, END]),
            ("a zebrafish", "zebrafish", [START, BEFORE, WORD, WORD, END]),
            ("hot dog, please", "hot dog", [START, WORD, WORD, AFTER, AFTER, END]),
        ],
    )
    def test_kinds(self, view: PipelineView, prompt: str, word: str, kinds: list[str]) -> None:
        (part,) = parts_of(view.encode(prompt))
        tokens = tokens_of(view, [prompt])[prompt]["text_encoder"]
        assert kinds_of(tokens, part, word) == kinds + [PADDING] * (32 - len(kinds))

    @pytest.mark.parametrize("prompt", ["a \U0001f431", "cat \U0001f431 dog"])
    def test_words_that_the_tokenizer_does_not_know_are_refused(self, view: PipelineView, prompt: str) -> None:
        with pytest.raises(InputError, match="does not know"):
            view.encode(prompt)


class TestSafree:
    def test_a_token_is_masked_by_the_tokenizers_own(self, view: PipelineView) -> None:
        pipe = tiny_emoji()
        (found,) = masked_prompt(view, "a cat on blue").values()
        assert found.words == ("a", "cat", "on", "blue")
        assert found.rows.tolist() == [1, 2, 3, 4]
        read = pipe.tokenizer("a [MASK] on blue", return_tensors="pt").input_ids
        with torch.no_grad():
            masked = pipe.text_encoder(input_ids=read).last_hidden_state
        torch.testing.assert_close(found.vectors[1], masked[0, 0].double(), rtol=0, atol=1e-5)

    def test_the_first_row_sums_a_text_up(self) -> None:
        pipe = tiny_emoji()
        ids = pipe.tokenizer("a cat", return_tensors="pt").input_ids
        with torch.no_grad():
            rows = pipe.text_encoder(input_ids=ids).last_hidden_state.double()
        assert torch.equal(pooled(pipe.text_encoder, ids, first=True), rows[:, 0])

    def test_what_pulls_towards_the_concept_is_its_word(self, view: PipelineView) -> None:
        with fitted("safree").on(view) as run:
            drawn(view, ["a cat in noto style on a blue background", "an owl in noto style on a pink background"])
        first, second = run.log.last
        assert "cat" in str(first)
        assert "owl" not in str(second).replace(str(second["prompt"]), "")


@pytest.mark.parametrize("method", EACH)
class TestErasers:
    def test_it_erases_and_leaves_the_pipeline_as_it_was(self, view: PipelineView, method: str, tmp_path: Path) -> None:
        before, erasure = drawn(view), fitted(method)
        with erasure.on(view):
            after = drawn(view)
        assert not torch.equal(after[0], before[0])
        assert handles_on(tiny_emoji()) == ()
        assert torch.equal(drawn(view), before)
        erasure.save(tmp_path / "erasure")
        with efface.load(tmp_path / "erasure").on(view):
            assert torch.equal(drawn(view), after)

    def test_an_audit_measures_it(self, view: PipelineView, method: str) -> None:
        options: dict[str, Any] = {"seeds": 1, "steps": 1, "guidance": 3.0, "others": ["dog"]}
        audit = efface.audit.pipeline(tiny_emoji(), "cat", judge=bright, erasure=fitted(method), **options)
        assert audit.find("seen by the judge", "cat", "after").n == 3
        assert audit.find("images of other prompts", "pixels moved", "change").value >= 0


def test_a_gate_tells_a_concept_from_its_siblings(view: PipelineView) -> None:
    erasure: Any = efface.erase(view, Concept("cat", preserve=emoji.siblings("cat")[:4]), method="semantic-surgery")
    present = emoji.prompts_for("cat", 12, seed=3).texts
    absent = [text for name in emoji.siblings("cat")[4:10] for text in emoji.prompts_for(name, 2, seed=4).texts]
    read = {"cat": Readings(*(erasure.reading(view.encode(texts))[:, 0] for texts in (present, absent)))}
    audit = efface.audit.detection(read)
    assert audit.find("detection", "cat", "AUROC").value > 0.9
