"""Edits of every kind, what they are put on, and all that they could leave behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import efface
from efface.core.edits import Edit, OnPrediction, OnRows, OnStates, OnText, OnWeights
from efface.core.erasure import Erasure
from efface.core.site import Site
from efface.core.weights import Add, WeightDelta
from tests.pipelines import build


@dataclass(frozen=True, eq=False, repr=False)
class Shift(Erasure):
    """Adds a number: to rows, states, text, predictions or weights."""

    by: float
    kind: str

    @property
    def edits(self) -> tuple[Edit, ...]:
        return EDITS[self.kind](self.by)

    def __call__(self, x: Tensor) -> Tensor:
        return x + self.by


@dataclass(frozen=True, eq=False, repr=False)
class Holds(Erasure):
    """Edits as they are given."""

    held: tuple[Edit, ...]

    @property
    def edits(self) -> tuple[Edit, ...]:
        return self.held


@dataclass(frozen=True, eq=False, repr=False)
class Broken(Erasure):
    """A good edit, then one that cannot be put on."""

    kind: str

    @property
    def edits(self) -> tuple[Edit, ...]:
        return (*EDITS[self.kind](1.0), *BROKEN[self.kind])


def _text(by: float) -> Edit:
    def edit(embedding: Any, run: Any) -> Any:
        run.count("prompts", len(embedding))
        return embedding.replace(sequence=embedding.sequence + by)

    return OnText(edit)


def _prediction(by: float) -> Edit:
    return OnPrediction(after=lambda step, run: step.cond + by)


def _swap(by: float) -> Edit:
    return OnPrediction(before=lambda index, embedding, rows, run: rows * (1 + by))


def changing(changes: Any) -> WeightDelta:
    return WeightDelta(changes)


def _delta(by: float) -> WeightDelta:
    return changing({"0.weight": Add(torch.full((4, 4), by)), "1.bias": Add(torch.ones(4))})


EDITS: dict[str, Callable[[float], tuple[Edit, ...]]] = {
    "rows": lambda by: (OnRows(lambda x: x + by),),
    "states": lambda by: (OnStates({Site("0"): lambda x: x + by, Site("1", "input"): lambda x: x * (1 + by)}),),
    "weights": lambda by: (
        OnWeights(changing({"0.weight": Add(torch.full((4, 4), by)), "1.bias": Add(torch.ones(4))})),
    ),
    "text": lambda by: (_text(by),),
    "prediction": lambda by: (_prediction(by),),
    "swap": lambda by: (_swap(by),),
    "unet": lambda by: (OnWeights(changing({"conv_in.bias": Add(torch.full((16,), by))}), part="unet"),),
}
NOWHERE = OnStates({Site("nowhere"): lambda x: x})
BROKEN: dict[str, tuple[Edit, ...]] = {
    "rows": (NOWHERE,),
    "states": (NOWHERE,),
    "weights": (OnWeights(changing({"9.weight": Add(torch.ones(1))})),),
    "text": (OnWeights(changing({"none.weight": Add(torch.ones(1))}), part="unet"),),
    "prediction": (OnWeights(changing({"conv_in.bias": Add(torch.ones(3))}), part="unet"),),
    "swap": (OnWeights(changing({}), part="nothing"),),
    "unet": (OnWeights(changing({"conv_in.bias": Add(torch.full((16,), torch.nan))}), part="unet"),),
}
KINDS = list(EDITS)
FILES = {
    str(Path(efface.__file__).parent / "core" / f"{name}.py") for name in ("installer", "hooks", "edits", "writing")
}
"""Where a signal is sent; not where a lock is all there is: Python handles none between a block's end and its exit."""
ORDERED = ("weights", "unet")
"""Kinds whose edits come off in the reverse order alone."""
X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def layers() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))


def subject_of(kind: str) -> Any:
    return layers() if kind in ("rows", "states", "weights") else build("sd1")


def said(subject: Any) -> Tensor:
    """What a subject gives."""
    if isinstance(subject, nn.Module):
        with torch.no_grad():
            return subject(X)
    generator = torch.Generator().manual_seed(0)
    call = {"height": 64, "width": 64, "num_inference_steps": 2, "output_type": "latent", "generator": generator}
    return subject("a red circle", guidance_scale=3.0, **call).images


def modules_of(subject: Any) -> list[nn.Module]:
    parts = [subject] if isinstance(subject, nn.Module) else subject.components.values()
    return [part for part in parts if isinstance(part, nn.Module)]


def state(subject: Any) -> dict[str, Any]:
    """Everything that an edit could leave behind."""
    found: dict[str, Any] = {"own": sorted(k for k in vars(subject) if not k.startswith("_"))}
    for i, part in enumerate(modules_of(subject)):
        found |= {f"{i}.{k}": (id(v), v.clone()) for k, v in part.state_dict(keep_vars=True).items()}
        found[f"{i} hooks"] = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in part.modules())
    return found


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    def equal(x: Any, y: Any) -> bool:
        return x[0] == y[0] and torch.equal(x[1], y[1]) if isinstance(x, tuple) else x == y

    return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
