"""Edits of weights as values; `writing` puts them into a model.

A `WeightDelta` names parameters and buffers as a `state_dict` does, and says how each changes. It is formed in float64
from the weights that are there, and rounded once. A bias that a layer does not have counts as zeros.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface._text import brief
from efface.core.fingerprint import agrees, fingerprint
from efface.core.subjects import unwrapped


@dataclass(frozen=True, eq=False)
class Add:
    """`W + value`, of the shape of W."""

    value: Tensor

    __repr__ = brief

    def on(self, w: Tensor) -> Tensor:
        """W after the change."""
        return w + self.value.to(w)

    def scaled(self, by: float) -> Add:
        """The change times a number."""
        return Add(self.value * by)


@dataclass(frozen=True, eq=False)
class LowRank:
    """`W + up down`, of shapes `(out, r)` and `(r, in)`; a weight that is no matrix is flattened behind its first.

    `turned`: the layer keeps W as `(in, out)`, as GPT-2's Conv1D does.
    """

    up: Tensor
    down: Tensor
    turned: bool = False

    __repr__ = brief

    def on(self, w: Tensor) -> Tensor:
        """W after the change."""
        change = self.up.to(w) @ self.down.to(w)
        return (w.mT + change).mT if self.turned else w + change.view_as(w)

    def scaled(self, by: float) -> LowRank:
        """The change times a number."""
        return replace(self, up=self.up * by)


@dataclass(frozen=True, eq=False)
class Multiply:
    """`left W right`; a side that is None is the identity."""

    left: Tensor | None = None
    right: Tensor | None = None

    __repr__ = brief

    def on(self, w: Tensor) -> Tensor:
        """W after the change."""
        flat = w.flatten(1)
        flat = flat if self.left is None else self.left.to(w) @ flat
        return (flat if self.right is None else flat @ self.right.to(w)).view_as(w)

    def scaled(self, by: float) -> Multiply:
        """Refused, as a multiple of a factor is no multiple of the change."""
        raise InputError("a multiplicative change has no multiple: scale the erasure before it is fitted")


@dataclass(frozen=True, eq=False)
class Put:
    """A new value in the place of W, bit for bit."""

    value: Tensor

    __repr__ = brief

    def on(self, w: Tensor) -> Tensor:
        """W after the change."""
        return self.value.to(w)

    def scaled(self, by: float) -> Put:
        """Refused, as the weights that it replaces are not known here."""
        raise InputError("a value that replaces another has no multiple: write the difference as Add")


Change: TypeAlias = Add | LowRank | Multiply | Put


@dataclass(frozen=True, eq=False)
class WeightDelta:
    """How weights change.

    Attributes:
        changes: Name in the state dict -> changes, the first first.
        base: Fingerprint of the model that it was made for; None fits any with these names and shapes.
        config: Switches of `model.config` that go with it; a name with dots is an entry of a mapping that a module of
            the model has, such as `layer.lora_bias.default`.
    """

    changes: Mapping[str, tuple[Change, ...]]
    base: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        changes = {name: (c,) if isinstance(c, Change) else tuple(c) for name, c in self.changes.items()}
        object.__setattr__(self, "changes", {name: each for name, each in changes.items() if each})

    def scaled(self, by: float) -> WeightDelta:
        """The delta times a number: 0 nothing, 1 the whole.

        Raises:
            InputError: If a change is multiplicative or replaces a value, or several follow each other.
        """
        if name := next((name for name, each in self.changes.items() if len(each) > 1), None):
            raise InputError(f"{name} changes several times, one after the other, which has no multiple")
        return replace(self, changes={name: (each[0].scaled(by),) for name, each in self.changes.items()})

    def then(self, other: WeightDelta) -> WeightDelta:
        """This delta and, after it, another one for the same base.

        Raises:
            InputError: If they were made for other bases.
        """
        if self.base is not None and other.base is not None and not agrees(self.base, other.base):
            raise InputError("these weight edits were made for models with other weights: fit both on the same model")
        names = dict.fromkeys((*self.changes, *other.changes))
        joined = {name: (*self.changes.get(name, ()), *other.changes.get(name, ())) for name in names}
        return WeightDelta(joined, self.base or other.base, {**self.config, **other.config})

    @property
    def nbytes(self) -> int:
        """Size of its tensors."""
        each = (vars(change).values() for changes in self.changes.values() for change in changes)
        return nbytes_of(t for values in each for t in values if isinstance(t, Tensor))

    @staticmethod
    def between(before: nn.Module, after: nn.Module) -> WeightDelta:
        """What turns one model into another of the same architecture, bit for bit: `Put` for all that differs.

        Names are those inside wrappers, as where it is written.

        Raises:
            InputError: If they are of different architectures.
        """
        before, after = unwrapped(before), unwrapped(after)
        old, new = before.state_dict(), after.state_dict()
        if {n: v.shape for n, v in old.items()} != {n: v.shape for n, v in new.items()}:
            raise InputError("the models have other parameters: give two of one architecture")
        changed = {n: (Put(v.detach().clone()),) for n, v in new.items() if not _same(old[n], v)}
        return WeightDelta(changed, fingerprint(before))


def nbytes_of(tensors: Iterable[Tensor]) -> int:
    """Size of tensors."""
    return sum(t.numel() * t.element_size() for t in tensors)


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal bit for bit."""
    if a.dtype != b.dtype or a.device != b.device:
        return False
    raw = (x.detach().contiguous().reshape(-1).view(torch.uint8) for x in (a, b))
    return torch.equal(*raw)
