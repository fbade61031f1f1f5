"""A tiny model of nearly every text architecture of transformers: its default config with small numbers in it."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import transformers as tf
from transformers.models.auto import modeling_auto

WIDTH = 32

_SIZES: dict[int, str] = {
    32: (
        "hidden_size d_model n_embd dim emb_dim embed_dim model_dim word_embed_proj_dim lru_width "
        "projection_dim word_embed_size sliding_window"
    ),
    4: (
        "num_hidden_layers n_layer n_layers num_layers num_blocks encoder_attention_heads "
        "decoder_attention_heads num_attention_heads n_head n_heads num_heads qk_rope_head_dim "
        "linear_num_value_heads index_n_heads index_topk rotary_dim num_experts n_routed_experts "
        "num_local_experts moe_num_experts index_head_dim mamba_dt_rank time_step_rank"
    ),
    2: (
        "encoder_layers decoder_layers num_decoder_layers num_encoder_layers num_experts_per_tok moe_topk "
        "moe_k n_group num_global_key_value_heads zero_expert_num num_key_value_heads linear_num_key_heads "
        "expert_layer_period attn_layer_period eos_token_id type_vocab_size"
    ),
    48: ("intermediate_size ffn_dim encoder_ffn_dim decoder_ffn_dim d_ff n_inner hidden_dim d_inner ffn_hidden_size"),
    24: (
        "moe_intermediate_size shared_expert_intermediate_size d_expert moe_shared_expert_intermediate_size "
        "shared_intermediate_size expert_ffn_hidden_size"
    ),
    1: (
        "topk_group first_k_dense_replace n_shared_experts moe_num_shared_experts num_shared_experts "
        "expert_layer_offset attn_layer_offset mamba_n_groups bos_token_id"
    ),
    8: (
        "head_dim attention_head_dim kv_lora_rank qk_nope_head_dim v_head_dim d_kv d_state "
        "linear_key_head_dim linear_value_head_dim mamba_d_state mamba_n_heads mamba_d_head mamba_num_heads "
        "mamba_head_dim state_size ssm_state_size chunk_size mamba_chunk_size attention_window "
        "local_attention block_multiple_of bottleneck_size global_head_dim hidden_size_per_layer_input"
    ),
    12: "q_lora_rank qk_head_dim",
    16: "embedding_size",
    96: "vocab_size vocab_size_per_layer_input",
    64: ("max_position_embeddings n_positions n_ctx max_target_positions max_source_positions max_seq_len seq_length"),
    0: "pad_token_id decoder_start_token_id use_mamba_kernels",
}
"""Number -> the fields of a config that it goes into, where there are such."""

_SMALL: dict[str, Any] = {name: number for number, names in _SIZES.items() for name in names.split()}
_SMALL["use_mamba_kernels"] = False

_LATENT = {"num_key_value_heads": 4, "head_dim": None}
"""Where attention has latent keys (DeepSeek): None leaves a field out."""

OWN: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1, 3]},
    "dbrx": {"d_model": 32},
    "esmc": {"num_key_value_heads": 4},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_expand": 2},
    "fsmt": {"src_vocab_size": 96, "tgt_vocab_size": 96, "langs": ["en", "de"]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention", "mamba", "attention"]},
    "gpt_neo": {"num_layers": 4, "attention_types": [[["global", "local"], 2]]},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"], "num_dense_layers": 1},
    "longcat_flash": {"q_lora_rank": 12, "head_dim": 4},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "reformer": {"is_decoder": True},
    "squeezebert": {"embedding_size": 32},
    "zamba": {"num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"]},
    "zamba2": {"layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"]},
    "zaya": {"num_experts_per_tok": 1},
}
"""`model_type` -> what its config needs besides."""

BIGGEST = 3_000_000


def text_architectures() -> dict[str, str]:
    """`model_type` -> class, of all that transformers has for text."""
    maps = ("SEQ_TO_SEQ_CAUSAL_LM", "CAUSAL_LM", "MASKED_LM")
    found: dict[str, str] = {}
    for name in maps:
        for model_type, cls in getattr(modeling_auto, f"MODEL_FOR_{name}_MAPPING_NAMES").items():
            found.setdefault(model_type, cls)
    return found


def small_config(model_type: str, **changes: Any) -> Any:
    """The config of an architecture with small numbers."""
    cls: Any = tf.CONFIG_MAPPING[model_type]
    default, renamed = cls(), getattr(cls, "attribute_map", {})
    names = {*vars(default), *inspect.signature(cls.__init__).parameters, *renamed}
    given = {k: v for k, v in _SMALL.items() if k in names and renamed.get(k) not in names}
    given |= _LATENT if "kv_lora_rank" in names else {}
    given |= OWN.get(model_type, {}) | changes
    return cls(**{name: value for name, value in given.items() if value is not None})


def small_model(model_type: str, cls: str | None = None, *, seed: int = 0, **changes: Any) -> Any:
    """A tiny model, in evaluation mode, far from a fresh one.

    Raises:
        ValueError: If it would not be tiny.
    """
    config = small_config(model_type, **changes)
    made: Any = getattr(tf, cls or text_architectures()[model_type])
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in made(config).parameters())
    if size > BIGGEST:
        raise ValueError(f"{size / 1e6:.0f} million parameters")
    torch.manual_seed(seed)
    return spread(made(config).eval(), seed)


def spread(model: Any, seed: int = 0) -> Any:
    """A model with wide weights, and biases and norms that are not trivial."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "A_log" in name or "dt_" in name:
                continue  # of state-space layers, which must stay stable
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(drawn * 0.3) if parameter.ndim > 1 else parameter.add_(drawn * 0.1)
    return model
