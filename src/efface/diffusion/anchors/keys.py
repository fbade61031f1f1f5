"""What a denoiser makes of rows of text where it first reads them: keys and values, without a pass of the denoiser."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from efface.pipelines.view import PipelineView


@dataclass(frozen=True)
class TextReaders:
    """The layers that read rows of text as the text encoders give them.

    In plain cross-attention these are the key and value layers. Where keys and values are made of something else
    (joint attention, whose text changes from block to block; a projection of captions before all blocks), they are the
    layers that first read the embedding.

    Attributes:
        view: The pipeline.
    """

    view: PipelineView

    @cached_property
    def layers(self) -> dict[str, nn.Module]:
        """Path -> layer; measured by one small pass of each denoiser."""
        embedding = self.view.text.reference.replace(negative=None)
        found: dict[str, nn.Module] = {}
        for name in self.view.components.denoisers:
            inputs = self.view.key_value_inputs(embedding, denoiser=name)
            for layer in self.view.key_value_layers():
                given = inputs.get(layer.path)
                if layer.denoiser == name and layer.reads == "text" and given is not None:
                    same = given.shape == embedding.sequence.shape and torch.allclose(
                        given.float(), embedding.sequence.to(given).float(), rtol=1e-4, atol=1e-6
                    )
                    found |= {f"{name}.{layer.path}": layer.module} if same else {}
        return found or {
            f"{each.denoiser}.{each.path}": each.module
            for each in self.view.context_embedders()
            if each.reads == "sequence"
        }

    def likeness(self, x: Tensor, target: Tensor, middle: Tensor) -> Tensor:
        """How alike two sets of rows are to these layers, `(n,)`.

        `mean over layers l and rows r of cos(W_l (x_r - o_r), W_l (t_r - o_r))`: o is what rows are like whatever
        word is in them, so that 0 is a word like any other and 1 the target itself.

        Args:
            x: n prompts' rows, `(n, rows, width)`.
            target: The target's, `(rows, width)`.
            middle: o, `(rows, width)`.
        """
        both = torch.cat([x, target[None]]) - middle
        if not self.layers:
            return _cosines(both)
        return torch.stack([_cosines(_applied(each, both)) for each in self.layers.values()]).mean(0)


def _applied(layer: Any, x: Tensor) -> Tensor:
    """A layer without its bias, which both sides of a difference share."""
    weight = layer.weight
    with torch.no_grad():
        if type(layer) is nn.Linear:
            return nn.functional.linear(x.to(weight), weight).float()
        return (layer(x.to(weight)) - layer(torch.zeros_like(x[:1]).to(weight))).float()


def _cosines(x: Tensor) -> Tensor:
    return torch.cosine_similarity(x[:-1], x[-1:], dim=-1).mean(1)
