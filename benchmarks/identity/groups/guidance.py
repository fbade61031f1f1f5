"""Erasers that guide a sample, and several erasures together."""

from __future__ import annotations

import tempfile
from typing import Any

from torch import Tensor

import efface
from benchmarks.identity.groups.drawing import erased
from benchmarks.identity.harness import Group, named
from benchmarks.identity.inputs import pipelines
from efface import Concept
from efface_worlds.shapes import load_shapes_pipeline


def unerased() -> dict[str, Tensor]:
    """The pipelines as they are, by the same calls: what the erasures are compared with."""
    out: dict[str, Tensor] = {}
    pipe = load_shapes_pipeline()
    out["shapes/latents"], out["shapes/images"] = pipelines.world_drawn(pipe), pipelines.world_drawn(pipe, latent=False)
    for name in ("sdxl", "flux"):
        out[f"{name}/latents"] = pipelines.tiny_drawn(name, pipelines.tiny_pipeline(name))
    return out


def negative_prompt() -> dict[str, Tensor]:

    out: dict[str, Tensor] = {}
    pipe = load_shapes_pipeline()
    erasure = efface.erase(pipe, Concept(**pipelines.WORLD_CONCEPT), method="negative-prompt")
    out |= erased("shapes", erasure, pipe, "shapes", images=True)
    out |= erased("shapes/beside one's own", erasure, pipe, "shapes", negative_prompt=["a heart"] * 2)
    own = efface.erase(pipe, Concept(**pipelines.WORLD_CONCEPT), method="negative-prompt", text="red star, blue star")
    out |= erased("shapes/own text", own, pipe, "shapes")
    pipe = pipelines.tiny_pipeline("sdxl")
    erasure = efface.erase(pipe, Concept(**pipelines.TINY_CONCEPT), method="negative-prompt")
    out |= erased("sdxl", erasure, pipe, "sdxl")
    return out


def sld() -> dict[str, Tensor]:

    out: dict[str, Tensor] = {}
    variants: dict[str, dict[str, Any]] = {
        "medium": {"preset": "medium"},
        "max": {"preset": "max"},
        "medium, from step 1": {"preset": "medium", "warmup": 1},
        "strong, from step 2": {"preset": "strong", "warmup": 2, "momentum_beta": 0.5},
    }
    for kind, fields in (("shapes", pipelines.WORLD_CONCEPT), ("sdxl", pipelines.TINY_CONCEPT)):
        pipe = load_shapes_pipeline() if kind == "shapes" else pipelines.tiny_pipeline(kind)
        for name, options in variants.items():
            erasure = efface.erase(pipe, Concept(**fields), method="sld", **options)
            out |= erased(f"{kind}/{name}", erasure, pipe, kind, images=kind == "shapes" and name == "max")
    return out


def erasures_together() -> dict[str, Tensor]:
    """Two erasures on one pipeline at once, and erasures that were saved and loaded."""
    out: dict[str, Tensor] = {}
    pipe = load_shapes_pipeline()
    spec, second = Concept(**pipelines.WORLD_CONCEPT), Concept(**pipelines.WORLD_CONCEPT_2)
    one = efface.erase(pipe, spec, method="projection")
    other = efface.erase(pipe, second, method="sld", preset="max")
    with one.on(pipe):
        out |= erased("projection and sld", other, pipe, "shapes")
    options: dict[str, dict[str, Any]] = {
        "semantic-surgery": {"preset": "published"},
        "cgce": pipelines.QUICK_CGCE,
        "safree": {},
        "projection": {},
        "negative-prompt": {},
        "sld": {"preset": "max"},
    }
    for method, more in options.items():
        with tempfile.TemporaryDirectory() as folder:
            efface.erase(pipe, spec, method=method, **more).save(folder)
            loaded = efface.load(folder)
        out |= erased(f"loaded {method}", loaded, pipe, "shapes")
    return out


GROUPS: dict[str, Group] = named(unerased, negative_prompt, sld, erasures_together)
