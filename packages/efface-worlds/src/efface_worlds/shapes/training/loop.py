"""The loop that every stage trains with: same steps whatever came before, checkpoints, a curve, an average of weights.

A run that was killed goes on from its last checkpoint and ends with the same bits as one that was not.
"""

from __future__ import annotations

import math
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from efface._errors import InputError
from efface._io import load_folder, save_folder

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
    """
    run = _Run(module, recipe, folder / "checkpoint")
    started, spent = run.resume()
    begun, saved, recent = time.process_time(), time.monotonic(), 0.0
    end = recipe.steps if stop_after is None else min(stop_after, recipe.steps)
    for step in range(started, end):
        recent += run.step(loss, step) / 50
        seconds = spent + time.process_time() - begun
        if (step + 1) % 50 == 0:
            run.curve.append({"step": step + 1, "loss": round(recent, 5)})
            print(f"{recipe.stage} {step + 1}/{recipe.steps} loss {recent:.4f} {seconds:.0f} CPU-s", flush=True)
            recent = 0.0
        if (step + 1) % 50 == 0 and time.monotonic() - saved > checkpoint_every:
            run.save(step + 1, seconds)
            saved = time.monotonic()
    run.save(end, spent + time.process_time() - begun)
    if recipe.average and end == recipe.steps:
        _copy(run.averaged, module)
    module.eval()
    return run.facts(spent + time.process_time() - begun)


class _Run:
    """The state of training, and its way to disk and back."""

    def __init__(self, module: nn.Module, recipe: Recipe, path: Path) -> None:
        self.module, self.recipe, self.path = module.train(), recipe, path
        matrices = [p for p in module.parameters() if p.requires_grad and p.dim() > 1]
        vectors = [p for p in module.parameters() if p.requires_grad and p.dim() <= 1]
        groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(
            groups, lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay
        )
        self.averaged = {name: value.detach().clone() for name, value in module.state_dict().items()}
        self.curve: list[dict[str, Any]] = []

    def step(self, loss: Loss, step: int) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate(step)
        value = loss(step)
        value.backward()
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.recipe.average:
            self._average(min(self.recipe.average, (step + 1) / (step + 10)))
        return float(value.detach())

    @torch.no_grad()
    def _average(self, decay: float) -> None:
        for name, value in self.module.state_dict().items():
            kept = self.averaged[name]
            kept.lerp_(value, 1 - decay) if kept.is_floating_point() else kept.copy_(value)

    def save(self, step: int, seconds: float) -> None:
        """Into a folder of its own, which appears in one step, so that there is a whole checkpoint at any time."""
        tensors = {f"model.{name}": value for name, value in self.module.state_dict().items()}
        if self.recipe.average:
            tensors |= {f"averaged.{name}": value for name, value in self.averaged.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
        newest = self.path / f"step-{step}"
        done = {"recipe": asdict(self.recipe), "step": step, "seconds": seconds, "curve": self.curve}
        save_folder(newest, {"type": "ShapesTraining", **done}, tensors)
        for other in self.path.iterdir():
            if other != newest:
                shutil.rmtree(other)

    def resume(self) -> tuple[int, float]:
        saved = sorted(self.path.glob("step-*"), key=lambda folder: int(folder.name.removeprefix("step-")))
        if not saved:
            return 0, 0.0
        config, tensors = load_folder(saved[-1], expect="ShapesTraining")
        ours = asdict(self.recipe) | {"betas": list(self.recipe.betas)}
        if config["recipe"] != ours:
            raise InputError(f"{self.path} is a checkpoint of another recipe, {config['recipe']}: delete it first")
        state = self.optimizer.state_dict()
        for name, value in tensors.items():
            owner, _, key = name.partition(".")
            if owner == "optimizer":
                index, _, key = key.partition(".")
                state["state"].setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict(state)
        _copy({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}, self.module)
        if self.recipe.average:
            for name, value in self.averaged.items():
                value.copy_(tensors[f"averaged.{name}"])
        self.curve = config["curve"]
        return config["step"], config["seconds"]

    def facts(self, seconds: float) -> dict[str, Any]:
        return {
            "recipe": asdict(self.recipe),
            "parameters": sum(p.numel() for p in self.module.parameters()),
            "cpu_seconds": round(seconds, 1),
            "threads": torch.get_num_threads(),
            "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
            "curve": self.curve,
        }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@torch.no_grad()
def _copy(tensors: dict[str, Tensor], module: nn.Module) -> None:
    for name, value in module.state_dict().items():
        value.copy_(tensors[name])
