"""A fit of DiET that was interrupted goes on from its last checkpoint, with the same result to the bit."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface._io import load_folder, save_folder, write_json
from efface.attribution.values import below

_FILE = "diet.json"
_KIND = "diet-state"


@dataclass
class Position:
    """How far a fit is, and what was written down on the way.

    Attributes:
        round: Round at work, from 0.
        masked: Samples whose masks of this round are done.
        epoch: Epochs of this round that are done.
        tuning: Whether the masks of the round are rounded, and the model phase is on.
        stopped: Whether the guard ended the fit.
        rounds: One entry a round: plain data.
    """

    round: int = 0
    masked: int = 0
    epoch: int = 0
    tuning: bool = False
    stopped: bool = False
    rounds: list[dict[str, Any]] = field(default_factory=list)


class DietCheckpoint:
    """The state of a fit in a folder.

    Tensors go to a folder of their own before `diet.json` is pointed to it, so that both agree whenever the process
    dies.

    Args:
        folder: Where to keep it; None keeps nothing.
        settings: What must be the same when the fit goes on; plain data.
        seconds: Least time between two writings.

    Raises:
        InputError: If the folder holds the state of another fit, or is damaged.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, settings: Mapping[str, Any], seconds: float) -> None:
        self._folder = None if folder is None else Path(folder)
        self._settings, self._seconds, self._last = dict(settings), seconds, time.monotonic()
        self._count = 0

    def load(self, student: nn.Module, optimizer: torch.optim.Optimizer, masks: dict[str, Tensor]) -> Position | None:
        """Put the state back into the student, the optimiser and the masks; None if there is none."""
        if self._folder is None or not (self._folder / _FILE).is_file():
            return None
        path = self._folder / _FILE
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            theirs, self._count = data["settings"], int(data["count"])
            position = Position(**data["position"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is damaged ({error}): delete {self._folder}") from error
        mine = json.loads(json.dumps(self._settings))
        if differ := sorted(key for key in {*mine, *theirs} if theirs.get(key) != mine.get(key)):
            raise InputError(
                f"{self._folder} is the checkpoint of another fit, it differs in {', '.join(differ)}: delete it, or "
                "name another folder"
            )
        try:
            _, tensors = load_folder(self._state(), expect=_KIND)
        except (OSError, ValueError) as error:
            raise InputError(f"{self._state()} cannot be read ({error}): delete {self._folder}") from error
        student.load_state_dict(below(tensors, "student."))
        load_optimizer(optimizer, below(tensors, "optimizer."))
        masks.update(below(tensors, "masks."))
        return position

    def due(self) -> bool:
        """Whether it is time to write."""
        return self._folder is not None and time.monotonic() - self._last >= self._seconds

    def save(
        self, position: Position, student: nn.Module, optimizer: torch.optim.Optimizer, masks: Mapping[str, Tensor]
    ) -> None:
        """Write everything, then forget what was written before."""
        if self._folder is None:
            return
        old, self._count = self._state(), self._count + 1
        tensors = {f"student.{k}": v for k, v in student.state_dict().items()}
        tensors |= {f"optimizer.{k}": v for k, v in optimizer_tensors(optimizer).items()}
        tensors |= {f"masks.{k}": v for k, v in masks.items()}
        save_folder(self._state(), {"type": _KIND}, tensors)
        data = {"settings": self._settings, "count": self._count, "position": asdict(position)}
        write_json(self._folder / _FILE, data)
        shutil.rmtree(old, ignore_errors=True)
        self._last = time.monotonic()

    def clear(self) -> None:
        """The fit is complete: what was written is removed, and the folder if nothing else is in it."""
        if self._folder is None or not self._folder.is_dir():
            return
        (self._folder / _FILE).unlink(missing_ok=True)
        for path in self._folder.glob("state-*"):
            shutil.rmtree(path, ignore_errors=True)
        if not any(self._folder.iterdir()):
            self._folder.rmdir()

    def _state(self) -> Path:
        assert self._folder is not None
        return self._folder / f"state-{self._count}"


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


def checksum(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 of names, shapes, types and all values.

    >>> checksum([("x", torch.zeros(2))]) == checksum([("x", torch.zeros(3))])
    False
    """
    total = hashlib.sha256()
    for name, value in tensors:
        flat = value.detach().cpu().contiguous()
        total.update(f"{name} {tuple(flat.shape)} {flat.dtype}".encode())
        total.update(flat.reshape(-1).view(torch.uint8).numpy().data if flat.numel() else b"")
    return total.hexdigest()
