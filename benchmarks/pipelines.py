"""What the view does on which pipeline, and what it costs. All is measured.

python -m benchmarks.pipelines              a table of view x pipeline, on tiny pipelines made from configs
python -m benchmarks.pipelines full-size    memory and time on a pipeline of Stable Diffusion 1.5's size (4.3 GB in
                                            float32, random weights); options: --steps 2 --pixels 256 --threads 2
"""

from __future__ import annotations

import argparse
import resource
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from tests.pipelines import BUILDERS, EMBEDDED, build, clip_tokenizer, df, direct, small, state, tf

from benchmarks._measure import table
from efface import InputError
from efface.core.method import erase
from efface.pipelines import KeyValueLayer, PipelineView

PROMPTS, SEEDS = ["a red circle", "the small blue star"], [3, 4]


def verdict(good: bool, text: str) -> str:
    return f"ok: {text}" if good else f"FAILED: {text}"


def text(view: PipelineView, name: str) -> str:
    tokens = view.tokens("a red circle")
    parts = []
    for slot in view.layout:
        rows = tokens[slot.encoder].window
        to = ["rows"] * slot.in_sequence + ["pooled"] * slot.in_pooled
        parts.append(f"{type(view.text_encoders[slot.encoder]).__name__} {rows} -> {' + '.join(to)}")
    return "; ".join(parts)


def sampling(view: PipelineView, name: str) -> str:
    scale: dict[str, Any] = {"true_cfg_scale": 3.0} if name in EMBEDDED else {"guidance_scale": 4.0}
    options = {"steps": 2, **small(name)}
    same = [torch.equal(view.sample(PROMPTS[0], 3, **options), direct(name, PROMPTS[:1], [3], pipe=view.pipe))]
    theirs = direct(name, PROMPTS, SEEDS, negative_prompt=["a ring"] * 2, pipe=view.pipe, **scale)
    mine = view.sample(PROMPTS, SEEDS, negative="a ring", **scale, **options)
    alone = view.sample(PROMPTS, SEEDS, negative="a ring", batch_size=1, **scale, **options)
    same.append(torch.equal(mine, theirs))
    return verdict(
        all(same), f"{sum(same)} of 2 bit for bit; batches differ by {float((mine - alone).abs().max()):.0e}"
    )


def held(view: PipelineView, name: str) -> str:
    """How much of another prompt is left in the prediction when keys and values are held."""
    a = view.encode("a red circle").replace(negative=None)
    b = view.encode("the small blue star").replace(negative=None, pooled=a.pooled, mask=a.mask)
    call = view.prepare(a, seeds=[0], steps=2, **small(name))
    layers, rows, kept = view.key_value_layers(), a.sequence.shape[1], {}

    def keep(_module: Any, _args: Any, out: Any, layer: KeyValueLayer) -> None:
        kept[layer.path] = layer.text_rows(out, rows).clone()

    def put(_module: Any, _args: Any, out: Any, layer: KeyValueLayer) -> Any:
        out = out.clone()
        layer.text_rows(out, rows).copy_(kept[layer.path])
        return out

    def predict(embedding: Any, hook: Callable[..., Any] | None) -> Any:
        handles = [x.module.register_forward_hook(partial(hook, layer=x)) for x in layers if hook]
        with torch.no_grad():
            out = view.denoise(call.latents, call.timesteps[0], embedding, **small(name))
        for handle in handles:
            handle.remove()
        return out

    wanted = predict(a, keep)
    free, left = float((predict(b, None) - wanted).abs().max()), float((predict(b, put) - wanted).abs().max())
    roles = sorted({f"{x.role.replace('_proj', '')}" + (" (joint)" if x.reads == "joint" else "") for x in layers})
    return verdict(left == 0 < free, f"{len(layers)}: {', '.join(roles)}; other prompt {free:.2f}, held {left:g}")


def neutral(view: PipelineView, name: str) -> str:
    before = state(view.pipe)
    view.sample(PROMPTS[0], 3, steps=2, **small(name))
    with view.edited(lambda e: e.replace(sequence=e.sequence * 2)):
        view.sample(PROMPTS[0], 3, steps=2, **small(name))
    return verdict(state(view.pipe) == before, "nothing left")


def negative_prompt(view: PipelineView, name: str) -> str:
    try:
        erasure = erase(view, "circle", method="negative-prompt")
    except InputError as error:
        return "refused: " + str(error).split(" and ")[0].split(" has ")[-1]
    with erasure.on(view):
        mine = direct(name, PROMPTS, SEEDS, pipe=view.pipe)
    return verdict(torch.equal(mine, direct(name, PROMPTS, SEEDS, negative_prompt=["circle"] * 2)), "bit for bit")


def support() -> None:
    rows = []
    for name in BUILDERS:
        pipe = build(name)
        direct(name, ["a ring"], [0], pipe=pipe)  # transformers leaves hooks of its own at the first call
        view = PipelineView.of(pipe)
        kinds = [view.prediction_type, str(view.guidance)]
        embedders = ", ".join(f"{e.path} ({e.reads})" for e in view.context_embedders()) or "none"
        checks = [check(view, name) for check in (sampling, held, neutral, negative_prompt)]
        rows.append([type(pipe).__name__, text(view, name), *kinds, embedders, *checks])
    header = ["pipeline", "text encoders, window", "predicts", "guidance", "first readers", "sample = pipe(...)"]
    header += ["keys and values of text", "state of the pipeline", "negative-prompt"]
    table(f"Pipelines, diffusers {df.__version__}, torch {torch.__version__}", header, rows)


def full_size(steps: int, pixels: int, threads: int) -> None:
    """Stable Diffusion 1.5: its configs, random weights."""
    torch.set_num_threads(threads)
    rows: list[list[str]] = []

    def measured(what: str, run: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        out = run()
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        rows.append([what, f"{seconds:.2f} s", f"{resident():.2f} GiB", f"{peak:.2f} GiB"])
        return out

    pipe = measured("build", stable_diffusion_15)
    models = {name: part for name, part in pipe.components.items() if hasattr(part, "parameters")}
    sizes = ", ".join(f"{k} {sum(p.numel() for p in v.parameters()) / 1e6:.0f} M" for k, v in models.items())
    view = measured("PipelineView.of", lambda: PipelineView.of(pipe))
    measured("layout (first use)", lambda: view.layout)
    measured("tokens", lambda: view.tokens("a photo of a red circle"))
    embedding = measured("encode, 1 prompt", lambda: view.encode("a photo of a red circle"))
    measured("encode, 8 prompts", lambda: view.encode(["a photo of a red circle"] * 8))
    layers = measured("key_value_layers (first use)", view.key_value_layers)
    size = {"height": pixels, "width": pixels}
    call = measured("prepare", lambda: view.prepare(embedding, seeds=[0], **size))
    with torch.no_grad():
        step = lambda: view.denoise(call.latents, call.timesteps[0], embedding, **size)  # noqa: E731
        measured(f"denoise, {pixels} px", step)
    mine = measured(f"sample, {steps} steps, {pixels} px", lambda: view.sample("a photo", 0, steps=steps, **size))

    def theirs() -> Any:
        generator = torch.Generator().manual_seed(0)
        return pipe("a photo", num_inference_steps=steps, generator=generator, output_type="pt", **size).images

    same = torch.equal(mine, measured(f"pipe(...), {steps} steps, {pixels} px", theirs))
    title = f"Stable Diffusion 1.5 in size ({sizes} parameters), float32, {threads} threads"
    table(title, ["what", "time", "resident after", "peak so far"], rows)
    print(f"\n{len(layers)} key and value layers; sample = pipe(...): {same}")


def resident() -> float:
    """GiB in use now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**30


def stable_diffusion_15() -> Any:
    tokenizer = clip_tokenizer()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = df.StableDiffusionPipeline(
            vae=df.AutoencoderKL(
                block_out_channels=(128, 256, 512, 512),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                latent_channels=4,
                layers_per_block=2,
                sample_size=512,
            ),
            text_encoder=tf.CLIPTextModel(
                tf.CLIPTextConfig(
                    vocab_size=49408,
                    hidden_size=768,
                    intermediate_size=3072,
                    num_hidden_layers=12,
                    num_attention_heads=12,
                    bos_token_id=tokenizer.bos_token_id,
                    eos_token_id=tokenizer.eos_token_id,
                    pad_token_id=tokenizer.pad_token_id,
                )
            ),
            tokenizer=tokenizer,
            unet=df.UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8),
            scheduler=df.DDIMScheduler(
                beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, steps_offset=1
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipe.set_progress_bar_config(disable=True)
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.eval().requires_grad_(False)
    return pipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("support", "full-size"), default="support")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--pixels", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    warnings.filterwarnings("ignore", message="__array__ implementation")
    tf.logging.set_verbosity_error()
    df.logging.set_verbosity_error()
    if given.what == "full-size":
        return full_size(given.steps, given.pixels, given.threads)
    torch.set_num_threads(given.threads)
    support()


if __name__ == "__main__":
    main()
