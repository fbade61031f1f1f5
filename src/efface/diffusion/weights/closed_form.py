"""One engine for edits of text projections in closed form: keys, targets, weights, ridge, and where the edit may act.

Every such method asks of each matrix W for the least squares of

    sum_i w_i || W' k_i - W t_i ||^2 + ridge || W' - W ||^2,

a key `k_i` of the concept read as a target `t_i`, one to preserve as itself. Its solution is `W' = W + W D` with

    D = (sum_i w_i (t_i - k_i) k_i^T) (sum_i w_i k_i k_i^T + ridge I)^-1,

in which W does not occur: one sum over keys, and one Cholesky factorisation in float64, serve all matrices that read
the same rows. Sums are kept, not keys, so that a thousand concepts need as much memory as one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor

from efface._errors import InputError, NothingErasedWarning
from efface.core.concept import Concept
from efface.core.config import Config
from efface.core.weights import Add, LowRank
from efface.diffusion.weights.erasure import WeightErasure
from efface.diffusion.weights.projections import Stream, deltas_of, rows_read
from efface.diffusion.weights.rows import KeySpan, Pair, Phrase, Read, in_parts, picked
from efface.pipelines.view import PipelineView

_EXACT = 1e-9
"""Singular values below it, relative to the largest, are under the rounding of what is stored (float32)."""

_NOTHING = 1e-12

Regularised: TypeAlias = Callable[[Tensor], Tensor]
"""Rows `(n, width)` -> rows times the inverse of a regularised gram matrix."""


@dataclass(frozen=True, eq=False)
class InputMap:
    """D, by which a change is `W D`: what rows are read as is `x + D x`.

    Attributes:
        left: `(width, r)`.
        right: `(r, width)`; D is `left right`. None for the identity.
    """

    left: Tensor
    right: Tensor | None = None

    @classmethod
    def zero(cls, width: int, device: Any = None) -> Self:
        """No change."""
        empty = torch.zeros(width, 0, dtype=torch.float64, device=device)
        return cls(empty, empty.mT)

    @property
    def rank(self) -> int:
        """How many columns `left` has."""
        return self.left.shape[1]

    @property
    def matrix(self) -> Tensor:
        """D, `(width, width)`."""
        return self.left if self.right is None else self.left @ self.right

    def of(self, weight: Tensor) -> Add | LowRank:
        """The change `W D` of a weight `(out, width)`, in whichever form is smaller; at least float32."""
        out, width = weight.shape
        store = torch.promote_types(weight.dtype, torch.float32)
        up = weight.to(self.left) @ self.left
        if self.right is None:
            return Add(up.to(weight.device, store))
        if self.rank * (out + width) < out * width:
            return LowRank(up.to(weight.device, store), self.right.to(weight.device, store))
        return Add((up @ self.right).to(weight.device, store))

    def compressed(self) -> InputMap:
        """The same with as few columns as its singular values need, down to what float32 rounds."""
        if self.right is None or self.rank == 0:
            return self
        q, r = torch.linalg.qr(self.left)
        p, s = torch.linalg.qr(self.right.mT)
        u, sigma, vh = torch.linalg.svd(r @ s.mT)
        kept = sigma > sigma[0] * _EXACT
        root = sigma[kept].sqrt()
        return InputMap((q @ u[:, kept]) * root, root[:, None] * (vh[kept] @ p.mT))

    def then(self, other: InputMap) -> InputMap:
        """`(I + D) (I + other) - I`: this one, and the other on the weights that it gives."""
        if self.right is None or other.right is None:
            a, b = self.matrix, other.matrix
            return InputMap(a + b + a @ b)
        left = torch.cat([self.left, other.left + self.left @ (self.right @ other.left)], 1)
        joined = InputMap(left, torch.cat([self.right, other.right])).compressed()
        return joined if joined.rank <= len(left) // 2 else InputMap(joined.matrix)


class NormalEquations:
    """Sums over keys and targets, `(width, width)`, filled in parts.

    Attributes:
        gram: `sum w k k^T`.
        cross: `sum w (t - k) k^T`.
        n: How many keys.
    """

    def __init__(self, width: int, device: Any = None) -> None:
        self.width = width
        self.gram, self.cross = (torch.zeros(width, width, dtype=torch.float64, device=device) for _ in range(2))
        self.n = 0
        # Differences and weighted keys, while they are few: then D is of low rank.
        self._few: list[tuple[Tensor, Tensor]] | None = []

    def add(self, keys: Tensor, targets: Tensor | None = None, weight: float = 1.0) -> Self:
        """More keys.

        Args:
            keys: `(n, width)`.
            targets: What each is to be read as; None keeps each as it is.
            weight: Of each of them.
        """
        keys = keys.to(self.gram)
        self.n += len(keys)
        self.gram.addmm_(keys.mT, keys, alpha=weight)
        return self if targets is None else self.aim(keys, targets, weight)

    def aim(self, keys: Tensor, targets: Tensor, weight: float = 1.0) -> Self:
        """What keys that are in `gram` are to be read as: of another matrix with the same keys, say.

        Args:
            keys: `(n, width)`.
            targets: What each is to be read as.
            weight: Of each of them.
        """
        keys = keys.to(self.gram)
        differences = targets.to(self.gram) - keys
        self.cross.addmm_(differences.mT, keys, alpha=weight)
        self._note(differences, weight * keys)
        return self

    def beside(self, other: NormalEquations) -> NormalEquations:
        """These targets, with the keys of other sums."""
        found = NormalEquations(self.width, self.gram.device)
        found.gram, found.n, found.cross, found._few = other.gram, other.n, self.cross, self._few
        return found

    def _note(self, differences: Tensor, keys: Tensor) -> None:
        if self._few is None:
            return
        self._few.append((differences, keys))
        if sum(len(each) for each, _ in self._few) > self.width // 2:
            self._few = None

    def scaled(self, by: float) -> NormalEquations:
        """All sums times a number, as for means."""
        found = NormalEquations(self.width, self.gram.device)
        found.gram, found.cross, found.n = self.gram * by, self.cross * by, self.n
        found._few = None if self._few is None else [(differences, by * keys) for differences, keys in self._few]
        return found

    @property
    def changes_nothing(self) -> bool:
        """Whether every target is its key, up to rounding."""
        return bool(self.cross.norm() <= _NOTHING * self.gram.norm())

    def solution(self, regularised: Regularised) -> InputMap:
        """D by the inverse of the regularised gram matrix, whatever a method makes of that.

        Args:
            regularised: Rows `(n, width)` -> rows times that inverse.
        """
        if self.changes_nothing:
            return InputMap.zero(self.width, self.gram.device)
        if self._few is None:
            return InputMap(regularised(self.cross))
        differences, keys = (torch.cat(each) for each in zip(*self._few, strict=True))
        return InputMap(differences.mT, regularised(keys)).compressed()

    def solve(self, ridge: float) -> InputMap:
        """D of the least squares.

        Raises:
            InputError: If the normal equations are singular.
        """
        factor = cholesky(self.gram, ridge, f"{self.n} keys")
        return self.solution(lambda rows: torch.cholesky_solve(rows.mT, factor).mT)


def cholesky(gram: Tensor, ridge: float, of: str) -> Tensor:
    """The factor of `gram + ridge I`.

    Raises:
        InputError: If that is singular, up to rounding.
    """
    shifted = gram.clone()
    shifted.diagonal().add_(ridge)
    factor, failed = torch.linalg.cholesky_ex(shifted)
    pivots = factor.diagonal()
    if int(failed) or not bool(pivots.min() ** 2 > torch.finfo(gram.dtype).eps * len(gram) * pivots.max() ** 2):
        raise InputError(
            f"the normal equations of {of} in {len(gram)} dimensions are singular with ridge={ridge:g}: write a "
            "larger ridge, or preserve more words"
        )
    return factor


def equations(streams: Sequence[Stream], view: PipelineView) -> list[NormalEquations]:
    """Empty sums, one a stream."""
    return [NormalEquations(stream.width, _device(view)) for stream in streams]


def _device(view: PipelineView) -> Any:
    return "cpu" if view.device.type == "mps" else view.device  # mps has no float64


def move(sums: Sequence[NormalEquations], rows: Iterable[list[tuple[Tensor, Tensor]]], weight: float = 1.0) -> None:
    """Add, to each stream's sums, keys that are to be read as their targets: what `pair_rows` gives."""
    for some in rows:
        for total, (keys, targets) in zip(sums, some, strict=True):
            total.add(keys, targets, weight)


def hold(sums: Sequence[NormalEquations], rows: Iterable[list[Tensor]], weight: float = 1.0) -> None:
    """Add, to each stream's sums, keys that are to be read as they are: what `phrase_rows` gives."""
    for some in rows:
        for total, keys in zip(sums, some, strict=True):
            total.add(keys, None, weight)


def pair_rows(
    view: PipelineView, streams: Sequence[Stream], pairs: Sequence[Pair], span: KeySpan
) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Some pairs at a time, of each stream `(n, width)` keys and the target of each."""
    for some in rows_of_pairs(view, streams, pairs, span):
        joined = [list(zip(*of_stream, strict=True)) for of_stream in some]
        yield [(torch.cat(keys), torch.cat(targets)) for keys, targets in joined]


def rows_of_pairs(
    view: PipelineView, streams: Sequence[Stream], pairs: Sequence[Pair], span: KeySpan
) -> Iterator[list[list[tuple[Tensor, Tensor]]]]:
    """Some pairs at a time, of each stream and each of these pairs `(n, width)` keys and the target of each."""
    for some in in_parts(pairs):
        read = Read(view, [phrase.prompt for pair in some for phrase in (pair.key, pair.target)])
        places = [(pair, *read.paired(pair, span)) for pair in some]
        found = []
        for stream, x in zip(streams, rows_read(view, streams, read.embedding), strict=True):
            keys = [picked(x, read.at[pair.key.prompt], i, stream.pooled) for pair, i, _ in places]
            targets = [picked(x, read.at[pair.target.prompt], j, stream.pooled) for pair, _, j in places]
            found.append(list(zip(keys, targets, strict=True)))
        yield found


def phrase_rows(
    view: PipelineView, streams: Sequence[Stream], phrases: Sequence[Phrase], span: KeySpan
) -> Iterator[list[Tensor]]:
    """Some prompts at a time, of each stream `(n, width)` rows."""
    for some in in_parts(phrases):
        read = Read(view, [phrase.prompt for phrase in some])
        places = [(read.at[phrase.prompt], read.rows(phrase, span)) for phrase in some]
        yield [
            torch.cat([picked(x, i, rows, stream.pooled) for i, rows in places])
            for stream, x in zip(streams, rows_read(view, streams, read.embedding), strict=True)
        ]


def mapped(
    view: PipelineView,
    streams: Sequence[Stream],
    maps: Sequence[InputMap | Mapping[str, InputMap]],
    *,
    method: str,
    concepts: Sequence[Concept],
    config: Config,
    report: Mapping[str, Any],
) -> WeightErasure:
    """The erasure by which the matrices of each stream read rows otherwise.

    Args:
        view: The pipeline.
        streams: Matrices of it.
        maps: Of each stream, what its rows are read as; or path of a matrix -> what it reads them as.
        method: Name of the method.
        concepts: What is erased.
        config: The options.
        report: What the fit found.
    """
    each = [(s.only(path), found) for s, of in zip(streams, maps, strict=True) for path, found in _of_each(s, of)]
    if all(found.rank == 0 for _, found in each):
        warn_of_nothing(concepts)
    deltas = deltas_of(view, [(matrix, matrix.changes(found.of)) for matrix, found in each])
    return WeightErasure.made(deltas, method=method, concepts=concepts, config=config, report=report)


def _of_each(stream: Stream, of: InputMap | Mapping[str, InputMap]) -> Iterator[tuple[str, InputMap]]:
    for path in stream.matrices:
        yield path, of if isinstance(of, InputMap) else of[path]


def warn_of_nothing(concepts: Sequence[Concept]) -> None:
    """Tell of concepts that read the same as what is to stand in their place."""
    warnings.warn(
        f"{', '.join(repr(c.name) for c in concepts[:5])}: each reads the same as what is to stand in its place, so "
        "nothing is changed: name another anchor",
        NothingErasedWarning,
        stacklevel=5,
    )


def all_rows(
    view: PipelineView,
    streams: Sequence[Stream],
    phrases: Sequence[Phrase],
    span: KeySpan,
    store: torch.dtype = torch.float64,
    device: Any = None,
) -> list[Tensor]:
    """Of each stream `(n, width)` rows of all prompts, for what cannot be had from sums; there may be none.

    Args:
        view: The pipeline.
        streams: Of it.
        phrases: The prompts.
        span: Which rows.
        store: In which numbers.
        device: Where; None is where sums are.
    """
    place = _device(view) if device is None else device
    found = [[torch.zeros(0, stream.width, dtype=store, device=place)] for stream in streams]
    for some in phrase_rows(view, streams, phrases, span):
        for parts, rows in zip(found, some, strict=True):
            parts.append(rows.to(place, store))
    return [torch.cat(parts) for parts in found]
