"""Small language models of Python source that come with efface-worlds; the concept is each token's lexical type.

The labels are exact, because Python's own tokenizer gives them, and no token crosses from one type into another.
"""

from typing import TYPE_CHECKING

from efface._lazy import attach

if TYPE_CHECKING:
    from efface_worlds.tokens.bits import next_token_nats, token_counts, unigram_bits_per_byte, unigram_nats
    from efface_worlds.tokens.shipped import Architecture, load_token_model, load_token_tokenizer
    from efface_worlds.tokens.source import LEXICAL_TYPES, SourceFile, lexical_types, read_library
    from efface_worlds.tokens.vocabulary import IGNORE
    from efface_worlds.tokens.world import TokenWorld, make_tokens

_NAMES = {
    "efface_worlds.tokens.bits": ("next_token_nats", "token_counts", "unigram_bits_per_byte", "unigram_nats"),
    "efface_worlds.tokens.shipped": ("Architecture", "load_token_model", "load_token_tokenizer"),
    "efface_worlds.tokens.source": ("LEXICAL_TYPES", "SourceFile", "lexical_types", "read_library"),
    "efface_worlds.tokens.vocabulary": ("IGNORE",),
    "efface_worlds.tokens.world": ("TokenWorld", "make_tokens"),
}

__all__ = [
    "IGNORE",
    "LEXICAL_TYPES",
    "Architecture",
    "SourceFile",
    "TokenWorld",
    "lexical_types",
    "load_token_model",
    "load_token_tokenizer",
    "make_tokens",
    "next_token_nats",
    "read_library",
    "token_counts",
    "unigram_bits_per_byte",
    "unigram_nats",
]

__getattr__, __dir__ = attach(__name__, {name: module for module, names in _NAMES.items() for name in names}, globals())
