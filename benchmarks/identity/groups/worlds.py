"""What ships with efface-worlds, and views of pipelines."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.identity.groups.parts import embedding_parts, modules
from benchmarks.identity.harness import Group, flat, named, text
from benchmarks.identity.inputs import language, pipelines


def worlds() -> dict[str, Tensor]:
    """What ships with efface-worlds; where this differs, everything that stands on it does."""
    from efface_worlds import shapes
    from efface_worlds.attribution import make_world
    from efface_worlds.tokens import load_token_model

    out: dict[str, Tensor] = {}
    pipe = shapes.load_shapes_pipeline()
    for part in ("text_encoder", "unet", "vae"):
        out[f"shapes/{part}"] = modules(getattr(pipe, part))
    out["shapes/tokens"] = torch.tensor(pipe.tokenizer(pipelines.WORLD_PROMPTS, padding="max_length").input_ids)
    out["shapes/latents"] = pipelines.world_drawn(pipe)
    images = pipelines.world_drawn(pipe, latent=False, steps=12)
    out["shapes/images"] = images
    for which in (1, 2):
        judge = shapes.load_judge(which)
        verdict = judge.judge(images.clamp(0, 1))
        out |= {f"judge {which}/{key}": value for key, value in vars(verdict).items()}
        out[f"judge {which}/star"] = judge(images.clamp(0, 1), "star")
    for name in ("spurious digits", "hard digits", "block digits", "shape pairs"):
        world = make_world(name, 0, train=40, test=12)
        out[f"{name}/images"] = flat({"train": world.train.images, "test": world.test.images})
        out[f"{name}/labels"], out[f"{name}/tight"] = world.test.labels, world.test.tight
    for arch in ("llama", "gpt_neox"):
        model = load_token_model(arch)
        with torch.no_grad():
            out[f"tokens/{arch}"] = model(language.tokens()[:2]).logits
    return out


def pipeline_view() -> dict[str, Tensor]:
    """What a view of a pipeline gives: tokens, embeddings, where text enters, predictions, samples, soft tokens."""
    from efface_worlds.shapes import load_shapes_pipeline

    world, tiny = pipelines.WORLD_PROMPTS, pipelines.TINY_PROMPTS
    return {
        **_viewed("shapes", load_shapes_pipeline(), world, "star", negative="a heart"),
        **_viewed("sdxl", pipelines.tiny_pipeline("sdxl"), tiny, "circle", negative="a blue ring", **pipelines.SMALL),
        **_viewed("flux", pipelines.tiny_pipeline("flux"), tiny, "circle", **pipelines.SMALL),
    }


def _viewed(
    name: str, pipe: Any, prompts: list[str], word: str, *, negative: str | None = None, **size: Any
) -> dict[str, Tensor]:
    from efface import PipelineView

    view = PipelineView.of(pipe)
    embedding = view.encode(prompts)
    out = embedding_parts(f"{name}/encoded", embedding)
    if negative is not None:
        out |= embedding_parts(f"{name}/negative", view.encode(prompts, negative=negative))
    return out | _text_side(name, view, prompts[0], word) | _samples(name, view, embedding, prompts, **size)


def _text_side(name: str, view: Any, prompt: str, word: str) -> dict[str, Tensor]:
    tokens, rows = view.tokens(prompt), view.token_rows(prompt, word)
    layers, embedders = view.key_value_layers(), view.context_embedders()
    said = {
        "layout": [[s.encoder, s.shift, s.rows, s.columns, s.pooled] for s in view.layout],
        "tokens": {encoder: [t.ids, t.content, t.eos, t.spans] for encoder, t in tokens.items()},
        "rows of a word": {encoder: [w.rows, w.sequence] for encoder, w in rows.items()},
        "kind": [view.prediction_type, view.guidance.mode, view.guidance.negative],
        "keys and values": [[e.path, e.role, e.reads, e.width_in, e.width_out] for e in layers],
        "context embedders": [[e.path, e.reads] for e in embedders],
    }
    return {f"{name}/{key}": text(value) for key, value in said.items()} | _soft(name, view, prompt, word)


def _soft(name: str, view: Any, prompt: str, word: str) -> dict[str, Tensor]:
    from benchmarks._soft_tokens import SoftTokens

    soft = SoftTokens(view, prompt, word)
    found = soft.encode()
    # Of FLUX, CLIP gives the pooled vector alone.
    parts = [value.square().sum() for value in (found.sequence, found.pooled) if value is not None]
    torch.stack(parts).sum().backward()
    out: dict[str, Tensor] = {}
    for encoder, vectors in soft.vectors.items():
        assert vectors.grad is not None
        out |= {f"{name}/soft/{encoder}": vectors, f"{name}/soft/{encoder}/gradient": vectors.grad}
    return out


def _samples(name: str, view: Any, embedding: Any, prompts: list[str], **size: Any) -> dict[str, Tensor]:
    seeds = list(range(len(prompts)))
    prepared = view.prepare(embedding, seeds=seeds, steps=2, **size)
    with torch.no_grad():
        predicted = view.denoise(prepared.latents, prepared.timesteps[1], embedding, **size)
    return {
        f"{name}/inputs of keys": flat(view.key_value_inputs(embedding)),
        f"{name}/latents": prepared.latents,
        f"{name}/timesteps": prepared.timesteps,
        f"{name}/predicted": predicted,
        f"{name}/sampled": view.sample(prompts, seeds, steps=2, guidance=3.0, batch_size=2, **size),
        f"{name}/sampled latents": view.sample(embedding, seeds, steps=2, latent=True, **size),
    }


GROUPS: dict[str, Group] = named(worlds, pipeline_view)
