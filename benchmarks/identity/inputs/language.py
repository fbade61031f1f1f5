"""Tiny language models whose weights are drawn anew, and tokens for them."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from benchmarks.identity.inputs.arrays import source

WIDTH, BLOCKS, VOCABULARY, LENGTH, SEQUENCES, CLASSES = 32, 2, 64, 10, 24, 3
_S: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
_T = _S | {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", _T | {"num_key_value_heads": 2}),
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {"n_embd": WIDTH, "n_layer": BLOCKS, "n_head": 4, "vocab_size": VOCABULARY, "n_positions": 64}
        | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    ),
    "bert": ("BertModel", "BertConfig", _T),
}
"""Name -> class of model, class of config (of transformers), what goes into the config."""


def tiny_model(name: str, *, seed: int = 0, **changes: Any) -> Any:
    """A model made from its config, every weight drawn anew from a generator; `changes` go into the config."""
    transformers = importlib.import_module("transformers")
    model_class, config_class, options = MODELS[name]
    torch.manual_seed(seed)
    config = getattr(transformers, config_class)(**options | changes)
    model = getattr(transformers, model_class)(config).eval()
    g = source(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=g) * 0.3)
            else:
                parameter.add_(torch.randn(parameter.shape, generator=g) * 0.1)
    return model


def tokens(seed: int = 1) -> Tensor:
    """`(24, 10)` token ids; none is a token of padding, of beginning or of end."""
    return torch.randint(3, VOCABULARY, (SEQUENCES, LENGTH), generator=source(seed))


def padding() -> Tensor:
    """`(24, 10)` attention mask: every third sequence is three tokens shorter."""
    found = torch.ones(SEQUENCES, LENGTH, dtype=torch.int64)
    found[::3, -3:] = 0
    return found


def text_data() -> dict[str, Tensor]:
    """What a tokenizer would give."""
    return {"input_ids": tokens(), "attention_mask": padding()}


def token_labels() -> Tensor:
    """A class for each token `(24, 10)`."""
    return tokens() % CLASSES


def some_text() -> dict[str, Tensor]:
    """Four other sequences, on which outputs are compared."""
    return {"input_ids": tokens(5)[:4], "attention_mask": torch.ones(4, LENGTH, dtype=torch.int64)}


def hidden(model: Any) -> Tensor:
    """What a model gives for `some_text`: logits, or the last hidden states."""
    with torch.no_grad():
        out = model(**some_text())
    return out.logits if hasattr(out, "logits") else out.last_hidden_state
