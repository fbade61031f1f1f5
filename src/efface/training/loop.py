"""Steps of an optimiser that can be stopped at any of them and gone on with to the same bits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from efface._errors import FormatError, InputError
from efface._io import load_folder, save_folder
from efface._validate import check_int
from efface.core.arrays import is_finite
from efface.core.checkpoint import Checkpoint
from efface.core.codec import fields_of

_PART = "training"


class DivergedError(InputError):
    """A loss or its gradient is not finite; the weights are those before that step."""


class Trainer:
    """A module, its optimiser, and how far they are.

    Args:
        module: What is trained, in place.
        optimizer: Of its parameters.
        rate: Step -> learning rate; None leaves the optimiser's own. A pure function of the step, so that it has no
            state to keep.
        clip: Largest norm of the gradient of the whole module.
        average: Decay of a moving average of parameters and buffers; 0 keeps none. It is `(step + 1) / (step + 10)`
            where that is less, so that the first weights are soon forgotten.
        name: What is trained, for errors.
        advice: What to do if it diverges.

    Attributes:
        step: Steps that are done.
        averaged: The average, by the names of `module.state_dict()`.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        rate: Callable[[int], float] | None = None,
        clip: float | None = None,
        average: float = 0.0,
        name: str = "the training",
        advice: str = "write a smaller learning rate",
    ) -> None:
        self.module, self.optimizer, self.step = module, optimizer, 0
        self._rate, self._clip, self._decay = rate, clip, average
        self._name, self._advice = name, advice
        self.averaged = {k: v.detach().clone() for k, v in module.state_dict().items()} if average else {}

    def steps(self, loss: Callable[[int], Tensor], end: int) -> Iterator[float]:
        """The loss of each step that is left until `end`.

        Args:
            loss: Number of a step -> loss of its batch, the same whatever came before.
            end: How many steps there are.
        """
        while self.step < end:
            yield self.descend(loss(self.step))

    def descend(self, loss: Tensor) -> float:
        """One step; the loss as a number.

        Raises:
            DivergedError: If the loss, or the norm of the gradient where it is clipped, is not finite.
        """
        self._check("loss", value := float(loss.detach()))
        if self._rate is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = self._rate(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self._clip is not None:
            norm = torch.nn.utils.clip_grad_norm_(self.module.parameters(), self._clip)
            self._check("gradient", float(norm))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.averaged:
            self._average(min(self._decay, (self.step + 1) / (self.step + 10)))
        self.step += 1
        return value

    def _check(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise DivergedError(f"the {what} of {self._name} is not finite: {self._advice}")

    @torch.no_grad()
    def _average(self, decay: float) -> None:
        for name, value in self.module.state_dict().items():
            kept = self.averaged[name]
            kept.lerp_(value, 1 - decay) if kept.is_floating_point() else kept.copy_(value)

    def take_average(self) -> None:
        """Give the module its averaged weights, if there is an average."""
        if self.averaged:
            self.module.load_state_dict(self.averaged)

    def tensors(self) -> dict[str, Tensor]:
        """All that a step changes: weights, buffers, the optimiser's state, the average."""
        named = {f"model.{k}": v for k, v in self.module.state_dict().items()}
        named |= {f"averaged.{k}": v for k, v in self.averaged.items()}
        return named | {f"optimizer.{k}": v for k, v in optimizer_tensors(self.optimizer).items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave.

        Raises:
            FormatError: If it is of another module, or not finite where that is.
        """
        self._check_tensors(tensors)
        self.module.load_state_dict(below(tensors, "model."))
        load_optimizer(self.optimizer, below(tensors, "optimizer."))
        for name, value in self.averaged.items():
            value.copy_(tensors[f"averaged.{name}"])

    def _check_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        own = {f"model.{k}": v for k, v in self.module.state_dict().items()}
        own |= {f"averaged.{k}": v for k, v in self.averaged.items()}
        for name, value in own.items():
            given = tensors.get(name)
            if given is None or (given.shape, given.dtype) != (value.shape, value.dtype):
                raise FormatError(f"{name} is missing, or of another shape or dtype")
            # A mask of minus infinities may be a buffer.
            if not is_finite(given) and not torch.equal(given.isfinite(), value.to(given.device).isfinite()):
                raise FormatError(f"{name} has NaN or infinite values")
        shapes = [p.shape for group in self.optimizer.param_groups for p in group["params"]]
        for name, value in below(tensors, "optimizer.").items():
            number = int(name.partition(".")[0])
            if value.shape not in ((), shapes[number]) or not is_finite(value):
                raise FormatError(f"optimizer.{name} is of another shape, or not finite")

    def write(self, saved: Checkpoint, position: Mapping[str, Any], **tensors: Tensor) -> None:
        """Write all that a step changes, and what the caller adds."""
        everything = self.tensors() | tensors
        save = partial(save_folder, config={"type": _PART}, tensors=everything)
        saved.write({**position, "step": self.step}, {_PART: save})

    def resume(self, saved: Checkpoint) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Put back what was written; the position and the caller's tensors, both empty if there is nothing.

        Raises:
            DamagedError: If it cannot be read.
        """
        if not saved.found:
            return {}, {}
        with saved.reading() as position:
            _, tensors = load_folder(saved.path(_PART), expect=_PART, finite=False)
            (step,) = fields_of(position, step=int)
            self.load(tensors)
            self.step = check_int(step, "step", least=0)
            del position["step"]
        return position, {k: v for k, v in tensors.items() if "." not in k}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State of an optimiser as `"parameter.name"` -> tensor."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{name}": torch.as_tensor(value) for i, values in state.items() for name, value in values.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` took out."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names start with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
