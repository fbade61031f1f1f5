"""Tiny pipelines whose weights are drawn anew, what is asked of them and of the world of shapes, and what they draw."""

from __future__ import annotations

import importlib
import re
import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.identity.inputs.arrays import source

WIDTH = 32
_WORDS = "a an the of photo picture red blue green circle square star ring big small and with moving"
WORDS = tuple(re.findall("[a-z]+", _WORDS))


@cache
def _libraries() -> tuple[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("diffusers"), importlib.import_module("transformers")


def _alphabet() -> list[str]:
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())


def clip_tokenizer(window: int = 77, pad: str = "<|endoftext|>") -> Any:
    """A byte-level CLIP tokenizer; "circle" is two tokens, the other words of WORDS one or more."""
    symbols = [*_alphabet(), *(c + "</w>" for c in _alphabet())]
    merges, known = [], set(symbols)
    for word in (*WORDS, "cir"):
        parts = list(word) if word == "cir" else [*word[:-1], word[-1] + "</w>"]
        parts = ["c", "l", "e</w>"] if word == "circle" else parts
        while len(parts) > 1:
            if parts[0] + parts[1] not in known:
                merges.append((parts[0], parts[1]))
                known.add(parts[0] + parts[1])
                symbols.append(parts[0] + parts[1])
            parts = [parts[0] + parts[1], *parts[2:]]
    vocabulary = {s: i for i, s in enumerate([*symbols, "<|startoftext|>", "<|endoftext|>"])}
    return _libraries()[1].CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=window, pad_token=pad)


def t5_tokenizer() -> Any:
    """A unigram tokenizer of WORDS; another word is unknown."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -9.0), *(("▁" + w, -1.0) for w in WORDS)]
    return _libraries()[1].T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


def _clip(tokenizer: Any, *, width: int = WIDTH, projection: int = 0) -> Any:
    tf = _libraries()[1]
    config = tf.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=77,
        projection_dim=projection or width,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return (tf.CLIPTextModelWithProjection if projection else tf.CLIPTextModel)(config)


def _t5(tokenizer: Any) -> Any:
    tf = _libraries()[1]
    config = tf.T5Config(
        vocab_size=len(tokenizer), d_model=WIDTH, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    return tf.T5EncoderModel(config)


def _kl(**more: Any) -> Any:
    return _libraries()[0].AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=32,
        **more,
    )


def _unet(cross: int, **more: Any) -> Any:
    return _libraries()[0].UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=cross,
        attention_head_dim=4,
        norm_num_groups=4,
        **more,
    )


def _sd1() -> Any:
    df, tokenizer = _libraries()[0], clip_tokenizer()
    return df.StableDiffusionPipeline(
        vae=_kl(),
        text_encoder=_clip(tokenizer),
        tokenizer=tokenizer,
        unet=_unet(WIDTH),
        scheduler=df.DDIMScheduler(
            prediction_type="epsilon", beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sdxl() -> Any:
    df, first, second = _libraries()[0], clip_tokenizer(), clip_tokenizer(pad="!")
    return df.StableDiffusionXLPipeline(
        vae=_kl(),
        text_encoder=_clip(first),
        tokenizer=first,
        text_encoder_2=_clip(second, width=24, projection=20),
        tokenizer_2=second,
        unet=_unet(
            WIDTH + 24,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 20,
            transformer_layers_per_block=(1, 1),
            use_linear_projection=True,
        ),
        scheduler=df.EulerDiscreteScheduler(beta_schedule="scaled_linear", steps_offset=1),
        add_watermarker=False,
    )


def _flux() -> Any:
    df, first, second = _libraries()[0], clip_tokenizer(), t5_tokenizer()
    return df.FluxPipeline(
        transformer=df.FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            pooled_projection_dim=24,
            guidance_embeds=True,
            axes_dims_rope=(4, 4, 8),
        ),
        scheduler=df.FlowMatchEulerDiscreteScheduler(),
        vae=_kl(shift_factor=0.06, scaling_factor=1.5, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=_clip(first, width=24),
        tokenizer=first,
        text_encoder_2=_t5(second),
        tokenizer_2=second,
    )


_PIPELINES = {"sd1": _sd1, "sdxl": _sdxl, "flux": _flux}
SMALL: dict[str, Any] = {"height": 32, "width": 32}
"""Arguments of a tiny pipeline's call that keep it small."""


def tiny_pipeline(name: str) -> Any:
    """A fresh pipeline of random weights, `"sd1"`, `"sdxl"` or `"flux"`; equal at every call."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        pipe = _PIPELINES[name]()
    g = source(0)
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            with torch.no_grad():
                for parameter in part.parameters():
                    noise = torch.randn(parameter.shape, generator=g)
                    if parameter.ndim > 1:
                        parameter.copy_(noise / parameter[0].numel() ** 0.5)
                    else:
                        parameter.copy_(1 + 0.2 * noise if parameter.mean() > 0.5 else 0.2 * noise)
            part.eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


TINY_PROMPTS = ["a red circle", "the small blue star", "a photo of a ring"]
"""With the concept, without it, with a synonym."""
TINY_CONCEPT: dict[str, Any] = {
    "name": "circle",
    "synonyms": ["ring"],
    "preserve": ["star", "square", "red", "blue", "big"],
    "templates": ["{}", "the {}", "a photo of {}"],
}
"""Fields of a `Concept`."""
TINY_CGCE_CONCEPT: dict[str, Any] = {
    "name": "circle",
    "preserve": ["star", "square", "red", "blue", "big"],
    "templates": ["{}", "the {}"],
}
"""The same for CGCE, whose classifiers random encoders teach little."""
TINY_THRESHOLD = {"sdxl": -0.12, "flux": 0.1}
"""Of Semantic Surgery, at which two of the three prompts are operated on (scores of random encoders mean nothing)."""
TINY_STEPS, TINY_SEEDS = 4, [3, 4, 5]
TINY_GUIDANCE = {"sd1": 3.0, "sdxl": 3.0, "flux": 3.5}

WORLD_PROMPTS = ["a red star on a white background", "a striped blue triangle"]
"""Of the shapes world: with the concept and without it."""
WORLD_PROMPTS_2 = ["a red star on a white background", "a striped blue circle"]
"""For two concepts: one of each."""
WORLD_CONCEPT: dict[str, Any] = {
    "name": "star",
    "preserve": ["triangle", "cross", "square", "heart"],
    "templates": ["{}", "a red {}", "a striped {}", "a photo of a {}", "a green {} on a white background"],
}
WORLD_CONCEPT_2: dict[str, Any] = {
    "name": "circle",
    "preserve": ["triangle", "cross", "square", "heart"],
    "templates": ["{}", "a red {}", "a striped {}", "a photo of a {}", "a green {} on a white background"],
}
WORLD_STEPS, WORLD_SEEDS, WORLD_GUIDANCE = 4, [0, 1], 3.0
QUICK_CGCE: dict[str, Any] = {
    "preset": "published",
    "n_pairs": 24,
    "epochs": 4,
    "learning_rate": 0.01,
    "keep_rows": 0.5,
    "members": 2,
    "width": 8,
    "heads": 2,
    "least_auroc": 0.5,
}
"""Options of CGCE under which it is fitted in seconds."""


def drawn(pipe: Any, prompts: list[str], seeds: list[int], steps: int, *, latent: bool = True, **call: Any) -> Tensor:
    """Latents or pictures by the pipeline's own call; no efface in it, but for what is on the pipeline."""
    with torch.no_grad():
        out = pipe(
            prompts,
            num_inference_steps=steps,
            generator=[source(seed) for seed in seeds],
            output_type="latent" if latent else "pt",
            return_dict=False,
            **call,
        )[0]
    return torch.as_tensor(out)


def world_drawn(
    pipe: Any, *, latent: bool = True, prompts: list[str] | None = None, steps: int = WORLD_STEPS, **call: Any
) -> Tensor:
    """What the pipeline of shapes gives for two prompts in four steps, with guidance."""
    given = {"guidance_scale": WORLD_GUIDANCE} | call
    return drawn(pipe, prompts or WORLD_PROMPTS, WORLD_SEEDS, steps, latent=latent, **given)


def tiny_drawn(name: str, pipe: Any, *, latent: bool = True, steps: int = TINY_STEPS, **call: Any) -> Tensor:
    """What a tiny pipeline gives for three prompts in four steps, with guidance."""
    given = {"guidance_scale": TINY_GUIDANCE[name], **SMALL} | call
    return drawn(pipe, TINY_PROMPTS, TINY_SEEDS, steps, latent=latent, **given)


def brightness(images: Tensor, word: str) -> Tensor:
    """A detector for visual feedback that needs no training: it always sees something, in bright pictures more."""
    return 0.5 + images.float().mean((1, 2, 3)).clamp(0, 1) / 2
