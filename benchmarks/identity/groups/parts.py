"""What of an eraser, an embedding, an audit is compared."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.identity.harness import flat, text

REPORTED = (
    *("method", "kind", "n", "rank", "correlations", "dropped", "residual", "edit", "x_rank", "route", "shrinkage"),
)
"""Fields of an eraser's report that are compared; those that came later are not."""


def eraser_parts(name: str, eraser: Any, *, report: bool = True) -> dict[str, Tensor]:
    """The tensors of an eraser, and its report."""
    found = {f"{name}/{field}": value for field, value in eraser.tensors().items()}
    if report and eraser.report is not None:
        found[f"{name}/report"] = text({field: getattr(eraser.report, field) for field in REPORTED})
    return found


def scrubber_parts(scrubber: Any) -> Tensor:
    """Digests of all tensors of a scrubber, site by site."""
    return flat(
        {f"{site} {name}": x for site, eraser in scrubber.erasers.items() for name, x in eraser.tensors().items()}
    )


def embedding_parts(name: str, embedding: Any) -> dict[str, Tensor]:
    """The tensors of embedded prompts, those of the negative branch too."""
    found = {f"{name}/{role}": value for role, value in embedding.tensors().items()}
    if embedding.negative is not None:
        found |= {f"{name}/negative/{role}": value for role, value in embedding.negative.tensors().items()}
    return found


def audit_parts(name: str, audit: Any) -> dict[str, Tensor]:
    """Numbers of an audit in order; the same with their names; the points of figures; all of it, prose included."""
    every = [f for part in audit.walk() for f in part.findings]
    numbers = ("value", "low", "high", "level", "n", "seed", "chance", "baseline")
    series = [s for part in audit.walk() for figure in part.figures for s in figure.series]
    points = [[s.label, s.x, s.y, s.low, s.high] for s in series]
    return {
        f"{name}/numbers": text([[getattr(f, key) for key in numbers] for f in every]),
        f"{name}/findings": text([[f.family, f.name, f.condition, f.verdict, f.value, f.low, f.high] for f in every]),
        f"{name}/figures": text(points),
        f"{name}/words": text(audit.to_dict()),
    }


def interval_parts(interval: Any) -> list[Any]:
    """An interval as plain data."""
    return [interval.value, interval.low, interval.high, interval.level, interval.method]


def modules(module: torch.nn.Module) -> Tensor:
    """Digests of a module's parameters and buffers."""
    return flat(module.state_dict())


def short(dtype: torch.dtype) -> str:
    """A dtype without `torch.`."""
    return str(dtype).removeprefix("torch.")
