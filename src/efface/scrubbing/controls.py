"""The control condition: a random subspace of the same rank, drawn anew for every batch."""

from __future__ import annotations

import threading
import zlib
from collections import deque
from dataclasses import dataclass, field

import torch
from torch import Tensor

from efface._validate import check_int, check_int64
from efface.core.edits import Edit, OnRows
from efface.core.erasure import Erasure
from efface.erasers.lowrank import check_width, erase_low_rank


@dataclass(frozen=True, eq=False, repr=False)
class RandomSubspace(Erasure):
    """Takes a random subspace out of hidden states: what an edit of this rank does for no reason at all.

    While it is on, each call draws a new one, as the LEACE paper's control does for each batch (arXiv:2306.03819,
    section 6), so that no draw is lucky. Each time that it is put on it begins again; `begin()` gives a function that
    draws anew at each call, and calling the value itself takes out the first subspace of its sequence.

    Attributes:
        rank: Dimensions taken out.
        center: `(d,)` point that the projection keeps, the mean where it is known; None for the origin.
        seed: Of the draws.

    >>> erase = RandomSubspace(rank=2)
    >>> x = torch.randn(5, 4)
    >>> torch.linalg.matrix_rank(x - erase(x)).item()
    2
    """

    rank: int
    center: Tensor | None = None
    seed: int = 0
    method: str = field(default="random", kw_only=True)

    def __post_init__(self) -> None:
        check_int(self.rank, "rank", least=0)
        check_int64(self.seed, "seed")

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The rows that a module gives."""
        return (OnRows(self),)

    def begin(self) -> Draws:
        """The control from its first draw on."""
        return Draws(self.rank, self.center, _Calls(self.seed))

    def __call__(self, x: Tensor) -> Tensor:
        """`x` `(..., d)` without its part in the first subspace that is drawn."""
        return self.begin()(x)


@dataclass(frozen=True, eq=False)
class Draws:
    """A random control under way: each call draws a subspace of its own.

    A call that `backward()` makes again (gradient checkpointing) gets the subspace that it had.

    Attributes:
        rank: Dimensions taken out.
        center: `(d,)` point that the projection keeps; None for the origin.
        calls: Counts them.
    """

    rank: int
    center: Tensor | None
    calls: _Calls

    def to(self, device: torch.device) -> Draws:
        """The same control on another device; both draw from one sequence, so that no draw comes twice."""
        return Draws(self.rank, None if self.center is None else self.center.to(device), self.calls)

    def __call__(self, x: Tensor) -> Tensor:
        """`x` `(..., d)` without its part in a subspace drawn for this call."""
        check_width(x, x.shape[-1] if isinstance(x, Tensor) and not x.is_nested and x.ndim else 1)
        d = x.shape[-1]
        generator = torch.Generator().manual_seed(self.calls.seed_of(x))
        basis = torch.linalg.qr(torch.randn(d, min(self.rank, d), generator=generator))[0].to(x.device)
        return erase_low_rank(x, basis, basis.mH, self.center)


class _Calls:
    """Gives each call a seed; one that is made again within `backward()` is known by what comes in.

    Args:
        seed: Of the first call.
    """

    def __init__(self, seed: int) -> None:
        self._seed, self._n = seed, 0
        self._seen: deque[tuple[int, torch.Size, Tensor]] = deque(maxlen=_REMEMBERED)
        self._task, self._repeated = -1, set[int]()
        self._lock = threading.Lock()

    def seed_of(self, x: Tensor) -> int:
        """The seed of a call with these hidden states."""
        number = self._number(x.shape, _some(x))
        return self._seed if number == 0 else zlib.crc32(f"{self._seed} {number}".encode())

    def _number(self, shape: torch.Size, some: Tensor) -> int:
        with self._lock:
            task = torch._C._current_graph_task_id()
            if task != -1 and (found := self._again(task, shape, some)) is not None:
                return found
            number = self._n
            self._n += 1
            self._seen.append((number, shape, some))
            return number

    def _again(self, task: int, shape: torch.Size, some: Tensor) -> int | None:
        """Which call is made again: the nearest; of those that were given the same the latest, as backward() goes."""
        if task != self._task:
            self._task, self._repeated = task, set()
        left = [(float((some - s).abs().sum()), -n) for n, size, s in self._seen if size == shape]
        fresh = [(far, n) for far, n in left if -n not in self._repeated]
        if not left:
            return None
        number = -min(fresh or left)[1]
        self._repeated.add(number)
        return number


_REMEMBERED = 256
"""How many calls of a control may wait for a `backward()` that makes them again."""


def _some(x: Tensor) -> Tensor:
    flat = x.detach().reshape(-1)
    some = flat[:: max(1, len(flat) // 64)]
    # Tensors that stand for a shape have no numbers to be known by.
    return torch.zeros(some.shape, dtype=torch.float64) if some.is_meta else some.double().cpu()
