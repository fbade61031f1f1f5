"""A scrub whose data is spread over the processes of a torch.distributed group: what these have to agree on.

Each process has the whole model and its own sequences. Statistics of a site are summed over all before its eraser is
solved, so that each process goes on with the same eraser, bit for bit. Alone, all of it does nothing.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor, nn

from efface._errors import EffaceWarning, InputError
from efface.core.collective import Group, Part, same_in_all, warn_of_same
from efface.core.subjects import is_spread


@dataclass(frozen=True)
class Together:
    """The group, or none.

    Attributes:
        group: As the caller gives it.
        over: What is summed over it.
    """

    group: Any = None
    over: Group | None = None

    @classmethod
    def of(cls, group: Any) -> Self:
        """Of what the caller gives; None is one process alone.

        Raises:
            InputError: If this process is not in the group.
        """
        return cls() if group is None else cls(group, Group(group))

    def told(self, find: Callable[[], Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """What each process finds, in the order of ranks; where one finds an error, all raise it."""
        if self.over is None:
            return [find()]
        try:
            found: Mapping[str, Any] = {"found": dict(find())}
        except InputError as error:
            self.over.told({"error": str(error)})
            raise
        every = self.over.told(found)
        wrong = next((f"rank {rank}: {each['error']}" for rank, each in enumerate(every) if "error" in each), None)
        if wrong is not None:
            raise InputError(wrong)
        return [each["found"] for each in every]

    def check_passes(self, model: nn.Module, batches: int) -> None:
        """Refuse other numbers of batches in a model whose passes all processes take together.

        Raises:
            InputError: If they differ, in all processes alike.
        """
        if is_spread(model):
            every = self.told(lambda: {"batches": batches})
            advice = "give each process as many, as the model is spread over them and all take part in every pass"
            same_in_all(every, "batches", advice)

    def least(self, number: int) -> int:
        """The least of a number over the processes."""
        return min(each["number"] for each in self.told(lambda: {"number": number}))

    def data(self, mark: str) -> str:
        """What marks the data of all processes; a warning where two of them have the same."""
        marks = [each["data"] for each in self.told(lambda: {"data": mark})]
        warn_of_same(marks, "the same sequences")
        return "+".join(marks)

    def reduced(self, fitter: Any) -> Any:
        """A fitter that has seen what those of all processes have."""
        if self.over is None:
            return fitter
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EffaceWarning)  # `data` has said it of all sites
            return fitter.all_reduce(self.group)

    def merged(self, part: Part, blank: Callable[[], Part]) -> Mapping[str, Tensor]:
        """The state of all parts together."""
        return part.state_dict() if self.over is None else self.over.merged(part, blank)

    def folder(self, path: str | os.PathLike[str] | None) -> str | os.PathLike[str] | None:
        """Where this process keeps its checkpoint: below the one that was named."""
        if self.over is None or path is None:
            return path
        return os.path.join(path, f"rank-{self.over.rank}-of-{self.over.size}")
