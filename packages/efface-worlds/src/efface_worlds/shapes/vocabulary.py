"""The tokenizer: a CLIPTokenizer whose byte-pair merges are learned from the world's words, one token a word."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

from efface._lazy import require
from efface_worlds.shapes.captions import every_word

LENGTH = 24
"""Tokens of a prompt, start and end included; longer prompts are cut."""

START, END = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer() -> Any:
    """The tokenizer, made from the words of the captions; other words fall apart into pieces and letters."""
    vocab, merges = _byte_pairs(every_word())
    clip = require("transformers", extra="diffusion").CLIPTokenizer
    return clip(
        vocab=vocab,
        merges=merges,
        model_max_length=LENGTH,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        unk_token=END,
    )


def _byte_pairs(words: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Merge the most frequent pair of neighbours again and again until each word is one token.

    Source: Sennrich et al., arXiv:1508.07909, algorithm 1; among equally frequent pairs the first in the alphabet.
    """
    letters = sorted(_byte_alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters)]
    merges: list[tuple[str, str]] = []
    parts = [[*word[:-1], word[-1] + "</w>"] for word in words]
    while counts := Counter(pair for part in parts for pair in pairwise(part)):
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        tokens.append("".join(best))
        parts = [_merged(part, best) for part in parts]
    return {token: i for i, token in enumerate([*dict.fromkeys(tokens), START, END])}, merges


def _merged(part: list[str], pair: tuple[str, str]) -> list[str]:
    result: list[str] = []
    for piece in part:
        if result and (result[-1], piece) == pair:
            result[-1] += piece
        else:
            result.append(piece)
    return result


def _byte_alphabet() -> list[str]:
    """Printable stand-ins of the 256 bytes, as byte-level tokenizers use."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spare = iter(range(256, 512))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]
