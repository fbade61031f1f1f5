"""Semantic Surgery that gradients pass through, for who attacks its gate."""

from __future__ import annotations

import torch

from efface.diffusion.text.semantic_surgery.erasure import SemanticSurgery
from efface.pipelines.embedding import PromptEmbedding
from efface.pipelines.view import PipelineView


def relaxed(
    surgery: SemanticSurgery,
    view: PipelineView,
    embedding: PromptEmbedding,
    *,
    widen: float = 1.0,
    straight_through: bool = False,
) -> PromptEmbedding:
    """Surgery with a gate that does not hide its gradients: the true one is nearly a step.

    Every prompt is operated on, in every row, with the active words or, if there are none, the most present one. An
    attack that passes where the true gate stops it shows that the gate hid the way, not that there was none.

    Args:
        surgery: The erasure.
        view: The pipeline.
        embedding: n prompts, which may have gradients.
        widen: Gamma is this many times as large; lower it step by step to 1 (annealing).
        straight_through: Operate as strongly as the true gate does, with the gradient of the widened one.
    """
    above = surgery.above(embedding)
    true, soft = torch.sigmoid(above), torch.sigmoid(above / widen)
    best = [(surgery.words[i],) for i in above.argmax(dim=1).tolist()]
    chosen = [words or word for words, word in zip(surgery.active(true, above), best, strict=True)]
    if straight_through:
        hard = true * (true >= surgery.config.active_from)
        soft = soft + (hard - soft).detach()
    return surgery.operated(view, embedding, chosen, soft, every_row=True)
