"""The loop that every stage trains with: same steps whatever came before, checkpoints, a curve, an average of weights.

A run that was killed goes on from its last checkpoint and ends with the same bits as one that was not.
"""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface._io import write_json
from efface.core.checkpoint import Checkpoint
from efface.training.loop import Trainer
from efface_worlds.loading import quiet_transformers

Loss = Callable[[int], Tensor]
_PACKAGES = ("torch", "diffusers", "transformers")


@dataclass(frozen=True)
class Recipe:
    """How a stage is trained.

    Attributes:
        stage: Its name.
        steps: Optimiser steps.
        batch: Examples in a step.
        learning_rate: Peak; a linear warm-up to it, then flat, then a cosine to nothing.
        flat_until: Share of the steps after which the cosine begins.
        warmup: Steps.
        average: Decay of the moving average of the weights; 0 keeps none.
        weight_decay: Of AdamW, on matrices only.
        betas: Of AdamW.
        seed: Of the weights and of the data.
    """

    stage: str
    steps: int
    batch: int
    learning_rate: float
    flat_until: float = 0.0
    warmup: int = 50
    average: float = 0.0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.batch) < 1:
            raise InputError(f"steps={self.steps}, batch={self.batch}: write positive numbers")

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        begin = max(self.flat_until * self.steps, self.warmup)
        done = max(step - begin, 0) / max(self.steps - begin, 1)
        return self.learning_rate * (1 + math.cos(math.pi * done)) / 2

    def generator(self, step: int) -> torch.Generator:
        """Source of randomness of a step, the same whatever came before."""
        return torch.Generator().manual_seed(self.seed * 1_000_003 + step + 17)


def train(
    module: nn.Module,
    loss: Loss,
    recipe: Recipe,
    folder: Path,
    *,
    checkpoint_every: float = 120.0,
    stop_after: int | None = None,
) -> dict[str, Any]:
    """Train `module` in place, and leave it with the averaged weights if the recipe keeps an average.

    Args:
        module: What is trained; its buffers are kept in the checkpoint too.
        loss: Step number -> loss of that step's batch.
        recipe: How.
        folder: Where checkpoints are written.
        checkpoint_every: Seconds from one to the next.
        stop_after: End early, with a checkpoint, after this many steps in all.

    Returns:
        The facts for `training.json`: recipe, curve, CPU seconds, versions.

    Raises:
        InputError: If `folder` has a checkpoint of another recipe.
        DivergedError: If the loss is not finite; the last checkpoint stays.
    """
    run = _trainer(module.train(), recipe)
    saved = Checkpoint(folder / "checkpoint", asdict(recipe), what="recipe", seconds=checkpoint_every)
    before, _ = run.resume(saved)
    curve, spent = before.get("curve", []), before.get("seconds", 0.0)
    begun, recent = time.process_time(), 0.0
    for value in run.steps(loss, recipe.steps if stop_after is None else min(stop_after, recipe.steps)):
        recent += value / 50
        if run.step % 50 == 0:
            seconds = spent + time.process_time() - begun
            curve.append({"step": run.step, "loss": round(recent, 5)})
            print(f"{recipe.stage} {run.step}/{recipe.steps} loss {recent:.4f} {seconds:.0f} CPU-s", flush=True)
            recent = 0.0
            if saved.due():
                run.write(saved, {"curve": curve, "seconds": seconds})
    seconds = spent + time.process_time() - begun
    run.write(saved, {"curve": curve, "seconds": seconds})
    if run.step == recipe.steps:
        run.take_average()
    module.eval()
    return _facts(module, recipe, curve, seconds)


def _trainer(module: nn.Module, recipe: Recipe) -> Trainer:
    """AdamW, with weight decay for matrices only."""
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1]},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay)
    return Trainer(module, optimizer, rate=recipe.rate, clip=1.0, average=recipe.average, name=recipe.stage)


def _facts(module: nn.Module, recipe: Recipe, curve: list[Any], seconds: float) -> dict[str, Any]:
    return {
        "recipe": asdict(recipe),
        "parameters": sum(p.numel() for p in module.parameters()),
        "cpu_seconds": round(seconds, 1),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "curve": curve,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def run_once(name: str, folder: Path, stage: Callable[[], dict[str, Any]]) -> None:
    """Run a stage, whose facts go to its `training.json`; one that is finished is not run again."""
    if finished(folder):
        print(f"{name}: finished, see {folder / 'training.json'}")
        return
    with quiet_transformers():
        facts = stage()
    write_json(folder / "training.json", facts)


def finished(folder: Path) -> bool:
    """Whether the stage whose folder it is has ended."""
    return (folder / "training.json").is_file()


def read_facts(folder: Path) -> dict[str, Any]:
    """What a stage that has ended left in its `training.json`."""
    return json.loads((folder / "training.json").read_text(encoding="utf-8"))


def forget_origin(path: Path) -> None:
    """Take out of a config where on this machine a part was read from."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)
    write_json(path, config)
