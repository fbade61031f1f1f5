"""Sequences of tokens of Python source, each token with its lexical type: the concept to erase from a language model.

The model has to know the type to predict the next token, so erasing it costs something; the cost is measured in bits
per byte of source, which no vocabulary can flatter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from efface._errors import InputError
from efface._text import brief
from efface._validate import check_positive_int
from efface_worlds.tokens.shipped import load_token_tokenizer
from efface_worlds.tokens.source import LEXICAL_TYPES, Kind, SourceFile, Split, kind_of, read_library
from efface_worlds.tokens.vocabulary import IGNORE, encode


@dataclass(frozen=True)
class TokenWorld:
    """Sequences of tokens, each behind the end-of-text token, and what is true of each token.

    Attributes:
        input_ids: Tokens `(n, length)`, int64.
        lexical_type: Index into `names`, `(n, length)`, int64; -100 for the end-of-text token at position 0.
        n_bytes: UTF-8 bytes of source that each token stands for, `(n, length)`, int64; 0 at position 0.
        names: Names of the lexical types.
        files: Name of the file each sequence was cut from, `n` of them.
        vocab_size: How many tokens there are.
    """

    input_ids: Tensor
    lexical_type: Tensor
    n_bytes: Tensor
    names: tuple[str, ...]
    files: tuple[str, ...]
    vocab_size: int

    __repr__ = brief

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def is_test(self) -> Tensor:
        """Whether each sequence is of a test, `(n,)`, bool."""
        return torch.tensor([kind_of(file) == "tests" for file in self.files])

    @property
    def sequence_bytes(self) -> Tensor:
        """Bytes of source in each sequence, `(n,)`, int64."""
        return self.n_bytes[:, 1:].sum(dim=1)

    def sequence_bits(self, nats: Tensor) -> Tensor:
        """Bits to write down each sequence behind its first token, `(n,)`, float64.

        Args:
            nats: `-log p` of the token at positions 1, 2, ..., `(n, length - 1)`, as `next_token_nats` gives it.

        An interval for the bits per byte, sequences of one file taken together, is
        `efface.audit.bootstrap_interval(world.sequence_bits(nats), world.sequence_bytes, groups=world.files)`.

        Raises:
            InputError: If `nats` has another shape.
        """
        expected = (len(self), self.input_ids.shape[1] - 1)
        if tuple(nats.shape) != expected:
            raise InputError(
                f"nats has shape {tuple(nats.shape)}, expected {expected}: one for each token but the first"
            )
        return nats.detach().cpu().double().sum(dim=1) / math.log(2)

    def bits_per_byte(self, nats: Tensor) -> float:
        """Bits per byte of all sequences: their bits over their bytes, so that long tokens weigh what they should.

        Args:
            nats: `-log p` of the token at positions 1, 2, ..., `(n, length - 1)`.

        Raises:
            InputError: If `nats` has another shape.

        >>> ids, types, n_bytes = torch.tensor([[[0, 5, 6]], [[-100, 0, 3]], [[0, 3, 1]]])
        >>> world = TokenWorld(ids, types, n_bytes, LEXICAL_TYPES, ("ast.py",), 8)
        >>> round(world.bits_per_byte(torch.full((1, 2), math.log(8))), 6)
        1.5
        """
        return float(self.sequence_bits(nats).sum() / self.sequence_bytes.sum())


def make_tokens(
    split: Split = "heldout",
    *,
    length: int = 256,
    sequences: int | None = None,
    seed: int = 0,
    kind: Kind | None = None,
    max_files: int | None = None,
    tokenizer: Any = None,
    folder: Path | None = None,
) -> TokenWorld:
    """Sequences of the standard library of the running Python.

    Each is the end-of-text token and `length - 1` tokens in a row of one file. Files are cut from their beginning
    without overlap; what is left at the end, and files that are shorter, are dropped.

    Args:
        split: `"heldout"` (modules that the models have not seen; about 1 MB) or `"train"` (25 MB: reading it all
            takes most of a minute, so pass `max_files`).
        length: Tokens in a sequence with the end-of-text token; those of efface-worlds take up to 1,024.
        sequences: How many, drawn without replacement from those of the files read; a smaller number gives the
            beginning of what a larger one gives. `None` takes all, in order of the files.
        seed: Of both draws.
        kind: `"library"` or `"tests"` alone. About half of the training sequences are of tests, the held-out split
            has none: compare the two on `"library"`.
        max_files: Read no more than this many files, drawn at random; `None` reads all.
        tokenizer: What `train_vocabulary` made; `None` takes the one that comes with efface-worlds.
        folder: Where the library lies; `None` asks `sysconfig`.

    Raises:
        InputError: If `split` is neither, `length` is under 2, or there are fewer sequences than asked for.
        MissingExtraError: If transformers is not installed.

    Does not guarantee: the same sequences in another version of Python, whose library is another text.
    """
    if check_positive_int(length, "length") < 2:
        raise InputError("length=1 leaves no room for a token behind the end-of-text token: write at least 2")
    if sequences is not None:
        check_positive_int(sequences, "sequences")
    tokenizer = load_token_tokenizer() if tokenizer is None else tokenizer
    source = read_library(split, kind=kind, folder=folder, max_files=max_files, seed=seed)
    cut = [(file.name, sequence) for file in source for sequence in _cut(file, tokenizer, length)]
    chosen = _drawn(len(cut), sequences, seed)
    ids, types, n_bytes = torch.from_numpy(np.stack([cut[i][1] for i in chosen], axis=1))
    files = tuple(cut[i][0] for i in chosen)
    return TokenWorld(ids, types, n_bytes, LEXICAL_TYPES, files, len(tokenizer))


def _cut(file: SourceFile, tokenizer: Any, length: int) -> NDArray[np.int64]:
    """Sequences `(n, 3, length)` of a file: ids, types and bytes, each behind those of the end-of-text token."""
    rows = np.stack(encode(tokenizer, [file.text], [file.types])[0])
    count = rows.shape[1] // (length - 1)
    body = rows[:, : count * (length - 1)].reshape(3, count, length - 1).swapaxes(0, 1)
    head = np.broadcast_to(np.array([[tokenizer.eos_token_id], [IGNORE], [0]]), (count, 3, 1))
    return np.concatenate([head, body], axis=2)


def _drawn(there: int, wanted: int | None, seed: int) -> NDArray[np.int64]:
    if there < (wanted or 1):
        raise InputError(
            f"sequences={wanted} of this length were asked for, and the files read hold {there}: "
            "ask for fewer or for shorter ones, or read more files"
        )
    return np.arange(there) if wanted is None else np.random.default_rng(seed).permutation(there)[:wanted]
