"""Erasers that tune a denoiser: time and memory of a fit, on a world and at the size of SD 1.5.

python -m benchmarks.weights_tuned [--methods esd ...] [--concept star] [--steps N]
python -m benchmarks.weights_tuned --full-size [--modules x] [--steps 2] [--size 512] [--bfloat16] [--no-checkpointing]

On a world: CPU seconds and the peak of the process, which is a new one for each method; how its weights compare (miss
and drift, see `efface.diffusion.weights.tuning`). At full size the pipeline has a UNet with the architecture of SD 1.5
and random weights, a text encoder of CLIP-L's width, and a small autoencoder that nothing is decoded by: what is shown
is that it runs, and in how much memory; what it learns means nothing.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import time
from typing import Any

import torch

import efface
from benchmarks._measure import table
from benchmarks._studio import SCALED, add_world
from efface.core.weights import nbytes_of
from efface.diffusion.weights.tuning import peak_bytes
from efface_worlds.registry import find_world

METHODS = ("esd", "concept-ablation", "gradient-ascent", "task-vector")
_MIB = 2**20


def full_size(size: int) -> Any:
    """A pipeline with a UNet of the architecture of SD 1.5, of random weights."""
    diffusers: Any = importlib.import_module("diffusers")
    transformers: Any = importlib.import_module("transformers")
    tokenizer = find_world("shapes", "pipeline").load_pipeline().tokenizer
    text = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=tokenizer.model_max_length,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    blocks = (8, 8, 8, 8)
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=blocks,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=size,
    )
    # The defaults of UNet2DConditionModel are those of SD 1.5, but for the width of text.
    unet = diffusers.UNet2DConditionModel(sample_size=size // 8, cross_attention_dim=768)
    betas = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    scheduler = diffusers.DDIMScheduler(**betas, steps_offset=1, clip_sample=False)
    pipe = diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=transformers.CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    for part in (pipe.unet, pipe.text_encoder, pipe.vae):
        part.eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run_full_size(args: argparse.Namespace) -> None:
    """Two steps of ESD at full size."""
    torch.manual_seed(0)
    pipe: Any = full_size(args.size)
    pipe = pipe.to(torch.bfloat16) if args.bfloat16 else pipe
    before, held = peak_bytes() or 0, nbytes_of(list(pipe.unet.parameters()))
    start = time.process_time()
    erasure = efface.erase(
        pipe,
        "star",
        "esd",
        modules=args.modules,
        steps=args.steps or 2,
        sampling_steps=2,
        at_once=1,
        probes=1,
        gradient_checkpointing=not args.no_checkpointing,
    )
    after = peak_bytes() or 0
    rows = [
        ("weights of the UNet, MiB", f"{held / _MIB:,.0f}"),
        ("trained, numbers", f"{erasure.report['trained']:,}"),
        ("trained, with gradient and Adam's moments, MiB", f"{4 * erasure.report['trained_bytes'] / _MIB:,.0f}"),
        ("peak of the process before the fit, MiB", f"{before / _MIB:,.0f}"),
        ("peak of the process, MiB", f"{after / _MIB:,.0f}"),
        ("the erasure, MiB", f"{erasure.nbytes / _MIB:,.0f}"),
        ("CPU seconds", f"{time.process_time() - start:,.0f}"),
    ]
    table(f"{args.steps or 2} steps of ESD, modules={args.modules!r}, {args.size} x {args.size} pixels", ("", ""), rows)


def run_one(args: argparse.Namespace, method: str) -> None:
    """One method's fit, in this process; its row of the table."""
    world = find_world(args.world, "pipeline")
    view = efface.PipelineView.of(world.load_pipeline(folder=args.pipeline))
    concept = efface.Concept(args.concept, preserve=world.others(args.concept))
    more = {} if args.steps is None else {"steps": args.steps}
    start = time.process_time()
    report = (erasure := efface.erase(view, concept, method, **SCALED.get(method, {}), **more)).report
    seconds, peak = time.process_time() - start, (peak_bytes() or 0) / _MIB
    said = (report["steps"], report["kept_step"], f"{report['miss']:.2f}", f"{report['drift']:.2f}")
    print("|".join(map(str, (method, *said, f"{seconds:.0f}", f"{peak:.0f}", f"{erasure.nbytes / _MIB:.2f}"))))


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="*", default=METHODS, choices=METHODS)
    add_world(parser)
    parser.add_argument("--concept", default="star")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--full-size", action="store_true")
    parser.add_argument("--modules", default="x")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--no-checkpointing", action="store_true")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # in this process
    args = parser.parse_args()
    if args.full_size:
        return run_full_size(args)
    if args.here:
        return run_one(args, args.methods[0])
    rows = []
    for method in args.methods:
        own = [
            sys.executable,
            "-m",
            "benchmarks.weights_tuned",
            "--here",
            "--methods",
            method,
            "--concept",
            args.concept,
        ]
        own += ["--world", args.world] + (["--pipeline", str(args.pipeline)] if args.pipeline else [])
        own += [] if args.steps is None else ["--steps", str(args.steps)]
        said = subprocess.run(own, check=True, capture_output=True, text=True).stdout.strip().splitlines()[-1]
        rows.append(tuple(said.split("|")))
    header = ("method", "steps", "kept", "miss", "drift", "CPU s", "peak MiB", "erasure MiB")
    table(f"Fits of {args.concept} on {args.world}", header, rows)


if __name__ == "__main__":
    main()
