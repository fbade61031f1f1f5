"""Options of a scrub: its own, and those of the method of rows that finds each eraser."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from efface._errors import InputError
from efface._text import shown
from efface.core.codec import TYPE
from efface.core.config import Config, option
from efface.core.method import Method, get_method, methods
from efface.scrubbing.sites import several
from efface.scrubbing.token_labels import IGNORE

Order = Literal["sequential", "parallel"]
Activations = Literal["recompute", "memory", "disk"]


@dataclass(frozen=True, kw_only=True)
class ScrubConfig(Config):
    """Options of every scrub; see `scrub`."""

    sites: tuple[str, ...] = option((), "where: roles such as norms, or paths, globs or regular expressions of modules")
    order: Order = option("sequential", "each site with the erasers of the earlier ones on, or all in one pass")
    activations: Activations = option("recompute", "how a sequential fit gets from site to site")
    batch_size: int = option(8, "sequences in a forward pass", least=1)
    ignore_index: int = option(IGNORE, "label of tokens that are left out")
    kind: Literal["auto", "categorical", "continuous"] = option("auto", "what labels are, if not what their dtype says")
    dtype: str | None = option(None, "of the erasers, such as float64; None: that of hidden states, at least float32")
    table: Mapping[str, Any] | None = option(None, "role -> patterns of modules, for a model that is not known")

    def __post_init__(self) -> None:
        object.__setattr__(self, "sites", addresses(self.sites))
        object.__setattr__(self, "dtype", _name_of(self.dtype))
        super().__post_init__()

    def fitter_options(self) -> dict[str, Any]:
        """What goes to the fitters of rows."""
        own = set(ScrubConfig.names())
        found = {name: getattr(self, name) for name in self.names()}
        given = {name: value for name, value in found.items() if name not in own}
        return given | ({} if self.dtype is None else {"dtype": getattr(torch, self.dtype)})


def addresses(sites: Any) -> tuple[str, ...]:
    """Sites as text: strings, `Site`s or compiled patterns, one or several."""
    return tuple(f"re:{site.pattern}" if isinstance(site, re.Pattern) else str(site) for site in several(sites))


def _name_of(dtype: Any) -> Any:
    name = str(dtype).removeprefix("torch.") if isinstance(dtype, torch.dtype) else dtype
    if isinstance(name, str) and not isinstance(getattr(torch, name, None), torch.dtype):
        raise InputError(f"dtype={shown(name)}: write one of torch's, such as 'float32' or 'float64'")
    return name


def rows_method(name: str) -> Method:
    """The method of rows of that name.

    Raises:
        InputError: If there is none, or its erasers need labels, which a model does not have.
    """
    method = get_method(name, "rows")
    if method.labels_at_apply:
        usable = [m.name for m in methods("rows") if not m.labels_at_apply]
        raise InputError(
            f"method {name!r} needs the labels when it is applied, which a model does not have: choose one of "
            f"{', '.join(usable)}"
        )
    return method


def config_for(rows: Method) -> type[ScrubConfig]:
    """The options of a scrub by a method of rows, as one class."""
    name = ScrubConfig.__name__ if rows.config is Config else f"Scrub{rows.config.__name__}"
    if name not in globals():
        about = {"__doc__": f"Options of a scrub by {rows.name}.", "__module__": __name__}
        made = type(name, (rows.config, ScrubConfig), about)
        globals()[name] = dataclass(frozen=True, kw_only=True)(made)  # where pickle looks for it
    return globals()[name]


def legacy_config(facts: Mapping[str, Any], sites: list[str]) -> dict[str, Any] | None:
    """The options in a file of format 1, as a file of today has them; None if it was not made by a fit."""
    if "method" not in facts or "order" not in facts:
        return None
    given = dict(facts.get("options", {}))
    if isinstance(given.get("dtype"), str):
        given["dtype"] = given["dtype"].removeprefix("torch.")
    made = config_for(rows_method(facts["method"]))
    return {TYPE: made.__name__, "sites": sites, "order": facts["order"], **given}
