"""What the processes of a torch.distributed group have gathered, as one: exact for unequal and empty ranks.

Parts are merged pairwise along a binary tree, in the order of ranks, and the whole goes back to all, so that each has
the same bits. A process holds its own part, one that it receives and their sum; what travels is each part once up and
the whole once down.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, Self

import torch
import torch.distributed as dist
from torch import Tensor

from efface._errors import EffaceWarning, GroupError, InputError
from efface._text import one_line, shown

_ASK = "start the script with torchrun, and call torch.distributed.init_process_group() in it"
_OUTSIDE = "this process is not in the group: call it on the ranks of the group alone"


class Part(Protocol):
    """What one process has gathered."""

    def merge(self, other: Any) -> Self:
        """Take in another one's."""
        ...

    def copy(self) -> Self:
        """An independent one of the same."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """All of it, as tensors whose shapes and dtypes are the same in all processes."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Self:
        """Have what another one's `state_dict` gave."""
        ...


class Group:
    """A group of processes, as what is summed over them needs it.

    Args:
        group: A group of torch.distributed that this process is in; None is all processes.

    Raises:
        InputError: If there is none, or this process is not in it.
    """

    def __init__(self, group: Any = None) -> None:
        if not dist.is_available() or not dist.is_initialized():
            raise InputError(f"there is no group of processes: {_ASK}")
        if type(group) is int and group == dist.GroupMember.NON_GROUP_MEMBER:
            raise InputError(_OUTSIDE)
        if group is not None and not isinstance(group, dist.ProcessGroup):
            raise InputError(f"group is {shown(group)}: give what torch.distributed.new_group returned, or None")
        self._group: dist.ProcessGroup | None = group
        self.rank = dist.get_rank(group)
        if self.rank < 0:
            raise InputError(_OUTSIDE)
        self.size = dist.get_world_size(group)
        self.device = torch.device("cpu" if "gloo" in str(dist.get_backend_config(group)) else "cuda")

    def told(self, about: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Plain data of every process, in the order of ranks."""
        own = torch.tensor(list(json.dumps(about).encode()), dtype=torch.uint8, device=self.device)
        with self._answering():
            lengths = [torch.zeros(1, dtype=torch.int64, device=self.device) for _ in range(self.size)]
            dist.all_gather(lengths, torch.tensor([len(own)], device=self.device), group=self._group)
            longest = int(torch.cat(lengths).max())
            texts = [torch.zeros(longest, dtype=torch.uint8, device=self.device) for _ in range(self.size)]
            dist.all_gather(texts, torch.cat([own, own.new_zeros(longest - len(own))]), group=self._group)
        parts = [text[: int(n)].cpu().numpy().tobytes() for text, n in zip(texts, lengths, strict=True)]
        return [json.loads(part) for part in parts]

    def merged(self, part: Part, blank: Callable[[], Part]) -> dict[str, Tensor]:
        """The state of all parts together, the same bits in each process.

        Args:
            part: What this process has; it stays as it is.
            blank: Makes one that has seen nothing.

        Raises:
            GroupError: If another process has died, or does not answer within the group's timeout.
        """
        whole = part.copy()
        with self._answering():
            for step in _doublings(self.size):
                if self.rank % (2 * step) == step:
                    self._send(whole.state_dict(), self.rank - step)
                    break
                if self.rank + step < self.size:
                    other = blank()
                    whole.merge(other.load_state_dict(self._received(other.state_dict(), self.rank + step)))
            return self._spread(whole.state_dict())

    def _send(self, state: Mapping[str, Tensor], to: int) -> None:
        for _, value in sorted(state.items()):
            dist.send(_wire(value, self.device), self._world(to), group=self._group)

    def _received(self, like: Mapping[str, Tensor], source: int) -> dict[str, Tensor]:
        found = {}
        for name, value in sorted(like.items()):
            place = torch.empty_like(_wire(value, self.device))
            dist.recv(place, self._world(source), group=self._group)
            found[name] = _unwired(place, value)
        return found

    def _spread(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = {}
        for name, value in sorted(state.items()):
            place = _wire(value, self.device)
            dist.broadcast(place, self._world(0), group=self._group)
            found[name] = _unwired(place, value)
        return found

    def _world(self, rank: int) -> int:
        return rank if self._group is None else dist.get_global_rank(self._group, rank)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Say what an error of the transport means here."""
        try:
            yield
        except RuntimeError as error:  # of gloo, whose errors have no class of their own, and `DistBackendError`
            raise GroupError(
                f"rank {self.rank} of {self.size}: another process has died, or did not answer within the timeout of "
                f"the group ({one_line(error)}). What this one has gathered is as it was: save it, "
                "and go on in a new group"
            ) from error


def same_in_all(told: Sequence[Mapping[str, Any]], name: str, advice: str, *, some: bool = False) -> Any:
    """What all processes say under a name.

    Args:
        told: What each says, in the order of ranks.
        name: The name.
        advice: What to do where they differ.
        some: Whether those that say nothing (`None`, or empty) have no say.

    Raises:
        InputError: If they differ, in every process alike; the text names two ranks.
    """
    said = [(rank, each[name]) for rank, each in enumerate(told) if each[name] or not some]
    if not said:
        return told[0][name]
    first, value = said[0]
    other = next(((rank, each) for rank, each in said if each != value), None)
    if other is not None:
        raise InputError(f"{name} is {shown(value)} on rank {first} and {shown(other[1])} on rank {other[0]}: {advice}")
    return value


def warn_of_same(seen: Sequence[Any], what: str) -> None:
    """Say it where two processes have brought the same, which would count twice.

    Args:
        seen: What marks the part of each, in the order of ranks; of those without one it is empty.
        what: What they have, for the text.
    """
    first = {mark: rank for rank, mark in reversed([*enumerate(seen)]) if mark}
    again = next((rank for rank, mark in enumerate(seen) if mark and first[mark] != rank), None)
    if again is not None:
        warnings.warn(
            f"ranks {first[seen[again]]} and {again} have {what}, which count twice: give each process its own part, "
            "by a DistributedSampler or by hand",
            EffaceWarning,
            stacklevel=4,
        )


def _doublings(size: int) -> Iterator[int]:
    step = 1
    while step < size:
        yield step
        step *= 2


def _wire(value: Tensor, device: torch.device) -> Tensor:
    """A copy as it travels: dense, of real numbers, where the group's transport reads it."""
    real = torch.view_as_real(value) if value.is_complex() else value
    return real.detach().to(device, copy=True).contiguous()


def _unwired(value: Tensor, like: Tensor) -> Tensor:
    return (torch.view_as_complex(value) if like.is_complex() else value).to(like.device)
