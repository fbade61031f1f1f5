"""Q-feature attribution: the sparsest mask that leaves a model's output as it is. The model is not changed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from efface._errors import InputError
from efface._progress import progress
from efface._text import brief, shown
from efface._validate import check_positive_int
from efface.attribution.maskers import Masker, Model
from efface.attribution.masking import (
    as_probabilities,
    check_responds,
    clean_outputs,
    distance,
    draw,
    held_still,
    is_random,
    masked_outputs,
    prepare,
)
from efface.attribution.predictions import Outputs, check_gradient, device_of, explaining
from efface.attribution.removal import Removal
from efface.core.doors import check_call
from efface.core.inference import outside_inference
from efface.training.seeds import generators


@dataclass(frozen=True)
class QfaResult:
    """Masks of n samples.

    Attributes:
        masks: What is kept of each cell, `(n, *cells)` in [0, 1], on the CPU.
        maps: The same as maps of attribution: images `(n, h, w)`, tables `(n, features)`, text `(n, tokens)`.
        kept: Mean of each sample's mask over the cells that may be removed, `(n,)`.
        change: `|f(x) - f(x_s(m, q))|_1` of the probabilities under the final mask, a fresh draw of q, `(n,)`; 0 to 2.
        passes: Forward and backward passes for each sample.
    """

    masks: Tensor
    maps: Tensor
    kept: Tensor
    change: Tensor
    passes: int

    __repr__ = brief


@outside_inference
def qfa(
    model: Model,
    x: Any,
    *,
    removal: Removal,
    masker: Masker,
    sparsity: float = 1.0,
    step: float = 0.05,
    steps: int = 30,
    draws: int = 1,
    memory: float = 0.5,
    bound: float | None = 2.0,
    decay: bool = True,
    outputs: Outputs = "logits",
    batch_size: int = 64,
    seed: int = 0,
) -> QfaResult:
    """Masks of samples by gradient descent on an untouched model.

    The Q-feature attribution of f at x is `argmin |m|_0` such that `E_q |f(x) - f(x_s(m, q))|_1 <= eps`. As in the
    paper it is relaxed: for each sample, minimise over m in [0, 1]^cells

        L(m) = sparsity * mean(m) + E_q |p(x) - p(x_s(m, q))|_1,     x_s(m, q) = m * x + (1 - m) * q

    with p the probabilities. From m = 1, `m <- clamp(m - step_t * clip(cells * g), 0, 1)`, `steps` times, with g a
    running mean of dL/dm over passes, each of `draws` fresh q. Only cells that may be removed count (see
    `Masker.free`); the others stay at 1.

    Source: L_QFA of arXiv 2307.15007, with lambda_1 = 1 / sparsity. The step is stated as what it does: a cell that the
    model does not care for falls by `sparsity * step` a pass. The released code takes steps of 0.001 to 0.0125, all
    alike, without mean and bound: `memory=0, bound=None, decay=False`. Few large steps of that kind leave masks where
    the last draw of q threw them. With 30 passes of 0.05, one draw each, the mean L is 0.63 on hard digits, 0.30 on
    block digits and 0.58 on a table of two signals; under the defaults 0.17, 0.18 and 0.46.

    Args:
        model: Takes samples `(n, ...)`, gives `(n, classes)`; a module in eval mode, or any differentiable function.
        x: Samples: images `(n, c, h, w)`, rows `(n, d)` or token ids `(n, tokens)`. They may stay on the CPU.
        removal: Q, what stands where something is removed.
        masker: What the cells are.
        sparsity: Weight of the mask against the change of the output; the released code explains with 1.
        step: Change of mask a pass, above.
        steps: Passes; `sparsity * step * steps` must be 1 at least, or no cell could fall from 1 to 0.
        draws: Draws of q a pass.
        memory: Share of the past in the running mean of gradients (as in Adam, with its correction at the start).
        bound: A cell changes by at most this many times the step a pass, so that one draw of q cannot turn a mask over;
            None sets no bound. With little memory and one draw the bound is biased: it hides rare large changes.
        decay: The step falls from `2 * step` to 0, evenly, with `step` as its mean; else all are alike.
        outputs: What the model gives: `"logits"` or `"probabilities"`.
        batch_size: Samples at once; memory depends on it, results do not, but for rounding.
        seed: Seed of the draws. Each sample has its own, by its place in `x`.

    Raises:
        InputError: If the model is in training mode, constant, not differentiable or does not give what `outputs` says;
            if samples are outside the removal's range, the grid does not fit, or a gradient is not finite.

    Does not guarantee: the sparsest mask (the problem is not convex, and there is no test of convergence: where
    `change` of the result is large, the search has lost the output, and more `steps` of a smaller `step` may hold it);
    that what is kept is what carries the label: for a model that is not robust to Q it need not be; that anything is
    kept of a sample whose output nothing at all gets, too; a map for each class: a mask keeps the whole output.

    >>> weights = torch.tensor([[4.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    >>> from efface.attribution import FeatureGroups, TabularGaussian
    >>> found = qfa(
    ...     lambda x: x @ weights.T, torch.ones(1, 3), masker=FeatureGroups(), removal=TabularGaussian(
    ...         torch.zeros(3), std=torch.zeros(3))
    ... )
    >>> (found.maps > 0.5).tolist()
    [[True, False, False]]
    """
    check_call(qfa, locals())
    search = MaskSearch(removal, masker, sparsity, step, steps, draws, memory, bound, decay, outputs)
    return search.explain(model, x, batch_size=batch_size, seed=seed)


@dataclass(frozen=True)
class MaskSearch:
    """The settings of `qfa`, and its descent on one batch."""

    removal: Removal
    masker: Masker
    sparsity: float = 1.0
    step: float = 0.05
    steps: int = 30
    draws: int = 1
    memory: float = 0.5
    bound: float | None = 2.0
    decay: bool = True
    outputs: Outputs = "logits"

    def __post_init__(self) -> None:
        check_positive_int(self.steps, "steps")
        check_positive_int(self.draws, "draws")
        for name in ("sparsity", "step"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name}={getattr(self, name)!r}: write a number above 0")
        if self.step > 1:
            raise InputError(f"step={self.step}: a mask is between 0 and 1; write the change a pass, e.g. step=0.05")
        if not 0 <= self.memory < 1:
            raise InputError(f"memory={self.memory}: write a share from 0 to below 1, e.g. 0.5, or 0 for none")
        if self.bound is not None and not self.bound >= max(1.0, self.sparsity):
            raise InputError(f"bound={self.bound}: write at least {max(1.0, self.sparsity):g} times the step, or None")
        if isinstance(self.masker, type) or not callable(getattr(self.masker, "outputs", None)):
            raise InputError(f"masker={shown(self.masker)}: write e.g. masker=Grid(2), or a subclass of Masker")

    @property
    def draws_needed(self) -> int:
        """One where all draws are the same."""
        return self.draws if is_random(self.removal) else 1

    def check_reach(self, fall: float) -> None:
        """Refuse settings under which no cell could fall this far."""
        reach = self.sparsity * self.step * self.steps
        if reach < fall - 1e-9:
            enough = math.ceil(fall / (self.sparsity * self.step) - 1e-9)
            raise InputError(
                f"{self.steps} passes of step={self.step:g} at sparsity {self.sparsity:g} lower a cell by {reach:.3g} "
                f"at most, and {fall:.3g} is needed to remove one: write steps={enough} or more"
            )

    def explain(self, model: Model, x: Any, *, batch_size: int, seed: int) -> QfaResult:
        """`qfa` with these settings."""
        self.check_reach(1.0)
        x = prepare(model, x, self.removal)
        size, device = check_positive_int(batch_size, "batch_size"), device_of(model, x)
        found: list[tuple[Tensor, ...]] = []
        bars = progress("masks", len(x), unit="samples")
        with held_still(model), explaining("qfa"), bars as bar:
            for first in range(0, len(x), size):
                chunk = x[first : first + size].to(device)
                sources = generators(seed, range(first, first + len(chunk)))
                if not first:
                    self.check_model(model, chunk, sources)
                found.append(tuple(part.cpu() for part in self.result(model, chunk, sources)))
                bar.update(len(chunk))
        masks, maps, kept, change = (torch.cat(parts) for parts in zip(*found, strict=True))
        return QfaResult(masks, maps, kept, change, self.steps * self.draws_needed)

    def check_model(self, model: Model, x: Tensor, sources: list[Generator]) -> None:
        """Refuse a constant model; the sources are left as they were."""
        self.masker.shape(x)  # refuses samples that it does not fit, before the model does
        states = [source.get_state() for source in sources]
        q = draw(self.removal, x, sources)
        for source, state in zip(sources, states, strict=True):
            source.set_state(state)
        clean_outputs(model, x, self.outputs)
        check_responds(model, x, self.masker, q, self.outputs)

    def result(self, model: Model, x: Tensor, sources: list[Generator]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Masks, maps, share kept and change of the output of one batch."""
        mask = self.descend(model, x, sources)
        masker = self.masker.on(x)
        free = masker.free(x)
        kept = (mask * free).flatten(1).sum(1) / free.flatten(1).sum(1)
        with torch.no_grad():
            said = masked_outputs(model, masker, x, mask, draw(self.removal, x, sources))
            change = (clean_outputs(model, x, self.outputs) - as_probabilities(said, self.outputs)).abs().sum(1)
        return mask, masker.map(mask, x), kept, change

    def descend(self, model: Model, x: Tensor, sources: list[Generator], start: Tensor | None = None) -> Tensor:
        """Masks `(n, *cells)` of one batch, from ones or from `start`; the model must be held still.

        The output of x is computed once, and the loop over passes is inside the batch, so that nothing is kept from
        one batch to the next.
        """
        masker, target = self.masker.on(x), clean_outputs(model, x, self.outputs)
        free = masker.free(x)
        cells = free.flatten(1).sum(1)
        if bool((cells == 0).any()):
            rows = (cells == 0).nonzero().flatten()[:5].tolist()
            raise InputError(f"nothing may be removed from samples {rows} of the batch: leave them out")
        cells = cells.view(-1, *[1] * (free.ndim - 1))
        mask = torch.ones(free.shape, device=x.device) if start is None else start.to(x.device, torch.float32)
        mean = torch.zeros_like(mask)
        fixed = None if is_random(self.removal) else draw(self.removal, x, sources)
        for t in range(self.steps):
            gradient = torch.zeros_like(mask)
            for _ in range(self.draws_needed):
                q = draw(self.removal, x, sources) if fixed is None else fixed
                gradient += self._gradient(model, x, mask, q, target, masker)
            mean = self.memory * mean + (1 - self.memory) * gradient / self.draws_needed
            slope = self.sparsity + cells * mean / (1 - self.memory ** (t + 1))
            slope = slope if self.bound is None else slope.clamp(-self.bound, self.bound)
            mask = torch.where(free, (mask - self._step_at(t) * slope).clamp(0, 1), 1.0)
        return mask

    def _step_at(self, t: int) -> float:
        return self.step * (2 - (2 * t + 1) / self.steps) if self.decay else self.step

    def _gradient(self, model: Model, x: Tensor, mask: Tensor, q: Tensor, target: Tensor, masker: Masker) -> Tensor:
        """Of `|p(x) - p(x_s)|_1`, for each sample by itself."""
        mask = mask.clone().requires_grad_()
        said = masked_outputs(model, masker, x, mask, q)
        check_gradient(said)
        if said.shape != target.shape:
            raise InputError(
                f"the model gives {tuple(said.shape)} for masked samples, {tuple(target.shape)} for others"
            )
        total = distance(as_probabilities(said, self.outputs), target).sum()
        (gradient,) = torch.autograd.grad(total, mask)
        finite = gradient.isfinite().flatten(1).all(1)
        if not bool(finite.all()):
            rows = (~finite).nonzero().flatten()[:5].tolist()
            raise InputError(
                f"the gradient of the mask is not finite in {int((~finite).sum())} of {len(x)} samples of a batch "
                f"(first: {rows}): run the model in float32, and look for sqrt, log or division at 0 in it"
            )
        return gradient
