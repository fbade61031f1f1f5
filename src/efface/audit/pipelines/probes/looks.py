"""Looking further where a verdict is open for want of pictures, so that looking more than once makes nobody surer.

A probe looks at n items; where the verdict is open for want of them at 2n, 4n, ..., up to a limit that is set before.
Intervals of the k-th look have the level 1 - a_k with a_1 + a_2 + ... = 0.05: all that are ever made of a row hold at
once in 95 % (Bonferroni, as far as each holds at its level), whatever decided how far to look. The first look has three
fifths of that, so that no hit in 43 pictures still says under 10 %; the others share the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from efface._errors import InputError
from efface.audit.pipelines.probes.registry import Probe
from efface.audit.pipelines.probes.scores import Scores

MORE = 4
"""How many times the items of its first look a probe looks at, at most, where nothing else is said."""
_WRONG, _FIRST = 0.05, 0.6


class Look(NamedTuple):
    """A probe with what it may spend, at so many times the items of its first look."""

    probe: Probe
    budget: Mapping[str, Any]
    times: int = 1

    def part(self, name: str) -> str:
        """Where what it finds of a model is kept."""
        return f"{self.probe.name} | {name}" + (f" | {self.times}" if self.times > 1 else "")

    def fewer(self) -> Look:
        """The look before this one."""
        return self._replace(times=self.times // 2)

    @property
    def spending(self) -> dict[str, Any]:
        """Arguments of the probe."""
        if self.times == 1:
            return dict(self.budget)
        n = int(self.budget[self.probe.count])
        return {**self.budget, self.probe.count: n * self.times, "first": n * (self.times // 2)}

    @property
    def whole(self) -> dict[str, Any]:
        """What it spent in all looks."""
        return {name: value for name, value in self.spending.items() if name != "first"}


def looks(more: int) -> tuple[int, ...]:
    """How many times the items of the first look there are at each.

    Raises:
        InputError: If it is below 1.

    >>> looks(4), looks(1)
    ((1, 2, 4), (1,))
    """
    if more < 1:
        raise InputError(f"more={more}: write how many times the pictures there may be at most; 1 looks once")
    return tuple(2**k for k in range(more.bit_length()))


def level_of(probe: Probe, times: int, more: int) -> float:
    """The level of the intervals at so many times the items.

    >>> from efface.audit.pipelines.probes.registry import find_probe
    >>> [round(level_of(find_probe("likelihood"), times, 4), 3) for times in looks(4)]
    [0.97, 0.99, 0.99]
    """
    planned = looks(more)
    if not probe.count or len(planned) == 1:
        return 1 - _WRONG
    return 1 - _WRONG * (_FIRST if times == 1 else (1 - _FIRST) / (len(planned) - 1))


def joined(before: Scores, more: Scores) -> Scores:
    """Scores of items, and of further ones.

    Raises:
        InputError: If they are not of one row.
    """
    if (before.name, before.role, before.unit) != (more.name, more.role, more.unit):
        raise InputError(f"{before.name} and {more.name} are not the same row")
    return Scores(
        before.name,
        before.role,
        torch.cat([before.values, more.values]),
        before.items + more.items,
        _together(before.images, more.images),
        before.unit,
        _together(before.draws, more.draws),
        _together(before.reference, more.reference),
        {name: before.spent.get(name, 0) + more.spent.get(name, 0) for name in {**before.spent, **more.spent}},
        more.note,
    )


def _together(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    return None if first is None or second is None else torch.cat([first, second])
