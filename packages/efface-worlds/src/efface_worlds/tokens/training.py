"""Train the small language models of the token world: `python -m efface_worlds.tokens.training --architecture llama`.

What is shipped was made by this file, with the seed that `training.json` beside the weights names; the corpus is the
standard library of the Python that ran it (its version is named there too).
"""

from __future__ import annotations

import argparse
import math
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from efface._errors import InputError
from efface._io import write_json
from efface._lazy import require
from efface.core.checkpoint import Checkpoint
from efface.training.loop import Trainer
from efface_worlds.loading import quiet_transformers
from efface_worlds.tokens.source import SourceFile, read_library
from efface_worlds.tokens.vocabulary import encode, train_vocabulary

ARCHITECTURES = ("llama", "gpt_neox")


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    Attributes:
        architecture: `"llama"` or `"gpt_neox"`.
        vocab_size: Tokens of the byte-pair vocabulary.
        hidden_size: Width of the residual stream.
        layers: Number of blocks.
        length: Tokens in a training sequence.
        batch: Sequences in a step.
        tokens: Trainer tokens in all, with repetition.
        learning_rate: Peak, reached after `warmup` steps, then a cosine to a tenth.
        warmup: Steps.
        seed: Of the weights and of the order of the data.

    Raises:
        InputError: If there is no such model, or no step to train.
    """

    architecture: str = "llama"
    vocab_size: int = 2048
    hidden_size: int = 256
    layers: int = 6
    length: int = 256
    batch: int = 16
    tokens: int = 10_000_000
    learning_rate: float = 2e-3
    warmup: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise InputError(f"architecture={self.architecture!r}: write one of {', '.join(map(repr, ARCHITECTURES))}")
        if self.hidden_size < 64 or self.hidden_size % 64:
            raise InputError(f"hidden_size={self.hidden_size}: write a multiple of 64, the width of a head")
        if self.steps < 1:
            raise InputError(f"tokens={self.tokens} is less than one step: write at least {self.batch * self.length}")

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return self.tokens // (self.batch * self.length)


def build_model(recipe: Recipe) -> Any:
    """The untrained model of a recipe, float32."""
    hf = require("transformers", extra="hf")
    shared: dict[str, Any] = {
        "vocab_size": recipe.vocab_size,
        "hidden_size": recipe.hidden_size,
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": recipe.hidden_size // 64,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    torch.manual_seed(recipe.seed)
    if recipe.architecture == "llama":
        return hf.LlamaForCausalLM(hf.LlamaConfig(intermediate_size=recipe.hidden_size * 5 // 2, **shared))
    return hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(intermediate_size=recipe.hidden_size * 4, **shared))


def train(
    recipe: Recipe,
    folder: Path,
    *,
    device: str = "cpu",
    checkpoint_every: int = 200,
    files: Sequence[SourceFile] | None = None,
) -> None:
    """Train, showing a line every 20 steps, and write the model, its vocabulary and `training.json` into `folder`.

    Interrupted or killed, it goes on from the last checkpoint, with the same batches in the same order.

    Args:
        recipe: What to train, and how.
        folder: Where to write.
        device: Where to train.
        checkpoint_every: Steps from one checkpoint to the next.
        files: The corpus; `None` takes the training split of the standard library.

    Raises:
        InputError: If the corpus is shorter than a sequence, or `folder` has a checkpoint of another recipe.
    """
    files = list(read_library("train")) if files is None else files
    tokenizer = train_vocabulary((file.text for file in files), recipe.vocab_size)
    stream = _one_stream(tokenizer, files)
    if len(stream) <= recipe.length:
        raise InputError(f"the corpus has {len(stream)} tokens, expected more than length={recipe.length}")
    model = build_model(recipe).to(device).train()
    optimizer = torch.optim.AdamW(_decayed(model), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.1)
    run = Trainer(model, optimizer, rate=partial(_learning_rate, recipe), clip=1.0, name=recipe.architecture)
    saved = Checkpoint(folder / "checkpoint", asdict(recipe), what="recipe")
    before, _ = run.resume(saved)
    curve, spent, begun = before.get("curve", []), before.get("seconds", 0.0), time.monotonic()
    for loss in run.steps(lambda step: _loss(model, _batch(stream, recipe, step).to(device)), recipe.steps):
        seconds = spent + time.monotonic() - begun
        if run.step % 20 == 0:
            curve.append({"step": run.step, "nats_per_token": round(loss, 4)})
            print(f"step {run.step}/{recipe.steps}  {loss:.3f} nats per token  {seconds / 60:.1f} min", flush=True)
        if run.step % checkpoint_every == 0:
            run.write(saved, {"curve": curve, "seconds": seconds})
    minutes = (spent + time.monotonic() - begun) / 60
    _ship(model, tokenizer, folder, recipe, curve, minutes, device)
    saved.clear()


def _one_stream(tokenizer: Any, files: Sequence[SourceFile]) -> Tensor:
    """Every file's tokens after one another, each file behind an end-of-text token."""
    parts = []
    for ids, _, _ in encode(tokenizer, [file.text for file in files], [file.types for file in files]):
        parts += [np.array([tokenizer.eos_token_id]), ids]
    return torch.from_numpy(np.concatenate(parts))


def _batch(stream: Tensor, recipe: Recipe, step: int) -> Tensor:
    """Sequences `(batch, length)` from random places, the same for a step whatever came before."""
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    starts = torch.randint(len(stream) - recipe.length, (recipe.batch, 1), generator=generator)
    return stream[starts + torch.arange(recipe.length)]


def _loss(model: Any, ids: Tensor) -> Tensor:
    with torch.autocast(ids.device.type, torch.bfloat16):
        return model(input_ids=ids, labels=ids).loss


def _learning_rate(recipe: Recipe, step: int) -> float:
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(recipe.steps - recipe.warmup, 1)
    return recipe.learning_rate * (0.1 + 0.9 * (1 + math.cos(math.pi * done)) / 2)


def _decayed(model: Any) -> list[dict[str, Any]]:
    """Weight decay for matrices only."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    return [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]


def _ship(
    model: Any, tokenizer: Any, folder: Path, recipe: Recipe, curve: list[Any], minutes: float, device: str
) -> None:
    """Weights in bfloat16, the vocabulary, and what training was."""
    with quiet_transformers():
        model.eval().to(torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    facts = {
        "recipe": asdict(recipe),
        "parameters": sum(p.numel() for p in model.parameters()),
        "python": platform.python_version(),
        "minutes": round(minutes, 1),
        "device": device,
        "threads": torch.get_num_threads(),
        "curve": curve,
    }
    write_json(folder / "training.json", facts)


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", choices=ARCHITECTURES, required=True)
    parser.add_argument("--out", type=Path, help="folder; default: where the shipped weights lie")
    parser.add_argument("--tokens", type=int, default=Recipe.tokens, help="training tokens (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="torch threads")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    out = args.out or Path(__file__).parent / "weights" / args.architecture
    recipe = Recipe(architecture=args.architecture, tokens=args.tokens, seed=args.seed)
    train(recipe, out, device=args.device)


if __name__ == "__main__":
    sys.exit(main())
