"""The rounds of a DiET fit: masks, rounding, tuning; watched, and written down so that it can go on."""

from __future__ import annotations

import copy
import warnings
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from efface._errors import EffaceWarning, FormatError, InputError
from efface._progress import progress
from efface.attribution.diet_config import DietConfig
from efface.attribution.distillation import probabilities_of, share_alike
from efface.attribution.masking import as_probabilities, draw, held_still, masked_outputs
from efface.attribution.predictions import device_of
from efface.attribution.schedule import sparsity_at, threshold_at
from efface.core.checkpoint import Checkpoint
from efface.core.codec import decoded, digest, fields_of
from efface.training.seeds import generator, generators

_MASKS, _TUNING, _REPORT = 0, 1, 2  # what draws are for


class AgreementWarning(EffaceWarning):
    """The student no longer agrees with the original model as often as was asked for."""


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


class Fit:
    """One fit: the student, its optimiser, the masks, and how far it is."""

    def __init__(self, diet: DietConfig, model: nn.Module, x: Tensor) -> None:
        self.diet, self.model, self.x = diet, model, x
        self.device, self.distillation = device_of(model, x), diet.distillation
        self.distillation.batches(len(x))
        self.student = copy.deepcopy(model)
        self.trainer = self.distillation.trainer(self.student)
        self.masks = torch.ones(len(x), *diet.masker.shape(x[:1]), dtype=torch.bool)
        self.target = self._probabilities(model)
        self.at = Position()
        with held_still(model):
            first = x[: diet.batch_size].to(self.device)
            diet.search(0).check_model(model, first, generators(diet.seed, range(len(first)), _MASKS, 0))

    def _probabilities(self, model: nn.Module) -> Tensor:
        return probabilities_of(model, self.x, self.diet.outputs, self.diet.batch_size, self.device)

    def identity(self) -> dict[str, Any]:
        """What must be the same for a fit to go on."""
        values = {f"{name}.{k}": v for name in ("removal", "masker") for k, v in _tensors(getattr(self.diet, name))}
        return {
            **self.diet.settings(),
            "tensors of removal and masker": digest(None, values),
            "model": digest(None, self.model.state_dict()),
            "parameters that are tuned": [name for name, p in self.model.named_parameters() if p.requires_grad],
            "samples": digest(None, {"x": self.x}),
        }

    def run(self, saved: Checkpoint) -> None:
        """All rounds that are left."""
        if saved.found:
            position, tensors = self.trainer.resume(saved)
            with saved.reading():
                self.at, self.masks = self._position(position), self._masks(tensors["rounded"])
        while self.at.round < self.diet.rounds and not self.at.stopped:
            if len(self.at.rounds) == self.at.round:
                self.at.rounds.append(self._entry(self.at.round))
            if not self.at.tuning:
                self._mask(saved)
            self._tune(saved)

    def _position(self, plain: dict[str, Any]) -> Position:
        """How far a file says that the fit is, if it can be."""
        at: Position = decoded(plain, {}, Position, "position")
        at.rounds = [self._checked(k, entry) for k, entry in enumerate(at.rounds)]
        most = {"round": self.diet.rounds, "masked": len(self.x), "epoch": self.diet.epochs}
        if not all(0 <= getattr(at, name) <= bound for name, bound in most.items()):
            raise FormatError(f"its position is {plain!r:.80}, which no fit comes to")
        if len(at.rounds) not in (at.round, at.round + 1) or (at.tuning and len(at.rounds) == at.round):
            raise FormatError(f"it tells of {len(at.rounds)} rounds in round {at.round}")
        begun = [r["cells"] > 0 or (k == at.round and at.masked == 0) for k, r in enumerate(at.rounds)]
        if not all(begun) or not all(0 <= r["kept"] <= r["cells"] for r in at.rounds):
            raise FormatError("it tells of a round that kept more cells than it looked at, or looked at none")
        return at

    def _checked(self, k: int, entry: dict[str, Any]) -> dict[str, Any]:
        found = self._entry(k)
        kinds = {"cells": int, "kept": int, "epochs": list[dict[str, float]], "ended": str | None}
        found |= dict(zip(kinds, fields_of(entry, **kinds), strict=True))
        return {**found, "epochs": [*found["epochs"]]}

    def _masks(self, given: Tensor) -> Tensor:
        if (given.shape, given.dtype) != (self.masks.shape, self.masks.dtype):
            raise FormatError(
                f"rounded is {given.dtype} {tuple(given.shape)}, expected booleans {tuple(self.masks.shape)}"
            )
        return given

    def _entry(self, k: int) -> dict[str, Any]:
        horizon = self.diet.horizon
        schedule = {"sparsity": sparsity_at(k, horizon), "threshold": threshold_at(k, horizon)}
        return {"round": k, **schedule, "cells": 0, "kept": 0, "epochs": [], "ended": None}

    def _write(self, saved: Checkpoint) -> None:
        if saved.due():
            self.trainer.write(saved, asdict(self.at), rounded=self.masks)

    def _mask(self, saved: Checkpoint) -> None:
        """Masks of all samples against the student as it is, rounded at once."""
        k, n, entry = self.at.round, len(self.x), self.at.rounds[-1]
        search = self.diet.search(k)
        label = f"DiET round {k + 1} of {self.diet.rounds}, masks"
        with held_still(self.student), progress(label, n, done=self.at.masked, unit="samples") as bar:
            while self.at.masked < n:
                rows = range(self.at.masked, min(n, self.at.masked + self.diet.batch_size))
                chunk = self.x[rows.start : rows.stop].to(self.device)
                sources = generators(self.diet.seed, rows, _MASKS, k)
                start = self.masks[rows.start : rows.stop] if k else None
                soft = search.descend(self.student, chunk, sources, start)
                kept, free = soft > entry["threshold"], self.diet.masker.free(chunk)
                self.masks[rows.start : rows.stop] = kept.cpu()
                entry["cells"] += int(free.sum())
                entry["kept"] += int((kept & free).sum())
                self.at.masked = rows.stop
                bar.update(len(rows))
                self._write(saved)
        self.at.tuning = True

    def _tune(self, saved: Checkpoint) -> None:
        """Epochs of the model phase, until they are over or the guard ends the fit."""
        entry = self.at.rounds[-1]
        label = f"DiET round {self.at.round + 1} of {self.diet.rounds}, tuning"
        with progress(label, self.diet.epochs, done=self.at.epoch, unit="epochs") as bar:
            while entry["ended"] is None:
                self._epoch(entry)
                bar.update(1)
                self._write(saved)
        self.at.round, self.at.masked, self.at.epoch, self.at.tuning = self.at.round + 1, 0, 0, False
        self.at.stopped = entry["ended"] == "agreement"

    def _epoch(self, entry: dict[str, Any]) -> None:
        diet, student = self.diet, self.student
        before = copy.deepcopy(student.state_dict()) if diet.guard == "stop" else {}
        source = generator(diet.seed, _TUNING, self.at.round, self.at.epoch)
        losses = self.distillation.epoch(self.trainer, self.x, self.masks, self.target, source, self.device)
        agreed = share_alike(self.target, self._probabilities(student))
        entry["epochs"].append({**losses, "agreement": agreed})
        self.at.epoch += 1
        entry["ended"] = self._end(entry["epochs"])
        if agreed < diet.least_agreement:
            self._disagree(agreed, before, entry)

    def _end(self, epochs: list[dict[str, float]]) -> str | None:
        loss = [epoch["loss"] for epoch in epochs]
        low, high = self.diet.band
        if loss[-1] < self.diet.stop:
            return "loss"
        if len(loss) > 2 and low * loss[-3] <= loss[-1] <= high * loss[-3]:
            return "no progress"
        return "epochs" if len(loss) >= self.diet.epochs else None

    def _disagree(self, agreed: float, before: dict[str, Tensor], entry: dict[str, Any]) -> None:
        stop = self.diet.guard == "stop"
        earlier = [e["agreement"] for r in self.at.rounds for e in r["epochs"]][:-1]
        first = all(e >= self.diet.least_agreement for e in earlier)
        if stop:
            self.student.load_state_dict(before)
            entry["ended"] = "agreement"
        if stop or first:
            what = "the epoch is taken back and the fit ends" if stop else "the fit goes on"
            warnings.warn(
                f"after epoch {self.at.epoch} of round {self.at.round + 1} the student agrees with the model on "
                f"{agreed:.2%} of {len(self.x)} samples, and {self.diet.least_agreement:.2%} was asked for: {what}; "
                "a smaller rate keeps it nearer",
                AgreementWarning,
                stacklevel=7,
            )

    def report(self) -> dict[str, Any]:
        """What was done and what it did, as plain data."""
        diet, said = self.diet, self._probabilities(self.student)
        rounds = [{**r, "kept": r["kept"] / r["cells"]} for r in self.at.rounds]
        draws = self.distillation.draws_needed
        epochs = sum(len(r["epochs"]) for r in rounds)
        return {
            "n": len(self.x),
            "agreement": share_alike(self.target, said),
            "distance": float((self.target - said).abs().sum(1).mean()),
            "change": {"model": self._change(self.model), "student": self._change(self.student)},
            "kept": rounds[-1]["kept"],
            "passes": len(self.x) * (len(rounds) * diet.steps * draws + epochs * (1 + draws)),
            "stopped_by_guard": self.at.stopped,
            "rounds": rounds,
            "settings": diet.settings(),
        }

    def _change(self, model: nn.Module) -> float:
        """Mean of `|p(x) - p(x_s(m, q))|_1` under the final masks, one draw of q for each sample."""
        total = 0.0
        with torch.no_grad():
            for first in range(0, len(self.x), self.diet.batch_size):
                chunk = self.x[first : first + self.diet.batch_size].to(self.device)
                q = draw(
                    self.diet.removal, chunk, generators(self.diet.seed, range(first, first + len(chunk)), _REPORT)
                )
                masker = self.diet.masker.on(chunk)
                said = masked_outputs(model, masker, chunk, self.masks[first : first + len(chunk)], q)
                part = as_probabilities(said, self.diet.outputs)
                total += float((as_probabilities(model(chunk), self.diet.outputs) - part).abs().sum())
        if not torch.tensor(total).isfinite():
            raise InputError("the model's output for masked samples is not finite: give another removal")
        return total / len(self.x)


def _tensors(value: Any) -> list[tuple[str, Tensor]]:
    """The tensors of a dataclass, by the names of their fields."""
    own = [(f.name, getattr(value, f.name)) for f in fields(value)] if is_dataclass(value) else []
    return [(name, item) for name, item in own if isinstance(item, Tensor)]
