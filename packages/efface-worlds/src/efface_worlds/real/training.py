"""Train the small network on Fashion-MNIST: `python -m efface_worlds.real.training --out FOLDER`.

What is shipped was made by this file with the seed that `training.json` beside the weights names. It runs on one
thread; interrupted or killed, it goes on from the last checkpoint with the same batches. The last 5,000 training
pictures are held out; the test pictures are looked at once, when all steps are done.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from efface._io import write_json
from efface.core.checkpoint import Checkpoint
from efface.stats.intervals import wilson_interval
from efface.training.loop import Trainer
from efface_worlds.real.fashion import Garments, load_fashion
from efface_worlds.real.resnet import FILE, make_resnet

_HELD_OUT = 5_000
_EVERY = 200
_SHIFT = 2


@dataclass(frozen=True)
class Recipe:
    """How the network is trained.

    Attributes:
        epochs: Passes over the 55,000 pictures.
        batch: Pictures a step.
        rate: Largest learning rate, reached after a fifth of the steps and left on a cosine to 0.
        decay: Of the weights of convolutions and of the linear layer (AdamW).
        seed: Of the weights, of the order and of what is done to the pictures.
    """

    epochs: int = 20
    batch: int = 128
    rate: float = 4e-3
    decay: float = 2e-2
    seed: int = 0


def train(recipe: Recipe, folder: Path, *, data: str | None = None, seconds: float | None = None) -> bool:
    """Train and write the network (float16) and what training was into `folder`.

    Args:
        recipe: How.
        folder: Where to write.
        data: Folder of Fashion-MNIST; None takes Debian's.
        seconds: CPU seconds after which to stop and to keep the state; a second call goes on.

    Returns:
        Whether it is done.
    """
    pictures = load_fashion("train", folder=data)
    kept = len(pictures) - _HELD_OUT
    model = make_resnet(seed=recipe.seed).train()
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third less time
    steps = recipe.epochs * (kept // recipe.batch)
    optimizer = torch.optim.AdamW(_decayed(model, recipe.decay), lr=recipe.rate)
    run = Trainer(model, optimizer, rate=partial(_rate, recipe, steps), name="the network", average=0.998)
    saved = Checkpoint(folder / "checkpoint", asdict(recipe), what="recipe")
    before, _ = run.resume(saved)
    curve, spent, begun = before.get("curve", []), before.get("seconds", 0.0), time.process_time()
    for loss in run.steps(lambda step: _loss(model, pictures, kept, recipe, step), steps):
        if run.step % _EVERY == 0:
            used = time.process_time() - begun
            curve.append([run.step, round(loss, 4)])
            print(f"step {run.step}/{steps}  loss {loss:.3f}  {spent + used:.0f} CPU-s", flush=True)
            run.write(saved, {"curve": curve, "seconds": spent + used})
            if seconds is not None and used > seconds and run.step < steps:
                return False
    held = Garments(pictures.images[kept:], pictures.labels[kept:])
    _ship(run, folder, recipe, curve, spent + time.process_time() - begun, held, load_fashion("test", folder=data))
    saved.clear()
    return True


def _rate(recipe: Recipe, steps: int, step: int) -> float:
    rise = max(1, steps // 5)
    if step < rise:
        return recipe.rate * (step + 1) / rise
    return recipe.rate * (1 + math.cos(math.pi * (step - rise) / (steps - rise))) / 2


def _loss(model: nn.Module, pictures: Garments, kept: int, recipe: Recipe, step: int) -> Tensor:
    """Of the batch of a step, which depends on seed and step alone."""
    epoch, place = divmod(step, kept // recipe.batch)
    order = torch.randperm(kept, generator=torch.Generator().manual_seed(recipe.seed * 1_000_003 + epoch))
    rows = order[place * recipe.batch : (place + 1) * recipe.batch]
    generator = torch.Generator().manual_seed((recipe.seed + 1) * 1_000_003 + step)
    return F.cross_entropy(model(_moved(pictures.images[rows], generator)), pictures.labels[rows])


def _moved(images: Tensor, generator: torch.Generator) -> Tensor:
    """Half of them turned left to right, each shifted by up to two pixels; the ground comes in."""
    n, _, height, width = images.shape
    turned = torch.where(torch.rand(n, 1, 1, 1, generator=generator) < 0.5, images.flip(3), images)
    wide = F.pad(turned, [_SHIFT] * 4)
    down, across = torch.randint(2 * _SHIFT + 1, (2, n, 1), generator=generator)
    rows, columns = down + torch.arange(height), across + torch.arange(width)
    return wide[torch.arange(n)[:, None, None], 0, rows[:, :, None], columns[:, None, :]][:, None]


def _decayed(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Weight decay for kernels and matrices only."""
    kernels = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    return [{"params": kernels, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


def _ship(
    run: Trainer, folder: Path, recipe: Recipe, curve: list[Any], seconds: float, held: Garments, test: Garments
) -> None:
    """The averaged network in float16, measured as it is shipped."""
    run.take_average()
    model = run.module.eval()
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    tensors = {name: v.half() if v.is_floating_point() else v for name, v in state.items()}
    model.load_state_dict({name: v.float() if v.is_floating_point() else v for name, v in tensors.items()})
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / FILE)
    facts = {
        "recipe": asdict(recipe),
        "parameters": sum(p.numel() for p in model.parameters()),
        "cpu_seconds": round(seconds),
        "threads": torch.get_num_threads(),
        "held out": scored(model, held),
        "test": scored(model, test),
        "curve": curve,
    }
    write_json(folder / "training.json", facts)
    print({name: facts[name] for name in ("held out", "test", "parameters", "cpu_seconds")})


@torch.no_grad()
def scored(model: nn.Module, pictures: Garments) -> dict[str, Any]:
    """How many the network gets right, with Wilson's interval."""
    batches = zip(pictures.images.split(500), pictures.labels.split(500), strict=True)
    right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in batches)
    share = wilson_interval(right, len(pictures))
    return {"n": len(pictures), "right": right, "low": round(share.low, 4), "high": round(share.high, 4)}


def main(argv: list[str] | None = None) -> int:
    """Command line; 3 where it stopped before it was done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder; what is shipped lies in real/weights/fashion")
    parser.add_argument("--data", help="folder of Fashion-MNIST; default: Debian's")
    parser.add_argument("--epochs", type=int, default=Recipe.epochs)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--seconds", type=float, help="stop after so many CPU seconds, and go on the next time")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    done = train(Recipe(epochs=args.epochs, seed=args.seed), args.out, data=args.data, seconds=args.seconds)
    return 0 if done else 3


if __name__ == "__main__":
    sys.exit(main())
