"""MACE: words around a concept forget it, adapters suppress its own, and adapters of many become one change."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from efface._errors import InputError
from efface.core.checkpoint import Checkpoint
from efface.core.concept import Concept
from efface.core.config import option
from efface.core.fingerprint import fingerprint
from efface.core.method import Method, register
from efface.diffusion.weights.erasure import WeightErasure
from efface.diffusion.weights.fusion import fused_on_rows
from efface.diffusion.weights.projections import LAYERS_HELP, Layers
from efface.diffusion.weights.refinement import refined
from efface.diffusion.weights.rows import READS, check_words
from efface.diffusion.weights.suppression import Scenes, Segment, SuppressionConfig, suppressed
from efface.diffusion.weights.tuning import ready
from efface.pipelines.view import PipelineView

NAME = "mace"


@dataclass(frozen=True, kw_only=True)
class MaceConfig(SuppressionConfig):
    """Options of MACE: its three steps, each of which can be left out."""

    refine: bool = option(True, "first step, in closed form: the words around a concept forget it")
    layers: Layers = option("auto", LAYERS_HELP)
    ridge: float = option(1000.0, "of the first step: how much weights are held where they are", least=0)
    preserve_weight: float = option(0.1, "of the first and third step: how much a preserved row counts", least=0)
    adapters: bool = option(True, "second step: train adapters of each concept, and suppress its own words")
    fuse: bool = option(True, "third step, in closed form: adapters as one change; else they are summed")
    fuse_ridge: float = option(1e-3, "of the third step: how much weights are held where they are", least=0)


@ready
def fit(
    view: PipelineView,
    concepts: Sequence[Concept],
    config: MaceConfig,
    *,
    segment: Segment | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 30.0,
    call: Mapping[str, Any] | None = None,
) -> WeightErasure:
    """Refine, train adapters of each concept, fuse (arXiv:2403.06135).

    1. `refine`: see `refinement.refined`; the concept's own rows are left as they are.
    2. `adapters`, of each concept by itself, on the refined pipeline: changes of rank `rank` beside the keys and values
       of cross-attention descend, on `pictures` that the pipeline as it was draws of the concept,

           sum over layers l of | A_l[cells of the mask, rows S] |     (equation 4; squared with `squared=True`)

       A being attention at a timestep drawn mostly from 200 to 400 (`times`, equation 6), S the rows of the concept's
       word, the end of text and padding.
    3. `fuse`: see `fusion.fused`; of one concept it holds back what rows that are preserved would lose.

    Where ours differs from the released code: where a concept is in a picture, which Grounded-SAM says there, is read
    from attention to its word at the middle of these timesteps (`masks`), unless `segment` says it; pictures are
    latents of the pipeline, not cropped; templates are the concept's own or ten of ours (there 30, and captions); what
    is preserved is `preserve` in these templates, as no cached captions are shipped; the third step has a ridge of its
    own (there that of the first, 0 or 1000); gradients are not clipped (there to 1); defaults are those for objects.

    Args:
        view: The pipeline.
        concepts: What is erased.
        config: The options.
        segment: Pictures `(n, 3, height, width)` in [0, 1] and a concept's name -> where it is, `(n, height, width)`.
        checkpoint: Folder for the state; a fit that was interrupted goes on from there, to the same bits.
        checkpoint_seconds: Least time between two writings.
        call: Further arguments of the pipeline's call, such as `height` and `width`, for the pictures.

    Raises:
        InputError: If the pipeline cannot read a word, its text enters where no such edit is defined, it has no
            cross-attention for adapters, or the normal equations are singular.
        DivergedError: If a loss is not finite; the weights before are in the checkpoint.
    """
    check_words(view, concepts)
    if not config.refine and not config.adapters:
        raise InputError("method='mace' without its first and second step does nothing: leave refine or adapters on")
    first = None
    if config.refine:
        given: dict[str, Any] = {"layers": config.layers, "ridge": config.ridge}
        first = refined(view, concepts, config, method=NAME, preserve_weight=config.preserve_weight, **given)
        if not config.adapters:
            return first
    folder = None if checkpoint is None else Path(checkpoint)
    saved = Checkpoint(folder, {} if folder is None else _identity(view, concepts, config, call), seconds=0.0)
    each: list[WeightErasure] = []
    for i, concept in enumerate(concepts):
        part = f"adapter-{i}"
        if part in saved.parts:
            with saved.reading():
                each.append(WeightErasure.load(saved.path(part)))
            continue
        scenes = Scenes(view, concept, config, call, segment)
        with nullcontext() if first is None else first.on(view):
            own = None if folder is None else folder / part
            each.append(suppressed(view, scenes, config, NAME, own, checkpoint_seconds, call))
        saved.write({"done": i + 1}, {part: each[-1].save})
    found = _together(view, each, first, config)
    saved.clear()
    about = {"refinement": None if first is None else first.report, "adapters": [one.report for one in each]}
    made: dict[str, Any] = {"method": NAME, "concepts": tuple(concepts), "config": config}
    return replace(found, **made, report={**found.size, **about})


def _together(
    view: PipelineView, each: Sequence[WeightErasure], first: WeightErasure | None, config: MaceConfig
) -> WeightErasure:
    if config.fuse:
        weight, ridge = config.preserve_weight, config.fuse_ridge
        return fused_on_rows(view, each, preserve_weight=weight, ridge=ridge, after=first)
    found = each[0]
    for other in each[1:]:
        found = found.then(other)
    if first is None:
        return found
    # They were trained with the first step on, and here they are put on after it.
    return first.then(replace(found, deltas={part: replace(d, base=None) for part, d in found.deltas.items()}))


def _identity(
    view: PipelineView, concepts: Sequence[Concept], config: MaceConfig, call: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What must be the same for a fit to go on with adapters that are trained."""
    parts = {**view.text_encoders, view.denoising.only: view.denoiser}
    return {
        "method": NAME,
        "config": config.to_dict(),
        "concepts": [concept.to_dict() for concept in concepts],
        "call": {name: repr(value) for name, value in sorted((call or {}).items())},
        "weights": {name: fingerprint(part) for name, part in parts.items()},
    }


register(
    Method(
        name=NAME,
        subjects=("pipeline",),
        summary="words around concepts forget them, adapters suppress their own, fused into one change (MACE)",
        paper="arXiv:2403.06135",
        fit=fit,
        erasure=WeightErasure,
        config=MaceConfig,
        reads=READS,
        access=("prompts", "embeddings", "latents", "gradients", "weights"),
        access_on=("weights",),
        guarantee="the closed forms are the least squares of what they ask; it is undone bit for bit",
        no_guarantee="that the concept is gone: attention to its words is less in pictures that it was trained on; or "
        "anything against who has the weights of before",
    )
)
