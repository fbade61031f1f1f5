"""The unlearning depth score (arXiv:2605.24614): whose hidden states, put into the base, make it forget?

Where the states of a model that never knew, put into the base at one block, lower the likelihood of what is to be
forgotten, that block encodes it. The score is the share of that loss which the states of the erased model bring about,
over all such blocks: 0 as before erasure, 1 as a model that never knew.

    UDS_i = sum_l D1_l clip(D2_l / D1_l, 0, 1) / sum_l D1_l  over blocks with D1_l > 0.05 nats a token

Blocks' own outputs are kept and replaced (the released code replaces the last block's by what its final norm gives),
and a sequence in which no block encodes anything has no score (there it prints 0, which reads as intact). States that
no model understands score 1 as well, so the same is asked of all other tokens: where these lose as much, it is void.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface.audit.states.language import Texts, block_states, blocks_of, nats_of, put_back
from efface.audit.states.reading import Floats

ENCODES = 0.05
"""Nats a token from which a block counts as encoding it."""


@dataclass(frozen=True, eq=False)
class Depth:
    """Scores of sequences, and what lies behind them.

    Attributes:
        scores: One for each sequence, `(n,)`; NaN where no block encodes anything.
        never: Loss, in nats a token, that states of the model that never knew bring at each block, `(blocks, n)`.
        erased: The same of the erased model's.
        others: The same of the erased model's states on all other tokens, a mean over sequences, `(blocks,)`.
        blocks: Their paths.
    """

    scores: Floats
    never: Floats
    erased: Floats
    others: Floats
    blocks: tuple[str, ...]

    @property
    def spoils(self) -> float:
        """What the erased model's states cost other tokens, at the blocks that encode the concept, weighed as there."""
        weight = np.nan_to_num(np.where(self.never > ENCODES, self.never, 0.0)).sum(axis=1)
        return float(weight @ self.others / weight.sum()) if weight.sum() > 0 else 0.0


def depth(
    model: nn.Module,
    put_on: Callable[[], AbstractContextManager[object]],
    never: nn.Module,
    texts: Texts,
    asked: Tensor,
) -> Depth:
    """The score of each sequence.

    Args:
        model: The base.
        put_on: Puts the erasure on the base, for the length of a block.
        never: A model of the same architecture that never knew.
        texts: Sequences.
        asked: The tokens that only who knows can predict, `(n, length)` bool.
    """
    blocks = blocks_of(model)
    if blocks_of(never) != blocks:
        raise InputError(
            f"gold has {len(blocks_of(never))} blocks, and the model {len(blocks)}: give one of the same architecture"
        )
    spots, others = _before(asked & texts.there), _before(~asked & texts.there)
    plain = nats_of(model, texts)
    lost: dict[str, list[Floats]] = {"never": [], "erased": [], "others": []}
    for block in blocks:
        theirs = block_states(never, texts, block)
        with put_on():
            own = block_states(model, texts, block)
        for name, states, where in (("never", theirs, spots), ("erased", own, spots), ("others", own, others)):
            with put_back(model, texts, block, states, where):
                found = nats_of(model, texts)
            lost[name].append(_mean(found - plain, where[:, :-1] & texts.predicted))
    d1, d2 = np.stack(lost["never"]), np.stack(lost["erased"])
    return Depth(scored(d1, d2), d1, d2, np.nanmean(np.stack(lost["others"]), axis=1), tuple(blocks))


def scored(never: Floats, erased: Floats) -> Floats:
    """The score of each sequence from its losses `(blocks, n)`; NaN where no block encodes anything.

    >>> scored(np.array([[0.5, 0.0], [1.5, 0.0]]), np.array([[0.5, 1.0], [0.0, 1.0]])).tolist()
    [0.25, nan]
    """
    counted = never > ENCODES
    share = np.clip(np.divide(erased, never, out=np.zeros_like(never), where=counted), 0.0, 1.0)
    weight = np.where(counted, never, 0.0)
    total = weight.sum(axis=0)
    return np.divide((weight * share).sum(axis=0), total, out=np.full(total.shape, np.nan), where=total > 0)


def _before(asked: Tensor) -> Tensor:
    """The tokens whose states predict those that are asked for, `(n, length)`."""
    return torch.cat([asked[:, 1:], torch.zeros_like(asked[:, :1])], dim=1)


def _mean(values: Tensor, where: Tensor) -> Floats:
    counts = where.sum(dim=1)
    found = torch.where(where, values, 0.0).sum(dim=1) / counts
    return torch.where(counts > 0, found, torch.nan).numpy()
