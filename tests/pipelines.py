"""Tiny pipelines of every kind, made from configs with random weights, with tokenizers of their own.

Weights are drawn wider than a fresh model's, gates, norms and biases included, so that text reaches every output. The
tokenizers know the words of `WORDS`; the CLIP and Llama kinds are byte-level and know every other word too, the T5 kind
does not. Importing this imports diffusers.
"""

from __future__ import annotations

import importlib
import inspect
import re
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn

from efface.core.run import Run
from efface.core.subjects import as_subject

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    df: Any = importlib.import_module("diffusers")
    tf: Any = importlib.import_module("transformers")

_WORDS = "a an the of photo picture red blue green circle square star ring big small and with moving"
WORDS = tuple(re.findall("[a-z]+", _WORDS))
WIDTH = 32


def _alphabet() -> list[str]:
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
    return tf.CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=window, pad_token=pad)


def t5_tokenizer() -> Any:
    """A unigram tokenizer of WORDS; another word is unknown."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -9.0), *(("▁" + w, -1.0) for w in WORDS)]
    return tf.T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


def llama_tokenizer() -> Any:
    """A byte-level BPE tokenizer that writes a start token and pads on the right."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        min_frequency=1,
        special_tokens=["<|begin_of_text|>", "<|pad|>"],
        initial_alphabet=_alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(
        [
            inspect.signature(df.HunyuanVideoPipeline.__call__).parameters["prompt_template"].default["template"],
            " ".join(WORDS),
        ],
        trainer,
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)]
    )
    tokenizer = tf.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|begin_of_text|>", pad_token="<|pad|>", model_max_length=2048
    )
    special = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    return tokenizer


def _clip(tokenizer: Any, *, width: int = WIDTH, projection: int = 0) -> Any:
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


def _t5(tokenizer: Any, kind: str = "T5") -> Any:
    config = getattr(tf, f"{kind}Config")(
        vocab_size=len(tokenizer), d_model=WIDTH, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    return getattr(tf, f"{kind}EncoderModel")(config)


def _kl(latents: int = 4, blocks: tuple[int, ...] = (8, 8), **more: Any) -> Any:
    return df.AutoencoderKL(
        block_out_channels=blocks,
        down_block_types=("DownEncoderBlock2D",) * len(blocks),
        up_block_types=("UpDecoderBlock2D",) * len(blocks),
        latent_channels=latents,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=32,
        **more,
    )


def _unet(cross: int, **more: Any) -> Any:
    return df.UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=cross,
        attention_head_dim=more.pop("attention_head_dim", 4),
        norm_num_groups=4,
        **more,
    )


def _sd(prediction: str = "epsilon", scheduler: str = "DDIMScheduler", **unet: Any) -> Any:
    tokenizer = clip_tokenizer()
    steps = {"prediction_type": prediction, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    return df.StableDiffusionPipeline(
        vae=_kl(),
        text_encoder=_clip(tokenizer),
        tokenizer=tokenizer,
        unet=_unet(WIDTH, **unet),
        scheduler=getattr(df, scheduler)(**steps, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sdxl() -> Any:
    first, second = clip_tokenizer(), clip_tokenizer(pad="!")
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


def _sd3() -> Any:
    first, second, third = clip_tokenizer(), clip_tokenizer(pad="!"), t5_tokenizer()
    return df.StableDiffusion3Pipeline(
        transformer=df.SD3Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_projection_dim=32,
            joint_attention_dim=WIDTH,
            pooled_projection_dim=28,
            out_channels=4,
        ),
        scheduler=df.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_kl(shift_factor=0.06, scaling_factor=1.5, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=_clip(first, width=16, projection=16),
        tokenizer=first,
        text_encoder_2=_clip(second, width=12, projection=12),
        tokenizer_2=second,
        text_encoder_3=_t5(third),
        tokenizer_3=third,
    )


def _flux(guidance: bool = True) -> Any:
    first, second = clip_tokenizer(), t5_tokenizer()
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
            guidance_embeds=guidance,
            axes_dims_rope=(4, 4, 8),
        ),
        scheduler=df.FlowMatchEulerDiscreteScheduler(),
        vae=_kl(shift_factor=0.06, scaling_factor=1.5, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=_clip(first, width=24),
        tokenizer=first,
        text_encoder_2=_t5(second),
        tokenizer_2=second,
    )


def _pixart(kind: str) -> Any:
    tokenizer = t5_tokenizer()
    return getattr(df, f"PixArt{kind}Pipeline")(
        tokenizer=tokenizer,
        text_encoder=_t5(tokenizer),
        vae=_kl(),
        transformer=df.PixArtTransformer2DModel(
            sample_size=16,
            num_layers=2,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=3,
            caption_channels=WIDTH,
            in_channels=4,
            cross_attention_dim=24,
            out_channels=8,
            norm_type="ada_norm_single",
            use_additional_conditions=False,
        ),
        scheduler=df.DDIMScheduler(),
    )


def _cogvideox() -> Any:
    tokenizer = t5_tokenizer()
    return df.CogVideoXPipeline(
        tokenizer=tokenizer,
        text_encoder=_t5(tokenizer),
        vae=df.AutoencoderKLCogVideoX(
            down_block_types=("CogVideoXDownBlock3D",) * 4,
            up_block_types=("CogVideoXUpBlock3D",) * 4,
            block_out_channels=(8, 8, 8, 8),
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=2,
            temporal_compression_ratio=4,
        ),
        transformer=df.CogVideoXTransformer3DModel(
            num_attention_heads=4,
            attention_head_dim=8,
            in_channels=4,
            out_channels=4,
            time_embed_dim=8,
            text_embed_dim=WIDTH,
            num_layers=2,
            sample_width=4,
            sample_height=4,
            sample_frames=5,
            patch_size=2,
            temporal_compression_ratio=4,
            max_text_seq_length=226,
        ),
        scheduler=df.CogVideoXDDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True),
    )


def _ltx() -> Any:
    tokenizer = t5_tokenizer()
    five, four = (1,) * 5, (8,) * 4
    return df.LTXPipeline(
        scheduler=df.FlowMatchEulerDiscreteScheduler(),
        vae=df.AutoencoderKLLTXVideo(
            latent_channels=8,
            block_out_channels=four,
            decoder_block_out_channels=four,
            layers_per_block=five,
            decoder_layers_per_block=five,
            spatio_temporal_scaling=(True, True, False, False),
            decoder_spatio_temporal_scaling=(True, True, False, False),
            decoder_inject_noise=(False,) * 5,
            upsample_residual=(False,) * 4,
            upsample_factor=(1,) * 4,
            timestep_conditioning=False,
            patch_size=1,
            patch_size_t=1,
            encoder_causal=True,
            decoder_causal=False,
        ),
        text_encoder=_t5(tokenizer),
        tokenizer=tokenizer,
        transformer=df.LTXVideoTransformer3DModel(
            in_channels=8,
            out_channels=8,
            num_attention_heads=4,
            attention_head_dim=8,
            cross_attention_dim=32,
            num_layers=2,
            caption_channels=WIDTH,
        ),
    )


def _hunyuan() -> Any:
    first, second = llama_tokenizer(), clip_tokenizer()
    four = (8,) * 4
    llama = tf.LlamaConfig(
        vocab_size=len(first),
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        pad_token_id=first.pad_token_id,
        bos_token_id=first.bos_token_id,
        eos_token_id=None,
    )
    return df.HunyuanVideoPipeline(
        text_encoder=tf.LlamaModel(llama),
        tokenizer=first,
        transformer=df.HunyuanVideoTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=10,
            num_layers=1,
            num_single_layers=1,
            num_refiner_layers=1,
            patch_size=1,
            patch_size_t=1,
            guidance_embeds=True,
            text_embed_dim=WIDTH,
            pooled_projection_dim=24,
            rope_axes_dim=(2, 4, 4),
        ),
        vae=df.AutoencoderKLHunyuanVideo(
            latent_channels=4,
            down_block_types=("HunyuanVideoDownBlock3D",) * 4,
            up_block_types=("HunyuanVideoUpBlock3D",) * 4,
            block_out_channels=four,
            layers_per_block=1,
            norm_num_groups=4,
        ),
        scheduler=df.FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder_2=_clip(second, width=24),
        tokenizer_2=second,
    )


def _wan() -> Any:
    tokenizer = t5_tokenizer()
    return df.WanPipeline(
        tokenizer=tokenizer,
        text_encoder=_t5(tokenizer, "UMT5"),
        vae=df.AutoencoderKLWan(
            base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
        ),
        scheduler=df.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        transformer=df.WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=16,
            out_channels=16,
            text_dim=WIDTH,
            freq_dim=16,
            ffn_dim=32,
            num_layers=2,
            rope_max_seq_len=32,
        ),
    )


_IMAGE = {"height": 32, "width": 32}
BUILDERS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "sd1": (_sd, _IMAGE),
    "sd2": (lambda: _sd("v_prediction", use_linear_projection=True, attention_head_dim=(2, 4)), _IMAGE),
    "sdxl": (_sdxl, _IMAGE),
    "sd3": (_sd3, _IMAGE),
    "flux": (_flux, _IMAGE),
    "pixart-alpha": (lambda: _pixart("Alpha"), _IMAGE | {"use_resolution_binning": False, "clean_caption": False}),
    "pixart-sigma": (lambda: _pixart("Sigma"), _IMAGE | {"use_resolution_binning": False, "clean_caption": False}),
    "cogvideox": (_cogvideox, _IMAGE | {"num_frames": 5}),
    "ltx": (_ltx, _IMAGE | {"num_frames": 9}),
    "hunyuan-video": (_hunyuan, _IMAGE | {"num_frames": 5}),
    "wan": (_wan, _IMAGE | {"num_frames": 5}),
}
"""Name -> what builds the pipeline, and the arguments of its call that keep it small."""

VIDEO = ("cogvideox", "ltx", "hunyuan-video", "wan")
EMBEDDED = ("flux", "hunyuan-video")


def widen(model: nn.Module, generator: torch.Generator) -> None:
    """Draw all parameters anew, wide enough that nothing is near zero by construction."""
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(1 + 0.2 * noise if parameter.mean() > 0.5 else 0.2 * noise)


def build(name: str) -> Any:
    """A fresh tiny pipeline; equal at every call."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        pipe = BUILDERS[name][0]()
    generator = torch.Generator().manual_seed(0)
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            widen(part, generator)
            part.eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


tiny = cache(build)
"""The same pipeline at every call: for tests that leave it as it was."""


def small(name: str) -> dict[str, Any]:
    """Arguments of the pipeline's call: small pictures, short films."""
    return dict(BUILDERS[name][1])


def direct(name: str, prompts: list[str], seeds: list[int], steps: int = 2, pipe: Any = None, **more: Any) -> Tensor:
    """What the pipeline itself gives, as a tensor."""
    pipe = pipe or tiny(name)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    given = {**small(name), "num_inference_steps": steps, "output_type": "pt", "return_dict": False, **more}
    return torch.as_tensor(pipe(prompts, generator=generators, **given)[0])


def state(pipe: Any) -> list[Any]:
    """All that could be left behind in a pipeline: attributes, the scheduler's state, hooks, modes, parameters."""

    def plain(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.tolist()
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return value if isinstance(value, (int, float, str, bool, type(None))) else id(value)

    found: list[Any] = [{k: id(v) for k, v in vars(pipe).items()}]
    for name, part in pipe.components.items():
        if isinstance(part, nn.Module):
            for path, module in part.named_modules():
                hooks = {k: len(v) for k, v in vars(module).items() if k.endswith("_hooks") and v}
                versions = {k: None if p is None else p._version for k, p in module._parameters.items()}
                found.append((name, path, hooks, module.training, "forward" in vars(module), versions))
    found.append({k: plain(v) for k, v in vars(pipe.scheduler).items()})
    return [*found, torch.is_grad_enabled()]


def run_of(pipe: Any) -> Run:
    """What an edit of a pipeline is handed, for calls of the edit alone."""
    return Run(as_subject(pipe))
