"""How well the next token is predicted, in nats: by a model, and by nothing but how often each token occurs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from efface._errors import InputError
from efface._validate import check_positive_int
from efface_worlds.tokens.world import TokenWorld


def next_token_nats(model: Any, world: TokenWorld, *, batch_size: int = 16) -> Tensor:
    """`-log p(token_t | token_0 ... token_{t-1})` for t = 1, 2, ..., `(n, length - 1)`, float32, on the CPU.

    The model is run as it is, with its hooks, on its device, without gradients; the softmax is taken in float32
    whatever the dtype of the logits.

    Args:
        model: A causal language model of transformers, such as `load_token_model` gives.
        world: The sequences.
        batch_size: Sequences in one forward pass.

    Raises:
        InputError: If the world has tokens that the model does not know.
    """
    check_positive_int(batch_size, "batch_size")
    if world.vocab_size > model.config.vocab_size:
        raise InputError(
            f"the world has {world.vocab_size} tokens and the model knows {model.config.vocab_size}: "
            "make the world with the model's own tokenizer"
        )
    with torch.inference_mode():
        nats = [_nats(model, ids.to(model.device)).cpu() for ids in world.input_ids.split(batch_size)]
    # a tensor made in inference mode could not be used in autograd
    return torch.cat(nats).clone()


def _nats(model: Any, ids: Tensor) -> Tensor:
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")


def token_counts(world: TokenWorld) -> Tensor:
    """How often each token occurs behind position 0, `(vocab_size,)`, int64."""
    return torch.bincount(world.input_ids[:, 1:].flatten(), minlength=world.vocab_size)


def unigram_nats(world: TokenWorld, *, train: TokenWorld | Tensor | None = None) -> Tensor:
    """`-log p(token_t)` at t = 1, 2, ..., `(n, length - 1)`, float64, with p the frequencies of single tokens.

    Args:
        world: The sequences.
        train: Where the frequencies come from, each count raised by one: sequences or counts `(vocab_size,)`. `None`
            takes the frequencies of `world` itself, so that the mean is their entropy: no model that looks at
            single tokens alone is better.

    Raises:
        InputError: If `train` has another vocabulary.
    """
    if train is None:
        weight = token_counts(world).double()
    else:
        counts = token_counts(train) if isinstance(train, TokenWorld) else train
        if tuple(counts.shape) != (world.vocab_size,):
            raise InputError(
                f"train has {tuple(counts.shape)} counts, expected one for each of {world.vocab_size} tokens"
            )
        weight = counts.double() + 1
    return -torch.log(weight / weight.sum())[world.input_ids[:, 1:]]


def unigram_bits_per_byte(world: TokenWorld, *, train: TokenWorld | Tensor | None = None) -> float:
    """Bits per byte of `world` under the frequencies of single tokens: what a model has to beat.

    Args:
        world: The sequences.
        train: As for `unigram_nats`.

    Raises:
        InputError: If `train` has another vocabulary.

    >>> ids, types, n_bytes = torch.tensor([[[0, 1, 2, 3, 3]], [[-100, 0, 0, 0, 0]], [[0, 1, 1, 1, 1]]])
    >>> world = TokenWorld(ids, types, n_bytes, ("name",), ("ast.py",), 4)
    >>> unigram_bits_per_byte(world), unigram_bits_per_byte(world, train=torch.zeros(4))
    (1.5, 2.0)
    """
    return world.bits_per_byte(unigram_nats(world, train=train))
