"""Small worlds with known truth: a table, sentences, tokens of Python source, captioned shapes, emoji, pictures.

Language models that read the tokens, and pipelines that draw shapes and emoji, come with them; `shapes`, `emoji` and
`attribution` have more names of their own. `find_world` has the worlds that are asked for by name.

Names are imported when they are first used.
"""

from typing import TYPE_CHECKING

from efface._lazy import attach

__version__ = "0.1.0"

if TYPE_CHECKING:
    from efface_worlds.emoji import load_emoji_pipeline
    from efface_worlds.registry import find_world
    from efface_worlds.sentences import SentenceWorld, embed, load_minilm, make_sentences
    from efface_worlds.shapes import load_contrast, load_judge, load_shapes_pipeline
    from efface_worlds.tables import TableWorld, load_diabetes
    from efface_worlds.tokens.bits import next_token_nats, unigram_bits_per_byte
    from efface_worlds.tokens.shipped import load_token_model, load_token_tokenizer
    from efface_worlds.tokens.world import TokenWorld, make_tokens

_NAMES = {
    "efface_worlds.emoji": ("load_emoji_pipeline",),
    "efface_worlds.registry": ("find_world",),
    "efface_worlds.sentences": ("SentenceWorld", "embed", "load_minilm", "make_sentences"),
    "efface_worlds.shapes": ("load_contrast", "load_judge", "load_shapes_pipeline"),
    "efface_worlds.tables": ("TableWorld", "load_diabetes"),
    "efface_worlds.tokens.bits": ("next_token_nats", "unigram_bits_per_byte"),
    "efface_worlds.tokens.shipped": ("load_token_model", "load_token_tokenizer"),
    "efface_worlds.tokens.world": ("TokenWorld", "make_tokens"),
}

__all__ = [
    "SentenceWorld",
    "TableWorld",
    "TokenWorld",
    "embed",
    "find_world",
    "load_contrast",
    "load_diabetes",
    "load_emoji_pipeline",
    "load_judge",
    "load_minilm",
    "load_shapes_pipeline",
    "load_token_model",
    "load_token_tokenizer",
    "make_sentences",
    "make_tokens",
    "next_token_nats",
    "unigram_bits_per_byte",
]

__getattr__, __dir__ = attach(__name__, {name: module for module, names in _NAMES.items() for name in names}, globals())
