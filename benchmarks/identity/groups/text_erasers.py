"""Erasers of prompts: Semantic Surgery, CGCE, SAFREE, projection."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import efface
from benchmarks.identity.groups.drawing import erased
from benchmarks.identity.groups.parts import embedding_parts
from benchmarks.identity.harness import Group, flat, named, text
from benchmarks.identity.inputs import pipelines
from efface import Concept
from efface_worlds.shapes import load_judge, load_shapes_pipeline


def numbers(erasure: Any) -> list[list[float]]:
    """Thresholds and sharpness of a Semantic Surgery with one gate a word."""
    return [[gate.threshold for (gate,) in erasure.gates], [gate.sharpness for (gate,) in erasure.gates]]


def reports(erasure: Any) -> dict[str, list[Any]]:
    """Word -> how its gates were calibrated."""
    return {word: list(found.values()) for word, found in erasure.report.items()}


def semantic_surgery() -> dict[str, Tensor]:
    from benchmarks._relaxed_gate import relaxed
    from efface import PipelineView
    from efface.core.run import Log

    out: dict[str, Tensor] = {}
    pipe = load_shapes_pipeline()
    view = PipelineView.of(pipe)
    spec, second = Concept(**pipelines.WORLD_CONCEPT), Concept(**pipelines.WORLD_CONCEPT_2)
    plain = view.encode(pipelines.WORLD_PROMPTS)
    for score in ("per-token", "flat", "last"):
        erasure = efface.erase(pipe, spec, method="semantic-surgery", preset="published", score=score)
        name = f"shapes/{score}"
        out[f"{name}/directions"] = torch.stack([gate.direction for (gate,) in erasure.gates])
        out[f"{name}/gates"] = text(
            [*numbers(erasure), {k: {**vars(v), "n": list(v.n)} for k, (v,) in reports(erasure).items()}]
        )
        out[f"{name}/scores"], out[f"{name}/presence"] = erasure.presence(plain)
        out[f"{name}/reading"] = erasure.reading(plain)
        out |= erased(name, erasure, pipe, "shapes", images=score == "per-token", last=True)
    several = efface.erase(pipe, [spec, second], method="semantic-surgery", preset="published", order="present")
    out |= erased("shapes/two concepts", several, pipe, "shapes", prompts=pipelines.WORLD_PROMPTS_2)
    again = several.calibrate(
        view,
        ["a star", "one star", "a big star", "the star", "a star on black"],
        pipelines.WORLD_CONCEPT["preserve"] + ["a heart"],
        concept="star",
    )
    out["shapes/calibrated again"] = text(numbers(again))
    bare = Concept(spec.name)
    fixed = efface.erase(
        pipe, bare, method="semantic-surgery", preset="published", threshold=0.1, sharpness=0.05, active_from=0.3
    )
    out |= erased("shapes/fixed threshold", fixed, pipe, "shapes")
    with torch.no_grad():
        for straight in (False, True):
            soft = relaxed(fixed, view, plain, widen=2.0, straight_through=straight)
            out |= embedding_parts(f"shapes/relaxed{', straight through' if straight else ''}", soft)
    judge = load_judge()
    # The gate is shut in the first pass of these, so that what is seen in the pictures decides.
    for name, detector, options in (
        ("judge", judge, {"steps": 12}),
        ("brightness", pipelines.brightness, {"steps": pipelines.WORLD_STEPS, "seen_from": 0.6, "trust": 0.9}),
    ):
        erasure = efface.erase(pipe, bare, method="semantic-surgery", preset="published", threshold=0.9)
        sampling = {"guidance": pipelines.WORLD_GUIDANCE, **options}
        log = Log()
        images = erasure.sample(
            pipe, pipelines.WORLD_PROMPTS, pipelines.WORLD_SEEDS, detector=detector, log=log, **sampling
        )
        out[f"shapes/feedback of {name}"] = images
        out[f"shapes/feedback of {name}/fired"] = text(log.counts)
    tiny = Concept("circle", synonyms=pipelines.TINY_CONCEPT["synonyms"])
    for kind in ("sdxl", "flux"):
        pipe = pipelines.tiny_pipeline(kind)
        for score in ("per-token", "flat"):
            erasure = efface.erase(
                pipe,
                tiny,
                method="semantic-surgery",
                preset="published",
                threshold=pipelines.TINY_THRESHOLD[kind],
                sharpness=0.05,
                score=score,
            )
            out[f"{kind}/{score}/scores"] = erasure.presence(PipelineView.of(pipe).encode(pipelines.TINY_PROMPTS))[0]
            out |= erased(f"{kind}/{score}", erasure, pipe, kind)
    return out


def cgce() -> dict[str, Tensor]:
    from efface import PipelineView
    from efface.diffusion.text.cgce.erasure import Cgce
    from efface.diffusion.text.cgce.pairs import pairs_of_concept

    out: dict[str, Tensor] = {}
    spec, tiny = Concept(**pipelines.WORLD_CONCEPT), Concept(**pipelines.TINY_CGCE_CONCEPT)
    out["pairs"] = text([list(pair) for pair in pairs_of_concept(spec, most=30, seed=1)])

    def classifiers(name: str, erasure: Cgce) -> None:
        out[f"{name}/weights"] = flat(
            {
                f"{i}.{j}.{k}": w
                for i, g in enumerate(erasure.readers)
                for j, r in enumerate(g)
                for k, w in r.classifier.weights.items()
            }
        )
        out[f"{name}/fits"] = text(
            [[{**vars(f), "pairs": list(f.pairs)} for f in each.values()] for each in erasure.report.values()]
        )

    pipe = load_shapes_pipeline()
    quick = pipelines.QUICK_CGCE | {"n_pairs": 40, "epochs": 8}
    variants: dict[str, dict[str, Any]] = {
        "default": {},
        "to the threshold, by sign": {"until": "threshold", "normalise": "sign", "eta": 0.5},
        "token by token": {"normalise": "token_l2", "max_iter": 3},
        "raw gradient": {"normalise": "none", "until": 0.2, "max_iter": 4},
    }
    fitted = efface.erase(pipe, spec, method="cgce", **quick)
    classifiers("shapes", fitted)
    plain = PipelineView.of(pipe).encode(pipelines.WORLD_PROMPTS)
    out["shapes/logits"], out["shapes/probabilities"] = fitted.presence(plain)
    for name, options in variants.items():
        erasure = fitted.tuned(**options)
        out |= erased(f"shapes/{name}", erasure, pipe, "shapes", images=name == "default", last=True)
    two = efface.erase(pipe, [spec, Concept(**pipelines.WORLD_CONCEPT_2)], method="cgce", **quick)
    classifiers("shapes/two concepts", two)
    out |= erased("shapes/two concepts", two, pipe, "shapes", prompts=pipelines.WORLD_PROMPTS_2)
    own = [
        (f"a {other} {word}", f"a {word} star")
        for other in ("cross", "heart")
        for word in ("red", "blue", "big", "small", "green", "striped")
    ]
    joint = efface.erase(pipe, spec, method="cgce", pairs=own, reads="joint", pooled="keep", **pipelines.QUICK_CGCE)
    classifiers("shapes/own pairs", joint)
    for kind in ("sdxl", "flux"):
        pipe = pipelines.tiny_pipeline(kind)
        erasure = efface.erase(pipe, tiny, method="cgce", **pipelines.QUICK_CGCE)
        classifiers(kind, erasure)
        z, p = erasure.presence(PipelineView.of(pipe).encode(pipelines.TINY_PROMPTS))
        out[f"{kind}/logits"] = z
        # Random encoders tell little apart: the gate is put so that two of the three prompts are refined.
        order = p[:, 0].sort(descending=True).values
        threshold = float(order[1:3].mean())
        tuned = erasure.tuned(threshold=threshold, until=0.9 * threshold, eta=0.5)
        out |= erased(kind, tuned, pipe, kind, last=True)
    return out


def safree() -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    specs = {"shapes": pipelines.WORLD_CONCEPT, "sdxl": pipelines.TINY_CONCEPT, "flux": pipelines.TINY_CONCEPT}
    variants: dict[str, dict[str, Any]] = {
        "released": {"order": "released"},
        "paper": {"order": "paper"},
        "raw rows early": {"up_t": 1, "t0": 1.0},
        "in all steps": {"self_validating": False, "alpha": 0.0},
    }
    for kind, fields in specs.items():
        pipe = load_shapes_pipeline() if kind == "shapes" else pipelines.tiny_pipeline(kind)
        for name, options in variants.items():
            erasure = efface.erase(pipe, Concept(**fields), method="safree", **options)
            if name == "released":
                out |= {f"{kind}/basis/{encoder}": basis for encoder, basis in erasure.bases.items()}
            out |= erased(
                f"{kind}/{name}", erasure, pipe, kind, images=kind == "shapes" and name == "released", last=True
            )
    pipe = load_shapes_pipeline()
    erasure = efface.erase(pipe, Concept(**pipelines.WORLD_CONCEPT), method="safree", negative=True)
    out |= erased("shapes/negative too", erasure, pipe, "shapes")
    out["steps"] = torch.tensor([erasure.steps(beta) for beta in (0.0, 0.1, 0.4, 0.5333, 0.6, 0.9)])
    return out


def projected(erasure: Any) -> dict[str, Tensor]:
    return {
        f"{role}.{name}.{field}": getattr(eraser, field)
        for role in ("rows", "pooled")
        for name, eraser in getattr(erasure, role).items()
        for field in ("proj_left", "proj_right", "bias")
    }


def projection() -> dict[str, Tensor]:

    out: dict[str, Tensor] = {}
    specs = {"shapes": pipelines.WORLD_CONCEPT, "sdxl": pipelines.TINY_CONCEPT, "flux": pipelines.TINY_CONCEPT}
    variants: dict[str, dict[str, Any]] = {
        "leace": {"kind": "leace"},
        "leace, plain": {"kind": "leace", "shrinkage": False},
        "orthogonal": {"kind": "orthogonal"},
    }
    for kind, fields in specs.items():
        pipe = load_shapes_pipeline() if kind == "shapes" else pipelines.tiny_pipeline(kind)
        for name, options in variants.items():
            erasure = efface.erase(pipe, Concept(**fields), method="projection", **options)
            out |= {f"{kind}/{name}/{key}": value for key, value in projected(erasure).items()}
            out[f"{kind}/{name}/first rows"] = text(erasure.first)
            out |= erased(f"{kind}/{name}", erasure, pipe, kind, images=kind == "shapes" and name == "leace")
    pipe = load_shapes_pipeline()
    two = [Concept(**pipelines.WORLD_CONCEPT), Concept(**pipelines.WORLD_CONCEPT_2)]
    for name in ("leace", "orthogonal"):
        erasure = efface.erase(pipe, two, method="projection", kind=name)
        out |= erased(f"shapes/two concepts, {name}", erasure, pipe, "shapes", prompts=pipelines.WORLD_PROMPTS_2)
    return out


GROUPS: dict[str, Group] = named(semantic_surgery, cgce, safree, projection)
