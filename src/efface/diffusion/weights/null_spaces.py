"""Where an edit may act without moving what is retained: null spaces of its rows, and the rows that stay exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Self

import torch
from torch import Tensor

from efface.diffusion.weights.closed_form import InputMap, cholesky

CHUNK = 4096
"""How many rows are looked at at once."""


class Retained:
    """What is retained for one matrix; what several null spaces of it have in common is found once, when asked for.

    The rows that are drawn are `x + g v` with a normal g, so that the sum over them follows from x, g and v.

    Args:
        weight: W, `(out, width)`, float64.
        rows: What could be retained, `(n, width)`.
        unguarded: D of the edit E = W D: rows that it moves less than the mean are left out, where any are.
        augment: How many are drawn around each along v, the last direction of W.
        seed: What g is drawn with.
    """

    def __init__(self, weight: Tensor, rows: Tensor, unguarded: InputMap, augment: int, seed: int) -> None:
        self.weight, self.rows, self.unguarded = weight, rows, unguarded
        self.augment, self.seed = augment, seed
        self._spectra: dict[bool, Spectrum] = {}

    def spectrum(self, filtered: bool) -> Spectrum:
        """Eigenvectors of the mean of `x x^T`, over rows of which those that are moved little are left out, or not."""
        if filtered not in self._spectra:
            self._spectra[filtered] = self._found(filtered)
        return self._spectra[filtered]

    def _found(self, filtered: bool) -> Spectrum:
        if not len(self.rows):
            return Spectrum.of(self.weight.new_zeros(2 * self.weight.shape[1:]), self.rows, filtered=filtered)
        size, sizes = self._sizes
        few = size > size.mean() if filtered else torch.ones_like(size, dtype=torch.bool)
        few = few if bool(few.any()) else torch.ones_like(few)  # all are moved the same
        more = few[:, None].expand_as(sizes)
        if self.augment and filtered:
            more = more & (sizes > sizes[few].mean())
        gram, n = self._sum(few, more)
        return Spectrum.of(gram / n, self.rows[few.to(self.rows.device)], n, filtered)

    def _sum(self, few: Tensor, more: Tensor) -> tuple[Tensor, int]:
        """The sum of `x x^T` over some rows, and over some of those drawn, `(n,)` and `(n, augment)`; how many."""
        v, g = self._v, self._g
        counts, sums = few + more.sum(1), (g * more).sum(1)
        gram, cross = torch.zeros(len(v), len(v), dtype=v.dtype, device=v.device), torch.zeros_like(v)
        for part, n, s in zip(self.rows.split(CHUNK), counts.split(CHUNK), sums.split(CHUNK), strict=True):
            x = part.to(v)
            some = x[n > 0]
            gram.addmm_(some.mT * n[n > 0], some)
            cross += s @ x
        gram += torch.outer(cross, v) + torch.outer(v, cross) + (g.square() * more).sum() * torch.outer(v, v)
        return gram, int(counts.sum())

    @cached_property
    def _v(self) -> Tensor:
        return last_direction(self.weight)

    @cached_property
    def _g(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randn(len(self.rows), self.augment, generator=generator, dtype=torch.float64).to(self.weight)

    @cached_property
    def _sizes(self) -> tuple[Tensor, Tensor]:
        """How far the unguarded edit moves each row, `(n,)`, and each that is drawn around it, `(n, augment)`."""
        parts = self.rows.split(CHUNK)
        edited = torch.cat([moved(self.weight, self.unguarded, part.to(self.weight)) for part in parts])
        along = moved(self.weight, self.unguarded, self._v[None])[0]
        size, g = edited.norm(dim=1), self._g
        drawn = size[:, None] ** 2 + 2 * g * (edited @ along)[:, None] + g**2 * along.square().sum()
        return size, drawn.clamp_min(0).sqrt()


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Directions of what is retained, of which it has least first.

    Attributes:
        values: Eigenvalues of the mean of `x x^T`, `(width,)`.
        vectors: Eigenvectors, `(width, width)`.
        rows: The rows x, `(rows, width)`.
        n: How many they are, with those drawn around them.
        filtered: Whether rows were left out.
    """

    values: Tensor
    vectors: Tensor
    rows: Tensor
    n: int = 0
    filtered: bool = False

    @classmethod
    def of(cls, gram: Tensor, rows: Tensor, n: int = 0, filtered: bool = False) -> Self:
        """The one of a mean of `x x^T`."""
        values, vectors = torch.linalg.eigh(gram)
        return cls(values.clamp_min(0), vectors, rows, n, filtered)

    @cached_property
    def most(self) -> Tensor:
        """Largest share of a row's squared length that lies in the first 1, 2, ... directions, `(width,)`."""
        found = torch.zeros_like(self.values)
        for part in self.rows.split(CHUNK) if len(self.rows) else ():
            x = part.to(self.vectors)
            size = x.square().sum(1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
            found = torch.maximum(found, ((x @ self.vectors).square().cumsum(1) / size).max(0).values)
        return found

    def free(
        self, share: float, of: Literal["each", "all"] = "all", least: float = 0.0, below: float | None = None
    ) -> Tensor:
        """Orthonormal basis `(width, r)` of directions of which what is retained has next to nothing.

        Args:
            share: They hold at most so much of the energy of all rows together, or of each row's own.
            of: Of whose energy.
            least: They are at least this share of all directions, those with the least of it, unless `below` is given.
            below: Instead, eigenvalues are below this.
        """
        if below is not None:
            return self.vectors[:, self.values < below]
        small = self.most <= share if of == "each" else self.values.cumsum(0) <= share * self.values.sum()
        return self.vectors[:, : max(int(small.sum()), math.ceil(least * len(self.values)))]


def moved(weight: Tensor, edit: InputMap, rows: Tensor) -> Tensor:
    """`W D x` of rows `(n, width)`, `(n, out)`."""
    inner = rows if edit.right is None else rows @ edit.right.mT
    return inner @ (weight @ edit.left).mT


def energy(weight: Tensor, edit: InputMap, gram: Tensor) -> float:
    """Mean of `||W D k||^2` over keys whose mean of `k k^T` is given."""
    out = weight @ edit.left
    inner = gram if edit.right is None else edit.right @ gram @ edit.right.mT
    return float(((out @ inner) * out).sum().clamp_min(0))


def last_direction(weight: Tensor) -> Tensor:
    """The right singular vector of the smallest singular value that is not zero by W's shape, `(width,)`."""
    out, width = weight.shape
    if out >= width:
        return torch.linalg.eigh(weight.mT @ weight).eigenvectors[:, 0]
    found = torch.linalg.eigh(weight @ weight.mT).eigenvectors[:, 0] @ weight
    return found / found.norm()


def guarded(gram: Tensor, space: Tensor, fixed: Tensor, ridge: float, fixed_ridge: float) -> Tensor:
    """The inverse of step 5, `(width, width)`, symmetric: X without what C takes.

    Args:
        gram: A1.
        space: U, `(width, r)`.
        fixed: C, `(c, width)`.
        ridge: Of A1.
        fixed_ridge: Of C; 0 fixes it exactly.
    """
    inside = space.mT @ gram @ space
    factor = cholesky((inside + inside.mT) / 2, ridge, "the concepts, where they may change,")
    x = space @ torch.cholesky_solve(space.mT, factor)
    c = fixed.mT
    if fixed_ridge == 0:  # an orthonormal basis of what of C lies in the space: the same, and well-conditioned
        u, s, _ = torch.linalg.svd(space.mT @ c, full_matrices=False)
        c = space @ u[:, s > max(float(s.max()), 1.0) * 1e-9]
    if not c.shape[1]:
        return x
    xc = x @ c
    inner = c.mT @ xc
    inner = (inner + inner.mT) / 2
    return x - xc @ torch.cholesky_solve(xc.mT, cholesky(inner, fixed_ridge, "the rows that stay fixed,"))


def fixed_rows(neutral: Tensor, centres: int | None, seed: int) -> Tensor:
    """The first row of the empty prompt, and centres of its others by k-means; None takes each of them.

    Args:
        neutral: Rows of the empty prompt, `(rows, width)`.
        centres: How many.
        seed: Of the first choice.
    """
    first, rest = neutral[:1], neutral[1:]
    if centres is None or len(rest) <= centres:
        return neutral
    order = torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))[:centres]
    found = rest[order.to(rest.device)]
    for _ in range(50):  # Lloyd's; a centre that no row is near to stays
        near = torch.cdist(rest, found).argmin(1)
        means = [rest[near == k].mean(0) if bool((near == k).any()) else found[k] for k in range(centres)]
        new = torch.stack(means)
        if torch.equal(new, found):
            break
        found = new
    return torch.cat([first, found])
