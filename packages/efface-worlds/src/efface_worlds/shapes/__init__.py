"""A text-to-image world with known truth: captioned shapes, a Stable-Diffusion pipeline that draws them, and judges.

Every factor of an image (object, colour, style, background, one object or two) is known exactly. Gold models are
denoisers that never saw one concept: the floor that a probe of erasure is measured against.
"""

from typing import TYPE_CHECKING

from efface._lazy import attach

if TYPE_CHECKING:
    from efface_worlds.shapes.acceptance import direction, nearness, presence_auroc
    from efface_worlds.shapes.captions import caption
    from efface_worlds.shapes.concepts import FACTORS, Concept, concept, left_out, siblings, strangers
    from efface_worlds.shapes.contrast import ContrastivePair, embed_prompts
    from efface_worlds.shapes.corruption import corrupted
    from efface_worlds.shapes.drawing import render
    from efface_worlds.shapes.generation import generate
    from efface_worlds.shapes.judge import Judge, Verdict
    from efface_worlds.shapes.metrics import ImageMetric, image_metrics, perceptual_distance, text_image_score
    from efface_worlds.shapes.scenes import Scene, Scenes, sample_scenes
    from efface_worlds.shapes.shipped import load_contrast, load_judge, load_shapes_pipeline, shapes_variants, unseen
    from efface_worlds.shapes.world import Prompts, ShapesWorld, labels_of, make_shapes, prompts_for, shows

_NAMES = {
    "efface_worlds.shapes.acceptance": ("direction", "nearness", "presence_auroc"),
    "efface_worlds.shapes.captions": ("caption",),
    "efface_worlds.shapes.concepts": ("FACTORS", "Concept", "concept", "left_out", "siblings", "strangers"),
    "efface_worlds.shapes.contrast": ("ContrastivePair", "embed_prompts"),
    "efface_worlds.shapes.corruption": ("corrupted",),
    "efface_worlds.shapes.generation": ("generate",),
    "efface_worlds.shapes.judge": ("Judge", "Verdict"),
    "efface_worlds.shapes.metrics": ("ImageMetric", "image_metrics", "perceptual_distance", "text_image_score"),
    "efface_worlds.shapes.drawing": ("render",),
    "efface_worlds.shapes.scenes": ("Scene", "Scenes", "sample_scenes"),
    "efface_worlds.shapes.shipped": (
        "load_contrast",
        "load_judge",
        "load_shapes_pipeline",
        "shapes_variants",
        "unseen",
    ),
    "efface_worlds.shapes.world": ("Prompts", "ShapesWorld", "labels_of", "make_shapes", "prompts_for", "shows"),
}

__all__ = [
    "FACTORS",
    "Concept",
    "ContrastivePair",
    "ImageMetric",
    "Judge",
    "Prompts",
    "Scene",
    "Scenes",
    "ShapesWorld",
    "Verdict",
    "caption",
    "concept",
    "corrupted",
    "direction",
    "embed_prompts",
    "generate",
    "image_metrics",
    "labels_of",
    "left_out",
    "load_contrast",
    "load_judge",
    "load_shapes_pipeline",
    "make_shapes",
    "nearness",
    "perceptual_distance",
    "presence_auroc",
    "prompts_for",
    "render",
    "sample_scenes",
    "shapes_variants",
    "shows",
    "siblings",
    "strangers",
    "text_image_score",
    "unseen",
]

__getattr__, __dir__ = attach(__name__, {name: module for module, names in _NAMES.items() for name in names}, globals())
