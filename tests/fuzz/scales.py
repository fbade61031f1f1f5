"""Fits on numbers of every size: each ends in an eraser of finite numbers, which erases or says that it does not.

python -m tests.fuzz.scales [--seed 0]
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import efface
from efface import EffaceWarning
from tests.fuzz.outcome import Tally

SCALES = (1e-45, 1e-42, 1e-38, 1e-30, 1e-20, 1e-10, 1e-4, 1.0, 1e4, 1e10, 1e19, 1e30, 1e38)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
METHODS: dict[str, Callable[..., Any]] = {
    "leace": efface.LeaceEraser.fit,
    "orth": efface.OrthogonalFitter.fit,
    "mean-difference": efface.MeanDifferenceFitter.fit,
    "oracle": efface.OracleEraser.fit,
    "quadratic": efface.QuadraticEraser.fit,
}
SHAPES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "scaled": lambda x, s: x * s,
    "one column scaled": lambda x, s: torch.cat([x[:, :1] * s, x[:, 1:]], 1),
    "one constant column": lambda x, s: torch.cat([x[:, :-1], torch.full_like(x[:, -1:], s)], 1),
    "far from zero": lambda x, s: x + s,
    "one row": lambda x, s: torch.cat([x[:1] * s, x[1:]]),
}
LEFT = 1e-2
"""A correlation with a class that may be left without a word."""


def data(seed: int, d: int = 5) -> tuple[Tensor, Tensor]:
    """Rows of three classes with means apart."""
    source = torch.Generator().manual_seed(seed)
    z = torch.arange(90) % 3
    x = torch.randn(90, d, generator=source, dtype=torch.float64)
    x[:, 0] += z
    return x, z


def left(x: Tensor, erased: Tensor, z: Tensor) -> float:
    """Largest covariance of a feature with a class after erasure, in standard deviations of x before."""
    size = x.double().abs().amax(0).clamp_min(torch.finfo(torch.float64).tiny)
    before, after, one_hot = x.double() / size, erased.double() / size, torch.nn.functional.one_hot(z).double()
    before, after, one_hot = (each - each.mean(0) for each in (before, after, one_hot))
    norms = before.norm(dim=0)[:, None] * one_hot.norm(dim=0)
    return float(torch.where(norms > 0, (after.T @ one_hot).abs() / norms, 0.0).max())


def beyond(method: str, x: Tensor, z: Tensor, lost: Tensor, **options: Any) -> bool:
    """Whether the right values of these places, as float64 has them, are more than the dtype of x holds."""
    found = METHODS[method](x.double(), z, dtype=torch.float64, **options)
    eraser = getattr(found, "eraser", found)
    right = eraser(x.double(), z) if eraser.takes_labels else eraser(x.double())
    return bool((right[lost].abs() > torch.finfo(x.dtype).max).all())


def check(method: str, x: Tensor, z: Tensor, **options: Any) -> None:
    """Fit, erase, and look at what is left.

    Raises:
        ArithmeticError: If what is left is not small, and nothing said so.
    """
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = METHODS[method](x, z, **options)
        eraser = getattr(found, "eraser", found)
        erased = eraser(x, z) if eraser.takes_labels else eraser(x)
    bad = [name for name, value in eraser.tensors().items() if not bool(value.isfinite().all())]
    lost = ~erased.isfinite()
    if bad or (bool(lost.any()) and not beyond(method, x, z, lost, **options)):
        raise ArithmeticError(f"{', '.join(bad) or 'the output'} is not finite")
    warned = any(issubclass(each.category, EffaceWarning) for each in said)
    # What stands in a dtype of few digits is not the fit's fault: its own digits are what it can be held to.
    wide, info = x.double(), torch.finfo(x.dtype)
    grain = (info.eps * wide.abs().amax(0) + info.smallest_normal * info.eps) / wide.std(0).clamp_min(1e-300)
    varies = wide.std(0) > 0
    rest = left(x, erased, z) if bool(varies.any()) else 0.0
    if rest > LEFT + 3 * float(torch.where(varies, grain, 0).max()) and not warned:
        raise ArithmeticError(f"a correlation of {rest:.2g} is left, and nothing says so")


def run(tally: Tally, *, seed: int = 0, share: float = 1.0) -> None:
    """Every method on every scale, dtype and shape, or a share of them."""
    rng = random.Random(seed)
    x, z = data(seed)
    for method, dtype, (name, shape), scale in itertools.product(METHODS, DTYPES, SHAPES.items(), SCALES):
        rows = shape(x, scale).to(dtype)
        if rng.random() >= share or not bool(rows.isfinite().all()):
            continue
        for options in ({}, {"shrinkage": False}) if method in ("leace", "quadratic") else ({},):
            what = f"{method} {dtype} {name} by {scale:g} {options or ''}"
            tally.take(what, lambda rows=rows, method=method, o=options: check(method, rows, z, **o))


def main(arguments: list[str] | None = None) -> int:
    """Fit and report; 1 if there are faults."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    tally = Tally()
    run(tally, seed=given.seed)
    print(tally.report("scales"))
    return int(bool(tally.faults))


if __name__ == "__main__":
    sys.exit(main())
