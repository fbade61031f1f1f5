"""Ways to fit a scrubber to the tiny models, and what two scrubbers are compared by."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from efface import Scrubber, scrub
from tests.models import FAMILIES, concept, data, tiny

ROUTES: dict[str, dict[str, Any]] = {
    "recompute": {"activations": "recompute"},
    "memory": {"activations": "memory"},
    "disk": {"activations": "disk"},
    "parallel": {"order": "parallel"},
}
every_route = pytest.mark.parametrize("route", ROUTES)
every_family = pytest.mark.parametrize("name", FAMILIES)


@cache
def model(name: str) -> Any:
    return tiny(name)


@cache
def fitted(name: str) -> Scrubber:
    return scrub(model(name), data(name), concept(name), sites="norms")


def first(name: str, model_: Any = None) -> Tensor:
    """The main output for all the data."""
    with torch.no_grad():
        return (model_ or model(name))(**data(name))[0]


def fit(name: str = "llama", route: str = "recompute", **options: Any) -> Scrubber:
    given: dict[str, Any] = {"data": data(name), "concept": concept(name), "sites": "norms"} | ROUTES[route] | options
    return scrub(given.pop("model", None) or model(name), given.pop("data"), given.pop("concept"), **given)


def same(one: Scrubber, other: Scrubber, tolerance: float = 0.0) -> None:
    """The same sites and, up to a part of its largest entry, the same tensors."""
    assert one.sites == other.sites
    for site in one.sites:
        theirs = other.erasers[site].tensors()
        assert set(theirs) == set(one.erasers[site].tensors())
        for key, mine in one.erasers[site].tensors().items():
            if key in ("proj_left", "proj_right") and tolerance:  # a basis is free: the projection is not
                mine, theirs[key] = one.erasers[site].P, other.erasers[site].P
            assert mine.shape == theirs[key].shape, (site, key)
            assert float((mine - theirs[key]).abs().max()) <= tolerance * float(mine.abs().max()), (site, key)


def interrupting(victim: nn.Module, after: int) -> Any:
    """Ctrl-C in the middle of that forward pass of a module."""
    left = [after]

    def hook(*_: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt

    return victim.register_forward_hook(hook)
