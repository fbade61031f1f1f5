"""Where the places of a role lie in each architecture: data, keyed by `config.model_type`.

A pattern is a glob over module paths: `*` is one step of a path, `**` any number of them (none too). A pattern may end
in `:input` or `:output` (the default) and an index, as in `sites.Site`. An architecture without a table is searched by
class names and by its lists of blocks (`generic_patterns`), so a table is needed only where that would be wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from efface._errors import InputError

ROLES: dict[str, str] = {
    "norms": "what comes out of each normalisation layer of the residual stream",
    "residual": "the residual stream as it leaves each block",
    "mlp_out": "what each feed-forward layer gives to the residual stream",
    "attn_out": "what each attention layer gives to the residual stream",
}
"""The roles, and what each means."""

_PRE_NORM = {
    "norms": ("**.layers.*.input_layernorm", "**.layers.*.post_attention_layernorm", "**.norm"),
    "residual": ("**.layers.*",),
    "mlp_out": ("**.layers.*.mlp",),
    "attn_out": ("**.layers.*.self_attn",),
}
_SANDWICH = _PRE_NORM | {
    "norms": (
        *_PRE_NORM["norms"],
        "**.layers.*.pre_feedforward_layernorm",
        "**.layers.*.post_feedforward_layernorm",
    )
}
_BERT = {
    "norms": (
        "**.embeddings.LayerNorm",
        "**.layer.*.attention.output.LayerNorm",
        "**.layer.*.output.LayerNorm",
    ),
    "residual": ("**.encoder.layer.*",),
    "mlp_out": ("**.layer.*.output.dense",),
    "attn_out": ("**.layer.*.attention.output.dense",),
}
_VIT = {
    # transformers 5 took the `encoder.layer` level away
    "norms": ("**.layernorm_before", "**.layernorm_after", "**.layernorm"),
    "residual": ("**.layers.*", "**.encoder.layer.*"),
    "mlp_out": ("**.layers.*.mlp", "**.encoder.layer.*.output.dense"),
    "attn_out": ("**.layers.*.attention", "**.encoder.layer.*.attention"),
}
_T5 = {
    "norms": ("**.layer_norm", "**.final_layer_norm"),
    "residual": ("**.block.*",),
    "mlp_out": ("**.DenseReluDense",),
    "attn_out": ("**.SelfAttention", "**.EncDecAttention"),
}
_CLIP = {
    "norms": ("**.pre_layrnorm", "**.layer_norm1", "**.layer_norm2", "**.final_layer_norm", "**.post_layernorm"),
    "residual": ("**.encoder.layers.*",),
    "mlp_out": ("**.encoder.layers.*.mlp",),
    "attn_out": ("**.encoder.layers.*.self_attn",),
}

TABLES: dict[str, Mapping[str, tuple[str, ...]]] = {
    "llama": _PRE_NORM,
    "mistral": _PRE_NORM,
    "mixtral": _PRE_NORM,
    "qwen2": _PRE_NORM,
    "qwen3": _PRE_NORM,
    "phi3": _PRE_NORM,
    "gemma": _PRE_NORM,
    "gemma2": _SANDWICH,
    "gemma3_text": _SANDWICH,
    "gemma3": _SANDWICH,
    "phi": _PRE_NORM | {"norms": ("**.layers.*.input_layernorm", "**.final_layernorm")},
    "gpt_neox": {
        "norms": ("**.layers.*.input_layernorm", "**.layers.*.post_attention_layernorm", "**.final_layer_norm"),
        "residual": ("**.layers.*",),
        "mlp_out": ("**.layers.*.mlp",),
        "attn_out": ("**.layers.*.attention",),
    },
    "gpt2": {
        "norms": ("**.h.*.ln_1", "**.h.*.ln_2", "**.ln_f"),
        "residual": ("**.h.*",),
        "mlp_out": ("**.h.*.mlp",),
        "attn_out": ("**.h.*.attn",),
    },
    "opt": {
        "norms": ("**.layers.*.self_attn_layer_norm", "**.layers.*.final_layer_norm", "**.decoder.final_layer_norm"),
        "residual": ("**.layers.*",),
        "mlp_out": ("**.layers.*.fc2",),
        "attn_out": ("**.layers.*.self_attn",),
    },
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "distilbert": {
        "norms": ("**.embeddings.LayerNorm", "**.layer.*.sa_layer_norm", "**.layer.*.output_layer_norm"),
        "residual": ("**.transformer.layer.*",),
        "mlp_out": ("**.layer.*.ffn",),
        "attn_out": ("**.layer.*.attention",),
    },
    "t5": _T5,
    "vit": _VIT,
    "clip_text_model": _CLIP,
    "clip_vision_model": _CLIP,
    "clip": _CLIP,
}
"""`config.model_type` -> role -> patterns."""

_ATTENTION = re.compile(r"^(self_?)?att(ention|n)$", re.IGNORECASE)
_MLP = re.compile(r"^(mlp|ffn|feed_?forward|ff)$", re.IGNORECASE)
_NORM = re.compile(r"(LayerNorm|RMSNorm)$", re.IGNORECASE)
_OF_A_HEAD = re.compile(r"^[qkv]_?(norm|layernorm|layer_norm)$", re.IGNORECASE)


def model_type(model: nn.Module) -> str | None:
    """`config.model_type` of a Hugging Face model; None if it has no such thing."""
    return getattr(getattr(model, "config", None), "model_type", None)


def patterns(model: nn.Module, role: str, table: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """Patterns of the places of a role in this model.

    Args:
        model: Any module.
        role: A key of `ROLES`, or of the user's `table`.
        table: Role -> pattern or patterns: the user's word, which goes before the tables here.

    Raises:
        InputError: If the role is unknown, or the generic search finds nothing; the text names what to pass.
    """
    if table is not None and role in table:
        given = table[role]
        return (given,) if isinstance(given, str) else tuple(given)
    if role not in ROLES:
        raise InputError(f"unknown role {role!r}: choose one of {', '.join(map(repr, ROLES))}, or pass table={{...}}")
    known = TABLES.get(model_type(model) or "")
    found = known[role] if known is not None else generic_patterns(model, role)
    if not found:
        raise InputError(
            f"found no {role!r} in {type(model).__name__} (model_type {model_type(model)!r}), for which there is no "
            f"table: pass sites= as module paths or globs, or table={{{role!r}: 'path.of.blocks.*'}}"
        )
    return found


def generic_patterns(model: nn.Module, role: str) -> tuple[str, ...]:
    """Paths of the places of a role, found by the names and classes of modules alone.

    Blocks are the children of the lists whose children are all of one class; norms are modules whose class is named
    so and that do not belong to the heads of an attention layer.
    """
    blocks = _blocks(model)
    if role == "residual":
        return tuple(blocks)
    if role == "norms":
        return tuple(
            name
            for name, module in model.named_modules()
            if _NORM.search(type(module).__name__) and not _OF_A_HEAD.match(name.rpartition(".")[2])
        )
    wanted = _ATTENTION if role == "attn_out" else _MLP
    return tuple(
        f"{block}.{name}"
        for block in blocks
        for name, _ in model.get_submodule(block).named_children()
        if wanted.match(name)
    )


def _blocks(model: nn.Module) -> list[str]:
    """Paths of the blocks: children of the outermost uniform lists of modules that hold other modules."""
    lists = [
        name
        for name, module in model.named_modules()
        if isinstance(module, (nn.ModuleList, nn.Sequential))
        and len({type(child) for child in module}) == 1
        and any(True for _ in next(iter(module)).children())
    ]
    outermost = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    return [f"{name}.{i}" if name else str(i) for name in outermost for i in range(len(model.get_submodule(name)))]  # type: ignore[arg-type]
