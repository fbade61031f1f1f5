"""Samples in batches, through the pipeline's own call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from efface._errors import InputError
from efface.pipelines.denoiser_call import generators
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.prompts import PromptEncoder, listed
from efface.pipelines.restoring import preserved
from efface.pipelines.text_edits import active_edits, skipping


@dataclass(frozen=True)
class Samples:
    """What is to be sampled: a prompt, a seed and perhaps a negative prompt each.

    Attributes:
        prompts: The prompts, or these as encoded.
        seeds: The seeds.
        negative: The negative prompts, if any are given; an embedding has its own.
    """

    prompts: list[str] | PromptEmbedding
    seeds: list[int]
    negative: list[str] | None

    @classmethod
    def of(
        cls,
        prompts: str | Sequence[str] | PromptEmbedding,
        seeds: int | Sequence[int],
        negative: str | Sequence[str] | None,
    ) -> Samples:
        """As many prompts and negative prompts as seeds.

        Raises:
            InputError: If there are neither as many nor one.
        """
        seeds = [seeds] if isinstance(seeds, int) else [int(seed) for seed in seeds]
        items = _spread(prompts, len(seeds))
        if isinstance(items, PromptEmbedding) and negative is not None:
            raise InputError("negative goes with prompts: an embedding has its own, e.replace(negative=...)")
        return cls(items, seeds, _spread_negative(negative, len(seeds)))

    def __len__(self) -> int:
        return len(self.seeds)

    def batches(self, size: int) -> Iterator[Samples]:
        """The same, `size` at a time."""
        if size < 1:
            raise InputError(f"batch_size must be at least 1, not {size}")
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            seeds, prompts = self.seeds[part], self.prompts
            if isinstance(prompts, PromptEmbedding) and len(prompts) == 1:
                prompts = PromptEmbedding.cat([prompts] * len(seeds))
            else:
                prompts = prompts[part]
            yield Samples(prompts, seeds, self.negative and self.negative[part])


def sample_batch(
    text: PromptEncoder, embedding: PromptEmbedding, seeds: Sequence[int], given: Mapping[str, Any]
) -> Tensor:
    """Pictures, films or latents of one call of the pipeline, on the CPU, float32.

    Args:
        text: The pipeline's text side.
        embedding: n prompts.
        seeds: n seeds.
        given: Further arguments of the pipeline's call.
    """
    pipe, scheduler = text.pipe, text.components.scheduler_of(text.pipe)
    arguments = {**text.encoding.arguments(embedding), **given, "generator": generators(seeds), "return_dict": False}
    with preserved(pipe, scheduler), torch.no_grad():
        # Those edits that are on now and that the embedding has been through already.
        done = embedding.edits & active_edits(pipe)
        pipe.set_progress_bar_config(disable=True)
        with skipping(pipe, done, embedding.prompts):
            out = pipe(**arguments)[0]
    return out.detach().float().cpu()


def _spread(prompts: str | Sequence[str] | PromptEmbedding, n: int) -> list[str] | PromptEmbedding:
    """As many prompts as seeds; or an embedding of as many, or of one."""
    prompts = [prompts] if isinstance(prompts, str) else prompts
    items = prompts if isinstance(prompts, PromptEmbedding) else listed(prompts, "prompts")
    if n == 0:
        raise InputError("there are no seeds: give one for each sample")
    if len(items) == n:
        return items
    if len(items) != 1:
        raise InputError(f"{n} seeds for {len(items)} prompts: give one seed for each prompt")
    return items if isinstance(items, PromptEmbedding) else items * n


def _spread_negative(negative: str | Sequence[str] | None, n: int) -> list[str] | None:
    if negative is None or isinstance(negative, str):
        return None if negative is None else [negative] * n
    negatives = listed(negative, "negative")
    if len(negatives) != n:
        raise InputError(f"{len(negatives)} negative prompts for {n} samples: give one, or one for each")
    return negatives
