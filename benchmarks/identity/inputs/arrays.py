"""Rows, labels, tables, scores and losses, drawn from seeded generators."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor


def source(seed: int = 0) -> Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def vectors(
    dtype: torch.dtype = torch.float64, n: int = 240, d: int = 8, k: int = 3, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Rows `(n, d)` and classes `(n,)` that their mean and their scale give away."""
    g = source(seed)
    z = torch.randint(k, (n,), generator=g)
    x = torch.randn(n, d, generator=g, dtype=torch.float64)
    x = x + 0.5 * x.roll(1, 1) + 3.0
    x[:, 0] += 2 * z
    x[:, 2] -= z**2
    x[:, 1] *= 1 + 0.5 * z
    return x.to(dtype), z


def held_out(dtype: torch.dtype = torch.float64, d: int = 8, k: int = 3) -> tuple[Tensor, Tensor]:
    """Forty other rows and their classes."""
    return vectors(dtype, n=40, d=d, k=k, seed=1)


def quantity(n: int = 240, seed: int = 0) -> Tensor:
    """A number a row `(n,)`, float64, which `vectors(n=n, seed=seed)` gives away."""
    x, _ = vectors(n=n, seed=seed)
    return x[:, 0] - 0.3 * x[:, 4] + 0.1 * torch.randn(n, generator=source(seed + 100), dtype=torch.float64)


def columns(n: int = 240, seed: int = 0) -> Tensor:
    """Three numbers a row `(n, 3)`, float64, of which the last depends on the others."""
    x, _ = vectors(n=n, seed=seed)
    two = torch.stack([quantity(n, seed), x[:, 5] + 2.0], dim=1)
    return torch.cat([two, two.sum(1, keepdim=True)], dim=1)


def complex_vectors(
    dtype: torch.dtype = torch.complex128, n: int = 240, d: int = 6, seed: int = 2
) -> tuple[Tensor, Tensor]:
    """Complex rows and classes."""
    g = source(seed)
    z = torch.randint(3, (n,), generator=g)
    x = torch.complex(*(torch.randn(n, d, generator=g, dtype=torch.float64) for _ in range(2)))
    x = x + (0.3 + 0.4j) * x.roll(1, 1)
    x[:, 0] += z * (1 + 2j)
    return x.to(dtype), z


def few_rows(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Fewer rows than features: a singular covariance."""
    return vectors(dtype, n=14, d=24, k=2, seed=3)


def weights(n: int = 240, seed: int = 4) -> Tensor:
    """Frequencies `(n,)`, some zero."""
    return torch.randint(4, (n,), generator=source(seed)).double() / 2


def mask(n: int = 240) -> Tensor:
    """Which rows to take `(n,)`."""
    return torch.arange(n) % 4 > 0


def two_concepts(n: int = 240, seed: int = 5) -> tuple[Tensor, Tensor]:
    """Two sets of classes, three and two."""
    g = source(seed)
    return torch.randint(3, (n,), generator=g), torch.randint(2, (n,), generator=g)


def covariances(n: int = 3, d: int = 5, seed: int = 6) -> Tensor:
    """Covariances `(n, d, d)` in float64."""
    a = torch.randn(n, d, 2 * d, generator=source(seed), dtype=torch.float64)
    return a @ a.mT / (2 * d)


def table(n: int = 160, seed: int = 7) -> dict[str, Any]:
    """A table for the estimators: numpy features and sensitive columns of several kinds."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 3, n)
    sex = rng.integers(0, 2, n)
    x = rng.normal(size=(n, 5)) + 0.5 * group[:, None] * np.arange(5)
    x[:, 1] += 1.5 * sex
    return {
        "x": x,
        "new": rng.normal(size=(30, 5)) + 0.4,
        "group": np.array(["north", "east", "south"], dtype=object)[group],
        "new_group": np.array(["north", "east", "south"], dtype=object)[rng.integers(0, 3, 30)],
        "sex": sex,
        "new_sex": rng.integers(0, 2, 30),
        "age": x[:, 2] * 3 + rng.normal(size=n),
        "new_age": rng.normal(size=30) * 3,
        "y": (x[:, 3] > 0).astype(int),
        "weight": rng.integers(0, 3, n).astype(float),
    }


def audit_rows(n: int = 200, d: int = 5, seed: int = 10) -> dict[str, Any]:
    """Rows with a concept, a task, and groups."""
    rng = np.random.default_rng(seed)
    z = rng.integers(0, 2, n)
    x = rng.normal(size=(n, d)) + 1.5 * z[:, None] * np.linspace(1, 0, d)
    return {
        "x": x,
        "z": z,
        "z3": rng.integers(0, 3, n),
        "number": x[:, 1] + rng.normal(size=n),
        "task": (x[:, d - 1] + 0.3 * rng.normal(size=n) > 0).astype(int),
        "groups": rng.integers(0, 20, n),
        "items": rng.integers(0, 12, n),
    }


def site_rows(n: int = 240, d: int = 4, seed: int = 11) -> dict[str, Any]:
    """Two sites before and after, labels, groups and items."""
    rng = np.random.default_rng(seed)
    z, items = rng.integers(0, 2, n), rng.integers(0, 12, n)
    before = {site: rng.normal(size=(n, d)) for site in ("h.0", "h.1")}
    before["h.0"][:, 0] += 2.0 * z
    after = {site: x - x.mean(0) for site, x in before.items()}
    after["h.0"][:, 0] = rng.normal(size=n)
    return {"before": before, "after": after, "z": z, "groups": rng.integers(0, 24, n), "items": items}


def losses(n: int = 30, seed: int = 12) -> dict[str, Any]:
    """Losses of sequences, as they are, by site, and of the whole model."""
    rng = np.random.default_rng(seed)
    unscrubbed = 10 + rng.normal(size=n)
    more = lambda mean: unscrubbed + mean + 0.3 * rng.normal(size=n)  # noqa: E731
    return {
        "unscrubbed": unscrubbed,
        "sites": {way: {site: more(m) for site in ("h.0", "h.1")} for way, m in (("leace", 0.4), ("random", 0.1))},
        "whole": {"leace": more(1.0), "random": more(0.3)},
        "per": rng.integers(20, 40, n).astype(float),
        "groups": rng.integers(0, 8, n),
    }


def scores(seed: int = 13) -> tuple[np.ndarray, np.ndarray]:
    """Scores of things that have something and of those that have not, with ties; they overlap."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=30).round(1) + 1.2, rng.normal(size=40).round(1)


def shares(seed: int = 14) -> dict[str, Any]:
    """Numerators, denominators, hits and groups for intervals."""
    rng = np.random.default_rng(seed)
    n = 60
    return {
        "top": rng.normal(size=n) + 2,
        "other": rng.normal(size=n) + 1.8,
        "bottom": rng.uniform(0.5, 2, size=n),
        "hits": rng.integers(0, 2, n).astype(float),
        "groups": rng.integers(0, 12, n),
        "many": rng.normal(size=4500),
    }
