"""Erasers that tune a denoiser: time and memory of a fit, on a world and at the size of SD 1.5.

python -m benchmarks.weights_tuned [--methods esd ...] [--concepts star] [--seeds 1] [--steps N]
    [--pictures 0] [--draws 4] [--sampling N]
python -m benchmarks.weights_tuned --full-size [--modules x] [--steps 2] [--size 512] [--bfloat16] [--no-checkpointing]

On a world: CPU seconds and the peak of the process, which is a new one for each fit (before it the pipeline is loaded);
how its weights compare (miss and drift, see `efface.diffusion.weights.tuning`; of MACE those of its adapters; closed
forms have neither). Fits are of each concept by so many seeds.
With `--pictures N` as many prompts of each concept, of its synonyms, and one of each other concept of its factor
are drawn with each erasure on, `--draws` times, and scored by judge 2 as in `benchmarks.erasing`; the last row of a
method has all its fits together, with the intervals of these pictures (they know nothing of other fits). Methods are
named as there: `mace@anchor=sibling`.

At full size the pipeline has a UNet with the architecture of SD 1.5
and random weights, a text encoder of CLIP-L's width, and a small autoencoder that nothing is decoded by: what is shown
is that it runs, and in how much memory; what it learns means nothing.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import subprocess
import sys
import time
from dataclasses import fields
from typing import Any

import torch

import efface
from benchmarks._measure import table
from benchmarks._studio import Studio, add_world
from benchmarks.erasing import average, run
from efface import get_method
from efface.audit.pipelines.balance import harmonic
from efface.core.cost import peak_bytes
from efface.core.weights import nbytes_of
from efface.stats.intervals import wilson_interval
from efface_worlds.registry import find_world

METHODS = ("esd", "concept-ablation", "gradient-ascent", "task-vector", "receler", "mace", "adv-unlearn")
_SHARES = ("ACC_e", "ACC_g", "ACC_ir")
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
    """One fit of each concept and seed in this process, which has others of its own for each; a line of data."""
    studio, name = Studio.of(args, steps=args.sampling), args.concepts[0]
    bare, _, variant = method.partition("@")
    wanted = {"seed": args.seed, "steps": args.steps}
    known = {each.name for each in fields(get_method(bare, "pipeline").config)}
    given = [f"{option}={value}" for option, value in wanted.items() if option in known and value is not None]
    start, before = time.process_time(), (peak_bytes() or 0) / _MIB
    erasure: Any = studio.fit(name, "@".join(filter(None, [bare, "+".join(filter(None, [*given, variant]))])))
    seconds, peak = time.process_time() - start, (peak_bytes() or 0) / _MIB
    report = erasure.report["adapters"][0] if erasure.report.get("adapters") else erasure.report
    said = [report.get("steps", ""), report.get("kept_step", "")]
    said += [f"{report[key]:.2f}" if key in report else "" for key in ("miss", "drift")]
    cost = [f"{seconds:.1f}", f"{before:.0f}", f"{peak:.0f}", f"{erasure.nbytes / _MIB:.2f}"]
    found: dict[str, Any] = {"cells": [*said, *cost]}
    if args.pictures:
        f = run(studio, name, method, args.pictures, args.draws, 1, erasure)
        sides = {"ACC_e": [f["ACC_e"]], "ACC_g": [f["ACC_g"]], "ACC_ir": f["kept"]}
        found["shares"] = {k: [(x.value * x.n, x.n) for x in each if x.is_scored] for k, each in sides.items()}
        found["rest"] = f["rest"]
    print(json.dumps(found))


def _shares(found: list[dict[str, Any]], interval: bool) -> list[str]:
    """The figures of pictures of one or several fits, in per cent."""
    cells, means = [], []
    for key in _SHARES:
        each = [pair for one in found for pair in one["shares"][key]]
        hits, n = (sum(column) for column in zip(*each, strict=True)) if each else (0, 0)
        means.append(average(h / k for h, k in each if k))
        ends = wilson_interval(min(hits, n), n) if n and interval else None
        cells.append(f"{100 * means[-1]:.0f}" + (f" [{100 * ends.low:.0f}, {100 * ends.high:.0f}]" if ends else ""))
    parts = (1 - means[0], 1 - means[1], means[2])
    h = math.nan if any(map(math.isnan, parts)) else float(harmonic(*parts))
    return [*cells, f"{100 * h:.0f}", f"{100 * average(one['rest'] for one in found):.0f}"]


def rows_of(args: argparse.Namespace, method: str) -> list[tuple[str, ...]]:
    """A method's rows: one a fit, and one of all where there are several."""
    rows: list[tuple[str, ...]] = []
    found = []
    for name in args.concepts:
        for seed in range(args.seeds):
            own = ["--here", "--methods", method, "--concepts", name, "--seed", str(seed), "--world", args.world]
            own += ["--pictures", str(args.pictures), "--draws", str(args.draws)]
            own += ["--pipeline", str(args.pipeline)] if args.pipeline else []
            own += [] if args.steps is None else ["--steps", str(args.steps)]
            own += [] if args.sampling is None else ["--sampling", str(args.sampling)]
            call = [sys.executable, "-m", "benchmarks.weights_tuned", *own]
            said = subprocess.run(call, check=True, capture_output=True, text=True).stdout.strip().splitlines()[-1]
            found.append(json.loads(said))
            shares = _shares(found[-1:], interval=False) if args.pictures else []
            rows.append((method, name, str(seed), *map(str, found[-1]["cells"]), *shares))
            print("|".join(rows[-1]), file=sys.stderr, flush=True)
    if args.pictures and len(found) > 1:
        rows.append((f"**{method}**", "all", "", *[""] * len(found[0]["cells"]), *_shares(found, interval=True)))
    return rows


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="*", default=METHODS)
    add_world(parser)
    parser.add_argument("--concepts", nargs="*", default=["star"])
    for option, value in (("seeds", 1), ("pictures", 0), ("draws", 4), ("steps", None), ("sampling", None)):
        parser.add_argument(f"--{option}", type=int, default=value)
    parser.add_argument("--full-size", action="store_true")
    parser.add_argument("--modules", default="x")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--no-checkpointing", action="store_true")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # in this process
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.full_size:
        return run_full_size(args)
    if args.here:
        return run_one(args, args.methods[0])
    header = ["method", "concept", "seed", "steps", "kept", "miss", "drift"]
    header += ["CPU s", "MiB before", "peak MiB", "erasure MiB"]
    header += [*_SHARES, "H", "rest kept"] if args.pictures else []
    table(f"Fits on {args.world}", header, [row for method in args.methods for row in rows_of(args, method)])


if __name__ == "__main__":
    main()
