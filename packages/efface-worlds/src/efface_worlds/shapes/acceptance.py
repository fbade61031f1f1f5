"""Whether the text encoder is worth operating on: presence, neighbourhood, and literal subtraction of a concept.

An eraser that is judged on a world whose prompt embeddings mean little would be blamed for the world's weakness.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from efface.stats.roc import auroc
from efface_worlds.shapes.captions import caption
from efface_worlds.shapes.concepts import FACTORS, concept, siblings, strangers
from efface_worlds.shapes.contrast import embed_prompts
from efface_worlds.shapes.generation import STEPS, generate
from efface_worlds.shapes.judge import Judge, Verdict
from efface_worlds.shapes.scenes import Scenes, sample_scenes
from efface_worlds.shapes.world import labels_of, prompts_for


def direction(text_encoder: Any, tokenizer: Any, name: str) -> Tensor:
    """E(concept) - E(""), `(24, 128)`."""
    named, empty = embed_prompts(text_encoder, tokenizer, [name, ""])
    return named - empty


def presence_auroc(
    text_encoder: Any, tokenizer: Any, *, factor: str = "object", n: int = 1200, seed: int = 0
) -> dict[str, float]:
    """How well a concept's presence in a held-out caption is read from the mean per-token cosine with its direction.

    Args:
        text_encoder: The CLIPTextModel.
        tokenizer: Its tokenizer.
        factor: Which concepts.
        n: Captions of single objects, from held-out templates with all synonyms.
        seed: Of the captions.

    Returns:
        Name -> area under the ROC curve over the captions that name the concept and those that name another.
    """
    scenes = sample_scenes(n, generator=torch.Generator().manual_seed(seed), two_objects=0.0, balanced=True)
    embedded = embed_prompts(text_encoder, tokenizer, caption(scenes, reader="held_out", seed=seed))
    labels = labels_of(scenes, factor)
    result = {}
    for label, value in enumerate(FACTORS[factor]):
        towards = direction(text_encoder, tokenizer, value.name)
        scores = F.cosine_similarity(embedded, towards[None], dim=-1).mean(1)
        result[value.name] = auroc(scores[labels == label], scores[labels != label])
    return result


def nearness(text_encoder: Any, tokenizer: Any, name: str) -> tuple[float, float]:
    """Mean cosine of a concept's direction with those of its siblings, and with those of its strangers."""
    factor = FACTORS[concept(name).factor]
    towards = {c.name: direction(text_encoder, tokenizer, c.name).flatten() for c in factor}

    def mean_cosine(others: Sequence[str]) -> float:
        return float(torch.stack([F.cosine_similarity(towards[name], towards[o], dim=0) for o in others]).mean())

    return mean_cosine(siblings(name)), mean_cosine(strangers(name))


def subtraction(
    pipeline: Any, judge: Judge, name: str, n: int, *, seed: int = 0, steps: int = STEPS
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What literal subtraction does to prompts that name a concept: E(prompt) - (E(concept) - E("")).

    Args:
        pipeline: The pipeline.
        judge: Who looks.
        name: The concept, which every prompt names in its own word.
        n: How many prompts.
        seed: Of prompts and images.
        steps: Denoising steps.

    Returns:
        Agreement with the prompt by factor, `(n,)` each, before and after, from the same noise. Colour and style are
        the likeliest ones of the first object, even where none is left: what is asked is whether they survive.
    """
    prompts = prompts_for(name, n, seed=seed)
    encoder, tokenizer = pipeline.text_encoder, pipeline.tokenizer
    embedded = embed_prompts(encoder, tokenizer, prompts.texts)
    edited = embedded - direction(encoder, tokenizer, name)
    images = (generate(pipeline, e, seed=seed, steps=steps) for e in (embedded, edited))
    before, after = (_likeliest(judge.judge(x), prompts.scenes) for x in images)
    return before, after


def _likeliest(verdict: Verdict, scenes: Scenes) -> dict[str, Tensor]:
    found = {f: getattr(verdict, f).argmax(-1) for f in FACTORS}
    found |= {f: found[f][:, 0] for f in ("colour", "style")}
    labels = {f: labels_of(scenes, f) for f in FACTORS}
    anywhere = (found["object"] == labels["object"][:, None]).any(1)
    return {f: anywhere if f == "object" else found[f] == labels[f] for f in FACTORS}
