"""What callers pass in, checked: vectors by site, losses by site, and a column that goes with the rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from efface._errors import InputError
from efface._validate import check_finite, to_tensor
from efface.core.labels import read_groups

Floats = NDArray[np.float64]

_PAIR = 2
_SHOWN = 5


def read_vectors(sites: Any, name: str, n: int) -> dict[str, Tensor]:
    """Site -> vectors `(n, d)`, in their order; `d` may differ from site to site.

    Raises:
        InputError: If there is no site, or one has another shape, or NaN; the text names it.
    """
    found = {
        str(site): _rows(x, f"{name}[{str(site)!r}]", n) for site, x in check_mapping(sites, name, "(n, d)").items()
    }
    for site, x in found.items():
        check_finite(x, f"{name}[{site!r}]")
    return found


def read_values(value: Any, name: str, n: int | None = None) -> Floats:
    """One finite number a row, `(n,)` float64.

    Raises:
        InputError: If it has another shape or length, or NaN; the text names it.
    """
    values = to_tensor(value, name).cpu().to(torch.float64)
    if values.ndim != 1 or len(values) == 0 or (n is not None and len(values) != n):
        raise InputError(
            f"{name} has shape {tuple(values.shape)}, expected ({'n' if n is None else n},): one number a sequence"
        )
    check_finite(values, name)
    return values.numpy()


def read_losses(losses: Any, name: str, n: int) -> dict[str, dict[str, Floats]]:
    """Condition -> site -> losses `(n,)`.

    Raises:
        InputError: If a mapping is missing or empty, or losses cannot be used.
    """
    return {
        str(condition): {
            str(site): read_values(v, f"{name}[{condition!r}][{site!r}]", n)
            for site, v in check_mapping(by_site, f"{name}[{condition!r}]", "(n,)").items()
        }
        for condition, by_site in check_mapping(losses, name, "{site: (n,)}").items()
    }


def read_column(value: Any, name: str, n: int) -> NDArray[Any] | None:
    """Groups or items, one a row, `(n,)`; None stays None.

    Raises:
        InputError: If there is not one for each row.
    """
    if value is None:
        return None
    column = read_groups(value, name)
    if column.shape != (n,):
        raise InputError(f"{name} has shape {column.shape}, expected ({n},): give one for each row")
    return column


def check_same_sites(one: Mapping[str, Any], other: Mapping[str, Any], names: tuple[str, str]) -> None:
    """Refuse two mappings with different sites.

    Raises:
        InputError: If a site is in one only; the text says which.
    """
    for here, there, (has, lacks) in ((one, other, names), (other, one, names[::-1])):
        extra = [site for site in here if site not in there]
        if extra:
            shown = ", ".join(extra[:_SHOWN]) + (", ..." if len(extra) > _SHOWN else "")
            raise InputError(f"{has} has sites that {lacks} lacks ({shown}): give both for the same sites")


def check_mapping(value: Any, name: str, shape: str) -> Mapping[Any, Any]:
    """`value` if it is a mapping with entries.

    Raises:
        InputError: If not; `shape` says what an entry should be.
    """
    if not isinstance(value, Mapping):
        raise InputError(f"{name} is a {type(value).__name__}: write a mapping {{name: {shape}}}")
    if not value:
        raise InputError(f"{name} is empty: give at least one entry {{name: {shape}}}")
    return value


def _rows(value: Any, name: str, n: int) -> Tensor:
    x = to_tensor(value, name).cpu()
    if x.ndim != _PAIR or x.shape[1] == 0:
        raise InputError(f"{name} has shape {tuple(x.shape)}, expected (n, d): one vector a row")
    if len(x) != n:
        raise InputError(f"{name} has {len(x)} rows but z has {n}: give one label for each row")
    return x
