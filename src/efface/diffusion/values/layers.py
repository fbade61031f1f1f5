"""The layers of a denoiser that make values of text alone, and what they make of prompts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from efface._errors import InputError
from efface.pipelines.attention import KeyValueLayer
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.embedding_parts import first_row, parts_of
from efface.pipelines.view import PipelineView

ByLayer = Mapping[str, Mapping[str, Tensor]]
"""Name of a denoiser -> path of a layer -> a tensor."""

AT_ONCE = 4
"""How many prompts' values are in memory at once: of one, those of all layers of SDXL take 55 MB."""


def value_layers(view: PipelineView) -> list[KeyValueLayer]:
    """The layers that make values of text, in the order of the denoiser.

    Raises:
        InputError: If what they make depends on the picture too.
    """
    layers = view.key_value_layers()
    if not all(layer.text_alone for layer in layers):
        raise InputError(
            f"values of {type(view.denoiser).__name__} are made of text and picture together, anew at each step, so "
            "that no value of a concept is there to compare with: choose a method that edits text or guidance"
        )
    return [layer for layer in layers if layer.role == "to_v"]


def values_of(view: PipelineView, embedding: PromptEmbedding) -> dict[str, dict[str, Tensor]]:
    """Denoiser -> path -> the values of n prompts, `(n, rows, width)` float64, heads side by side.

    Raises:
        InputError: If they are not finite.
    """
    found: dict[str, dict[str, Tensor]] = {}
    inputs = {part: view.key_value_inputs(embedding, denoiser=part) for part in view.components.denoisers}
    for layer in value_layers(view):
        with torch.no_grad():
            value = layer.module(inputs[layer.denoiser][layer.path])
        if not bool(value.isfinite().all()):
            raise InputError(f"values of {layer.path} are not finite: convert the pipeline to float32")
        value = value.cpu() if value.device.type == "mps" else value  # which has no float64
        found.setdefault(layer.denoiser, {})[layer.path] = value.double()
    return found


def rows_that_differ(embedding: PromptEmbedding) -> Tensor:
    """Rows of the sequence that are not the same in all n prompts, `(rows,)` booleans: all but starts of text."""
    found = torch.ones(embedding.sequence.shape[1], dtype=torch.bool)
    for part in parts_of(embedding, pooled=False):
        first = part.rows[0]
        found[first : first + first_row(part.of(embedding))] = False
    return found


def picked_prompts(embedding: PromptEmbedding, prompts: Tensor) -> PromptEmbedding:
    """Some of n prompts, by number; without their negative branch."""
    changed: dict[str, Any] = {name: value[prompts.to(value.device)] for name, value in embedding.tensors().items()}
    texts = tuple(embedding.prompts[i] for i in prompts.tolist())
    return dataclasses.replace(embedding.replace(negative=None), **changed, prompts=texts)
