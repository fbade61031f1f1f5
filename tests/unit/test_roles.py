"""Roles are seen in a forward pass: on architectures whose modules' names say otherwise, and where they are refused."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor, nn

from efface import EffaceWarning, InputError, Site, find_roles, find_sites, scrub
from efface.scrubbing.forward import edited
from tests.architectures import small_model, spread
from tests.models import tiny


@cache
def model(name: str) -> Any:
    return small_model(name)


# model_type, role -> globs with the number of sites in each
SEEN: list[tuple[str, str, dict[str, int]]] = [
    ("qwen3_next", "attn_out", {"model.layers.*.linear_attn": 3, "model.layers.*.self_attn": 1}),
    ("qwen3_next", "mlp_out", {"model.layers.*.mlp": 4}),
    ("jamba", "residual", {"model.layers.*": 4}),
    ("jamba", "attn_out", {"model.layers.*.mamba": 2, "model.layers.*.self_attn": 2}),
    (
        "jamba",
        "norms",
        {"model.layers.*.input_layernorm": 4, "model.layers.*.pre_ff_layernorm": 4, "**.final_layernorm": 1},
    ),
    ("deepseek_v3", "norms", {"**.input_layernorm": 4, "**.post_attention_layernorm": 4, "model.norm": 1}),
    ("nemotron", "norms", {"**.input_layernorm": 4, "**.post_attention_layernorm": 4, "model.norm": 1}),
    ("bart", "attn_out", {"**.self_attn": 4, "**.decoder.layers.*.encoder_attn": 2}),
    ("electra", "attn_out", {"**.attention.output.dense": 4}),
    ("electra", "mlp_out", {"**.layer.[0-3].output.dense": 4}),
    ("deberta-v2", "attn_out", {"**.attention.output.dense": 4}),
    ("mpnet", "attn_out", {"**.attention.attn": 4}),
    ("bloom", "attn_out", {"**.self_attention.dense": 4}),
    ("bloom", "mlp_out", {"**.dense_4h_to_h": 4}),
    ("falcon", "mlp_out", {"**.mlp": 4}),
    ("lfm2", "attn_out", {"**.conv": 2, "**.self_attn": 2}),
    ("gpt_oss", "mlp_out", {"**.mlp": 4}),
    ("olmo2", "attn_out", {"**.post_attention_layernorm": 4}),
    ("mamba", "attn_out", {"**.mixer": 4}),
    ("nemotron_h", "mlp_out", {"**.mixer": 2}),
    ("albert", "residual", {"**.albert_layer_groups.0": 1}),
    ("longformer", "attn_out", {"**.attention.output.dense": 4}),
    ("xlnet", "attn_out", {"**.rel_attn.dropout": 4}),
    ("granitemoehybrid", "attn_out", {"**.mamba": 2, "**.self_attn": 2}),
]


@pytest.mark.parametrize(("name", "role", "globs"), SEEN, ids=lambda x: x if isinstance(x, str) else "")
@pytest.mark.filterwarnings("ignore:the norms of:efface.EffaceWarning")
def test_what_plays_a_role(name, role, globs):
    table = {"these": list(globs)}
    expected = find_sites(model(name), "these", table=table)
    found = find_sites(model(name), role)
    if name not in ("jamba", "lfm2", "nemotron_h", "granitemoehybrid", "qwen3_next", "electra"):
        assert found == expected
    assert len(found) == sum(globs.values()) and set(found) <= set(expected)


ADDING = (
    "llama4_text",
    "qwen3_next",
    "jamba",
    "gemma2",
    "olmo2",
    "falcon",
    "mbart",
    "deepseek_v3",
    "mamba",
    "nemotron_h",
)


@pytest.mark.parametrize("name", ADDING)
def test_blocks_give_what_they_are_given_and_the_sites_of_their_roles(name):
    own = model(name)
    seen = find_roles(own)
    for stream in seen.streams:
        for block in stream.blocks:
            parts = [Site(path) for path in (*block.attn_out, *block.mlp_out)]
            x = states(own, [Site(block.path, "input"), Site(block.path), *parts])
            total = x[Site(block.path, "input")] + sum(x[part] for part in parts)
            torch.testing.assert_close(x[Site(block.path)], total, rtol=1e-4, atol=1e-4)


def states(own: nn.Module, sites: list[Site]) -> dict[Site, Tensor]:
    found: dict[Site, Tensor] = {}
    ids = torch.arange(3, 12)[None]
    more = {"decoder_input_ids": ids} if own.config.is_encoder_decoder else {}  # type: ignore[union-attr]
    with torch.no_grad(), edited(own, {site: lambda x, s=site: found.update({s: x.clone()}) for site in sites}):
        own(input_ids=ids, use_cache=False, **more)
    return found


def test_whisper_has_cross_attention():
    config = tf.WhisperConfig(
        d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=48, decoder_ffn_dim=48, vocab_size=96, num_mel_bins=8, max_source_positions=16,
        max_target_positions=16, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    found = find_sites(spread(tf.WhisperForConditionalGeneration(config).eval()), "attn_out")
    assert len(found) == 6 and sum("encoder_attn" in site.path for site in found) == 2


def llava() -> Any:
    text = tf.LlamaConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    vision = tf.CLIPVisionConfig(
        hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
    )
    torch.manual_seed(0)
    config = tf.LlavaConfig(vision_config=vision, text_config=text, image_token_index=95)
    return spread(tf.LlavaForConditionalGeneration(config).eval())


def test_of_a_model_that_also_sees_only_what_runs_plays_a_role():
    own, ids = llava(), torch.randint(3, 90, (12, 8), generator=torch.Generator().manual_seed(0))
    for role, n in (("norms", 5), ("residual", 2), ("attn_out", 2), ("mlp_out", 2)):
        found = find_sites(own, role)
        assert len(found) == n and not any("vision" in site.path for site in found)
    assert "vision_tower" in repr(find_roles(own)) and "did not run" in repr(find_roles(own))
    assert len(scrub(own, ids, ids % 3, sites="norms").sites) == 5


# ------------------------------------------------------------------------------------------------- norms as guards


@pytest.mark.parametrize("name", ["olmo2", "olmo3", "exaone4"])
def test_norms_that_guard_no_reader_are_said_and_what_to_write_works(name):
    own, ids = model(name), torch.randint(3, 90, (24, 8), generator=torch.Generator().manual_seed(0))
    with pytest.warns(EffaceWarning, match=re.escape("sites=['norms', 'model.layers.*.self_attn:input'")) as said:
        find_sites(own, "norms")
    written = re.search(r"write sites=(\[.*\])", str(said[0].message))
    assert written is not None
    sites = eval(written[1])
    seen: list[Tensor] = []
    with pytest.warns(EffaceWarning, match="do not stand before"):
        scrubber = scrub(own, ids, ids % 3, sites=sites)
    handles = [
        module.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
        )
        for path, module in own.named_modules()
        if path.endswith((".self_attn", ".mlp"))
    ]
    with torch.no_grad(), scrubber.on(own):
        own(ids)
    for handle in handles:
        handle.remove()
    assert len(seen) == 8
    for x in seen:
        flat, z = x.flatten(0, 1).double(), (ids % 3).flatten()
        means = torch.stack([flat[z == c].mean(0) for c in range(3)])
        assert float(((means - flat.mean(0)).abs() / flat.std(0)).max()) < 1e-5


@pytest.mark.parametrize("name", ["llama", "bert", "gemma2", "t5"])
@pytest.mark.filterwarnings("error")
def test_norms_that_guard_every_reader(name):
    assert not find_roles(tiny(name)).unguarded
    find_sites(tiny(name), "norms")


# ---------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("name", "role", "text"),
    [
        ("mamba", "mlp_out", "all that its blocks add to the residual stream .* look at several tokens"),
        ("doge", "norms", "what model.layers.0, .* give is not what they are given plus what they add"),
        ("xlm", "residual", r"\(of transformer.attentions\) give is not"),
        (
            "pegasus_x",
            "attn_out",
            "model.encoder.layers.1 add something .* that no module in there gives",
        ),
        ("squeezebert", "norms", "no list of blocks that ran"),
    ],
)
def test_what_is_not_certain_is_refused_with_what_to_write(name, role, text):
    with pytest.raises(InputError, match=text) as error:
        find_sites(model(name), role)
    assert re.search(rf"sites= as module paths or globs .* table=\{{'{role}'", str(error.value))


class Plain(nn.Module):
    """A model of nobody's architecture, whose names mislead."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(64, 8)
        self.steps = nn.ModuleList(Step() for _ in range(3))
        self.out = nn.RMSNorm(8)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        for step in self.steps:
            x = step(x)
        return self.out(x)


class Step(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense, self.attn, self.mlp, self.norm = nn.LayerNorm(8), nn.Linear(8, 8), nn.RMSNorm(8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.norm(self.dense(x).cumsum(1))
        return 2 * self.attn(self.mlp(x)) + x


def test_a_model_of_ones_own():
    inputs = {"input_ids": torch.arange(6)[None]}
    paths = {role: [str(s) for s in find_sites(Plain(), role, inputs=inputs)] for role in ("norms", "residual")}
    assert paths["residual"] == [f"steps.{i}" for i in range(3)] and paths["norms"][-1] == "out"
    assert len(paths["norms"]) == 7
    assert [s.path.rpartition(".")[2] for s in find_sites(Plain(), "attn_out", inputs=inputs)] == ["norm"] * 3
    assert [s.path.rpartition(".")[2] for s in find_sites(Plain(), "mlp_out", inputs=inputs)] == ["attn"] * 3
    with pytest.raises(InputError, match=r"not known what Plain takes: pass inputs=\{...\}"):
        find_sites(Plain(), "norms")
    ids = torch.randint(0, 64, (12, 6), generator=torch.Generator().manual_seed(0))
    assert len(scrub(Plain(), ids, ids % 3, sites=["norms", "mlp_out"]).sites) == 10  # seen with the data


def test_a_model_without_residual_stream_has_norms_only():
    own = nn.Sequential(nn.Embedding(64, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.ReLU())
    inputs = {"input": torch.arange(6)[None]}
    assert [str(site) for site in find_sites(own, "norms", inputs=inputs)] == ["1"]
    assert "no residual stream; norms: 1" in repr(find_roles(own, inputs))
    with pytest.raises(InputError, match="no list of blocks that ran"):
        find_sites(own, "residual", inputs=inputs)


def test_a_model_that_does_not_run_says_so():
    with pytest.raises(InputError, match=r"Plain does not run on input_ids \(1, 1\) .*pass inputs="):
        find_sites(Plain(), "norms", inputs={"input_ids": torch.tensor([[99]])})


@pytest.mark.parametrize("train", [True, False])
def test_looking_leaves_the_model_as_it_was(train):
    from tests.models import state

    own = tiny("llama").train(train)
    own.lm_head.weight.requires_grad_(False)
    before = state(own)
    frozen = tiny("llama").requires_grad_(False)
    half = tiny("llama").bfloat16()
    with torch.inference_mode():
        assert repr(find_roles(own)) == repr(find_roles(frozen)) == repr(find_roles(half))
    assert [row[:4] for row in state(own)[:-1]] == [row[:4] for row in before[:-1]]
    assert not torch.is_inference(next(own.parameters())) and all(p.grad is None for p in own.parameters())
