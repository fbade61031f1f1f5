"""Refining an embedded prompt: down the gradient of concepts' classifiers, until each of them takes it for safe."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from efface.diffusion.text.cgce.config import CgceConfig, Normalise


def direction(g: Tensor, e: Tensor, normalise: Normalise) -> Tensor:
    """The step at eta = 1 of gradients g of embeddings e, both `(n, rows, width)`.

    >>> direction(torch.tensor([[[0.0, 3.0]]]), torch.tensor([[[4.0, 0.0]]]), "l2")
    tensor([[[0., 4.]]])
    """
    tiny = torch.finfo(g.dtype).tiny
    if normalise == "none":
        return g
    if normalise == "token_l2":  # a row without a gradient stays: 0 / tiny is 0, and tiny is not multiplied first
        return g / g.norm(dim=-1, keepdim=True).clamp_min(tiny) * (e.norm(dim=-1, keepdim=True) / e.shape[1] ** 0.5)
    typical = (e.flatten(1).norm(dim=1) / e.shape[1] ** 0.5)[:, None, None]
    if normalise == "sign":
        return g.sign() * typical / e[0].numel() ** 0.5
    return g / g.flatten(1).norm(dim=1).clamp_min(tiny)[:, None, None] * typical


@torch.inference_mode(False)
@torch.enable_grad()
def refine(
    e: Tensor,
    keeps: Sequence[Tensor],
    classifiers: Sequence[Callable[[Tensor, Tensor], Tensor]],
    fired: Tensor,
    stop: Tensor,
    config: CgceConfig,
) -> tuple[Tensor, Tensor, Tensor]:
    """Refine prompts (arXiv:2511.05865, stage 3): `e <- e - eta g`, with g aggregated over the concepts that are there.

    `g = sum over c of d BCE(z_c, 0) / d e`, over the concepts that fired and have not yet come down to where they may
    stop, and over those above the limit, which a step for another concept may have raised. Rows that no classifier
    reads have no gradient and stay as they are. A prompt without such a concept is done and is not touched again; none
    depends on the others in its batch, up to the rounding of batched products. Classifiers see what the embedding's own
    dtype makes of each step.

    Args:
        e: Embeddings `(n, rows, width)`, in any floating dtype.
        keeps: Rows that each classifier reads, `(n, rows)` booleans each.
        classifiers: One a concept, k of them.
        fired: Which concepts fired, `(n, k)` booleans.
        stop: Logits at which the concepts that fired are left, `(k,)`.
        config: How; no concept may be above its limit.

    Returns:
        The refined embeddings, in float32 but exact in the dtype of `e`; steps taken, `(n,)`; whether each is done.
    """
    dtype, e, keeps, fired = e.dtype, e.clone().float(), [keep.clone() for keep in keeps], fired.clone()
    live = torch.arange(len(e), device=e.device)
    taken = torch.zeros(len(e), dtype=torch.long, device=e.device)
    done = torch.zeros(len(e), dtype=torch.bool, device=e.device)
    for turn in range(config.max_iter + 1):
        x = _rounded(e[live], dtype).requires_grad_()
        z = torch.stack([f(x, keep[live]) for f, keep in zip(classifiers, keeps, strict=True)], 1)
        bad = (z > config.limit) | (fired[live] & (z > stop))
        unsafe = bad.any(1)
        done[live[~unsafe]] = True
        if turn == config.max_iter or not bool(unsafe.any()):
            break
        loss = F.binary_cross_entropy_with_logits(z, torch.zeros_like(z), reduction="none")
        (g,) = torch.autograd.grad((loss * bad).sum(), x)
        moved = e[live] - config.eta * direction(g, e[live], config.normalise)
        live = live[unsafe]
        e[live] = moved.detach()[unsafe]
        taken[live] += 1
    return _rounded(e, dtype), taken, done


@torch.no_grad()
def follow(
    e: Tensor,
    to: Tensor,
    keeps: Sequence[Tensor],
    classifiers: Sequence[Callable[[Tensor, Tensor], Tensor]],
    fired: Tensor,
    stop: Tensor,
    config: CgceConfig,
) -> tuple[Tensor, Tensor, Tensor]:
    """Move prompts on the straight way to others, until the classifiers take them for safe, and no farther than these.

    A gradient leads out of what a classifier reads, which is less than what a denoiser reads, and into where no prompt
    is: between two prompts it cannot. Steps are as long as those of the gradient.

    Args:
        e: Embeddings `(n, rows, width)`.
        to: Where each may go, likewise.
        keeps: As of `refine`, like the others.
        classifiers: One a concept.
        fired: Which concepts fired.
        stop: Logits at which they are left.
        config: How.

    Returns:
        As `refine`; done are also those that are at the end of their way with no concept above its limit.
    """
    dtype, start = e.dtype, e.float()
    path = to.float() - start
    whole = path.flatten(1).norm(dim=1)
    typical = start.flatten(1).norm(dim=1) / e.shape[1] ** 0.5
    share, taken = torch.zeros_like(whole), torch.zeros(len(e), dtype=torch.long, device=e.device)
    while True:
        x = _rounded(start + share[:, None, None] * path, dtype)
        z = torch.stack([f(x, keep) for f, keep in zip(classifiers, keeps, strict=True)], 1)
        safe = (z <= config.limit).all(1)
        done = safe & ~(fired & (z > stop)).any(1)
        live = ~done & (share < 1) & (whole > 0) & (taken < config.max_iter)
        if not bool(live.any()):
            return x, taken, safe
        further = (share + config.eta * typical / whole.clamp_min(torch.finfo(whole.dtype).tiny)).clamp(max=1)
        share = torch.where(live, further, share)
        taken = taken + live


def _rounded(e: Tensor, dtype: torch.dtype) -> Tensor:
    return e.detach().to(dtype).float()
