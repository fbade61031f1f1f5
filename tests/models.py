"""Tiny models of every architecture, made from configs (32 wide, 2 blocks, 64 tokens), and data for each.

Weights are drawn wider than a fresh model's, norms and biases included, so that blocks are far from linear and no bias
is zero: what a test measures on them is not nothing by construction.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers as tf
from torch import Tensor, nn

WIDTH, BLOCKS, VOCABULARY, LENGTH, SEQUENCES, CLASSES = 32, 2, 64, 10, 24, 3

_S: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
_T = _S | {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_G = _T | {"num_key_value_heads": 2}
_H = _G | {"head_dim": 8}
_GPT2 = {"n_embd": WIDTH, "n_layer": BLOCKS, "n_head": 4, "vocab_size": VOCABULARY, "n_positions": 64}
_OPT = {"ffn_dim": 48, "word_embed_proj_dim": WIDTH, "max_position_embeddings": 64}
_T5 = {"d_model": WIDTH, "d_kv": 8, "d_ff": 48, "num_layers": BLOCKS, "num_heads": 4, "vocab_size": VOCABULARY}
_DISTIL = {"dim": WIDTH, "n_layers": BLOCKS, "n_heads": 4, "hidden_dim": 48, "vocab_size": VOCABULARY}
_ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

FAMILIES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (tf.LlamaForCausalLM, tf.LlamaConfig, _G),
    "mistral": (tf.MistralForCausalLM, tf.MistralConfig, _H),
    "mixtral": (tf.MixtralForCausalLM, tf.MixtralConfig, _G | {"num_local_experts": 2}),
    "qwen2": (tf.Qwen2ForCausalLM, tf.Qwen2Config, _G),
    "qwen3": (tf.Qwen3ForCausalLM, tf.Qwen3Config, _H),
    "gemma": (tf.GemmaForCausalLM, tf.GemmaConfig, _H),
    "gemma2": (tf.Gemma2ForCausalLM, tf.Gemma2Config, _H),
    "gemma3_text": (tf.Gemma3ForCausalLM, tf.Gemma3TextConfig, _H),
    "phi": (tf.PhiForCausalLM, tf.PhiConfig, _T),
    "phi3": (tf.Phi3ForCausalLM, tf.Phi3Config, _T),
    "gpt_neox": (tf.GPTNeoXForCausalLM, tf.GPTNeoXConfig, _T),
    "gpt2": (tf.GPT2LMHeadModel, tf.GPT2Config, _GPT2 | _ENDS),
    "opt": (tf.OPTForCausalLM, tf.OPTConfig, _T | _OPT),
    "bert": (tf.BertModel, tf.BertConfig, _T),
    "roberta": (tf.RobertaModel, tf.RobertaConfig, _T),
    "distilbert": (tf.DistilBertModel, tf.DistilBertConfig, _DISTIL | {"pad_token_id": 0}),
    "t5": (tf.T5ForConditionalGeneration, tf.T5Config, _T5 | {"decoder_start_token_id": 0}),
    "vit": (tf.ViTModel, tf.ViTConfig, _S | {"image_size": 16, "patch_size": 4}),
    "clip_text_model": (tf.CLIPTextModel, tf.CLIPTextConfig, _T | {"projection_dim": WIDTH}),
}
"""`config.model_type` -> class of model, class of config, what goes into the config."""

GENERATE = tuple(name for name in FAMILIES if name not in ("bert", "roberta", "distilbert", "vit", "clip_text_model"))
"""Those that generate text."""

POST_NORM = ("bert", "roberta", "distilbert")
"""Those whose norms give to the residual stream itself."""


def tiny(name: str, *, seed: int = 0, **changes: Any) -> Any:
    """A model of an architecture, in evaluation mode; `changes` go into its config."""
    torch.manual_seed(seed)
    model_class, config_class, options = FAMILIES[name]
    model = model_class(config_class(**options | changes)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
            else:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def tokens(seed: int = 1) -> Tensor:
    """`(24, 10)` token ids; none is a token of padding, of beginning or of end."""
    return torch.randint(3, VOCABULARY, (SEQUENCES, LENGTH), generator=torch.Generator().manual_seed(seed))


def padding() -> Tensor:
    """`(24, 10)` attention mask: every third sequence is three tokens shorter."""
    mask = torch.ones(SEQUENCES, LENGTH, dtype=torch.int64)
    mask[::3, -3:] = 0
    return mask


def data(name: str) -> dict[str, Tensor]:
    """What a tokenizer or an image processor would give for 24 sequences."""
    if name == "vit":
        return {"pixel_values": torch.randn(SEQUENCES, 3, 16, 16, generator=torch.Generator().manual_seed(1))}
    text = {"input_ids": tokens(), "attention_mask": padding()}
    if name == "t5":
        text |= {"decoder_input_ids": tokens(2), "decoder_attention_mask": padding().roll(1, 0)}
    return text


def concept(name: str) -> Tensor:
    """Labels of three classes that the inputs give away: one a token, or one an image."""
    if name == "vit":
        means = data(name)["pixel_values"].mean((1, 2, 3))
        return means.argsort().argsort() * CLASSES // SEQUENCES
    return tokens() % CLASSES


def hidden_states(model: nn.Module, inputs: dict[str, Tensor], paths: list[str]) -> dict[str, Tensor]:
    """What the modules at `paths` give in one forward pass, with whatever is on the model: by plain hooks."""
    found: dict[str, Tensor] = {}

    def keep(path: str) -> Any:
        return lambda _module, _args, output: found.update({path: output if isinstance(output, Tensor) else output[0]})

    handles = [model.get_submodule(path).register_forward_hook(keep(path)) for path in paths]
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    return found


def class_gaps(model: nn.Module, name: str, paths: list[str], labels: Tensor | None = None) -> dict[str, float]:
    """At each path, how far a class mean lies from the mean of all, in standard deviations of a feature, at most."""
    inputs = data(name)
    labels = concept(name) if labels is None else labels
    return {
        path: gap(*labelled_rows(x, labels, _mask(inputs, path)))
        for path, x in hidden_states(model, inputs, paths).items()
    }


def labelled_rows(x: Tensor, labels: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Hidden states `(b, t, d)` as rows with their labels, without padding and ignored tokens."""
    x = x.reshape(len(labels), -1, x.shape[-1])  # some layers see their tokens flattened
    wide = labels if labels.ndim > 1 else labels[:, None].expand(x.shape[:2])
    kept = (wide != -100) & (torch.ones_like(wide) if mask is None else mask).bool()
    return x[kept], wide[kept]


def gap(x: Tensor, labels: Tensor) -> float:
    """Largest distance of a class mean of x `(n, d)` from the mean, in standard deviations of a feature."""
    x = x.double()
    means = torch.stack([x[labels == c].mean(0) for c in labels.unique()])
    return float(((means - x.mean(0)).abs() / x.std(0)).max())


def _mask(inputs: dict[str, Tensor], path: str) -> Tensor | None:
    decoder = "decoder_input_ids" in inputs and path.startswith("decoder")
    return inputs.get("decoder_attention_mask" if decoder else "attention_mask")


def prompts(name: str) -> dict[str, Tensor]:
    """Six prompts to go on from; the first is padded on the left."""
    ids, mask = tokens(3)[:6, :6], torch.ones(6, 6, dtype=torch.int64)
    ids[0, :2] = mask[0, :2] = 0
    return {"input_ids": ids, "attention_mask": mask}


def generate(model: Any, name: str, **options: Any) -> list[list[int]]:
    """Eight more tokens for each prompt, greedily."""
    given: dict[str, Any] = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False} | options
    return model.generate(**prompts(name), **given).tolist()


def state(model: nn.Module) -> list[tuple[Any, ...]]:
    """All that could be left behind in a model: hooks, modes, replaced methods, other or changed parameters."""
    found = [
        (
            name,
            {k: list(v) for k, v in vars(module).items() if k.endswith("_hooks") and v},
            module.training,
            module.__dict__.get("forward"),
            {k: None if p is None else (id(p), p._version) for k, p in module._parameters.items()},
        )
        for name, module in model.named_modules()
    ]
    return [*found, (torch.is_grad_enabled(),)]


def hooks(model: nn.Module) -> int:
    """How many hooks of any kind are on the modules of a model."""
    return sum(len(v) for module in model.modules() for k, v in vars(module).items() if k.endswith("_hooks"))
