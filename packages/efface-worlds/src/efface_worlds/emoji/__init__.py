"""A text-to-image world of real pictures and real words: emoji by four designers, a Stable-Diffusion pipeline, judges.

What there is to draw, and what it is called, nobody made for this: names and hierarchy are Unicode's, the pictures
are Noto's, Twemoji's and Fluent's (`NOTICE` has licences and sources), words are read by a frozen MiniLM.
"""

from typing import TYPE_CHECKING

from efface._lazy import attach

if TYPE_CHECKING:
    from efface_worlds.emoji.captions import caption, prompt
    from efface_worlds.emoji.concepts import (
        CONCEPTS,
        FACTORS,
        Concept,
        concept,
        groups,
        left_out,
        named_by,
        professions,
        siblings,
        strangers,
        subgroups,
    )
    from efface_worlds.emoji.corruption import corrupted
    from efface_worlds.emoji.drawing import load_sprites, render
    from efface_worlds.emoji.generation import generate
    from efface_worlds.emoji.judge import Judge, Verdict
    from efface_worlds.emoji.nearest import NearestJudge
    from efface_worlds.emoji.scenes import Scenes, sample_scenes
    from efface_worlds.emoji.shipped import emoji_variants, load_emoji_pipeline, load_judge, unseen
    from efface_worlds.emoji.text import embed_prompts, load_text_encoder
    from efface_worlds.emoji.world import Prompts, labels_of, prompts_for, shows

_NAMES = {
    "efface_worlds.emoji.captions": ("caption", "prompt"),
    "efface_worlds.emoji.concepts": (
        "CONCEPTS",
        "FACTORS",
        "Concept",
        "concept",
        "groups",
        "left_out",
        "named_by",
        "professions",
        "siblings",
        "strangers",
        "subgroups",
    ),
    "efface_worlds.emoji.corruption": ("corrupted",),
    "efface_worlds.emoji.drawing": ("load_sprites", "render"),
    "efface_worlds.emoji.generation": ("generate",),
    "efface_worlds.emoji.judge": ("Judge", "Verdict"),
    "efface_worlds.emoji.nearest": ("NearestJudge",),
    "efface_worlds.emoji.scenes": ("Scenes", "sample_scenes"),
    "efface_worlds.emoji.shipped": ("emoji_variants", "load_emoji_pipeline", "load_judge", "unseen"),
    "efface_worlds.emoji.text": ("embed_prompts", "load_text_encoder"),
    "efface_worlds.emoji.world": ("Prompts", "labels_of", "prompts_for", "shows"),
}

__all__ = [
    "CONCEPTS",
    "FACTORS",
    "Concept",
    "Judge",
    "NearestJudge",
    "Prompts",
    "Scenes",
    "Verdict",
    "caption",
    "concept",
    "corrupted",
    "embed_prompts",
    "emoji_variants",
    "generate",
    "groups",
    "labels_of",
    "left_out",
    "load_emoji_pipeline",
    "load_judge",
    "load_sprites",
    "load_text_encoder",
    "named_by",
    "professions",
    "prompt",
    "prompts_for",
    "render",
    "sample_scenes",
    "shows",
    "siblings",
    "strangers",
    "subgroups",
    "unseen",
]

__getattr__, __dir__ = attach(__name__, {name: module for module, names in _NAMES.items() for name in names}, globals())
