"""A byte-pair vocabulary whose tokens never cross a lexical boundary, so that every token has one lexical type."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from efface._lazy import require

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORE = -100
"""Label of a position that has none."""
END = "<|endoftext|>"

# A piece is a run of letters, of digits, of spaces, or one other character, with at most one space before it: none of
# these can hold the end of one lexical token and the beginning of the next. (But for a number that runs into a keyword,
# as in `0xfor x`, which Python deprecates.)
PIECE = r" ?[A-Za-z_]+| ?[0-9]+| ?[^\sA-Za-z_0-9]|\n| +(?! )|\s"


def train_vocabulary(texts: Iterable[str], size: int) -> PreTrainedTokenizerBase:
    """Byte-pair encoding of `size` tokens (256 bytes and the end of text among them), learned from `texts`."""
    library = require("tokenizers", extra="hf")
    tokenizer = library.Tokenizer(library.models.BPE())
    pre = library.pre_tokenizers
    tokenizer.pre_tokenizer = pre.Sequence(
        [
            pre.Split(library.Regex(PIECE), behavior="isolated"),
            pre.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=size, special_tokens=[END], initial_alphabet=pre.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = require("transformers", extra="hf").PreTrainedTokenizerFast
    return fast(tokenizer_object=tokenizer, eos_token=END, bos_token=END, pad_token=END)


def load_vocabulary(file: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a `tokenizer.json` that was saved with what `train_vocabulary` made."""
    fast = require("transformers", extra="hf").PreTrainedTokenizerFast
    return fast(tokenizer_file=str(file), eos_token=END, bos_token=END, pad_token=END)


def encode(
    tokenizer: Any, texts: Sequence[str], types: Sequence[NDArray[np.int8]]
) -> list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """For each text its token ids, their lexical types and the UTF-8 bytes each token stands for.

    A token's type is that of its last character: the space that may come before is the least part of it (and belongs to
    no lexical token, or from Python 3.12 on perhaps to the text of an f-string before a brace).
    A character of several bytes may take several tokens, each of which has its type and its own bytes.
    """
    batch = tokenizer(list(texts), return_offsets_mapping=True, add_special_tokens=False)
    # byte-level tokens are written with one character a byte
    n_bytes = np.array([len(token) for token in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))], dtype=np.int64)
    encoded = []
    for row, offsets, kinds in zip(batch["input_ids"], batch["offset_mapping"], types, strict=True):
        ids = np.array(row, dtype=np.int64)
        ends = np.array([end for _, end in offsets], dtype=np.int64)
        encoded.append((ids, kinds[ends - 1].astype(np.int64), n_bytes[ids]))
    return encoded
