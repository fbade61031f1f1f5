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
        named_by,
        professions,
        siblings,
        strangers,
        subgroups,
    )
    from efface_worlds.emoji.drawing import load_sprites, render
    from efface_worlds.emoji.scenes import Scenes, sample_scenes
    from efface_worlds.emoji.text import embed_prompts, load_text_encoder

_NAMES = {
    "efface_worlds.emoji.captions": ("caption", "prompt"),
    "efface_worlds.emoji.concepts": (
        "CONCEPTS",
        "FACTORS",
        "Concept",
        "concept",
        "groups",
        "named_by",
        "professions",
        "siblings",
        "strangers",
        "subgroups",
    ),
    "efface_worlds.emoji.drawing": ("load_sprites", "render"),
    "efface_worlds.emoji.scenes": ("Scenes", "sample_scenes"),
    "efface_worlds.emoji.text": ("embed_prompts", "load_text_encoder"),
}

__all__ = [
    "CONCEPTS",
    "FACTORS",
    "Concept",
    "Scenes",
    "caption",
    "concept",
    "embed_prompts",
    "groups",
    "load_sprites",
    "load_text_encoder",
    "named_by",
    "professions",
    "prompt",
    "render",
    "sample_scenes",
    "siblings",
    "strangers",
    "subgroups",
]

__getattr__, __dir__ = attach(__name__, {name: module for module, names in _NAMES.items() for name in names}, globals())
