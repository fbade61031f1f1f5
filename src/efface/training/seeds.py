"""Streams of random numbers, each from a seed and what it is for alone: what was drawn before does not matter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Generator

from efface._errors import InputError
from efface._text import shown


def generator(seed: int, *stream: int) -> Generator:
    """A source of randomness on the CPU, from the seed and what it is for.

    Raises:
        InputError: If the seed is no integer of at least 0.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise InputError(f"seed={shown(seed)}: write an integer of at least 0")
    state = np.random.SeedSequence([seed, *stream]).generate_state(1, np.uint32)
    return Generator().manual_seed(int(state[0]))


def seeds_of(n: int, source: Generator) -> list[int]:
    """N seeds that a source of randomness gives."""
    return torch.randint(2**31, (n,), generator=source).tolist()


def generators(seed: int, samples: Sequence[int] | range, *stream: int) -> list[Generator]:
    """One source of randomness a sample, from the seed, what it is for, and the sample's number alone."""
    return [generator(seed, *stream, i) for i in samples]
