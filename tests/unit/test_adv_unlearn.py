"""AdvUnlearn: its loss by its definition, what is tuned, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import efface
from efface import Concept, InputError, PipelineView
from efface.diffusion.weights.draws import Drawn, Draws
from efface.diffusion.weights.encoders import Prefixes, TunedEncoders
from efface.training.seeds import generator
from tests.pipelines import build, df, small, tiny
from tests.unit.test_tuning import fitted, given_latents

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:method=.* moved others"),
]
NAME = "adv-unlearn"
CIRCLE = Concept("circle", preserve=["square"], templates=["a {}"])


@pytest.mark.parametrize("attack", ["none", "pgd", "fast"])
def test_the_loss_is_its_definition(attack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps: what is retained counts from the second on. Tokens are moved as rows of the table of tokens here."""
    x, t = given_latents("sd1")
    monkeypatch.setattr(Draws, "at", lambda self, step: Drawn(x, t, self._aims[:1]))
    options: dict[str, Any] = {"attack": attack, "warm_up": 0, "attack_steps": 3, "attack_rate": 0.1, "eta": 0.7}
    options |= {"keeping": 0.5, "evaluate_every": 1, "concept": CIRCLE, "retained": 1}
    once, twice = (fitted(NAME, **options, steps=n) for n in (1, 2))
    pipe = build("sd1")
    view = PipelineView.of(pipe)
    encoded, retained = view.encode(["circle"]), view.encode(["a square"])  # the first of its templates
    assert encoded.negative is not None

    def said(embedding: Any) -> Tensor:
        return view.denoise(x, t, embedding.replace(negative=None), **small("sd1"))

    concept, neutral, stay = (said(e).detach() for e in (encoded[0], encoded.negative[0], retained[0]))
    own = copy.deepcopy(pipe)
    table: Any = own.text_encoder.get_input_embeddings().weight
    (placeholder,) = pipe.tokenizer("a", add_special_tokens=False).input_ids

    def read(text: str) -> Any:
        return encoded.replace(sequence=own.encode_prompt(text, "cpu", 1, False)[0])

    def loss(step: int) -> tuple[float, float]:
        text = "circle" if attack == "none" else "a circle"
        if attack != "none":
            ids = torch.randint(len(table), (1,), generator=generator(0, 19, step))
            row = pipe.text_encoder.get_input_embeddings().weight.detach()[ids]
            adam = torch.optim.Adam([row], lr=0.1)
            for _ in range(3):
                with torch.no_grad():
                    table[placeholder] = row[0]
                table.requires_grad_(True).grad = None
                moved = said(read(text))
                (moved - concept).square().mean().backward(inputs=[table])
                row.grad = table.grad[[placeholder]]
                row.grad = row.grad.sign() if attack == "fast" else row.grad
                adam.step()
                table.requires_grad_(False)
            table[placeholder] = row[0]
        with torch.no_grad():
            erased = (said(read(text)) - (neutral - 0.7 * (concept - neutral))).square().mean()
            table.copy_(pipe.text_encoder.get_input_embeddings().weight)
            other = (said(read("a square")) - stay).square().mean()
        return float(erased), float(other)

    first = loss(0)
    assert first[1] == 0.0 and once.report["looks"][0]["loss"] == pytest.approx(first[0], rel=1e-3)
    with torch.no_grad():
        for name, (change,) in once.deltas["text_encoder"].changes.items():
            own.text_encoder.get_parameter(name).add_(change.value)
    second = loss(1)
    assert second[1] > 0
    assert twice.report["looks"][1]["loss"] == pytest.approx(second[0] + 0.5 * second[1], rel=1e-3)


def test_text_encoders_change_but_for_their_embeddings_and_nothing_else() -> None:
    pipe = build("sdxl")
    for part in (pipe.unet, pipe.text_encoder, pipe.text_encoder_2):
        part.requires_grad_(True)
    parts = {n: m for n, m in pipe.components.items() if isinstance(m, nn.Module)}
    before = {n: {k: v.clone() for k, v in m.state_dict().items()} for n, m in parts.items()}
    erasure = fitted(NAME, pipe, "sdxl", CIRCLE, steps=3)
    assert erasure.deltas.keys() == {"text_encoder", "text_encoder_2"}
    for part, delta in erasure.deltas.items():
        names = {n for n, _ in parts[part].named_parameters()}
        assert delta.changes.keys() <= {n for n in names if "embedding" not in n}
        assert {n.split(".layers.")[1][0] for n in delta.changes if ".layers." in n} >= {"0", "1"}
    for n, m in parts.items():
        assert all(torch.equal(v, before[n][k]) for k, v in m.state_dict().items())
        assert all(p.grad is None for p in m.parameters())
    name = min(erasure.deltas["text_encoder"].changes)
    with erasure.on(pipe):
        assert not torch.equal(pipe.text_encoder.get_parameter(name), before["text_encoder"][name])
    assert all(torch.equal(v, before["text_encoder"][k]) for k, v in pipe.text_encoder.state_dict().items())


def test_only_the_first_blocks_and_one_encoder_where_that_is_asked() -> None:
    erasure = fitted(NAME, name="sdxl", concept=CIRCLE, steps=1, encoder="text_encoder_2", blocks=1)
    assert erasure.deltas.keys() == {"text_encoder_2"} and erasure.report["encoders"] == ["text_encoder_2"]
    assert all(".layers.0." in name for name in erasure.deltas["text_encoder_2"].changes)
    with pytest.raises(InputError, match="has 3 blocks"):
        fitted(NAME, concept=CIRCLE, blocks=4)
    with pytest.raises(InputError, match="no text encoder 'text_encoder_3'.*it has text_encoder"):
        fitted(NAME, concept=CIRCLE, encoder="text_encoder_3")


@pytest.mark.parametrize("name", ["sd3", "pixart-sigma", "flux"])
def test_other_pipelines(name: str) -> None:
    erasure = fitted(NAME, name=name, concept=CIRCLE, steps=1, warm_up=0)
    assert set(erasure.deltas) == set(PipelineView.of(tiny(name)).text_encoders)


def test_prompts_are_read_as_the_pipeline_reads_them_and_tokens_where_words_begin() -> None:
    view = PipelineView.of(tiny("sd1"))
    student = TunedEncoders(view, ["text_encoder"], None, "")
    with torch.no_grad():
        found, plain = student.embedding(["a red circle", None, "star"]), view.encode(["a red circle", "star"])
    assert plain.negative is not None
    for i, row in enumerate((plain[0], plain.negative[0], plain[1])):
        assert torch.equal(found.sequence[i], row.sequence[0])
    prefixes = Prefixes(view, student, ["a circle"], 2)
    values = prefixes.drawn(torch.Generator().manual_seed(0))
    (((_, ids), (rows, value)),) = prefixes.put(values).items()
    assert prefixes.text == {"a circle": "a a a circle"} and rows == [1, 2] and value.shape[0] == 2
    assert ids == view.tokens("a a a circle")["text_encoder"].ids
    with torch.no_grad(), student.putting(prefixes.put(values)):
        put = student.embedding(["a a a circle", "a red circle", None])
    assert not torch.equal(put.sequence[0], student.embedding(["a a a circle"]).sequence[0])
    assert torch.equal(put.sequence[1], plain.sequence[0]) and torch.equal(put.sequence[2], plain.negative.sequence[0])


def test_it_leaves_a_pipeline_that_needs_no_efface(tmp_path: Path) -> None:
    pipe = build("sd1")
    erasure = fitted(NAME, pipe, concept=CIRCLE, steps=2)
    efface.diffusion.save_pipeline(erasure, pipe, tmp_path / "p")
    call = {"num_inference_steps": 2, "output_type": "pt", **small("sd1")}
    with erasure.on(pipe):
        expected = pipe("a circle", generator=torch.Generator().manual_seed(0), **call).images
    other = df.StableDiffusionPipeline.from_pretrained(tmp_path / "p", safety_checker=None)
    other.set_progress_bar_config(disable=True)
    assert torch.equal(other("a circle", generator=torch.Generator().manual_seed(0), **call).images, expected)


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="there is nothing to retain"):
        fitted(NAME, concept="circle")
    with pytest.raises(InputError, match="retain is .*write a list"):
        fitted(NAME, concept="circle", retain="a square")
    with pytest.raises(InputError, match="write fewer attack_tokens"):
        fitted(NAME, concept=CIRCLE, attack_tokens=80)
    pipe = build("sd1")
    with efface.erase(pipe, CIRCLE, "projection").on(pipe), pytest.raises(InputError, match="take that off before"):
        fitted(NAME, pipe, concept=CIRCLE)
    assert fitted(NAME, concept="circle", retain=["a square"], steps=1).report["retained"] == 1
    assert fitted(NAME, concept="circle", keeping=0.0, steps=1).report["retained"] == 0


def test_gradient_checkpointing_changes_nothing() -> None:
    plain, light = (fitted(NAME, concept=CIRCLE, steps=3, gradient_checkpointing=on) for on in (False, True))
    for name, (change,) in plain.deltas["text_encoder"].changes.items():
        assert torch.allclose(change.value, light.deltas["text_encoder"].changes[name][0].value, atol=1e-5)
